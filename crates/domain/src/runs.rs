//! Runs: one message handled by one agent, and the states it goes through.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::chat::{ChatMessage, ResponseFormat, ToolCall, ToolChoice, ToolSpec};
use crate::error::{Code, Error, Result};
use crate::ids::{AgentId, MessageId, RunId, SessionId};
use crate::json::JsonText;
use crate::named;
use crate::time::Timestamp;
use crate::tools::{RunCall, ToolRights};

/// Messages of the session that a run shows to its model when it does not say.
pub const MESSAGE_LIMIT_DEFAULT: u32 = 50;
/// Messages of the session that a run may show to its model.
pub const MESSAGE_LIMIT_MAX: u32 = 500;
/// How long a run may take when it does not say.
pub const RUN_TIMEOUT_DEFAULT: Duration = Duration::from_secs(300);
/// How long a run may be allowed to take.
pub const RUN_TIMEOUT_MAX: Duration = Duration::from_secs(3_600);
/// How often a run is begun again after the process that had it ended.
pub const RUN_ATTEMPTS_MAX: i64 = 5;

named! {
    /// Where a run is.
    pub enum RunStatus {
        /// Waits for the runs before it in its session.
        Queued = "queued",
        /// A process has it.
        Running = "running",
        /// The model answered.
        Succeeded = "succeeded",
        /// The model failed; `error` says how.
        Failed = "failed",
        /// Someone ended it.
        Cancelled = "cancelled",
        /// The process that had it ended too often.
        Interrupted = "interrupted",
        /// It took longer than its time-out.
        TimedOut = "timed_out",
    }
}

impl RunStatus {
    /// Whether nothing can follow.
    pub const fn is_final(self) -> bool {
        match self {
            Self::Queued | Self::Running => false,
            Self::Succeeded
            | Self::Failed
            | Self::Cancelled
            | Self::Interrupted
            | Self::TimedOut => true,
        }
    }

    /// Whether `next` may follow. `Running` may follow itself: a run whose
    /// process ended is begun again under the same id.
    pub const fn may_become(self, next: Self) -> bool {
        match self {
            Self::Queued => matches!(next, Self::Running | Self::Cancelled),
            Self::Running => !matches!(next, Self::Queued),
            _ => false,
        }
    }
}

named! {
    /// What becomes of a run whose session has one under way.
    #[derive(Default)]
    pub enum IfBusy {
        /// It waits for those before it.
        #[default]
        Enqueue = "enqueue",
        /// It is refused.
        Reject = "reject",
        /// It ends the one under way, whose text so far stays, and is next.
        Interrupt = "interrupt",
        /// It ends the one under way, whose messages go, and is next.
        Rollback = "rollback",
        /// Its input joins that of the run that has waited longest.
        Merge = "merge",
    }
}

named! {
    /// What becomes of a run whose client goes away before its end.
    #[derive(Default)]
    pub enum OnDisconnect {
        /// It is cancelled.
        #[default]
        Cancel = "cancel",
        /// It goes on.
        Continue = "continue",
    }
}

/// How a run is taken and attended, as its client asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Handling {
    /// What becomes of it when its session has a run under way.
    pub if_busy: IfBusy,
    /// What becomes of it when its client goes away.
    pub on_disconnect: OnDisconnect,
    /// Whether nobody waits for it.
    pub background: bool,
    /// What its tools may do: what its caller may.
    #[serde(default)]
    pub rights: ToolRights,
}

/// Why a run is to end before it has its answer. Of two, the greater one counts:
/// what is to be withdrawn must not stay because somebody cancelled it before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stop {
    /// Its client went away.
    Disconnect = 1,
    /// Somebody asked for it.
    Cancel = 2,
    /// Another run takes its place; what it said stays.
    Interrupt = 3,
    /// Another run takes its place, as if it had never been.
    Rollback = 4,
}

impl Stop {
    /// The number that is stored; a run without a reason to stop has 0.
    pub const fn number(stop: Option<Self>) -> i64 {
        match stop {
            None => 0,
            Some(stop) => stop as i64,
        }
    }

    /// Reads the number that is stored.
    pub const fn of_number(number: i64) -> Option<Self> {
        match number {
            1 => Some(Self::Disconnect),
            2 => Some(Self::Cancel),
            3 => Some(Self::Interrupt),
            4 => Some(Self::Rollback),
            _ => None,
        }
    }

