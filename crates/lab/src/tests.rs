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
        tokens: Tokens { count: 20, per_event: 3, gap: Duration::from_millis(1), torn: true },
        ..crate::mock::Options::default()
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
    let (plain, secure) = (mock(|_| ()), mock(|options| options.tls = true));
    let class_over = |url: &str, path: &str, protocol: &str| {
        // Only what never answers may take as long as it is given.
        let timeout = if path == "/hang" { "300ms" } else { "60s" };
        let scenario = format!(
            "timeout: {timeout}\nprotocol: {protocol}\ntls: {{insecure: true}}\n\
             mix: {{a: {{steps: [{{get: {path}}}]}}}}\n\
             profiles: {{p: {{closed: {{users: 1}}, iterations: 2}}}}"
        );
        let summary = run(plan(url, &scenario), None).summary;
        assert_eq!((summary.all.ok.count, summary.all.failed.count), (0, 2), "{path}");
        let classes: Vec<String> = summary.errors.keys().map(|(_, class)| class.clone()).collect();
        classes.join(" ")
    };
    let class = |url: &str, path: &str| class_over(url, path, "http1");
    for (mock, protocol) in
        [(&plain, "http1"), (&plain, "http2"), (&secure, "http1"), (&secure, "http2")]
    {
        assert_eq!(class_over(&mock.url(), "/hang", protocol), "timeout");
        // HTTP/2 breaks the stream and keeps the connection.
        let broken = if protocol == "http1" { "closed" } else { "reset" };
        assert_eq!(class_over(&mock.url(), "/reset", protocol), broken, "{protocol}");
        assert_eq!(class_over(&mock.url(), "/status/404", protocol), "http_404");
    }
    assert_eq!(class(&plain.url(), "/endless"), "body_too_large");
    assert_eq!(class_over(&plain.url(), "/endless", "http2"), "body_too_large");

    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // For each run one to see whether it is there, and two requests.
            for _ in 0..6 {
                let (mut stream, _) = listener.accept().unwrap();
                let read = stream.read(&mut [0; 1024]).unwrap();
                if read > 0 {
                    stream.write_all(b"SSH-2.0-OpenSSH_9.2\r\n").unwrap();
                }
            }
        });
        assert_eq!(class(&url, "/"), "garbage");
        assert_eq!(class_over(&url, "/", "http2"), "garbage");
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

/// The mock over TLS, and a file that makes its certificate trusted.
fn secure_mock(dir: &Path, change: impl FnOnce(&mut crate::mock::Options)) -> (Mock, String) {
    let mock = mock(|options| {
        options.tls = true;
        change(options);
    });
    let ca = dir.join("ca.pem");
    std::fs::write(&ca, mock.certificate().unwrap()).unwrap();
    (mock, ca.display().to_string())
}

/// What the mock says of itself, asked over whatever it speaks.
fn truth(mock: &Mock) -> Value {
    let asked = plan(
        &mock.url(),
        "tls: {insecure: true}\nmix: {a: {steps: [{get: /lab/record, expect: {status: 599}}]}}\n\
         profiles: {p: {closed: {users: 1}, iterations: 1}}",
    );
    // The body of an answer that is not expected is kept as a sample, up to 2 kB.
    let summary = run(asked, None).summary;
    serde_json::from_str(&summary.samples[0].body).unwrap()
}

#[test]
fn every_protocol_records_the_same_run() {
    let dir = tempfile::tempdir().unwrap();
    let rows = |mock: &Mock, head: &str| {
        let summary = run(plan(&mock.url(), &format!("{head}{MIXED}")), None).summary;
        assert_eq!(summary.generator.connects, 6, "{head}: one connection for each user");
        let stream = summary.endpoints[2].ok.stream.as_ref().unwrap();
        assert_eq!(stream.tokens, 20 * summary.endpoints[2].ok.count);
        let audit = summary.acknowledged().unwrap();
        assert_eq!((audit.found, audit.lost), (audit.acknowledged, 0));
        let sample = &summary.samples[0];
        assert!(sample.body.contains("as asked") && sample.status == Some(500), "{sample:?}");
        let row = |row: &EndpointSummary| (row.ok.count, row.ok.first_byte.count());
        summary.endpoints.iter().map(row).collect::<Vec<_>>()
    };
    let plain = mock(|_| ());
    // Which of a mock's requests fail follows from their order; how many are
    // made of each kind from the seed alone.
    let expected = rows(&plain, "");
    let made = |rows: &[(u64, u64)]| rows[1..].to_vec();
    assert_eq!(made(&rows(&mock(|_| ()), "protocol: http2")), made(&expected));
    let (mock, ca) = secure_mock(dir.path(), |_| ());
    for protocol in ["auto", "http1", "http2"] {
        let head = format!("protocol: {protocol}\ntls: {{ca: \"{ca}\"}}");
        assert_eq!(made(&rows(&mock, &head)), made(&expected), "{protocol}");
    }
}

