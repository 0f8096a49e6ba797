//! Runs: accepting them, and carrying them out.
//!
//! A run is a job in its session's lane. When the session is idle and this process
//! has a place, the write that accepts the run also claims the job, so that a run is
//! two commits: accepted, finished. Otherwise it waits, and the write that ends
//! the run before it promotes it; what else may become of it in a busy session is in
//! [`busy`]. The user's message enters the session when the run begins, which is
//! before the model is called.

mod attendance;
mod busy;
mod carry_out;
mod follow;
mod forget;
mod left_behind;
mod recorder;
mod reuse;
mod steps;
mod stop;
mod transcript;

use std::time::Duration;

use agentry_domain::agents::{Agent, FIRST_AGENT_NAME};
use agentry_domain::chat::ChatMessage;
use agentry_domain::jobs::JobKind;
use agentry_domain::log::{EntityKind, LogEntry};
use agentry_domain::runs::{
    OnDisconnect, RUN_TIMEOUT_DEFAULT, RUN_TIMEOUT_MAX, Run, RunRequest, RunStatus, Usage,
};
use agentry_domain::sessions::{Message, MessageRole, Session, SessionBody};
use agentry_domain::tools::ToolRights;
use agentry_domain::users::User;
use agentry_domain::{
    AgentId, Caller, Code, Done, Error, Fault, JobId, MessageId, Once, Page, PageRequest, Result,
    RunId, SessionId, Timestamp,
};
use agentry_store::sessions::session_missing;
use agentry_store::{ClaimedJob, Flow, NewJob, RunFilter, Write};
use tokio::sync::oneshot;

pub use self::attendance::Attendance;
pub use self::forget::Forgetting;
pub(crate) use self::reuse::Answers;
use crate::held::Held;
use crate::places::Place as Seat;
use crate::run_events::{RunEvents, RunHandle};
use crate::sessions::{scope, store_message};
use crate::users::{UserNamed, user_ensure};
use crate::{Engine, entry, version_data};

/// How often a run is offered to a lane that turns from idle to busy and back
/// while it is offered.
const LANE_TRIES_MAX: u32 = 16;
/// What is remembered as a run's answer: the run itself is, under its id.
const RUN_ANSWER: &str = "";
/// How long a caller waits before trying again when this process is full.
const RETRY_FULL: Duration = Duration::from_secs(1);

/// Which agent carries a run out.
#[derive(Clone, Debug)]
pub enum AgentRef {
    /// This one.
    Id(AgentId),
    /// The one with this name or id.
    Name(String),
    /// The one with this name. When there is none and this is `provider/model`,
    /// the first agent with this model in place of its own.
    Model(String),
}

/// In which session a run takes place.
#[derive(Clone, Debug)]
pub enum SessionRef {
    /// A new one of its own.
    None,
    /// This one, which must exist.
    Id(SessionId),
    /// The user's session of this name, made when it is missing.
    Name(String),
}

/// A run that a client asks for.
#[derive(Clone, Debug)]
pub struct RunNew {
    /// Who carries it out.
    pub agent: AgentRef,
    /// Where.
    pub session: SessionRef,
    /// The label of a session that is made for it.
    pub origin: Option<String>,
    /// The caller's id of the user.
    pub user_id: Option<String>,
    /// What is asked.
    pub request: RunRequest,
    /// A JSON object.
    pub metadata: String,
}

/// A session for a run: there already, or to be made with it.
struct Place {
    session: Session,
    is_new: bool,
}

/// A run that this process has begun, and all it takes to go on.
struct Beginning {
    run: Run,
    agent: Agent,
    job: ClaimedJob,
    held: Held,
    seat: Seat,
}

/// A run that is on disk.
enum Stored {
    /// This process has begun it.
    Begun(Box<Beginning>),
    /// It waits.
    Queued { run: Box<Run>, events: Box<RunEvents> },
    /// Its input joined this run's.
    Joined(RunId),
    /// The same request was accepted before, as this run.
    Before(RunId),
}

