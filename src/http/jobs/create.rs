//! Creating a Job and waiting for the scheduler's verdict: shared by submit and retry.
//!
//! The Job's name is a hash of the `Idempotency-Key`, so the API server itself ensures that one key creates one Job, however
//! often and through whichever replica a client sends it.
//!
//! A job that the scheduler of this process would reject at once is not created at all: the refusal costs the API server
//! nothing. That assessment is advisory. The scheduler may still reject a Job after its creation; the handler then deletes
//! the Job, and the key can be used again.

use std::{collections::BTreeMap, future::pending, sync::Arc, time::Duration};

use axum::{
    Json,
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ObjectMeta, PostParams, Preconditions},
};
use sha2::{Digest, Sha256};

use super::{api, ended::with_payload, idempotency_key::IdempotencyKey, rate, view::JobView};
use crate::{
    api_types::{Job, JobPhase, JobSpec, Reason, reason::StartCondition},
    domain::{
        admission::{ProspectiveJob, Verdict},
        environment,
        resources::Resources,
        waiting::{Explanation, explain},
    },
    hex::hex,
    http::{
        App,
        by_tenant::Context,
        header::etag,
        jobs_index::JobWatch,
        openapi::Operation,
        problem::{Code, Problem, is_denied},
    },
    kube_ext::{call::within_opt, within},
    names,
};

/// The header of a response to a repeated request.
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
/// How long a request waits for a verdict.
const VERDICT_TIMEOUT: Duration = Duration::from_secs(2);

/// The description of a route that creates a job.
pub fn creates_job(id: &'static str, summary: &'static str, description: &'static str) -> Operation {
    const NEXT: [&str; 5] = ["getJob", "explainJob", "cancelJob", "retryJob", "deleteJob"];
    Operation::new(id, summary, description)
        .json::<JobView>(201, "This is the job, which was admitted or waits.")
        .json::<JobView>(202, "This is the job. The scheduler has not decided within 2 s.")
        .headers(&["Location", "ETag", "RateLimit", "RateLimit-Policy", "Idempotency-Replayed"])
        .links(201, "id", &NEXT)
        .problems([
            Code::TenantInactive,
            Code::Conflict,
            Code::IdempotencyKeyReused,
            Code::InvalidObject,
            Code::JobRejected,
            Code::QuotaExceeded,
            Code::RateLimited,
        ])
}

/// A job to create.
pub struct NewJob {
    name: String,
    /// Whether the name comes from an `Idempotency-Key`, so that the Job may exist already.
    keyed: bool,
    /// The hash of the request, which differs for another request with the same key.
    digest: String,
    spec: JobSpec,
    /// UID of the job that is submitted again.
    retry_of: Option<String>,
}

impl NewJob {
    /// A job with this spec. Its name is a hash of the `Idempotency-Key`, else random.
    ///
    /// # Errors
    /// `invalid_object` where no process can have the command and environment of the spec; `internal` without randomness.
    pub fn of(
        app: &App,
        context: &Context,
        key: IdempotencyKey,
        spec: JobSpec,
        retry_of: Option<String>,
    ) -> Result<Self, Problem> {
        executable(app, &spec)?;
        let tenant = &context.of.uid;
        let request = serde_json::to_vec(&(&spec, &retry_of)).unwrap_or_default();
        let digest = hash(&[tenant.as_bytes(), &request]);
        let keyed = key.0.is_some();
        let name = match key.0 {
            Some(key) => format!("idem-{}", &hash(&[tenant.as_bytes(), key.as_bytes()])[..40]),
            None => {
                let mut bytes = [0; 12];
                let filled = app.random.fill(&mut bytes);
                filled.map_err(|error| {
                    Problem::new(Code::Internal, "failed to make a random name").with_cause(error)
                })?;
                format!("job-{}", hex(&bytes))
            }
        };
        Ok(Self { name, keyed, digest, spec, retry_of })
    }

    /// Why the scheduler of this process would reject the job at once; `None` where it would not.
    fn assess(&self, app: &App, namespace: &str) -> Option<(Reason, String)> {
        let job = ProspectiveJob {
            namespace,
            asked: Resources::of_job(&self.spec, &app.scenarios.borrow()),
            group: self.spec.pool.as_deref().map(|pool| names::pool_group(pool).into()),
            on_quota: self.spec.on_quota,
        };
        app.scheduler()?.assess_prospective(&job, app.clock.read())
    }

