//! API keys: the first one, those that are made with it, and who holds one.
//!
//! When a key was last used is noted when it is looked up, which happens once a
//! second for one that is used all the time, kept in memory and written down soon
//! after, for all keys together. So it is a second late at most, here at once and
//! in other processes a moment later; a crash forgets what was not written down
//! yet. A request that only reads costs no write of its own.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use agentry_domain::agents::{Agent, AgentBody, FIRST_AGENT_NAME, did};
use agentry_domain::keys::{Key, KeyBody, SECRET_PREFIX, SHOWN_PREFIX_CHARS};
use agentry_domain::log::EntityKind;
use agentry_domain::orgs::{INSTALLATION_ORG, Org, OrgBody};
use agentry_domain::ports::Authenticate;
use agentry_domain::tokens::Claims;
use agentry_domain::{
    AgentId, Caller, Code, Document, Done, Error, Fault, KeyId, Once, OrgId, Page, PageRequest,
    Permission, Result, Role, Tier, Timestamp,
};
use agentry_store::{KeyFilter, Write};
use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::orgs::is_installation_owner;
use crate::{Engine, entry, version_data};

/// How long a key that was looked up is taken at its word: as long as a
/// revocation in another process may take to arrive.
const CALLER_TRUSTED_FOR: Duration = Duration::from_secs(1);
/// Keys that are remembered at once.
const CALLERS_REMEMBERED_MAX: u64 = 10_000;

/// Whose keys were looked up lately.
pub(crate) struct Callers {
    known: moka::sync::Cache<[u8; 32], Caller>,
    /// How often keys were changed here. What was looked up before a change is
    /// not remembered after it: a key that is revoked here opens nothing from
    /// then on.
    changes: Mutex<u64>,
    hits: AtomicU64,
    misses: AtomicU64,
}

/// What the cache of keys did so far, for the metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeyActivity {
    /// Keys that were remembered.
    pub hits: u64,
    /// Keys that were looked up, those that are none among them.
    pub misses: u64,
    /// Keys that are remembered now, about.
    pub remembered: u64,
}

impl Default for Callers {
    fn default() -> Self {
        let known = moka::sync::Cache::builder()
            .max_capacity(CALLERS_REMEMBERED_MAX)
            .time_to_live(CALLER_TRUSTED_FOR)
            .build();
        let (hits, misses) = Default::default();
        Self { known, changes: Mutex::new(0), hits, misses }
    }
}

impl Callers {
    fn changes(&self) -> u64 {
        *self.changes.lock()
    }

    fn remember(&self, hash: [u8; 32], caller: Caller, changes: u64) {
        let now = self.changes.lock();
        if *now == changes {
            self.known.insert(hash, caller);
        }
    }

    fn forget(&self, hash: &[u8; 32]) {
        let mut changes = self.changes.lock();
        *changes += 1;
        self.known.invalidate(hash);
    }
}

/// How long uses are gathered before they are written down.
const USES_GATHERED_FOR: Duration = Duration::from_millis(500);
/// Keys whose use waits to be written down at most; that of another one is noted
/// when it is looked up again.
const USES_WAITING_MAX: usize = 10_000;
/// Uses that one write notes.
const USES_AT_ONCE_MAX: usize = 500;

/// When keys were used, until that is written down.
#[derive(Default)]
pub(crate) struct KeyUses {
    waiting: Mutex<BTreeMap<(OrgId, KeyId), Timestamp>>,
    noted: Notify,
}

impl KeyUses {
    fn note(&self, org: OrgId, key: KeyId, at: Timestamp) {
        let mut waiting = self.waiting.lock();
        if waiting.len() < USES_WAITING_MAX || waiting.contains_key(&(org, key)) {
            let last = waiting.entry((org, key)).or_insert(at);
            *last = at.max(*last);
        }
        drop(waiting);
        self.noted.notify_one();
    }
}

/// A key, and when it was last used.
pub type KeySeen = (Document<KeyBody>, Option<Timestamp>);

/// A key that was just made.
#[derive(Debug)]
pub struct KeyMade {
    /// The key.
    pub key: Done<Document<KeyBody>>,
    /// What its holder shows; none when the request was sent before. It is not
    /// stored anywhere.
    pub secret: Option<String>,
}

