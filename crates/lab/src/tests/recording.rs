//! The run file, what is counted, and when.

use super::*;

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

    let schema: Value = serde_json::from_str(include_str!("../../schema/run.schema.json")).unwrap();
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
