//! Tickets: what a browser shows instead of a key when it opens a stream. Only
//! the hash is stored, and a ticket is gone once it was shown.

use agentry_domain::{Caller, KeyId, OrgId, Role, Scopes, Timestamp};

use crate::sql::statements;
use crate::value::{Value, values};
use crate::write::Write;
use crate::{Result, Store, StoreError};

statements! {
    TICKET_INSERT = "insert into ticket (hash, org, key, role, expires_at, scopes, token_until) \
        values ($1, $2, $3, $4, $5, $6, $7)";
    TICKET_TAKE = "delete from ticket where hash = $1 \
        returning org, key, role, expires_at, scopes, token_until";
    TICKET_EXPIRED_DELETE = "delete from ticket where expires_at < $1";
}

/// A ticket, as it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// BLAKE3 of what the client shows.
    pub hash: [u8; 32],
    /// Whom it stands for.
    pub caller: Caller,
    /// When it is worth nothing any more.
    pub expires_at: Timestamp,
}

impl Write {
    /// Stores a ticket of the write's organisation, and deletes those that
    /// expired before `now`.
    pub fn ticket_insert(&mut self, ticket: &Ticket, now: Timestamp) {
        self.add(&TICKET_EXPIRED_DELETE, values![now]);
        self.add(
            &TICKET_INSERT,
            values![
                ticket.hash.to_vec(),
                self.org,
                ticket.caller.key,
                ticket.caller.role.as_str(),
                ticket.expires_at,
                ticket.caller.scopes.to_text(),
                ticket.caller.until.filter(|_| ticket.caller.is_token),
            ],
        );
    }
}

/// No organisation: taking a ticket finds out which one it is.
const SYSTEM: OrgId = OrgId::from_bytes([0; 16]);

impl Store {
    /// Takes a ticket out of the store, so that nobody else can; none when there
    /// is none, or it has expired. What its key may do, and how much, is to be
    /// looked up.
    pub async fn ticket_take(&self, hash: &[u8; 32], now: Timestamp) -> Result<Option<Caller>> {
        let mut write = Write::new(SYSTEM);
        write.add(&TICKET_TAKE, values![hash.to_vec()]).returning();
        let written = self.write(write).await?;
        let Some(row) = written.rows(0).first() else { return Ok(None) };
        let [Value::Bytes(org), key, Value::Text(role), Value::Int(expires_at), scopes, token] =
            row.as_slice()
        else {
            return Err(StoreError::unreadable("a ticket"));
        };
        let id = |bytes: &[u8]| -> Result<[u8; 16]> {
            bytes.try_into().map_err(|_| StoreError::unreadable("an id of 16 bytes"))
        };
        let key = match key {
            Value::Bytes(key) => Some(KeyId::from_bytes(id(key)?)),
            _ => None,
        };
        let role = Role::parse(role).ok_or_else(|| StoreError::unreadable("a role"))?;
        let mut caller = Caller::of(OrgId::from_bytes(id(org)?), key, role);
        if let Value::Text(scopes) = scopes {
            caller.scopes = Scopes::of_text(scopes);
        }
        // Every token expires, so that this tells those of its holders.
        if let Value::Int(until) = token {
            (caller.is_token, caller.until) = (true, Some(Timestamp::from_micros(*until)));
        }
        Ok((Timestamp::from_micros(*expires_at) > now).then_some(caller))
    }
}