impl Engine {
    /// A fresh secret, for [`Engine::install`].
    pub fn secret(&self) -> String {
        self.random_text(SECRET_PREFIX)
    }

    /// The prefix and 256 random bits in base-16.
    pub(crate) fn random_text(&self, prefix: &str) -> String {
        use std::fmt::Write as _;
        let mut text = prefix.to_owned();
        for byte in self.0.entropy.secret() {
            let _ = write!(text, "{byte:02x}");
        }
        text
    }

    /// Whether the store already has its organisation and owner.
    pub async fn installed(&self) -> Result<bool> {
        let org = self.0.store.resource_get::<OrgBody>(INSTALLATION_ORG, INSTALLATION_ORG).await?;
        Ok(org.is_some())
    }

    /// Makes the installation's organisation, its owner key out of this secret,
    /// and the first agent. `false` when another process was faster; then the
    /// secret is worth nothing.
    pub async fn install(&self, secret: &str) -> Result<bool> {
        let now = self.now();
        let org = Org::new(
            INSTALLATION_ORG,
            OrgBody { name: "default".to_owned(), tier: Tier::default() },
            now,
        );
        let key = KeyBody {
            name: "owner".to_owned(),
            role: Role::Owner,
            scopes: Vec::new(),
            expires_at: None,
            prefix: secret.chars().take(SHOWN_PREFIX_CHARS).collect(),
            created_by: None,
        };
        let key = Key::new(KeyId::from_uuid(self.uuid(now)), key, now);
        let caller = key.caller(INSTALLATION_ORG, key.id);
        let id = AgentId::from_uuid(self.uuid(now));
        let agent = AgentBody {
            name: FIRST_AGENT_NAME.to_owned(),
            description: "Answers from what was said before; needs no model.".to_owned(),
            did: did(FIRST_AGENT_NAME, id),
            ..AgentBody::default()
        };
        let agent = Agent::new(id, agent, now);
        let mut write = Write::new(INSTALLATION_ORG);
        write.resource_insert(&org.body, &org.document()?);
        write.resource_insert(&key.body, &key.document()?);
        write.key_secret_insert(&hash(secret), key.id, &key);
        write.resource_insert(&agent.body, &agent.document()?);
        for (kind, id) in
            [(EntityKind::Key, key.id.to_bytes()), (EntityKind::Agent, agent.id.to_bytes())]
        {
            write.log(entry(&caller, now, kind.created(), kind, id, version_data(1)));
        }
        match self.0.store.write(write).await.map_err(Error::from) {
            Ok(_) => Ok(true),
            Err(error) if error.code == Code::AlreadyExists => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// What the cache of keys did so far.
    pub fn key_activity(&self) -> KeyActivity {
        let callers = &self.0.callers;
        KeyActivity {
            hits: callers.hits.load(Ordering::Relaxed),
            misses: callers.misses.load(Ordering::Relaxed),
            remembered: callers.known.entry_count(),
        }
    }

    /// The caller that everyone is with `--auth none`.
    pub fn anyone(&self) -> Caller {
        Caller::of(INSTALLATION_ORG, None, Role::Owner)
    }

    /// Makes a key that is no stronger than its maker's, of the maker's
    /// organisation or, for the installation's owner, of any.
    pub async fn key_create(
        &self,
        caller: &Caller,
        once: Option<&Once>,
        org: Option<OrgId>,
        body: KeyBody,
    ) -> Result<KeyMade> {
        let org = org.unwrap_or(caller.org);
        let within = Caller { org, ..*caller };
        if org != caller.org {
            is_installation_owner(caller)?;
            self.org_get(caller, org).await?;
        }
        if self.remembered(&within, once).await?.is_none() {
            self.check_new(caller, &body)?;
        }
        let secret = self.secret();
        let prefix = secret.chars().take(SHOWN_PREFIX_CHARS).collect();
        let body = KeyBody { prefix, created_by: caller.key, ..body };
        let also = |write: &mut Write, key: &Key| {
            write.key_secret_insert(&hash(&secret), key.id, key);
        };
        let key = self.resource_create_with(&within, once, |_| body, also).await?;
        let secret = (!key.replayed).then_some(secret);
        Ok(KeyMade { key, secret })
    }

    fn check_new(&self, caller: &Caller, body: &KeyBody) -> Result<()> {
        let refused = body.scopes.iter().find(|scope| !body.role.allows(**scope));
        if let Some(scope) = refused {
            let (role, scope) = (body.role.as_str(), scope.as_str());
            let detail = format!("the role {role} does not allow {scope}");
            return Err(Error::invalid(vec![Fault::new("/scopes", "not_allowed", detail)]));
        }
        self.check_expiry(caller, body)?;
        let made = body.caller(caller.org, KeyId::from_bytes([0; 16]));
        let stronger =
            |permission: &&Permission| made.allows(**permission) && !caller.allows(**permission);
        if let Some(permission) = Permission::ALL.iter().find(stronger) {
            return Err(Error::new(
                Code::Forbidden,
                format!("nobody makes a key that may do more: {}", permission.as_str()),
            ));
        }
        check_rank(caller, body.role)
    }

    /// A key ends later than now, and no later than its maker's.
    fn check_expiry(&self, caller: &Caller, body: &KeyBody) -> Result<()> {
        if body.expires_at.is_some_and(|at| at <= self.now()) {
            let fault = Fault::new("/expires_at", "out_of_range", "must be in the future");
            return Err(Error::invalid(vec![fault]));
        }
        match (caller.until, body.expires_at) {
            (None, _) => Ok(()),
            (Some(until), Some(at)) if at <= until => Ok(()),
            (Some(until), _) => Err(Error::new(
                Code::Forbidden,
                format!("this key expires at {until}, and makes none that lasts longer"),
            )),
        }
    }

    /// The key with this id.
    pub async fn key_get(&self, caller: &Caller, id: KeyId) -> Result<KeySeen> {
        let key = self.resource_get::<KeyBody>(caller, id).await?;
        let used = self.key_uses(caller.org, (id, id)).await?;
        Ok((key, used.get(&id).copied()))
    }

    /// A page of keys.
    pub async fn key_list(
        &self,
        caller: &Caller,
        filter: &KeyFilter,
        page: &PageRequest,
    ) -> Result<Page<KeySeen>> {
        let found = self.resource_list::<KeyBody>(caller, filter, page).await?;
        let ids = || found.items.iter().map(|key| key.id);
        let used = match ids().min().zip(ids().max()) {
            Some(span) => self.key_uses(caller.org, span).await?,
            None => BTreeMap::new(),
        };
        Ok(found.map(|key| {
            let used = used.get(&key.id).copied();
            (key, used)
        }))
    }

    /// When the keys from one id to another were last used, also what is not
    /// written down yet.
    async fn key_uses(
        &self,
        org: OrgId,
        span: (KeyId, KeyId),
    ) -> Result<BTreeMap<KeyId, Timestamp>> {
        let waiting: Vec<(KeyId, Timestamp)> = {
            let waiting = self.0.key_uses.waiting.lock();
            let of_span = waiting.range((org, span.0)..=(org, span.1));
            of_span.map(|((_, id), at)| (*id, *at)).collect()
        };
        let mut uses = BTreeMap::from_iter(self.0.store.key_uses(org, span).await?);
        for (id, at) in waiting {
            let last = uses.entry(id).or_insert(at);
            *last = at.max(*last);
        }
        Ok(uses)
    }

    /// Writes down when keys were used, soon after they were, until this process
    /// stops, and then what is left.
    pub(crate) async fn keep_key_uses(&self) {
        let stopping = self.0.tasks.stopping().clone();
        while !stopping.is_cancelled() {
            stopping.run_until_cancelled(self.0.key_uses.noted.notified()).await;
            stopping.run_until_cancelled(tokio::time::sleep(USES_GATHERED_FOR)).await;
            if let Err(error) = self.key_uses_write().await {
                tracing::warn!(error = %error.chain(), "when keys were used could not be noted");
            }
        }
    }

    async fn key_uses_write(&self) -> Result<()> {
        let uses = std::mem::take(&mut *self.0.key_uses.waiting.lock());
        let mut uses: Vec<_> = uses.into_iter().collect();
        // In the order of the keys, so that two processes cannot wait for each other.
        while let Some(((org, _), _)) = uses.first() {
            let org = *org;
            let of_org = uses.iter().take_while(|((of, _), _)| *of == org).count();
            let mut write = Write::new(org).bulk();
            for ((_, key), at) in uses.drain(..of_org.min(USES_AT_ONCE_MAX)) {
                write.key_used(key, at);
            }
            self.0.store.write(write).await?;
        }
        Ok(())
    }

    /// Changes a key's name, or when it expires.
    pub async fn key_update(
        &self,
        caller: &Caller,
        id: KeyId,
        if_match: Option<i64>,
        change: impl Fn(&Key) -> Result<KeyBody> + Sync,
    ) -> Result<Document<KeyBody>> {
        let hash = self.0.store.key_hash(caller.org, id).await?;
        let checked = |was: &Key| {
            check_rank(caller, was.role)?;
            let body = change(was)?;
            if body.expires_at != was.expires_at {
                self.check_expiry(caller, &body)?;
            }
            Ok(body)
        };
        let also = |write: &mut Write, was: &Key, will_be: &Key| {
            if was.expires_at != will_be.expires_at {
                if let Some(until) = will_be.expires_at
                    && is_owner(was)
                {
                    write.key_owner_stays(id, until);
                }
                write.key_secret_expire(id, will_be.expires_at);
            }
        };
        let changed = self.resource_update_with(caller, id, if_match, checked, also).await?;
        if let Some(hash) = hash {
            self.0.callers.forget(&hash);
        }
        Ok(changed)
    }

    /// Revokes a key: from now on it opens nothing here, and within
    /// [`CALLER_TRUSTED_FOR`] in other processes.
    pub async fn key_delete(
        &self,
        caller: &Caller,
        id: KeyId,
        if_match: Option<i64>,
    ) -> Result<()> {
        let was = self.resource_get::<KeyBody>(caller, id).await?.entity()?;
        check_rank(caller, was.role)?;
        let hash = self.0.store.key_hash(caller.org, id).await?;
        let now = self.now();
        let is_last = is_owner(&was) && was.expires_at.is_none_or(|at| at > now);
        self.resource_delete_with::<KeyBody>(caller, id, if_match, |write, was| {
            if is_last {
                write.key_owner_stays(was.id, now);
            }
            write.resource_delete::<KeyBody>(was.id, was.version);
            write.key_secret_delete(was.id);
        })
        .await?;
        if let Some(hash) = hash {
            self.0.callers.forget(&hash);
        }
        Ok(())
    }
}

/// Whether it is the key of an owner who may do everything.
fn is_owner(key: &KeyBody) -> bool {
    key.role == Role::Owner && key.scopes.is_empty()
}

/// Only owners make, change and revoke the keys of owners.
fn check_rank(caller: &Caller, role: Role) -> Result<()> {
    if role == Role::Owner && caller.role != Role::Owner {
        return Err(Error::new(Code::Forbidden, "only an owner may do this to an owner's key"));
    }
    Ok(())
}

fn hash(secret: &str) -> [u8; 32] {
    *blake3::hash(secret.as_bytes()).as_bytes()
}

#[async_trait]
impl Authenticate for Engine {
    async fn authenticate(&self, secret: &str) -> Result<Caller> {
        let refused = || Error::new(Code::Unauthenticated, "this API key is not valid");
        if !secret.starts_with(SECRET_PREFIX) {
            return Err(refused());
        }
        let hash = hash(secret);
        let callers = &self.0.callers;
        let caller = match callers.known.get(&hash) {
            Some(caller) => {
                callers.hits.fetch_add(1, Ordering::Relaxed);
                caller
            }
            None => {
                callers.misses.fetch_add(1, Ordering::Relaxed);
                let changes = callers.changes();
                let caller = self.0.store.key_caller(&hash).await?.ok_or_else(refused)?;
                callers.remember(hash, caller, changes);
                let now = self.now();
                if let Some(key) = caller.key.filter(|_| caller.is_in_time(now)) {
                    self.0.key_uses.note(caller.org, key, now);
                }
                caller
            }
        };
        // The clock is asked of those alone that expire.
        if caller.until.is_some() && !caller.is_in_time(self.now()) {
            return Err(Error::new(Code::Unauthenticated, "this API key has expired"));
        }
        Ok(caller)
    }

    async fn redeem(&self, ticket: &str) -> Result<Caller> {
        self.ticket_redeem(ticket).await
    }

    async fn accept_token(&self, claims: &Claims) -> Result<Caller> {
        self.token_caller(claims).await
    }
}
