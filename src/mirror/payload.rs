//! Payloads of ended jobs for their rows.
//!
//! The cache lacks them (`controllers::job::cached`), and the row of a job that was written before its end has them. What
//! ended while the database was away, or within moments, is read from the API server once more.

use std::{collections::HashMap, sync::Arc};

use futures::{StreamExt, stream};
use kube::{Api, Client, ResourceExt};
use uuid::Uuid;

use super::{dirty::Mark, rows};
use crate::{
    api_types::{Job, JobSpec},
    db::{self, Error, Pool},
    kube_ext::call::within_opt,
};

/// Jobs whose payloads are in memory at once: of the longest, a few megabytes.
pub(super) const AT_ONCE: usize = 64;
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
        Mark::Living(job) if !job.spec.has_payload() => Some((*uid, Arc::clone(job))),
        Mark::Living(_) | Mark::Gone(_) => None,
    });
    let mut missing: HashMap<Uuid, Arc<Job>> = without.collect();
    if !missing.is_empty() {
        let uids: Vec<Uuid> = missing.keys().copied().collect();
        let known = db::jobs_with_payload(pool, &uids).await?;
        missing.retain(|uid, _| !known.contains(uid));
    }
    Ok(missing)
}

/// The specs of jobs as the API server has them, by UID; `None` of one that is deleted. Absent is what could not be read.
pub(super) async fn read(client: &Client, jobs: Vec<Arc<Job>>) -> HashMap<Uuid, Option<JobSpec>> {
    let read = jobs.into_iter().map(|job| read_one(client.clone(), job));
    stream::iter(read).buffer_unordered(CALLS).filter_map(std::future::ready).collect().await
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
