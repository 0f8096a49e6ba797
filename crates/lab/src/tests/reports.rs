//! What the reports say of a run, and that a page stays small.

use super::*;
use crate::report;
use crate::run_file::{
    EndpointInterval, Header, Interval, LoadHeader, Machine, Metrics, RowKind, Sample,
    SocketInterval, TargetUse,
};
use crate::sketch::Sketch;

/// Every report of the run, by its file's name.
fn written(summary: &Summary, plan_slos: &[crate::scenario::Slo]) -> impl Fn(&str) -> String {
    let dir = tempfile::tempdir().unwrap();
    report::write_all(dir.path(), summary, &judge(summary, plan_slos)).unwrap();
    move |name| std::fs::read_to_string(dir.path().join(name)).unwrap()
}

const FOLLOWED: &str = r#"
timeout: 20s
setup:
  - name: follow
    connect: "/ws/events?lose=10%&double=10%"
    track: {seq: $.seq, time: $.timestamp}
    save: {seq: $.seq}
    again: "/ws/events?lose=10%&double=10%&after=${seq}"
mix:
  post:
    steps:
      - {name: round, send: {safe: true, n: "${iteration}"}, expect: {json: {$.data.n: "${iteration}"}}}
      - {send: {}}
      - {send: {}}
      - {send: {safe: true, m: "${iteration}"}, expect: {json: {$.data.m: "${iteration}"}}}
      - {name: back, reconnect: 1ms}
teardown: [{name: gone, get: /status/404}, {name: tidy, get: /x}]
profiles: {p: {closed: {users: 1}, iterations: 100}}
slo: [sockets.lost = 0, setup.follow.doubled < 5, setup.follow.lag_p99 < 1h, reconnects = 100, post.round.p99 < 1h]
watch: {pid: none, prometheus: /metrics}
"#;

#[test]
fn thresholds_of_sockets_break_a_run_and_every_report_shows_what_came() {
    let (mock, dir) = (mock(|_| ()), tempfile::tempdir().unwrap());
    let plan = plan(&mock.url(), FOLLOWED);
    let slos = plan.slos.clone();
    let live = run(plan, Some(dir.path())).summary;
    let (summary, read_again) = report::read(&dir.path().join(RUN_FILE)).unwrap();
    assert_eq!(slos, read_again);
    for summary in [&live, &summary] {
        let verdict = judge(summary, &slos);
        let holds: Vec<bool> = verdict.thresholds.iter().map(|t| t.holds).collect();
        assert_eq!(holds, [false, false, true, true, true], "{verdict:?}");
        // A busy machine makes a run invalid, which hides that it is broken.
        if verdict.invalid.is_empty() {
            assert_eq!(verdict.exit().code(), 1);
        }
    }
    let socket = sockets_of(&summary);
    let lost = verdict_value(&summary, &slos, 0);
    assert_eq!(lost, socket.lost.to_string());

    let report = written(&summary, &slos);
    let page = report("report.html");
    for part in [
        "<h2>WebSockets</h2>",
        "<td>handshake</td><td>setup.follow (initial)</td>",
        "<td>handshake again</td><td>post.back</td>",
        "<td>round trip</td><td>post.round</td>",
        "<td>fan-out lag</td>",
        "<td>resuming</td>",
        &format!("<td class=\"bad\">{}</td>", socket.lost),
        "Fan-out lag over the run",
        "<h2>Teardown</h2>",
        "done: teardown.tidy",
        "failed: teardown.gone: http_404",
    ] {
        assert!(page.contains(part), "{part} in {page}");
    }
    assert!(!page.contains("http://www") && !page.contains("<script"), "nothing from elsewhere");
    let (text, markdown) = (report("report.txt"), report("report.md"));
    assert!(text.contains(&format!("lost {lost}, doubled")), "{text}");
    assert!(text.contains("FAILED teardown.gone: http_404"), "{text}");
    assert!(markdown.contains("| fan-out lag | setup.follow (initial) |"), "{markdown}");
    assert!(markdown.contains(&format!("**{lost}**")), "{markdown}");
    let csv = report("report.csv");
    let mut lines = csv.lines().map(|line| line.split(',').count());
    let columns = lines.next().unwrap();
    assert!(lines.all(|cells| cells == columns), "{csv}");
    let junit = report("junit.xml");
    assert!(junit.contains(&format!("name=\"sockets.lost\" value=\"{lost}\"")), "{junit}");
    assert!(junit.contains("name=\"sockets.lost = 0\"><failure"), "{junit}");
    let json: Value = serde_json::from_str(&report("report.json")).unwrap();
    assert_eq!(json["endpoints"][0]["kind"], "connect");
    assert_eq!(json["teardown"]["done_by_step"]["teardown.tidy"], 1);
}

