//! What the gateway costs, in processor time: the whole of it over a bare route, and
//! each part beside its limit. `cargo xtask bench-gateway` runs it; final figures
//! come from a release build.
//!
//! It calls the application as a connection would, without a socket, on one thread,
//! and reads that thread's processor clock. Each figure is the median of rounds in
//! which all cases take turns, so that what disturbs the machine disturbs each.
//!
//! Then it tries whether a wrong credential can be told from another by the time that it
//! takes: one whose shown prefix is nobody's, and one whose prefix is a key's.
#![expect(clippy::unwrap_used, reason = "a bench that cannot go on ends")]
#![expect(clippy::print_stdout, reason = "what it measures is its result")]

#[path = "gateway/separation.rs"]
mod separation;

use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use agentry_domain::background::Tasks;
use agentry_domain::keys::{SECRET_PREFIX, SHOWN_PREFIX_CHARS};
use agentry_domain::limits::{Limits, Rate, TierLimits, Work};
use agentry_domain::orgs::INSTALLATION_ORG;
use agentry_domain::ports::{Authenticate, Limit, SystemClock, SystemEntropy};
use agentry_domain::{Caller, KeyId, Permission, Role, Tier};
use agentry_engine::{Engine, Parts};
use agentry_gateway::address::Peer;
use agentry_gateway::{
    AccessMode, App, Edge, EdgeOptions, KeySource, Metrics, Operations, TokenOptions, Tokens, op,
};
use agentry_llm::Models;
use agentry_store::Store;
use agentry_testkit::TempDir;
use agentry_testkit::identity_provider::{Alg, SigningKey};
use axum::Router;
use axum::body::Body;
use axum::routing::get;
use http::Request;
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tower::Service as _;
use utoipa::openapi::OpenApi;

use separation::Separation;

// As the server has it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const ROUNDS: usize = 21;
const CALLS: usize = 2_000;
/// Wrong credentials of each kind.
const TRIES: usize = 10_000;
const ISSUER: &str = "https://id.example";
const AUDIENCE: &str = "agentry";

#[utoipa::path(get, path = "/bare", responses((status = 200)))]
async fn bare() -> &'static str {
    "ok"
}

/// Processor time of this thread, in nanoseconds.
fn processor() -> i64 {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    now.tv_sec * 1_000_000_000 + now.tv_nsec
}

fn request(credential: &str) -> Request<Body> {
    let mut request = anonymous(credential);
    request.extensions_mut().insert(Peer(SocketAddr::from((Ipv4Addr::LOCALHOST, 1))));
    request
}

/// From no address, whose failures nobody counts.
fn anonymous(credential: &str) -> Request<Body> {
    let request = Request::get("/bare").header("host", "localhost");
    let request = request.header("user-agent", "bench").header("accept", "*/*");
    request.header("authorization", format!("Bearer {credential}")).body(Body::empty()).unwrap()
}

/// Nanoseconds of processor time for each of so many calls, the making of the
/// requests apart.
async fn calls(app: &App, credential: &str) -> f64 {
    let requests: Vec<_> = (0..CALLS).map(|_| request(credential)).collect();
    let mut app = app.clone();
    let begun = processor();
    for request in requests {
        let answer = app.call(request).await.unwrap();
        assert!(answer.status().is_success());
    }
    (processor() - begun) as f64 / CALLS as f64
}

async fn each<T>(items: &[T], mut one: impl AsyncFnMut(&T)) -> f64 {
    let begun = processor();
    for item in items {
        one(item).await;
    }
    (processor() - begun) as f64 / items.len() as f64
}

fn limited() -> Limits {
    let most = NonZeroU32::MAX;
    let rate = Some(Rate { per_minute: most, burst: most });
    let standard = TierLimits {
        key: rate,
        user: rate,
        org: rate,
        reads: rate,
        memory_creation: rate,
        runs: rate,
        daily_requests: Some(u64::MAX),
    };
    Limits { standard, ..Limits::default() }
}

struct Bench {
    engine: Engine,
    _directory: TempDir,
    owner: String,
    app: App,
    bare: App,
    tokens: Tokens,
    key: SigningKey,
    tasks: Tasks,
}

