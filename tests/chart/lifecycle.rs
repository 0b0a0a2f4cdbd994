//! The chart's life on a cluster: install, upgrade, rollback, uninstall and install again. Once on real nodes, with a
//! tenant whose job runs all the while, and once where machines cannot have them, with the tenant `default`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crofter::{
    api_types::{JobPhase, Tenant},
    names,
};
use crofter_test_cluster::{Cluster, process::Process, real, wait};
use k8s_openapi::{
    api::{
        admissionregistration::v1::ValidatingAdmissionPolicy,
        apps::v1::{Deployment, DeploymentSpec},
        core::v1::{Namespace, Pod, ResourceQuota},
        rbac::v1::ClusterRole,
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, Client, ResourceExt,
    api::{ListParams, Patch, PatchParams, PostParams},
};
use serde_json::json;
use sqlx::{Connection, PgConnection};

use super::{
    NAMESPACE, PROPAGATION_TIMEOUT, RELEASE, chart, helm, object,
    operator::WAIT_TIMEOUT,
    site::{Site, TENANT_NAMESPACE, WORKER, create_key, create_tenant, pods, submit_script, until_phase},
    succeeded,
};

const TENANTS: &str = "tenants.crofter.io";

/// The digest of an earlier version's image.
const EARLIER_IMAGE: &str = "sha256:1111111111111111111111111111111111111111111111111111111111111111";

/// The chart of an earlier version, with its image as a release has it, whose CRD of tenants had one short name more.
fn earlier_chart(dir: &Path) -> PathBuf {
    let copy = dir.join("earlier-chart");
    copy_dir(&chart(), &copy);
    edit(&copy.join("values.yaml"), "\n  digest: \"\"\n", &format!("\n  digest: {EARLIER_IMAGE}\n"));
    edit(&copy.join("files/crds/tenants.yaml"), "    - ten\n", "    - ten\n    - farm\n");
    edit(&copy.join("Chart.yaml"), "version: 0.1.0\n", "version: 0.0.9\n");
    copy
}

/// Makes a chart a later version's, whose tenants may have one field more.
fn make_later(chart: &Path) {
    let (now, then) = (env!("CARGO_PKG_VERSION"), "99.0.0");
    edit(&chart.join("Chart.yaml"), &format!("\nversion: {now}\n"), &format!("\nversion: {then}\n"));
    edit(&chart.join("Chart.yaml"), &format!("\nappVersion: {now}\n"), &format!("\nappVersion: {then}\n"));
    let crds = chart.join("files/crds");
    for entry in fs::read_dir(&crds).unwrap() {
        edit(&entry.unwrap().path(), &format!("version: \"{now}\"\n"), &format!("version: \"{then}\"\n"));
    }
    let field = "              costCenter:\n                type: string\n";
    let before = "              deletionPolicy:\n";
    edit(&crds.join("tenants.yaml"), before, &format!("{field}{before}"));
}

/// Replaces the first occurrence of a text in a file.
fn edit(file: &Path, from: &str, to: &str) {
    let text = fs::read_to_string(file).unwrap();
    assert!(text.contains(from), "{}: {from}", file.display());
    fs::write(file, text.replacen(from, to, 1)).unwrap();
}

/// Copies a directory and all below it.
pub(crate) fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy_dir(&path, &target);
        } else {
            fs::copy(&path, &target).unwrap();
        }
    }
}

async fn short_names(client: &Client) -> Vec<String> {
    let crd = Api::<CustomResourceDefinition>::all(client.clone()).get(TENANTS).await.unwrap();
    crd.spec.names.short_names.unwrap()
}

async fn deployment(client: &Client) -> DeploymentSpec {
    Api::<Deployment>::namespaced(client.clone(), NAMESPACE).get(RELEASE).await.unwrap().spec.unwrap()
}

/// The objects of the release besides the CRDs: policies and cluster roles.
async fn leftovers(client: &Client) -> Vec<String> {
    let ours = ListParams::default().labels("app.kubernetes.io/instance=crofter");
    let policies = Api::<ValidatingAdmissionPolicy>::all(client.clone()).list(&ours).await.unwrap();
    let roles = Api::<ClusterRole>::all(client.clone()).list(&ours).await.unwrap();
    let names =
        policies.items.into_iter().map(|p| p.metadata).chain(roles.items.into_iter().map(|r| r.metadata));
    names.filter_map(|m| m.name).collect()
}

