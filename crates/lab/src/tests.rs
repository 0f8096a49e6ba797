//! Whole runs against the mock: what is recorded is what happened.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::sync::watch;

use crate::drive::{self, Finished, Options, RUN_FILE};
use crate::mock::{Delay, Mock, Tokens};
use crate::pacing::Schedule;
use crate::recorder::{Outcome, Recorder, Times};
use crate::run_file;
use crate::scenario::{Arrivals, Overrides, Plan, Profile, Stage, Surroundings};
use crate::summary::{EndpointSummary, Summary};
use crate::target::Target;
use crate::verdict::{Exit, judge};

pub(crate) fn mock(change: impl FnOnce(&mut crate::mock::Options)) -> Mock {
    let mut options = crate::mock::Options {
        listen: "127.0.0.1:0".parse().unwrap(),
        delay: Delay::Constant(Duration::ZERO),
        errors: 0.0,
        stall: None,
        lose: 0.0,
        tokens: Tokens { count: 20, per_event: 3, gap: Duration::from_millis(1), torn: true },
        seed: 1,
    };
    change(&mut options);
    Mock::start(options).unwrap()
}

fn plan(url: &str, scenario: &str) -> Plan {
    let target = Overrides { target: Some(url.to_owned()), ..Overrides::default() };
    Plan::read(scenario, &target, &Surroundings { env: &|_| None, run: "r" }).unwrap()
}

fn options(out: Option<&Path>) -> Options {
    Options {
        scenario: "test".to_owned(),
        scenario_text: String::new(),
        run: "r".to_owned(),
        command: String::new(),
        threads: 2,
        out: out.map(Path::to_owned),
    }
}

fn run(plan: Plan, out: Option<&Path>) -> Finished {
    let (_keep, interrupt) = watch::channel(false);
    drive::drive(plan, &options(out), &interrupt, &mut |_, _| ()).unwrap()
}

/// Two endpoints, one of which fails sometimes, and writes that are read back.
const MIXED: &str = r#"
seed: 3
mix:
  read: {weight: 3, steps: [{get: "/x?errors=30%", expect: {json: {$.ok: true}}}]}
  write: {weight: 1, steps: [{post: /items, expect: {status: 201}, save: {id: $.id}, acknowledged: "/items/${id}"}]}
  chat: {weight: 1, steps: [{sse: /v1/chat/completions, json: {stream: true}, tokens: openai}]}
profiles: {normal: {closed: {users: 6}, iterations: 400}}
slo: [read.errors < 90%, write.errors < 1%]
"#;

#[cfg(feature = "terminal")]
/// A run in which one endpoint fails sometimes.
pub(crate) fn mixed_run(mock: &Mock) -> Summary {
    run(plan(&mock.url(), MIXED), None).summary
}

#[test]
fn a_run_file_holds_the_run_and_keeps_to_its_schema() {
    let (mock, dir) = (mock(|_| ()), tempfile::tempdir().unwrap());
    let plan = plan(&mock.url(), MIXED);
    let slos = plan.slos.clone();
    let finished = run(plan, Some(dir.path()));
    assert_eq!(finished.not_written, None);
    let live = finished.summary;
    assert_eq!((live.all.count(), live.generator.offered), (400, 400));

    let path = dir.path().join(RUN_FILE);
    let read = Summary::of(run_file::read(&path).unwrap());
    for (ours, theirs) in live.endpoints.iter().zip(&read.endpoints) {
        assert_eq!((ours.ok.count, ours.failed.count), (theirs.ok.count, theirs.failed.count));
        assert_eq!(ours.ok.response, theirs.ok.response);
    }
    assert_eq!(live.errors, read.errors);
    assert_eq!(judge(&live, &slos).exit(), judge(&read, &slos).exit());

    let schema: Value = serde_json::from_str(include_str!("../schema/run.schema.json")).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    let mut kinds = std::collections::BTreeSet::new();
    for line in text.lines() {
        let mut line: Value = serde_json::from_str(line).unwrap();
        let faults: Vec<String> = validator.iter_errors(&line).map(|e| e.to_string()).collect();
        assert!(faults.is_empty(), "{faults:?} in {line}");
        kinds.insert(line["type"].as_str().unwrap().to_owned());
        // The schema knows every field.
        line["stranger"] = 1.into();
        assert!(!validator.is_valid(&line));
    }
    assert_eq!(kinds.into_iter().collect::<Vec<_>>(), ["end", "header", "interval", "sample"]);
}

