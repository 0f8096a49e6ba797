//! The workers: they claim runs and other jobs that wait, keep this process's lease,
//! and hear from other processes which runs went on there.

use std::time::Duration;

use agentry_domain::jobs::JobKind;
use agentry_domain::{Error, Result};
use agentry_store::{Share, StoreError, Turns};

use crate::Engine;
use crate::places::Place;

/// Jobs that are claimed in one go.
const CLAIMED_AT_ONCE_MAX: usize = 64;
/// How long until jobs are looked for without a hint that there are some.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

impl Engine {
    /// Takes over what an earlier process left, and starts the workers; they
    /// end when the tasks stop.
    pub async fn start_workers(&self) -> Result<()> {
        match self.0.store.worker_beat(self.0.worker, self.0.options.lease).await {
            Ok(0) => {}
            Ok(jobs) => tracing::info!(jobs, "jobs of an earlier process were taken over"),
            // A full disk still reads, and whoever makes room finds a server that
            // runs. No other process can take these claims for dead, and the next
            // beat takes over what is left. Shared claims need their lease first.
            Err(StoreError::Full(error)) if self.0.store.is_sqlite() => {
                tracing::error!(%error, "the disk is full: nothing can be stored until it is not");
            }
            Err(error) => return Err(error.into()),
        }
        let engine = self.clone();
        self.0.tasks.spawn(async move { engine.claim_jobs().await });
        let engine = self.clone();
        self.0.tasks.spawn(async move { engine.keep_lease().await });
        let engine = self.clone();
        self.0.tasks.spawn(async move { engine.forget_requests().await });
        let engine = self.clone();
        self.0.tasks.spawn(async move { engine.retain().await });
        let engine = self.clone();
        self.0.tasks.spawn(async move { engine.feed_webhooks().await });
        let engine = self.clone();
        self.0.tasks.spawn(async move { engine.keep_key_uses().await });
        let engine = self.clone();
        self.0.tasks.spawn(async move { engine.keep_quotas().await });
        let engine = self.clone();
        self.0.tasks.spawn(async move { engine.keep_denials().await });
        let engine = self.clone();
        self.0.tasks.spawn(async move { engine.seal_log().await });
        let engine = self.clone();
        self.0.tasks.spawn(async move { engine.watch_graph().await });
        if let Some(changes) = self.0.store.runs_changed() {
            let (engine, stops) = (self.clone(), changes.resubscribe());
            self.0.tasks.spawn(async move { engine.hear_stops(stops).await });
            let engine = self.clone();
            self.0.tasks.spawn(async move { engine.hear_of_runs(changes).await });
        }
        Ok(())
    }

    async fn claim_jobs(&self) {
        let stopping = self.0.tasks.stopping().clone();
        let mut turns = Turns::default();
        while !stopping.is_cancelled() {
            match self.claim_some(&mut turns).await {
                // There may be more than one go takes.
                Ok(1..) => continue,
                Ok(0) => {}
                Err(error) => {
                    tracing::error!(error = %error.chain(), "jobs could not be claimed");
                }
            }
            tokio::select! {
                () = stopping.cancelled() => {}
                () = self.0.claimable.notified() => {}
                () = self.0.places.freed() => {}
                () = tokio::time::sleep(LOOK_AGAIN) => {}
            }
        }
    }

    /// Claims jobs for the places that are free, in turn for those who wait.
    async fn claim_some(&self, turns: &mut Turns) -> Result<usize> {
        let places = &self.0.places;
        // Said before the look, so that no place becomes free unheard in between.
        places.want(true);
        let limit = places.free().min(CLAIMED_AT_ONCE_MAX);
        // A look that finds nothing costs a read, not a commit.
        let waiting = self.0.store.job_turns(turns, limit.max(1)).await?;
        places.want(!waiting.is_empty());
        let shares = turns.share(&waiting, limit, |org, flow| places.room(org, flow));
        let mut taken: Vec<Place> = Vec::with_capacity(limit);
        let shares: Vec<Share> = shares
            .into_iter()
            .filter_map(|share| {
                let before = taken.len();
                taken.extend((0..share.most).map_while(|_| places.take(share.org, share.flow)));
                let most = taken.len() - before;
                (most > 0).then_some(Share { most, ..share })
            })
            .collect();
        if shares.is_empty() {
            return Ok(0);
        }
        let jobs = self.0.store.job_claim(self.0.worker, self.now(), &shares).await?;
        let claimed = jobs.len();
        for job in jobs {
            let place = taken.iter().position(|place| place.is_of(job.org, job.flow));
            let Some(mut place) = place.map(|nth| taken.swap_remove(nth)) else {
                return Err(Error::internal("more jobs were claimed than asked for"));
            };
            let engine = self.clone();
            self.0.tasks.spawn(async move {
                place.begin();
                match job.kind {
                    JobKind::Run => engine.carry_out_claimed(job).await,
                    JobKind::Purge => engine.purge_claimed(job).await,
                    JobKind::Webhook => {
                        // Runs wait for no receiver: these have places of their own.
                        drop(place);
                        return engine.webhook_claimed(job).await;
                    }
                    JobKind::Graph => {
                        // A reply waits for no graph: that has places of its own.
                        drop(place);
                        return engine.graph_claimed(job).await;
                    }
                    JobKind::GraphModel => {
                        drop(place);
                        return engine.asking_claimed(job).await;
                    }
                }
                drop(place);
            });
        }
        Ok(claimed)
    }

    async fn keep_lease(&self) {
        let stopping = self.0.tasks.stopping().clone();
        let beat = self.0.options.lease / 3;
        loop {
            tokio::select! {
                () = stopping.cancelled() => return,
                () = tokio::time::sleep(beat) => {}
            }
            if let Err(error) = self.beat().await {
                tracing::error!(error = %error.chain(), "the lease could not be renewed");
            }
        }
    }

    async fn beat(&self) -> Result<()> {
        let taken_over = self.0.store.worker_beat(self.0.worker, self.0.options.lease).await?;
        if taken_over > 0 {
            tracing::info!(jobs = taken_over, "jobs of a silent process were taken over");
            self.0.claimable.notify_one();
        }
        for job in self.0.held.lost(self.0.store.job_claimed_by(self.0.worker).await?) {
            tracing::warn!(job = %job.id, "a claimed job was in nobody's hands");
            self.0.store.job_release(&job).await?;
            self.0.claimable.notify_one();
        }
        Ok(())
    }

    /// Says that this process stops, so that what it has claimed need not wait
    /// for its lease to end. Call it when the tasks have ended.
    pub async fn stop_workers(&self) -> Result<()> {
        Ok(self.0.store.worker_gone(self.0.worker).await?)
    }
}
