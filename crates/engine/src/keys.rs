//! API keys: the first one, and who holds one.

use std::time::Duration;

use agentry_domain::agents::{Agent, AgentBody, FIRST_AGENT_NAME, did};
use agentry_domain::keys::{Key, SECRET_PREFIX, SHOWN_PREFIX_CHARS};
use agentry_domain::log::EntityKind;
use agentry_domain::ports::Authenticate;
use agentry_domain::{AgentId, Caller, Code, Error, KeyId, OrgId, Result, Role};
use agentry_store::Write;
use async_trait::async_trait;

use crate::{Engine, entry, version_data};

/// The installation's own organisation. Its id is fixed, so that of two
/// processes that start at once on one database only one makes it.
const INSTALLATION_ORG: OrgId =
    OrgId::from_bytes([0, 0, 0, 0, 0, 0, 0x70, 0, 0x80, 0, 0, 0, 0, 0, 0, 1]);
/// How long a key that was looked up is taken at its word: as long as a
/// revocation in another process may take to arrive.
const CALLER_TRUSTED_FOR: Duration = Duration::from_secs(1);
/// Keys that are remembered at once.
const CALLERS_REMEMBERED_MAX: u64 = 10_000;

/// Whose keys were looked up lately.
pub(crate) struct Callers(moka::sync::Cache<[u8; 32], Caller>);

impl Default for Callers {
    fn default() -> Self {
        Self(
            moka::sync::Cache::builder()
                .max_capacity(CALLERS_REMEMBERED_MAX)
                .time_to_live(CALLER_TRUSTED_FOR)
                .build(),
        )
    }
}

impl Engine {
    /// A fresh secret, for [`Engine::install`].
    pub fn secret(&self) -> String {
        self.random_text(SECRET_PREFIX)
    }

    /// A prefix and 256 random bits.
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
        Ok(self.0.store.org_first().await?.is_some())
    }

    /// Makes the installation's organisation, its owner key out of this secret,
    /// and the first agent. `false` when another process was faster; then the
    /// secret is worth nothing.
    pub async fn install(&self, secret: &str) -> Result<bool> {
        let now = self.now();
        let key = Key {
            org: INSTALLATION_ORG,
            id: KeyId::from_uuid(self.uuid(now)),
            name: "owner".to_owned(),
            role: Role::Owner,
            hash: *blake3::hash(secret.as_bytes()).as_bytes(),
            prefix: secret.chars().take(SHOWN_PREFIX_CHARS).collect(),
            created_at: now,
        };
        let caller = Caller { org: INSTALLATION_ORG, key: Some(key.id), role: Role::Owner };
        let id = AgentId::from_uuid(self.uuid(now));
        let agent = AgentBody {
            name: FIRST_AGENT_NAME.to_owned(),
            description: "Answers from what was said before; needs no model.".to_owned(),
            did: did(FIRST_AGENT_NAME, id),
            ..AgentBody::default()
        };
        let agent = Agent::new(id, agent, now);
        let mut write = Write::new(INSTALLATION_ORG);
        write.org_insert("default", now);
        write.key_insert(&key);
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

    /// The caller that everyone is with `--auth none`.
    pub fn anyone(&self) -> Caller {
        Caller { org: INSTALLATION_ORG, key: None, role: Role::Owner }
    }
}

#[async_trait]
impl Authenticate for Engine {
    async fn authenticate(&self, secret: &str) -> Result<Caller> {
        let refused = || Error::new(Code::Unauthenticated, "this API key is not valid");
        if !secret.starts_with(SECRET_PREFIX) {
            return Err(refused());
        }
        let hash = *blake3::hash(secret.as_bytes()).as_bytes();
        if let Some(caller) = self.0.callers.0.get(&hash) {
            return Ok(caller);
        }
        let caller = self.0.store.key_caller(&hash).await?.ok_or_else(refused)?;
        self.0.callers.0.insert(hash, caller);
        Ok(caller)
    }

    async fn redeem(&self, ticket: &str) -> Result<Caller> {
        self.ticket_redeem(ticket).await
    }
}