#[test]
fn a_run_that_was_killed_is_read_up_to_its_last_whole_line() {
    let (mock, dir) = (mock(|_| ()), tempfile::tempdir().unwrap());
    run(plan(&mock.url(), MIXED), Some(dir.path()));
    let bytes = std::fs::read(dir.path().join(RUN_FILE)).unwrap();
    let end = bytes[..bytes.len() - 1].iter().rposition(|byte| *byte == b'\n').unwrap();
    let cut = dir.path().join("cut.jsonl");
    for length in [end, end + 1, end + 2, bytes.len() - 2] {
        std::fs::write(&cut, &bytes[..length]).unwrap();
        let read = run_file::read(&cut).unwrap();
        assert!(read.end.is_none(), "{length}");
        assert_eq!(read.torn, length > end + 1, "{length}");
        let verdict = judge(&Summary::of(read), &[]);
        assert!(verdict.notes[0].contains("killed"), "{:?}", verdict.notes);
    }
    // Anywhere else a broken line is a fault.
    let mut broken = bytes.clone();
    broken[end - 1] = b'!';
    std::fs::write(&cut, &broken).unwrap();
    assert!(run_file::read(&cut).unwrap_err().contains("cut.jsonl:"));
}

#[test]
fn outcomes_are_counted_apart_and_repeatably() {
    let count = || {
        let mock = mock(|_| ());
        let summary = run(plan(&mock.url(), MIXED), None).summary;
        let rows: Vec<u64> = summary.endpoints.iter().map(EndpointSummary::count).collect();
        (rows, summary)
    };
    let (rows, summary) = count();
    assert_eq!(rows, count().0, "the mix follows from the seed");
    let read = &summary.endpoints[0];
    let failed = read.failed.count;
    assert!(failed > 30 && read.ok.count > failed, "{failed} of {}", read.count());
    assert_eq!(summary.errors, [((0, "http_500".to_owned()), failed)].into());
    assert_eq!(read.ok.response.count(), read.ok.count);
    assert_eq!(read.failed.response.count(), failed);
    let sample = &summary.samples[0];
    assert_eq!((sample.status, sample.class.as_str()), (Some(500), "http_500"));
    assert!(sample.body.contains("as asked"), "{}", sample.body);
    assert!(summary.samples.len() <= 6, "three for each class and thread");
}

#[test]
fn tokens_are_exact_though_events_share_and_tear_them() {
    let mock = mock(|_| ());
    let summary = run(plan(&mock.url(), MIXED), None).summary;
    let chat = &summary.endpoints[2].ok;
    let stream = chat.stream.as_ref().unwrap();
    assert!(chat.count > 20);
    // 20 tokens, 3 in an event: 7 events, 6 gaps.
    assert_eq!((stream.tokens, stream.chunks), (20 * chat.count, 7 * chat.count));
    assert_eq!((stream.gap.count(), stream.first_token.count()), (6 * chat.count, chat.count));
    assert_eq!((stream.time_per_token.count(), stream.without_usage), (chat.count, 0));
}

#[test]
fn acknowledged_writes_that_are_lost_are_counted() {
    let audit = |lose: f64| {
        let mock = mock(|options| options.lose = lose);
        let summary = run(plan(&mock.url(), MIXED), None).summary;
        let audit = summary.acknowledged().unwrap().clone();
        assert_eq!(audit.acknowledged, summary.endpoints[1].ok.count);
        (audit, judge(&summary, &[]))
    };
    let (kept, verdict) = audit(0.0);
    assert_eq!((kept.found, kept.lost, kept.unknown), (kept.acknowledged, 0, 0));
    assert!(verdict.broken.is_empty());
    let (lost, verdict) = audit(0.4);
    assert!(lost.lost > 5 && lost.found > 5, "{lost:?}");
    assert_eq!(lost.found + lost.lost, lost.acknowledged);
    assert!(verdict.broken[0].contains("could not be read back"));
}

/// Users of two kinds, of which one works only on what it made itself.
const OWN: &str = r#"
mix:
  look: {steps: [{get: /x}]}
  make:
    steps:
      - post: /items
        json: {name: "${words(2)}", size: "${random(1, 9)}", tags: [a, "${uid}"]}
        expect: {status: 201}
        save: {item: $.id}
        keep: {items: $.id}
        acknowledged: {get: "/items/${item}", fields: sent}
  change:
    steps:
      - with: {item: "${pick(items)}"}
        patch: /items/${item}
        json: {size: "${random(10, 99)}"}
        acknowledged: {get: "/items/${item}", fields: [size]}
  remove:
    steps:
      - with: {item: "${take(items)}"}
        delete: /items/${item}
        acknowledged: {gone: "/items/${item}"}
kinds:
  makers: {weight: 3, mix: {make: 5, change: 3, remove: 2}}
  lookers: {weight: 1, mix: {look: 1}}
profiles: {normal: {closed: {users: 8}, iterations: 1200}}
"#;

