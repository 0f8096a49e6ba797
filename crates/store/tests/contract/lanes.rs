//! Lanes and jobs: first in, first out, one at a time, and only for whoever
//! holds the fence.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use agentry_domain::{Code, JobId, OrgId, Timestamp, WorkerId};
use agentry_store::{ClaimedJob, Flow, LaneJob, NewJob, Store, StoreError, Turns, Write};
use futures::future::join_all;
use parking_lot::Mutex;

use crate::bed::{Bed, wait_until};
use crate::kept::ReadWhole as _;
use crate::make;

/// A lease that does not end during a test.
const LEASE: Duration = Duration::from_secs(600);
/// Jobs in one lane at most.
const DEPTH_MAX: u32 = 3;

type Lane = [u8; 16];

fn lane() -> Lane {
    make::uuid().into_bytes()
}

pub(crate) async fn begin(
    store: &Store,
    org: OrgId,
    lane: Lane,
    worker: WorkerId,
) -> Result<ClaimedJob, StoreError> {
    let job = make::new_job(lane);
    let mut write = Write::new(org);
    write.job_begin(&job, worker);
    store.write(write).await?;
    Ok(make::begun(org, job.id, lane, worker))
}

pub(crate) async fn enqueue(
    store: &Store,
    org: OrgId,
    lane: Lane,
    depth_max: u32,
) -> Result<JobId, StoreError> {
    let job = make::new_job(lane);
    let mut write = Write::new(org);
    write.job_enqueue(&job, depth_max);
    store.write(write).await.map(|_| job.id)
}

/// Whether another job was promoted.
pub(crate) async fn end(store: &Store, job: &ClaimedJob) -> Result<bool, StoreError> {
    let mut write = Write::new(job.org);
    let place = write.job_end(job);
    store.write(write).await.map(|written| written.promoted(place))
}

async fn held(store: &Store, job: &ClaimedJob) -> Result<(), StoreError> {
    let mut write = Write::new(job.org);
    write.job_held(job);
    write.log(make::entry("run.started", job.id.to_bytes()));
    store.write(write).await.map(drop)
}

/// Claims in turn, from the first one on.
pub(crate) async fn claim(store: &Store, worker: WorkerId, limit: usize) -> Vec<ClaimedJob> {
    claim_at(store, worker, limit, make::now()).await
}

async fn claim_at(
    store: &Store,
    worker: WorkerId,
    limit: usize,
    now: Timestamp,
) -> Vec<ClaimedJob> {
    claim_turns(store, worker, limit, now, &mut Turns::default()).await
}

async fn claim_turns(
    store: &Store,
    worker: WorkerId,
    limit: usize,
    now: Timestamp,
    turns: &mut Turns,
) -> Vec<ClaimedJob> {
    let waiting = store.job_turns(turns, limit).await.unwrap();
    let shares = turns.share(&waiting, limit, |_, _| usize::MAX);
    store.job_claim(worker, now, &shares).await.unwrap()
}

pub(crate) async fn a_lane_is_first_in_first_out(bed: Bed) {
    let store = bed.open().await;
    let (org, lane, worker) = (make::org(), lane(), make::worker());
    let first = begin(&store, org, lane, worker).await.unwrap();
    let second = enqueue(&store, org, lane, DEPTH_MAX).await.unwrap();
    let third = enqueue(&store, org, lane, DEPTH_MAX).await.unwrap();
    assert!(claim(&store, worker, 10).await.is_empty(), "only the head, which is claimed");
    assert!(end(&store, &first).await.unwrap());
    let claimed = claim(&store, worker, 10).await;
    let expected = make::begun(org, second, lane, worker);
    assert_eq!(claimed, [expected]);
    assert!(end(&store, &claimed[0]).await.unwrap());
    let claimed = claim(&store, worker, 10).await;
    assert_eq!(claimed.iter().map(|job| job.id).collect::<Vec<_>>(), [third]);
    assert!(!end(&store, &claimed[0]).await.unwrap());
    // The lane is idle again, and opens again.
    let again = begin(&store, org, lane, worker).await.unwrap();
    assert!(!end(&store, &again).await.unwrap());
    assert!(claim(&store, worker, 10).await.is_empty());
    // A job that is due later is not claimed before.
    let first = begin(&store, org, lane, worker).await.unwrap();
    let before = make::now();
    enqueue(&store, org, lane, DEPTH_MAX).await.unwrap();
    end(&store, &first).await.unwrap();
    assert!(claim_at(&store, worker, 10, before).await.is_empty());
    assert_eq!(claim(&store, worker, 10).await.len(), 1);
}

