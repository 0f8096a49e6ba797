//! What the graph's memory does, as metrics, and how much waits for it, in `/ready` too.

use std::fmt;
use std::time::Duration;

use agentry_domain::ports::{Clock as _, SystemClock};
use agentry_engine::Engine;
use agentry_gateway::{Metrics, Readiness};

use crate::figures::{self, Figures};

fn write(engine: &Engine, to: &mut Figures<'_>) -> fmt::Result {
    let activity = engine.graph_activity();
    let counters = [
        ("graph_episodes_drawn", "Episodes that this process drew from", activity.drawn),
        ("graph_episodes_dead", "Episodes that this process put aside", activity.failed),
        ("graph_facts_stored", "Facts that this process stored", activity.facts),
        ("graph_extraction_calls", "Calls of the extraction model", activity.calls),
        ("graph_extraction_repairs", "Calls that asked it to answer again", activity.repairs),
        (
            "graph_extraction_episodes",
            "Episodes that the extraction model answered about",
            activity.extracted,
        ),
        ("graph_extraction_refusals", "Parts of its answers that were refused", activity.refused),
        (
            "graph_extraction_answers_lost",
            "Its answers that could not be stored",
            activity.answers_given_up,
        ),
        (
            "graph_extraction_breaker_opened",
            "How often it was left alone",
            activity.extraction_breaker_opened,
        ),
        ("graph_model_failures", "Calls of the graph's models that failed", activity.ask_failures),
        (
            "graph_model_episodes_left",
            "Episodes that models were asked about in vain",
            activity.left_to_rules,
        ),
        (
            "graph_embedding_calls",
            "Calls of the embedding model about episodes",
            activity.embedding_calls,
        ),
        ("graph_embedding_episodes", "Episodes that were turned into vectors", activity.embedded),
        (
            "graph_embedding_breaker_opened",
            "How often the embedding model was left alone",
            activity.embedding_breaker_opened,
        ),
        (
            "graph_searches_without_vector",
            "Searches that went on without a vector of what was asked",
            activity.questions_without,
        ),
    ];
    for (name, help, value) in counters {
        to.counter(name, help, value)?;
    }
    let standing = engine.graph_standing();
    let backlog = standing.backlog;
    let waited = backlog.since.map(|since| SystemClock.now().since(since)).unwrap_or_default();
    let paused = u64::from(standing.pause.models) + u64::from(standing.pause.drawing);
    let gauges = [
        ("graph_episodes_pending", "Episodes that wait to be drawn from", backlog.pending),
        ("graph_groups_pending", "Groups that have some", backlog.groups),
        (
            "graph_extraction_pending",
            "Episodes that wait for the extraction model",
            standing.extraction_pending,
        ),
        (
            "graph_embedding_pending",
            "Episodes that wait to be turned into vectors",
            standing.embedding_pending,
        ),
        (
            "graph_paused",
            "What pauses because of the backlog: 0 nothing, 1 models, 2 reading too",
            paused,
        ),
        ("graph_vectors_bytes", "Bytes of vectors in memory", activity.vectors_bytes),
    ];
    for (name, help, value) in gauges {
        to.gauge(name, help, value)?;
    }
    let lag = Duration::from_micros(activity.lag_micros);
    to.seconds("graph_lag_seconds", "How long the newest batch had waited", lag)?;
    to.seconds("graph_oldest_seconds", "How long some wait at most", waited)
}

/// Adds what the graph does to the metrics, and notes to `/ready` about its backlog and
/// about what pauses.
pub(crate) fn register(metrics: &Metrics, readiness: &Readiness, engine: &Engine, noted: u64) {
    let asked = engine.clone();
    figures::register(metrics, move |to| write(&asked, to));
    let engine = engine.clone();
    readiness.note("graph", move || {
        let standing = engine.graph_standing();
        let pending = standing.backlog.pending;
        let mut notes = Vec::new();
        if pending >= noted || standing.pause.models {
            notes.push(format!("{pending} episodes wait to be drawn from"));
        }
        if standing.pause.drawing {
            notes.push("drawing and models are paused until clients send less".to_owned());
        } else if standing.pause.models {
            notes.push("models are paused until fewer wait".to_owned());
        }
        for (is_open, model) in
            [(standing.extraction_open, "extraction"), (standing.embedding_open, "embedding")]
        {
            if is_open {
                notes.push(format!("the {model} model fails, and is left alone for a while"));
            }
        }
        (!notes.is_empty()).then(|| notes.join("; ").into())
    });
}
