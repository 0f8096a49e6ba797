//! The doctor finds what does not agree, and nothing in what does.

use agentry_domain::files::{FILE_CHUNK_BYTES, File, FileLimits};
use agentry_domain::goals::{Goal, GoalBody};
use agentry_domain::orgs::{Org, OrgBody};
use agentry_domain::plans::{Plan, PlanBody};
use agentry_domain::sessions::MessageRole;
use agentry_domain::{FileId, GoalId, PlanId, Tier};
use agentry_store::doctor::{Check, examine};
use agentry_store::{Scope, Write};

use crate::bed::Bed;
use crate::make;

/// What is broken, and which check must say so.
const BREAKS: &[(&str, &str)] = &[
    ("delete from agent where name = 'a'", "agents are counted"),
    ("delete from message where id in (select id from message limit 1)", "messages are counted"),
    (
        "delete from text_doc where id in (select id from text_doc limit 1)",
        "findable texts are counted",
    ),
    ("update text_doc set length = length + 10", "the words of findable texts are counted"),
    ("delete from session where name = 's'", "every message has its session"),
    ("update log_head set seq = seq + 1", "the log has no gap, and its head is its end"),
    ("delete from log where seq = 2", "the log has no gap, and its head is its end"),
    (
        "insert into user_alias (org, alias, holder) select id, 'lost', id from org",
        "every other name of a user has its user",
    ),
];

/// The same, for checks that read more.
const DEEP_BREAKS: &[(&str, &str)] = &[
    (
        "update goal set parent_goal_id = agent.id from agent where agent.name = 'b'",
        "every goal that is below another has that one",
    ),
    (
        "insert into task_dependency (org, task, needs) select org, id, id from agent where name = 'b'",
        "every task that waits for another is there, and so is that one",
    ),
    ("update plan set org = id", "goals, plans and tasks belong to an organisation"),
    ("update session_file set bytes = bytes + 1", "every file has all of its content"),
    (
        "update file_chunk set n = n + 1 where n = (select max(n) from file_chunk)",
        "every file has all of its content",
    ),
    (
        "update file_upload set content = session",
        "every content has its file, or is still arriving",
    ),
    (
        "insert into file_upload (org, session, content, at) select org, id, id, 1 from agent \
         where name = 'b'",
        "every content that is still arriving has its session",
    ),
    ("delete from session_file where path = 'b'", "files are counted"),
    (
        "update session_file set session = agent.id from agent where agent.name = 'b'",
        "every file has its session",
    ),
];

fn faulty(checks: &[Check]) -> Vec<&str> {
    checks.iter().filter(|check| check.faults > 0).map(|check| check.name.as_str()).collect()
}

async fn fill(bed: &Bed) {
    let store = bed.open().await;
    let org = make::org();
    let mut write = Write::new(org);
    let named =
        Org::new(org, OrgBody { name: "default".to_owned(), tier: Tier::default() }, make::now());
    write.resource_insert(&named.body, &named.document().unwrap());
    store.write(write).await.unwrap();
    for name in ["a", "b", "c"] {
        store.write(make::agent_write(org, &make::agent(name))).await.unwrap();
    }
    let session = make::session(Some("s"), None);
    store.write(make::session_write(org, &session)).await.unwrap();
    for _ in 0..3 {
        let message = make::message(session.id, MessageRole::User, "words to be found again");
        let mut write = Write::new(org);
        write.message_insert(&message);
        let scope = Scope::session(session.id);
        write.text_insert(message.id, session.id, scope, &message.content);
        store.write(write).await.unwrap();
    }
    let mut write = Write::new(org);
    let goal = Goal::new(GoalId::from_bytes([31; 16]), GoalBody::default(), make::now());
    write.resource_insert(&goal.body, &goal.document().unwrap());
    let plan = Plan::new(PlanId::from_bytes([32; 16]), PlanBody::default(), make::now());
    write.resource_insert(&plan.body, &plan.document().unwrap());
    let (content, arriving) = ([33; 16], [34; 16]);
    write.file_upload_begin(session.id, content, make::now(), make::now());
    write.file_upload_chunk(session.id, content, 0, vec![7; FILE_CHUNK_BYTES]);
    write.file_chunk_insert(content, 1, vec![7]);
    let file = |n: u8, path: &str, content, bytes| File {
        id: FileId::from_bytes([n; 16]),
        session: session.id,
        path: path.to_owned(),
        media_type: "text/plain".to_owned(),
        bytes,
        content,
        version: 1,
        created_at: make::now(),
        updated_at: make::now(),
    };
    let limits = FileLimits::default();
    let large = file(35, "a", content, FILE_CHUNK_BYTES as u64 + 1);
    write.file_put(None, &large, &limits);
    write.file_put(None, &file(36, "b", [36; 16], 0), &limits);
    write.file_upload_begin(session.id, arriving, make::now(), make::now());
    write.file_upload_chunk(session.id, arriving, 0, vec![7; 10]);
    store.write(write).await.unwrap();
    // On PostgreSQL the log and the counters are brought up within a second.
    crate::bed::wait_until("the log is numbered", || async {
        store.log_head().await.unwrap() >= 3
    })
    .await;
    store.close().await;
}

pub(crate) async fn the_doctor_looks_deeper_when_asked(bed: Bed) {
    fill(&bed).await;
    for (sql, name) in DEEP_BREAKS {
        bed.execute(sql).await;
        let checks = examine(&bed.options(), true).await.unwrap();
        assert!(faulty(&checks).contains(name), "{sql}: {:?}", faulty(&checks));
    }
}

pub(crate) async fn the_doctor_finds_what_does_not_agree(bed: Bed) {
    fill(&bed).await;
    let options = bed.options();
    for deep in [false, true] {
        let checks = examine(&options, deep).await.unwrap();
        assert_eq!(faulty(&checks), Vec::<&str>::new());
        assert!(checks.len() > 10);
    }
    for (sql, name) in BREAKS {
        bed.execute(sql).await;
        let checks = examine(&options, false).await.unwrap();
        assert!(faulty(&checks).contains(name), "{sql}: {:?}", faulty(&checks));
    }
    bed.execute("update refinery_schema_history set version = version + 1000").await;
    let checks = examine(&options, false).await.unwrap();
    assert_eq!(faulty(&checks), ["the schema is the one that this version knows"]);
}
