//! The doctor finds what does not agree, and nothing in what does.

use agentry_domain::orgs::{Org, OrgBody};
use agentry_domain::sessions::MessageRole;
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

fn faulty(checks: &[Check]) -> Vec<&str> {
    checks.iter().filter(|check| check.faults > 0).map(|check| check.name.as_str()).collect()
}

async fn fill(bed: &Bed) {
    let store = bed.open().await;
    let org = make::org();
    let mut write = Write::new(org);
    let named = Org::new(org, OrgBody { name: "default".to_owned() }, make::now());
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
    // On PostgreSQL the log and the counters are brought up within a second.
    crate::bed::wait_until("the log is numbered", || async {
        store.log_head().await.unwrap() >= 3
    })
    .await;
    store.close().await;
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