/// The operator, with the default tenant that the chart configures.
async fn operator(cluster: &Cluster) -> Process {
    let env = "jsonpath={.spec.template.spec.containers[0].env[?(@.name=='CROFTER_DEFAULT_TENANT')].value}";
    let get = ["get", "deployment", RELEASE, "--namespace", NAMESPACE, "--output", env];
    let plan = succeeded(&cluster.kubectl(get).await.unwrap());
    let kubeconfig = cluster.kubeconfig_for_service_account(NAMESPACE, RELEASE).await.unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_crofter"));
    command.args([
        "run",
        "--metrics-addr",
        "127.0.0.1:0",
        "--api-addr",
        "127.0.0.1:0",
        "--default-tenant",
        &plan,
    ]);
    command.env("KUBECONFIG", kubeconfig).env_remove("DATABASE_URL");
    cluster.start_process("crofter", command).unwrap()
}

/// What an upgrade that changes nothing leaves as it is: UID and generation of each object of the release, and its pods.
async fn identity(site: &Site) -> String {
    site.type_in(&format!(
        "helm get manifest {RELEASE} --namespace {NAMESPACE} | kubectl get --filename - --output json |
         jq -r '.items[] | [.kind, .metadata.name, .metadata.uid, .metadata.generation // .metadata.resourceVersion]'
         kubectl --namespace {NAMESPACE} get pods --selector app.kubernetes.io/name=crofter --output json |
         jq -r '.items[].metadata.uid'"
    ))
    .await
}

/// A plan table whose plan `basic` has another number of jobs.
fn plans(max_jobs: i64) -> String {
    let plan = json!({
        "weight": 2, "maxJobs": max_jobs, "maxQueuedJobs": 200, "maxJobsPerHour": 100, "maxWorkers": 5,
        "maxCpuCores": 16, "maxMemoryGb": 64, "maxGpus": 1, "maxStorageGb": 100, "maxBandwidthMbps": 1000,
        "jobTimeoutMinutes": 120,
    });
    json!({"plans": {"basic": plan, "enterprise": plan}}).to_string()
}

/// Waits until the tenant's namespace may have this number of pods.
async fn until_quota(client: &Client, pods: &str) {
    let quotas: Api<ResourceQuota> = Api::namespaced(client.clone(), TENANT_NAMESPACE);
    wait::until(WAIT_TIMEOUT, "the plan's quota", || async {
        let hard = quotas.get("crofter").await.unwrap().spec.unwrap().hard.unwrap();
        if hard["pods"].0 == pods { Ok(()) } else { Err(hard) }
    })
    .await
    .unwrap();
}

/// What the API server shows in the field that later tenants may have.
async fn cost_center(site: &Site) -> String {
    site.type_in("kubectl get tenant acme --output jsonpath={.spec.costCenter}").await
}

/// Writes into that field.
async fn set_cost_center(site: &Site) {
    let patch = r#"{"spec": {"costCenter": "4711"}}"#;
    site.type_in(&format!("kubectl patch tenant acme --type merge --patch '{patch}'")).await;
}

/// The pod of the job that runs all the while.
async fn running_pod(client: &Client) -> Pod {
    let job = until_phase(client, "steady", JobPhase::Running).await.status.unwrap();
    assert_eq!((job.attempt, job.retries), (1, 0));
    Api::namespaced(client.clone(), TENANT_NAMESPACE).get(&job.pod.unwrap()).await.unwrap()
}

/// That this is the pod as it was, and still runs.
async fn check_undisturbed(client: &Client, before: &Pod) {
    let now = running_pod(client).await;
    assert_eq!((now.uid(), &now.metadata.deletion_timestamp), (before.uid(), &None));
    let containers = |pod: &Pod| pod.status.clone().unwrap().container_statuses.unwrap();
    assert_eq!(containers(&now), containers(before));
}

/// Phase, attempts and charged attempts of a job in the history, and whether the hourly sums of all are what was charged.
async fn history(site: &Site, job: &str) -> Result<(Option<String>, i64, i64, bool), sqlx::Error> {
    let mut database = PgConnection::connect(&site.database_url).await?;
    let query = "SELECT phase, (SELECT count(*) FROM job_attempts WHERE job_uid = uid),
            (SELECT count(*) FROM usage_events WHERE job_uid = uid),
            (SELECT coalesce(sum(running_millis), 0) FROM usage_hourly)
                = (SELECT coalesce(sum(running_millis), 0) FROM usage_events)
        FROM jobs WHERE name = $1";
    sqlx::query_as(query).bind(job).fetch_one(&mut database).await
}

