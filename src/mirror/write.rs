//! Writes marked objects until the process ends: connect, compare, write, wait; and from the start when the database is
//! away.

use std::{
    collections::HashMap,
    mem::{self, Discriminant},
    sync::Arc,
    time::Duration,
};

use k8s_openapi::api::core::v1::Pod;
use kube::{Client, Resource};
use sha2::{Digest, Sha256};
use tokio::time::Instant;
use uuid::Uuid;

use super::{
    Config, Stores,
    aside::Aside,
    batch::Portions,
    handle::{Kinds, Shared},
    payload::Unread,
    recent::Recent,
    resync, rows,
    tenant_index::TenantIndex,
};
use crate::{
    api_types::Job,
    clock::Clock,
    db::{self, AttemptRow, Cause, Error, Taken, Writer},
};

mod attempts;
mod flush;
mod jobs;

/// All kinds.
const ALL: Kinds = Kinds { tenants: true, nodes: true, jobs: true };

/// The task that writes.
pub(super) struct MirrorWriter {
    config: Config,
    client: Client,
    stores: Stores,
    clock: Clock,
    shared: Arc<Shared>,
    writer: Option<Writer>,
    tenancy: TenantIndex,
    /// Jobs of namespaces that are no tenant's, or not yet.
    waiting: HashMap<Uuid, Arc<Job>>,
    /// Ended pods, by UID, whose Job exists and has not recorded them yet; by UID of the Job.
    unrecorded: HashMap<Uuid, HashMap<Uuid, Arc<Pod>>>,
    portions: Portions,
    aside: Aside,
    unread: Unread,
    recent: Recent,
    /// Attempts that were charged and that the database has lost.
    lost: Vec<AttemptRow>,
    trouble: Option<Discriminant<Cause>>,
    failures: u32,
}

impl MirrorWriter {
    pub(super) fn new(
        config: Config,
        client: Client,
        stores: Stores,
        clock: Clock,
        shared: Arc<Shared>,
    ) -> Self {
        Self {
            portions: Portions::new(config.pool.clone(), config.metrics.clone()),
            aside: Aside::default(),
            unread: Unread::default(),
            recent: Recent::default(),
            lost: Vec::new(),
            config,
            client,
            stores,
            clock,
            shared,
            writer: None,
            tenancy: TenantIndex::default(),
            waiting: HashMap::new(),
            unrecorded: HashMap::new(),
            trouble: None,
            failures: 0,
        }
    }

    /// Writes until another process has taken over.
    pub(super) async fn run(mut self) -> Error {
        loop {
            let error = match self.connect().await {
                Err(error) if matches!(error.cause, Cause::Superseded) => return error,
                Err(error) => error,
                Ok(writer) => self.write(writer).await,
            };
            self.shared.lost();
            let kind = mem::discriminant(&error.cause);
            if self.trouble != Some(kind) {
                self.trouble = Some(kind);
                tracing::warn!(%error, "failed to write to the mirror, will retry; changes are kept");
            }
            let pause = pause(self.config.cluster_uid, self.failures, self.config.longest_pause);
            self.failures = self.failures.saturating_add(1);
            tokio::time::sleep(pause).await;
        }
    }

    /// Brings the schema up to date and takes over, or takes up again.
    async fn connect(&mut self) -> Result<Writer, Error> {
        db::migrate(&self.config.pool).await?;
        let taken = db::take_over(&self.config.pool, self.config.cluster_uid, self.writer).await?;
        let first = self.writer.replace(taken.writer).is_none();
        if taken.lost > 0 {
            self.recover(&taken);
        } else if taken.moved && first {
            tracing::warn!(
                "the database was failed over or restored since the mirror was last written; all that the cluster \
                 retains is written again, and what left it shortly before may be missing"
            );
            self.config.metrics.mirror_unrecovered();
        }
        if taken.new {
            self.mark_all();
        }
        self.shared.lock().resyncs = ALL;
        Ok(taken.writer)
    }

