//! Writes what is marked, for ever: connect, compare, write, wait; and again from the start when the database is away.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    mem::{self, Discriminant},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{Client, Resource, ResourceExt, runtime::reflector::ObjectRef};
use sha2::{Digest, Sha256};
use tokio::time::Instant;
use uuid::Uuid;

use super::{
    Config, Stores,
    aside::Aside,
    batch::{Outcome, Portions, Rows},
    dirty::{Batch, Mark},
    handle::{AttemptKey, Shared, Sweeps},
    payload::{self, Unread},
    recent::Recent,
    resync,
    rows::{self, FromPod},
    tenant_index::TenantIndex,
};
use crate::{
    api_types::{Job, Tenant},
    clock::Clock,
    db::{self, AttemptRow, Cause, Error, Taken, Writer},
    domain::attempt,
};

/// All kinds.
const ALL: Sweeps = Sweeps { tenants: true, nodes: true, jobs: true };

/// The one who writes.
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

    /// Writes until another process has taken over, or this one does not lead.
    pub(super) async fn run(mut self) -> Error {
        loop {
            let error = match self.connect().await {
                Err(error) if matches!(error.cause, Cause::Superseded) => return error,
                Err(error) => error,
                Ok(writer) => self.write(writer).await,
            };
            // Another replica writes now, or soon.
            if matches!(error.cause, Cause::NotLeader) {
                return error;
            }
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
        self.shared.lock().sweeps = ALL;
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

    /// Takes nothing for written any more.
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
            match self.round(writer).await {
                Ok(current) => writer = current,
                Err(error) => return error,
            }
        }
    }

    /// Waits for work, and does so much of it at most that what is written counts soon; then something of what was set
    /// aside.
    async fn round(&mut self, writer: Writer) -> Result<Writer, Error> {
        self.work().await;
        if self.shared.lock().synced != ALL {
            db::verify(&self.config.pool, writer).await?;
            return Ok(writer);
        }
        let writer = self.sweep(writer).await?;
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

    /// Waits for something to write, all caches being whole; or for something set aside to be due, or for the time to ask
    /// whether the database still holds what was committed.
    async fn work(&self) {
        let verify = Instant::now() + self.config.verify_interval;
        let due = [self.aside.next(), self.unread.next(), Some(verify)];
        let until = due.into_iter().flatten().min().unwrap_or(verify);
        loop {
            {
                let state = self.shared.lock();
                let due =
                    !state.dirty.is_empty() || state.sweeps != Sweeps::default() || !self.lost.is_empty();
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
    async fn sweep(&mut self, mut writer: Writer) -> Result<Writer, Error> {
        let due = mem::take(&mut self.shared.lock().sweeps);
        let (pool, now, epoch) = (&self.config.pool, self.clock.now(), writer.epoch);
        let mut ahead = false;
        if due.tenants {
            let invalid = self.shared.lock().invalid_tenants.all();
            let exists = self.stores.tenants.state();
            let rows = db::tenant_versions(pool, &resync::uids(&exists)).await?;
            let found = resync::compare(exists, &rows, &invalid, epoch);
            db::mark_deleted_tenants(pool, writer, &found.gone, now).await?;
            ahead |= found.ahead;
            self.shared.lock().dirty.tenants.put_back(found.stale);
        }
        if due.nodes {
            let invalid = self.shared.lock().invalid_nodes.all();
            let exists = self.stores.nodes.state();
            let rows = db::node_versions(pool, &resync::uids(&exists)).await?;
            let found = resync::compare(exists, &rows, &invalid, epoch);
            db::mark_deleted_nodes(pool, writer, &found.gone, now).await?;
            ahead |= found.ahead;
            self.shared.lock().dirty.nodes.put_back(found.stale);
        }
        if due.jobs {
            let invalid = self.shared.lock().invalid_jobs.all();
            let exists = self.stores.jobs.state();
            let rows = db::job_versions(pool, &resync::uids(&exists)).await?;
            let found = resync::compare(exists, &rows, &invalid, epoch);
            db::mark_deleted_jobs(pool, writer, &found.gone, now).await?;
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

    /// Writes a batch: tenants, whose rows all others refer to; then attempts and what they are charged; then what is
    /// only shown. Gives what failed while the database answers. On an error what is left in `batch` is not written.
    async fn flush(&mut self, writer: Writer, batch: &mut Batch) -> Result<Batch, Error> {
        let mut failed = Batch::default();
        match self.flush_kinds(writer, batch, &mut failed).await {
            Ok(()) => Ok(failed),
            Err(error) => {
                batch.extend(failed);
                Err(error)
            }
        }
    }

    async fn flush_kinds(
        &mut self,
        writer: Writer,
        batch: &mut Batch,
        failed: &mut Batch,
    ) -> Result<(), Error> {
        let now = self.clock.now();
        self.flush_tenants(writer, batch, failed, now).await?;
        let attempts = self.flush_attempts(writer, batch, now).await?;
        let early = self.flush_nodes(writer, batch, failed, now).await?;
        self.flush_jobs(writer, batch, &attempts, failed, now).await?;
        let is_failed = |pod: &Mark<Pod>| {
            pod.object()
                .and_then(|pod| rows::attempt_key(pod))
                .is_some_and(|key| attempts.failed.contains(&key))
        };
        failed.pods.extend(batch.pods.extract_if(|_, pod| is_failed(pod)));
        self.settle(batch, early);
        Ok(())
    }

    async fn flush_tenants(
        &mut self,
        writer: Writer,
        batch: &mut Batch,
        failed: &mut Batch,
        now: Timestamp,
    ) -> Result<(), Error> {
        db::mark_deleted_tenants(&self.config.pool, writer, &gone(&batch.tenants), now).await?;
        let mut outcome = Outcome::default();
        let rows: Vec<_> = to_rows(&batch.tenants, now, rows::tenant).collect();
        self.portions.write(writer, rows.iter().cloned(), &mut outcome).await?;
        for row in rows.iter().filter(|row| !outcome.failed.contains(&row.uid)) {
            self.tenancy.learn(row);
        }
        failed.tenants.extend(batch.tenants.extract_if(|uid, _| outcome.failed.contains(uid)));
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
        &mut self,
        writer: Writer,
        batch: &mut Batch,
        failed: &mut Batch,
        now: Timestamp,
    ) -> Result<HashMap<Uuid, Mark<Node>>, Error> {
        db::mark_deleted_nodes(&self.config.pool, writer, &gone(&batch.nodes), now).await?;
        let tenancy = &self.tenancy;
        let tenant = |node: &Node| rows::admitted_group(node).and_then(|group| tenancy.named(group));
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
        let mut outcome = Outcome::default();
        self.portions.write(writer, rows, &mut outcome).await?;
        failed.nodes.extend(batch.nodes.extract_if(|uid, _| outcome.failed.contains(uid)));
        let early = batch.nodes.iter().filter(|(_, mark)| matches!(mark, Mark::Living(node) if comes(node)));
        Ok(early.map(|(uid, mark)| (*uid, mark.clone())).collect())
    }

    /// Writes jobs, and notes which versions of the living ones are written with all their `attempts`.
    async fn flush_jobs(
        &mut self,
        writer: Writer,
        batch: &mut Batch,
        attempts: &Outcome<AttemptKey>,
        failed: &mut Batch,
        now: Timestamp,
    ) -> Result<(), Error> {
        db::mark_deleted_jobs(&self.config.pool, writer, &gone(&batch.jobs), now).await?;
        let tenancy = &self.tenancy;
        for (uid, mark) in &batch.jobs {
            match mark {
                Mark::Living(job) if tenancy.of(job).is_none() => {
                    self.waiting.insert(*uid, Arc::clone(job));
                }
                Mark::Living(_) | Mark::Gone(_) => drop(self.waiting.remove(uid)),
            }
        }
        let mut outcome = Outcome::default();
        let mut unread = HashSet::new();
        let result = self.write_jobs(writer, batch, &mut outcome, &mut unread, now).await;
        self.unread.add(batch.jobs.extract_if(|uid, _| unread.contains(uid)), Instant::now());
        let of = |keys: &HashSet<AttemptKey>| keys.iter().map(|(job, _)| *job).collect::<HashSet<Uuid>>();
        let (refused, late) = (of(&attempts.refused), of(&attempts.failed));
        let mut state = self.shared.lock();
        let living = |uid: &Uuid| match batch.jobs.get(uid) {
            Some(Mark::Living(job)) => Some((*uid, rows::resource_version(job.as_ref())?)),
            _ => None,
        };
        let whole = outcome.written.iter().filter(|uid| !refused.contains(uid) && !late.contains(uid));
        whole.filter_map(living).for_each(|(uid, version)| state.job_written(uid, version));
        drop(state);
        failed
            .jobs
            .extend(batch.jobs.extract_if(|uid, _| outcome.failed.contains(uid) || late.contains(uid)));
        // What is deleted is left to the end of the batch, should that not come.
        if result.is_err() {
            batch.jobs.retain(|uid, mark| matches!(mark, Mark::Gone(_)) || !outcome.written.contains(uid));
        }
        result
    }

    /// Writes jobs: those first whose payload is read for their row. Those that could not be read are `unread`.
    async fn write_jobs(
        &mut self,
        writer: Writer,
        batch: &Batch,
        outcome: &mut Outcome<Uuid>,
        unread: &mut HashSet<Uuid>,
        now: Timestamp,
    ) -> Result<(), Error> {
        let tenancy = &self.tenancy;
        let mut missing = payload::missing(&self.config.pool, &batch.jobs).await?;
        missing.retain(|_, job| tenancy.of(job).is_some());
        let all: Vec<Arc<Job>> = missing.values().map(Arc::clone).collect();
        for jobs in all.chunks(payload::AT_ONCE) {
            // The first that can't be read ends the reads: the API server is away.
            let specs = match unread.is_empty() {
                true => payload::read(&self.client, jobs.to_vec()).await,
                false => HashMap::new(),
            };
            let mut rows = Vec::new();
            for job in jobs {
                let Some(uid) = rows::uid(job.as_ref()) else { continue };
                match specs.get(&uid) {
                    Some(spec) => {
                        rows.extend(tenancy.of(job).and_then(|of| rows::job(job, spec.as_ref(), of, None)));
                    }
                    None => drop(unread.insert(uid)),
                }
            }
            self.portions.write(writer, rows.into_iter(), outcome).await?;
        }
        let rows = to_rows(&batch.jobs, now, |job, deleted_at| {
            if rows::uid(job).is_some_and(|uid| missing.contains_key(&uid)) {
                return None;
            }
            rows::job(job, None, tenancy.of(job)?, deleted_at)
        });
        self.portions.write(writer, rows, outcome).await
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

    /// Writes the attempts of the batch's pods and jobs, and those that the database has lost.
    async fn flush_attempts(
        &mut self,
        writer: Writer,
        batch: &mut Batch,
        now: Timestamp,
    ) -> Result<Outcome<AttemptKey>, Error> {
        let told_by_pods = self.attempts_of_pods(batch, now);
        // Jobs of no tenant have no row, and never ran.
        let told_by_jobs = batch.jobs.values().filter_map(Mark::object).flat_map(|job| {
            let tenant = self.tenancy.of(job).and_then(|uid| Some((uid, self.tenancy.name(uid)?)));
            tenant.map(|tenant| rows::attempts_of_job(job, tenant)).unwrap_or_default()
        });
        let mut attempts: BTreeMap<AttemptKey, AttemptRow> = BTreeMap::new();
        // A job's word comes first: it has seen what a kubelet may have forgotten since (the start of a pod it evicted).
        // What was charged already was charged by it.
        for row in self.lost.iter().cloned().chain(told_by_jobs).chain(told_by_pods) {
            attempts.entry(row.id()).or_insert(row);
        }
        let mut outcome = Outcome::default();
        let result = self.portions.write(writer, attempts.values().cloned(), &mut outcome).await;
        self.shared.attempts_committed(outcome.written.iter().copied());
        let written = outcome.written.iter().filter_map(|key| attempts.remove(key));
        self.recent.add(self.config.pool.committed(), written);
        result?;
        let lost = mem::take(&mut self.lost);
        let unwritten = lost.iter().filter(|row| !outcome.written.contains(&row.id())).count();
        if unwritten > 0 {
            self.config.metrics.mirror_unrecovered();
            tracing::error!(
                attempts = unwritten,
                "attempts that the database has lost can't be charged again"
            );
        }
        Ok(outcome)
    }

    /// Notes what a batch that is written makes known. `early` nodes stay marked.
    fn settle(&mut self, batch: &Batch, early: HashMap<Uuid, Mark<Node>>) {
        gone(&batch.tenants).into_iter().for_each(|uid| self.tenancy.forget(uid));
        let mut state = self.shared.lock();
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

/// The rows of what is marked, those that are deleted as deleted at `now`; without what `build` makes nothing of.
fn to_rows<K, R>(
    marks: &HashMap<Uuid, Mark<K>>,
    now: Timestamp,
    build: impl Fn(&K, Option<Timestamp>) -> Option<R>,
) -> impl Iterator<Item = R> {
    marks.values().filter_map(move |mark| match mark {
        Mark::Living(object) => build(object, None),
        Mark::Gone(object) => build(object.as_ref()?, Some(now)),
    })
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