#[tokio::test]
async fn a_tenant_and_its_running_job_outlive_every_change_of_the_installation() {
    if !real::available_to_tests() {
        return;
    }
    // Step 1: an installation from the registry, a tenant with a worker, a job that has ended, one that runs, and a key.
    let site = Site::prepare().await;
    let (client, _report) = site.cluster.client_with_report().await.unwrap();
    let (install, _) = site.release.install_and_test();
    site.wait_for_pods(&install).await;
    create_tenant(&client, &[]).await;
    site.type_in(&format!("kubectl label node {WORKER} {}=acme", names::NODE_TENANT)).await;
    submit_script(&client, "ended", "exit 0").await;
    submit_script(&client, "steady", "until [ -e /tmp/end ]; do sleep 0.2; done").await;
    until_phase(&client, "ended", JobPhase::Completed).await;
    let pod = running_pod(&client).await;
    let key = create_key(&client).await;
    site.jobs_over_tls(&key).await;
    until_quota(&client, "20").await;

    // Step 2: an upgrade with the same values changes nothing, and nothing differs from what is rendered.
    let installed = identity(&site).await;
    let upgrade = site.release.of_page("## Upgrade");
    site.wait_for_pods(&upgrade).await;
    assert_eq!(identity(&site).await, installed);
    let chart = format!("oci://{}/charts/crofter", site.release.path);
    for rendered in [
        format!("helm get manifest {RELEASE} --namespace {NAMESPACE}"),
        format!("helm template {RELEASE} {chart} --namespace {NAMESPACE} --skip-tests --values values.yaml"),
    ] {
        let differs = site.type_in(&format!("{rendered} | kubectl diff --filename -")).await;
        assert_eq!(differs, "", "{rendered}");
    }

    // Step 3: a later version, with another plan table and a CRD with one field more.
    set_cost_center(&site).await;
    assert_eq!(cost_center(&site).await, "");
    site.type_in(&format!("helm pull {chart} --untar")).await;
    make_later(&site.dir.join("crofter"));
    fs::write(site.dir.join("plans.yaml"), plans(7)).unwrap();
    site.wait_for_pods(&format!("{} --values plans.yaml", upgrade.replace(&chart, "./crofter").trim())).await;
    until_quota(&client, "7").await;
    set_cost_center(&site).await;
    assert_eq!(cost_center(&site).await, "4711");
    check_undisturbed(&client, &pod).await;

    // Step 4: back to the first revision: plans and CRDs are as they were, without the field and what was in it.
    site.wait_for_pods(&format!("helm rollback {RELEASE} 1 --namespace {NAMESPACE} --wait")).await;
    until_quota(&client, "20").await;
    assert_eq!(cost_center(&site).await, "");
    check_undisturbed(&client, &pod).await;
    site.jobs_over_tls(&key).await;

    // Step 5: without the operator the job runs on, and nothing is stuck in its deletion.
    site.type_in(&format!("helm uninstall {RELEASE} --namespace {NAMESPACE} --wait")).await;
    wait::until(WAIT_TIMEOUT, "the operator's pods to end", || async {
        let left = pods(&client).await;
        if left.is_empty() { Ok(()) } else { Err(left.iter().map(ResourceExt::name_any).collect::<Vec<_>>()) }
    })
    .await
    .unwrap();
    assert_eq!(leftovers(&client).await, Vec::<String>::new());
    let terminating = "kubectl get namespaces,nodes,pods,tenants,tenantapikeys,jobs.crofter.io --all-namespaces \
        --output json | jq '.items[] | select(.metadata.deletionTimestamp) | [.kind, .metadata.name]'";
    assert_eq!(site.type_in(terminating).await, "");
    check_undisturbed(&client, &pod).await;

    // It ends while no operator runs, and another one is submitted.
    let name = pod.name_any();
    site.type_in(&format!("kubectl --namespace {TENANT_NAMESPACE} exec {name} -- touch /tmp/end")).await;
    let tenant_pods: Api<Pod> = Api::namespaced(client.clone(), TENANT_NAMESPACE);
    wait::until(WAIT_TIMEOUT, "the pod to end", || async {
        let status = tenant_pods.get(&name).await.unwrap().status.unwrap();
        if status.phase.as_deref() == Some("Succeeded") { Ok(()) } else { Err(status) }
    })
    .await
    .unwrap();
    submit_script(&client, "meanwhile", "exit 0").await;
    assert_eq!(history(&site, "steady").await.unwrap(), (Some("Running".to_owned()), 0, 0, true));

    // Step 6: the next installation takes all of it up, charges the end once, and admits the key of before.
    site.wait_for_pods(&install).await;
    until_phase(&client, "meanwhile", JobPhase::Completed).await;
    let steady = until_phase(&client, "steady", JobPhase::Completed).await.status.unwrap();
    assert_eq!((steady.attempt, steady.retries, steady.pod), (1, 0, Some(name)));
    for job in ["ended", "steady", "meanwhile"] {
        let once = (Some("Completed".to_owned()), 1, 1, true);
        wait::until(WAIT_TIMEOUT, "the job's end in the history", || async {
            let found = history(&site, job).await.map_err(|error| error.to_string())?;
            if found == once { Ok(()) } else { Err(format!("{job}: {found:?}")) }
        })
        .await
        .unwrap();
    }
    let listed = site.jobs_over_tls(&key).await;
    assert_eq!(listed["jobs"].as_array().unwrap().len(), 3, "{listed}");
}

