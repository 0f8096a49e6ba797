//! WebSockets: what came over them, and how they break.

use super::*;

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
