//! Problems from errors of the API server: what it says about an object in the words of this API, and which admission
//! webhook or policy has denied it.

use super::{Code, INACTIVE_TENANT, Problem};
use crate::kube_ext::CallError;

/// What the API server says about an object, in the words of this API: without the kind and name of the object that the
/// handler made from a body, and with the fields as a body names them.
fn invalid(message: &str, causes: &[(&str, &str)]) -> String {
    /// The field of rules that the API server did not check because of the other causes.
    const NO_FIELD: &str = "<nil>";
    let named: Vec<&(&str, &str)> =
        causes.iter().filter(|(field, _)| !field.is_empty() && *field != NO_FIELD).collect();
    let words: Vec<String> = named
        .into_iter()
        .map(|(path, words)| {
            let words = words.replace(&format!("{path} in body "), "");
            match field(path) {
                name if name.is_empty() => words,
                name => format!("{name}: {words}"),
            }
        })
        .collect();
    if words.is_empty() {
        let invalid = || message.split_once("\" is invalid: ").map(|(_, words)| words);
        return denial(message).or_else(invalid).unwrap_or(message).to_owned();
    }
    words.join("; ")
}

/// A field's path in an object, as a body names it: `spec.envFrom[0].configMap` is `env_from[0].config_map`.
fn field(path: &str) -> String {
    let path = path.strip_prefix("spec").or_else(|| path.strip_prefix("metadata")).unwrap_or(path);
    let path = path.strip_prefix('.').unwrap_or(path);
    let mut name = String::with_capacity(path.len() + 4);
    // An index, or a name that the client sent, is in brackets.
    let mut depth = 0_u32;
    for c in path.chars() {
        match c {
            '[' => depth += 1,
            ']' => depth = depth.saturating_sub(1),
            _ => (),
        }
        if depth == 0 && c.is_ascii_uppercase() {
            name.push('_');
            name.push(c.to_ascii_lowercase());
        } else {
            name.push(c);
        }
    }
    name
}

/// What an admission webhook or policy says when it denies an object: with the webhook's name, or without the policy's.
fn denial(message: &str) -> Option<&str> {
    let by_webhook = message.starts_with("admission webhook \"") && message.contains(" denied the request");
    let by_policy = || message.split_once(" denied request: ").map(|(_, words)| words);
    by_webhook.then_some(message).or_else(by_policy)
}

/// Whether an admission webhook or policy has denied a request, rather than the API server itself.
#[must_use]
pub fn is_denied(error: &CallError) -> bool {
    error.refusal().and_then(denial).is_some()
}

/// Whether the API server creates nothing in a namespace because the namespace is being deleted, or does not exist.
fn is_namespace_deleted(error: &CallError) -> bool {
    let message = error.refusal().unwrap_or_default();
    match error.code() {
        Some(403) => message.ends_with(" because it is being terminated"),
        Some(404) => message.starts_with("namespaces \""),
        _ => false,
    }
}

impl Problem {
    /// The problem of an object that the API server does not create in the namespace of a tenant.
    #[must_use]
    pub fn of_create(error: CallError) -> Self {
        match is_namespace_deleted(&error) {
            true => Self::new(Code::TenantInactive, INACTIVE_TENANT).with_cause(error),
            false => error.into(),
        }
    }
}

