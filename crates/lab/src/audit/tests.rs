use super::*;
use crate::audit::checks::audit;

/// A file of `golden` and the checks that flag it; nothing else may.
const GOLDEN: &[(&str, &str, &[&str])] = &[
    ("saturation", include_str!("golden/saturation.yaml"), &["saturated"]),
    ("pauses", include_str!("golden/pauses.yaml"), &["think_time_bound"]),
    ("sum", include_str!("golden/sum.yaml"), &["rows_do_not_add_up"]),
    (
        "errors",
        include_str!("golden/errors.yaml"),
        &["errors_as_throughput", "errors_in_latencies"],
    ),
    ("projection", include_str!("golden/projection.yaml"), &["projection_beyond_data"]),
    ("gate", include_str!("golden/gate.yaml"), &["baseline_not_measured", "ratio_of_wrong_column"]),
    ("little", include_str!("golden/little.yaml"), &["littles_law"]),
    ("copied", include_str!("golden/copied.yaml"), &["identical_rows"]),
    ("failures", include_str!("golden/failures.yaml"), &["failures_do_not_add_up"]),
    ("minutes", include_str!("golden/minutes.yaml"), &["durations_do_not_add_up"]),
    ("added", include_str!("golden/added.yaml"), &["rates_of_separate_tests_added"]),
    ("traffic", include_str!("golden/traffic.yaml"), &["traffic_miscounted"]),
    ("easier", include_str!("golden/easier.yaml"), &["claim_from_easier_phase"]),
    ("leaks", include_str!("golden/leaks.yaml"), &["resources_unmeasured"]),
    ("placeholder", include_str!("golden/placeholder.yaml"), &["constant_bodies"]),
    ("timer", include_str!("golden/timer.yaml"), &["timer_not_component"]),
    ("order", include_str!("golden/order.yaml"), &["percentiles_out_of_order"]),
    ("generator", include_str!("golden/generator.yaml"), &["generator_bound"]),
    ("clean", include_str!("golden/clean.yaml"), &[]),
];

fn names(evidence: &Evidence) -> Vec<&'static str> {
    let mut names: Vec<&str> = audit(evidence).iter().map(|finding| finding.check).collect();
    names.sort_unstable();
    names.dedup();
    names
}

#[test]
fn every_golden_flaw_is_flagged_and_nothing_else() {
    for (name, text, expected) in GOLDEN {
        let evidence = evidence::read(text).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(names(&evidence), *expected, "{name}: {:?}", audit(&evidence));
    }
}

#[test]
fn every_check_has_a_golden_case() {
    for (check, _) in CHECKS {
        assert!(GOLDEN.iter().any(|(_, _, expected)| expected.contains(check)), "{check}");
    }
}

const LOCUST: &str = "\
Type,Name,Request Count,Failure Count,Median Response Time,Average Response Time,Min Response Time,Max Response Time,Average Content Size,Requests/s,Failures/s,50%,66%,75%,80%,90%,95%,98%,99%,99.9%,99.99%,100%
GET,\"/a, b\",300,0,12,13.5,3,90,100,30.0,0.0,12,13,14,15,20,31,40,53,90,90,90
POST,/c,FAILING,12,14.5,4,95,100,10.0,0.0,12,13,14,15,20,31,40,53,95,95,95
,Aggregated,400,TOTAL,12,13.75,3,95,100,40.0,0.0,12,13,14,15,20,31,40,53,95,95,95
";

#[test]
fn locust_tables_are_read() {
    let with = |posts: &str, total: &str| {
        let text = LOCUST.replace("FAILING", posts).replace("TOTAL", total);
        locust::read("x_stats", &text).unwrap()
    };
    let clean = with("100,0", "0");
    assert_eq!(names(&clean), [""; 0]);
    let total = &clean.phases[0].total;
    assert_eq!((total.requests, total.rate, total.p95), (Some(400.0), Some(40.0), Some(31.0)));
    assert!(clean.phases[0].endpoints.contains_key("GET /a, b"));
    assert_eq!(names(&with("100,60", "60")), ["errors_in_latencies"]);
    assert_eq!(names(&with("190,0", "0")), ["rows_do_not_add_up"]);
    assert!(locust::read("x", "a,b\n1,2\n").unwrap_err().contains("Type"));
}

#[test]
fn k6_summaries_are_read_in_both_forms() {
    let export = |failed: f64| {
        serde_json::json!({"metrics": {
            "http_reqs": {"count": 1000, "rate": 100.0},
            "http_req_duration": {"avg": 40.0, "min": 5.0, "med": 35.0, "max": 300.0,
                                  "p(90)": 80.0, "p(95)": 100.0},
            "http_req_failed": {"value": failed},
            "vus_max": {"value": 10},
        }})
        .to_string()
    };
    assert_eq!(names(&k6::read("x", &export(0.0)).unwrap()), [""; 0]);
    assert_eq!(names(&k6::read("x", &export(0.2)).unwrap()), ["errors_in_latencies"]);
    let handled = serde_json::json!({"metrics": {
        "http_reqs": {"values": {"count": 1000, "rate": 100.0}},
        "http_req_duration": {"values": {"avg": 40.0, "p(95)": 100.0}},
        "http_req_failed": {"values": {"rate": 0.0}},
    }});
    let read = k6::read("x", &handled.to_string()).unwrap();
    assert_eq!(read.phases[0].total.p95, Some(100.0));
    assert!(k6::read("x", "{}").is_err());
}
