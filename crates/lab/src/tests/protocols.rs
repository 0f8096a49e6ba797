//! HTTP/1.1, HTTP/2 and TLS: the same run over each.

use super::*;

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
