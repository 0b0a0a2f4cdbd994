//! Writes the attempts of a batch: those of pods, of job statuses, and those that the database has lost.

use std::{collections::BTreeMap, mem, sync::Arc};

use jiff::Timestamp;
use kube::runtime::reflector::ObjectRef;

use super::MirrorWriter;
use crate::{
    api_types::Tenant,
    db::{AttemptRow, Error, Writer},
    domain::attempt,
    mirror::{
        batch::{Outcome, Rows},
        dirty::{Batch, Mark},
        handle::AttemptKey,
        rows::{self, FromPod},
    },
};

impl MirrorWriter {
    /// The rows of pods, those of changed or deleted jobs included; without those whose jobs have yet to record them.
    fn attempts_of_pods(&mut self, batch: &mut Batch, now: Timestamp) -> Vec<AttemptRow> {
        for job in batch.jobs.keys() {
            for (uid, pod) in self.unrecorded.remove(job).unwrap_or_default() {
                batch.pods.entry(uid).or_insert(Mark::Exists(pod));
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
    pub(super) async fn flush_attempts(
        &mut self,
        writer: Writer,
        batch: &mut Batch,
        now: Timestamp,
    ) -> Result<Outcome<AttemptKey>, Error> {
        let from_pods = self.attempts_of_pods(batch, now);
        // Jobs of no tenant have no row, and never ran.
        let from_jobs = batch.jobs.values().filter_map(Mark::object).flat_map(|job| {
            let tenant = self.tenancy.of(job).and_then(|uid| Some((uid, self.tenancy.name(uid)?)));
            tenant.map(|tenant| rows::attempts_of_job(job, tenant)).unwrap_or_default()
        });
        let mut attempts: BTreeMap<AttemptKey, AttemptRow> = BTreeMap::new();
        // A job's status has precedence: it has what a kubelet may have forgotten since (the start of an evicted pod),
        // and earlier charges were made from it.
        for row in self.lost.iter().cloned().chain(from_jobs).chain(from_pods) {
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
}