/// What every write that accepts a run needs to know.
struct Asked<'a> {
    caller: &'a Caller,
    once: Option<&'a Once>,
    user: Option<&'a User>,
    place: &'a Place,
    job: NewJob,
}

impl Asked<'_> {
    /// A write that makes the user and the session, if they are new.
    fn write(&self) -> Result<Write> {
        let Self { caller, user, place, job, .. } = self;
        let mut write = Write::new(caller.org);
        user_ensure(&mut write, caller, *user)?;
        if place.is_new {
            write.session_insert(&place.session.body, &place.session.document()?);
            let (id, data) = (job.lane, version_data(place.session.version));
            let kind = EntityKind::Session;
            write.log(entry(caller, job.at, kind.created(), kind, id, data));
        } else {
            write.session_exists(place.session.id);
        }
        Ok(write)
    }
}

impl Engine {
    /// Accepts a run. When this returns, the run is on disk and will be carried
    /// out, whatever happens to this process or to whoever asked.
    ///
    /// A request that was accepted before with the same key is the same run: its
    /// handle hears of that run's end.
    pub async fn run_start(
        &self,
        caller: &Caller,
        once: Option<Once>,
        new: RunNew,
    ) -> Result<Done<RunHandle>> {
        if let Some(before) = self.remembered(caller, once.as_ref()).await? {
            return self.run_attach(caller, RunId::from_bytes(before.id)).await;
        }
        self.limit_user(caller, new.user_id.as_deref())?;
        let (accepted, acceptance) = oneshot::channel();
        let (engine, caller) = (self.clone(), *caller);
        // A task of its own: a client that goes away while the run is being
        // stored must not leave a run that is stored and not carried out.
        self.0.tasks.spawn(async move {
            engine.accept(caller, once, new, accepted).await;
        });
        acceptance.await.unwrap_or_else(|_| Err(Error::internal("accepting a run panicked")))
    }

    /// Listens to a run that was accepted before.
    async fn run_attach(&self, caller: &Caller, id: RunId) -> Result<Done<RunHandle>> {
        let run = self.run_get(caller, id).await?;
        let events = self.run_listen(caller, id, None);
        if run.status.is_final() {
            self.0.live.ended(&run);
        }
        Ok(Done { value: RunHandle { run, events, attendance: None }, replayed: true })
    }

    async fn accept(
        &self,
        caller: Caller,
        once: Option<Once>,
        new: RunNew,
        accepted: oneshot::Sender<Result<Done<RunHandle>>>,
    ) {
        // Whoever is gone by now drops the handle, and with it the attendance.
        let handle = |run: Run, events| {
            let attended = run.request.handling.on_disconnect == OnDisconnect::Cancel;
            let attendance = attended.then(|| Attendance::new(self.clone(), caller, run.id));
            Ok(Done::now(RunHandle { run, events, attendance }))
        };
        match self.store_run(&caller, once.as_ref(), new).await {
            Err(error) => {
                let _ = accepted.send(Err(error));
            }
            Ok(Stored::Before(id)) => {
                let _ = accepted.send(self.run_attach(&caller, id).await);
            }
            Ok(Stored::Joined(id)) => {
                let joined = self.run_attach(&caller, id).await;
                let _ = accepted.send(joined.map(|done| Done { replayed: false, ..done }));
            }
            Ok(Stored::Queued { run, events }) => {
                let _ = accepted.send(handle(*run, *events));
            }
            Ok(Stored::Begun(begun)) => {
                let Beginning { run, agent, job, held, mut seat } = *begun;
                seat.begin();
                let speaker = self.0.live.speaker(caller.org, run.id);
                speaker.begin(&run);
                let events = self.run_listen(&caller, run.id, None);
                let _ = accepted.send(handle(run.clone(), events));
                self.carry_out(caller, job, run, Some(agent), speaker, held).await;
                drop(seat);
            }
        }
    }

