//! Sessions and their messages.

use agentry_domain::log::EntityKind;
use agentry_domain::sessions::{Message, MessageRole, Session, SessionStatus};
use agentry_domain::{
    Caller, Code, Error, MessageId, Page, PageRequest, Result, SessionId, Timestamp,
};
use agentry_store::sessions::session_missing;
use agentry_store::{Scope, SessionFilter, Write};

use crate::guarded::until_unchanged;
use crate::{Engine, JsonPatch, entry};

/// Sessions of one name that an `ambiguous_name` error lists at most.
const AMBIGUOUS_IDS_MAX: u32 = 20;

/// A new session.
#[derive(Clone, Debug)]
pub struct SessionNew {
    /// Unique among the user's sessions.
    pub name: Option<String>,
    /// The caller's id of the user.
    pub user_id: Option<String>,
    /// Where it came from.
    pub origin: Option<String>,
    /// Where it is in its life.
    pub status: SessionStatus,
    /// A JSON object.
    pub metadata: String,
}

/// A change of a session; what is absent stays.
#[derive(Clone, Debug, Default)]
pub struct SessionChange {
    /// A new name, or none.
    pub name: Option<Option<String>>,
    /// A new label, or none.
    pub origin: Option<Option<String>>,
    /// A new status.
    pub status: Option<SessionStatus>,
    /// A merge patch.
    pub metadata: Option<JsonPatch>,
}

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

/// A whole session out of what a client gave.
pub(crate) fn session_from(new: SessionNew, id: SessionId, now: Timestamp) -> Session {
    Session {
        id,
        name: new.name,
        user_id: new.user_id,
        origin: new.origin,
        status: new.status,
        metadata: new.metadata,
        version: 1,
        created_at: now,
        updated_at: now,
    }
}

impl Engine {
    /// Makes a session.
    pub async fn session_create(&self, caller: &Caller, new: SessionNew) -> Result<Session> {
        let now = self.now();
        let session = session_from(new, SessionId::from_uuid(self.uuid(now)), now);
        let mut write = Write::new(caller.org);
        write.session_insert(&session);
        let id = session.id.to_bytes();
        write.log(entry(caller, now, "session.created", EntityKind::Session, id));
        self.0.store.write(write).await?;
        Ok(session)
    }

    /// The session with this id or, if there is exactly one, with this name.
    pub async fn session_find(&self, caller: &Caller, id_or_name: &str) -> Result<Session> {
        if let Ok(id) = id_or_name.parse::<SessionId>()
            && let Some(session) = self.0.store.session_get(caller.org, id).await?
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

    async fn session_get(&self, caller: &Caller, id: SessionId) -> Result<Session> {
        self.0.store.session_get(caller.org, id).await?.ok_or_else(|| session_missing(id))
    }

    /// Changes a session; see [`Engine::agent_update`] for `if_match`.
    pub async fn session_update(
        &self,
        caller: &Caller,
        id: SessionId,
        change: SessionChange,
        if_match: Option<i64>,
    ) -> Result<Session> {
        until_unchanged(if_match, || async {
            let mut session = self.session_get(caller, id).await?;
            session.version = if_match.unwrap_or(session.version);
            let change = change.clone();
            session.name = change.name.unwrap_or(session.name);
            session.origin = change.origin.unwrap_or(session.origin);
            session.status = change.status.unwrap_or(session.status);
            if let Some(patch) = change.metadata {
                session.metadata = patch.apply("metadata", &session.metadata)?;
            }
            let now = self.now();
            session.updated_at = now;
            let mut write = Write::new(caller.org);
            write.session_update(&session);
            write.log(entry(caller, now, "session.updated", EntityKind::Session, id.to_bytes()));
            self.0.store.write(write).await?;
            session.version += 1;
            Ok(session)
        })
        .await
    }

    /// Deletes a session with its messages, its runs and what recall knows of
    /// them. 409 while a run in it has not ended.
    pub async fn session_delete(
        &self,
        caller: &Caller,
        id: SessionId,
        if_match: Option<i64>,
    ) -> Result<()> {
        until_unchanged(if_match, || async {
            let version = match if_match {
                Some(version) => version,
                None => self.session_get(caller, id).await?.version,
            };
            let mut write = Write::new(caller.org);
            write.session_delete(id, version);
            let now = self.now();
            write.log(entry(caller, now, "session.deleted", EntityKind::Session, id.to_bytes()));
            self.0.store.write(write).await?;
            Ok(())
        })
        .await
    }

    /// A page of sessions.
    pub async fn session_list(
        &self,
        caller: &Caller,
        filter: SessionFilter,
        page: PageRequest,
    ) -> Result<Page<Session>> {
        Ok(self.0.store.session_list(caller.org, &filter, &page).await?)
    }

    /// A page of a session's messages.
    pub async fn message_list(
        &self,
        caller: &Caller,
        session: SessionId,
        page: PageRequest,
    ) -> Result<Page<Message>> {
        self.session_get(caller, session).await?;
        Ok(self.0.store.message_list(caller.org, session, &page).await?)
    }

    /// Appends a message to a session, where later runs see and recall it.
    pub async fn message_append(
        &self,
        caller: &Caller,
        session: SessionId,
        new: MessageNew,
    ) -> Result<Message> {
        let session = self.session_get(caller, session).await?;
        let now = self.now();
        let message = Message {
            id: MessageId::from_uuid(self.uuid(now)),
            session: session.id,
            run: None,
            role: new.role,
            content: new.content,
            metadata: new.metadata,
            created_at: now,
        };
        let mut write = Write::new(caller.org);
        write.session_exists(session.id);
        let scope = scope(caller, session.user_id.as_deref(), session.id);
        // Instructions are no memory of anything that was said.
        let remembered = (message.role != MessageRole::System).then_some(scope);
        store_message(&mut write, caller, &message, remembered);
        self.0.store.write(write).await?;
        Ok(message)
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
    write.log(entry(caller, message.created_at, "message.created", EntityKind::Message, id));
}