#[test]
fn users_keep_to_their_kind_and_work_on_what_they_made() {
    let mock = mock(|_| ());
    let summary = run(plan(&mock.url(), OWN), None).summary;
    assert_eq!(summary.errors, [].into(), "{:?}", summary.samples);
    let count = |name: &str| {
        let row = summary.endpoints.iter().find(|row| row.name == name);
        row.unwrap().count() as f64
    };
    let (made, changed, removed) = (count("make"), count("change"), count("remove"));
    let makers = made + changed + removed;
    // Shares of the kind, a little off where a user had nothing to work on.
    for (part, share) in [(made, 0.5), (changed, 0.3), (removed, 0.2)] {
        assert!((part / makers - share).abs() < 0.06, "{made} {changed} {removed}");
    }
    let audit = summary.acknowledged().unwrap();
    assert_eq!((audit.acknowledged, audit.gone), (made as u64, removed as u64), "{audit:?}");
    assert_eq!(audit.found, audit.acknowledged - audit.gone, "{audit:?}");
    assert_eq!((audit.lost, audit.changed, audit.undone, audit.unknown), (0, 0, 0, 0), "{audit:?}");
}

#[test]
fn writes_that_were_acknowledged_and_not_carried_out_are_told_apart() {
    let mock = mock(|options| options.lose = 0.3);
    let plan = plan(&mock.url(), OWN);
    let summary = run(plan, None).summary;
    let audit = summary.acknowledged().unwrap();
    assert!(audit.lost > 0 && audit.changed > 0 && audit.undone > 0, "{audit:?}");
    assert_eq!(
        audit.acknowledged,
        audit.found + audit.lost + audit.gone + audit.undone,
        "{audit:?}"
    );
    let verdict = judge(&summary, &[]);
    assert_eq!(verdict.broken.len(), 3, "{verdict:?}");
    assert!(audit.lost_paths.iter().any(|path| path.ends_with("(size not as it was sent)")));
}

#[test]
fn an_open_load_makes_every_arrival_and_counts_the_warm_up_apart() {
    let mock = mock(|_| ());
    let target = Target::parse(&mock.url()).unwrap();
    let lasts = Duration::from_millis(500);
    let mut profile = Profile::open(1000.0, Arrivals::Constant, 50, lasts);
    profile.warmup = Duration::from_millis(200);
    let request = format!("GET / HTTP/1.1\r\nhost: {}\r\n\r\n", target.authority());
    let plan = Plan::single(target, request.into(), false, profile);
    let summary = run(plan, None).summary;
    assert_eq!((summary.all.count(), summary.generator.offered), (300, 300));
    let with_warmup: u64 = summary.timeline.iter().map(|point| point.ok).sum();
    assert_eq!(with_warmup, 500);
    assert!(summary.timeline.iter().all(|point| point.p50 > 0.0), "{:?}", summary.timeline);
}

#[test]
fn a_generator_that_is_the_limit_makes_no_valid_run() {
    let mock = mock(|_| ());
    let target = Target::parse(&mock.url()).unwrap();
    let profile = Profile::open(20_000_000.0, Arrivals::Constant, 10, Duration::from_millis(300));
    let request = format!("GET / HTTP/1.1\r\nhost: {}\r\n\r\n", target.authority());
    let mut plan = Plan::single(target, request.into(), false, profile);
    plan.timeout = Duration::from_secs(1);
    let summary = run(plan, None).summary;
    let verdict = judge(&summary, &[]);
    assert_eq!((verdict.exit(), verdict.exit().code()), (Exit::Invalid, 4), "{verdict:?}");
    let missing = summary.generator.offered - summary.all.count();
    assert_eq!(summary.generator.shed, missing, "nothing is skipped silently");
}

#[test]
fn targets_that_break_are_told_by_their_class() {
    let mock = mock(|_| ());
    let class = |url: &str, path: &str| {
        // Only what never answers may take as long as it is given.
        let timeout = if path == "/hang" { "300ms" } else { "60s" };
        let scenario = format!(
            "timeout: {timeout}\nmix: {{a: {{steps: [{{get: {path}}}]}}}}\n\
             profiles: {{p: {{closed: {{users: 1}}, iterations: 2}}}}"
        );
        let summary = run(plan(url, &scenario), None).summary;
        assert_eq!((summary.all.ok.count, summary.all.failed.count), (0, 2), "{path}");
        let classes: Vec<String> = summary.errors.keys().map(|(_, class)| class.clone()).collect();
        classes.join(" ")
    };
    assert_eq!(class(&mock.url(), "/hang"), "timeout");
    assert_eq!(class(&mock.url(), "/reset"), "closed");
    assert_eq!(class(&mock.url(), "/endless"), "body_too_large");
    assert_eq!(class(&mock.url(), "/status/404"), "http_404");

    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // One to see whether it is there, two requests.
            for _ in 0..3 {
                let (mut stream, _) = listener.accept().unwrap();
                let read = stream.read(&mut [0; 1024]).unwrap();
                if read > 0 {
                    stream.write_all(b"SSH-2.0-OpenSSH_9.2\r\n").unwrap();
                }
            }
        });
        assert_eq!(class(&url, "/"), "garbage");
    });
}

