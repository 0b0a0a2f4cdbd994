//! Writes the jobs of a batch, with the payload that the cache lacks.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use jiff::Timestamp;
use tokio::time::Instant;
use uuid::Uuid;

use super::{
    MirrorWriter,
    flush::{deleted_uids, to_rows},
};
use crate::{
    api_types::Job,
    db::{self, Error, Writer},
    mirror::{
        batch::Outcome,
        dirty::{Batch, Mark},
        handle::AttemptKey,
        payload, rows,
    },
};

impl MirrorWriter {
    /// Writes jobs, and notes which versions of the living ones are written with all their `attempts`.
    pub(super) async fn flush_jobs(
        &mut self,
        writer: Writer,
        batch: &mut Batch,
        attempts: &Outcome<AttemptKey>,
        failed: &mut Batch,
        now: Timestamp,
    ) -> Result<(), Error> {
        db::mark_deleted_jobs(&self.config.pool, writer, &deleted_uids(&batch.jobs), now).await?;
        let tenancy = &self.tenancy;
        for (uid, mark) in &batch.jobs {
            match mark {
                Mark::Exists(job) if tenancy.of(job).is_none() => {
                    self.waiting.insert(*uid, Arc::clone(job));
                }
                Mark::Exists(_) | Mark::Deleted(_) => drop(self.waiting.remove(uid)),
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
            Some(Mark::Exists(job)) => Some((*uid, rows::resource_version(job.as_ref())?)),
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
            batch.jobs.retain(|uid, mark| matches!(mark, Mark::Deleted(_)) || !outcome.written.contains(uid));
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
}
