//! The trial: a tenant is created, runs a job where shared pools have nodes, and is deleted.

use std::{fmt::Debug, time::Duration};

use k8s_openapi::api::core::v1::{Namespace, Node};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ListParams, PostParams},
};
use serde_json::json;
use tokio::time::Instant;

use super::{Finding, Options, PAUSE, unanswered};
use crate::{
    api_types::{Job, JobPhase, Tenant},
    kube_ext::{CallError, within},
    names,
};

/// The tenant, which exists only while a check is made.
const TENANT: &str = "crofter-check";
/// The job.
const JOB: &str = "version";
/// Pools that a tenant may list.
const MOST_POOLS: usize = 16;

/// Creates the tenant, has it run a job, and deletes it, also where a step has failed.
pub(super) async fn run(client: &Client, options: &Options) -> Vec<Finding> {
    let limit = Duration::from_secs(options.step_seconds.into());
    let pools = match pools(client).await {
        Ok(pools) => pools,
        Err(error) => return vec![unanswered(error)],
    };
    let mut findings = match create(client, &options.plan, &pools).await {
        Ok(()) => vec![ready(client, TENANT, limit).await.map_or_else(|amiss| amiss, Finding::Ok)],
        Err(finding) => return vec![finding],
    };
    let works = matches!(findings[..], [Finding::Ok(_)]);
    match (&options.job_image, pools.is_empty()) {
        _ if !works => (),
        (Some(image), false) => findings.push(job(client, &options.namespace_prefix, image, limit).await),
        (None, _) => findings.push(Finding::Ok("no job was run: no image was given".to_owned())),
        (_, true) => {
            findings.push(Finding::Ok(format!("no job was run: no node has the label {}", names::NODE_POOL)));
        }
    }
    findings.push(delete(client, &options.namespace_prefix, limit).await);
    findings
}

/// The shared pools that have nodes.
async fn pools(client: &Client) -> Result<Vec<String>, CallError> {
    let api: Api<Node> = Api::all(client.clone());
    let in_pools = ListParams::default().labels(names::NODE_POOL);
    let nodes = within("failed to list nodes", api.list_metadata(&in_pools)).await?;
    let mut pools: Vec<String> =
        nodes.items.iter().filter_map(|node| node.labels().get(names::NODE_POOL).cloned()).collect();
    pools.sort();
    pools.dedup();
    pools.truncate(MOST_POOLS);
    Ok(pools)
}

async fn create(client: &Client, plan: &str, pools: &[String]) -> Result<(), Finding> {
    let spec = json!({"displayName": "crofter check", "plan": plan, "sharedPools": pools});
    let spec = serde_json::from_value(spec)
        .map_err(|error| Finding::failed(error, "give a plan of the plan table as --plan"))?;
    let api: Api<Tenant> = Api::all(client.clone());
    let (params, tenant) = (PostParams::default(), Tenant::new(TENANT, spec));
    let created = api.create(&params, &tenant);
    match within(format!("failed to create Tenant {TENANT}"), created).await {
        Ok(_) => Ok(()),
        Err(error) if error.is_conflict() => Err(Finding::failed(
            format!("Tenant {TENANT} exists: another check runs, or was ended"),
            format!("kubectl delete tenant {TENANT}"),
        )),
        Err(error) => Err(unanswered(error)),
    }
}

/// Waits until a tenant is ready, and says that it is.
pub(super) async fn ready(client: &Client, name: &str, limit: Duration) -> Result<String, Finding> {
    let api: Api<Tenant> = Api::all(client.clone());
    let is_ready = || async {
        let status = within("failed to read the tenant", api.get(name)).await?.status.unwrap_or_default();
        let ready = status.conditions.into_iter().find(|condition| condition.type_ == "Ready");
        Ok(match ready {
            Some(ready) if ready.status == "True" => Ok(()),
            Some(ready) => Err(format!("{}: {}", ready.reason, ready.message)),
            None => Err("no condition Ready".to_owned()),
        })
    };
    match wait(limit, is_ready).await {
        Ok(Ok(())) => Ok(format!("Tenant {name} was created and is ready")),
        Ok(Err(last)) => Err(Finding::failed(
            format!("Tenant {name} is not ready after {} s: {last}", limit.as_secs()),
            "see the log of the leader, and docs/reasons.md for the reason",
        )),
        Err(error) => Err(unanswered(error)),
    }
}

