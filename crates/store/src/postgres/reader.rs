//! Reads. Short ones share a few sessions, on which they travel one behind the
//! other without waiting; scans take a session of their own from a pool.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use deadpool_postgres::{
    Hook, HookError, Manager, ManagerConfig, Object, Pool, PoolError, RecyclingMethod, Runtime,
};
use futures::FutureExt as _;
use futures::future::{BoxFuture, try_join_all};
use parking_lot::RwLock;
use tokio::sync::Mutex;
use tokio_postgres::CancelToken;

use crate::pools::{PoolActivity, Waits};
use crate::sql::Sql;
use crate::value::{Columns, RowRef, Value};
use crate::{Map, Result, StoreError};

use super::connect::{Link, Purpose, Ran, Target, is_lost, reads, run};
use super::pipeline::pipeline;

/// Sessions that short reads share; a part of `postgres_readers_max`.
const SHARED_MAX: usize = 4;
/// Sessions for scans that are opened at the start.
const SCANS_WARM: usize = 2;
/// How often a read whose session was lost goes again.
const LOST_MAX: u32 = 2;

pub(super) struct Readers {
    target: Target,
    shared: Vec<Shared>,
    next: AtomicUsize,
    scans: Pool,
    waits: Waits,
}

/// The place of a shared session, which is replaced when it is lost.
#[derive(Default)]
struct Shared {
    link: RwLock<Option<Arc<Link>>>,
    opening: Mutex<()>,
}

impl Readers {
    pub(super) async fn open(target: Target, readers_max: usize) -> Result<Self> {
        let shared = SHARED_MAX.min(readers_max.div_ceil(2)).max(1);
        let scans = readers_max.saturating_sub(shared).max(1);
        let manager = Manager::from_connect(
            target.config(),
            target.clone(),
            ManagerConfig { recycling_method: RecyclingMethod::Fast },
        );
        let pool = Pool::builder(manager)
            .max_size(scans)
            .runtime(Runtime::Tokio1)
            .post_create(Hook::async_fn(|client, _| {
                Box::pin(async move {
                    let all = reads().map(|sql| client.prepare_cached(sql.postgres));
                    try_join_all(all).await.map(drop).map_err(HookError::Backend)
                })
            }))
            .build()
            .map_err(|error| StoreError::Bug(error.to_string()))?;
        let readers = Self {
            target,
            shared: (0..shared).map(|_| Shared::default()).collect(),
            next: AtomicUsize::new(0),
            scans: pool,
            waits: Waits::default(),
        };
        try_join_all(readers.shared.iter().map(|shared| readers.link(shared))).await?;
        try_join_all((0..SCANS_WARM.min(scans)).map(|_| readers.session())).await?;
        Ok(readers)
    }

    async fn link(&self, shared: &Shared) -> Result<Arc<Link>> {
        if let Some(link) = shared.living() {
            return Ok(link);
        }
        let _opening = shared.opening.lock().await;
        if let Some(link) = shared.living() {
            return Ok(link);
        }
        if self.scans.is_closed() {
            return Err(StoreError::Closed);
        }
        let client = self.target.connect(Purpose::Read, |_| ()).await?;
        let link = Arc::new(Link::prepare(client, reads()).await?);
        *shared.link.write() = Some(Arc::clone(&link));
        Ok(link)
    }

    async fn session(&self) -> Result<Object> {
        self.waits.wait(self.scans.get()).await.map_err(|error| match error {
            PoolError::Closed => StoreError::Closed,
            PoolError::Backend(error) | PoolError::PostCreateHook(HookError::Backend(error)) => {
                StoreError::Unavailable(error.into())
            }
            other => StoreError::Unavailable(other.into()),
        })
    }

    pub(super) async fn rows<T>(
        &self,
        sql: &'static Sql,
        values: &[Value],
        map: Map<T>,
    ) -> Result<Vec<T>> {
        let mut lost = 0;
        loop {
            let place = self.next.fetch_add(1, Ordering::Relaxed) % self.shared.len();
            let link = self.link(&self.shared[place]).await?;
            match run(&link.client, link.statement(sql)?, values).await {
                Ok(ran) => return read(&ran, map),
                Err(error) if is_lost(&error) && lost < LOST_MAX => lost += 1,
                Err(error) => return Err(error.into()),
            }
        }
    }

    pub(super) async fn scan_each<T>(
        &self,
        sql: &'static Sql,
        lists: &[Vec<Value>],
        map: Map<T>,
    ) -> Result<Vec<Vec<T>>> {
        let mut lost = 0;
        loop {
            let scan = Scan::begin(self.target.clone(), self.session().await?);
            match scan.run(sql, lists).await {
                Ok(found) => return found.iter().map(|ran| read(ran, map)).collect(),
                Err(error) if is_lost(&error) && lost < LOST_MAX => lost += 1,
                Err(error) => return Err(error.into()),
            }
        }
    }

    pub(super) fn pool(&self) -> PoolActivity {
        let status = self.scans.status();
        let in_use = status.size.saturating_sub(status.available);
        self.waits.activity("scans", status.max_size as u64, in_use as u64)
    }

    /// Ends every session that is not at work.
    pub(super) fn close(&self) {
        self.scans.close();
        for shared in &self.shared {
            shared.link.write().take();
        }
    }
}

impl Shared {
    fn living(&self) -> Option<Arc<Link>> {
        self.link.read().as_ref().filter(|link| !link.client.is_closed()).map(Arc::clone)
    }
}

fn read<T>(ran: &Ran, map: Map<T>) -> Result<Vec<T>> {
    ran.rows.iter().map(|row| map(&mut Columns::new(RowRef::Postgres(row)))).collect()
}

/// A scan on a session of its own. When it is dropped before its end, the
/// server is told to stop, and the session goes too: a late cancellation would
/// hit whatever it does next.
struct Scan {
    target: Target,
    session: Option<Object>,
    cancel: CancelToken,
}

impl Scan {
    fn begin(target: Target, session: Object) -> Self {
        let cancel = session.cancel_token();
        Self { target, session: Some(session), cancel }
    }

    async fn run(
        mut self,
        sql: &'static Sql,
        lists: &[Vec<Value>],
    ) -> std::result::Result<Vec<Ran>, tokio_postgres::Error> {
        let Some(session) = &self.session else { return Ok(Vec::new()) };
        let statement = session.prepare_cached(sql.postgres).await?;
        let requests: Vec<BoxFuture<'_, _>> =
            lists.iter().map(|values| run(session, &statement, values).boxed()).collect();
        let found = pipeline(requests).await.into_iter().collect();
        // At its end: back to the pool.
        drop(self.session.take());
        found
    }
}

impl Drop for Scan {
    fn drop(&mut self) {
        if let Some(session) = self.session.take() {
            drop(Object::take(session));
            self.target.cancel(self.cancel.clone());
        }
    }
}
