//! Text of runs that go on: stored under the fence of the run's job, read from any
//! place, gone with the run's end.

use agentry_domain::runs::RunStatus;
use agentry_domain::{Code, OrgId, RunId};
use agentry_store::{ClaimedJob, RunChunk, RunsChanged, Store, Write};
use agentry_testkit::WAIT_MAX;

use crate::bed::Bed;
use crate::{lanes, make};

async fn append(
    store: &Store,
    job: &ClaimedJob,
    offset: u64,
    text: &str,
) -> Result<(), agentry_store::StoreError> {
    let mut write = Write::new(job.org);
    write.run_chunk_append(job, RunChunk { offset, text: text.to_owned() });
    store.write(write).await.map(drop)
}

async fn texts(store: &Store, org: OrgId, run: RunId, attempt: i64, offset: u64) -> Vec<String> {
    let chunks = store.run_chunks(org, run, attempt, offset, 2).await.unwrap();
    chunks.into_iter().map(|chunk| chunk.text).collect()
}

pub(crate) async fn text_of_a_run_is_kept_until_its_end(bed: Bed) {
    let store = bed.open().await;
    let (org, worker) = (make::org(), make::worker());
    let session = make::session(None, None).id;
    let job = lanes::begin(&store, org, session.to_bytes(), worker).await.unwrap();
    let mut run = make::run(make::agent("ada").id, session, None);
    run.id = RunId::from_bytes(job.id.to_bytes());
    let mut write = Write::new(org);
    write.run_insert(&run);
    store.write(write).await.unwrap();
    run.status = RunStatus::Running;
    run.attempt = 1;
    let mut write = Write::new(org);
    write.run_begin(&run);
    store.write(write).await.unwrap();
    let progress = store.run_progress(org, run.id).await.unwrap().unwrap();
    assert_eq!((progress.attempt, progress.status, progress.session), (1, run.status, session));
    assert_eq!(store.run_progress(make::org(), run.id).await.unwrap(), None);

    for (offset, text) in [(0, "Grü"), (4, "ße"), (7, ", Welt")] {
        append(&store, &job, offset, text).await.unwrap();
    }
    // A write whose answer was lost goes again, with what came to it.
    append(&store, &job, 7, ", Welt!").await.unwrap();
    assert_eq!(texts(&store, org, run.id, 1, 0).await, ["Grü", "ße"], "a page");
    assert_eq!(texts(&store, org, run.id, 1, 3).await, ["Grü", "ße"], "from within one");
    assert_eq!(texts(&store, org, run.id, 1, 4).await, ["ße", ", Welt!"]);
    assert_eq!(texts(&store, org, run.id, 1, 99).await, [", Welt!"]);
    assert!(texts(&store, org, run.id, 2, 0).await.is_empty());
    assert!(texts(&store, make::org(), run.id, 1, 0).await.is_empty());
    // Whoever lost the job cannot write to its run.
    let stranger = ClaimedJob { fence: job.fence + 1, ..job };
    assert_eq!(make::refused(append(&store, &stranger, 14, "?").await).code, Code::Conflict);

    run.status = RunStatus::Succeeded;
    run.finished_at = Some(make::now());
    let mut write = Write::new(org);
    write.job_end(&job);
    write.run_finish(&run, None, None);
    store.write(write).await.unwrap();
    assert!(texts(&store, org, run.id, 1, 0).await.is_empty());
    assert_eq!(make::refused(append(&store, &job, 14, "?").await).code, Code::Conflict);
    store.close().await;
}

/// What one process adds to a run the others hear of.
pub(crate) async fn runs_that_go_on_are_told(bed: Bed) {
    let store = bed.open().await;
    let Some(mut heard) = store.runs_changed() else {
        // One process has an SQLite store, and nobody is to be told.
        return store.close().await;
    };
    let other = bed.open().await;
    let (org, worker) = (make::org(), make::worker());
    let lane = make::uuid().into_bytes();
    let job = lanes::begin(&other, org, lane, worker).await.unwrap();
    append(&other, &job, 0, "text").await.unwrap();
    let run = RunId::from_bytes(job.id.to_bytes());
    let told = async {
        loop {
            match heard.recv().await.unwrap() {
                RunsChanged::These(runs) if runs.contains(&run) => return,
                RunsChanged::These(_) | RunsChanged::Any => {}
            }
        }
    };
    tokio::time::timeout(WAIT_MAX, told).await.expect("it is told");
    other.close().await;
    store.close().await;
}
