//! Random operations on lanes, compared step by step with a model in memory.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use agentry_domain::{Code, JobId, OrgId, WorkerId};
use agentry_store::{ClaimedJob, Store};
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use crate::bed::Bed;
use crate::lanes::{begin, claim, end, enqueue};
use crate::make;

const CASES: usize = 12;
const LANES: usize = 3;
const WORKERS: usize = 2;
const DEPTH_MAX: u32 = 3;
const LEASE: Duration = Duration::from_secs(600);
/// The same cases each time.
const SEED: [u8; 32] = *b"lanes are first in and first out";

#[derive(Clone, Copy, Debug)]
enum Operation {
    Begin {
        lane: usize,
        worker: usize,
    },
    Enqueue {
        lane: usize,
    },
    /// Ends the head of a lane, with the newest claim that this worker had on it.
    End {
        lane: usize,
        worker: usize,
    },
    Claim {
        worker: usize,
        limit: usize,
    },
    /// Every other worker's lease is over.
    Survive {
        worker: usize,
    },
}

fn operation() -> impl Strategy<Value = Operation> {
    let (lane, worker) = (0..LANES, 0..WORKERS);
    prop_oneof![
        1 => (lane.clone(), worker.clone()).prop_map(|(lane, worker)| Operation::Begin { lane, worker }),
        3 => lane.clone().prop_map(|lane| Operation::Enqueue { lane }),
        3 => (lane, worker.clone()).prop_map(|(lane, worker)| Operation::End { lane, worker }),
        3 => (worker.clone(), 1..3_usize)
            .prop_map(|(worker, limit)| Operation::Claim { worker, limit }),
        1 => worker.prop_map(|worker| Operation::Survive { worker }),
    ]
}

/// A job as it should be.
#[derive(Debug)]
struct Job {
    id: JobId,
    fence: i64,
    holder: Option<usize>,
    /// The newest claim that each worker had.
    claims: BTreeMap<usize, ClaimedJob>,
}

struct Model {
    org: OrgId,
    lanes: [[u8; 16]; LANES],
    workers: [WorkerId; WORKERS],
    jobs: [VecDeque<Job>; LANES],
}

impl Model {
    fn new() -> Self {
        Self {
            org: make::org(),
            lanes: std::array::from_fn(|_| make::uuid().into_bytes()),
            workers: std::array::from_fn(|_| make::worker()),
            jobs: std::array::from_fn(|_| VecDeque::new()),
        }
    }

    async fn apply(&mut self, store: &Store, operation: Operation) {
        match operation {
            Operation::Begin { lane, worker } => {
                let begun = begin(store, self.org, self.lanes[lane], self.workers[worker]).await;
                if self.jobs[lane].is_empty() {
                    let job = begun.unwrap();
                    self.jobs[lane].push_back(Job {
                        id: job.id,
                        fence: 1,
                        holder: Some(worker),
                        claims: [(worker, job)].into(),
                    });
                } else {
                    assert_eq!(make::refused(begun).code, Code::Conflict);
                }
            }
            Operation::Enqueue { lane } => {
                let queued = enqueue(store, self.org, self.lanes[lane], DEPTH_MAX).await;
                match self.jobs[lane].len() {
                    0 => assert_eq!(make::refused(queued).code, Code::Conflict),
                    depth if depth >= DEPTH_MAX as usize => {
                        assert_eq!(make::refused(queued).code, Code::SessionQueueFull);
                    }
                    _ => self.jobs[lane].push_back(Job {
                        id: queued.unwrap(),
                        fence: 0,
                        holder: None,
                        claims: BTreeMap::new(),
                    }),
                }
            }
            Operation::End { lane, worker } => self.end(store, lane, worker).await,
            Operation::Claim { worker, limit } => self.claim(store, worker, limit).await,
            Operation::Survive { worker } => self.survive(store, worker).await,
        }
    }

    async fn end(&mut self, store: &Store, lane: usize, worker: usize) {
        let jobs = &mut self.jobs[lane];
        let Some(head) = jobs.front() else { return };
        let Some(claim) = head.claims.get(&worker) else { return };
        let ended = end(store, claim).await;
        if head.holder == Some(worker) {
            assert_eq!(ended.unwrap(), jobs.len() > 1);
            jobs.pop_front();
        } else {
            assert_eq!(make::refused(ended).code, Code::Conflict);
        }
    }

    async fn claim(&mut self, store: &Store, worker: usize, limit: usize) {
        let claimed = claim(store, self.workers[worker], limit).await;
        let heads = self.jobs.iter_mut().filter_map(VecDeque::front_mut);
        let mut due: Vec<&mut Job> = heads.filter(|head| head.holder.is_none()).collect();
        // A job is due from when it was made, and ids grow with time.
        due.sort_by_key(|job| job.id);
        due.truncate(limit);
        assert_eq!(claimed.len(), due.len());
        for job in due {
            let found = claimed.iter().find(|claimed| claimed.id == job.id).unwrap();
            job.fence += 1;
            assert_eq!((found.fence, found.attempts), (job.fence, job.fence));
            job.holder = Some(worker);
            job.claims.insert(worker, *found);
        }
    }

    async fn survive(&mut self, store: &Store, worker: usize) {
        let others = (0..WORKERS).filter(|other| *other != worker && !store.is_sqlite());
        for other in others.clone() {
            store.worker_beat(self.workers[other], Duration::ZERO).await.unwrap();
        }
        let heads = self.jobs.iter_mut().filter_map(VecDeque::front_mut);
        let lost: Vec<&mut Job> =
            heads.filter(|head| head.holder.is_some_and(|holder| holder != worker)).collect();
        let freed = store.worker_beat(self.workers[worker], LEASE).await.unwrap();
        assert_eq!(freed, lost.len());
        for job in lost {
            job.holder = None;
        }
        for other in others {
            // Alive again, without its jobs.
            assert_eq!(store.worker_beat(self.workers[other], LEASE).await.unwrap(), 0);
        }
    }

    /// Ends everything, in order.
    async fn drain(&mut self, store: &Store) {
        while self.jobs.iter().any(|jobs| !jobs.is_empty()) {
            self.survive(store, 0).await;
            self.claim(store, 0, 100).await;
            for lane in 0..LANES {
                self.end(store, lane, 0).await;
            }
        }
        assert!(claim(store, self.workers[0], 100).await.is_empty());
    }
}

pub(crate) async fn lanes_behave_as_their_model(bed: Bed) {
    let store = bed.open().await;
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &SEED);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let operations = proptest::collection::vec(operation(), 20..60);
    for _ in 0..CASES {
        let operations = operations.new_tree(&mut runner).unwrap().current();
        let mut model = Model::new();
        for worker in model.workers {
            store.worker_beat(worker, LEASE).await.unwrap();
        }
        for (nth, operation) in operations.iter().enumerate() {
            // Shown when the test fails.
            eprintln!("{nth}: {operation:?}");
            model.apply(&store, *operation).await;
        }
        model.drain(&store).await;
    }
}