#[tokio::test]
async fn installs_upgrades_and_leaves_tenants_behind() {
    let cluster = Cluster::builder().postgres(false).start().unwrap();
    let (client, _report) = cluster.client_with_report().await.unwrap();
    let tenants: Api<Tenant> = Api::all(client.clone());

    // The namespace demands what the operator's pod must therefore fulfil.
    let strict = json!({"metadata": {
        "name": NAMESPACE, "labels": {"pod-security.kubernetes.io/enforce": "restricted"},
    }});
    Api::<Namespace>::all(client.clone()).create(&PostParams::default(), &object(strict)).await.unwrap();
    let values = ["--set", "replicas=3"];
    let notes = succeeded(&helm(&cluster, "install", &earlier_chart(cluster.dir()), &values).await);
    assert!(notes.contains("kubectl -n crofter-system rollout status deployment/crofter"), "{notes}");
    wait::until(PROPAGATION_TIMEOUT, "the operator's pods in a restricted namespace", || async {
        let labelled = ListParams::default().labels("app.kubernetes.io/name=crofter");
        let pods = Api::<Pod>::namespaced(client.clone(), NAMESPACE).list(&labelled).await.unwrap();
        if pods.items.len() == 3 { Ok(()) } else { Err(pods.items.len()) }
    })
    .await
    .unwrap();
    assert_eq!(short_names(&client).await, ["ten", "farm"]);
    let pods = format!("{:?}", deployment(&client).await.template);
    assert!(pods.contains(EARLIER_IMAGE), "{pods}");
    assert!(
        tenants.get_opt(names::DEFAULT_TENANT).await.unwrap().is_none(),
        "it is the operator's to create"
    );
    let mut first = operator(&cluster).await;
    wait::until(WAIT_TIMEOUT, "the default tenant", || tenants.get(names::DEFAULT_TENANT)).await.unwrap();
    first.kill().unwrap();
    let made = tenants.get(names::DEFAULT_TENANT).await.unwrap();
    assert_eq!((made.spec.plan.as_str(), made.spec.prevent_deletion), ("enterprise", true));

    // An upgrade brings the CRDs up to date and leaves the administrator's changes in the default tenant alone.
    let change = Patch::Merge(json!({"spec": {"displayName": "House", "plan": "pro"}}));
    tenants.patch(names::DEFAULT_TENANT, &PatchParams::default(), &change).await.unwrap();
    let flags =
        include_str!("../../docs/upgrade.md").split_once("--wait ").unwrap().1.lines().next().unwrap();
    let again = [flags, "--set", "namespacePrefix=team-"];
    succeeded(&helm(&cluster, "upgrade", &chart(), &again).await);
    assert_eq!(short_names(&client).await, ["ten"]);
    // With the flag of the page the image is the new version's, and the values of before are kept.
    let upgraded = deployment(&client).await;
    let pods = format!("{:?}", upgraded.template);
    assert!(!pods.contains(EARLIER_IMAGE), "{pods}");
    assert_eq!(upgraded.replicas, Some(3));
    // The operator that was upgraded leads, and has seen the tenant as the administrator left it.
    let mut second = operator(&cluster).await;
    wait::until(WAIT_TIMEOUT, "the default tenant to be reconciled", || async {
        let tenant = tenants.get(names::DEFAULT_TENANT).await.unwrap();
        let observed = tenant.status.as_ref().map(|status| status.observed_generation);
        if observed == tenant.metadata.generation { Ok(()) } else { Err(tenant.status) }
    })
    .await
    .unwrap();
    second.kill().unwrap();
    let kept = tenants.get(names::DEFAULT_TENANT).await.unwrap();
    assert_eq!((kept.spec.display_name.as_deref(), kept.spec.plan.as_str()), (Some("House"), "pro"));

    // What an uninstall leaves is what holds data.
    assert!(!leftovers(&client).await.is_empty());
    let uninstall = ["uninstall", "crofter", "--namespace", NAMESPACE, "--wait"];
    succeeded(&cluster.helm(uninstall).await.unwrap());
    assert_eq!(leftovers(&client).await, Vec::<String>::new());
    let kept = tenants.get(names::DEFAULT_TENANT).await.unwrap();
    assert_eq!(kept.metadata.uid, made.metadata.uid);

    // And the next install takes it up again.
    succeeded(&helm(&cluster, "install", &chart(), &[]).await);
    let kept = tenants.get(names::DEFAULT_TENANT).await.unwrap();
    assert_eq!(kept.metadata.uid, made.metadata.uid);
    assert_eq!(kept.spec.display_name.as_deref(), Some("House"));
}
