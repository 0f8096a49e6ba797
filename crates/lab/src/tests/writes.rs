//! What was acknowledged, what users made, and what they take back.

use super::*;

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
