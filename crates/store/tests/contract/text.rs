//! Text search: a scope's own documents and no other's, gone with the session,
//! and the same answer on both engines.

use agentry_domain::OrgId;
use agentry_domain::memories::{Memory, MemoryAccess, MemoryBody, MemoryReadMode};
use agentry_domain::sessions::{Message, MessageRole};
use agentry_store::{Hit, MemorySought, Scope, Sought, Store, Write};
use proptest::test_runner::{RngAlgorithm, TestRng};

use crate::bed::Bed;
use crate::make;

const SEED: [u8; 32] = *b"the same words on every engine!!";
const WORDS: &[&str] = &[
    "dog", "dogs", "Rex", "café", "München", "runs", "running", "quickly", "blue", "house",
    "v2.10", "user_id", "漢字", "price", "42", "o'clock", "river", "stone", "paper", "naïve",
];

async fn tell(store: &Store, org: OrgId, scope: Scope, message: &Message) {
    let mut write = Write::new(org);
    write.message_insert(message);
    write.text_insert(message.id, message.session, scope, &message.content);
    store.write(write).await.unwrap();
}

async fn search(store: &Store, org: OrgId, scope: Scope, query: &str) -> Vec<Hit> {
    store.text_search(org, &Sought::within(scope), query, 5).await.unwrap()
}

pub(crate) async fn a_scope_finds_its_own_and_no_other(bed: Bed) {
    let store = bed.open().await;
    let (org, other) = (make::org(), make::org());
    let session = make::session(None, None).id;
    let scopes = [
        (org, Scope::user(org, "u1")),
        (org, Scope::user(org, "u2")),
        (other, Scope::user(other, "u1")),
        (org, Scope::session(session)),
    ];
    let mut told = Vec::new();
    for (org, scope) in scopes {
        let message = make::message(session, MessageRole::User, "My dog is called Rex.");
        tell(&store, org, scope, &message).await;
        told.push(message.id);
    }
    for ((org, scope), id) in scopes.into_iter().zip(&told) {
        let found = search(&store, org, scope, "What is the dog's name?").await;
        // What was acknowledged is found at once, and only there.
        assert_eq!(found.iter().map(|hit| hit.id).collect::<Vec<_>>(), [id.to_bytes()]);
        assert!(found[0].score > 0.0 && found[0].session == session);
    }
    for query in ["", "§ ' \" & | ! ( ) : * \\", "the", "zebra"] {
        let found = search(&store, org, scopes[0].1, query).await;
        assert!(found.is_empty(), "{query}: {found:?}");
    }
    let crossed = search(&store, other, scopes[0].1, "dog").await;
    assert!(crossed.is_empty());
    // A text without words, one of one endless word, and one that is too long.
    let endless = "x".repeat(50_000);
    let long: String = (0..60_000).map(|nth| format!("word{nth} ")).collect();
    for text in ["…", &endless, &long] {
        let message = make::message(session, MessageRole::User, text);
        tell(&store, org, scopes[0].1, &message).await;
    }
    assert_eq!(search(&store, org, scopes[0].1, &endless).await.len(), 1);
    assert_eq!(search(&store, org, scopes[0].1, "word17").await.len(), 1);
}

pub(crate) async fn a_deleted_session_is_forgotten(bed: Bed) {
    let store = bed.open().await;
    let org = make::org();
    let scope = Scope::user(org, "u");
    let (kept, deleted) = (make::session(None, Some("u")), make::session(None, Some("u")));
    for session in [&kept, &deleted] {
        store.write(make::session_write(org, session)).await.unwrap();
        let message = make::message(session.id, MessageRole::User, "Rex likes the river");
        tell(&store, org, scope, &message).await;
    }
    let before = search(&store, org, scope, "river").await;
    assert_eq!(before.len(), 2);
    let mut write = Write::new(org);
    write.session_delete(deleted.id, 1);
    store.write(write).await.unwrap();
    let after = search(&store, org, scope, "river").await;
    assert_eq!(after.iter().map(|hit| hit.session).collect::<Vec<_>>(), [kept.id]);
    // Its documents count for nothing any more.
    let fresh = make::org();
    let alone = Scope::user(fresh, "u");
    let message = make::message(kept.id, MessageRole::User, "Rex likes the river");
    tell(&store, fresh, alone, &message).await;
    let alone = search(&store, fresh, alone, "river").await;
    assert!((after[0].score - alone[0].score).abs() < 1e-9);
}

