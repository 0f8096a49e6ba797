//! Replies that serve several runs, for agents that ask for it: those of the last
//! while (`cache_ttl_s`), which are found in the store, and those that are being
//! made in this process (`coalesce`). Two runs are the same when the model would be
//! shown the same, by the same version of the same agent, for the same user; runs
//! of no user, within their session. An agent that declares its replies shared
//! leaves the user out.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use agentry_domain::agents::Agent;
use agentry_domain::runs::{Run, RunStatus};
use agentry_domain::{Caller, OrgId, Result, RunId};
use agentry_llm::ModelRequest;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::Engine;

/// What makes two runs the same.
type Fingerprint = [u8; 16];
/// A reply and the run that it was made for, once it is there.
type Told = Option<(Arc<str>, RunId)>;

/// By whom a reply is being made.
type Leaders = HashMap<(OrgId, Fingerprint), watch::Receiver<Told>>;

/// The replies that are being made in this process, one entry for each run that
/// makes one.
#[derive(Clone, Default)]
pub(crate) struct Answers(Arc<Mutex<Leaders>>);

/// Whether a run need ask its model.
pub(super) enum Reply {
    /// Another run has the reply.
    Known { text: Arc<str>, from: RunId },
    /// It must be asked; if others may use the reply, with what tells them.
    Unknown(Option<Reuse>),
}

/// A reply that others may use.
pub(super) struct Reuse {
    fingerprint: Fingerprint,
    is_kept: bool,
    leader: Option<Leader>,
}

/// The one of several equal runs that asks the model.
struct Leader {
    answers: Answers,
    key: (OrgId, Fingerprint),
    run: RunId,
    told: watch::Sender<Told>,
}

impl Reuse {
    /// By which later runs are to find it in the store.
    pub(super) fn kept_as(&self) -> Option<Fingerprint> {
        self.is_kept.then_some(self.fingerprint)
    }

    /// Tells the reply to those that wait for it, and to those that come as long as this
    /// is kept: until the store has it.
    pub(super) fn tell(&self, text: &str) {
        if let Some(leader) = &self.leader {
            leader.told.send_replace(Some((text.into(), leader.run)));
        }
    }
}

impl Drop for Leader {
    fn drop(&mut self) {
        self.answers.0.lock().remove(&self.key);
    }
}

impl Answers {
    /// Leads, or listens to whoever leads.
    fn join(
        &self,
        key: (OrgId, Fingerprint),
        run: RunId,
    ) -> std::result::Result<Leader, watch::Receiver<Told>> {
        let mut leaders = self.0.lock();
        if let Some(told) = leaders.get(&key) {
            return Err(told.clone());
        }
        let (told, listen) = watch::channel(None);
        leaders.insert(key, listen);
        Ok(Leader { answers: self.clone(), key, run, told })
    }
}

impl Engine {
    /// The reply of an equal run, or the right to make it.
    pub(super) async fn reuse(
        &self,
        caller: &Caller,
        agent: &Agent,
        run: &Run,
        request: &ModelRequest,
    ) -> Result<Reply> {
        let ttl = Duration::from_secs(agent.cache_ttl_s.into());
        // A reply that calls the client's tools is not text that another could be given.
        if ttl.is_zero() && !agent.coalesce || !request.tools.is_empty() {
            return Ok(Reply::Unknown(None));
        }
        let fingerprint = fingerprint(agent, run, request);
        let is_kept = !ttl.is_zero();
        loop {
            if is_kept && let Some(known) = self.kept_reply(caller, run, fingerprint, ttl).await? {
                return Ok(known);
            }
            if !agent.coalesce {
                return Ok(Reply::Unknown(Some(Reuse { fingerprint, is_kept, leader: None })));
            }
            match self.0.answers.join((caller.org, fingerprint), run.id) {
                Ok(leader) => {
                    let leader = Some(leader);
                    return Ok(Reply::Unknown(Some(Reuse { fingerprint, is_kept, leader })));
                }
                Err(mut told) => {
                    // A leader that failed tells nothing, and another one leads.
                    let told = told.wait_for(Option::is_some).await.ok().and_then(|it| it.clone());
                    if let Some((text, from)) = told {
                        return Ok(Reply::Known { text, from });
                    }
                }
            }
        }
    }

    async fn kept_reply(
        &self,
        caller: &Caller,
        run: &Run,
        fingerprint: Fingerprint,
        ttl: Duration,
    ) -> Result<Option<Reply>> {
        let (store, after) = (&self.0.store, self.now().minus(ttl));
        let found = store.run_of_fingerprint(caller.org, fingerprint, after, run.id).await?;
        let Some(from) = found else { return Ok(None) };
        let found = store.run_get(caller.org, from).await?;
        let succeeded = found.filter(|found| found.status == RunStatus::Succeeded);
        let text = succeeded.and_then(|found| found.reply);
        Ok(text.map(|text| Reply::Known { text: text.into(), from }))
    }
}

/// Everything that the reply may depend on, and for whom it is.
fn fingerprint(agent: &Agent, run: &Run, request: &ModelRequest) -> Fingerprint {
    let mut hasher = blake3::Hasher::new();
    // Each part with its length, so that no two lists of parts are the same bytes.
    let mut add = |part: &[u8]| {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    };
    add(&agent.id.to_bytes());
    add(&agent.version.to_le_bytes());
    add(run.request.model.as_deref().unwrap_or_default().as_bytes());
    if !agent.cache_shared {
        match &run.user_id {
            Some(user_id) => add(format!("user {user_id}").as_bytes()),
            None => add(&run.session.to_bytes()),
        }
    }
    let ModelRequest {
        instructions,
        context,
        recalled,
        messages,
        tools: _,
        tool_choice: _,
        parallel_tool_calls: _,
        response_format,
        parameters,
        deadline: _,
    } = request;
    add(instructions.as_bytes());
    add(context.as_deref().unwrap_or_default().as_bytes());
    add(&recalled.len().to_le_bytes());
    for passage in recalled {
        add(passage.text.as_bytes());
    }
    for message in messages {
        add(serde_json::to_string(message).unwrap_or_default().as_bytes());
    }
    add(serde_json::to_string(response_format).unwrap_or_default().as_bytes());
    add(serde_json::Value::Object(parameters.clone()).to_string().as_bytes());
    let mut fingerprint = [0; 16];
    fingerprint.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    fingerprint
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_leads_and_whoever_follows_hears_or_leads_next() {
        let (answers, org) = (Answers::default(), OrgId::from_bytes([1; 16]));
        let run = |n| RunId::from_bytes([n; 16]);
        let leader = answers.join((org, [7; 16]), run(1)).ok().unwrap();
        let mut follower = answers.join((org, [7; 16]), run(2)).err().unwrap();
        assert!(answers.join((org, [8; 16]), run(3)).is_ok(), "another question");
        let reuse = Reuse { fingerprint: [7; 16], is_kept: false, leader: Some(leader) };
        reuse.tell("yes");
        let told = follower.wait_for(Option::is_some).await.unwrap().clone();
        assert_eq!(told, Some(("yes".into(), run(1))));
        drop(reuse);
        let leader = answers.join((org, [7; 16]), run(4)).ok().unwrap();
        let mut follower = answers.join((org, [7; 16]), run(5)).err().unwrap();
        drop(leader);
        assert!(follower.wait_for(Option::is_some).await.is_err());
        assert!(answers.join((org, [7; 16]), run(5)).is_ok());
    }
}
