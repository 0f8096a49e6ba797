//! API keys. The resource is what clients read; what authentication needs stands
//! in a table of its own, by the hash of the secret.

use std::sync::LazyLock;

use agentry_domain::caller::Scopes;
use agentry_domain::keys::KeyBody;
use agentry_domain::orgs::INSTALLATION_ORG;
use agentry_domain::{Caller, Code, Error, KeyId, OrgId, Role, Timestamp};

use crate::orgs::tier;
use crate::resources::{Column, Statements, Table};
use crate::sql::statements;
use crate::value::{Columns, Value, values};
use crate::write::{Probe, Write};
use crate::{Result, Store, StoreError};

statements! {
    KEY_SECRET_INSERT = "insert into key_secret (hash, org, id, role, scopes, expires_at) \
        values ($1, $2, $3, $4, $5, $6)";
    KEY_SECRET_EXPIRE = "update key_secret set expires_at = $1 where org = $2 and id = $3";
    KEY_SECRET_DELETE = "delete from key_secret where org = $1 and id = $2";
    // The latest wins, whichever process says it first.
    KEY_USED = "update key_secret set used_at = $1 where org = $2 and id = $3 \
        and (used_at is null or used_at < $1)";
    KEY_USES = "select id, used_at from key_secret where org = $1 and id >= $2 and id <= $3 \
        and used_at is not null";
    KEY_HASH = "select hash from key_secret where org = $1 and id = $2";
    // Organisations are rows of the installation's own one.
    KEY_CALLER = "select k.org, k.id, k.role, k.scopes, k.expires_at, \
        coalesce(o.tier, 'standard') from key_secret k \
        left join org o on o.org = $1 and o.id = k.org where k.hash = $2";
    KEY_CALLER_BY_ID = "select k.org, k.id, k.role, k.scopes, k.expires_at, \
        coalesce(o.tier, 'standard') from key_secret k \
        left join org o on o.org = $1 and o.id = k.org where k.org = $2 and k.id = $3";
    // Two owners that end each other's keys wait for each other; the second one
    // sees in its next statement what the first one did.
    KEY_OWNERS_LOCK = sqlite "" postgres "select id from key_secret \
        where org = $1 and role = 'owner' order by id for update";
    KEY_OWNER_OTHER = "select 1 from key_secret where org = $1 and id <> $2 and role = 'owner' \
        and scopes = '' and (expires_at is null or expires_at > $3) limit 1";
}

/// Which keys a list shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyFilter {
    /// Exactly this name.
    pub name: Option<String>,
    /// Of this role.
    pub role: Option<Role>,
}

impl Table for KeyBody {
    const TABLE: &'static str = "api_key";
    const COLUMNS: &'static [Column] = &[Column::filter("name"), Column::filter("role")];
    const COUNTER: &'static str = "keys";
    type Filter = KeyFilter;

    fn columns(&self) -> Vec<Value> {
        values![&self.name, self.role.as_str()]
    }

    fn asked(filter: &KeyFilter) -> Vec<Value> {
        values![filter.name.as_ref(), filter.role.map(Role::as_str)]
    }

    fn statements() -> &'static Statements {
        static STATEMENTS: LazyLock<Statements> = LazyLock::new(Statements::of::<KeyBody>);
        &STATEMENTS
    }
}

impl Write {
    /// Lets whoever shows the secret with this hash in.
    pub fn key_secret_insert(&mut self, hash: &[u8; 32], id: KeyId, body: &KeyBody) {
        let scopes = Scopes::of(&body.scopes).to_text();
        self.add(
            &KEY_SECRET_INSERT,
            values![hash.to_vec(), self.org, id, body.role.as_str(), scopes, body.expires_at,],
        );
    }

    /// Lets a key in until then.
    pub fn key_secret_expire(&mut self, id: KeyId, expires_at: Option<Timestamp>) {
        self.add(&KEY_SECRET_EXPIRE, values![expires_at, self.org, id]);
    }

    /// Lets a key in no more.
    pub fn key_secret_delete(&mut self, id: KeyId) {
        self.add(&KEY_SECRET_DELETE, values![self.org, id]);
    }

    /// Notes when a key was used, if it is still there and that is news.
    pub fn key_used(&mut self, id: KeyId, at: Timestamp) {
        self.add(&KEY_USED, values![at, self.org, id]);
    }

    /// Guard: beside this key the organisation has another one of an owner who
    /// may do everything, at least until then.
    pub fn key_owner_stays(&mut self, id: KeyId, until: Timestamp) {
        self.add(&KEY_OWNERS_LOCK, values![self.org]);
        self.add(&KEY_OWNER_OTHER, values![self.org, id, until]).expect_one(Probe::always(|| {
            Error::new(
                Code::Conflict,
                "this is the organisation's last owner key; make another one first",
            )
        }));
    }
}

impl Store {
    /// Who holds the key with this hash. The one read that crosses
    /// organisations, because it finds out which one it is.
    pub async fn key_caller(&self, hash: &[u8; 32]) -> Result<Option<Caller>> {
        self.point(&KEY_CALLER, values![INSTALLATION_ORG, hash.to_vec()], caller).await
    }

    /// Who holds the key with this id.
    pub async fn key_caller_by_id(&self, org: OrgId, id: KeyId) -> Result<Option<Caller>> {
        self.point(&KEY_CALLER_BY_ID, values![INSTALLATION_ORG, org, id], caller).await
    }

    /// Whether a key is still good.
    pub async fn key_is_valid(&self, org: OrgId, id: KeyId, now: Timestamp) -> Result<bool> {
        let caller = self.key_caller_by_id(org, id).await?;
        Ok(caller.is_some_and(|caller| caller.is_in_time(now)))
    }

    /// When keys from this id to that one were last used, of those that were.
    pub async fn key_uses(
        &self,
        org: OrgId,
        (first, last): (KeyId, KeyId),
    ) -> Result<Vec<(KeyId, Timestamp)>> {
        let used = |row: &mut Columns<'_>| Ok((KeyId::from_bytes(row.id()?), row.time()?));
        self.scan(&KEY_USES, values![org, first, last], used).await
    }

    /// The hash of a key's secret.
    pub async fn key_hash(&self, org: OrgId, id: KeyId) -> Result<Option<[u8; 32]>> {
        self.point(&KEY_HASH, values![org, id], |row| {
            row.bytes()?.try_into().map_err(|_| StoreError::unreadable("a key's hash"))
        })
        .await
    }
}

fn caller(row: &mut Columns<'_>) -> Result<Caller> {
    let (org, id) = (OrgId::from_bytes(row.id()?), KeyId::from_bytes(row.id()?));
    let role = Role::parse(&row.text()?).ok_or_else(|| StoreError::unreadable("a role"))?;
    let scopes = Scopes::of_text(&row.text()?);
    let (until, tier) = (row.opt_time()?, tier(row)?);
    // Whoever runs the installation is not limited in it.
    let is_unlimited = org == INSTALLATION_ORG && role == Role::Owner;
    let tier = (!is_unlimited).then_some(tier);
    Ok(Caller { scopes, until, tier, ..Caller::of(org, Some(id), role) })
}
