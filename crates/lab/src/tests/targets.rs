//! Targets that break, targets that are not there, and a generator that cannot keep up.

use super::*;

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
