//! Tickets: a page in a browser cannot send a key along when it opens a stream,
//! and a key does not belong in a URL. A ticket stands for its caller once, for
//! one stream, shortly after it was made, at any process that shares the store.

use std::time::Duration;

use agentry_domain::{Caller, Code, Error, Result, Timestamp};
use agentry_store::{Ticket, Write};

use crate::Engine;
use crate::tokens::tier_of;

/// How long a ticket may be good for at most.
pub const TICKET_LIFETIME_MAX: Duration = Duration::from_secs(60);
/// What a ticket begins with.
const TICKET_PREFIX: &str = "at_";

/// A ticket that was just made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TicketMade {
    /// What to show.
    pub ticket: String,
    /// Until when.
    pub expires_at: Timestamp,
}

impl Engine {
    /// Makes a ticket that stands for its caller.
    pub async fn ticket_create(&self, caller: &Caller, lifetime: Duration) -> Result<TicketMade> {
        let now = self.now();
        let ticket = self.random_text(TICKET_PREFIX);
        let expires_at = now.plus(lifetime.min(TICKET_LIFETIME_MAX));
        let mut write = Write::new(caller.org);
        write.ticket_insert(&Ticket { hash: hash(&ticket), caller: *caller, expires_at }, now);
        self.0.store.write(write).await?;
        Ok(TicketMade { ticket, expires_at })
    }

    /// Whom a ticket stands for; it is worth nothing afterwards.
    pub(crate) async fn ticket_redeem(&self, ticket: &str) -> Result<Caller> {
        let refused = || Error::new(Code::Unauthenticated, "this ticket is not valid any more");
        if !ticket.starts_with(TICKET_PREFIX) {
            return Err(refused());
        }
        let caller = self.0.store.ticket_take(&hash(ticket), self.now()).await?;
        let caller = caller.ok_or_else(refused)?;
        match caller.key {
            Some(_) if caller.is_token => {
                if !caller.is_in_time(self.now()) {
                    return Err(refused());
                }
                let tier = self.0.store.org_tier(caller.org).await?.ok_or_else(refused)?;
                Ok(Caller { tier: tier_of(&caller, tier), ..caller })
            }
            // A ticket opens no more than its key does by now.
            Some(key) => {
                let holder = self.0.store.key_caller_by_id(caller.org, key).await?;
                holder.filter(|holder| holder.is_in_time(self.now())).ok_or_else(refused)
            }
            None => Ok(caller),
        }
    }
}

fn hash(ticket: &str) -> [u8; 32] {
    *blake3::hash(ticket.as_bytes()).as_bytes()
}