    /// What a run becomes that ends for this reason after it was begun.
    pub const fn status(self) -> RunStatus {
        match self {
            Self::Interrupt => RunStatus::Interrupted,
            Self::Disconnect | Self::Cancel | Self::Rollback => RunStatus::Cancelled,
        }
    }

    /// The same, for the caller.
    pub fn error(self) -> RunError {
        let (code, detail) = match self {
            Self::Disconnect => (Code::RunCancelled, "the client went away before the end"),
            Self::Cancel => (Code::RunCancelled, "the run was cancelled"),
            Self::Interrupt => (Code::RunInterrupted, "another run of the session took its place"),
            Self::Rollback => {
                (Code::RunCancelled, "another run of the session took its place; its messages went")
            }
        };
        RunError { code, detail: detail.to_owned() }
    }
}

/// What a run says of its user; a user who is made for it begins with this.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserGiven {
    /// A mail address.
    pub email: Option<String>,
    /// A phone number.
    pub phone_number: Option<String>,
    /// A JSON object of the client's.
    pub user_data: JsonText,
}

/// Something of a request that had no effect and is no reason to refuse it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Warning {
    /// A JSON pointer (RFC 6901) into the body.
    pub pointer: String,
    /// A short stable word.
    pub code: String,
    /// What happened, for the caller.
    pub detail: String,
}

/// What a caller asks of a run, kept with it so that any process can carry it out.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct RunRequest {
    /// What the user says.
    pub input: String,
    /// How many of the session's messages the model is shown.
    pub message_limit: Option<u32>,
    /// What it says of its user.
    pub user: Option<UserGiven>,
    /// Messages for the model before the input, beside the session's.
    pub messages: Vec<ChatMessage>,
    /// What the run adds to its session before the model is asked, when that is more
    /// than a user's `input`: images, results of tools, several messages. `input` is its text.
    pub turn: Vec<ChatMessage>,
    /// Tools that the client itself carries out: a call of one ends the run, which then
    /// has it in `calls`.
    pub client_tools: Vec<ToolSpec>,
    /// Whether the model calls tools.
    pub tool_choice: ToolChoice,
    /// Whether it may call several at once; the provider's default when absent.
    pub parallel_tool_calls: Option<bool>,
    /// The form that the answer has to take.
    pub response_format: ResponseFormat,
    /// Replaces the agent's instructions.
    pub system_prompt: Option<String>,
    /// JSON: background for the model, shown after the instructions.
    pub context: Option<String>,
    /// A JSON object for the model's provider, such as `temperature`.
    pub parameters: Option<String>,
    /// How long the run may take.
    pub timeout: Option<Duration>,
    /// Overrides the agent's model; set by surfaces that name a model.
    pub model: Option<String>,
    /// Set by the surface of responses alone.
    pub response: Option<ResponseAsked>,
    /// How it is taken and attended.
    pub handling: Handling,
}

/// What a run was asked for as a response in OpenAI's sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ResponseAsked {
    /// The response that it follows.
    pub previous: Option<RunId>,
    /// Whether its session is a conversation that outlives it.
    pub in_conversation: bool,
    /// Whether nothing that was said in it is kept once it was answered.
    #[serde(default)]
    pub unstored: bool,
}

/// Why a run did not succeed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunError {
    /// The code.
    pub code: Code,
    /// What happened, for the caller.
    pub detail: String,
}

/// Tokens, as the provider counted them; absent when it did not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Usage {
    /// Tokens read.
    pub input_tokens: Option<u64>,
    /// Those of them that the provider had in its cache.
    pub cached_input_tokens: Option<u64>,
    /// Tokens written.
    pub output_tokens: Option<u64>,
    /// What they cost, in billionths of the currency of the configured prices; absent
    /// when no price of the model is configured.
    pub cost_nanos: Option<u64>,
}

impl Usage {
    /// Both together, for a run that asks its model several times. What one of them
    /// does not know the sum does not know, except that nothing was used so far.
    pub fn plus(self, other: Self) -> Self {
        if self == Self::default() {
            return other;
        }
        let sum = |a: Option<u64>, b: Option<u64>| Some(a?.saturating_add(b?));
        Self {
            input_tokens: sum(self.input_tokens, other.input_tokens),
            cached_input_tokens: sum(self.cached_input_tokens, other.cached_input_tokens),
            output_tokens: sum(self.output_tokens, other.output_tokens),
            cost_nanos: sum(self.cost_nanos, other.cost_nanos),
        }
    }
}