impl From<CallError> for Problem {
    fn from(error: CallError) -> Self {
        let is_denied = is_denied(&error);
        let problem = match error.code() {
            Some(400..=428 | 430..=499) if is_denied => {
                Self::new(Code::InvalidObject, invalid(error.refusal().unwrap_or_default(), &error.causes()))
            }
            Some(404) => Self::not_found("object"),
            Some(409) => Self::new(Code::Conflict, "the object has changed: read it and try again"),
            Some(400 | 422) => {
                Self::new(Code::InvalidObject, invalid(error.refusal().unwrap_or_default(), &error.causes()))
            }
            Some(429) | None | Some(500..) => {
                Self::new(Code::ClusterUnavailable, "the Kubernetes API server does not answer at the moment")
            }
            Some(_) => Self::new(Code::Internal, "the API server refused the request of Crofter"),
        };
        match problem.code {
            // Its words may repeat what the client sent, such as a password in the wrong field: they are not logged.
            Code::InvalidObject => problem,
            _ => problem.with_cause(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::response::IntoResponse;
    use k8s_openapi::api::core::v1::Pod;
    use kube::Api;

    use super::{super::InternalCause, *};
    use crate::kube_ext::{
        mock::{client, refusal},
        within,
    };

    #[test]
    fn an_invalid_object_is_explained_with_the_fields_of_the_body() {
        // Each case: the message of the API server, its causes, and the expected detail.
        for (message, causes, said) in [
            (
                "Job.crofter.io \"job-1\" is invalid: [spec.envFrom[0].configMap: Invalid value: …, <nil>: Invalid value: null: some …]",
                &[
                    (
                        "spec.envFrom[0].configMap",
                        "Invalid value: \"A B\": spec.envFrom[0].configMap in body should match '^[a-z]+$'",
                    ),
                    ("<nil>", "Invalid value: null: some validation rules were not checked"),
                ][..],
                "env_from[0].config_map: Invalid value: \"A B\": should match '^[a-z]+$'",
            ),
            (
                "…",
                &[("spec", "Invalid value: give an image"), ("spec.parameters[aB.cD]", "Too long")],
                "Invalid value: give an image; parameters[aB.cD]: Too long",
            ),
            ("…", &[("metadata.name", "Required value")], "name: Required value"),
            (
                "Job.crofter.io \"job-1\" is invalid: spec.image: Too long: may not be more than 1024 bytes",
                &[],
                "spec.image: Too long: may not be more than 1024 bytes",
            ),
            (
                "jobs.crofter.io \"job-1\" is forbidden: ValidatingAdmissionPolicy 'crofter-jobs' with binding 'crofter-jobs' denied request: queue live is closed",
                &[("", "queue live is closed")],
                "queue live is closed",
            ),
            ("no more is said", &[("<nil>", "x")], "no more is said"),
        ] {
            assert_eq!(invalid(message, causes), said);
        }
    }

    async fn refused(status: u16, words: &'static str) -> CallError {
        let pods: Api<Pod> = Api::namespaced(client(move |_| refusal(status, words)), "x");
        within("failed to create a pod", pods.get("x")).await.unwrap_err()
    }

    #[tokio::test]
    async fn only_a_deleted_namespace_is_an_inactive_tenant_and_a_webhooks_words_are_kept() {
        const TERMINATING: &str = "jobs.crofter.io \"job-1\" is forbidden: unable to create new content in namespace \
            tenant-acme because it is being terminated";
        const WEBHOOK: &str = "admission webhook \"rules.example.org\" denied the request: no jobs on Sunday";
        const POLICY: &str = "jobs.crofter.io \"job-1\" is forbidden: ValidatingAdmissionPolicy 'quiet.example.org' with \
            binding 'quiet' denied request: no jobs on Sunday";
        const RBAC: &str =
            "jobs.crofter.io is forbidden: User \"system:serviceaccount:a:b\" cannot create resource";
        // Each case: the status and message of the API server, and the expected code and detail.
        for (status, words, code, detail) in [
            (403, TERMINATING, Code::TenantInactive, INACTIVE_TENANT),
            (404, "namespaces \"tenant-acme\" not found", Code::TenantInactive, INACTIVE_TENANT),
            (403, WEBHOOK, Code::InvalidObject, WEBHOOK),
            (400, WEBHOOK, Code::InvalidObject, WEBHOOK),
            (404, WEBHOOK, Code::InvalidObject, WEBHOOK),
            (409, WEBHOOK, Code::InvalidObject, WEBHOOK),
            (403, POLICY, Code::InvalidObject, "no jobs on Sunday"),
            (422, POLICY, Code::InvalidObject, "no jobs on Sunday"),
            (403, RBAC, Code::Internal, "the API server refused the request of Crofter"),
            (
                404,
                "the server could not find the requested resource",
                Code::NotFound,
                "this object does not exist",
            ),
            (
                429,
                WEBHOOK,
                Code::ClusterUnavailable,
                "the Kubernetes API server does not answer at the moment",
            ),
            (
                500,
                WEBHOOK,
                Code::ClusterUnavailable,
                "the Kubernetes API server does not answer at the moment",
            ),
        ] {
            let problem = Problem::of_create(refused(status, words).await);
            assert_eq!((problem.code, problem.detail()), (code, detail), "{status}: {words}");
        }
    }

    #[tokio::test]
    async fn what_the_api_server_says_about_a_body_is_sent_and_not_logged() {
        let words = "spec.pool: Invalid value: \"geheim\"";
        for (status, logged) in [(422, false), (400, false), (500, true), (403, true)] {
            let pods: Api<Pod> = Api::namespaced(client(move |_| refusal(status, words)), "x");
            let problem = Problem::from(within("failed to read a pod", pods.get("x")).await.unwrap_err());
            assert_eq!(problem.rest.detail.contains("geheim"), !logged, "{status}");
            let response = problem.into_response();
            assert_eq!(response.extensions().get::<InternalCause>().is_some(), logged, "{status}");
        }
    }
}
