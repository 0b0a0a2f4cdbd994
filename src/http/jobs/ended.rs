//! Jobs that have ended, as a whole: the cache lacks their payload (`controllers::job::cached`).

use std::sync::Arc;

use kube::{Api, ResourceExt};
use uuid::Uuid;

use crate::{
    api_types::{Job, JobSpec},
    db::{self, JobRecord},
    http::App,
    kube_ext::call::within_opt,
};

/// The spec of a job of the history, where its row has the payload.
pub fn recorded_spec(record: &JobRecord) -> Option<JobSpec> {
    let spec: JobSpec = serde_json::from_value(record.spec.clone()?).ok()?;
    spec.has_payload().then_some(spec)
}

/// A job of the cache with the payload of `spec`, which is the same job's.
pub fn with_payload(job: &Job, spec: JobSpec) -> Job {
    Job { spec: job.spec.with_payload_of(spec), ..job.clone() }
}

/// A job of the cache with its payload: of one that has ended from the history, else from the API server. Where neither
/// answers, or the job is deleted, it is as the cache has it.
pub async fn whole(app: &App, tenant_uid: &str, job: Arc<Job>) -> Arc<Job> {
    if job.spec.has_payload() {
        return job;
    }
    let spec = match recorded(app, tenant_uid, &job).await {
        Some(spec) => Some(spec),
        None => stored(app, &job).await,
    };
    spec.map_or_else(|| Arc::clone(&job), |spec| Arc::new(with_payload(&job, spec)))
}

async fn recorded(app: &App, tenant_uid: &str, job: &Job) -> Option<JobSpec> {
    let (readers, tenant) = (app.database.as_ref()?, Uuid::parse_str(tenant_uid).ok()?);
    let uid = Uuid::parse_str(job.metadata.uid.as_deref()?).ok()?;
    // What is wrong is logged once, where the database is asked.
    let record = db::job_of(readers, tenant, uid).await.ok().flatten()?;
    recorded_spec(&record)
}

async fn stored(app: &App, job: &Job) -> Option<JobSpec> {
    let api: Api<Job> = Api::namespaced(app.client.clone(), &job.namespace()?);
    match within_opt("failed to read a Job that has ended", api.get(&job.name_any())).await {
        Ok(stored) => Some(stored.filter(|stored| stored.metadata.uid == job.metadata.uid)?.spec),
        Err(error) => {
            tracing::debug!(%error, "a job that has ended is shown without its payload");
            None
        }
    }
}