    async fn store_run(&self, caller: &Caller, once: Option<&Once>, new: RunNew) -> Result<Stored> {
        let mut request = new.request.clone();
        request.handling.rights = ToolRights::of(caller);
        let agent = self.run_agent(caller, &new.agent, &mut request).await?;
        let mut newest = None;
        for _ in 0..LANE_TRIES_MAX {
            let (place, user) = self.run_place_and_user(caller, &new).await?;
            let user_id = user_of(&place.session, user.user_id.as_deref())?;
            let now = self.now();
            let run = Run {
                id: RunId::from_uuid(self.uuid(now)),
                agent: agent.id,
                session: place.session.id,
                user_id,
                status: RunStatus::Queued,
                message: None,
                request: request.clone(),
                metadata: new.metadata.clone(),
                warnings: user.warnings.clone(),
                reply: None,
                error: None,
                usage: Usage::default(),
                calls: Vec::new(),
                reply_message: None,
                tools: Vec::new(),
                finish_reason: None,
                answered_by: None,
                merged: 0,
                stop: None,
                cached_from: None,
                attempt: 0,
                created_at: now,
                started_at: None,
                finished_at: None,
            };
            let job = NewJob {
                id: JobId::from_bytes(run.id.to_bytes()),
                lane: run.session.to_bytes(),
                kind: JobKind::Run,
                flow: flow_of(caller, run.user_id.as_deref()),
                at: now,
            };
            let user = user.unknown.as_ref();
            let asked = Asked { caller, once, user, place: &place, job };
            let stored = match self.0.places.take(caller.org, job.flow) {
                Some(seat) => self.begin_now(&asked, &agent, &run, newest, seat).await,
                None => self.wait_for_place(&asked, &run).await,
            };
            let stored = match stored {
                // The session has work.
                Err(error) if error.code == Code::Conflict => self.store_busy(&asked, &run).await,
                stored => stored,
            };
            match stored {
                // The run before it stored its reply after this one's id was made.
                Err(error) if error.code == Code::PreconditionFailed => {
                    newest = self.0.store.message_newest(caller.org, run.session).await?;
                }
                // Another one made the session of this name, or the user, first; or
                // the session has changed since it was looked at.
                Err(error) if [Code::AlreadyExists, Code::Conflict].contains(&error.code) => {}
                stored => return stored,
            }
        }
        Err(Error::new(Code::Overloaded, "the session changes too fast to add a run to it")
            .retry_after(RETRY_FULL))
    }

    /// A fresh id that sorts after the session's newest message, also when the
    /// process that wrote that has a clock ahead of ours. Ids of one process grow
    /// by themselves.
    pub(crate) fn message_id(&self, now: Timestamp, newest: Option<MessageId>) -> MessageId {
        let id = MessageId::from_uuid(self.uuid(now));
        match newest {
            Some(newest) if id <= newest => MessageId::from_uuid(self.uuid(after(newest))),
            _ => id,
        }
    }

    /// The run with this id.
    pub async fn run_get(&self, caller: &Caller, id: RunId) -> Result<Run> {
        let found = self.0.store.run_get(caller.org, id).await?;
        let mut run = found.ok_or_else(|| Error::not_found("run", id))?;
        if run.status == RunStatus::Running {
            run.tools = self.0.store.run_tools(caller.org, id, run.attempt).await?;
        }
        Ok(run)
    }

    /// A page of runs.
    pub async fn run_list(
        &self,
        caller: &Caller,
        filter: RunFilter,
        page: PageRequest,
    ) -> Result<Page<Run>> {
        Ok(self.0.store.run_list(caller.org, &filter, &page).await?)
    }

    async fn run_agent(
        &self,
        caller: &Caller,
        agent: &AgentRef,
        request: &mut RunRequest,
    ) -> Result<Agent> {
        let name = match agent {
            AgentRef::Id(id) => return self.agent_get(caller, *id).await,
            AgentRef::Name(name) | AgentRef::Model(name) => name,
        };
        // An agent's name may hold a slash too, so that what looks like
        // `provider/model` is first sought among the agents.
        match self.agent_find(caller, name).await {
            Err(error)
                if error.code == Code::NotFound
                    && name.contains('/')
                    && matches!(agent, AgentRef::Model(_)) =>
            {
                self.0.models.resolve(name)?;
                request.model = Some(name.clone());
                self.agent_find(caller, FIRST_AGENT_NAME).await
            }
            found => found,
        }
    }

