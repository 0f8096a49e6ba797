//! What a database of an earlier version holds is there after its migration.

use std::time::Duration;

use agentry_domain::agents::{AgentBody, AgentStatus, MemoryPolicy};
use agentry_domain::keys::KeyBody;
use agentry_domain::orgs::OrgBody;
use agentry_domain::sessions::{SessionBody, SessionStatus};
use agentry_domain::tools::AgentLimits;
use agentry_domain::{
    AgentId, Caller, JsonText, KeyId, Order, OrgId, Page, PageRequest, Role, SessionId, Tier,
    Timestamp,
};
use agentry_testkit::TempDir;
use agentry_testkit::postgres::Database;
use refinery::Target;

use crate::{KeyFilter, Options, OrgFilter, Scope, Sought, Store};

const ORG: OrgId = OrgId::from_bytes([1; 16]);
const AGENT: AgentId = AgentId::from_bytes([2; 16]);
const SESSION: SessionId = SessionId::from_bytes([3; 16]);
const LIMIT: Duration = Duration::from_secs(1);

/// An agent, a session with a name and one of nobody, and a document of text
/// search, as version 1 had them. `vector` is what PostgreSQL has besides.
fn rows(blob: impl Fn(u8) -> String, vector: &str) -> String {
    let (org, agent, [one, two]) = (blob(1), blob(2), [blob(3), blob(4)]);
    let (scope, token) = (blob(9), "09".repeat(16));
    format!(
        "insert into text_doc (org, id, session, scope, length, tokens{terms}) values \
             ({org}, {agent}, {one}, {scope}, 2, '§{token} dog biscuit'{vector}); \
         insert into counter values ({org}, 'text_documents', {scope}, 1), \
             ({org}, 'text_tokens', {scope}, 2);",
        terms = if vector.is_empty() { "" } else { ", terms" },
    ) + &format!(
        "insert into agent values ({org}, {agent}, 'ada', 'says \"hi\"', 'special', 'busy', \
             'compatible/a/b', 'Line one\nline two', '[]', 1, 0, 7, '{{\"n\":1.50}}', \
             '{{\"k\":[null]}}', '{{}}', 'did:agent:ada:02020202', 4, 1000000, 2000000); \
         insert into session values ({org}, {one}, 'home', 'u1', 'web', 'paused', \
             '{{\"a\":{{}}}}', 2, 1000000, 3000000); \
         insert into session values ({org}, {two}, null, '', null, 'active', '{{}}', 1, 1, 1);"
    )
}

/// Two organisations and their keys, as version 8 had them.
fn keys(blob: impl Fn(u8) -> String, hash: impl Fn(u8) -> String) -> String {
    let (org, other) = (blob(1), blob(5));
    format!(
        "insert into org values ({org}, 'default', 1000000), ({other}, 'the \"other\"', 2000000); \
         insert into api_key values ({}, {org}, {}, 'owner', 'owner', 'ak_1234567', 1000000), \
             ({}, {org}, {}, 'bills', 'service', 'ak_89abcde', 3000000), \
             ({}, {other}, {}, 'theirs', 'owner', 'ak_fedcba9', 2000000);",
        hash(6),
        blob(6),
        hash(7),
        blob(7),
        hash(8),
        blob(8),
    )
}

async fn the_keys_are_there(store: &Store) {
    let page = PageRequest { order: Order::Ascending, ..PageRequest::default() };
    let list = async |org| {
        store.resource_list::<KeyBody>(org, &KeyFilter::default(), &page).await.unwrap()
    };
    let other = OrgId::from_bytes([5; 16]);
    let expected = [
        (ORG, 6, "owner", Role::Owner, "ak_1234567", 1_000_000),
        (ORG, 7, "bills", Role::Service, "ak_89abcde", 3_000_000),
        (other, 8, "theirs", Role::Owner, "ak_fedcba9", 2_000_000),
    ];
    let (ours, theirs) = (list(ORG).await, list(other).await);
    assert_eq!((ours.total, theirs.total), (2, 1));
    for (document, (org, byte, name, role, prefix, at)) in
        ours.items.iter().chain(&theirs.items).zip(expected)
    {
        let key = document.entity().unwrap();
        assert_eq!((key.id, key.version), (KeyId::from_bytes([byte; 16]), 1));
        let at = Timestamp::from_micros(at);
        assert_eq!((key.created_at, key.updated_at), (at, at));
        let body = KeyBody {
            name: name.to_owned(),
            role,
            scopes: Vec::new(),
            expires_at: None,
            prefix: prefix.to_owned(),
            created_by: None,
        };
        assert_eq!(key.body, body);
        // The document is whole, though the stored one had no head.
        let json: serde_json::Value = serde_json::from_str(&document.json).unwrap();
        assert_eq!(
            (&json["id"], &json["role"]),
            (&key.id.to_string().into(), &role.as_str().into())
        );
        let caller = store.key_caller(&[byte; 32]).await.unwrap().unwrap();
        let tier = Some(Tier::Standard);
        assert_eq!(caller, Caller { tier, ..Caller::of(org, Some(key.id), role) });
    }
    let orgs = store.resource_list::<OrgBody>(ORG, &OrgFilter::default(), &page).await.unwrap();
    let named: Vec<_> =
        orgs.items.iter().map(|org| (org.id, org.entity().unwrap().body.name)).collect();
    assert_eq!(named, [(ORG, "default".to_owned()), (other, "the \"other\"".to_owned())]);
    assert_eq!(orgs.total, 2);
    assert_eq!(store.org_ids().await.unwrap(), [ORG, other]);
}

