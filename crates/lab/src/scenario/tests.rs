use super::*;
use crate::dice::Dice;
use crate::expression::Scope;
use std::cell::{Cell, RefCell};

fn read(text: &str, overrides: &Overrides) -> Result<Plan, Vec<String>> {
    let env = |name: &str| (name == "AGENTRY_KEY").then(|| "ak_x".to_owned());
    Plan::read(text, overrides, &Surroundings { env: &env, run: "r1" })
        .map_err(|faults| faults.iter().map(ToString::to_string).collect())
}

const GOOD: &str = r#"
target: http://127.0.0.1:8881
seed: 42
timeout: 5s
headers: {X-API-Key: "${env.AGENTRY_KEY}"}
data:
  questions: ["who?", "say \"why\""]
setup:
  - post: /users
    json: {email: "u${uid}@example.org", n: "${uid}"}
    save: {user: $.id}
mix:
  run: {weight: 60, steps: [{post: /run, json: {message: "${pick(questions)}"}, expect: {status: 200, json: {$.success: true}}}]}
  two:
    steps:
      - {name: list, get: "/items?u=${user}"}
      - {sse: /chat, json: {stream: true}, tokens: openai}
profiles:
  normal: {closed: {users: 50, think: 1s..2s, ramp: 10/s}, for: 5m}
  steady: {open: {rate: 500/s, arrivals: poisson}, for: 60s, warmup: 10s}
  stages: {open: {stages: [{to: 100/s, for: 10s}, {rate: 300/s, for: 5s}], users: 10}}
slo: [run.p95 < 50ms, errors < 0.1%]
watch: {pid: auto}
"#;

#[test]
fn a_scenario_becomes_a_plan() {
    let plan = read(GOOD, &Overrides::default()).unwrap();
    assert_eq!(plan.endpoints, ["setup.1 (initial)", "run", "two.list", "two.2"]);
    assert_eq!((plan.seed, plan.timeout, plan.slots), (42, Duration::from_secs(5), 1));
    assert_eq!(plan.flows.iter().map(|flow| flow.weight).collect::<Vec<_>>(), [60.0, 1.0]);
    assert_eq!(plan.profile.name, "normal");
    assert_eq!(plan.profile.users(), 50);
    assert_eq!(plan.slos.len(), 2);

    let steady = Overrides { profile: Some("steady".to_owned()), ..Overrides::default() };
    let plan = read(GOOD, &steady).unwrap();
    assert!(plan.profile.is_open());
    assert_eq!(plan.profile.warmup, Duration::from_secs(10));
}

