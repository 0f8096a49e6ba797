//! What leads to a user, within its organisation.

use agentry_domain::users::{User, UserBody, alias_candidates};
use agentry_domain::{Code, OrgId, UserId};
use agentry_store::{Store, Write};

use crate::bed::Bed;
use crate::make;

fn user(user_id: Option<&str>, email: Option<&str>) -> User {
    let body = UserBody {
        user_id: user_id.map(str::to_owned),
        email: email.map(str::to_owned),
        user_data: make::json(r#"{"a":1.50}"#),
        ..UserBody::default()
    };
    User::new(UserId::from_uuid(make::uuid()), body, make::now())
}

fn insert(org: OrgId, user: &User) -> Write {
    let mut write = Write::new(org);
    write.user_alias_insert(user.id, &user.aliases(user.id));
    write.resource_insert(&user.body, &user.document().unwrap());
    write
}

async fn found(store: &Store, org: OrgId, text: &str) -> Vec<UserId> {
    let found = store.user_by_alias(org, &alias_candidates(text)).await.unwrap();
    found.into_iter().map(|(_, user)| user.id).collect()
}

pub(crate) async fn what_leads_to_a_user_stays_in_its_organisation(bed: Bed) {
    let store = bed.open().await;
    let (org, other) = (make::org(), make::org());
    let (here, there) = (user(Some("u"), Some("U@b")), user(Some("u"), Some("u@B")));
    store.write(insert(org, &here)).await.unwrap();
    store.write(insert(other, &there)).await.unwrap();
    for text in ["u", "u@b", "U@B", &here.id.to_string()] {
        assert_eq!(found(&store, org, text).await, [here.id], "{text}");
    }
    assert_eq!(found(&store, other, "u").await, [there.id]);
    assert_eq!(found(&store, other, &here.id.to_string()).await, []);
    assert_eq!(store.user_alias_holder(org, "u").await.unwrap(), Some(here.id));
    assert_eq!(store.user_alias_holder(make::org(), "u").await.unwrap(), None);
    // An id goes before a mail address, whoever has them.
    let named = user(Some("U@b"), None);
    store.write(insert(org, &named)).await.unwrap();
    assert_eq!(found(&store, org, "U@b").await, [named.id, here.id]);

    let refused = make::refused(store.write(insert(org, &user(Some("x"), Some("u@b")))).await);
    assert_eq!(refused.code, Code::AlreadyExists);
    assert!(refused.detail.contains("u@b"), "{refused}");
    assert_eq!(found(&store, org, "x").await, []);
    let mut write = Write::new(org);
    write.user_alias_delete(here.id, &here.aliases(here.id));
    store.write(write).await.unwrap();
    store.write(insert(org, &user(Some("x"), Some("u@b")))).await.unwrap();
    assert_eq!(found(&store, other, "u@b").await, [there.id]);
}
