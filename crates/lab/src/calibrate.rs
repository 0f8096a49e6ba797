//! `lab calibrate`: what the lab itself adds on this machine, measured against
//! a mock in the same process that knows its delays exactly.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::command::{interrupted_by_signal, print, run_name};
use crate::drive;
use crate::http1::{Answer, Keep};
use crate::mock::{self, Delay, Mock};
use crate::scenario::{Arrivals, Plan, Profile, Until};
use crate::sketch::Sketch;
use crate::summary::Summary;
use crate::target::Target;
use crate::units::{show_rate, show_seconds, show_share};
use crate::verdict::{Exit, judge};

/// The rate of the open parts, per second.
const RATE: f64 = 1000.0;
const USERS: u32 = 500;
/// The quantiles that are compared, and what the mock's record calls them.
const QUANTILES: [(&str, f64, &str); 3] =
    [("p50", 0.5, "p50_us"), ("p99", 0.99, "p99_us"), ("p99.9", 0.999, "p99_9_us")];
/// A delay in which mock and client sleep, and have to be woken.
const PATH_DELAY: Duration = Duration::from_millis(2);
/// How long a plain client is held against the mock at most.
const PLAIN_LASTS: Duration = Duration::from_secs(2);

/// # Errors
/// When the mock cannot be started or asked.
pub(crate) fn calibrate(duration: Duration) -> Result<Exit, String> {
    let interrupt = interrupted_by_signal()?;
    let ms = Duration::from_millis;
    let mut exit = Exit::Pass;
    let path = path(duration.min(PLAIN_LASTS))?;
    for (name, delay) in [
        ("no delay", Delay::Constant(Duration::ZERO)),
        ("short", Delay::Constant(ms(2))),
        ("constant", Delay::Constant(ms(5))),
        ("bimodal", Delay::Bimodal { fast: ms(2), slow: ms(50), share: 0.1 }),
        ("lognormal", Delay::Lognormal { median: ms(5), sigma: 0.8 }),
    ] {
        let mock = start(delay)?;
        let profile = Profile::open(RATE, Arrivals::Constant, USERS, duration);
        let summary = run(&mock, profile, &interrupt)?;
        if *interrupt.borrow() {
            return Ok(Exit::Pass);
        }
        let truth = truth(&mock)?;
        compare(name, delay, &summary, &truth, &path);
        let verdict = judge(&summary, &[]);
        for reason in &verdict.invalid {
            print(&format!("  not valid: {reason}\n"));
            exit = Exit::Invalid;
        }
    }
    let mock = start(Delay::Constant(Duration::ZERO))?;
    let summary = run(&mock, Profile::closed(16, Until::Elapsed(duration)), &interrupt)?;
    let per_request = summary.generator.cpu_seconds / summary.all.count().max(1) as f64;
    print(&format!(
        "16 users without pauses: {}, {} of the generator's CPU a request\n",
        show_rate(summary.rate()),
        show_seconds(per_request)
    ));
    Ok(exit)
}

fn start(delay: Delay) -> Result<Mock, String> {
    Mock::start(mock::Options { delay, ..mock::Options::default() })
        .map_err(|error| format!("the mock cannot listen: {error}"))
}

fn run(
    mock: &Mock,
    profile: Profile,
    interrupt: &tokio::sync::watch::Receiver<bool>,
) -> Result<Summary, String> {
    let target = Target::parse(&mock.url())?;
    let request = format!("GET / HTTP/1.1\r\nhost: {}\r\n\r\n", target.authority());
    let mut plan = Plan::single(target, request.into(), false, profile);
    plan.watch = crate::scenario::Watch::Nothing;
    let options = drive::Options {
        scenario: "calibrate".to_owned(),
        scenario_text: String::new(),
        run: run_name(),
        command: "agentry lab calibrate".to_owned(),
        threads: 1,
        out: None,
    };
    let finished = drive::drive(plan, &options, interrupt, &mut |_, _| ());
    Ok(finished.map_err(|error| error.to_string())?.summary)
}