    fn object(&self, namespace: &str) -> Job {
        let mut annotations = BTreeMap::from([(names::ANNOTATION_REQUEST.to_owned(), self.digest.clone())]);
        if let Some(uid) = &self.retry_of {
            annotations.insert(names::ANNOTATION_RETRY_OF.to_owned(), uid.clone());
        }
        let metadata = ObjectMeta {
            name: Some(self.name.clone()),
            namespace: Some(namespace.to_owned()),
            annotations: Some(annotations),
            ..ObjectMeta::default()
        };
        Job { metadata, spec: self.spec.clone(), status: None }
    }
}

/// Checks a spec, completed from its scenario where that exists.
fn executable(app: &App, spec: &JobSpec) -> Result<(), Problem> {
    let scenarios = Arc::clone(&app.scenarios.borrow());
    let complete = scenarios.complete(spec);
    environment::check(complete.as_deref().unwrap_or(spec))
        .map_err(|error| Problem::new(Code::InvalidObject, error.to_string()))
}

fn hash(parts: &[&[u8]]) -> String {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update((part.len() as u64).to_be_bytes());
        hasher.update(part);
    }
    hex(&hasher.finalize())
}

/// Creates the job, or finds the one of an earlier request, and responds with the scheduler's verdict.
///
/// # Errors
/// As documented for `POST /jobs`.
pub async fn create(app: &App, context: &Context, new: NewJob) -> Result<Response, Problem> {
    let namespace = &context.of.namespace;
    let mut watch = app.jobs.watch(namespace, &new.name);
    let (job, replayed) = match new.assess(app, namespace) {
        None => create_job(app, context, &new).await?,
        Some((reason, message)) => match earlier_job(app, context, &new).await? {
            Some(job) => (job, true),
            None => return Err(rejected(app, context, Explanation::new(reason, message))),
        },
    };
    let job = match is_decided(&job) {
        true => Arc::new(job),
        false => match wait_for_verdict(app, &mut watch, &job).await {
            // The cache has a job that has ended already without its payload.
            Some(Outcome::Written(job)) if !job.spec.has_payload() => {
                Arc::new(with_payload(&job, new.spec.clone()))
            }
            Some(Outcome::Written(job)) => job,
            Some(Outcome::Expected(explanation)) => {
                let job = explained(job, explanation);
                return Ok(created(app, context, &job, StatusCode::CREATED, replayed));
            }
            None => return Ok(created(app, context, &job, StatusCode::ACCEPTED, replayed)),
        },
    };
    if phase(&job) == JobPhase::Rejected {
        delete_rejected(app, &job);
        return Err(rejected(app, context, explain(job.status.as_ref(), None)));
    }
    Ok(created(app, context, &job, StatusCode::CREATED, replayed))
}

/// The scheduler's decision about a job, and where it was found.
enum Outcome {
    /// The job's status has it.
    Written(Arc<Job>),
    /// The scheduler of this process has decided that the job waits or is admitted. The status will say so, unless the
    /// decision changes first.
    Expected(Explanation),
}

/// The outcome of a job; `None` where there is none in time.
async fn wait_for_verdict(app: &App, watch: &mut JobWatch, job: &Job) -> Option<Outcome> {
    let uid = job.metadata.uid.as_deref().unwrap_or_default();
    let written = async { watch.wait_for(uid, is_decided).await.map(Outcome::Written) };
    let expected = async {
        let verdict = match app.scheduler() {
            Some(scheduler) => scheduler.wait_for_verdict(uid).await,
            None => pending().await,
        };
        match verdict {
            Verdict::Wait(..) | Verdict::Admit(_) => Some(Outcome::Expected(Explanation::from(&verdict))),
            // The response to a rejected job needs its status.
            Verdict::Reject(..) => pending().await,
        }
    };
    let outcome = async {
        tokio::select! {
            outcome = written => outcome,
            outcome = expected => outcome,
        }
    };
    tokio::time::timeout(VERDICT_TIMEOUT, outcome).await.ok().flatten()
}

/// Creates the Job; true with one that an earlier request has created.
async fn create_job(app: &App, context: &Context, new: &NewJob) -> Result<(Job, bool), Problem> {
    let (api, object) = (api(app, context), new.object(&context.of.namespace));
    // A second attempt succeeds where the conflicting Job was deleted in between.
    for _ in 0..2 {
        match within("failed to create a Job", api.create(&PostParams::default(), &object)).await {
            Ok(job) => return Ok((job, false)),
            Err(error) if error.is_conflict() && !is_denied(&error) => (),
            Err(error) if error.code() == Some(403) && error.to_string().contains("exceeded quota") => {
                let detail = "the tenant has too many Jobs: delete some that have ended";
                return Err(Problem::new(Code::QuotaExceeded, detail).retry_after(60).with_cause(error));
            }
            Err(error) => return Err(Problem::of_create(error)),
        }
        if let Some(job) = job_of_request(&api, new).await? {
            return Ok((job, true));
        }
    }
    Err(Problem::new(Code::Conflict, "the job of this Idempotency-Key is being deleted: try again"))
}