    /// Where a run takes place and for whom; who that is comes first only when
    /// the request does not say what the user is called.
    async fn run_place_and_user(
        &self,
        caller: &Caller,
        new: &RunNew,
    ) -> Result<(Place, UserNamed)> {
        let (user_id, given) = (new.user_id.as_deref(), new.request.user.as_ref());
        if user_id.is_none() && given.is_some() {
            let user = self.user_named(caller, None, given).await?;
            let place = self.run_place(caller, new, user.user_id.as_deref()).await?;
            return Ok((place, user));
        }
        let place = self.run_place(caller, new, user_id);
        tokio::try_join!(place, self.user_named(caller, user_id, given))
    }

    async fn run_place(
        &self,
        caller: &Caller,
        new: &RunNew,
        user_id: Option<&str>,
    ) -> Result<Place> {
        let found = match &new.session {
            SessionRef::None => None,
            SessionRef::Id(id) => {
                let found = self.0.store.resource_get(caller.org, *id).await?;
                Some(found.ok_or_else(|| session_missing(*id))?)
            }
            SessionRef::Name(name) => {
                self.0.store.session_of_user(caller.org, user_id, name).await?
            }
        };
        if let Some(session) = found {
            return Ok(Place { session: session.entity()?, is_new: false });
        }
        let name = match &new.session {
            SessionRef::Name(name) => Some(name.clone()),
            SessionRef::None | SessionRef::Id(_) => None,
        };
        let now = self.now();
        let session = SessionBody {
            name,
            user_id: user_id.map(str::to_owned),
            origin: new.origin.clone(),
            ..SessionBody::default()
        };
        let id = SessionId::from_uuid(self.uuid(now));
        Ok(Place { session: Session::new(id, session, now), is_new: true })
    }

    /// Stores a run in an idle session as begun by this process.
    async fn begin_now(
        &self,
        asked: &Asked<'_>,
        agent: &Agent,
        run: &Run,
        newest: Option<MessageId>,
        seat: Seat,
    ) -> Result<Stored> {
        let Asked { caller, once, place, job, .. } = asked;
        let mut run = run.clone();
        run.become_status(RunStatus::Running)?;
        run.message = Some(self.message_id(job.at, newest));
        run.attempt = 1;
        run.started_at = Some(job.at);
        // Before the write, so that whoever asks it to stop finds it.
        let held = self.0.held.hold(job.id);
        let mut write = asked.write()?;
        write.job_begin(job, self.0.worker);
        if let (Some(message), false) = (run.message, place.is_new) {
            // Behind the lane, so that it sees what the run before this one wrote.
            write.message_is_newest(run.session, message);
        }
        write.run_insert(&run);
        write.log(run_entry(caller, job.at, "run.created", &run));
        store_input(&mut write, caller, &run, agent.memory.remember, job.at);
        let noted = (run.id.to_bytes(), RUN_ANSWER);
        if let Some(before) = self.write_once(caller, *once, write, noted, job.at).await? {
            return Ok(Stored::Before(RunId::from_bytes(before.id)));
        }
        let job = ClaimedJob {
            org: caller.org,
            id: job.id,
            lane: job.lane,
            kind: JobKind::Run,
            worker: self.0.worker,
            fence: 1,
            attempts: 1,
            flow: job.flow,
        };
        Ok(Stored::Begun(Box::new(Beginning { run, agent: agent.clone(), job, held, seat })))
    }

    /// Stores a run in an idle session, for whichever process has a place for it.
    async fn wait_for_place(&self, asked: &Asked<'_>, run: &Run) -> Result<Stored> {
        let join = |write: &mut Write| {
            write.job_add(&asked.job);
            Ok(())
        };
        let stored = self.store_waiting(asked, run, join).await?;
        self.0.claimable.notify_one();
        Ok(stored)
    }