async fn bench() -> Bench {
    let directory = TempDir::new();
    let options = agentry_store::Options::sqlite(directory.path());
    let store = Arc::new(Store::open(&options).await.unwrap());
    let outbound = agentry_outbound::Client::new(&agentry_outbound::Options::default()).unwrap();
    let tasks = Tasks::default();
    let entropy = Arc::new(SystemEntropy::default());
    let engine = Engine::new(Parts {
        store,
        models: Models::new(&agentry_llm::Options::default()).unwrap(),
        graph_models: Models::new(&agentry_llm::Options::default()).unwrap(),
        webhook_client: outbound.clone(),
        mcp: agentry_mcp::Connector::new(
            outbound.clone(),
            agentry_mcp::Options::default(),
            tasks.clone(),
        ),
        fetch_client: outbound.clone(),
        clock: Arc::new(SystemClock),
        entropy: entropy.clone(),
        tasks: tasks.clone(),
        closing: CancellationToken::new(),
        options: agentry_engine::Options {
            limits: limited(),
            ..agentry_engine::Options::default()
        },
    });
    let owner = engine.secret();
    assert!(engine.install(&owner).await.unwrap());
    let key = SigningKey::new("one", Alg::Rs256);
    let file = directory.path().join("jwks.json");
    std::fs::write(&file, json!({"keys": [key.jwk()]}).to_string()).unwrap();
    let tokens = Tokens::new(
        TokenOptions {
            keys: KeySource::File(file),
            issuer: ISSUER.to_owned(),
            audiences: vec![AUDIENCE.to_owned()],
            org_claim: String::new(),
            user_claim: "sub".to_owned(),
            role_claim: "role".to_owned(),
            role_default: None,
            may_administer: false,
            refresh: Duration::from_secs(3_600),
        },
        outbound,
    );
    let metrics = Metrics::new();
    let (router, _, table) = Operations::new(OpenApi::default())
        .with(op!(AgentsRead, Request, bare))
        .finish((), &metrics);
    let edge = Edge {
        options: EdgeOptions::default(),
        mode: AccessMode::Keys,
        authenticate: Arc::new(engine.clone()),
        tokens: Some(tokens.clone()),
        limit: Arc::new(engine.clone()),
        audit: Arc::new(engine.clone()),
        metrics,
        render: agentry_api::render,
        tasks: tasks.clone(),
    };
    let app = edge.around(router, table, &[], entropy.as_ref());
    let bare = App::new(Router::new().route("/bare", get(bare)), &[]);
    Bench { engine, _directory: directory, owner, app, bare, tokens, key, tasks }
}

fn token(key: &SigningKey, subject: &str) -> String {
    // Far enough away that it does not end meanwhile.
    let exp = 4_000_000_000_u64;
    key.token(
        &json!({"iss": ISSUER, "aud": AUDIENCE, "sub": subject, "exp": exp, "role": "member"}),
    )
}

/// A row of the table: what, its figure, its limit, what row 4 of the requirements
/// had for it; all in microseconds.
struct Row {
    name: &'static str,
    limit_us: f64,
    baseline_us: Option<f64>,
    rounds: Vec<f64>,
}

impl Row {
    fn new(name: &'static str, limit_us: f64, baseline_us: Option<f64>) -> Self {
        Self { name, limit_us, baseline_us, rounds: Vec::new() }
    }

    fn median_us(&self) -> f64 {
        let mut rounds = self.rounds.clone();
        rounds.sort_by(f64::total_cmp);
        rounds[rounds.len() / 2] / 1_000.0
    }
}

/// Wrong secrets behind the prefix of a key, wrong ones behind that of none, and what is
/// not even of their form: that is refused before anything is looked up, so that it must
/// be found out.
async fn separations(bench: &Bench) -> [Separation; 2] {
    let of = |prefix: &str| -> Vec<String> {
        let rest = bench.owner.len() - prefix.len();
        let random = || bench.engine.secret()[bench.owner.len() - rest..].to_owned();
        (0..TRIES).map(|_| format!("{prefix}{}", random())).collect()
    };
    let known = of(&bench.owner[..SHOWN_PREFIX_CHARS]);
    let unknown = of(SECRET_PREFIX);
    let formless = of("xx_");
    let (app, of) = (&bench.app, anonymous);
    // Once, so that nothing is done for the first time.
    Separation::of("", app, of, [&known[..TRIES / 10], &unknown[..TRIES / 10]]).await;
    [
        Separation::of(WRONG_SECRETS, app, of, [&known, &unknown]).await,
        Separation::of(CONTROL, app, of, [&unknown, &formless]).await,
    ]
}

const WRONG_SECRETS: &str = "a key's prefix and nobody's";
const CONTROL: &str = "a prefix and none (must be separable)";

