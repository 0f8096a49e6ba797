//! MCP servers with what they have beside their documents, and the calls of runs that
//! go on: under the fence of the run's job, gone with the run's end.

use agentry_domain::mcp_servers::{McpServer, McpServerBody, McpState, McpStatus};
use agentry_domain::runs::RunStatus;
use agentry_domain::tools::{RunCall, RunCallStatus};
use agentry_domain::{Code, McpServerId, PageRequest, RunId};
use agentry_store::{ClaimedJob, McpServerFilter, Write};

use crate::bed::Bed;
use crate::{lanes, make};

fn server(name: &str) -> McpServer {
    let body = McpServerBody { name: name.to_owned(), ..McpServerBody::default() };
    McpServer::new(McpServerId::from_bytes(make::job().to_bytes()), body, make::now())
}

pub(crate) async fn an_mcp_server_keeps_its_secrets_and_its_catalogue(bed: Bed) {
    let store = bed.open().await;
    let (org, other) = (make::org(), make::org());
    let put = async |server: &McpServer, secrets: Option<&[u8]>, max| {
        let mut write = Write::new(org);
        write.resource_insert(&server.body, &server.document().unwrap());
        write.mcp_state_insert(server.id, secrets, max);
        store.write(write).await
    };
    let one = server("one");
    put(&one, Some(b"sealed"), 2).await.unwrap();
    assert_eq!(make::refused(put(&server("one"), None, 2).await).code, Code::AlreadyExists);
    put(&server("two"), None, 2).await.unwrap();
    assert_eq!(make::refused(put(&server("three"), None, 2).await).code, Code::QuotaExceeded);

    let found = store.mcp_server_by_name(org, "one").await.unwrap().unwrap();
    assert_eq!(found.entity().unwrap(), one);
    assert_eq!(store.mcp_server_by_name(other, "one").await.unwrap(), None);
    let filter = McpServerFilter { status: Some(McpStatus::Stopped), ..Default::default() };
    let page = PageRequest::default();
    let listed = store.resource_list::<McpServerBody>(org, &filter, &page).await.unwrap();
    assert_eq!(listed.items.len(), 2);
    let filter = McpServerFilter { name: Some("two".to_owned()), ..Default::default() };
    let listed = store.resource_list::<McpServerBody>(org, &filter, &page).await.unwrap();
    assert_eq!(listed.items.len(), 1);

    let state = store.mcp_state(org, one.id).await.unwrap();
    let first = McpState { secrets: Some(b"sealed".to_vec()), ..McpState::default() };
    assert_eq!(state, first);
    assert_eq!(make::refused(store.mcp_state(other, one.id).await).code, Code::NotFound);
    let set = async |catalogue: &str, revision| {
        let mut write = Write::new(org);
        write.mcp_catalogue_set(one.id, catalogue, revision);
        store.write(write).await
    };
    set("[1]", 0).await.unwrap();
    assert_eq!(make::refused(set("[2]", 0).await).code, Code::PreconditionFailed);
    let mut write = Write::new(org);
    write.mcp_secrets_set(one.id, None);
    write.mcp_connections_end(one.id);
    store.write(write).await.unwrap();
    let catalogue = Some("[1]".to_owned());
    let expected = McpState { secrets: None, catalogue, revision: 1, epoch: 1 };
    assert_eq!(store.mcp_state(org, one.id).await.unwrap(), expected);
    let marks = store.mcp_marks(org, one.id).await.unwrap();
    assert_eq!((marks.revision, marks.epoch), (1, 1));

    let mut write = Write::new(org);
    write.mcp_server_delete(one.id, one.version);
    store.write(write).await.unwrap();
    assert_eq!(make::refused(store.mcp_state(org, one.id).await).code, Code::NotFound);
    put(&server("three"), None, 2).await.unwrap();
}

pub(crate) async fn calls_of_a_run_are_kept_until_its_end(bed: Bed) {
    let store = bed.open().await;
    let (org, worker) = (make::org(), make::worker());
    let session = make::session(None, None).id;
    let job = lanes::begin(&store, org, session.to_bytes(), worker).await.unwrap();
    let mut run = make::run(make::agent("ada").id, session, None);
    run.id = RunId::from_bytes(job.id.to_bytes());
    run.tools.clear();
    let mut write = Write::new(org);
    write.run_insert(&run);
    store.write(write).await.unwrap();
    run.status = RunStatus::Running;
    run.attempt = 1;
    let mut write = Write::new(org);
    write.run_begin(&run);
    store.write(write).await.unwrap();

    let mut call = RunCall {
        id: "c1".to_owned(),
        name: "memory_search".to_owned(),
        server: None,
        arguments: make::json(r#"{"query":"x"}"#),
        signature: None,
        effects: false,
        status: RunCallStatus::Started,
        output: None,
        truncated: false,
        error_code: None,
        step: 1,
        started_offset: 3,
        started_news: 0,
        finished_news: None,
        started_at: make::now(),
        finished_at: None,
    };
    let save = async |job: &ClaimedJob, calls: &[(u32, &RunCall)]| {
        let mut write = Write::new(org);
        write.run_tools_save(job, calls)?;
        store.write(write).await
    };
    save(&job, &[(0, &call)]).await.unwrap();
    assert!(!store.run_tools_had_effects(org, run.id).await.unwrap());
    call.status = RunCallStatus::Succeeded;
    call.output = Some("found".to_owned());
    let effect = RunCall { id: "c2".to_owned(), effects: true, started_news: 1, ..call.clone() };
    save(&job, &[(0, &call), (1, &effect)]).await.unwrap();
    assert_eq!(store.run_tools(org, run.id, 1).await.unwrap(), [call.clone(), effect.clone()]);
    assert!(store.run_tools(org, run.id, 2).await.unwrap().is_empty());
    assert!(store.run_tools(make::org(), run.id, 1).await.unwrap().is_empty());
    assert!(store.run_tools_had_effects(org, run.id).await.unwrap());
    let stranger = ClaimedJob { fence: job.fence + 1, ..job };
    assert_eq!(make::refused(save(&stranger, &[(0, &call)]).await).code, Code::Conflict);

    run.tools = vec![call, effect];
    run.status = RunStatus::Succeeded;
    run.finished_at = Some(make::now());
    let mut write = Write::new(org);
    write.job_end(&job);
    write.run_finish(&run, None, None);
    store.write(write).await.unwrap();
    assert!(store.run_tools(org, run.id, 1).await.unwrap().is_empty());
    assert_eq!(store.run_get(org, run.id).await.unwrap().unwrap().tools, run.tools);
}
