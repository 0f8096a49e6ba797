//! Callers who show an identity provider's token: which organisation they act in,
//! and who they are.

use std::time::Duration;

use agentry_domain::orgs::INSTALLATION_ORG;
use agentry_domain::tokens::Claims;
use agentry_domain::{Caller, Code, Error, KeyId, OrgId, Result, Role, Tier};

use crate::Engine;

/// How often it is noted that a holder was here.
const NOTED_EVERY: Duration = Duration::from_secs(3_600);
/// Holders who need not be noted again yet, at most.
const HOLDERS_NOTED_MAX: u64 = 100_000;

/// Holders of tokens who were noted lately.
pub(crate) struct Holders(moka::sync::Cache<(OrgId, KeyId), ()>);

impl Default for Holders {
    fn default() -> Self {
        let noted = moka::sync::Cache::builder();
        Self(noted.max_capacity(HOLDERS_NOTED_MAX).time_to_live(NOTED_EVERY).build())
    }
}

/// The tier of a caller in an organisation of this one: whoever runs the
/// installation is not limited in it.
pub(crate) fn tier_of(caller: &Caller, tier: Tier) -> Option<Tier> {
    let is_unlimited = caller.org == INSTALLATION_ORG && caller.role == Role::Owner;
    (!is_unlimited).then_some(tier)
}

impl Engine {
    /// The caller whom a checked token names.
    pub(crate) async fn token_caller(&self, claims: &Claims) -> Result<Caller> {
        let tier = self.0.store.org_tier(claims.org).await?.ok_or_else(|| {
            let detail = "the token names an organisation that is not there";
            Error::new(Code::Unauthenticated, detail)
        })?;
        let mut caller = Caller::of(claims.org, Some(claims.holder()), claims.role);
        (caller.is_token, caller.until) = (true, Some(claims.expires_at));
        caller.tier = tier_of(&caller, tier);
        self.note_holder(claims, claims.holder());
        Ok(caller)
    }

    /// Notes who acts under an id, behind what anybody waits for: the audit names
    /// them by it.
    fn note_holder(&self, claims: &Claims, id: KeyId) {
        let holder = (claims.org, id);
        if self.0.holders.0.contains_key(&holder) {
            return;
        }
        self.0.holders.0.insert(holder, ());
        let (engine, claims, now) = (self.clone(), claims.clone(), self.now());
        self.0.tasks.spawn(async move {
            if let Err(error) = engine.0.store.token_holder_seen(&claims, now).await {
                tracing::warn!(%error, "the holder of a token could not be noted");
                engine.0.holders.0.invalidate(&holder);
            }
        });
    }
}