pub(crate) async fn memories_are_found_by_words_user_and_marks(bed: Bed) {
    let store = bed.open().await;
    let (org, other) = (make::org(), make::org());
    let memory = |user: Option<&str>, agent: Option<&str>, access, read_mode| {
        let owned = |text: Option<&str>| text.map(str::to_owned);
        make::memory(MemoryBody {
            content: "The river is cold".to_owned(),
            user_id: owned(user),
            agent_id: owned(agent),
            access,
            read_mode,
            ..MemoryBody::default()
        })
    };
    let (private, shared) = (MemoryAccess::Private, MemoryAccess::Shared);
    let (auto, manual) = (MemoryReadMode::Auto, MemoryReadMode::Manual);
    let memories = [
        memory(Some("u1"), None, private, auto),
        memory(Some("u1"), None, shared, auto),
        memory(Some("u2"), None, private, auto),
        memory(None, None, private, auto),
        memory(Some("u1"), Some("a"), private, auto),
        memory(Some("u1"), None, private, manual),
    ];
    for memory in &memories {
        store.write(make::memory_write(org, memory)).await.unwrap();
    }
    let found = |org, sought: Sought| {
        let (store, memories) = (&store, &memories);
        async move {
            let hits = store.text_search(org, &sought, "How cold is the river?", 9).await.unwrap();
            let place = |hit: &Hit| memories.iter().position(|it| it.id.to_bytes() == hit.id);
            let mut places: Vec<_> = hits.iter().map(|hit| place(hit).unwrap()).collect();
            places.sort_unstable();
            places
        }
    };
    let by = |user_id, agent_id| MemorySought { user_id, agent_id, session_id: None };
    assert_eq!(found(org, by(None, None).in_search(org)).await, [1, 3]);
    assert_eq!(found(org, by(Some("u1"), None).in_search(org)).await, [0, 1, 3, 4, 5]);
    assert_eq!(found(org, by(Some("u2"), None).in_search(org)).await, [1, 2, 3]);
    assert_eq!(found(org, by(Some("u1"), Some("a")).in_search(org)).await, [4]);
    assert_eq!(found(org, MemorySought::in_run(Some("u1"), "a", org)).await, [0, 1, 3, 4]);
    assert_eq!(found(org, MemorySought::in_run(Some("u1"), "b", org)).await, [0, 1, 3]);
    assert!(found(other, by(Some("u1"), None).in_search(other)).await.is_empty());
    assert!(found(other, by(Some("u1"), None).in_search(org)).await.is_empty());

    // Changed, it is found as it is; deleted, not at all; and both count for nothing.
    let mut write = Write::new(org);
    let changed = MemoryBody { content: "The lake is warm".to_owned(), ..memories[0].body.clone() };
    write.memory_index_again(memories[0].id, &memories[0].body, &changed);
    write.memory_delete(memories[1].id, 1);
    store.write(write).await.unwrap();
    assert_eq!(found(org, by(Some("u1"), None).in_search(org)).await, [3, 4, 5]);
    let lake = by(Some("u1"), None).in_search(org);
    let hits = store.text_search(org, &lake, "lake", 9).await.unwrap();
    assert_eq!(hits.len(), 1);
    let fresh = make::org();
    for (place, body) in [(0, &changed), (3, &memories[3].body), (4, &memories[4].body)]
        .into_iter()
        .chain([(5, &memories[5].body), (2, &memories[2].body)])
    {
        let memory = Memory { body: body.clone(), ..memories[place].clone() };
        store.write(make::memory_write(fresh, &memory)).await.unwrap();
    }
    let lake = by(Some("u1"), None).in_search(fresh);
    let anew = store.text_search(fresh, &lake, "lake", 9).await.unwrap();
    assert!((hits[0].score - anew[0].score).abs() < 1e-9);
}

fn sentence(rng: &mut TestRng, words: usize) -> String {
    use proptest::prelude::Rng as _;
    let pick = |rng: &mut TestRng| WORDS[rng.next_u32() as usize % WORDS.len()];
    (0..words).map(|_| pick(rng)).collect::<Vec<_>>().join(" ")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_engines_give_the_same_answer() {
    let beds = [Bed::sqlite(), Bed::postgres().await];
    let stores = [beds[0].open().await, beds[1].open().await];
    let org = make::org();
    let scopes = [Scope::user(org, "u1"), Scope::user(org, "u2")];
    let session = make::session(None, None).id;
    let mut rng = TestRng::from_seed(RngAlgorithm::ChaCha, &SEED);
    for nth in 0..150 {
        let content = sentence(&mut rng, 3 + nth % 12);
        let message = make::message(session, MessageRole::User, &content);
        for store in &stores {
            tell(store, org, scopes[nth % 2], &message).await;
        }
    }
    let mut hits = 0;
    for nth in 0..40 {
        let query = sentence(&mut rng, 1 + nth % 4);
        for scope in scopes {
            let scope = Sought::within(scope);
            let sqlite = stores[0].text_search(org, &scope, &query, 20).await.unwrap();
            let postgres = stores[1].text_search(org, &scope, &query, 20).await.unwrap();
            same(&query, &sqlite, &postgres);
            hits += sqlite.len();
        }
    }
    assert!(hits > 200, "{hits} hits are too few to tell");
}

fn same(query: &str, one: &[Hit], other: &[Hit]) {
    let ids = |hits: &[Hit]| hits.iter().map(|hit| hit.id).collect::<Vec<_>>();
    assert_eq!(ids(one), ids(other), "{query}");
    for (one, other) in one.iter().zip(other) {
        assert!((one.score - other.score).abs() < 1e-9, "{query}: {one:?} {other:?}");
        assert!((one.coverage - other.coverage).abs() < 1e-9, "{query}: {one:?} {other:?}");
    }
}
