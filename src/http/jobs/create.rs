//! Making a Job and waiting for what becomes of it: shared by submit and retry.
//!
//! The Job's name is made of the `Idempotency-Key`, so the API server itself sees to it that one key makes one Job, however
//! often and wherever it is sent.
//!
//! A job that the scheduler of this process would refuse at once is not created at all: the refusal costs the API server
//! nothing. That assessment is advisory. What was created meanwhile may still be refused by the verdict on the Job
//! itself; such a Job is deleted again, and its key may be used again.

use std::{future::pending, sync::Arc, time::Duration};

use axum::{
    Json,
    extract::FromRequestParts,
    http::{HeaderName, HeaderValue, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ObjectMeta, PostParams, Preconditions},
};
use serde_json::json;
use sha2::{Digest, Sha256};

use super::{ended::with_payload, rate, view::JobView};
use crate::{
    api_types::{Job, JobPhase, JobSpec, Reason},
    domain::{
        admission::{ProspectiveJob, Verdict},
        environment,
        resources::Resources,
    },
    hex::hex,
    http::{
        App,
        auth::Context,
        header::{etag, only},
        jobs_index::Awaited,
        openapi::{Describes, Operation, READABLE},
        problem::{Code, Problem},
    },
    kube_ext::{call::within_opt, within},
    names,
};

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// Says that the request was carried out before.
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
/// How long a verdict is waited for.
const VERDICT: Duration = Duration::from_secs(2);
/// What is said of a job that was admitted and whose status does not say so yet.
pub const BEING_CREATED: &str = "its pod is being created";

/// The `Idempotency-Key`, where there is one.
pub struct IdempotencyKey(Option<String>);

/// Most characters of an `Idempotency-Key`.
const LONGEST_KEY: usize = 255;

impl<S: Send + Sync> FromRequestParts<S> for IdempotencyKey {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let key = only(&parts.headers, &IDEMPOTENCY_KEY)?;
        if key.is_some_and(|key| !(1..=LONGEST_KEY).contains(&key.len())) {
            let detail = format!("Idempotency-Key has 1 to {LONGEST_KEY} characters");
            return Err(Problem::new(Code::InvalidHeader, detail));
        }
        Ok(Self(key.map(str::to_owned)))
    }
}

impl Describes for IdempotencyKey {
    fn describe(operation: &mut Operation) {
        let schema = json!({"type": "string", "minLength": 1, "maxLength": LONGEST_KEY, "pattern": READABLE});
        let description = "This key identifies the request: however often it is sent, it creates one job.";
        operation.takes_header("Idempotency-Key", description, &schema);
    }
}

/// What is to be made.
pub struct New {
    name: String,
    /// Its name is of an `Idempotency-Key`, so there may be a Job of it already.
    keyed: bool,
    digest: String,
    spec: JobSpec,
    /// UID of the job that is run again.
    retry_of: Option<String>,
}

impl New {
    /// A job of this spec; its name is of the `Idempotency-Key`, else of random bytes.
    ///
    /// # Errors
    /// `invalid_object`, where no process can be given what it asks for; `internal`, where there are no random bytes.
    pub fn of(
        app: &App,
        context: &Context,
        key: IdempotencyKey,
        spec: JobSpec,
        retry_of: Option<String>,
    ) -> Result<Self, Problem> {
        executable(app, &spec)?;
        let tenant = &context.principal.tenant.uid;
        let asked = serde_json::to_vec(&(&spec, &retry_of)).unwrap_or_default();
        let digest = hash(&[tenant.as_bytes(), &asked]);
        let keyed = key.0.is_some();
        let name = match key.0 {
            Some(key) => format!("idem-{}", &hash(&[tenant.as_bytes(), key.as_bytes()])[..40]),
            None => {
                let mut bytes = [0; 12];
                let filled = app.random.fill(&mut bytes);
                filled
                    .map_err(|error| Problem::new(Code::Internal, "no name could be made").inside(error))?;
                format!("job-{}", hex(&bytes))
            }
        };
        Ok(Self { name, keyed, digest, spec, retry_of })
    }

