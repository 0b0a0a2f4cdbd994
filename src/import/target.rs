//! Where objects go: a stream of YAML, or the cluster.
//!
//! In the cluster a Tenant is applied server-side by a field manager of its own and without force, so that whatever people have
//! changed since stays, and is reported. A Job is created; where one of its name exists, the annotation says whether it is
//! this very job.

use std::{fmt, io, time::Duration};

use kube::{
    Api, Client, ResourceExt,
    api::{Patch, PatchParams, PostParams},
    runtime::wait::{Condition, await_condition},
};
use serde_json::Value;

use crate::{
    api_types::{Job, Tenant, conditions},
    kube_ext::{CallError, call::within_opt, within},
    names, yaml,
};

/// The field manager of imported Tenants.
const MANAGER: &str = "crofter-import";
/// How long the operator may take to make a tenant ready.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// What became of a Job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// It was written.
    New,
    /// It was there.
    Before,
}

/// Why an object was not written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The API server has refused it, or does not answer.
    #[error(transparent)]
    Call(#[from] CallError),
    /// Fields of a Tenant have other values, which this import has not written.
    #[error(transparent)]
    Conflict(#[from] Conflict),
    /// An object of that name is another one.
    #[error("there is another object of that name: rename or delete it, and import again")]
    Taken,
    /// The tenant's namespace takes no Jobs yet.
    #[error("the tenant is not ready: {0}")]
    NotReady(String),
    /// Not written as YAML.
    #[error(transparent)]
    Yaml(#[from] yaml::WriteError),
    /// The output is closed.
    #[error("failed to write the output: {0}")]
    Output(#[from] io::Error),
    /// Not of the form of its kind.
    #[error("failed to make an object: {0}")]
    Form(#[from] serde_json::Error),
}

impl WriteError {
    /// Whether the namespace takes no more objects of this kind.
    #[must_use]
    pub fn is_quota(&self) -> bool {
        matches!(self, Self::Call(error) if error.refusal().is_some_and(|words| words.contains("exceeded quota")))
    }
}

/// A Tenant has fields with other values than its row, and they are those of others.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub struct Conflict {
    /// Name of the Tenant.
    name: String,
    /// The fields, each with the field manager that wrote it.
    fields: Vec<(String, String)>,
    /// An import of the same row has created the Tenant.
    is_imported: bool,
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, fields, is_imported } = self;
        let fields: Vec<String> =
            fields.iter().map(|(field, manager)| format!("{field} by {manager}")).collect();
        let fields = fields.join(", ");
        match is_imported {
            true => write!(f, "it was changed since it was imported ({fields}), and stays as it is")?,
            false => write!(
                f,
                "a Tenant {name} that was not imported from this row has other values ({fields}), and stays as it is"
            )?,
        }
        write!(
            f,
            "; its jobs are not imported. Give the row the values of the Tenant, or the Tenant those of the row (apply the \
             object that `crofter import` prints with `kubectl apply --server-side --force-conflicts \
             --field-manager={MANAGER} -f -`)"
        )?;
        match is_imported {
            true => f.write_str(", and import again"),
            false => f.write_str(", or rename the row, and import again"),
        }
    }
}

/// The fields of a refused apply, each with the manager that wrote it.
fn conflicts(error: &CallError) -> Vec<(String, String)> {
    let manager = |message: &str| message.split('"').nth(1).unwrap_or("another manager").to_owned();
    error.causes().into_iter().map(|(field, message)| (field.to_owned(), manager(message))).collect()
}

/// Where objects go.
pub enum Target<'a> {
    /// YAML documents.
    Yaml(&'a mut (dyn io::Write + Send)),
    /// The cluster.
    Cluster {
        /// Its client.
        client: Client,
        /// Whether nothing is stored.
        dry_run: bool,
    },
}

impl Target<'_> {
    /// Writes a Tenant.
    ///
    /// # Errors
    /// [`WriteError`].
    pub async fn tenant(&mut self, tenant: &Value) -> Result<(), WriteError> {
        let (client, dry_run) = match self {
            Self::Yaml(out) => return document(*out, tenant),
            Self::Cluster { client, dry_run } => (client.clone(), *dry_run),
        };
        let name = tenant["metadata"]["name"].as_str().unwrap_or_default();
        let params = PatchParams { dry_run, ..PatchParams::apply(MANAGER) };
        let api: Api<Tenant> = Api::all(client);
        let patch = Patch::Apply(tenant);
        match within(format!("failed to apply Tenant {name}"), api.patch(name, &params, &patch)).await {
            Ok(_) => Ok(()),
            Err(error) if error.is_conflict() => {
                let found = within_opt("failed to read a Tenant", api.get(name)).await?;
                let id = found.as_ref().and_then(|found| found.annotations().get(names::ANNOTATION_IMPORTED));
                let of_row = tenant["metadata"]["annotations"][names::ANNOTATION_IMPORTED].as_str();
                let is_imported = of_row.is_some() && id.map(String::as_str) == of_row;
                Err(Conflict { name: name.to_owned(), fields: conflicts(&error), is_imported }.into())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Waits until the namespace of a tenant takes Jobs; false in a dry run where there is none.
    ///
    /// # Errors
    /// [`WriteError::NotReady`] with the tenant's own words.
    pub async fn ready(&self, tenant: &str) -> Result<bool, WriteError> {
        let Self::Cluster { client, dry_run } = self else { return Ok(true) };
        let api: Api<Tenant> = Api::all(client.clone());
        if *dry_run {
            let found = within_opt("failed to read a Tenant", api.get(tenant)).await?;
            return Ok(found.is_some_and(|tenant| is_ready().matches_object(Some(&tenant))));
        }
        let ready = await_condition(api.clone(), tenant, is_ready());
        if let Ok(Ok(_)) = tokio::time::timeout(READY_WITHIN, ready).await {
            return Ok(true);
        }
        let found = within_opt("failed to read a Tenant", api.get(tenant)).await?;
        let words = found.as_ref().and_then(ready_condition).map(|condition| condition.message.clone());
        Err(WriteError::NotReady(words.unwrap_or_else(|| {
            format!(
                "the operator has not written its status within {} s: see whether it runs",
                READY_WITHIN.as_secs()
            )
        })))
    }

    /// Writes a Job.
    ///
    /// # Errors
    /// [`WriteError`].
    pub async fn job(&mut self, job: &Value) -> Result<Written, WriteError> {
        let (client, dry_run) = match self {
            Self::Yaml(out) => return document(*out, job).map(|()| Written::New),
            Self::Cluster { client, dry_run } => (client.clone(), *dry_run),
        };
        let job: Job = serde_json::from_value(job.clone())?;
        let (namespace, name) = (job.namespace().unwrap_or_default(), job.name_any());
        let api: Api<Job> = Api::namespaced(client, &namespace);
        let params = PostParams { dry_run, ..PostParams::default() };
        let created = api.create(&params, &job);
        match within(format!("failed to create Job {namespace}/{name}"), created).await {
            Ok(_) => Ok(Written::New),
            Err(error) if error.code() == Some(409) => {
                let found = within_opt("failed to read a Job", api.get(&name)).await?;
                let same = found.is_some_and(|found| {
                    let id = |job: &Job| job.annotations().get(names::ANNOTATION_IMPORTED).cloned();
                    id(&found) == id(&job)
                });
                if same { Ok(Written::Before) } else { Err(WriteError::Taken) }
            }
            Err(error) => Err(error.into()),
        }
    }
}

fn document(out: &mut dyn io::Write, object: &Value) -> Result<(), WriteError> {
    writeln!(out, "---\n{}", yaml::write(object)?.trim_end())?;
    Ok(())
}

fn ready_condition(tenant: &Tenant) -> Option<&k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition> {
    tenant.status.as_ref()?.conditions.iter().find(|condition| condition.type_ == conditions::READY)
}

fn is_ready() -> impl Condition<Tenant> {
    |tenant: Option<&Tenant>| {
        tenant.and_then(ready_condition).is_some_and(|condition| condition.status == "True")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::kube_ext::mock;

    /// What is reported of the Tenant `default` of a row, which the API server refuses to apply over one with this annotation.
    async fn refused(annotation: Option<&str>) -> String {
        let annotations = json!({(names::ANNOTATION_IMPORTED): annotation});
        let there = json!({
            "apiVersion": "crofter.io/v1alpha1", "kind": "Tenant", "spec": {"plan": "enterprise"},
            "metadata": {"name": "default", "annotations": if annotation.is_some() { annotations } else { json!({}) }},
        });
        let causes = json!([{
            "reason": "FieldManagerConflict", "field": ".spec.plan",
            "message": "conflict with \"crofter\" using crofter.io/v1alpha1",
        }]);
        let client = mock::client(move |call| match call.method.as_str() {
            "PATCH" => (
                409,
                json!({
                    "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 409, "reason": "Conflict",
                    "message": "Apply failed with 1 conflict", "details": {"causes": causes},
                }),
            ),
            _ => (200, there.clone()),
        });
        let row = json!({
            "apiVersion": "crofter.io/v1alpha1", "kind": "Tenant", "spec": {"plan": "free"},
            "metadata": {"name": "default", "annotations": {(names::ANNOTATION_IMPORTED): "7"}},
        });
        Target::Cluster { client, dry_run: false }.tenant(&row).await.unwrap_err().to_string()
    }

    #[tokio::test]
    async fn a_tenant_that_others_have_written_is_refused_with_what_to_do() {
        let others = [refused(None).await, refused(Some("8")).await];
        for said in &others {
            assert!(said.contains("a Tenant default that was not imported from this row"), "{said}");
            assert!(
                said.contains(".spec.plan by crofter") && said.ends_with("rename the row, and import again")
            );
            assert!(said.contains("--force-conflicts --field-manager=crofter-import"), "{said}");
        }
        let changed = refused(Some("7")).await;
        assert!(
            changed.starts_with("it was changed since it was imported (.spec.plan by crofter)"),
            "{changed}"
        );
        assert!(!changed.contains("ApiError") && !changed.contains("rename"), "{changed}");
    }
}