pub(crate) async fn a_full_and_an_idle_lane_are_told_apart(bed: Bed) {
    let store = bed.open().await;
    let (org, lane, worker) = (make::org(), lane(), make::worker());
    let idle = make::refused(enqueue(&store, org, lane, DEPTH_MAX).await);
    assert_eq!(idle.code, Code::Conflict);
    let first = begin(&store, org, lane, worker).await.unwrap();
    let busy = make::refused(begin(&store, org, lane, worker).await);
    assert_eq!(busy.code, Code::Conflict);
    for _ in 1..DEPTH_MAX {
        enqueue(&store, org, lane, DEPTH_MAX).await.unwrap();
    }
    let full = make::refused(enqueue(&store, org, lane, DEPTH_MAX).await);
    assert_eq!(full.code, Code::SessionQueueFull);
    assert!(full.detail.contains('3'), "{}", full.detail);
    end(&store, &first).await.unwrap();
    enqueue(&store, org, lane, DEPTH_MAX).await.unwrap();
    // Another organisation's lane of the same id is another lane.
    begin(&store, make::org(), lane, worker).await.unwrap();
}

pub(crate) async fn a_job_can_go_to_the_front(bed: Bed) {
    let store = bed.open().await;
    let (org, lane, worker) = (make::org(), lane(), make::worker());
    let running = begin(&store, org, lane, worker).await.unwrap();
    let waiting = enqueue(&store, org, lane, DEPTH_MAX).await.unwrap();
    let put = async |place: fn(&mut Write, &NewJob, JobId), head: JobId| {
        let job = make::new_job(lane);
        let mut write = Write::new(org);
        place(&mut write, &job, head);
        store.write(write).await.map(|_| job.id)
    };
    let next: fn(&mut Write, &NewJob, JobId) =
        |write, job, head| write.job_enqueue_next(job, head, 100);
    let before: fn(&mut Write, &NewJob, JobId) =
        |write, job, head| write.job_enqueue_before(job, head, 100);
    assert_eq!(make::refused(put(next, waiting).await).code, Code::Conflict);
    assert_eq!(make::refused(put(before, running.id).await).code, Code::Conflict);
    let first = put(next, running.id).await.unwrap();
    let second = put(next, running.id).await.unwrap();
    let ids = async || -> Vec<JobId> {
        store.lane_front(org, lane).await.unwrap().iter().map(|job| job.id).collect()
    };
    assert_eq!(ids().await, [running.id, second, first]);
    assert!(end(&store, &running).await.unwrap());
    assert_eq!(ids().await, [second, first, waiting]);
    // The head waits, and another one takes its place.
    let third = put(before, second).await.unwrap();
    let front = store.lane_front(org, lane).await.unwrap();
    let expected = |id, is_head| LaneJob { id, is_head, is_claimed: false };
    assert_eq!(front, [expected(third, true), expected(second, false), expected(first, false)]);
    // Whoever waits can go, wherever it stands.
    let withdraw = async |id: JobId| {
        let mut write = Write::new(org);
        write.job_withdraw(id, lane);
        store.write(write).await.map(drop)
    };
    withdraw(second).await.unwrap();
    withdraw(third).await.unwrap();
    assert_eq!(make::refused(withdraw(third).await).code, Code::Conflict);
    let claimed = claim(&store, worker, 10).await;
    assert_eq!(claimed.iter().map(|job| job.id).collect::<Vec<_>>(), [first]);
    assert_eq!(make::refused(withdraw(first).await).code, Code::Conflict, "it is claimed");
    withdraw(waiting).await.unwrap();
    assert!(!end(&store, &claimed[0]).await.unwrap());
    begin(&store, org, lane, worker).await.unwrap();
}