#[test]
fn requests_are_rendered_whole() {
    let plan = read(GOOD, &Overrides::default()).unwrap();
    let saved = [Some(serde_json::json!("id/1"))];
    let scope = Scope {
        uid: 7,
        iteration: 0,
        saved: &saved,
        kept: &RefCell::default(),
        data: &plan.data,
        dice: Dice::new(1, "x"),
        draws: &Cell::new(0),
    };
    let text =
        |step: &Step| String::from_utf8(step.request.render(&scope).unwrap().to_vec()).unwrap();
    let body = r#"{"email":"u7@example.org","n":7}"#;
    assert_eq!(
        text(&plan.setup[0]),
        format!(
            "POST /users HTTP/1.1\r\nhost: 127.0.0.1:8881\r\nx-api-key: ak_x\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )
    );
    assert_eq!(
        text(&plan.flows[1].steps[0]),
        "GET /items?u=id%2F1 HTTP/1.1\r\nhost: 127.0.0.1:8881\r\nx-api-key: ak_x\r\n\r\n"
    );
    let chat = text(&plan.flows[1].steps[1]);
    assert!(
        chat.starts_with("POST /chat") && chat.ends_with("\r\n\r\n{\"stream\":true}"),
        "{chat}"
    );
}

#[test]
fn overrides_replace_what_the_profile_says() {
    let overrides = Overrides {
        concurrency: Some(3),
        requests: Some(100),
        only: vec!["run".to_owned()],
        target: Some("http://127.0.0.1:9".to_owned()),
        ..Overrides::default()
    };
    let plan = read(GOOD, &overrides).unwrap();
    assert_eq!((plan.profile.users(), plan.profile.until), (3, Until::Iterations(100)));
    assert_eq!((plan.flows.len(), &*plan.target.url()), (1, "http://127.0.0.1:9"));
    for wrong in [
        Overrides { only: vec!["none".to_owned()], ..Overrides::default() },
        Overrides { profile: Some("none".to_owned()), ..Overrides::default() },
        Overrides { concurrency: Some(0), ..Overrides::default() },
        Overrides { target: Some("ftp://x".to_owned()), ..Overrides::default() },
    ] {
        assert!(read(GOOD, &wrong).unwrap_err()[0].starts_with("0:0: --"));
    }
}

#[test]
fn every_fault_is_told_with_its_place() {
    let bad = r#"target: ftp://x
headers: {Host: x, "bad name": y}
tiemout: 5s
mix:
  a: {weight: 0, steps: [{get: items}]}
  b:
    steps:
      - {post: /x, get: /y, json: {a: "${nobody}"}}
      - {json: {}}
      - {get: "/z", expect: {status: 99, json: {"$[": 1}}, save: {x: "oops"}}
profiles:
  p: {closed: {users: 0}, for: 5m}
  q: {open: {rate: fast}, for: 5m, warmup: 6m}
slo: [c.p95 < 50ms, errors]
"#;
    let faults = read(bad, &Overrides::default()).unwrap_err();
    let all = faults.join("\n");
    for part in [
        "1:9: `ftp://x`",
        "2:11: `host` is set by the lab",
        "2:20: `bad name` is no name",
        "3:1: `tiemout` is not known here",
        "5:15: a number above 0",
        "5:32: a path begins with `/`",
        "8:16: a step asks one thing",
        "8:39: nothing is called `nobody`",
        "9:9: a step says what it asks",
        "10:38: `99` is no status",
        "10:49: `$[` is no JSONPath",
        "10:70: `oops` is no JSONPath",
        "12:23: `users` is from 1",
        "13:20: `fast` is not a rate",
        "14:7: there is no endpoint `c`",
        "14:21: `errors` is no threshold",
    ] {
        assert!(all.contains(part), "{part} in\n{all}");
    }
    assert_eq!(faults.len(), 16, "{all}");
    let in_order: Vec<u64> =
        faults.iter().map(|fault| fault.split(':').next().unwrap().parse().unwrap()).collect();
    assert!(in_order.is_sorted(), "{all}");
}

#[test]
fn thresholds_of_sockets_that_nothing_could_tell_are_faults_with_their_place() {
    let text = "target: http://x\nsetup: [{connect: /ws, track: {time: $.t}}]\n\
                mix: {a: {steps: [{get: /}]}}\nprofiles: {p: {closed: {users: 1}, for: 1s}}\n\
                slo: [sockets.lost = 0, a.lag_p99 < 1s, setup.1.lag_p99 < 1s, closed < few]\n";
    let faults = read(text, &Overrides::default()).unwrap_err();
    assert_eq!(
        faults,
        [
            "5:7: of `sockets` `track` needs `seq` to tell it",
            "5:25: `a` opens no WebSocket; setup.1 (initial) does",
            "5:63: `few` is no whole number, and `closed` counts",
        ]
    );
}

#[test]
fn shipped_scenarios_are_right() {
    for (name, text) in SHIPPED {
        let plan = read(text, &Overrides::default());
        assert!(plan.is_ok(), "{name}: {plan:?}");
        for profile in ["ci", "smoke", "normal", "peak", "endurance"] {
            let overrides = Overrides { profile: Some(profile.to_owned()), ..Overrides::default() };
            assert!(read(text, &overrides).is_ok(), "{name} {profile}");
        }
    }
}

#[test]
fn the_manual_shows_a_scenario_that_is_right() {
    let manual = include_str!("../../../../docs/lab.md");
    let (_, rest) = manual.split_once("```yaml\n").unwrap();
    let (scenario, _) = rest.split_once("```").unwrap();
    for profile in ["normal", "count", "steady", "stages"] {
        let overrides = Overrides { profile: Some(profile.to_owned()), ..Overrides::default() };
        assert!(read(scenario, &overrides).is_ok(), "{profile}");
    }
}

fn schema() -> (serde_json::Value, jsonschema::Validator) {
    let schema: serde_json::Value = serde_json::from_str(SCHEMA).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    (schema, validator)
}

#[test]
fn the_schema_takes_what_the_reader_takes() {
    let (_, validator) = schema();
    let manual = include_str!("../../../../docs/lab.md");
    let (_, rest) = manual.split_once("```yaml\n").unwrap();
    let (shown, rest) = rest.split_once("```").unwrap();
    let (_, rest) = rest.split_once("```yaml\n").unwrap();
    let (sockets, _) = rest.split_once("```").unwrap();
    let sockets = format!("target: https://x\nprotocol: http2\n{sockets}");
    let tidy = "target: http://x\ntls: {ca: a.pem}\nmix: {a: {steps: [{delete: \"/${take(l)}\", keep: {l: $.id}}]}}\n\
                kinds: {k: {mix: {a: 1}}}\nteardown: [{get: /x}]\n\
                watch: {pid: none, prometheus: /m, series: [a]}";
    let all = SHIPPED.iter().map(|(_, text)| *text).chain([GOOD, shown, &sockets, tidy]);
    for text in all {
        let read = read(text, &Overrides::default());
        assert!(read.is_ok(), "{read:?} in {text}");
        let json = Node::parse(text).unwrap().to_json();
        let faults: Vec<String> = validator
            .iter_errors(&json)
            .map(|e| format!("{}: {e:.300}", e.instance_path()))
            .collect();
        assert!(faults.is_empty(), "{faults:?} in {text}");
    }
}

#[test]
fn what_the_schema_refuses_the_reader_refuses_with_its_place() {
    let (_, validator) = schema();
    let one = |step: &str| format!("target: http://x\nmix: {{a: {{steps: [{step}]}}}}");
    let with = |rest: &str| format!("{}\n{rest}", one("{get: /}"));
    assert!(validator.is_valid(&Node::parse(&one("{get: /}")).unwrap().to_json()));
    let steps = [
        "{get: x}",
        "{get: \"/a b\"}",
        "{}",
        "{get: /, post: /}",
        "{get: /, send: x}",
        "{fetch: /}",
        "{post: /, json: {}, body: x}",
        "{get: /, tokens: openai}",
        "{sse: /, tokens: words}",
        "{sse: /, save: {a: $.a}}",
        "{sse: /, expect: {json: {$.a: 1}}}",
        "{get: /, save: {a: x}}",
        "{get: /, expect: {status: 99}}",
        "{get: /, expect: {status: 7xx}}",
        "{get: /, expect: {text: x}}",
        "{get: /, expect: {has: {}}}",
        "{get: /, headers: {Host: x}}",
        "{get: /, headers: {\"a b\": x}}",
        "{get: /, acknowledged: x}",
        "{get: /, acknowledged: {get: /, gone: /}}",
        "{get: /, acknowledged: {}}",
        "{get: /, track: {seq: $.a}}",
        "{get: /, resume: x}",
        "{get: /, again: /}",
        "{connect: /, again: x}",
        "{connect: /, expect: {has: [$.a]}}",
        "{connect: /, track: {}}",
        "{connect: /, track: {time: $.t, source: $.s}}",
        "{connect: /, json: {}}",
        "{send: x, expect: {status: 200}}",
        "{send: x, headers: {a: b}}",
        "{send: x, acknowledged: /}",
        "{receive: 0}",
        "{receive: all}",
        "{receive: 1, keep: {a: $.a}}",
        "{reconnect: soon}",
        "{reconnect: 1s, save: {a: $.a}}",
        "{reconnect: 1s, expect: {has: [$.a]}}",
    ];
    let rests = [
        "protocol: spdy",
        "tls: {insecure: 1}",
        "tls: {insecure: true, ca: x}",
        "seed: -1",
        "seed: x",
        "timeout: 5",
        "timeout: 5 weeks",
        "data: {a: []}",
        "data: {a: x}",
        "setup: []",
        "setup: {}",
        "teardown: []",
        "teardown: [{connect: /}]",
        "teardown: [{get: /, acknowledged: /}]",
        "profiles: {p: {}}",
        "profiles: {p: {closed: {}, for: 1s}}",
        "profiles: {p: {closed: {users: 0}, for: 1s}}",
        "profiles: {p: {closed: {users: 1}}}",
        "profiles: {p: {closed: {users: 1}, for: 1s, iterations: 1}}",
        "profiles: {p: {closed: {users: 1, think: long}, for: 1s}}",
        "profiles: {p: {closed: {users: 1}, open: {rate: 1/s}, for: 1s}}",
        "profiles: {p: {open: {rate: 1/s}}}",
        "profiles: {p: {open: {rate: fast}, for: 1s}}",
        "profiles: {p: {open: {rate: 1/s, arrivals: all}, for: 1s}}",
        "profiles: {p: {open: {rate: 1/s}, for: 1s, iterations: 1}}",
        "profiles: {p: {open: {stages: []}}}",
        "profiles: {p: {open: {stages: [{for: 1s}]}}}",
        "profiles: {p: {open: {stages: [{rate: 1/s}]}}}",
        "profiles: {p: {open: {stages: [{rate: 1/s, for: 1s}]}, for: 1s}}",
        "slo: {}",
        "slo: [errors]",
        "slo: [all.p42 < 1s]",
        "watch: {pid: 0}",
        "watch: {pid: all}",
        "watch: {prometheus: metrics}",
        "watch: {series: [a]}",
        "watch: {cpu: true}",
        "kinds: {}",
        "kinds: {k: {weight: 1}}",
        "kinds: {k: {mix: {a: 0}}}",
        "more: 1",
    ];
    let roots = [
        "target: http://x".to_owned(),
        "target: http://x\nmix: {}".to_owned(),
        "target: http://x\nmix: {a: {}}".to_owned(),
        "target: http://x\nmix: {a: {steps: []}}".to_owned(),
        "target: http://x\nmix: {a: {weight: 0, steps: [{get: /}]}}".to_owned(),
        one("{get: /}").replace("http:", "ftp:"),
        one("{get: /}").replace("http://x", "http://x/path"),
    ];
    let all = steps.map(one).into_iter().chain(rests.map(with)).chain(roots);
    for text in all {
        let json = Node::parse(&text).unwrap().to_json();
        assert!(!validator.is_valid(&json), "the schema takes {text}");
        let faults = read(&text, &Overrides::default()).expect_err(&text);
        for fault in &faults {
            let place: Vec<u64> = fault.splitn(3, ':').filter_map(|n| n.parse().ok()).collect();
            assert!(place.len() == 2 && place[0] > 0, "{fault} in {text}");
        }
    }
}

#[test]
fn the_schema_has_the_readers_keys() {
    let (schema, _) = schema();
    let keys = |at: &str| {
        let keys = schema.pointer(at).unwrap().as_object().unwrap().keys().cloned();
        keys.collect::<std::collections::BTreeSet<String>>()
    };
    let known = |keys: &[&str]| keys.iter().map(|key| (*key).to_owned()).collect();
    assert_eq!(keys("/properties"), known(KEYS));
    assert_eq!(keys("/$defs/step/properties"), known(steps::STEP_KEYS));
}
