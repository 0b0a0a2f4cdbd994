//! Writes one batch: tenants, nodes, attempts and jobs, in the order in which their rows refer to each other.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{ResourceExt, runtime::reflector::ObjectRef};
use tokio::time::Instant;
use uuid::Uuid;

use super::MirrorWriter;
use crate::{
    api_types::Job,
    db::{self, Error, Writer},
    mirror::{
        batch::Outcome,
        dirty::{Batch, Mark},
        rows,
    },
};

impl MirrorWriter {
    /// Writes a batch: tenants, whose rows all others refer to; then attempts and what they are charged; then what is
    /// only shown. Gives what failed while the database answers. On an error what is left in `batch` is not written.
    pub(super) async fn flush(&mut self, writer: Writer, batch: &mut Batch) -> Result<Batch, Error> {
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
        self.record_written(batch, early);
        Ok(())
    }

    async fn flush_tenants(
        &mut self,
        writer: Writer,
        batch: &mut Batch,
        failed: &mut Batch,
        now: Timestamp,
    ) -> Result<(), Error> {
        db::mark_deleted_tenants(&self.config.pool, writer, &deleted_uids(&batch.tenants), now).await?;
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
                batch.jobs.entry(uid).or_insert(Mark::Exists(job));
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
        db::mark_deleted_nodes(&self.config.pool, writer, &deleted_uids(&batch.nodes), now).await?;
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
        let early = batch.nodes.iter().filter(|(_, mark)| matches!(mark, Mark::Exists(node) if comes(node)));
        Ok(early.map(|(uid, mark)| (*uid, mark.clone())).collect())
    }

    /// Records what a written batch makes known. `early` nodes stay marked.
    fn record_written(&mut self, batch: &Batch, early: HashMap<Uuid, Mark<Node>>) {
        deleted_uids(&batch.tenants).into_iter().for_each(|uid| self.tenancy.forget(uid));
        let mut state = self.shared.lock();
        deleted_uids(&batch.jobs).into_iter().for_each(|uid| state.job_deleted(uid));
        if !early.is_empty() {
            state.dirty.nodes.put_back(early);
            state.dirty.waits_since(Instant::now());
        }
    }
}

pub(super) fn deleted_uids<K>(marks: &HashMap<Uuid, Mark<K>>) -> Vec<Uuid> {
    marks.iter().filter(|(_, mark)| matches!(mark, Mark::Deleted(_))).map(|(uid, _)| *uid).collect()
}

/// The rows of what is marked, those that are deleted as deleted at `now`; without what `build` makes nothing of.
pub(super) fn to_rows<K, R>(
    marks: &HashMap<Uuid, Mark<K>>,
    now: Timestamp,
    build: impl Fn(&K, Option<Timestamp>) -> Option<R>,
) -> impl Iterator<Item = R> {
    marks.values().filter_map(move |mark| match mark {
        Mark::Exists(object) => build(object, None),
        Mark::Deleted(object) => build(object.as_ref()?, Some(now)),
    })
}