#[test]
fn times_over_tls_and_http2_are_the_mocks_own() {
    let dir = tempfile::tempdir().unwrap();
    let delay = Delay::Bimodal {
        fast: Duration::from_millis(5),
        slow: Duration::from_millis(40),
        share: 0.2,
    };
    for protocol in ["http1", "http2"] {
        let (mock, ca) = secure_mock(dir.path(), |options| options.delay = delay);
        let scenario = format!(
            "protocol: {protocol}\ntls: {{ca: \"{ca}\"}}\nmix: {{a: {{steps: [{{get: /x}}]}}}}\n\
             profiles: {{p: {{closed: {{users: 4}}, iterations: 200}}}}"
        );
        let summary = run(plan(&mock.url(), &scenario), None).summary;
        let truth = &truth(&mock)["names"]["/x"];
        let service = &summary.all.ok.service;
        assert_eq!(Some(service.count()), truth["count"].as_u64());
        for (q, field) in [(0.5, "p50_us"), (0.9, "p90_us")] {
            let (ours, real) = (service.quantile(q), truth[field].as_f64().unwrap() / 1e6);
            // Never less than the truth, but for the sketch's three digits.
            assert!(ours > real * 0.998, "{protocol} {field}: {ours} of {real}");
        }
        assert!(service.min() >= 0.005 * 0.998, "{}", service.min());
        assert!(summary.all.ok.first_byte.quantile(1.0) <= service.quantile(1.0));
    }
}

#[test]
fn certificates_that_are_not_trusted_say_so() {
    let dir = tempfile::tempdir().unwrap();
    let (mock, _) = secure_mock(dir.path(), |_| ());
    let (_other, ca) = secure_mock(dir.path(), |_| ());
    let (_keep, interrupt) = watch::channel(false);
    let refused = |url: &str, head: &str| {
        let plan = plan(url, &format!("{head}{MIXED}"));
        let ended = drive::drive(plan, &options(None), &interrupt, &mut |_, _| ());
        ended.unwrap_err().to_string()
    };
    let told = refused(&mock.url(), "");
    assert!(told.contains("certificate is not trusted") && told.contains("--ca"), "{told}");
    let told = refused(&mock.url(), &format!("tls: {{ca: \"{ca}\"}}"));
    assert!(told.contains("certificate is not trusted"), "{told}");
    let told = refused(&mock.url(), "tls: {ca: /nowhere/ca.pem}");
    assert!(told.contains("/nowhere/ca.pem"), "{told}");
    let plain = self::mock(|_| ()).url().replace("http:", "https:");
    // It is gone by now.
    assert!(refused(&plain, "").contains("cannot be reached"));
    let plain = self::mock(|_| ());
    let told = refused(&plain.url().replace("http:", "https:"), "");
    assert!(told.contains("does not speak TLS"), "{told}");
}

/// Users who post to all, and get what all post.
fn room(query: &str, users: u32, posts: u32) -> String {
    format!(
        r#"
timeout: 20s
setup:
  - connect: "/ws/events{query}"
    track: {{seq: $.seq, time: $.sent_us, where: {{$.type: event}}}}
    save: {{seq: $.seq}}
mix:
  post: {{steps: [{{send: {{from: "${{uid}}", n: "${{iteration}}"}}, expect: {{json: {{$.data.from: "${{uid}}", $.data.n: "${{iteration}}"}}}}}}]}}
profiles: {{p: {{closed: {{users: {users}}}, iterations: {posts}}}}}
"#
    )
}

