//! Payloads of ended jobs for their rows.
//!
//! The cache lacks them (`controllers::job::cached`), and the row of a job that was written before its end has them.
//! What ended while the database was away, or within moments, is read from the API server once more.

use std::{collections::HashMap, future::ready, sync::Arc, time::Duration};

use futures::{StreamExt, stream};
use kube::{Api, Client, ResourceExt};
use tokio::time::Instant;
use uuid::Uuid;

use super::{dirty::Mark, rows};
use crate::{
    api_types::{Job, JobSpec},
    db::{self, Error, Pool},
    kube_ext::call::within_opt,
};

/// Jobs whose payloads are in memory at once: of the longest, a few megabytes.
pub(super) const AT_ONCE: usize = 64;
/// The delay before jobs are read again that could not be read.
const RETRY: Duration = Duration::from_secs(5);
/// Jobs that are read at the same time.
const CALLS: usize = 8;

/// Jobs of a batch whose payload neither the cache nor their row has, by UID.
///
/// # Errors
/// When the database is away.
pub(super) async fn missing(
    pool: &Pool,
    jobs: &HashMap<Uuid, Mark<Job>>,
) -> Result<HashMap<Uuid, Arc<Job>>, Error> {
    // A deleted one can't be read any more.
    let without = jobs.iter().filter_map(|(uid, mark)| match mark {
        Mark::Exists(job) if !job.spec.has_payload() => Some((*uid, Arc::clone(job))),
        Mark::Exists(_) | Mark::Deleted(_) => None,
    });
    let mut missing: HashMap<Uuid, Arc<Job>> = without.collect();
    if !missing.is_empty() {
        let uids: Vec<Uuid> = missing.keys().copied().collect();
        let known = db::jobs_with_payload(pool, &uids).await?;
        missing.retain(|uid, _| !known.contains(uid));
    }
    Ok(missing)
}

/// The specs of jobs as the API server has them, by UID; `None` of one that is deleted. Absent is what was not read:
/// with the first call that fails the reads end, for the API server is away.
pub(super) async fn read(client: &Client, jobs: Vec<Arc<Job>>) -> HashMap<Uuid, Option<JobSpec>> {
    let calls = jobs.into_iter().map(|job| read_one(client.clone(), job));
    let read = stream::iter(calls).buffer_unordered(CALLS).take_while(|read| ready(read.is_some()));
    read.filter_map(ready).collect().await
}

async fn read_one(client: Client, job: Arc<Job>) -> Option<(Uuid, Option<JobSpec>)> {
    let uid = rows::uid(job.as_ref())?;
    let api: Api<Job> = Api::namespaced(client, &job.namespace()?);
    match within_opt("failed to read a Job that has ended", api.get(&job.name_any())).await {
        Ok(stored) => {
            let stored = stored.filter(|stored| rows::uid(stored) == Some(uid));
            Some((uid, stored.map(|stored| stored.spec)))
        }
        Err(error) => {
            tracing::debug!(%error, "the row of an ended job is written later");
            None
        }
    }
}

/// Jobs whose payload could not be read, until it is read again.
#[derive(Debug, Default)]
pub(super) struct Unread {
    jobs: HashMap<Uuid, Mark<Job>>,
    due: Option<Instant>,
}

impl Unread {
    pub(super) fn add(&mut self, jobs: impl Iterator<Item = (Uuid, Mark<Job>)>, now: Instant) {
        self.jobs.extend(jobs);
        self.due = (!self.jobs.is_empty()).then(|| now + RETRY);
    }

    /// Adds the jobs to a batch whose time has come. A newer mark of the batch replaces the one here.
    pub(super) fn join(&mut self, batch: &mut HashMap<Uuid, Mark<Job>>, now: Instant) {
        self.jobs.retain(|uid, _| !batch.contains_key(uid));
        if self.due.is_some_and(|due| due <= now) {
            batch.extend(self.jobs.drain());
            self.due = None;
        }
    }

    /// When they are read again.
    pub(super) fn next(&self) -> Option<Instant> {
        self.due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_read_waits_its_time_and_gives_way_to_newer_marks() {
        let (mut unread, now) = (Unread::default(), Instant::now());
        let deleted = |numbers: &[u128]| {
            numbers.iter().map(|n| (Uuid::from_u128(*n), Mark::Deleted(None))).collect::<Vec<_>>()
        };
        assert_eq!(unread.next(), None);
        unread.add(deleted(&[1, 2]).into_iter(), now);
        assert_eq!(unread.next(), Some(now + RETRY));
        let mut batch: HashMap<_, _> = deleted(&[2, 3]).into_iter().collect();
        unread.join(&mut batch, now);
        assert_eq!(batch.len(), 2, "it is not time yet");
        let mut batch = HashMap::new();
        unread.join(&mut batch, now + RETRY);
        assert_eq!(batch.keys().copied().collect::<Vec<_>>(), [Uuid::from_u128(1)], "2 has a newer mark");
        assert_eq!(unread.next(), None);
    }
}