async fn job(client: &Client, prefix: &str, image: &str, limit: Duration) -> Finding {
    let job = json!({
        "apiVersion": "crofter.io/v1alpha1", "kind": "Job", "metadata": {"name": JOB},
        "spec": {"image": image, "args": ["version"], "resources": {"cpu": "10m", "memory": "32Mi"}},
    });
    let job: Job = match serde_json::from_value(job) {
        Ok(job) => job,
        Err(error) => return Finding::failed(error, "give an image as --job-image"),
    };
    let api: Api<Job> = Api::namespaced(client.clone(), &names::namespace(prefix, TENANT));
    let params = PostParams::default();
    let created = api.create(&params, &job);
    if let Err(error) = within(format!("failed to create Job {JOB} of Tenant {TENANT}"), created).await {
        return unanswered(error);
    }
    let is_ended = || async {
        let status = within("failed to read the job", api.get(JOB)).await?.status.unwrap_or_default();
        Ok(match status.phase {
            JobPhase::Completed => Ok(()),
            phase => Err(format!("it is {phase}: {}", status.message.unwrap_or_default())),
        })
    };
    match wait(limit, is_ended).await {
        Ok(Ok(())) => Finding::Ok("a job has run in a shared pool and completed".to_owned()),
        Ok(Err(last)) => Finding::failed(
            format!("a job in a shared pool has not completed after {} s: {last}", limit.as_secs()),
            "see docs/reasons.md for the reason, and whether its nodes can pull the operator's image",
        ),
        Err(error) => unanswered(error),
    }
}

async fn delete(client: &Client, prefix: &str, limit: Duration) -> Finding {
    let tenants: Api<Tenant> = Api::all(client.clone());
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let params = DeleteParams::default();
    let deleted = tenants.delete(TENANT, &params);
    if let Err(error) = within(format!("failed to delete Tenant {TENANT}"), deleted).await {
        return unanswered(error);
    }
    let namespace = names::namespace(prefix, TENANT);
    let is_deleted = || async {
        let tenant = within("failed to read the tenant", tenants.get_metadata_opt(TENANT)).await?;
        let left = within("failed to read the namespace", namespaces.get_metadata_opt(&namespace)).await?;
        Ok(match (tenant, left) {
            (None, None) => Ok(()),
            (Some(_), _) => Err("the tenant exists"),
            (None, Some(_)) => Err("its namespace exists"),
        })
    };
    match wait(limit, is_deleted).await {
        Ok(Ok(())) => Finding::Ok(format!("Tenant {TENANT} was deleted, with its namespace")),
        Ok(Err(last)) => Finding::failed(
            format!("Tenant {TENANT} is not deleted after {} s: {last}", limit.as_secs()),
            format!("see kubectl get tenant {TENANT} -o yaml, and the conditions of namespace {namespace}"),
        ),
        Err(error) => unanswered(error),
    }
}

/// Asks until the answer is `Ok`, for as long as `limit`; then the last answer.
pub(super) async fn wait<Seen: Debug, Asked>(
    limit: Duration,
    ask: impl Fn() -> Asked,
) -> Result<Result<(), Seen>, CallError>
where
    Asked: Future<Output = Result<Result<(), Seen>, CallError>>,
{
    let end = Instant::now() + limit;
    loop {
        let answer = ask().await?;
        if answer.is_ok() || Instant::now() >= end {
            return Ok(answer);
        }
        tokio::time::sleep(PAUSE).await;
    }
}
