//! Every field that goes in comes out, within its organisation.

use std::time::Duration;

use agentry_domain::agents::{AgentStatus, MemoryPolicy};
use agentry_domain::chat::ChatMessage;
use agentry_domain::keys::{Key, KeyBody};
use agentry_domain::runs::{Run, RunError, RunStatus, Stop, Usage};
use agentry_domain::sessions::{MessageRole, SessionStatus};
use agentry_domain::{
    Caller, Code, KeyId, MessageId, PageRequest, Permission, Role, RunId, Tier, Timestamp,
};
use agentry_store::Write;

use crate::bed::Bed;
use crate::kept::{ReadWhole as _, WriteWhole as _};
use crate::make;

pub(crate) async fn agents_keep_every_field(bed: Bed) {
    let store = bed.open().await;
    let (org, other) = (make::org(), make::org());
    let mut agent = make::agent("ada");
    store.write(make::agent_write(org, &agent)).await.unwrap();
    assert_eq!(store.agent_get(org, agent.id).await.unwrap().as_ref(), Some(&agent));
    assert_eq!(store.agent_get(other, agent.id).await.unwrap(), None);

    agent.body.name = "grace".to_owned();
    agent.body.description = String::new();
    agent.body.agent_type = "special".to_owned();
    agent.body.status = AgentStatus::Suspended;
    agent.body.model = "compatible/a/b".to_owned();
    agent.body.instructions = "x".repeat(100_000);
    agent.body.tools = make::json("[]");
    agent.body.memory = MemoryPolicy { recall: false, remember: true, limit: 50 };
    agent.body.configuration = make::json(r#"{"k":[1,2]}"#);
    agent.body.metadata = make::json("{}");
    agent.body.resource_limits = make::json(r#"{"cpu":1}"#);
    agent.updated_at = make::now();
    let mut write = Write::new(org);
    write.agent_update(&agent);
    store.write(write).await.unwrap();
    agent.version = 2;
    assert_eq!(store.agent_get(org, agent.id).await.unwrap().as_ref(), Some(&agent));
    let named = store.agent_by_name(org, "grace", 5).await.unwrap();
    assert_eq!(named, [agent.document().unwrap()]);
    assert!(store.agent_by_name(org, "ada", 5).await.unwrap().is_empty());
    assert!(store.agent_by_name(other, "grace", 5).await.unwrap().is_empty());
    let summaries = store.agent_summaries(org, 5).await.unwrap();
    assert_eq!(summaries.len(), 1);
    assert_eq!((summaries[0].id, summaries[0].name.as_str()), (agent.id, "grace"));

    let mut write = Write::new(org);
    write.agent_delete(agent.id, 2);
    store.write(write).await.unwrap();
    assert_eq!(store.agent_get(org, agent.id).await.unwrap(), None);
}

pub(crate) async fn sessions_keep_every_field(bed: Bed) {
    let store = bed.open().await;
    let (org, other) = (make::org(), make::org());
    let mut full = make::session(Some("home"), Some("u1"));
    let mut bare = make::session(None, None);
    bare.body.origin = None;
    for session in [&full, &bare] {
        store.write(make::session_write(org, session)).await.unwrap();
        assert_eq!(store.session_get(org, session.id).await.unwrap().as_ref(), Some(session));
        assert_eq!(store.session_get(other, session.id).await.unwrap(), None);
    }
    let of_user = |user| store.session_of_user(org, user, "home");
    let document = full.document().unwrap();
    assert_eq!(of_user(Some("u1")).await.unwrap().as_ref(), Some(&document));
    assert_eq!(of_user(Some("u2")).await.unwrap(), None);
    assert_eq!(of_user(None).await.unwrap(), None);
    assert_eq!(store.session_by_name(org, "home", 5).await.unwrap(), [document]);

    full.body.name = None;
    full.body.origin = None;
    full.body.status = SessionStatus::Crashed;
    full.body.metadata = make::json(r#"{"new":true}"#);
    full.updated_at = make::now();
    let mut write = Write::new(org);
    write.session_update(&full);
    store.write(write).await.unwrap();
    full.version = 2;
    assert_eq!(store.session_get(org, full.id).await.unwrap(), Some(full));
}

pub(crate) async fn messages_keep_every_field_and_their_order(bed: Bed) {
    let store = bed.open().await;
    let org = make::org();
    let session = make::session(None, None);
    store.write(make::session_write(org, &session)).await.unwrap();
    let mut told = Vec::new();
    for role in MessageRole::ALL.iter().chain(MessageRole::ALL) {
        let mut message = make::message(session.id, *role, "line one\nline two, ünï");
        message.run = Some(RunId::from_uuid(make::uuid()));
        message.metadata = r#"{"m":1}"#.to_owned();
        message.chat =
            (*role == MessageRole::Tool).then(|| ChatMessage::called("", vec![make::call("c1")]));
        let mut write = Write::new(org);
        write.session_exists(session.id);
        write.message_insert(&message);
        store.write(write).await.unwrap();
        let found = store.message_get(org, session.id, message.id).await.unwrap();
        assert_eq!(found.as_ref(), Some(&message));
        told.push(message);
    }
    let last = MessageId::from_bytes([0xff; 16]);
    let history = store.message_history(org, session.id, last, 4).await.unwrap();
    assert_eq!(history, told[told.len() - 4..]);
    let before = store.message_history(org, session.id, told[2].id, 50).await.unwrap();
    assert_eq!(before, told[..2]);

    let missing = make::session(None, None).id;
    let mut write = Write::new(org);
    write.session_exists(missing);
    write.message_insert(&make::message(missing, MessageRole::User, "nowhere"));
    assert_eq!(make::refused(store.write(write).await).code, Code::NotFound);
    let page = store.message_list(org, missing, &PageRequest::default()).await.unwrap();
    assert_eq!((page.items.len(), page.total), (0, 0));
}

pub(crate) async fn runs_keep_every_field(bed: Bed) {
    let store = bed.open().await;
    let (org, other) = (make::org(), make::org());
    let agent = make::agent("ada").id;
    let session = make::session(None, None).id;
    let mut run = make::run(agent, session, Some("u1"));
    let mut write = Write::new(org);
    write.run_insert(&run);
    store.write(write).await.unwrap();
    assert_eq!(store.run_get(org, run.id).await.unwrap().as_ref(), Some(&run));
    assert_eq!(store.run_get(other, run.id).await.unwrap(), None);

    run.status = RunStatus::Running;
    run.attempt = 3;
    run.started_at = Some(make::now());
    run.message = Some(MessageId::from_uuid(make::uuid()));
    let mut write = Write::new(org);
    write.run_begin(&run);
    store.write(write).await.unwrap();
    assert_eq!(store.run_get(org, run.id).await.unwrap().as_ref(), Some(&run));

    run.status = RunStatus::Failed;
    run.reply = Some("It is…".to_owned());
    run.error = Some(RunError { code: Code::ModelTimeout, detail: "no answer in 5 s".to_owned() });
    run.usage = Usage {
        input_tokens: Some(10),
        cached_input_tokens: Some(4),
        output_tokens: Some(0),
        cost_nanos: Some(2_500),
    };
    run.calls = vec![make::call("c2"), make::call("c3")];
    run.reply_message = Some(MessageId::from_uuid(make::uuid()));
    run.finish_reason = Some("tool_calls".to_owned());
    run.answered_by = Some("openai/m".to_owned());
    run.finished_at = Some(make::now());
    run.cached_from = Some(RunId::from_uuid(make::uuid()));
    let finish = |run: &Run, known| {
        let mut write = Write::new(org);
        write.run_finish(run, known, Some([7; 16]));
        write
    };
    // Somebody asks for its end meanwhile, which whoever ends it must know of.
    for (stop, counts) in [
        (Stop::Cancel, Stop::Cancel),
        (Stop::Rollback, Stop::Rollback),
        (Stop::Cancel, Stop::Rollback),
    ] {
        let mut write = Write::new(org);
        write.run_stop(run.id, stop);
        store.write(write).await.unwrap();
        assert_eq!(store.runs_stopping().await.unwrap(), [(org, run.id, counts)]);
    }
    let refused = make::refused(store.write(finish(&run, None)).await);
    assert_eq!(refused.code, Code::PreconditionFailed);
    run.stop = Some(Stop::Rollback);
    store.write(finish(&run, run.stop)).await.unwrap();
    assert_eq!(store.runs_stopping().await.unwrap(), []);
    let (before, after) = (RunId::from_uuid(make::uuid()), Timestamp::from_micros(0));
    let found = store.run_of_fingerprint(org, [7; 16], after, before).await.unwrap();
    assert_eq!(found, Some(run.id));
    let late = make::now();
    assert_eq!(store.run_of_fingerprint(org, [7; 16], late, before).await.unwrap(), None);
    assert_eq!(store.run_of_fingerprint(org, [7; 16], after, run.id).await.unwrap(), None);
    assert_eq!(store.run_get(org, run.id).await.unwrap().as_ref(), Some(&run));
    let ended = make::refused(store.write(finish(&run, run.stop)).await);
    assert_eq!(ended.code, Code::Conflict);

    let mut bare = make::run(agent, session, None);
    bare.warnings = Vec::new();
    bare.request = agentry_domain::runs::RunRequest {
        input: String::new(),
        timeout: Some(Duration::ZERO),
        ..Default::default()
    };
    let mut write = Write::new(org);
    write.run_insert(&bare);
    store.write(write).await.unwrap();
    assert_eq!(store.run_get(org, bare.id).await.unwrap(), Some(bare));
}

pub(crate) async fn keys_open_their_organisation(bed: Bed) {
    let store = bed.open().await;
    let (org, other) = (make::org(), make::org());
    let scopes = vec![Permission::AgentsRead, Permission::MetricsRead];
    let until = make::now().plus(Duration::from_secs(9));
    let mut callers = Vec::new();
    for (role, scopes, expires_at) in [
        (Role::Owner, Vec::new(), None),
        (Role::Admin, scopes, Some(until)),
        (Role::Owner, Vec::new(), Some(until)),
    ] {
        let id = KeyId::from_uuid(make::uuid());
        let hash = *blake3::hash(&id.to_bytes()).as_bytes();
        let (name, prefix) = ("k".to_owned(), "ak_0123456".to_owned());
        let body = KeyBody { name, role, scopes, expires_at, prefix, created_by: Some(id) };
        let key = Key::new(id, body, make::now());
        let mut write = Write::new(org);
        write.resource_insert(&key.body, &key.document().unwrap());
        write.key_secret_insert(&hash, id, &key);
        store.write(write).await.unwrap();
        // The store knows the tier of the key's organisation.
        let caller = Caller { tier: Some(Tier::default()), ..key.caller(org, id) };
        assert_eq!(store.key_caller(&hash).await.unwrap(), Some(caller));
        assert_eq!(store.key_caller_by_id(org, id).await.unwrap(), Some(caller));
        assert_eq!(store.key_caller_by_id(other, id).await.unwrap(), None);
        assert_eq!(store.key_hash(org, id).await.unwrap(), Some(hash));
        let kept = store.resource_get::<KeyBody>(org, id).await.unwrap().unwrap();
        assert_eq!(kept.entity().unwrap(), key);
        callers.push(caller);
    }
    assert_eq!(store.key_caller(&[0; 32]).await.unwrap(), None);
    let [first, _, passing] = [0, 1, 2].map(|nth| callers[nth].key.unwrap());
    let guarded = |id, at| {
        let mut write = Write::new(org);
        write.key_owner_stays(id, at);
        write.key_secret_delete(id);
        store.write(write)
    };
    // The other owner's key does not last so long.
    assert_eq!(make::refused(guarded(first, until).await).code, Code::Conflict);
    let mut write = Write::new(org);
    write.key_secret_expire(passing, None);
    store.write(write).await.unwrap();
    guarded(first, until).await.unwrap();
    assert!(!store.key_is_valid(org, first, until).await.unwrap());
    assert_eq!(make::refused(guarded(passing, until).await).code, Code::Conflict);
    assert!(store.key_is_valid(org, passing, until).await.unwrap());
}