/// One message handled by one agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// Its id.
    pub id: RunId,
    /// The agent.
    pub agent: AgentId,
    /// The session.
    pub session: SessionId,
    /// The caller's id of the user.
    pub user_id: Option<String>,
    /// Where it is.
    pub status: RunStatus,
    /// The message that the input became in the session; none while it waits.
    pub message: Option<MessageId>,
    /// What was asked.
    pub request: RunRequest,
    /// A JSON object of the client's.
    pub metadata: String,
    /// What of the request had no effect.
    pub warnings: Vec<Warning>,
    /// The reply's text, once there is one.
    pub reply: Option<String>,
    /// Why it did not succeed.
    pub error: Option<RunError>,
    /// What it cost.
    pub usage: Usage,
    /// The tools of the client that the model called last, which the client has to
    /// answer for the conversation to go on.
    pub calls: Vec<ToolCall>,
    /// The message that the reply became in the session, or would have become: the
    /// calls follow it, in order.
    pub reply_message: Option<MessageId>,
    /// Why the model's last reply ended, in OpenAI's word.
    pub finish_reason: Option<String>,
    /// The tools that it called here, in the order in which they were begun.
    pub tools: Vec<RunCall>,
    /// `provider/model` of who answered, which may be one of the agent's fallbacks.
    pub answered_by: Option<String>,
    /// How many further requests joined their input to it while it waited.
    pub merged: i64,
    /// Why it is to end early, once somebody asked for it.
    pub stop: Option<Stop>,
    /// The run whose reply it repeats.
    pub cached_from: Option<RunId>,
    /// How often it was begun.
    pub attempt: i64,
    /// When it was accepted.
    pub created_at: Timestamp,
    /// When it was first begun.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
}

impl Run {
    /// Moves on along the life cycle; an error is a bug of ours.
    pub fn become_status(&mut self, next: RunStatus) -> Result<()> {
        if !self.status.may_become(next) {
            let (id, from, to) = (self.id, self.status.as_str(), next.as_str());
            return Err(Error::internal(format!("run {id} is {from} and cannot become {to}")));
        }
        self.status = next;
        Ok(())
    }

    /// Whether nothing that was said in it is kept once it was answered.
    pub fn is_unstored(&self) -> bool {
        self.request.response.is_some_and(|asked| asked.unstored)
    }

    /// The ids of the messages that its turn becomes, when it has been begun: the first
    /// one's, and those that follow it.
    pub fn turn_messages(&self) -> Vec<MessageId> {
        let n = self.request.turn.len().max(1);
        self.message.map_or_else(Vec::new, |first| (0..n).map(|at| first.following(at)).collect())
    }

    /// The ids of the messages that its calls become, when it has ended.
    pub fn call_messages(&self) -> Vec<MessageId> {
        let n = self.calls.len();
        let reply = self.reply_message;
        reply.map_or_else(Vec::new, |reply| (1..=n).map(|at| reply.following(at)).collect())
    }

    /// Whether what it was asked for is the same in all but the input and the
    /// client's own metadata, so that one answer can serve both.
    pub fn serves(&self, request: &RunRequest) -> bool {
        let asked = RunRequest {
            input: self.request.input.clone(),
            user: self.request.user.clone(),
            handling: Handling { rights: request.handling.rights, ..self.request.handling },
            ..request.clone()
        };
        self.request.turn.is_empty() && asked == self.request
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_final_status_stays() {
        for from in RunStatus::ALL {
            assert_eq!(RunStatus::parse(from.as_str()), Some(*from));
            for to in RunStatus::ALL {
                if from.is_final() {
                    assert!(!from.may_become(*to), "{from:?} to {to:?}");
                }
            }
        }
        assert!(RunStatus::Queued.may_become(RunStatus::Running));
        assert!(!RunStatus::Queued.may_become(RunStatus::Succeeded));
        assert!(!RunStatus::Running.may_become(RunStatus::Queued));
    }

    #[test]
    fn a_reason_to_stop_is_kept_and_leads_to_an_end() {
        for stop in [Stop::Disconnect, Stop::Cancel, Stop::Interrupt, Stop::Rollback] {
            assert_eq!(Stop::of_number(Stop::number(Some(stop))), Some(stop));
            assert!(RunStatus::Running.may_become(stop.status()));
            assert!(stop.status().is_final());
        }
        assert_eq!(Stop::of_number(Stop::number(None)), None);
    }
}