pub(crate) async fn turns_go_round_whoever_has_how_many(bed: Bed) {
    let store = bed.open().await;
    let worker = make::worker();
    let (one, other) = (make::org(), make::org());
    let add = async |org: OrgId, flow: &str, many: usize| {
        for _ in 0..many {
            let job = NewJob { flow: Flow::of_user(flow), ..make::new_job(lane()) };
            let mut write = Write::new(org);
            write.job_add(&job);
            store.write(write).await.unwrap();
        }
    };
    add(one, "many", 60).await;
    add(one, "few", 2).await;
    add(other, "many", 3).await;
    let mut turns = Turns::default();
    let mut order = Vec::new();
    loop {
        let claimed = claim_turns(&store, worker, 1, make::now(), &mut turns).await;
        if claimed.is_empty() {
            break;
        }
        order.extend(claimed.iter().map(|job| (job.org, job.flow)));
    }
    assert_eq!(order.len(), 65);
    // Three of the other organisation are among the first six, and what is few
    // among its own organisation's first four.
    let many = Flow::of_user("many");
    let place = |who: (OrgId, Flow), nth: usize| {
        order.iter().enumerate().filter(|(_, it)| **it == who).nth(nth).unwrap().0
    };
    assert!(place((other, many), 2) < 6, "{order:?}");
    let own: Vec<&(OrgId, Flow)> = order.iter().filter(|(org, _)| *org == one).collect();
    let few = own.iter().filter(|(_, flow)| *flow == Flow::of_user("few")).count();
    assert_eq!(few, 2);
    assert_eq!(own[..4].iter().filter(|(_, flow)| *flow != many).count(), 2, "{order:?}");
    // Several at once are shared out the same way.
    add(one, "many", 60).await;
    add(one, "few", 2).await;
    add(other, "many", 3).await;
    let claimed = claim(&store, worker, 8).await;
    let of = |org, flow| {
        claimed.iter().filter(|job| (job.org, job.flow) == (org, Flow::of_user(flow))).count()
    };
    assert_eq!((claimed.len(), of(other, "many"), of(one, "few")), (7, 3, 2));
}

pub(crate) async fn no_job_is_claimed_twice(bed: Bed) {
    let store = bed.open().await;
    let second = match &bed {
        Bed::Sqlite(_) => None,
        Bed::Postgres(_) => Some(bed.open().await),
    };
    let stores = [&store, second.as_ref().unwrap_or(&store)];
    let (org, starter) = (make::org(), make::worker());
    let mut made = BTreeSet::new();
    for _ in 0..40 {
        let lane = lane();
        let first = begin(&store, org, lane, starter).await.unwrap();
        made.insert(enqueue(&store, org, lane, DEPTH_MAX).await.unwrap());
        end(&store, &first).await.unwrap();
    }
    let workers = stores.map(|store| async move {
        let worker = make::worker();
        let mut mine = Vec::new();
        loop {
            let claimed = claim(store, worker, 3).await;
            if claimed.is_empty() {
                return mine;
            }
            assert!(claimed.iter().all(|job| job.worker == worker));
            mine.extend(claimed);
        }
    });
    let [one, two] = workers;
    let (one, two) = tokio::join!(one, two);
    let claimed: Vec<JobId> = one.iter().chain(&two).map(|job| job.id).collect();
    assert_eq!(claimed.len(), 40);
    assert_eq!(claimed.into_iter().collect::<BTreeSet<_>>(), made);
}