fn sockets_of(summary: &Summary) -> SocketInterval {
    summary.all.ok.socket.as_deref().cloned().unwrap()
}

fn verdict_value(summary: &Summary, slos: &[crate::scenario::Slo], number: usize) -> String {
    judge(summary, slos).thresholds[number].value.clone()
}

/// A run of two hours with as many rows, series, classes and samples as a run
/// file may hold, all of them with long names.
#[test]
fn the_largest_page_is_below_two_megabytes() {
    let long = "x<&\"".repeat(60);
    let machine = Machine {
        system: "s".to_owned(),
        cpus: 2,
        cpu_model: String::new(),
        memory_bytes: 1,
        shared_with_target: true,
    };
    let header = Header {
        schema: run_file::SCHEMA_VERSION,
        started_at: String::new(),
        lab: String::new(),
        scenario: "large".to_owned(),
        scenario_text: long.repeat(20_000),
        profile: "p".to_owned(),
        seed: 1,
        run: "r".to_owned(),
        target: "http://127.0.0.1:1".to_owned(),
        load: LoadHeader::default(),
        warmup_seconds: 10.0,
        timeout_seconds: 60.0,
        endpoints: (0..200).map(|n| format!("{n} {long:.100}")).collect(),
        rows: vec![RowKind::Connect; 200],
        slo: Vec::new(),
        threads: 1,
        machine,
        command: String::new(),
    };
    let mut sketch = Sketch::default();
    sketch.record(Duration::from_millis(3));
    let mut summary = Summary::new(header);
    let mut at = |second: u64, rows: std::ops::Range<usize>| {
        let endpoint = |endpoint| EndpointInterval {
            endpoint,
            ok: true,
            count: 1,
            response: sketch.clone(),
            service: sketch.clone(),
            first_byte: sketch.clone(),
            socket: Some(Box::new(SocketInterval {
                frames: second,
                lag: sketch.clone(),
                lost: second % 7,
                doubled: second % 5,
                reordered: second % 3,
                closed: 1,
                ..SocketInterval::default()
            })),
            ..EndpointInterval::default()
        };
        let errors = rows.clone().flat_map(|endpoint| {
            (0..4).map(move |n| run_file::ErrorCount {
                endpoint,
                class: format!("class {n} {}", "y<".repeat(80)),
                count: 1,
            })
        });
        summary.add(&Interval {
            second,
            seconds: 1.0,
            errors: errors.collect(),
            endpoints: rows.map(endpoint).collect(),
            target: Some(TargetUse::default()),
            ..Interval::default()
        });
        let name = |n: u64| format!("family_{}_total{{a=\"{n}\",long=\"{long}\"}}", n % 40);
        summary.add_metrics(&Metrics {
            at: second as f64,
            series: (0..512).map(|n| (name(n), (second * second * n) as f64)).collect(),
            ..Metrics::default()
        });
    };
    at(0, 0..200);
    for second in 1..1_000 {
        at(second, 0..1);
    }
    for n in 0..100 {
        let (class, detail) = (n.to_string(), long.clone());
        let body = "<".repeat(2_000);
        summary.samples.push(Sample { endpoint: 0, class, at: 1.0, status: None, detail, body });
    }
    let page = written(&summary, &[])("report.html");
    assert!(page.len() < 2_000_000, "{}", page.len());
    assert!(!page.contains("x<&"), "what is the target's is escaped");
}
