//! Messages in the store. Their key is the session and the id, so that a
//! conversation lies together.

use agentry_domain::chat::ChatMessage;
use agentry_domain::sessions::{Message, MessageRole};
use agentry_domain::{Code, Error, MessageId, OrgId, Page, PageRequest, RunId, SessionId};

use crate::counters::MESSAGES;
use crate::lists::{cursor, list_page};
use crate::sql::statements;
use crate::value::{Columns, values};
use crate::write::{Probe, Write};
use crate::{Result, Store, StoreError};

statements! {
    MESSAGE_INSERT = "insert into message (org, session, id, run, role, content, metadata, \
        created_at, chat) values ($1, $2, $3, $4, $5, $6, $7, $8, $9)";
    MESSAGE_GET = "select id, session, run, role, content, metadata, created_at, chat from message \
        where org = $1 and session = $2 and id = $3";
    MESSAGE_LIST_ASC = "select id, session, run, role, content, metadata, created_at, chat \
        from message where org = $1 and session = $2 and id > $3 order by id limit $4 offset $5";
    MESSAGE_LIST_DESC = "select id, session, run, role, content, metadata, created_at, chat \
        from message where org = $1 and session = $2 and id < $3 \
        order by id desc limit $4 offset $5";
    MESSAGE_NEWEST = "select id from message where org = $1 and session = $2 \
        order by id desc limit 1";
    MESSAGE_NONE_AFTER = "select 1 where not exists (select 1 from message \
        where org = $1 and session = $2 and id > $3)";
    // SQLite forgets the counter as a whole.
    MESSAGE_COUNT_SESSION = sqlite "" postgres "insert into counter_change (org, kind, key, n) \
        select org, $1, session, -count(*) from message where org = $2 and session = $3 \
        group by org, session";
    MESSAGE_DELETE_SESSION = "delete from message where org = $1 and session = $2";
}

impl Write {
    /// Stores a new message.
    pub fn message_insert(&mut self, message: &Message) {
        self.add(
            &MESSAGE_INSERT,
            values![
                self.org,
                message.session,
                message.id,
                message.run,
                message.role.as_str(),
                &message.content,
                &message.metadata,
                message.created_at,
                message.chat.as_ref().and_then(|chat| serde_json::to_string(chat).ok()),
            ],
        );
        self.count(MESSAGES, &message.session.to_bytes(), 1);
    }

    /// Guard: no message of the session sorts after this id. Otherwise the write
    /// fails with `precondition_failed`: take a greater id.
    ///
    /// An id is made before its write's turn comes, and a reply that was stored
    /// in between would sort behind what was said after it.
    pub fn message_is_newest(&mut self, session: SessionId, id: MessageId) {
        self.add(&MESSAGE_NONE_AFTER, values![self.org, session, id]).expect_one(Probe::always(
            || Error::new(Code::PreconditionFailed, "the session has newer messages"),
        ));
    }
}

impl Store {
    /// One message.
    pub async fn message_get(
        &self,
        org: OrgId,
        session: SessionId,
        id: MessageId,
    ) -> Result<Option<Message>> {
        self.point(&MESSAGE_GET, values![org, session, id], message).await
    }

    /// The id of a session's newest message.
    pub async fn message_newest(
        &self,
        org: OrgId,
        session: SessionId,
    ) -> Result<Option<MessageId>> {
        let newest = |row: &mut Columns<'_>| Ok(MessageId::from_bytes(row.id()?));
        self.point(&MESSAGE_NEWEST, values![org, session], newest).await
    }

    /// A page of a session's messages.
    pub async fn message_list(
        &self,
        org: OrgId,
        session: SessionId,
        page: &PageRequest,
    ) -> Result<Page<Message>> {
        let (after, limit, offset) = cursor(page);
        let sql = list_page(page, &MESSAGE_LIST_ASC, &MESSAGE_LIST_DESC);
        let rows =
            self.list(page, sql, values![org, session, after, limit, offset], message).await?;
        let total = self.counter(org, MESSAGES, &session.to_bytes()).await?;
        Ok(Page::from_rows(rows, page, total, |message| message.id.to_bytes()))
    }

    /// The session's newest messages before an id, oldest first, at most `limit`.
    pub async fn message_history(
        &self,
        org: OrgId,
        session: SessionId,
        before: MessageId,
        limit: u32,
    ) -> Result<Vec<Message>> {
        let bound = values![org, session, before, limit, 0_i64];
        let mut rows = self.rows(&MESSAGE_LIST_DESC, bound, message).await?;
        rows.reverse();
        Ok(rows)
    }
}

fn message(row: &mut Columns<'_>) -> Result<Message> {
    Ok(Message {
        id: MessageId::from_bytes(row.id()?),
        session: SessionId::from_bytes(row.id()?),
        run: row.opt_id()?.map(RunId::from_bytes),
        role: MessageRole::parse(&row.text()?)
            .ok_or_else(|| StoreError::unreadable("a message's role"))?,
        content: row.text()?,
        metadata: row.text()?,
        created_at: row.time()?,
        chat: row.opt_text()?.map(|text| chat(&text)).transpose()?,
    })
}

fn chat(text: &str) -> Result<ChatMessage> {
    serde_json::from_str(text).map_err(|_| StoreError::unreadable("what a message shows"))
}
