//! Writes what is marked, for ever: connect, compare, write, wait; and again from the start when the database is away.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    mem::{self, Discriminant},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{Resource, ResourceExt, runtime::reflector::ObjectRef};
use sha2::{Digest, Sha256};
use tokio::time::Instant;
use uuid::Uuid;

use super::{
    Config, Stores,
    chunks::write_rows,
    dirty::{Batch, Mark},
    handle::{AttemptKey, Shared, Sweeps},
    rows::{self, FromPod},
    sweep,
    tenancy::Tenancy,
};
use crate::{
    api_types::{Job, Tenant},
    clock::Clock,
    db::{self, AttemptRow, Cause, Error, Writer},
    domain::attempt,
};

/// The one who writes.
pub(super) struct Scribe {
    config: Config,
    stores: Stores,
    clock: Clock,
    shared: Arc<Shared>,
    writer: Option<Writer>,
    tenancy: Tenancy,
    /// Jobs of namespaces that are no tenant's, or not yet.
    waiting: HashMap<Uuid, Arc<Job>>,
    /// Ended pods, by UID, whose Job exists and has not recorded them yet; by UID of the Job.
    unrecorded: HashMap<Uuid, HashMap<Uuid, Arc<Pod>>>,
    trouble: Option<Discriminant<Cause>>,
    failures: u32,
}