/// The Job that an earlier request with the same `Idempotency-Key` has created.
async fn earlier_job(app: &App, context: &Context, new: &NewJob) -> Result<Option<Job>, Problem> {
    if !new.keyed {
        return Ok(None);
    }
    job_of_request(&api(app, context), new).await
}

/// The Job of that name.
///
/// # Errors
/// `idempotency_key_reused` where another request has created it.
async fn job_of_request(api: &Api<Job>, new: &NewJob) -> Result<Option<Job>, Problem> {
    let job = within_opt("failed to read a Job", api.get(&new.name)).await?;
    match job.filter(|job| job.metadata.deletion_timestamp.is_none()) {
        Some(job) if job.annotations().get(names::ANNOTATION_REQUEST) != Some(&new.digest) => {
            let detail = "this Idempotency-Key was used for another request";
            Err(Problem::new(Code::IdempotencyKeyReused, detail))
        }
        job => Ok(job),
    }
}

fn phase(job: &Job) -> JobPhase {
    job.status.as_ref().map(|status| status.phase).unwrap_or_default()
}

/// Whether the status of a job has a decision of the scheduler.
fn is_decided(job: &Job) -> bool {
    let reason = job.status.as_ref().and_then(|status| status.reason.as_deref());
    phase(job) != JobPhase::Queued || reason.is_some_and(|reason| reason != Reason::Queued.as_str())
}

/// The job with the reason and message that its status will have.
fn explained(mut job: Job, Explanation { reason, message }: Explanation) -> Job {
    let status = job.status.get_or_insert_default();
    (status.reason, status.message) = (reason, message);
    job
}

/// The response with a job that was created.
fn created(app: &App, context: &Context, job: &Job, status: StatusCode, replayed: bool) -> Response {
    let view = JobView::of(job, &context.of.uid);
    let location = HeaderValue::from_str(&format!("/v1/jobs/{}", view.id)).ok();
    let mut response = (status, Json(view)).into_response();
    let headers = response.headers_mut();
    headers.extend(location.map(|value| (header::LOCATION, value)));
    let version = job.resource_version().unwrap_or_default();
    headers.extend(etag(&version).map(|value| (header::ETAG, value)));
    headers.extend(rate::headers(app, context));
    if replayed {
        headers.insert(REPLAYED, HeaderValue::from_static("true"));
    }
    response
}

/// The problem of a job that was rejected, or would be.
fn rejected(app: &App, context: &Context, explanation: Explanation) -> Problem {
    let Explanation { reason, message } = explanation.clone();
    let detail = message.clone().unwrap_or_default();
    let problem = match explanation.known().and_then(Reason::unmet) {
        Some(StartCondition::RateWindow) => {
            let wait = rate::resets_in(app, context).unwrap_or(60);
            Problem::new(Code::RateLimited, detail).retry_after(wait)
        }
        Some(StartCondition::Quota) => {
            // Where as many jobs run and wait as may run, that is what the scheduler has rejected the job for.
            let of_jobs = explanation.known() == Some(Reason::WaitingForQuota);
            let detail = of_jobs.then(|| rate::jobs_used_up(app, context)).flatten().unwrap_or(detail);
            Problem::new(Code::QuotaExceeded, detail).retry_after(5)
        }
        Some(
            StartCondition::TenantActive
            | StartCondition::BackOff
            | StartCondition::NodeFit
            | StartCondition::Turn
            | StartCondition::Pod,
        )
        | None => Problem::new(Code::JobRejected, detail),
    };
    let problem = problem.with_reason(reason, message);
    rate::headers(app, context)
        .into_iter()
        .fold(problem, |problem, (name, value)| problem.with_header(name, value.to_str().unwrap_or_default()))
}

/// Deletes a rejected job in the background. Where that fails, the job stays with the phase Rejected.
fn delete_rejected(app: &App, job: &Job) {
    let (Some(namespace), name) = (job.namespace(), job.name_any()) else { return };
    let api: Api<Job> = Api::namespaced(app.client.clone(), &namespace);
    let preconditions = Preconditions { uid: job.uid(), resource_version: None };
    let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
    tokio::spawn(async move {
        if let Err(error) = within("failed to delete a rejected Job", api.delete(&name, &params)).await
            && !error.is_not_found()
        {
            tracing::warn!(%error, "failed to delete a rejected Job");
        }
    });
}
