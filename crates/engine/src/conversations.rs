//! What OpenAI's responses and conversations ask of sessions and runs: to go on
//! behind a run, to add and delete what was said, to delete a run. All of it is
//! ordinary sessions, messages and runs.

use agentry_domain::chat::ChatMessage;
use agentry_domain::idempotency::Remembered;
use agentry_domain::log::EntityKind;
use agentry_domain::runs::{MESSAGE_LIMIT_MAX, Run};
use agentry_domain::sessions::{Message, MessageRole, Session, SessionBody};
use agentry_domain::{
    Caller, Code, Document, Done, Error, MessageId, Once, Result, RunId, SessionId,
};
use agentry_store::{OldRun, Write};

use crate::sessions::{scope, store_message};
use crate::{Engine, entry, version_data};

impl Engine {
    /// The session in which a run takes place that follows another: that run's own, when
    /// nothing came after it there, and otherwise a new one with what was said up to
    /// it, so that two runs may follow one.
    pub async fn run_follow_up(&self, caller: &Caller, previous: &Run) -> Result<SessionId> {
        if !previous.status.is_final() {
            return Err(Error::new(
                Code::Conflict,
                format!("run {} has not ended, so that nothing can follow it", previous.id),
            ));
        }
        let store = &self.0.store;
        let newest = store.message_newest(caller.org, previous.session).await?;
        match (newest, last_message(previous)) {
            (Some(newest), Some(last)) if newest > last => {
                self.session_fork(caller, previous.session, last).await
            }
            _ => Ok(previous.session),
        }
    }

    /// Copies a session up to a message, at most [`MESSAGE_LIMIT_MAX`] messages: the most
    /// that a model is shown. Copies are not remembered a second time.
    async fn session_fork(
        &self,
        caller: &Caller,
        session: SessionId,
        last: MessageId,
    ) -> Result<SessionId> {
        let store = &self.0.store;
        let found = store.resource_get::<SessionBody>(caller.org, session).await?;
        let found = found.ok_or_else(|| Error::not_found("session", session))?.entity()?;
        let after = last.following(1);
        let said = store.message_history(caller.org, session, after, MESSAGE_LIMIT_MAX).await?;
        let now = self.now();
        let body = SessionBody {
            // A name is one session's.
            name: None,
            ..found.body
        };
        let copy = Session::new(SessionId::from_uuid(self.uuid(now)), body, now);
        let mut write = Write::new(caller.org);
        write.session_insert(&copy.body, &copy.document()?);
        let kind = EntityKind::Session;
        let data = version_data(copy.version);
        write.log(entry(caller, now, kind.created(), kind, copy.id.to_bytes(), data));
        let first = MessageId::from_uuid(self.uuid(now));
        for (at, message) in said.into_iter().enumerate() {
            let id = first.following(at);
            let message = Message { id, session: copy.id, run: None, ..message };
            store_message(&mut write, caller, &message, None);
        }
        store.write(write).await?;
        Ok(copy.id)
    }

    /// Makes a session with messages in it; once if the request says so.
    pub async fn session_create_with(
        &self,
        caller: &Caller,
        once: Option<&Once>,
        body: SessionBody,
        said: Vec<ChatMessage>,
    ) -> Result<Done<Document<SessionBody>>> {
        if said.is_empty() {
            return self.session_create(caller, once, body).await;
        }
        let (now, user_id) = (self.now(), body.user_id.clone());
        let first = MessageId::from_uuid(self.uuid(now));
        let said = std::sync::Arc::new(said);
        self.resource_create_for_user(caller, once, user_id.as_deref(), body, |write, session| {
            for message in messages_of(session.id, first, &said, now) {
                let scope = scope(caller, session.body.user_id.as_deref(), session.id);
                let scope = is_memory(&message).then_some(scope);
                store_message(write, caller, &message, scope);
            }
        })
        .await
    }

    /// Adds messages to a session, in their order; once if the request says so.
    pub async fn messages_append(
        &self,
        caller: &Caller,
        once: Option<&Once>,
        session: SessionId,
        said: Vec<ChatMessage>,
    ) -> Result<Done<Vec<Message>>> {
        if let Some(before) = self.remembered(caller, once).await? {
            return self.messages_replayed(caller, session, before).await;
        }
        let session = self.resource_get::<SessionBody>(caller, session).await?.entity()?;
        let now = self.now();
        let newest = self.0.store.message_newest(caller.org, session.id).await?;
        let first = self.message_id(now, newest);
        let messages = messages_of(session.id, first, &said, now);
        let mut write = Write::new(caller.org);
        write.session_exists(session.id);
        for message in &messages {
            let scope = scope(caller, session.body.user_id.as_deref(), session.id);
            store_message(&mut write, caller, message, is_memory(message).then_some(scope));
        }
        // Their number says which they are.
        let answer = messages.len().to_string();
        let noted = (first.to_bytes(), answer.as_str());
        match self.write_once(caller, once, write, noted, now).await? {
            None => Ok(Done::now(messages)),
            Some(before) => self.messages_replayed(caller, session.id, before).await,
        }
    }