pub(crate) async fn a_lost_fence_cannot_write(bed: Bed) {
    let store = bed.open().await;
    let (org, lane) = (make::org(), lane());
    let (old, new) = (make::worker(), make::worker());
    store.worker_beat(old, LEASE).await.unwrap();
    let lost = begin(&store, org, lane, old).await.unwrap();
    held(&store, &lost).await.unwrap();
    if matches!(bed, Bed::Postgres(_)) {
        assert_eq!(store.worker_beat(new, LEASE).await.unwrap(), 0, "its lease goes on");
        // The database's clock decides, so a lease of nothing is over.
        store.worker_beat(old, Duration::ZERO).await.unwrap();
    }
    wait_until("the job is given up", || async {
        store.worker_beat(new, LEASE).await.unwrap() == 1
    })
    .await;
    let claimed = claim(&store, new, 10).await;
    let expected = ClaimedJob { worker: new, fence: 2, attempts: 2, ..lost };
    assert_eq!(claimed, [expected]);
    assert_eq!(make::refused(held(&store, &lost).await).code, Code::Conflict);
    assert_eq!(make::refused(end(&store, &lost).await).code, Code::Conflict);
    held(&store, &expected).await.unwrap();
    assert!(!end(&store, &expected).await.unwrap());
    assert_eq!(make::refused(end(&store, &expected).await).code, Code::Conflict);
    // A worker that says goodbye is not waited for.
    let left = begin(&store, org, lane, old).await.unwrap();
    store.worker_beat(old, LEASE).await.unwrap();
    store.worker_gone(old).await.unwrap();
    assert_eq!(store.worker_beat(new, LEASE).await.unwrap(), 1);
    assert_eq!(claim(&store, new, 10).await[0].id, left.id);
}

pub(crate) async fn a_session_with_work_is_not_deleted(bed: Bed) {
    let store = bed.open().await;
    let (org, worker) = (make::org(), make::worker());
    let session = make::session(None, None);
    store.write(make::session_write(org, &session)).await.unwrap();
    let job = begin(&store, org, session.id.to_bytes(), worker).await.unwrap();
    let delete = || {
        let mut write = Write::new(org);
        write.session_delete(session.id, 1);
        write
    };
    assert_eq!(make::refused(store.write(delete()).await).code, Code::Conflict);
    end(&store, &job).await.unwrap();
    store.write(delete()).await.unwrap();
    assert_eq!(store.session_get(org, session.id).await.unwrap(), None);
}

const PRODUCERS: usize = 24;
const JOBS: usize = 10;
const BUSY_LANES: usize = 4;

/// What was carried out, per lane, and which lanes are at work now.
#[derive(Default)]
struct Carried {
    out: BTreeMap<Lane, Vec<JobId>>,
    at_work: BTreeSet<Lane>,
    count: usize,
}

/// Carries a job out: nobody else may be at work in its lane.
async fn carry_out(store: &Store, carried: &Mutex<Carried>, job: &ClaimedJob) {
    assert!(carried.lock().at_work.insert(job.lane), "two jobs of a lane at once");
    held(store, job).await.unwrap();
    {
        let mut carried = carried.lock();
        carried.at_work.remove(&job.lane);
        carried.out.entry(job.lane).or_default().push(job.id);
        carried.count += 1;
    }
    end(store, job).await.unwrap();
}

pub(crate) async fn busy_lanes_keep_their_order(bed: Bed) {
    let store = bed.open().await;
    let (org, worker) = (make::org(), make::worker());
    let lanes: Vec<Lane> = (0..BUSY_LANES).map(|_| lane()).collect();
    let carried = Mutex::new(Carried::default());
    let produce = async |lane: Lane| {
        let mut mine = Vec::new();
        while mine.len() < JOBS {
            match begin(&store, org, lane, worker).await {
                Ok(job) => {
                    mine.push(job.id);
                    carry_out(&store, &carried, &job).await;
                    continue;
                }
                error => assert_eq!(make::refused(error).code, Code::Conflict),
            }
            match enqueue(&store, org, lane, 1_000).await {
                Ok(id) => mine.push(id),
                // It became idle in between.
                error => assert_eq!(make::refused(error).code, Code::Conflict),
            }
        }
        (lane, mine)
    };
    let consume = async || {
        while carried.lock().count < PRODUCERS * JOBS {
            for job in claim(&store, worker, 2).await {
                carry_out(&store, &carried, &job).await;
            }
        }
    };
    let producers = join_all((0..PRODUCERS).map(|nth| produce(lanes[nth % BUSY_LANES])));
    let (produced, ..) = tokio::join!(producers, consume(), consume());
    let carried = carried.into_inner();
    for (lane, mine) in produced {
        let order: Vec<JobId> =
            carried.out[&lane].iter().filter(|id| mine.contains(id)).copied().collect();
        assert_eq!(order, mine, "each once, in the order of asking");
    }
    assert_eq!(carried.count, PRODUCERS * JOBS);
    assert_eq!(store.activity().failed, 0);
}