    /// The database has lost transactions: what they charged will be charged again, from memory where the cluster does
    /// not retain it.
    fn recover(&mut self, taken: &Taken) {
        let (rows, complete) = self.recent.after(taken.commits);
        let (transactions, attempts) = (taken.lost, rows.len());
        self.lost.extend(rows);
        self.config.metrics.mirror_lost(transactions.unsigned_abs());
        if complete {
            tracing::error!(
                transactions,
                attempts,
                "the database has lost transactions (a standby was promoted that lacked them, or a backup restored): \
                 all that the cluster retains is written again, and these attempts from memory"
            );
        } else {
            self.config.metrics.mirror_unrecovered();
            tracing::error!(
                transactions,
                attempts,
                "the database has lost more transactions than memory reaches back to: all that the cluster retains is \
                 written again, and these attempts from memory; earlier charges of jobs that were deleted are missing"
            );
        }
    }

    /// Marks all objects: none counts as written any more.
    fn mark_all(&mut self) {
        fn all<K: Resource<DynamicType = ()>>(objects: Vec<Arc<K>>) -> impl Iterator<Item = (Uuid, Arc<K>)> {
            objects.into_iter().filter_map(|object| Some((rows::uid(object.as_ref())?, object)))
        }
        self.tenancy = TenantIndex::default();
        let mut state = self.shared.lock();
        state.forget_written();
        // What is deleted is in no cache.
        self.aside.drain().for_each(|batch| state.dirty.put_back(batch));
        self.unread = Unread::default();
        all(self.stores.tenants.state()).for_each(|(uid, tenant)| state.dirty.tenants.changed(uid, tenant));
        all(self.stores.nodes.state()).for_each(|(uid, node)| state.dirty.nodes.changed(uid, node));
        all(self.stores.jobs.state()).for_each(|(uid, job)| state.dirty.jobs.changed(uid, job));
        all(self.stores.pods.state())
            .filter(|(_, pod)| rows::awaits_charge(pod, &self.config.gpu_resource))
            .for_each(|(uid, pod)| state.dirty.pods.changed(uid, pod));
        state.dirty.waits_since(Instant::now());
    }

    /// Writes until the database is away.
    async fn write(&mut self, mut writer: Writer) -> Error {
        loop {
            match self.write_next_batch(writer).await {
                Ok(current) => writer = current,
                Err(error) => return error,
            }
        }
    }

    /// Waits for marks and writes a batch of them, small enough to be committed soon; then a group of rows that were
    /// set aside.
    async fn write_next_batch(&mut self, writer: Writer) -> Result<Writer, Error> {
        self.wait_for_work().await;
        if self.shared.lock().synced != ALL {
            db::verify(&self.config.pool, writer).await?;
            return Ok(writer);
        }
        let writer = self.resync(writer).await?;
        let (mut batch, more) = {
            let dirty = &mut self.shared.lock().dirty;
            (dirty.take(Instant::now()), !dirty.is_empty())
        };
        self.aside.absorb(&mut batch);
        self.unread.join(&mut batch.jobs, Instant::now());
        if batch.is_empty() && self.lost.is_empty() {
            db::verify(&self.config.pool, writer).await?;
        }
        match self.flush(writer, &mut batch).await {
            Ok(failed) => self.aside.add(failed, Instant::now()),
            Err(error) => {
                self.shared.lock().dirty.put_back(batch);
                return Err(error);
            }
        }
        self.recovered();
        if let Some(mut group) = self.aside.due(Instant::now()) {
            match self.flush(writer, &mut group.batch).await {
                Ok(failed) => self.aside.failed_again(failed, group.failures(), Instant::now()),
                Err(error) => {
                    self.aside.put_back(group);
                    return Err(error);
                }
            }
        }
        if !more {
            tokio::time::sleep(self.config.interval).await;
        }
        Ok(writer)
    }

    fn recovered(&mut self) {
        self.failures = 0;
        self.shared.written();
        if self.trouble.take().is_some() {
            tracing::info!("the mirror writes again");
        }
    }

