//! What was acknowledged stays.

use agentry_domain::PageRequest;
use agentry_store::{AgentFilter, Store, StoreError};
use futures::future::join_all;

use crate::bed::{Bed, wait_until};
use crate::kept::ReadWhole as _;
use crate::make;

pub(crate) async fn what_was_acknowledged_is_there_after_reopening(bed: Bed) {
    let org = make::org();
    let agents: Vec<_> = (0..100).map(|nth| make::agent(&format!("a{nth}"))).collect();
    let store = bed.open().await;
    let writes = agents.iter().map(|agent| store.write(make::agent_write(org, agent)));
    for result in join_all(writes).await {
        result.unwrap();
    }
    store.close().await;
    drop(store);
    let store = bed.open().await;
    for agent in &agents {
        assert_eq!(store.agent_get(org, agent.id).await.unwrap().as_ref(), Some(agent));
    }
    let listed = store.agent_list(org, &AgentFilter::default(), &PageRequest::default()).await;
    assert_eq!(listed.unwrap().total, 100);
    wait_until("the log has every entry", || async { store.log_head().await.unwrap() == 100 })
        .await;
    assert_eq!(store.log_read(org, 0, 500).await.unwrap().len(), 100);
}

pub(crate) async fn a_newer_version_s_database_is_refused(bed: Bed) {
    let store = bed.open().await;
    store.close().await;
    drop(store);
    bed.execute(
        "insert into refinery_schema_history (version, name, applied_on, checksum) \
         values (999, 'future', '2030-01-01T00:00:00Z', '1')",
    )
    .await;
    assert!(Store::open(&bed.options()).await.is_err());
}

pub(crate) async fn a_closed_store_refuses(bed: Bed) {
    let store = bed.open().await;
    let org = make::org();
    store.ping().await.unwrap();
    store.close().await;
    let written = store.write(make::agent_write(org, &make::agent("late"))).await;
    assert!(matches!(written, Err(StoreError::Closed)), "{written:?}");
    let read = store.agent_get(org, make::agent("late").id).await;
    assert!(matches!(read, Err(StoreError::Closed)), "{read:?}");
    store.close().await;
}

#[tokio::test]
async fn a_second_process_may_not_open_an_sqlite_store() {
    let bed = Bed::sqlite();
    let store = bed.open().await;
    assert!(Store::open(&bed.options()).await.is_err());
    store.ping().await.unwrap();
    store.close().await;
    drop(store);
    bed.open().await.ping().await.unwrap();
}