async fn measured(bench: &Bench) -> Vec<Row> {
    let (engine, tokens) = (&bench.engine, &bench.tokens);
    let caller = Caller {
        tier: Some(Tier::Standard),
        ..Caller::of(INSTALLATION_ORG, Some(KeyId::from_bytes([7; 16])), Role::Member)
    };
    let mut whole = Row::new("the whole gateway over the bare route", 15.0, None);
    let mut limited = Row::new("the same with limits and a remembered token", 15.0, None);
    let mut key = Row::new("key check", 1.0, None);
    let mut unknown = Row::new("a key that is none", f64::INFINITY, None);
    let mut uncached = Row::new("token, RS256", 25.0, Some(500.0));
    let mut cached = Row::new("token, remembered", 1.0, Some(500.0));
    let mut role = Row::new("role check", 0.1, Some(50.0));
    let mut limit = Row::new("limit check", 0.5, Some(100.0));
    let remembered = token(&bench.key, "remembered");
    tokens.authenticate(&remembered, engine).await.unwrap();
    let permissions: Vec<Permission> =
        Permission::ALL.iter().copied().cycle().take(CALLS * 10).collect();
    for round in 0..ROUNDS {
        let bare = calls(&bench.bare, &bench.owner).await;
        whole.rounds.push(calls(&bench.app, &bench.owner).await - bare);
        tokens.authenticate(&remembered, engine).await.unwrap();
        limited.rounds.push(calls(&bench.app, &remembered).await - bare);
        let same = vec![bench.owner.as_str(); CALLS];
        key.rounds.push(
            each(&same, async |secret| {
                std::hint::black_box(engine.authenticate(secret).await.unwrap());
            })
            .await,
        );
        let strangers: Vec<String> = (0..200).map(|n| format!("{}{n:03}", bench.owner)).collect();
        unknown.rounds.push(
            each(&strangers, async |secret| {
                assert!(engine.authenticate(secret).await.is_err());
            })
            .await,
        );
        let fresh: Vec<String> =
            (0..100).map(|n| token(&bench.key, &format!("{round}-{n}"))).collect();
        uncached.rounds.push(
            each(&fresh, async |token| {
                std::hint::black_box(tokens.authenticate(token, engine).await.unwrap());
            })
            .await,
        );
        tokens.authenticate(&remembered, engine).await.unwrap();
        let same = vec![remembered.as_str(); CALLS];
        cached.rounds.push(
            each(&same, async |token| {
                std::hint::black_box(tokens.authenticate(token, engine).await.unwrap());
            })
            .await,
        );
        role.rounds.push(
            each(&permissions, async |permission| {
                std::hint::black_box(std::hint::black_box(&caller).allows(*permission));
            })
            .await,
        );
        let works = vec![Work::Read; CALLS];
        limit.rounds.push(
            each(&works, async |work| {
                assert!(engine.check(&caller, *work).await.refused.is_none());
            })
            .await,
        );
    }
    vec![whole, limited, key, unknown, uncached, cached, role, limit]
}

fn main() {
    // Under `cargo test --benches` it is only to be there.
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    rustls::crypto::aws_lc_rs::default_provider().install_default().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (rows, separations) = runtime.block_on(async {
        let bench = bench().await;
        let measured = (measured(&bench).await, separations(&bench).await);
        bench.tasks.stop(Duration::from_secs(10)).await;
        measured
    });
    let mut broken = 0;
    println!("{:<46}{:>10}{:>10}{:>12}", "processor time, us", "median", "limit", "baseline");
    for row in &rows {
        let (median, limit) = (row.median_us(), row.limit_us);
        let baseline = row.baseline_us.map_or("-".to_owned(), |us| format!("{us:.0}"));
        let shown = if limit.is_finite() { format!("{limit:.1}") } else { "-".to_owned() };
        let verdict = if median <= limit { "ok" } else { "OVER" };
        broken += u32::from(median > limit);
        println!("{:<46}{median:>10.3}{shown:>10}{baseline:>12}  {verdict}", row.name);
    }
    let figures: Vec<Value> = rows
        .iter()
        .map(|row| {
            json!({"name": row.name, "median_us": row.median_us(), "rounds_ns": row.rounds,
                "limit_us": row.limit_us.is_finite().then_some(row.limit_us),
                "baseline_us": row.baseline_us})
        })
        .collect();
    println!("{:<46}{:>10}{:>10}{:>12}", "time of wrong credentials", "AUC", "z", "tries");
    for of in &separations {
        let is_wanted = of.is_separable() == (of.name == CONTROL);
        broken += u32::from(!is_wanted);
        let verdict = match (of.is_separable(), is_wanted) {
            (false, true) => "not separable",
            (true, true) => "separable, as it must be",
            (true, false) => "SEPARABLE",
            (false, false) => "NOT FOUND OUT: this machine is too busy to say anything",
        };
        let Separation { name, auc, z, tries, .. } = of;
        println!("{name:<46}{auc:>10.4}{z:>10.1}{tries:>12}  {verdict}");
    }
    let separations: Vec<Value> = separations
        .iter()
        .map(|of| {
            json!({"name": of.name, "tries": of.tries, "auc": of.auc, "z": of.z,
                "separable": of.is_separable()})
        })
        .collect();
    if let Some(path) = std::env::var_os("AGENTRY_BENCH_OUT") {
        let figures = json!({"bench": "gateway", "figures": figures, "separations": separations});
        std::fs::write(path, figures.to_string()).unwrap();
    }
    if broken > 0 && std::env::args().any(|argument| argument == "--gate") {
        std::process::exit(1);
    }
}