/// By quantile, in seconds, what the kernel takes to wake the mock and a client
/// that does nothing but send, wait and read.
struct Path {
    added: [f64; 3],
}

impl Path {
    fn at(&self, number: usize) -> f64 {
        self.added[number]
    }
}

fn path(lasts: Duration) -> Result<Path, String> {
    let delay = Delay::Constant(PATH_DELAY);
    let mock = start(delay)?;
    let plain = plain_client(&mock, lasts)?;
    let truth = truth(&mock)?;
    let real = |field: &str| truth[field].as_f64().unwrap_or_default() / 1e6;
    let added = QUANTILES.map(|(_, q, field)| plain.quantile(q) - real(field));
    print(&format!(
        "path: a client that does nothing but send, wait and read ({delay}) reads {} more at p50, {} \
         at p99: what the kernel takes to wake mock and client, which is in every figure below\n",
        show_seconds(added[0]),
        show_seconds(added[1])
    ));
    Ok(Path { added })
}

/// One request after the other on a blocking socket: the shortest way there and
/// back that a client can take without burning a CPU.
fn plain_client(mock: &Mock, lasts: Duration) -> Result<Sketch, String> {
    let failed = |error: std::io::Error| format!("the mock cannot be asked: {error}");
    let mut stream = TcpStream::connect(mock.address()).map_err(failed)?;
    stream.set_nodelay(true).map_err(failed)?;
    let mut times = Sketch::default();
    let (begun, mut bytes) = (Instant::now(), [0; 4096]);
    while begun.elapsed() < lasts {
        let mut answer = Answer::new(Keep { headers: false, body_bytes: 0 }, false);
        let sent = Instant::now();
        stream.write_all(b"GET / HTTP/1.1\r\nhost: mock\r\n\r\n").map_err(failed)?;
        loop {
            let read = stream.read(&mut bytes).map_err(failed)?;
            let fed = answer.feed(&bytes[..read], |_, _| ());
            if read == 0 || fed.map_err(|error| error.to_string())? {
                break;
            }
        }
        times.record(sent.elapsed());
    }
    Ok(times)
}

/// The mock's own record.
fn truth(mock: &Mock) -> Result<Value, String> {
    let ask = || -> std::io::Result<Vec<u8>> {
        let mut stream = TcpStream::connect(mock.address())?;
        stream.write_all(b"GET /lab/record HTTP/1.1\r\nhost: mock\r\nconnection: close\r\n\r\n")?;
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = ask().map_err(|error| format!("the mock's record: {error}"))?;
    let mut answer = Answer::new(Keep { headers: false, body_bytes: usize::MAX }, false);
    answer.feed(&bytes, |_, _| ()).map_err(|error| format!("the mock's record: {error}"))?;
    let record: Value = serde_json::from_slice(&answer.body)
        .map_err(|error| format!("the mock's record: {error}"))?;
    Ok(record["names"]["/"].clone())
}

fn compare(name: &str, delay: Delay, summary: &Summary, truth: &Value, path: &Path) {
    let response = &summary.all.ok.response;
    print(&format!("{name} ({delay}), {} requests\n", response.count()));
    for (number, (label, q, field)) in QUANTILES.into_iter().enumerate() {
        let measured = response.quantile(q);
        let real = truth[field].as_f64().unwrap_or_default() / 1e6;
        let error = measured - real;
        print(&format!(
            "  {label:>5}: measured {:>8}, true {:>8}, {:>8} more ({}), {:>8} beyond the path\n",
            show_seconds(measured),
            show_seconds(real),
            show_seconds(error),
            show_share((error / real).abs()),
            show_seconds(error - path.at(number))
        ));
    }
    let lag = &summary.generator.dispatch_lag;
    let achieved = summary.generator.offered as f64 / summary.seconds().max(1e-9);
    print(&format!(
        "  rate {} of {} wanted; dispatch lag p50 {}, p99 {}\n",
        show_rate(achieved),
        show_rate(RATE),
        show_seconds(lag.quantile(0.5)),
        show_seconds(lag.quantile(0.99))
    ));
}
