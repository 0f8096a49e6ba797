//! Sessions and their messages.

use agentry_domain::idempotency::Remembered;
use agentry_domain::log::EntityKind;
use agentry_domain::sessions::{Message, MessageRole, SessionBody};
use agentry_domain::{
    Caller, Code, Document, Done, Error, MessageId, Once, Page, PageRequest, Result, SessionId,
};
use agentry_store::{Scope, Write};

use crate::{Engine, entry};

/// Sessions of one name that an `ambiguous_name` error lists at most.
const AMBIGUOUS_IDS_MAX: u32 = 20;

/// A message that a client appends.
#[derive(Clone, Debug)]
pub struct MessageNew {
    /// Who speaks.
    pub role: MessageRole,
    /// What is said.
    pub content: String,
    /// A JSON object.
    pub metadata: String,
}

impl Engine {
    /// Makes a session, and its user if that is named for the first time.
    pub async fn session_create(
        &self,
        caller: &Caller,
        once: Option<&Once>,
        body: SessionBody,
    ) -> Result<Done<Document<SessionBody>>> {
        let user_id = body.user_id.clone();
        self.resource_create_for_user(caller, once, user_id.as_deref(), body, |_, _| {}).await
    }

    /// The session with this id or, if there is exactly one, with this name.
    pub async fn session_find(
        &self,
        caller: &Caller,
        id_or_name: &str,
    ) -> Result<Document<SessionBody>> {
        if let Ok(id) = id_or_name.parse::<SessionId>()
            && let Some(session) = self.0.store.resource_get(caller.org, id).await?
        {
            return Ok(session);
        }
        let mut found =
            self.0.store.session_by_name(caller.org, id_or_name, AMBIGUOUS_IDS_MAX).await?;
        if found.len() > 1 {
            let ids: Vec<String> = found.iter().map(|session| session.id.to_string()).collect();
            return Err(Error::new(
                Code::AmbiguousName,
                format!("several users have a session {id_or_name}: {}", ids.join(", ")),
            ));
        }
        found.pop().ok_or_else(|| Error::not_found("session", id_or_name))
    }

    /// Deletes a session with its messages, its runs and what recall knows of
    /// them. 409 while a run in it has not ended.
    pub async fn session_delete(
        &self,
        caller: &Caller,
        id: SessionId,
        if_match: Option<i64>,
    ) -> Result<()> {
        let was = self.resource_get::<SessionBody>(caller, id).await?.entity()?;
        let user_id = was.body.user_id;
        self.resource_delete_with::<SessionBody>(caller, id, if_match, |write, was| {
            write.session_delete(was.id, was.version);
        })
        .await?;
        self.session_episodes_forget(caller.org, id, user_id.as_deref()).await
    }

    /// A page of a session's messages.
    pub async fn message_list(
        &self,
        caller: &Caller,
        session: SessionId,
        page: PageRequest,
    ) -> Result<Page<Message>> {
        self.resource_get::<SessionBody>(caller, session).await?;
        Ok(self.0.store.message_list(caller.org, session, &page).await?)
    }

    /// Appends a message to the session with this id or name, where later runs
    /// see and recall it; once if the request says so.
    pub async fn message_append(
        &self,
        caller: &Caller,
        once: Option<&Once>,
        session: &str,
        new: MessageNew,
    ) -> Result<Done<Message>> {
        if let Some(before) = self.remembered(caller, once).await? {
            return self.message_replayed(caller, session, before).await;
        }
        let id_or_name = session;
        let session = self.session_find(caller, id_or_name).await?.entity()?;
        let now = self.now();
        let message = Message {
            id: MessageId::from_uuid(self.uuid(now)),
            session: session.id,
            run: None,
            role: new.role,
            content: new.content,
            chat: None,
            metadata: new.metadata,
            created_at: now,
        };
        let mut write = Write::new(caller.org);
        write.session_exists(session.id);
        let scope = scope(caller, session.user_id.as_deref(), session.id);
        // Instructions are no memory of anything that was said.
        let remembered = (message.role != MessageRole::System).then_some(scope);
        store_message(&mut write, caller, &message, remembered);
        let answer = match once {
            Some(_) => serde_json::to_string(&message).map_err(Error::internal)?,
            None => String::new(),
        };
        let noted = (message.id.to_bytes(), answer.as_str());
        match self.write_once(caller, once, write, noted, now).await? {
            None => Ok(Done::now(message)),
            Some(before) => self.message_replayed(caller, id_or_name, before).await,
        }
    }

    async fn message_replayed(
        &self,
        caller: &Caller,
        session: &str,
        before: Remembered,
    ) -> Result<Done<Message>> {
        let value = match before.answer {
            Some(answer) => serde_json::from_str(&answer).map_err(Error::internal)?,
            None => {
                let (id, session) =
                    (MessageId::from_bytes(before.id), self.session_find(caller, session).await?);
                let message = self.0.store.message_get(caller.org, session.id, id).await?;
                message.ok_or_else(|| Error::not_found("message", id))?
            }
        };
        Ok(Done { value, replayed: true })
    }
}

/// Where recall looks: all that a user said and heard or, when there is no
/// user, the session.
pub(crate) fn scope(caller: &Caller, user_id: Option<&str>, session: SessionId) -> Scope {
    match user_id {
        Some(user_id) => Scope::user(caller.org, user_id),
        None => Scope::session(session),
    }
}

/// Adds a message to a write, findable in a scope if one is given.
pub(crate) fn store_message(
    write: &mut Write,
    caller: &Caller,
    message: &Message,
    remembered: Option<Scope>,
) {
    write.message_insert(message);
    if let Some(scope) = remembered {
        write.text_insert(message.id, message.session, scope, &message.content);
    }
    let id = message.id.to_bytes();
    let data = match message.run {
        Some(run) => format!(
            r#"{{"session_id":"{}","role":"{}","run_id":"{run}"}}"#,
            message.session,
            message.role.as_str(),
        ),
        None => {
            format!(r#"{{"session_id":"{}","role":"{}"}}"#, message.session, message.role.as_str(),)
        }
    };
    let kind = EntityKind::Message;
    write.log(entry(caller, message.created_at, kind.created(), kind, id, data));
}
