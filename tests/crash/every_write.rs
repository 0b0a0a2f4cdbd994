//! The operator is killed before each single write of a job's life.
//!
//! It runs as a user that may do everything but write to jobs and pods. What it asks for and is refused is the next
//! write: it is killed there, the one right is given, and its next life does this one write and is refused at the one
//! after.

use std::collections::HashMap;

use crofter::api_types::{Job, JobPhase};
use crofter_test_cluster::wait;
use k8s_openapi::api::{
    core::v1::Pod,
    rbac::v1::{ClusterRole, ClusterRoleBinding},
};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, PostParams},
};
use serde_json::{Value, json};

use crate::{
    OPERATOR_FAULTS,
    audit::{Audit, Request},
    common::{FINALIZER_WAIT_TIMEOUT, Verbs, namespace, phase},
    history::{check_completed_once, check_pods, of_pods},
    kubelet::{ended, running, silent},
};

const OPERATOR: &str = "crash-operator";

/// A write in the life of a job: a right of its own.
type Gate = (&'static str, &'static str);

const GATES: [Gate; 4] =
    [("create", "pods"), ("delete", "pods"), ("patch", "pods"), ("patch", "jobs/status")];

fn role_of((verb, resource): Gate) -> String {
    format!("crash-{verb}-{}", resource.replace('/', "-"))
}

fn binding(role: &str) -> ClusterRoleBinding {
    let whole = json!({
        "metadata": {"name": role},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": OPERATOR}],
    });
    serde_json::from_value(whole).unwrap()
}

/// One job's life, a write at a time.
struct Life<'a> {
    verbs: &'a Verbs<'a>,
    tenant: &'a str,
    job: &'a str,
    audit: Audit,
    /// The writes that were done, each in a life of its own.
    writes: HashMap<Gate, usize>,
}

enum Next {
    /// The operator was refused this.
    Write(Gate),
    /// Where the job should come to.
    Reached(Box<Job>),
}

impl<'a> Life<'a> {
    async fn prepare(verbs: &Verbs<'_>) {
        let all = json!(["*"]);
        let rest = json!([
            "namespaces",
            "nodes",
            "events",
            "resourcequotas",
            "limitranges",
            "serviceaccounts",
            "rolebindings",
            "networkpolicies",
            "tenants",
            "tenants/status",
            "tenants/finalizers",
            "leases"
        ]);
        let base = json!([{"apiGroups": all, "resources": all, "verbs": ["get", "list", "watch"]},
            {"apiGroups": all, "resources": rest, "verbs": all}]);
        let mut roles = vec![("crash-base".to_owned(), base)];
        for gate in GATES {
            let right = json!([{"apiGroups": all, "resources": [gate.1], "verbs": [gate.0]}]);
            roles.push((role_of(gate), right));
        }
        for (name, rules) in roles {
            let role: Value = json!({"metadata": {"name": name}, "rules": rules});
            let role: ClusterRole = serde_json::from_value(role).unwrap();
            verbs.all::<ClusterRole>().create(&PostParams::default(), &role).await.unwrap();
        }
        verbs
            .all::<ClusterRoleBinding>()
            .create(&PostParams::default(), &binding("crash-base"))
            .await
            .unwrap();
    }

    fn bindings(&self) -> Api<ClusterRoleBinding> {
        self.verbs.all()
    }

    fn gate_of(&self, request: &Request) -> Option<Gate> {
        let ours = request.user == OPERATOR && request.namespace == namespace(self.tenant);
        GATES
            .into_iter()
            .find(|(verb, resource)| ours && request.verb == *verb && request.resource == *resource)
    }

    /// Kills the operator before each write until `goal` is reached; it then lives and may write nothing.
    async fn until(&mut self, what: &str, goal: impl Fn(&Job, Option<&Pod>) -> bool) -> Job {
        let mut refused = None;
        loop {
            let gate = match refused.take() {
                Some(gate) => gate,
                None => match self.next_write_or(what, &goal).await {
                    Next::Write(gate) => gate,
                    Next::Reached(job) => return *job,
                },
            };
            self.verbs.world.kill_operator();
            let role = role_of(gate);
            self.bindings().create(&PostParams::default(), &binding(&role)).await.unwrap();
            self.audit.find(|_| false);
            self.verbs.world.start_operator();
            // The next life may find that another write is due: then that is the next one.
            let telling = |request: &Request| match self.gate_of(request) {
                Some(asked) if asked == gate => request.code < 300,
                other => other.is_some() && request.code == 403,
            };
            let request = self.audit.until(&format!("{gate:?}, which is allowed now"), telling).await;
            self.bindings().delete(&role, &DeleteParams::default()).await.unwrap();
            if request.code == 403 {
                refused = self.gate_of(&request);
            } else {
                *self.writes.entry(gate).or_default() += 1;
            }
        }
    }

