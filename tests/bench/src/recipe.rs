//! What the operator writes for one job, as a recipe for others: recorded from the audit log, filled in with other
//! names.
//!
//! So the bare client writes what the operator writes, byte for byte but for names, versions and times, also when the
//! operator's pods and statuses become others.

use anyhow::{Context, bail};
use crofter::api_types::JobPhase;
use serde_json::Value;

use crate::audit::Request;

/// What differs from job to job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hole {
    /// Name of the tenant.
    Tenant,
    /// Its UID.
    TenantUid,
    /// Name of the Job.
    Job,
    /// Its UID.
    JobUid,
    /// Name of the pod.
    Pod,
    /// Its UID.
    PodUid,
    /// Name of a node.
    Node,
    /// The version that a patch is meant for.
    Version,
}

/// What goes into the holes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Values<'a> {
    /// Name of the tenant.
    pub tenant: &'a str,
    /// Its UID.
    pub tenant_uid: &'a str,
    /// Name of the Job.
    pub job: &'a str,
    /// Its UID.
    pub job_uid: &'a str,
    /// Name of the pod.
    pub pod: &'a str,
    /// Its UID.
    pub pod_uid: &'a str,
    /// Name of a node.
    pub node: &'a str,
    /// The version that a patch is meant for.
    pub version: &'a str,
}

impl<'a> Values<'a> {
    fn of(&self, hole: Hole) -> &'a str {
        match hole {
            Hole::Tenant => self.tenant,
            Hole::TenantUid => self.tenant_uid,
            Hole::Job => self.job,
            Hole::JobUid => self.job_uid,
            Hole::Pod => self.pod,
            Hole::PodUid => self.pod_uid,
            Hole::Node => self.node,
            Hole::Version => self.version,
        }
    }
}

/// A text with holes.
#[derive(Clone, Debug)]
struct Template {
    /// What goes before each hole, and the hole.
    pieces: Vec<(String, Hole)>,
    rest: String,
}

impl Template {
    /// Makes a hole wherever one of `known` occurs. Of several that begin at one position the longest counts.
    fn new(text: &str, known: &[(String, Hole)]) -> Self {
        let (mut pieces, mut rest, mut before) = (Vec::new(), text, String::new());
        while let Some(first) = rest.chars().next() {
            let here = known.iter().filter(|(word, _)| !word.is_empty() && rest.starts_with(word.as_str()));
            if let Some((word, hole)) = here.max_by_key(|(word, _)| word.len()) {
                pieces.push((std::mem::take(&mut before), *hole));
                rest = rest.get(word.len()..).unwrap_or_default();
            } else {
                before.push(first);
                rest = rest.get(first.len_utf8()..).unwrap_or_default();
            }
        }
        Self { pieces, rest: before }
    }

    fn fill(&self, values: &Values<'_>) -> String {
        let mut text = String::with_capacity(2 * self.rest.len() + 256);
        for (before, hole) in &self.pieces {
            text.push_str(before);
            text.push_str(values.of(*hole));
        }
        text.push_str(&self.rest);
        text
    }
}

/// One request.
#[derive(Clone, Debug)]
pub struct Call {
    method: http::Method,
    /// Whether the answer is to hold only the metadata, as the operator asks for where it needs no more.
    metadata_only: bool,
    uri: Template,
    body: Template,
}

impl Call {
    /// The request for one job.
    ///
    /// # Errors
    /// When a value does not fit into a path.
    pub fn request(&self, values: &Values<'_>) -> Result<http::Request<Vec<u8>>, http::Error> {
        let patch = self.method == http::Method::PATCH;
        let kind = if patch { "application/merge-patch+json" } else { "application/json" };
        let accept = match self.metadata_only {
            true => "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1",
            false => "application/json",
        };
        http::Request::builder()
            .method(&self.method)
            .uri(self.uri.fill(values))
            .header(http::header::CONTENT_TYPE, kind)
            .header(http::header::ACCEPT, accept)
            .body(self.body.fill(values).into_bytes())
    }
}

