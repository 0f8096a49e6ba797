//! What a client asked for and what it was told. Each thing is changed by one
//! client at a time, which waits for each answer, so its states follow each
//! other in a line: the acknowledged ones, then at most one that the client
//! asked for and never heard of, which may have come about or not.

use serde_json::Value;

use crate::world::World;

/// What kind of thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Agent,
    Session,
    Message,
    Run,
}

impl Kind {
    /// What an answer about such a thing must hold, at least.
    fn fields(self) -> &'static [&'static str] {
        match self {
            Kind::Agent => &[
                "id",
                "name",
                "description",
                "agent_type",
                "status",
                "model",
                "instructions",
                "tools",
                "memory",
                "configuration",
                "metadata",
                "resource_limits",
                "did",
                "version",
                "created_at",
                "updated_at",
            ],
            Kind::Session => &[
                "id",
                "session_name",
                "user_id",
                "session_origin",
                "status",
                "metadata",
                "version",
                "created_at",
                "updated_at",
            ],
            Kind::Message => {
                &["id", "session_id", "run_id", "role", "content", "metadata", "created_at"]
            }
            Kind::Run => &[
                "id",
                "agent_id",
                "session_id",
                "user_id",
                "input",
                "message",
                "status",
                "metadata",
                "attempt",
                "created_at",
                "started_at",
                "finished_at",
            ],
        }
    }
}

/// What a request does to its thing.
#[derive(Clone, Debug)]
pub(crate) enum Effect {
    /// The thing is exactly this, as an answer said.
    Is(Value),
    /// The thing has these fields; the answer with the others never came.
    Has(Value),
    /// The thing is gone.
    Gone,
}

/// One request about a thing.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    /// Its `x-request-id`.
    pub(crate) request: String,
    pub(crate) effect: Effect,
    /// Path and body of a POST, which may be sent again with the same key.
    pub(crate) again: Option<(String, Value)>,
}

/// One thing that a client made, or tried to.
#[derive(Clone, Debug)]
pub(crate) struct Thing {
    pub(crate) kind: Kind,
    /// A text that no other thing has: its name, its content or its input.
    pub(crate) mark: String,
    /// The session that it goes away with: a place in the client's things.
    pub(crate) session: Option<usize>,
    /// What was acknowledged, in order.
    pub(crate) steps: Vec<Step>,
    /// What was asked for and never answered.
    pub(crate) pending: Option<Step>,
}

impl Thing {
    pub(crate) fn new(kind: Kind, mark: String, session: Option<usize>) -> Self {
        Self { kind, mark, session, steps: Vec::new(), pending: None }
    }

    /// The last state that was acknowledged; none when there is none or it is gone.
    pub(crate) fn state(&self) -> Option<&Value> {
        match self.steps.last().map(|step| &step.effect) {
            Some(Effect::Is(state)) => Some(state),
            _ => None,
        }
    }

    /// Whether it is there for sure and nothing is open.
    pub(crate) fn is_usable(&self) -> bool {
        self.state().is_some() && self.pending.is_none()
    }

    pub(crate) fn id(&self) -> Option<&str> {
        self.state().and_then(|state| state["id"].as_str())
    }

    /// The states that it may be in when `acknowledged` says which requests
    /// were answered. None is absence.
    fn allowed(&self, acknowledged: &dyn Fn(&str) -> bool) -> Vec<Option<Effect>> {
        let all: Vec<&Step> = self.steps.iter().chain(&self.pending).collect();
        let answered = self.steps.iter().take_while(|step| acknowledged(&step.request)).count();
        let before = answered.checked_sub(1).map(|last| all[last].effect.clone());
        let next = all.get(answered).map(|step| match &step.effect {
            // A run that is not answered yet may be anywhere on its way.
            Effect::Is(run) if self.kind == Kind::Run => {
                let known = ["id", "session_id", "input", "metadata"].map(|f| (f, run[f].clone()));
                Effect::Has(known.into_iter().map(|(f, value)| (f.to_owned(), value)).collect())
            }
            effect => effect.clone(),
        });
        [before].into_iter().chain(next.map(Some)).collect()
    }
}

