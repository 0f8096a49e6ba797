//! Organisations and their API keys.

use agentry_domain::keys::Key;
use agentry_domain::{Caller, KeyId, OrgId, Role, Timestamp};

use crate::sql::statements;
use crate::value::{self, Value, values};
use crate::write::Write;
use crate::{Result, Store, StoreError};

statements! {
    ORG_INSERT = "insert into org (id, name, created_at) values ($1, $2, $3)";
    // The oldest organisation is the installation's own: the first row of the table.
    scan ORG_FIRST = "select id from org order by id limit 1";
    scan ORG_IDS = "select id from org order by id";
    KEY_INSERT = "insert into api_key (hash, org, id, name, role, prefix, created_at) \
        values ($1, $2, $3, $4, $5, $6, $7)";
    KEY_EXISTS = "select created_at from api_key where org = $1 and id = $2";
    KEY_CALLER = "select org, id, role from api_key where hash = $1";
}

impl Write {
    /// Stores a new organisation; the write is within it.
    pub fn org_insert(&mut self, name: &str, at: Timestamp) {
        self.add(&ORG_INSERT, values![self.org, name.to_owned(), at]);
    }

    /// Stores a new key.
    pub fn key_insert(&mut self, key: &Key) {
        self.add(
            &KEY_INSERT,
            values![
                Value::Bytes(key.hash.to_vec()),
                key.org,
                key.id,
                &key.name,
                key.role.as_str(),
                &key.prefix,
                key.created_at,
            ],
        );
    }
}

impl Store {
    /// The installation's own organisation; none before the first start.
    pub async fn org_first(&self) -> Result<Option<OrgId>> {
        self.point(&ORG_FIRST, values![], |row| Ok(OrgId::from_bytes(row.id()?))).await
    }

    /// Whether a key is still good.
    pub async fn key_is_valid(&self, org: OrgId, id: KeyId) -> Result<bool> {
        Ok(self.point(&KEY_EXISTS, values![org, id], value::int).await?.is_some())
    }

    /// Every organisation: for work that is done for the whole installation.
    pub async fn org_ids(&self) -> Result<Vec<OrgId>> {
        self.scan(&ORG_IDS, values![], |row| Ok(OrgId::from_bytes(row.id()?))).await
    }

    /// Who holds the key with this hash. The one read that crosses
    /// organisations, because it finds out which one it is.
    pub async fn key_caller(&self, hash: &[u8; 32]) -> Result<Option<Caller>> {
        self.point(&KEY_CALLER, values![hash.to_vec()], |row| {
            Ok(Caller {
                org: OrgId::from_bytes(row.id()?),
                key: Some(KeyId::from_bytes(row.id()?)),
                role: Role::parse(&row.text()?).ok_or_else(|| StoreError::unreadable("a role"))?,
            })
        })
        .await
    }
}