/// All that is written over the life of a job that starts at once and ends well.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// Makes the pod.
    pub create: Call,
    /// Once the pod runs.
    pub running: Vec<Call>,
    /// Once it has ended, where `running` is written.
    pub end: Vec<Call>,
    /// Once it has ended, where it is the first that is written: what `running` says is said with it.
    pub only_end: Call,
    /// After that, to the pod.
    pub release: Vec<Call>,
}

impl Recipe {
    /// Reads it from what was written about the job that `names` speak of. Its pod must be the only one of that name.
    ///
    /// # Errors
    /// When something is missing.
    pub fn from_audit(requests: &[Request], names: &Values<'_>) -> anyhow::Result<Self> {
        let concerned =
            |r: &&Request| r.is_write() && r.is_done() && [names.job, names.pod].contains(&r.name.as_str());
        let (mut create, mut running, mut end, mut release) = (None, Vec::new(), Vec::new(), Vec::new());
        let (mut all, mut only_end) = (Value::Null, None);
        for request in requests.iter().filter(concerned) {
            let body: Value =
                serde_json::from_str(request.body.as_deref().context("a write without its body")?)?;
            let phase = body.pointer("/status/phase").and_then(Value::as_str).unwrap_or_default().to_owned();
            if request.resource == "jobs/status" {
                json_patch::merge(&mut all, &body);
            }
            let call = call(request, body, names)?;
            match (request.verb.as_str(), request.resource.as_str()) {
                ("create", "pods") => create = Some(call),
                // Why it had to wait is no part of the fast way.
                ("patch", "jobs/status") if phase == <&str>::from(JobPhase::Queued) => (),
                ("patch", "jobs/status") if phase == <&str>::from(JobPhase::Completed) => {
                    end.push(call);
                    only_end = Some(self::call(request, all.clone(), names)?);
                }
                ("patch", "jobs/status") => running.push(call),
                ("patch", "pods") => release.push(call),
                (verb, resource) => bail!("what is `{verb} {resource}` for?"),
            }
        }
        let only_end = only_end.context("no request wrote that the job has ended")?;
        Ok(Self { create: create.context("no request created its pod")?, running, end, only_end, release })
    }
}