    async fn messages_replayed(
        &self,
        caller: &Caller,
        session: SessionId,
        before: Remembered,
    ) -> Result<Done<Vec<Message>>> {
        let first = MessageId::from_bytes(before.id);
        let count: usize = before.answer.and_then(|it| it.parse().ok()).unwrap_or(1);
        let mut value = Vec::with_capacity(count);
        for at in 0..count {
            let id = first.following(at);
            value.extend(self.0.store.message_get(caller.org, session, id).await?);
        }
        Ok(Done { value, replayed: true })
    }

    /// A message of a session, by its own id or by that of the run whose reply it is.
    pub async fn message_find(
        &self,
        caller: &Caller,
        session: SessionId,
        id: MessageId,
    ) -> Result<Message> {
        self.resource_get::<SessionBody>(caller, session).await?;
        let store = &self.0.store;
        if let Some(message) = store.message_get(caller.org, session, id).await? {
            return Ok(message);
        }
        let run = store.run_get(caller.org, RunId::from_bytes(id.to_bytes())).await?;
        let reply = run.filter(|run| run.session == session).and_then(|run| run.reply_message);
        let found = match reply {
            Some(reply) => store.message_get(caller.org, session, reply).await?,
            None => None,
        };
        found.ok_or_else(|| Error::not_found("message", id))
    }

    /// Deletes a message, and what recall knows of it.
    pub async fn message_delete(
        &self,
        caller: &Caller,
        session: SessionId,
        id: MessageId,
    ) -> Result<()> {
        let message = self.message_find(caller, session, id).await?;
        let mut write = Write::new(caller.org);
        write.session_exists(session);
        write.session_messages_purge(session, &[message.id]);
        let kind = EntityKind::Message;
        let data = format!(r#"{{"session_id":"{session}"}}"#);
        let id = message.id.to_bytes();
        write.log(entry(caller, self.now(), kind.deleted(), kind, id, data));
        self.0.store.write(write).await?;
        Ok(())
    }

    /// Deletes a run that has ended and, unless they belong to a conversation that goes
    /// on without it, what was said in it.
    pub async fn run_delete(&self, caller: &Caller, run: &Run) -> Result<()> {
        if !run.status.is_final() {
            let detail = format!("run {} has not ended; cancel it first", run.id);
            return Err(Error::new(Code::Conflict, detail));
        }
        let stays = run.request.response.is_some_and(|asked| asked.in_conversation);
        let said = self.0.store.run_messages(caller.org, &OldRun::from(run)).await?;
        let mut write = Write::new(caller.org);
        write.session_exists(run.session);
        write.runs_purge(std::iter::once(run.id));
        write.idempotency_forget(run.id.to_bytes());
        if stays {
            write.messages_run_forget(run.session, &said);
        } else {
            write.session_messages_purge(run.session, &said);
        }
        let kind = EntityKind::Run;
        let data = format!(r#"{{"session_id":"{}"}}"#, run.session);
        write.log(entry(caller, self.now(), kind.deleted(), kind, run.id.to_bytes(), data));
        self.0.store.write(write).await?;
        Ok(())
    }
}

/// The last message of a run, as far as its session has them.
fn last_message(run: &Run) -> Option<MessageId> {
    run.call_messages().pop().or(run.reply_message).or_else(|| run.turn_messages().pop())
}

fn messages_of(
    session: SessionId,
    first: MessageId,
    said: &[ChatMessage],
    at: agentry_domain::Timestamp,
) -> Vec<Message> {
    let message = |(place, said): (usize, &ChatMessage)| Message {
        id: first.following(place),
        session,
        run: None,
        role: said.role(),
        content: said.text().into_owned(),
        chat: (!said.is_plain()).then(|| said.clone()),
        metadata: "{}".to_owned(),
        created_at: at,
    };
    said.iter().enumerate().map(message).collect()
}

/// Instructions, calls and results of tools are no memory of what somebody said.
fn is_memory(message: &Message) -> bool {
    matches!(message.role, MessageRole::User | MessageRole::Assistant)
        && !message.content.is_empty()
}