    async fn next_write_or(&self, what: &str, goal: impl Fn(&Job, Option<&Pod>) -> bool) -> Next {
        let pods = self.verbs.within::<Pod>(&namespace(self.tenant));
        wait::until(FINALIZER_WAIT_TIMEOUT, what, || async {
            let refused = |request: &Request| request.code == 403 && self.gate_of(request).is_some();
            if let Some(gate) = self.audit.find(refused).and_then(|request| self.gate_of(&request)) {
                return Ok(Next::Write(gate));
            }
            let job = self.verbs.jobs(self.tenant).get(self.job).await.unwrap();
            let pod = match job.status.as_ref().and_then(|s| s.pod.as_deref()) {
                Some(name) => pods.get_opt(name).await.unwrap(),
                None => None,
            };
            if goal(&job, pod.as_ref()) { Ok(Next::Reached(Box::new(job))) } else { Err(job.status) }
        })
        .await
        .unwrap()
    }
}

fn is_released(pod: Option<&Pod>) -> bool {
    pod.is_none_or(|pod| pod.finalizers().is_empty())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_before_every_single_write_a_job_runs_once() {
    let (world, _exclusive) = OPERATOR_FAULTS.take().await;
    let verbs = world.verbs().await;
    let pods = of_pods(verbs.all()).await;
    Life::prepare(&verbs).await;
    world.operator_as(&world.cluster.kubeconfig_for_user(OPERATOR, &[]).unwrap());
    world.start_operator();
    verbs.tenant("phileas", json!({"plan": "basic"})).await;
    for n in 1..=2 {
        verbs.worker(&format!("phileas-{n}"), "phileas", "2").await;
    }

    // One that completes: pod, Assigned, Running, Completed, finalizer. Its kubelet speaks when the state before is
    // written: of a pod that ends meanwhile a slow operator would write only the end.
    let audit = Audit::of(&world.cluster);
    verbs.job("phileas", "once", silent()).await;
    let mut life = Life { verbs: &verbs, tenant: "phileas", job: "once", audit, writes: HashMap::new() };
    let is_in = |wanted: JobPhase| move |job: &Job, _: Option<&Pod>| phase(job) == wanted;
    let assigned = life.until("the job to be assigned", is_in(JobPhase::Assigned)).await;
    verbs.kubelet(&assigned, running()).await;
    let runs = life.until("the job to run", is_in(JobPhase::Running)).await;
    verbs.kubelet(&runs, ended(0)).await;
    let over = |job: &Job, pod: Option<&Pod>| phase(job) == JobPhase::Completed && is_released(pod);
    check_completed_once(&life.until("the job to complete", over).await);
    let writes = &life.writes;
    assert_eq!((writes[&GATES[0]], writes[&GATES[2]]), (1, 1), "{writes:?}");
    assert!(writes[&GATES[3]] >= 3, "{writes:?}");

    // One that loses its pod, is tried again, and is canceled.
    verbs.job("phileas", "again", json!({"parameters": {"run-seconds": "forever"}})).await;
    let mut life = Life { job: "again", writes: HashMap::new(), ..life };
    let runs = |number| {
        move |job: &Job, _: Option<&Pod>| {
            phase(job) == JobPhase::Running && job.status.as_ref().is_some_and(|s| s.attempt == number)
        }
    };
    let first = life.until("attempt 1 to run", runs(1)).await.status.unwrap().pod.unwrap();
    verbs.within::<Pod>("tenant-phileas").delete(&first, &DeleteParams::default()).await.unwrap();
    life.until("attempt 2 to run", runs(2)).await;
    verbs.patch_job("phileas", "again", json!({"spec": {"canceled": true}})).await.unwrap();
    let over = |job: &Job, pod: Option<&Pod>| phase(job) == JobPhase::Canceled && is_released(pod);
    let job = life.until("the job to be canceled", over).await;
    let status = job.status.clone().unwrap();
    let ends: Vec<_> = status.attempts.iter().map(|a| (a.attempt, a.reason.as_str())).collect();
    assert_eq!(ends, [(1, "PodDeleted"), (2, "Canceled")]);
    let writes = &life.writes;
    // The second pod is stopped by a patch; it stays with its log.
    assert_eq!((writes[&GATES[0]], writes.get(&GATES[1]), writes[&GATES[2]]), (2, None, 3), "{writes:?}");
    // Running, Retrying, Queued, Running, Canceled.
    assert!(writes[&GATES[3]] >= 5, "{writes:?}");

    let attempts = check_pods(&pods.whole());
    assert_eq!(attempts[&job.uid().unwrap()].len(), 2);

    let agents = Audit::of(&world.cluster).agents(OPERATOR);
    let ours = concat!("crofter/", env!("CARGO_PKG_VERSION")).to_owned();
    assert_eq!(agents.into_iter().collect::<Vec<_>>(), [ours], "each request says whose it is");
}
