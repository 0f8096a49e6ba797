//! Text search: a scope's own documents and no other's, gone with the session,
//! and the same answer on both engines.

use agentry_domain::OrgId;
use agentry_domain::sessions::{Message, MessageRole};
use agentry_store::{Hit, Scope, Store, Write};
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
        let found = store.text_search(org, scope, "What is the dog's name?", 5).await.unwrap();
        // What was acknowledged is found at once, and only there.
        assert_eq!(found.iter().map(|hit| hit.message).collect::<Vec<_>>(), [*id]);
        assert!(found[0].score > 0.0 && found[0].session == session);
    }
    for query in ["", "§ ' \" & | ! ( ) : * \\", "the", "zebra"] {
        let found = store.text_search(org, scopes[0].1, query, 5).await.unwrap();
        assert!(found.is_empty(), "{query}: {found:?}");
    }
    let crossed = store.text_search(other, scopes[0].1, "dog", 5).await.unwrap();
    assert!(crossed.is_empty());
    // A text without words, one of one endless word, and one that is too long.
    let endless = "x".repeat(50_000);
    let long: String = (0..60_000).map(|nth| format!("word{nth} ")).collect();
    for text in ["…", &endless, &long] {
        let message = make::message(session, MessageRole::User, text);
        tell(&store, org, scopes[0].1, &message).await;
    }
    let found = store.text_search(org, scopes[0].1, &endless, 5).await.unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(store.text_search(org, scopes[0].1, "word17", 5).await.unwrap().len(), 1);
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
    let before = store.text_search(org, scope, "river", 5).await.unwrap();
    assert_eq!(before.len(), 2);
    let mut write = Write::new(org);
    write.session_delete(deleted.id, 1);
    store.write(write).await.unwrap();
    let after = store.text_search(org, scope, "river", 5).await.unwrap();
    assert_eq!(after.iter().map(|hit| hit.session).collect::<Vec<_>>(), [kept.id]);
    // Its documents count for nothing any more.
    let fresh = make::org();
    let alone = Scope::user(fresh, "u");
    let message = make::message(kept.id, MessageRole::User, "Rex likes the river");
    tell(&store, fresh, alone, &message).await;
    let alone = store.text_search(fresh, alone, "river", 5).await.unwrap();
    assert!((after[0].score - alone[0].score).abs() < 1e-9);
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
            let sqlite = stores[0].text_search(org, scope, &query, 20).await.unwrap();
            let postgres = stores[1].text_search(org, scope, &query, 20).await.unwrap();
            same(&query, &sqlite, &postgres);
            hits += sqlite.len();
        }
    }
    assert!(hits > 200, "{hits} hits are too few to tell");
}

fn same(query: &str, one: &[Hit], other: &[Hit]) {
    let messages = |hits: &[Hit]| hits.iter().map(|hit| hit.message).collect::<Vec<_>>();
    assert_eq!(messages(one), messages(other), "{query}");
    for (one, other) in one.iter().zip(other) {
        assert!((one.score - other.score).abs() < 1e-9, "{query}: {one:?} {other:?}");
        assert!((one.coverage - other.coverage).abs() < 1e-9, "{query}: {one:?} {other:?}");
    }
}