#[test]
fn what_cannot_begin_says_why() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (_keep, interrupt) = watch::channel(false);
    let refused = drive::drive(
        plan(&format!("http://{free}"), MIXED),
        &options(None),
        &interrupt,
        &mut |_, _| (),
    );
    assert!(refused.unwrap_err().to_string().contains("cannot be reached"));

    let (mock, dir) = (mock(|_| ()), tempfile::tempdir().unwrap());
    std::os::unix::fs::symlink("/dev/full", dir.path().join(RUN_FILE)).unwrap();
    let full = drive::drive(
        plan(&mock.url(), MIXED),
        &options(Some(dir.path())),
        &interrupt,
        &mut |_, _| (),
    );
    assert!(full.unwrap_err().to_string().contains("cannot be written"));
}

/// The load of the figure in docs/lab.md, on a clock that is simulated: 1,000
/// requests a second for 10 s, a target that answers at once but for one second
/// in which it answers nobody. Whether users are many or few, the 100th largest
/// of 10,000 waits is 0.90 s.
#[test]
fn a_stall_of_a_second_is_in_the_waits_of_all_who_were_due_in_it() {
    let second = Duration::from_secs(1);
    let stages = [Stage { from: 1000.0, to: 1000.0, lasts: 10 * second }];
    for users in [1, 10, 2000] {
        let start = Instant::now();
        let stall = start + 5 * second..start + 6 * second;
        let mut recorder = Recorder::new(start, Duration::ZERO);
        let mut free = std::collections::BinaryHeap::new();
        free.extend((0..users).map(|_| std::cmp::Reverse(start)));
        for (_, offset) in Schedule::new(&stages, Arrivals::Constant, 1, "p") {
            let intended = start + offset;
            let std::cmp::Reverse(user) = free.pop().unwrap();
            let sent = intended.max(user);
            let done =
                if stall.contains(&sent) { stall.end } else { sent } + Duration::from_micros(100);
            free.push(std::cmp::Reverse(done));
            let times = Times { intended, eligible: sent, sent, first_byte: Some(done), done };
            let outcome = Outcome::Ok { body_bytes: 0, body: &[], streamed: None };
            recorder.request(0, &times, &outcome);
        }
        let (cells, _, generator) = recorder.take().measured.into_parts();
        let (response, service) = (&cells[0].response, &cells[0].service);
        assert_eq!(response.count(), 10_000);
        let p99 = response.quantile(0.99);
        // One user alone needs 0.11 s more to catch up.
        let allowed = if users == 1 { 0.90..1.01 } else { 0.89..0.91 };
        assert!(allowed.contains(&p99), "{users} users: {p99}");
        assert!(generator.dispatch_lag.quantile(1.0) < 0.001);
        if users == 1 {
            assert!(service.quantile(0.99) < 0.001, "what a closed loop would have said");
        }
    }
}

#[test]
fn the_audit_finds_a_placeholder_in_a_real_run_and_nothing_in_a_right_one() {
    let scenario = |read: &str| {
        format!(
            "mix:\n  a:\n    steps:\n      - {{post: /items, save: {{id: $.id}}}}\n      \
             - {{get: \"{read}\"}}\nprofiles: {{p: {{closed: {{users: 1}}, iterations: 120}}}}\n"
        )
    };
    let found = |read: &str| {
        let (mock, dir) = (mock(|_| ()), tempfile::tempdir().unwrap());
        let text = scenario(read);
        let (_keep, interrupt) = watch::channel(false);
        let options = Options { scenario_text: text.clone(), ..options(Some(dir.path())) };
        drive::drive(plan(&mock.url(), &text), &options, &interrupt, &mut |_, _| ()).unwrap();
        let evidence = crate::audit::read(&[dir.path().to_owned()]).unwrap();
        let findings = crate::audit::audit(&evidence);
        // A busy machine makes a run invalid, and says nothing about its answers.
        let names = findings.iter().map(|finding| finding.check);
        names.filter(|name| *name != "generator_bound").collect::<Vec<_>>()
    };
    assert_eq!(found("/items/${id}"), [""; 0]);
    // Answers `{"ok": true}` whatever is asked for.
    assert_eq!(found("/read?item=${id}"), ["constant_bodies"]);
}
