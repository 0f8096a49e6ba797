//! The follower that feeds webhooks: it reads the log once for all of them, and
//! gives those that an entry concerns a job. What it does is idempotent: it may
//! read an entry again, by itself or beside another process, and nothing comes of
//! it but a job that finds nothing to do.
//!
//! Of the processes on one database one has this work, by a lease. How far it is,
//! is stored now and then; a webhook that has something to deliver has that in its
//! own row, stored before the follower goes on.

use std::collections::BTreeMap;
use std::time::Duration;

use agentry_domain::log::LoggedEntry;
use agentry_domain::{OrgId, Result, WebhookId};
use agentry_events::Filter;
use agentry_store::{WEBHOOK_FOLLOWER, Write};
use tokio::time::Instant;

use crate::Engine;

use super::filter_of;

/// Entries that are read at once.
const PAGE_ENTRIES: u32 = 500;
/// How often to look without having been told: a hint may be lost.
const POLL: Duration = Duration::from_millis(500);
/// Rounds begin at least this far apart, so that a busy log is read in pages and
/// a lone event goes at once.
const GATHER: Duration = Duration::from_millis(20);
/// The pause after a round that failed.
const PAUSE: Duration = Duration::from_millis(500);
/// How often its place is stored while it moves.
const SAVE_EVERY: Duration = Duration::from_secs(5);

/// What the follower remembers between rounds.
#[derive(Default)]
struct Place {
    /// Everything up to here was examined; none when this process does not know.
    examined: Option<i64>,
    saved: i64,
    saved_at: Option<Instant>,
    /// Until when this process has the work.
    held_until: Option<Instant>,
}

impl Engine {
    /// Feeds webhooks until the tasks stop.
    pub(crate) async fn feed_webhooks(&self) {
        let stopping = self.0.tasks.stopping().clone();
        let mut changed = self.0.store.log_changed();
        let mut place = Place::default();
        let following = async {
            loop {
                let begun = Instant::now();
                changed.mark_unchanged();
                match self.feed_round(&mut place).await {
                    Ok(true) => {}
                    Ok(false) => {
                        tokio::select! {
                            _ = changed.changed() => {}
                            () = self.0.webhooks_changed.notified() => {}
                            () = tokio::time::sleep(POLL) => {}
                        }
                    }
                    Err(error) => {
                        tracing::warn!(error = %error.chain(), "webhooks could not be fed");
                        tokio::time::sleep(PAUSE).await;
                    }
                }
                tokio::time::sleep_until(begun + GATHER).await;
            }
        };
        stopping.run_until_cancelled(following).await;
        if place.held_until.is_some() && !self.0.store.is_sqlite() {
            // Another process waits for the lease otherwise.
            let _ = self.0.store.follower_leave(WEBHOOK_FOLLOWER, self.0.worker).await;
        }
    }

    /// Examines a page; whether there may be more.
    async fn feed_round(&self, place: &mut Place) -> Result<bool> {
        let store = &self.0.store;
        // In this order: a webhook that is registered after the look hears of what
        // comes after this head.
        let head = store.log_head().await?;
        if !store.webhook_any().await? {
            place.examined = Some(head);
            return Ok(false);
        }
        if !self.hold_follower(place).await? {
            return Ok(false);
        }
        let examined = match place.examined {
            Some(examined) => examined,
            None => {
                let stored = store.follower_get(WEBHOOK_FOLLOWER).await?.unwrap_or(0);
                stored.max(store.webhook_behind().await?)
            }
        };
        place.examined = Some(examined);
        let entries = store.log_read_all(examined, PAGE_ENTRIES).await?;
        let (Some(first), Some(last)) = (entries.first(), entries.last()) else {
            return Ok(false);
        };
        if first.seq > examined + 1 {
            tracing::warn!(
                examined,
                oldest = first.seq,
                "the log was trimmed before webhooks were fed"
            );
            self.wake_all(examined, first.seq).await?;
        }
        let mut by_org: BTreeMap<OrgId, Vec<&LoggedEntry>> = BTreeMap::new();
        for entry in &entries {
            by_org.entry(entry.org).or_default().push(entry);
        }
        for (org, entries) in by_org {
            self.wake_for(org, &entries).await?;
        }
        place.examined = Some(last.seq);
        self.save_place(place, last.seq).await?;
        Ok(entries.len() == PAGE_ENTRIES as usize)
    }

    /// Whether this process has the work.
    async fn hold_follower(&self, place: &mut Place) -> Result<bool> {
        let lease = self.0.options.lease;
        let now = Instant::now();
        // Looked at again when a third of it has passed.
        if place.held_until.is_some_and(|until| now + lease * 2 / 3 < until) {
            return Ok(true);
        }
        if self.0.store.follower_hold(WEBHOOK_FOLLOWER, self.0.worker, lease).await? {
            place.held_until = Some(now + lease);
            return Ok(true);
        }
        *place = Place::default();
        Ok(false)
    }

    /// Gives a job to every webhook of an organisation that an entry concerns.
    async fn wake_for(&self, org: OrgId, entries: &[&LoggedEntry]) -> Result<()> {
        let mut write = Write::new(org);
        let (now, mut wakes) = (self.now(), false);
        for webhook in self.0.store.webhook_enabled(org).await? {
            let filter: Filter = filter_of(&webhook.entity()?.body);
            let mut fitting =
                entries.iter().filter(|entry| filter.fits(entry)).map(|entry| entry.seq);
            if let Some(first) = fitting.next() {
                let last = fitting.next_back().unwrap_or(first);
                write.webhook_wake(webhook.id, first - 1, last, now);
                wakes = true;
            }
        }
        if wakes {
            self.0.store.write(write).await?;
            self.0.claimable.notify_one();
        }
        Ok(())
    }

    /// Entries are gone that nobody examined: each webhook finds out for itself what
    /// it missed.
    async fn wake_all(&self, examined: i64, oldest: i64) -> Result<()> {
        let now = self.now();
        for org in self.0.store.org_ids().await? {
            let mut write = Write::new(org);
            let webhooks: Vec<WebhookId> =
                self.0.store.webhook_enabled(org).await?.iter().map(|webhook| webhook.id).collect();
            for id in &webhooks {
                write.webhook_wake(*id, examined, oldest, now);
            }
            if !webhooks.is_empty() {
                self.0.store.write(write).await?;
            }
        }
        self.0.claimable.notify_one();
        Ok(())
    }

    async fn save_place(&self, place: &mut Place, seq: i64) -> Result<()> {
        let due = place.saved_at.is_none_or(|at| at.elapsed() >= SAVE_EVERY);
        if due && seq > place.saved {
            self.0.store.follower_moved(WEBHOOK_FOLLOWER, seq).await?;
            (place.saved, place.saved_at) = (seq, Some(Instant::now()));
        }
        Ok(())
    }
}