    /// Stores a run that waits; `join` puts its job into the lane.
    async fn store_waiting(
        &self,
        asked: &Asked<'_>,
        run: &Run,
        join: impl FnOnce(&mut Write) -> Result<()>,
    ) -> Result<Stored> {
        let Asked { caller, once, job, .. } = asked;
        let mut write = asked.write()?;
        join(&mut write)?;
        let options = &self.0.options;
        write.run_queue_room(options.org_queue_runs_max, options.queue_runs_max);
        write.run_waiting_count(1);
        write.run_insert(run);
        write.log(run_entry(caller, job.at, "run.created", run));
        // Listens before the write, so that no end can come in between.
        let events = self.run_listen(caller, run.id, None);
        let noted = (run.id.to_bytes(), RUN_ANSWER);
        match self.write_once(caller, *once, write, noted, job.at).await? {
            None => Ok(Stored::Queued { run: Box::new(run.clone()), events: Box::new(events) }),
            Some(before) => Ok(Stored::Before(RunId::from_bytes(before.id))),
        }
    }
}

/// Whose turn a run takes: its user's or, of nobody's runs, the caller's.
fn flow_of(caller: &Caller, user_id: Option<&str>) -> Flow {
    match (user_id, caller.key) {
        (Some(user_id), _) => Flow::of_user(user_id),
        (None, Some(key)) => Flow::of_key(key),
        (None, None) => Flow::of_user(""),
    }
}

/// Whose run it is: the session's user, who must not be another one.
fn user_of(session: &Session, given: Option<&str>) -> Result<Option<String>> {
    match (session.user_id.as_deref(), given) {
        (Some(owner), Some(given)) if owner != given => Err(Error::invalid(vec![Fault::new(
            "/user_id",
            "not_the_sessions_user",
            "the session belongs to another user",
        )])),
        (owner, given) => Ok(owner.or(given).map(str::to_owned)),
    }
}

/// Adds a run's input to its session: one message, or those of its turn.
fn store_input(write: &mut Write, caller: &Caller, run: &Run, remember: bool, at: Timestamp) {
    let turn = match run.request.turn.as_slice() {
        [] => vec![ChatMessage::said(MessageRole::User, run.request.input.clone())],
        turn => turn.to_vec(),
    };
    for (id, said) in run.turn_messages().into_iter().zip(turn) {
        let message = message_of(run, id, said, at);
        // Instructions and what tools answered are no memory of what somebody said.
        let is_said = matches!(message.role, MessageRole::User | MessageRole::Assistant)
            && !message.content.is_empty();
        let scope = scope(caller, run.user_id.as_deref(), run.session);
        store_message(write, caller, &message, (remember && is_said).then_some(scope));
    }
}

/// A message of a run, as its session keeps it.
fn message_of(run: &Run, id: MessageId, said: ChatMessage, at: Timestamp) -> Message {
    Message {
        id,
        session: run.session,
        run: Some(run.id),
        role: said.role(),
        content: said.text().into_owned(),
        chat: (!said.is_plain()).then_some(said),
        metadata: "{}".to_owned(),
        created_at: at,
    }
}

/// The first time all of whose ids are greater than this one. A UUIDv7 begins with its
/// 48 bits of milliseconds (RFC 9562, section 5.7).
fn after(id: MessageId) -> Timestamp {
    let mut millis = [0; 8];
    millis[2..].copy_from_slice(&id.to_bytes()[..6]);
    Timestamp::from_micros((i64::from_be_bytes(millis) + 1) * 1_000)
}

/// How long a run may take.
fn timeout(request: &RunRequest) -> Duration {
    request.timeout.unwrap_or(RUN_TIMEOUT_DEFAULT).min(RUN_TIMEOUT_MAX)
}

/// An entry of the log about a run: how it stands, and where it belongs.
/// What of a run is told beside how it stands is in the kind of the entry:
/// `run.created`, `.merged`, `.started`, `.stopping` and `.finished`.
fn run_entry(caller: &Caller, at: Timestamp, kind: &'static str, run: &Run) -> LogEntry {
    let data = format!(
        r#"{{"status":"{}","session_id":"{}","agent_id":"{}","attempt":{}}}"#,
        run.status.as_str(),
        run.session,
        run.agent,
        run.attempt,
    );
    entry(caller, at, kind, EntityKind::Run, run.id.to_bytes(), data)
}