/// Compares what clients were told with what is there: a sentence for each
/// fault. Each client has its own list of things.
pub(crate) fn faults(
    clients: &[Vec<Thing>],
    world: &World,
    acknowledged: &dyn Fn(&str) -> bool,
) -> Vec<String> {
    let mut faults = Vec::new();
    for things in clients {
        for thing in things {
            if let Some(fault) = fault(thing, things, world, acknowledged) {
                faults.push(fault);
            }
        }
    }
    faults
}

fn fault(
    thing: &Thing,
    things: &[Thing],
    world: &World,
    acknowledged: &dyn Fn(&str) -> bool,
) -> Option<String> {
    let called = format!("{:?} {:?}", thing.kind, thing.mark);
    let found = world.find(thing.kind, &thing.mark);
    let [found] = match found.len() {
        0 => [None],
        1 => [Some(found[0])],
        many => return Some(format!("{called} is there {many} times: {found:?}")),
    };
    let mut allowed = thing.allowed(acknowledged);
    if let Some(session) = thing.session {
        // What is in a session goes with it.
        let session = things[session].allowed(acknowledged);
        if session.iter().any(|state| matches!(state, Some(Effect::Gone))) {
            allowed.push(None);
        }
    }
    if allowed.iter().any(|allowed| is_as(thing.kind, allowed.as_ref(), found)) {
        return None;
    }
    Some(format!("{called} should be {allowed:?} and is {found:?}"))
}

fn is_as(kind: Kind, allowed: Option<&Effect>, found: Option<&Value>) -> bool {
    match (allowed, found) {
        (None | Some(Effect::Gone), found) => found.is_none(),
        (Some(_), None) => false,
        (Some(Effect::Is(promised)), Some(found)) => is_same(kind, promised, found),
        (Some(Effect::Has(promised)), Some(found)) => is_within(promised, found),
    }
}

fn is_same(kind: Kind, promised: &Value, found: &Value) -> bool {
    let promised_all = kind.fields().iter().all(|field| promised.get(field).is_some());
    assert!(promised_all, "an answer about a {kind:?} lacks fields: {promised}");
    kind.fields().iter().all(|field| found.get(field) == promised.get(field))
        && promised.as_object().unwrap().iter().all(|(field, value)| {
            // A world that was read from the store has less around it.
            found.get(field).is_none_or(|found| found == value)
        })
}

/// Whether every field that was promised is there, at any depth.
fn is_within(promised: &Value, found: &Value) -> bool {
    match (promised, found) {
        (Value::Object(promised), Value::Object(found)) => promised
            .iter()
            .all(|(field, value)| found.get(field).is_some_and(|found| is_within(value, found))),
        (promised, found) => promised == found,
    }
}

/// Takes what is there for known, once it was compared: a request that was
/// never answered has come about or will never do so. How many there were, and
/// how many of them had come about.
pub(crate) fn settle(things: &mut [Thing], world: &World) -> (usize, usize) {
    let (mut open, mut came_about) = (0, 0);
    for thing in things {
        let found = world.find(thing.kind, &thing.mark).first().map(|found| (*found).clone());
        let request = thing.pending.take().map(|step| step.request);
        open += usize::from(request.is_some());
        let effect = match (found, thing.state()) {
            (Some(found), Some(known)) if found == *known => continue,
            (Some(found), _) => Effect::Is(found),
            (None, Some(_)) => Effect::Gone,
            (None, None) => continue,
        };
        // Without a request of its own it went away with its session.
        came_about += usize::from(request.is_some());
        thing.steps.push(Step { request: request.unwrap_or_default(), effect, again: None });
    }
    (open, came_about)
}