fn sockets_of(summary: &Summary) -> crate::run_file::SocketInterval {
    let all = summary.endpoints.iter().filter_map(|row| row.ok.socket.as_deref());
    all.fold(crate::run_file::SocketInterval::default(), |mut sum, one| {
        sum.merge(one);
        sum
    })
}

#[test]
fn a_socket_echoes_and_is_closed_and_opened_again() {
    let dir = tempfile::tempdir().unwrap();
    let (plain, (secure, ca)) = (mock(|_| ()), secure_mock(dir.path(), |_| ()));
    let scenario = format!(
        r#"
tls: {{ca: "{ca}"}}
mix:
  talk:
    steps:
      - {{name: open, connect: /ws/echo}}
      - {{name: text, send: "hello ${{uid}}", expect: {{text: "lo ${{uid}}"}}}}
      - {{name: json, send: {{a: ["${{iteration}}"]}}, expect: {{json: {{"$.a[0]": "${{iteration}}"}}}}, save: {{n: "$.a[0]"}}}}
      - {{name: again, reconnect: 1ms}}
      - {{name: two, send: "${{n}}", expect: {{text: "${{iteration}}"}}}}
      - {{name: quiet, send: unheard}}
profiles: {{p: {{closed: {{users: 3}}, iterations: 30}}}}
"#
    );
    for (mock, protocol) in [(&plain, "auto"), (&secure, "auto"), (&secure, "http2")] {
        let summary =
            run(plan(&mock.url(), &format!("protocol: {protocol}{scenario}")), None).summary;
        assert_eq!(summary.errors, [].into(), "{:?}", summary.samples);
        assert!(summary.endpoints.iter().all(|row| row.ok.count == 30), "{:?}", summary.errors);
        // Handshake and round trip have their four times.
        assert!(summary.endpoints[..3].iter().all(|row| row.ok.first_byte.count() == 30));
        assert_eq!(sockets_of(&summary).reconnects, 30);
    }
}

#[test]
fn what_a_broadcast_loses_doubles_and_reorders_is_counted_as_it_was() {
    let scenario = |query: &str| {
        format!(
            r#"
timeout: 20s
setup:
  - connect: "/ws/events{query}"
    track: {{seq: $.seq, time: $.timestamp}}
mix:
  post:
    steps:
      - {{send: {{safe: true, n: "${{iteration}}"}}, expect: {{json: {{$.data.n: "${{iteration}}"}}}}}}
      - {{send: {{}}}}
      - {{send: {{}}}}
      - {{send: {{}}}}
      - {{send: {{safe: true, m: "${{iteration}}"}}, expect: {{json: {{$.data.m: "${{iteration}}"}}}}}}
profiles: {{p: {{closed: {{users: 1}}, iterations: 100}}}}
"#
        )
    };
    let counted = |query: &str| {
        let mock = mock(|_| ());
        let summary = run(plan(&mock.url(), &scenario(query)), None).summary;
        assert_eq!(summary.errors, [].into(), "{:?}", summary.samples);
        let theirs = truth(&mock)["sockets"].clone();
        let theirs = move |name: &str| theirs[name].as_u64().unwrap();
        assert_eq!(theirs("posted"), 500);
        (sockets_of(&summary), theirs)
    };
    let (ours, _) = counted("");
    assert_eq!((ours.lost, ours.doubled, ours.reordered), (0, 0, 0));
    assert_eq!((ours.frames, ours.lag.count()), (500, 500));
    let (ours, theirs) = counted("?lose=10%&double=10%");
    assert!(ours.lost > 10 && ours.doubled > 10, "{ours:?}");
    assert_eq!((ours.lost, ours.doubled, ours.reordered), (theirs("lost"), theirs("doubled"), 0));
    let (ours, theirs) = counted("?reorder=20%");
    assert!(ours.reordered > 20, "{ours:?}");
    // The last may be held back behind the end of the run.
    assert!(theirs("reordered") - ours.reordered <= 1 && ours.lost <= 1, "{ours:?}");
    assert_eq!(ours.doubled, 0);
}