    /// Why the scheduler of this process would refuse it at once, if so.
    fn assess(&self, app: &App, namespace: &str) -> Option<(Reason, String)> {
        let job = ProspectiveJob {
            namespace,
            asked: Resources::of_job(&self.spec, &app.scenarios.borrow()),
            group: self.spec.pool.as_deref().map(|pool| names::pool_group(pool).into()),
            on_quota: self.spec.on_quota,
        };
        app.board.as_ref()?.assess(&job, app.clock.read())
    }

    fn object(&self, namespace: &str) -> Job {
        let mut annotations =
            std::collections::BTreeMap::from([(names::ANNOTATION_REQUEST.to_owned(), self.digest.clone())]);
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

/// Checks a spec, with what its scenario supplies where there is such a scenario.
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

/// Makes the job, or finds it made, and answers with what becomes of it.
///
/// # Errors
/// As documented for `POST /jobs`.
pub async fn create(app: &App, context: &Context, new: New) -> Result<Response, Problem> {
    let namespace = &context.principal.tenant.namespace;
    let mut awaited = app.jobs.awaiting(namespace, &new.name);
    let (job, replayed) = match new.assess(app, namespace) {
        None => make(app, namespace, &new).await?,
        Some((reason, message)) => match earlier(app, namespace, &new).await? {
            Some(job) => (job, true),
            None => return Err(refusal(app, context, Some(reason), message)),
        },
    };
    let job = match decided(&job) {
        true => Arc::new(job),
        false => match verdict(app, &mut awaited, &job).await {
            // One that has ended by now is cached without what was submitted.
            Some(Told::Written(job)) if !job.spec.has_payload() => {
                Arc::new(with_payload(&job, new.spec.clone()))
            }
            Some(Told::Written(job)) => job,
            Some(Told::Foretold(reason, message)) => {
                return Ok(foretold(app, context, (job, replayed), reason, message));
            }
            None => return Ok(answer(app, context, &job, StatusCode::ACCEPTED, replayed)),
        },
    };
    if phase(&job) == JobPhase::Rejected {
        remove(app, &job);
        let status = job.status.clone().unwrap_or_default();
        let reason = status.reason.as_deref().and_then(|reason| reason.parse().ok());
        return Err(refusal(app, context, reason, status.message.unwrap_or_default()));
    }
    Ok(answer(app, context, &job, StatusCode::CREATED, replayed))
}

/// How it became known what becomes of a job.
enum Told {
    /// Its status says so.
    Written(Arc<Job>),
    /// It waits or is let go for this reason, in these words, as the scheduler of this process has decided: its status
    /// will say so, where there is anything to say.
    Foretold(Reason, String),
}

/// What becomes of a job; `None` where that is not known in time.
async fn verdict(app: &App, awaited: &mut Awaited, job: &Job) -> Option<Told> {
    let uid = job.metadata.uid.as_deref().unwrap_or_default();
    let written = async { awaited.until(uid, decided).await.map(Told::Written) };
    let foretold = async {
        let verdict = match &app.board {
            Some(board) => board.wait_for_verdict(uid).await,
            None => pending().await,
        };
        match verdict {
            Verdict::Wait(reason, message) => Some(Told::Foretold(reason, message)),
            Verdict::Admit(_) => Some(Told::Foretold(Reason::Admitted, BEING_CREATED.to_owned())),
            // Refused is what its status says, with all that the answer is made of.
            Verdict::Reject(..) => pending().await,
        }
    };
    let told = async {
        tokio::select! {
            told = written => told,
            told = foretold => told,
        }
    };
    tokio::time::timeout(VERDICT, told).await.ok().flatten()
}

async fn make(app: &App, namespace: &str, new: &New) -> Result<(Job, bool), Problem> {
    let api: Api<Job> = Api::namespaced(app.client.clone(), namespace);
    // Once more where the one that was in the way is gone by then.
    for _ in 0..2 {
        let made =
            within("failed to create a Job", api.create(&PostParams::default(), &new.object(namespace)))
                .await;
        match made {
            Ok(job) => return Ok((job, false)),
            Err(error) if error.is_conflict() => (),
            Err(error) if error.code() == Some(403) && error.to_string().contains("exceeded quota") => {
                let detail = "the tenant has too many Jobs: delete some that have ended";
                return Err(Problem::new(Code::QuotaExceeded, detail).retry_after(60).inside(error));
            }
            Err(error) if matches!(error.code(), Some(403 | 404)) => {
                return Err(Problem::new(Code::TenantInactive, "invalid or inactive tenant").inside(error));
            }
            Err(error) => return Err(error.into()),
        }
        if let Some(job) = found(&api, new).await? {
            return Ok((job, true));
        }
    }
    Err(Problem::new(Code::Conflict, "the job of this Idempotency-Key is just being deleted"))
}

/// The Job that an earlier request of the same `Idempotency-Key` has created.
async fn earlier(app: &App, namespace: &str, new: &New) -> Result<Option<Job>, Problem> {
    if !new.keyed {
        return Ok(None);
    }
    found(&Api::namespaced(app.client.clone(), namespace), new).await
}

/// The Job of that name, if it was created by the same request.
async fn found(api: &Api<Job>, new: &New) -> Result<Option<Job>, Problem> {
    let found = within_opt("failed to read a Job", api.get(&new.name)).await?;
    match found.filter(|job| job.metadata.deletion_timestamp.is_none()) {
        Some(job) if job.annotations().get(names::ANNOTATION_REQUEST) != Some(&new.digest) => {
            let detail = "this Idempotency-Key was used for another request";
            Err(Problem::new(Code::IdempotencyKeyReused, detail))
        }
        found => Ok(found),
    }
}

fn phase(job: &Job) -> JobPhase {
    job.status.as_ref().map(|status| status.phase).unwrap_or_default()
}

/// Whether it is known what becomes of a job.
fn decided(job: &Job) -> bool {
    let told = job.status.as_ref().and_then(|status| status.reason.as_deref());
    phase(job) != JobPhase::Queued || told.is_some_and(|reason| reason != Reason::Queued.as_str())
}

fn foretold(
    app: &App,
    context: &Context,
    (mut job, replayed): (Job, bool),
    reason: Reason,
    message: String,
) -> Response {
    let status = job.status.get_or_insert_default();
    (status.reason, status.message) = (Some(reason.as_str().to_owned()), Some(message));
    answer(app, context, &job, StatusCode::CREATED, replayed)
}

fn answer(app: &App, context: &Context, job: &Job, status: StatusCode, replayed: bool) -> Response {
    let view = JobView::of(job, &context.principal.tenant.uid);
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

/// The answer for a job that was, or would be, Rejected.
fn refusal(app: &App, context: &Context, reason: Option<Reason>, message: String) -> Problem {
    let problem = match reason {
        Some(Reason::RateLimited) => {
            let wait = rate::resets_in(app, context).unwrap_or(60);
            Problem::new(Code::RateLimited, &message).retry_after(wait)
        }
        // Only by the number of jobs is a job refused that could wait.
        Some(Reason::WaitingForQuota) => {
            let most = rate::most_jobs(app, context);
            let detail = most.map(|most| format!("max concurrent jobs limit reached ({most}/{most})"));
            Problem::new(Code::QuotaExceeded, detail.unwrap_or_else(|| message.clone())).retry_after(5)
        }
        Some(Reason::QueueFull) => Problem::new(Code::QuotaExceeded, &message).retry_after(5),
        _ => Problem::new(Code::JobRejected, &message),
    };
    let problem = problem.because(reason.map(|reason| reason.as_str().to_owned()), Some(message));
    rate::headers(app, context)
        .into_iter()
        .fold(problem, |problem, (name, value)| problem.with_header(name, value.to_str().unwrap_or_default()))
}

/// Deletes a job that was refused. When that fails it stays, Rejected, until somebody deletes it.
fn remove(app: &App, job: &Job) {
    let (Some(namespace), name) = (job.namespace(), job.name_any()) else { return };
    let api: Api<Job> = Api::namespaced(app.client.clone(), &namespace);
    let preconditions = Preconditions { uid: job.uid(), resource_version: None };
    let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
    tokio::spawn(async move {
        if let Err(error) = within("failed to delete a refused Job", api.delete(&name, &params)).await
            && !error.is_not_found()
        {
            tracing::warn!(%error, "a refused job stays");
        }
    });
}