    /// Waits until all caches are synced and something is to be written; or until a row that was set aside is due; or
    /// until the time of the next check whether the database still has what was committed.
    async fn wait_for_work(&self) {
        let verify = Instant::now() + self.config.verify_interval;
        let due = [self.aside.next(), self.unread.next(), Some(verify)];
        let until = due.into_iter().flatten().min().unwrap_or(verify);
        loop {
            {
                let state = self.shared.lock();
                let due =
                    !state.dirty.is_empty() || state.resyncs != Kinds::default() || !self.lost.is_empty();
                if due && state.synced == ALL {
                    return;
                }
            }
            if tokio::time::timeout_at(until, self.shared.work.notified()).await.is_err() {
                return;
            }
        }
    }

    /// Compares what is due with its rows, marks what differs, and marks as deleted what is deleted.
    async fn resync(&mut self, mut writer: Writer) -> Result<Writer, Error> {
        let due = mem::take(&mut self.shared.lock().resyncs);
        let (pool, now, epoch) = (&self.config.pool, self.clock.now(), writer.epoch);
        let mut ahead = false;
        if due.tenants {
            let invalid = self.shared.lock().invalid_tenants.all();
            let exists = self.stores.tenants.state();
            let rows = db::tenant_versions(pool, &resync::uids(&exists)).await?;
            let found = resync::compare(exists, &rows, &invalid, epoch);
            db::mark_deleted_tenants(pool, writer, &found.deleted, now).await?;
            ahead |= found.ahead;
            self.shared.lock().dirty.tenants.put_back(found.stale);
        }
        if due.nodes {
            let invalid = self.shared.lock().invalid_nodes.all();
            let exists = self.stores.nodes.state();
            let rows = db::node_versions(pool, &resync::uids(&exists)).await?;
            let found = resync::compare(exists, &rows, &invalid, epoch);
            db::mark_deleted_nodes(pool, writer, &found.deleted, now).await?;
            ahead |= found.ahead;
            self.shared.lock().dirty.nodes.put_back(found.stale);
        }
        if due.jobs {
            let invalid = self.shared.lock().invalid_jobs.all();
            let exists = self.stores.jobs.state();
            let rows = db::job_versions(pool, &resync::uids(&exists)).await?;
            let found = resync::compare(exists, &rows, &invalid, epoch);
            db::mark_deleted_jobs(pool, writer, &found.deleted, now).await?;
            ahead |= found.ahead;
            self.shared.lock().dirty.jobs.put_back(found.stale);
        }
        if ahead {
            tracing::info!(
                "rows are ahead of the cluster, as after a restore of etcd: all rows are written again"
            );
            writer = db::next_epoch(pool, writer).await?;
            self.writer = Some(writer);
            self.mark_all();
        }
        Ok(writer)
    }
}

/// How long to wait after `failures` failures in a row: half a second, doubled each time up to `longest`, less up to
/// half of it, so that the clusters of one database server do not come back at once.
fn pause(cluster_uid: Uuid, failures: u32, longest: Duration) -> Duration {
    const FIRST: Duration = Duration::from_millis(500);
    let whole = FIRST.saturating_mul(2_u32.saturating_pow(failures.min(16))).min(longest);
    let digest = Sha256::new().chain_update(cluster_uid).chain_update(failures.to_be_bytes()).finalize();
    whole - whole.mul_f64(f64::from(digest[0]) / 512.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_the_longest_and_differ_between_clusters() {
        let longest = Duration::from_secs(15);
        for failures in 0..100 {
            let most = Duration::from_millis(500).saturating_mul(1 << failures.min(16)).min(longest);
            let pause = pause(Uuid::from_u128(7), failures, longest);
            assert!(pause <= most && pause >= most / 2, "{failures}: {pause:?}");
        }
        let at = |cluster| pause(Uuid::from_u128(cluster), 9, longest);
        assert_eq!(at(1), at(1), "can be replayed");
        assert!((1..20).any(|cluster| at(cluster) != at(0)));
    }
}