impl Scribe {
    pub(super) fn new(config: Config, stores: Stores, clock: Clock, shared: Arc<Shared>) -> Self {
        Self {
            config,
            stores,
            clock,
            shared,
            writer: None,
            tenancy: Tenancy::default(),
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
                tracing::warn!(%error, "the mirror does not write; changes are kept and it goes on trying");
            }
            let pause = pause(self.config.cluster_uid, self.failures, self.config.longest_pause);
            self.failures = self.failures.saturating_add(1);
            tokio::time::sleep(pause).await;
        }
    }

    /// Brings the schema up to date and takes over, or takes up again.
    async fn connect(&mut self) -> Result<Writer, Error> {
        db::migrate(&self.config.pool).await?;
        let (writer, new) = db::take_over(&self.config.pool, self.config.cluster_uid, self.writer).await?;
        self.writer = Some(writer);
        if new {
            self.mark_all();
        }
        self.shared.lock().sweeps = Sweeps { tenants: true, nodes: true, jobs: true };
        Ok(writer)
    }

    /// Takes nothing for written any more.
    fn mark_all(&mut self) {
        fn all<K: Resource<DynamicType = ()>>(objects: Vec<Arc<K>>) -> impl Iterator<Item = (Uuid, Arc<K>)> {
            objects.into_iter().filter_map(|object| Some((rows::uid(object.as_ref())?, object)))
        }
        self.tenancy = Tenancy::default();
        let mut state = self.shared.lock();
        state.forget_written();
        all(self.stores.tenants.state()).for_each(|(uid, tenant)| state.dirty.tenants.living(uid, tenant));
        all(self.stores.nodes.state()).for_each(|(uid, node)| state.dirty.nodes.living(uid, node));
        all(self.stores.jobs.state()).for_each(|(uid, job)| state.dirty.jobs.living(uid, job));
        all(self.stores.pods.state())
            .filter(|(_, pod)| rows::awaits_charge(pod, &self.config.gpu_resource))
            .for_each(|(uid, pod)| state.dirty.pods.living(uid, pod));
        state.dirty.waits_since(Instant::now());
    }

    /// Writes until the database is away.
    async fn write(&mut self, mut writer: Writer) -> Error {
        loop {
            match self.sweep(writer).await {
                Ok(current) => writer = current,
                Err(error) => return error,
            }
            let mut batch = self.shared.lock().dirty.take(Instant::now());
            if let Err(error) = self.flush(writer, &mut batch).await {
                self.shared.lock().dirty.put_back(batch);
                return error;
            }
            self.recovered();
            tokio::time::sleep(self.config.interval).await;
        }
    }

    fn recovered(&mut self) {
        self.failures = 0;
        self.shared.written();
        if self.trouble.take().is_some() {
            tracing::info!("the mirror writes again");
        }
    }

    /// Waits for something to write, all caches being whole.
    async fn work(&self) {
        const ALL: Sweeps = Sweeps { tenants: true, nodes: true, jobs: true };
        loop {
            {
                let state = self.shared.lock();
                let due = !state.dirty.is_empty() || state.sweeps != Sweeps::default();
                if due && state.synced == ALL {
                    return;
                }
            }
            self.shared.work.notified().await;
        }
    }

    /// Waits for work; compares what is due with its rows, marks what differs and buries what is gone.
    async fn sweep(&mut self, mut writer: Writer) -> Result<Writer, Error> {
        self.work().await;
        let due = mem::take(&mut self.shared.lock().sweeps);
        let (pool, now, epoch) = (&self.config.pool, self.clock.now(), writer.epoch);
        let mut ahead = false;
        if due.tenants {
            let unreadable = self.shared.lock().unreadable_tenants.all();
            let exists = self.stores.tenants.state();
            let rows = db::tenant_versions(pool, &sweep::uids(&exists)).await?;
            let found = sweep::compare(exists, &rows, &unreadable, epoch);
            db::bury_tenants(pool, writer, &found.gone, now).await?;
            ahead |= found.ahead;
            self.shared.lock().dirty.tenants.put_back(found.stale);
        }
        if due.nodes {
            let unreadable = self.shared.lock().unreadable_nodes.all();
            let exists = self.stores.nodes.state();
            let rows = db::node_versions(pool, &sweep::uids(&exists)).await?;
            let found = sweep::compare(exists, &rows, &unreadable, epoch);
            db::bury_nodes(pool, writer, &found.gone, now).await?;
            ahead |= found.ahead;
            self.shared.lock().dirty.nodes.put_back(found.stale);
        }
        if due.jobs {
            let unreadable = self.shared.lock().unreadable_jobs.all();
            let exists = self.stores.jobs.state();
            let rows = db::job_versions(pool, &sweep::uids(&exists)).await?;
            let found = sweep::compare(exists, &rows, &unreadable, epoch);
            db::bury_jobs(pool, writer, &found.gone, now).await?;
            ahead |= found.ahead;
            self.shared.lock().dirty.jobs.put_back(found.stale);
        }
        if ahead {
            tracing::info!("rows are ahead of the cluster, as after a restore of etcd: all is written anew");
            writer = db::next_epoch(pool, writer).await?;
            self.writer = Some(writer);
            self.mark_all();
        }
        Ok(writer)
    }

    /// Writes a batch in the order of the foreign keys. On an error nothing of `batch` counts as written.
    async fn flush(&mut self, writer: Writer, batch: &mut Batch) -> Result<(), Error> {
        let now = self.clock.now();
        self.flush_tenants(writer, batch, now).await?;
        let early = self.flush_nodes(writer, batch, now).await?;
        let jobs = self.flush_jobs(writer, batch, now).await?;
        let refused = self.flush_attempts(writer, batch, now).await?;
        self.settle(batch, early, &jobs, &refused);
        Ok(())
    }

    async fn flush_tenants(
        &mut self,
        writer: Writer,
        batch: &mut Batch,
        now: Timestamp,
    ) -> Result<(), Error> {
        let pool = &self.config.pool;
        db::bury_tenants(pool, writer, &gone(&batch.tenants), now).await?;
        let rows = to_rows(&batch.tenants, now, rows::tenant);
        write_rows(pool, writer, &rows).await?;
        for row in &rows {
            self.tenancy.learn(row);
        }
        if !rows.is_empty() {
            let namespaces: HashSet<&str> = rows.iter().filter_map(|r| r.namespace.as_deref()).collect();
            let found = |job: &Arc<Job>| job.namespace().is_some_and(|n| namespaces.contains(n.as_str()));
            for (uid, job) in self.waiting.extract_if(|_, job| found(job)) {
                batch.jobs.entry(uid).or_insert(Mark::Living(job));
            }
        }
        Ok(())
    }

    /// Writes nodes and gives back those that came before their tenant: they are written with it.
    async fn flush_nodes(
        &self,
        writer: Writer,
        batch: &mut Batch,
        now: Timestamp,
    ) -> Result<HashMap<Uuid, Mark<Node>>, Error> {
        let pool = &self.config.pool;
        db::bury_nodes(pool, writer, &gone(&batch.nodes), now).await?;
        let tenant = |node: &Node| rows::admitted_group(node).and_then(|group| self.tenancy.named(group));
        let comes = |node: &Node| {
            let name = rows::admitted_group(node).filter(|_| tenant(node).is_none());
            name.is_some_and(|name| self.stores.tenants.get(&ObjectRef::new(name)).is_some())
        };
        let rows = to_rows(&batch.nodes, now, |node, deleted_at| {
            if comes(node) {
                return None;
            }
            rows::node(node, tenant(node), &self.config.gpu_resource, deleted_at)
        });
        write_rows(pool, writer, &rows).await?;
        let early = batch.nodes.iter().filter(|(_, mark)| matches!(mark, Mark::Living(node) if comes(node)));
        Ok(early.map(|(uid, mark)| (*uid, mark.clone())).collect())
    }

    fn tenant_of(&self, job: &Job) -> Option<Uuid> {
        self.tenancy.of_job(&job.namespace()?, rows::created(job)?)
    }

    /// Writes jobs and says which versions of the living ones were written.
    async fn flush_jobs(
        &mut self,
        writer: Writer,
        batch: &Batch,
        now: Timestamp,
    ) -> Result<Vec<(Uuid, i64)>, Error> {
        db::bury_jobs(&self.config.pool, writer, &gone(&batch.jobs), now).await?;
        for (uid, mark) in &batch.jobs {
            match mark {
                Mark::Living(job) if self.tenant_of(job).is_none() => {
                    self.waiting.insert(*uid, Arc::clone(job));
                }
                Mark::Living(_) | Mark::Gone(_) => drop(self.waiting.remove(uid)),
            }
        }
        let rows =
            to_rows(&batch.jobs, now, |job, deleted_at| rows::job(job, self.tenant_of(job)?, deleted_at));
        let refused = write_rows(&self.config.pool, writer, &rows).await?;
        let written =
            rows.iter().enumerate().filter(|(at, row)| row.deleted_at.is_none() && !refused.contains(at));
        Ok(written.map(|(_, row)| (row.uid, row.resource_version)).collect())
    }

    /// Takes up the pods whose jobs have changed or gone, and puts off those whose jobs are still to record them.
    fn attempts_of_pods(&mut self, batch: &mut Batch, now: Timestamp) -> Vec<AttemptRow> {
        for job in batch.jobs.keys() {
            for (uid, pod) in self.unrecorded.remove(job).unwrap_or_default() {
                batch.pods.entry(uid).or_insert(Mark::Living(pod));
            }
        }
        let mut rows = Vec::new();
        let pods = batch.pods.iter().filter_map(|(uid, mark)| Some((*uid, Arc::clone(mark.object()?))));
        for (uid, pod) in pods.collect::<Vec<_>>() {
            let job = attempt::owner(&pod).and_then(|owner| self.stores.jobs.get(&owner));
            match rows::attempt_of_pod(&pod, job.as_deref(), &self.config.gpu_resource, now) {
                Some(FromPod::Row(row)) if self.may_charge(&row) => rows.push(*row),
                Some(FromPod::Later) => {
                    batch.pods.remove(&uid);
                    if let Some((job, _)) = rows::attempt_key(&pod) {
                        self.unrecorded.entry(job).or_default().insert(uid, pod);
                    }
                }
                Some(FromPod::Row(_)) | None => (),
            }
        }
        rows
    }

    /// Whether a pod's tenant is the one of its namespace.
    fn may_charge(&self, row: &AttemptRow) -> bool {
        let Some(seen) = &row.seen else { return true };
        let known = self.stores.tenants.get(&ObjectRef::new(&seen.tenant));
        let known = known.filter(|tenant| rows::uid(tenant.as_ref()) == Some(seen.tenant_uid));
        let namespace = |tenant: Arc<Tenant>| tenant.status.as_ref()?.namespace.clone();
        known.is_none_or(|tenant| namespace(tenant).as_ref() == Some(&seen.namespace))
            && self.tenancy.accepts(seen.tenant_uid, &seen.tenant, &seen.namespace)
    }

    /// Writes the attempts of the batch's pods and jobs and says which were refused.
    async fn flush_attempts(
        &mut self,
        writer: Writer,
        batch: &mut Batch,
        now: Timestamp,
    ) -> Result<HashSet<AttemptKey>, Error> {
        let told_by_pods = self.attempts_of_pods(batch, now);
        // Jobs of no tenant have no row, and never ran.
        let jobs = batch.jobs.values().filter_map(Mark::object).filter(|job| self.tenant_of(job).is_some());
        let told_by_jobs = jobs.flat_map(|job| rows::attempts_of_job(job));
        let mut attempts: BTreeMap<AttemptKey, AttemptRow> = BTreeMap::new();
        // A job's word comes first.
        for row in told_by_jobs.chain(told_by_pods) {
            attempts.entry((row.job_uid, row.record.attempt)).or_insert(row);
        }
        let rows: Vec<AttemptRow> = attempts.into_values().collect();
        let key = |row: &AttemptRow| (row.job_uid, row.record.attempt);
        let refused = write_rows(&self.config.pool, writer, &rows).await?;
        let written = rows.iter().enumerate().filter(|(at, _)| !refused.contains(at));
        self.shared.attempts_committed(written.map(|(_, row)| key(row)));
        Ok(refused.into_iter().filter_map(|at| rows.get(at).map(key)).collect())
    }

    /// Notes what a batch that is written makes known. `early` nodes stay marked; a job with an attempt among
    /// `refused` does not count as mirrored.
    fn settle(
        &mut self,
        batch: &Batch,
        early: HashMap<Uuid, Mark<Node>>,
        jobs: &[(Uuid, i64)],
        refused: &HashSet<AttemptKey>,
    ) {
        gone(&batch.tenants).into_iter().for_each(|uid| self.tenancy.forget(uid));
        let incomplete: HashSet<Uuid> = refused.iter().map(|(job, _)| *job).collect();
        let mut state = self.shared.lock();
        for (uid, version) in jobs.iter().filter(|(uid, _)| !incomplete.contains(uid)) {
            state.job_written(*uid, *version);
        }
        gone(&batch.jobs).into_iter().for_each(|uid| state.job_gone(uid));
        if !early.is_empty() {
            state.dirty.nodes.put_back(early);
            state.dirty.waits_since(Instant::now());
        }
    }
}

fn gone<K>(marks: &HashMap<Uuid, Mark<K>>) -> Vec<Uuid> {
    marks.iter().filter(|(_, mark)| matches!(mark, Mark::Gone(_))).map(|(uid, _)| *uid).collect()
}

/// The rows of what is marked, those that are gone as gone at `now`; without what `build` makes nothing of.
fn to_rows<K, R>(
    marks: &HashMap<Uuid, Mark<K>>,
    now: Timestamp,
    build: impl Fn(&K, Option<Timestamp>) -> Option<R>,
) -> Vec<R> {
    let row = |mark: &Mark<K>| match mark {
        Mark::Living(object) => build(object, None),
        Mark::Gone(object) => build(object.as_ref()?, Some(now)),
    };
    marks.values().filter_map(row).collect()
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
