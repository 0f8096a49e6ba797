//! Measures durable creates and point reads of one store under concurrent
//! tasks: `throughput DATABASE_URL | DIRECTORY [SECONDS [TASKS]]`. With a URL the
//! store is PostgreSQL there (an empty database), otherwise SQLite in the
//! directory. Prints one line per kind of work: how many a second, the median
//! and the 99th percentile in milliseconds.

use std::sync::Arc;
use std::time::{Duration, Instant};

use agentry_domain::agents::{self, Agent, AgentBody};
use agentry_domain::background::Tasks;
use agentry_domain::log::{EntityKind, LogEntry};
use agentry_domain::ports::{Clock as _, Entropy as _, SystemClock, SystemEntropy};
use agentry_domain::{AgentId, JsonText, OrgId};
use agentry_store::{Options, Store, Write};
use parking_lot::Mutex;

struct Bench {
    store: Store,
    org: OrgId,
    entropy: SystemEntropy,
    made: Mutex<Vec<AgentId>>,
}

impl Bench {
    fn agent(&self) -> Agent {
        let now = SystemClock.now();
        let id = AgentId::from_uuid(self.entropy.uuid(now));
        let body = AgentBody {
            name: "bench".to_owned(),
            description: "one of many".to_owned(),
            instructions: "Answer in one sentence.".to_owned(),
            metadata: JsonText::known(r#"{"team":"bench"}"#.to_owned()),
            did: agents::did("bench", id),
            ..AgentBody::default()
        };
        Agent::new(id, body, now)
    }

    async fn create(&self) {
        let agent = self.agent();
        let mut write = Write::new(self.org);
        write.resource_insert(&agent.body, &agent.document().expect("an agent is JSON"));
        write.log(LogEntry {
            at: agent.created_at,
            kind: "agent.created",
            entity: EntityKind::Agent,
            id: agent.id.to_bytes(),
            actor: None,
            address: None,
            data: "{}".to_owned(),
        });
        self.store.write(write).await.expect("a create is stored");
        self.made.lock().push(agent.id);
    }

    async fn read(&self, nth: usize) {
        let id = {
            let made = self.made.lock();
            made[nth.wrapping_mul(2_654_435_761) % made.len()]
        };
        let found =
            self.store.resource_get::<AgentBody>(self.org, id).await.expect("a read is answered");
        assert!(found.is_some(), "an acknowledged agent is there");
    }
}

#[derive(Clone, Copy)]
enum Work {
    Create,
    Read,
}

async fn measure(bench: &Arc<Bench>, work: Work, count: usize, within: Duration) -> String {
    let tasks = Tasks::default();
    let begun = Instant::now();
    let running: Vec<_> = (0..count)
        .map(|task| {
            let bench = Arc::clone(bench);
            tasks.spawn(async move {
                let mut times = Vec::new();
                while begun.elapsed() < within {
                    let sent = Instant::now();
                    match work {
                        Work::Create => bench.create().await,
                        Work::Read => bench.read(times.len() * count + task).await,
                    }
                    times.push(sent.elapsed());
                }
                times
            })
        })
        .collect();
    let mut times = Vec::new();
    for task in running {
        times.extend(task.await.expect("a task ends"));
    }
    let rate = times.len() as u128 * 1_000 / begun.elapsed().as_millis().max(1);
    times.sort_unstable();
    let at = |share: usize| times[(times.len() - 1) * share / 100].as_micros() as f64 / 1_000.0;
    format!("{rate}/s p50 {:.2} ms p99 {:.2} ms", at(50), at(99))
}

#[tokio::main]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let place = arguments.next().expect("throughput DATABASE_URL | DIRECTORY [SECONDS [TASKS]]");
    let mut number = |default| arguments.next().map_or(default, |n| n.parse().expect("a number"));
    let within = Duration::from_secs(number(5));
    let count = usize::try_from(number(50)).expect("a few tasks");
    let mut options =
        if place.contains("://") { Options::postgres(place) } else { Options::sqlite(place) };
    options.postgres_writers_max = usize::try_from(number(4)).expect("a few writers");
    let entropy = SystemEntropy::default();
    let org = OrgId::from_uuid(entropy.uuid(SystemClock.now()));
    let store = Store::open(&options).await.expect("the store opens");
    let bench = Arc::new(Bench { store, org, entropy, made: Mutex::default() });
    let creates = measure(&bench, Work::Create, count, within).await;
    let activity = bench.store.activity();
    let group = activity.writes as f64 / activity.commits.max(1) as f64;
    eprintln!("creates {creates}, {group:.1} writes a commit");
    eprintln!("reads   {}", measure(&bench, Work::Read, count, within).await);
    bench.store.close().await;
}