#[test]
fn a_broadcast_reaches_everybody_and_its_lag_is_the_mocks_own() {
    let mock = mock(|_| ());
    let summary = run(plan(&mock.url(), &room("?delay=constant:20ms", 5, 100)), None).summary;
    let (ours, theirs) = (sockets_of(&summary), truth(&mock));
    assert_eq!(summary.errors, [].into(), "{:?}", summary.samples);
    assert_eq!((ours.doubled, ours.reordered), (0, 0));
    // Everybody got everything that was sent to it while it was there.
    let sent = theirs["sockets"]["sent"].as_u64().unwrap();
    assert!(ours.frames <= sent && ours.frames >= 400, "{} of {sent}", ours.frames);
    let real = theirs["names"]["/ws/events lag"]["p50_us"].as_f64().unwrap() / 1e6;
    let p50 = ours.lag.quantile(0.5);
    assert!(real >= 0.02 && p50 > real * 0.998, "{p50} of {real}");
}

#[test]
fn a_subscriber_that_comes_back_goes_on_where_it_was() {
    let scenario = |query: &str, resume: &str| {
        format!(
            r#"
timeout: 20s
mix:
  follow:
    steps:
      - name: open
        connect: "/ws/events{query}"
        track: {{seq: $.seq, time: $.timestamp}}
        save: {{seq: $.seq}}
        {resume}
      - {{name: ask, send: {{action: resume, after: 0}}}}
      - {{name: before, post: /ws/posts, json: {{}}, expect: {{status: 202}}}}
      - {{name: first, receive: 1}}
      - {{name: back, reconnect: 0s}}
      - {{name: after, post: /ws/posts, json: {{}}, expect: {{status: 202}}, save: {{posted: $.seq}}}}
      - {{name: all, receive: 1, expect: {{json: {{$.seq: "${{posted}}"}}}}}}
profiles: {{p: {{closed: {{users: 1}}, iterations: 1}}}}
"#
        )
    };
    let mock = mock(|_| ());
    let resume = "resume: {action: resume, after: \"${seq}\"}";
    let summary = run(plan(&mock.url(), &scenario("?resume=wait", resume)), None).summary;
    assert_eq!(summary.errors, [].into(), "{:?}", summary.samples);
    let ours = sockets_of(&summary);
    assert_eq!((ours.reconnects, ours.resumed, ours.resume.count()), (1, 1, 1));
    assert_eq!((ours.frames, ours.lost, ours.doubled), (2, 0, 0));
    assert_eq!(truth(&mock)["sockets"]["resumed"], 2);
}

#[test]
fn sockets_that_break_are_told_by_their_class() {
    let mock = mock(|_| ());
    let class = |steps: &str| {
        let scenario = format!(
            "timeout: 300ms\nmix: {{a: {{steps: [{steps}]}}}}\n\
             profiles: {{p: {{closed: {{users: 1}}, iterations: 1}}}}"
        );
        let summary = run(plan(&mock.url(), &scenario), None).summary;
        let classes: Vec<String> = summary.errors.keys().map(|(_, class)| class.clone()).collect();
        (classes.join(" "), summary)
    };
    assert_eq!(class("{connect: /items}").0, "ws_refused");
    assert_eq!(class("{send: x}").0, "ws_not_connected");
    assert_eq!(class("{connect: /ws/echo}, {receive: 1}").0, "timeout");
    assert_eq!(class("{connect: /hang}").0, "timeout");
    let twice = "{connect: \"/ws/events?close_after=1\"}, {send: {}, expect: {has: [$.seq]}}";
    let (told, summary) = class(&format!("{twice}, {{receive: 2}}"));
    assert_eq!((told.as_str(), sockets_of(&summary).closed), ("ws_closed", 1));
}

#[test]
fn a_user_whose_socket_was_closed_opens_it_again() {
    let mock = mock(|_| ());
    let summary = run(plan(&mock.url(), &room("?close_after=10", 1, 60)), None).summary;
    let ours = sockets_of(&summary);
    let closed = summary.errors.iter().filter(|((_, class), _)| class == "ws_closed");
    let failed: u64 = closed.map(|(_, count)| *count).sum();
    assert!(ours.closed >= 4 && failed == summary.all.failed.count, "{:?}", summary.errors);
    assert!(ours.reconnects >= 4 && summary.endpoints[1].ok.count >= 40, "{ours:?}");
}

/// Users who make an item each, and more of them, and take all of it back.
const TIDY: &str = r#"
setup: [{post: /items, json: {n: "${uid}"}, expect: {status: 201, json: {$.n: "${uid}"}}, save: {own: $.id}, acknowledged: "/items/${own}"}]
mix:
  make: {steps: [{post: /items, json: {}, keep: {made: $.id}}]}