fn call(request: &Request, mut body: Value, names: &Values<'_>) -> anyhow::Result<Call> {
    const VERSION: &str = "{the version}";
    if let Some(version) = body.pointer_mut("/metadata/resourceVersion") {
        *version = VERSION.into();
    }
    let of_pod = (request.resource == "pods").then(|| body.pointer("/metadata/uid")).flatten();
    let pod_uid = of_pod.and_then(Value::as_str).unwrap_or_default().to_owned();
    let known = [
        (names.tenant, Hole::Tenant),
        (names.tenant_uid, Hole::TenantUid),
        (names.job, Hole::Job),
        (names.job_uid, Hole::JobUid),
        (names.pod, Hole::Pod),
        (names.node, Hole::Node),
        (&pod_uid, Hole::PodUid),
        (VERSION, Hole::Version),
    ]
    .map(|(word, hole)| (word.to_owned(), hole));
    let method = match request.verb.as_str() {
        "create" => http::Method::POST,
        "patch" => http::Method::PATCH,
        other => bail!("no way to repeat `{other} {}`", request.resource),
    };
    Ok(Call {
        metadata_only: method == http::Method::PATCH && request.resource == "pods",
        method,
        uri: Template::new(&request.uri, &known),
        body: Template::new(&body.to_string(), &known),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn write(verb: &str, resource: &str, name: &str, body: &Value) -> Request {
        Request {
            user: "op".into(),
            verb: verb.into(),
            resource: resource.into(),
            namespace: "tenant-probe".into(),
            name: name.into(),
            code: 200,
            received: 0,
            answered: 0,
            uri: format!("/{resource}/tenant-probe/{name}?"),
            body: Some(body.to_string()),
        }
    }

    fn probe() -> Values<'static> {
        Values {
            tenant: "probe",
            tenant_uid: "t-1",
            job: "pj",
            job_uid: "u-1",
            pod: "pj-u1-1",
            node: "n-7",
            ..Values::default()
        }
    }

    #[test]
    fn one_jobs_writes_become_anothers() {
        // Given the recorded writes of the probe's job, and one of another job.
        let recorded = [
            write(
                "patch",
                "jobs/status",
                "pj",
                &json!({"status": {"phase": "Queued", "reason": "WaitingForTurn"}}),
            ),
            write(
                "create",
                "pods",
                "pj-u1-1",
                &json!({"metadata": {"name": "pj-u1-1", "labels": {"job": "pj", "uid": "u-1", "tenant": "probe"}}, "node": "n-7"}),
            ),
            write(
                "patch",
                "jobs/status",
                "pj",
                &json!({"metadata": {"resourceVersion": "5"}, "status": {"phase": "Running", "observedGeneration": 1, "node": "n-7"}}),
            ),
            write("patch", "jobs/status", "other", &json!({"status": {"phase": "Running"}})),
            write(
                "patch",
                "jobs/status",
                "pj",
                &json!({"metadata": {"resourceVersion": "6"}, "status": {"phase": "Completed", "exitCode": 0}}),
            ),
            write(
                "patch",
                "pods",
                "pj-u1-1",
                &json!({"metadata": {"uid": "p-9", "resourceVersion": "7", "finalizers": []}}),
            ),
        ];
        // The recipe has the probe's writes alone.
        let recipe = Recipe::from_audit(&recorded, &probe()).unwrap();
        let writes = 1 + recipe.running.len() + recipe.end.len() + recipe.release.len();
        assert_eq!(writes, 4);
        // When it is applied to another job, no name or UID of the probe is left.
        let other = Values {
            tenant: "acme",
            tenant_uid: "t-2",
            job: "a1",
            job_uid: "u-2",
            pod: "a1-u2-1",
            pod_uid: "p-3",
            node: "n-8",
            version: "77",
        };
        let made = recipe.create.request(&other).unwrap();
        assert_eq!(made.uri(), "/pods/tenant-acme/a1-u2-1?");
        let body: Value = serde_json::from_slice(made.body()).unwrap();
        let labels = json!({"job": "a1", "uid": "u-2", "tenant": "acme"});
        assert_eq!(body, json!({"metadata": {"name": "a1-u2-1", "labels": labels}, "node": "n-8"}));
        let freed: Value = serde_json::from_slice(recipe.release[0].request(&other).unwrap().body()).unwrap();
        assert_eq!(freed, json!({"metadata": {"uid": "p-3", "resourceVersion": "77", "finalizers": []}}));
        assert_eq!(recipe.end[0].request(&other).unwrap().uri(), "/jobs/status/tenant-acme/a1?");
        // The single status at the end merges all recorded statuses.
        let only: Value = serde_json::from_slice(recipe.only_end.request(&other).unwrap().body()).unwrap();
        let status = json!({"phase": "Completed", "reason": "WaitingForTurn", "observedGeneration": 1, "node": "n-8", "exitCode": 0});
        assert_eq!(only, json!({"metadata": {"resourceVersion": "77"}, "status": status}));
    }

    #[test]
    fn half_a_recipe_is_none() {
        let made = write("create", "pods", "pj-u1-1", &json!({}));
        let error = Recipe::from_audit(&[made], &probe()).unwrap_err().to_string();
        assert_eq!(error, "no request wrote that the job has ended");
        let strange = write("delete", "pods", "pj-u1-1", &json!({}));
        assert!(Recipe::from_audit(&[strange], &probe()).is_err());
    }
}
