//! Who was refused: gathered in memory, and told to the log once for each caller,
//! reason and interval, so that who tries all day does not fill it.

use std::collections::HashMap;
use std::net::IpAddr;

use agentry_domain::audit::{Denial, network};
use agentry_domain::log::{EntityKind, LogEntry};
use agentry_domain::orgs::INSTALLATION_ORG;
use agentry_domain::ports::Audit;
use agentry_domain::{Code, KeyId, OrgId, Result};
use agentry_store::Write;
use parking_lot::Mutex;

use crate::Engine;

/// Callers and reasons that are told apart at once; what comes beyond is counted
/// together.
const DENIALS_WAITING_MAX: usize = 1_000;
/// What an entry is called.
const DENIED: &str = "access.denied";

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Who {
    org: OrgId,
    key: Option<KeyId>,
    /// Without a key, where it came from.
    from: Option<IpAddr>,
    code: Code,
}

#[derive(Clone, Copy, Default)]
struct Many {
    count: u64,
    address: Option<IpAddr>,
}

/// Refusals that were not told yet.
#[derive(Default)]
pub(crate) struct Denials {
    waiting: Mutex<HashMap<Who, Many>>,
}

impl Denials {
    fn note(&self, denial: &Denial<'_>) {
        let key = denial.caller.and_then(|caller| caller.key);
        let who = Who {
            org: denial.caller.map_or(INSTALLATION_ORG, |caller| caller.org),
            key,
            from: denial.address.filter(|_| key.is_none()).map(network),
            code: denial.code,
        };
        let mut waiting = self.waiting.lock();
        let fits = waiting.len() < DENIALS_WAITING_MAX || waiting.contains_key(&who);
        // Those beyond the bound are one more: of nobody.
        let who = if fits {
            who
        } else {
            Who { org: INSTALLATION_ORG, key: None, from: None, code: denial.code }
        };
        let many = waiting.entry(who).or_default();
        many.count += 1;
        many.address = denial.address.filter(|_| fits);
    }
}

impl Audit for Engine {
    fn denied(&self, denial: Denial<'_>) {
        self.0.denials.note(&denial);
    }
}

impl Engine {
    /// Tells the log of refusals, once an interval and when this process stops.
    pub(crate) async fn keep_denials(&self) {
        let stopping = self.0.tasks.stopping().clone();
        while !stopping.is_cancelled() {
            let pause = tokio::time::sleep(self.0.options.denials_gathered_for);
            stopping.run_until_cancelled(pause).await;
            if let Err(error) = self.denials_write().await {
                tracing::warn!(error = %error.chain(), "refusals could not be noted");
            }
        }
    }

    async fn denials_write(&self) -> Result<()> {
        let waiting = std::mem::take(&mut *self.0.denials.waiting.lock());
        let mut by_org: HashMap<OrgId, Write> = HashMap::new();
        for (who, many) in waiting {
            let write = by_org.entry(who.org).or_insert_with(|| Write::new(who.org).bulk());
            let data = format!(r#"{{"code":"{}","count":{}}}"#, who.code, many.count);
            write.log(LogEntry {
                at: self.now(),
                kind: DENIED,
                entity: EntityKind::Access,
                id: who.key.map_or([0; 16], KeyId::to_bytes),
                actor: who.key,
                address: many.address,
                data,
            });
        }
        for write in by_org.into_values() {
            self.0.store.write(write).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use agentry_domain::{Caller, Role};

    use super::*;

    #[test]
    fn refusals_are_gathered_within_a_bound() {
        let denials = Denials::default();
        let caller =
            Caller::of(OrgId::from_bytes([1; 16]), Some(KeyId::from_bytes([2; 16])), Role::Viewer);
        let address = |text: &str| Some(text.parse().unwrap());
        for at in ["10.0.0.1", "10.0.0.2"] {
            let denial =
                Denial { caller: Some(&caller), address: address(at), code: Code::Forbidden };
            denials.note(&denial);
        }
        for at in ["2001:db8::1", "2001:db8::2", "2001:db8:0:1::1"] {
            let denial = Denial { caller: None, address: address(at), code: Code::Unauthenticated };
            denials.note(&denial);
        }
        let counts = |denials: &Denials| {
            let mut counts: Vec<u64> =
                denials.waiting.lock().values().map(|many| many.count).collect();
            counts.sort_unstable();
            counts
        };
        assert_eq!(counts(&denials), [1, 2, 2]);
        for n in 0..5_000_u32 {
            let from = Some(IpAddr::from(n.to_be_bytes()));
            denials.note(&Denial { caller: None, address: from, code: Code::Unauthenticated });
        }
        let counts = counts(&denials);
        assert!(counts.len() <= DENIALS_WAITING_MAX + Code::ALL.len());
        assert_eq!(counts.iter().sum::<u64>(), 5_005, "none is lost");
    }
}