teardown:
  - {delete: "/items/${own}", expect: {status: 2xx}}
  - {name: all, delete: "/items/${take(made)}"}
  - {name: missing, get: /status/404}
profiles:
  count: {closed: {users: 5}, iterations: 100}
  long: {closed: {users: 5, think: 50ms..100ms}, for: 60s}
watch: {pid: none, prometheus: "/metrics?of=${run}"}
"#;

#[test]
fn a_teardown_takes_back_what_users_made_after_it_was_read_back() {
    let mock = mock(|_| ());
    let summary = run(plan(&mock.url(), TIDY), None).summary;
    let end = summary.end.as_ref().unwrap();
    let audit = end.acknowledged.as_ref().unwrap();
    assert_eq!((audit.acknowledged, audit.found, audit.lost), (5, 5, 0));
    let torn = end.teardown.as_ref().unwrap();
    assert_eq!((torn.users, torn.requests, torn.failed), (5, 5 + 100 + 5, 5), "{torn:?}");
    assert_eq!(torn.failed_by_class, [("teardown.missing: http_404".to_owned(), 5)].into());
    assert_eq!(summary.all.count(), 105, "it is no part of the load");
    let verdict = judge(&summary, &[]);
    assert!(verdict.notes.iter().any(|note| note.contains("teardown")), "{:?}", verdict.notes);
    // Nothing is left.
    let items = "mix: {a: {steps: [{get: /metrics, expect: {status: 599}}]}}\n\
                 profiles: {p: {closed: {users: 1}, iterations: 1}}";
    let shown = run(plan(&mock.url(), items), None).summary;
    assert!(shown.samples[0].body.contains("mock_items{kind=\"kept\"} 0"), "{:?}", shown.samples);
}

#[test]
fn a_teardown_follows_an_interruption_too() {
    let mock = mock(|_| ());
    let target = Overrides {
        target: Some(mock.url()),
        profile: Some("long".to_owned()),
        ..Overrides::default()
    };
    let around = Surroundings { env: &|_| None, run: "r" };
    let plan = Plan::read(TIDY, &target, &around).unwrap();
    let (stop, interrupt) = watch::channel(false);
    let ended = drive::drive(plan, &options(None), &interrupt, &mut |_, point| {
        if point.ok > 0 {
            stop.send_replace(true);
        }
    });
    let summary = ended.unwrap().summary;
    assert!(summary.was_ended());
    let torn = summary.end.as_ref().unwrap().teardown.clone().unwrap();
    // What each made, and what each made in the load, and one that fails.
    assert_eq!((torn.users, torn.not_done, torn.failed), (5, 0, 5), "{torn:?}");
    assert_eq!(torn.requests, summary.all.ok.count + 5);
}

#[test]
fn the_targets_own_metrics_are_on_the_runs_time_axis() {
    let (mock, dir) = (mock(|_| ()), tempfile::tempdir().unwrap());
    let scenario = "mix: {a: {steps: [{get: /x}]}}\nwatch: {prometheus: /metrics, series: [mock_r]}\n\
                    profiles: {p: {open: {rate: 100/s}, for: 1500ms}}";
    let live = run(plan(&mock.url(), scenario), Some(dir.path())).summary;
    let read = Summary::of(run_file::read(&dir.path().join(RUN_FILE)).unwrap());
    assert_eq!(live.series, read.series);
    let names: Vec<&str> = read.series.keys().map(String::as_str).collect();
    assert_eq!(names, ["mock_requests_total"]);
    let points = &read.series["mock_requests_total"];
    assert!(points.is_sorted() && points.len() >= 2, "{points:?}");
    // The last reading is after the last request.
    assert_eq!(points.last().unwrap().1, 150.0);
    assert_eq!(live.series_fault, None);
    let missing = scenario.replace("/metrics", "/status/404");
    let summary = run(plan(&mock.url(), &missing), None).summary;
    assert_eq!(summary.series_fault.as_deref(), Some("status 404"));
    let notes = judge(&summary, &[]).notes;
    assert!(notes.iter().any(|note| note.contains("status 404")), "{notes:?}");
}
