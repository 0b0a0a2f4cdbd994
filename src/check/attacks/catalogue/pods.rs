//! What a pod in a tenant's namespace may be, whoever's fault it is that the operator makes it: the second wall behind the
//! operator's own code.

use serde_json::{Value, json};

use super::{
    super::site::TENANT,
    Attack, By, Site, Wall, Who,
    call::{self, PODS},
    container, merge, pod,
};
use crate::names;

/// A pod as the operator makes one for a job, with other fields in its spec.
pub(super) fn job_pod(more: Value) -> Value {
    let group = |value: &str| {
        json!({
            "tolerations": [
                {"key": names::NODE_ADMITTED, "operator": "Equal", "value": value, "effect": "NoSchedule"},
            ],
            "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                {"matchExpressions": [{"key": names::NODE_ADMITTED, "operator": "In", "values": [value]}]},
            ]}}},
        })
    };
    let mut spec = json!({
        "serviceAccountName": names::JOB_SERVICE_ACCOUNT, "automountServiceAccountToken": false,
        "restartPolicy": "Never",
    });
    merge(&mut spec, group(TENANT));
    merge(&mut spec, more);
    pod(spec)
}

pub(super) fn all(site: &Site) -> Vec<Attack> {
    let at = site.namespace();
    let create = |more: Value| call::create(PODS, &at, "new", job_pod(more));
    let twin = || (Who::Operator, create(json!({})));
    let standard = By { who: Who::Operator, wall: Wall::PodSecurity, code: 403 };
    let policy = By { who: Who::Operator, wall: Wall::Policy("job-pods.crofter.io"), code: 403 };
    let of_container = |security: Value| {
        let mut context = json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}});
        merge(&mut context, security);
        json!({"containers": [container(json!({"securityContext": context}))]})
    };
    let violates = "violates PodSecurity";
    let mut all: Vec<Attack> = [
        ("shares the network of its node", json!({"hostNetwork": true})),
        ("sees the processes of its node", json!({"hostPID": true})),
        ("shares the memory of its node", json!({"hostIPC": true})),
        ("reads the disk of its node", json!({"volumes": [{"name": "v", "hostPath": {"path": "/"}}]})),
        ("is privileged", of_container(json!({"privileged": true, "allowPrivilegeEscalation": true}))),
        ("runs as root", of_container(json!({"runAsUser": 0, "runAsNonRoot": false}))),
        ("gains privileges", of_container(json!({"allowPrivilegeEscalation": true}))),
        ("has a capability", of_container(json!({"capabilities": {"add": ["SYS_ADMIN"], "drop": ["ALL"]}}))),
        ("has no seccomp profile", json!({"securityContext": {"seccompProfile": {"type": "Unconfined"}}})),
    ]
    .into_iter()
    .map(|(what, more)| {
        standard.attack(format!("create a job's pod that {what}"), create(more), violates, twin())
    })
    .collect();
    let placed = |key: &str, values: Value| {
        json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
            {"matchExpressions": [{"key": key, "operator": "In", "values": values}]},
        ]}}}})
    };
    let tolerates = |fields: Value| {
        let mut one = json!({"key": names::NODE_ADMITTED, "operator": "Equal", "value": TENANT, "effect": "NoSchedule"});
        merge(&mut one, fields);
        json!({"tolerations": [one]})
    };
    let (nodes, account) =
        ("a job's pod runs on the nodes of one worker group", "a job's pod has the account");
    let scheduler = "kube-scheduler places a job's pod";
    let own = tolerates(json!({}))["tolerations"][0].clone();
    let control_plane = json!({"key": "node-role.kubernetes.io/control-plane", "operator": "Exists"});
    let words_of = [
        ("names its node", json!({"nodeName": "n1", "schedulingGates": null}), scheduler),
        ("names another scheduler", json!({"schedulerName": "mine"}), scheduler),
        ("has another account", json!({"serviceAccountName": "default"}), account),
        ("mounts its account's token", json!({"automountServiceAccountToken": true}), account),
        (
            "tolerates the taint of all workers",
            tolerates(json!({"operator": "Exists", "value": null})),
            nodes,
        ),
        ("tolerates all taints", json!({"tolerations": [{"operator": "Exists"}]}), nodes),
        ("tolerates the taint of another tenant", tolerates(json!({"value": "another"})), nodes),
        ("asks for the nodes of another tenant", placed(names::NODE_ADMITTED, json!(["another"])), nodes),
        ("asks for the nodes of two groups", placed(names::NODE_ADMITTED, json!([TENANT, "another"])), nodes),
        ("asks for nodes by another label", placed("kubernetes.io/os", json!(["linux"])), nodes),
        ("asks for no nodes", json!({"affinity": null}), nodes),
        (
            "tolerates the taint of the control plane",
            json!({"tolerations": [own, control_plane]}),
            "a job's pod runs on no node of the control plane",
        ),
    ];
    all.extend(words_of.into_iter().map(|(what, more, words)| {
        policy.attack(format!("create a job's pod that {what}"), create(more), words, twin())
    }));
    all
}