async fn everything_is_there(store: &Store) {
    let json = |text: &str| JsonText::known(text.to_owned());
    let agent = store.resource_get::<AgentBody>(ORG, AGENT).await.unwrap().unwrap();
    let expected = AgentBody {
        name: "ada".into(),
        description: "says \"hi\"".into(),
        agent_type: "special".into(),
        status: AgentStatus::Busy,
        model: "compatible/a/b".into(),
        fallback_models: Vec::new(),
        instructions: "Line one\nline two".into(),
        tools: json("[]"),
        memory: MemoryPolicy { recall: true, remember: false, limit: 7 },
        cache_ttl_s: 0,
        coalesce: false,
        cache_shared: false,
        limits: AgentLimits::default(),
        configuration: json(r#"{"n":1.50}"#),
        metadata: json(r#"{"k":[null]}"#),
        resource_limits: json("{}"),
        did: "did:agent:ada:02020202".into(),
    };
    assert_eq!(agent.entity().unwrap().body, expected);
    // The document is whole, though the stored one had no head.
    let document: serde_json::Value = serde_json::from_str(&agent.json).unwrap();
    assert_eq!((&document["version"], &document["id"]), (&4.into(), &AGENT.to_string().into()));
    assert_eq!(agent.updated_at, Timestamp::from_micros(2_000_000));
    assert_eq!(agent.updated_at.since(agent.created_at), LIMIT);

    let page = PageRequest::default();
    let Page { items, .. } =
        store.resource_list::<SessionBody>(ORG, &Default::default(), &page).await.unwrap();
    let bodies: Vec<_> = items.iter().map(|item| item.entity().unwrap().body).collect();
    let named = SessionBody {
        name: Some("home".into()),
        user_id: Some("u1".into()),
        origin: Some("web".into()),
        status: SessionStatus::Paused,
        metadata: json(r#"{"a":{}}"#),
    };
    assert_eq!(bodies, [SessionBody::default(), named]);
    assert!(items[1].json.contains(r#""session_name":"home""#), "{}", items[1].json);
    let found = store.session_of_user(ORG, Some("u1"), "home").await.unwrap().unwrap();
    assert_eq!(found.id, SESSION);
    let scope = Sought::within(Scope::session(SessionId::from_bytes([9; 16])));
    for (query, hits) in [("biscuit", 1), ("cat", 0)] {
        let found = store.text_search(ORG, &scope, query, 5).await.unwrap();
        assert_eq!(found.len(), hits, "{query}");
    }
}

#[tokio::test]
async fn on_sqlite() {
    let directory = TempDir::new();
    let path = directory.path().join(crate::sqlite::FILE_NAME);
    let mut connection = crate::sqlite::open_writer(&path).unwrap();
    let first = crate::sqlite::migrations::migrations::runner().set_target(Target::Version(1));
    first.run(&mut connection).unwrap();
    connection
        .execute_batch(&rows(|byte| format!("x'{}'", format!("{byte:02x}").repeat(16)), ""))
        .unwrap();
    drop(connection);
    let store = Store::open(&Options::sqlite(directory.path())).await.unwrap();
    everything_is_there(&store).await;
    store.close().await;
}

#[tokio::test]
async fn keys_and_organisations_on_sqlite() {
    let directory = TempDir::new();
    let path = directory.path().join(crate::sqlite::FILE_NAME);
    let mut connection = crate::sqlite::open_writer(&path).unwrap();
    let before = crate::sqlite::migrations::migrations::runner().set_target(Target::Version(8));
    before.run(&mut connection).unwrap();
    let bytes = |byte: u8, n| format!("x'{}'", format!("{byte:02x}").repeat(n));
    connection.execute_batch(&keys(|byte| bytes(byte, 16), |byte| bytes(byte, 32))).unwrap();
    drop(connection);
    let store = Store::open(&Options::sqlite(directory.path())).await.unwrap();
    the_keys_are_there(&store).await;
    store.close().await;
}

#[tokio::test]
#[expect(clippy::disallowed_methods, reason = "it ends with the test's runtime")]
async fn keys_and_organisations_on_postgres() {
    let database = Database::create().await;
    let (mut client, connection) =
        tokio_postgres::connect(database.url(), tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    let before = crate::postgres::migrations::migrations::runner().set_target(Target::Version(8));
    before.run_async(&mut client).await.unwrap();
    let bytes = |byte: u8, n| format!("'\\x{}'::bytea", format!("{byte:02x}").repeat(n));
    client.batch_execute(&keys(|byte| bytes(byte, 16), |byte| bytes(byte, 32))).await.unwrap();
    drop(client);
    let store = Store::open(&Options::postgres(database.url())).await.unwrap();
    the_keys_are_there(&store).await;
    store.close().await;
}

#[tokio::test]
#[expect(clippy::disallowed_methods, reason = "it ends with the test's runtime")]
async fn on_postgres() {
    let database = Database::create().await;
    let (mut client, connection) =
        tokio_postgres::connect(database.url(), tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    let first = crate::postgres::migrations::migrations::runner().set_target(Target::Version(1));
    first.run_async(&mut client).await.unwrap();
    let bytes = |byte| format!("'\\x{}'::bytea", format!("{byte:02x}").repeat(16));
    let vector = ", array_to_tsvector(array['§old', 'dog', 'biscuit'])";
    client.batch_execute(&rows(bytes, vector)).await.unwrap();
    drop(client);
    let store = Store::open(&Options::postgres(database.url())).await.unwrap();
    everything_is_there(&store).await;
    store.close().await;
}
