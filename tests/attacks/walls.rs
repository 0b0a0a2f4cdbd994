//! Each wall is taken down in turn: exactly the attacks that name it get through then, or are refused by something else. So
//! no attack is refused by accident, and what is behind a wall is known.

use std::{collections::BTreeSet, fmt::Debug, time::Duration};

use crofter::check::attacks::{self, Attack, Outcome, Targets, Wall, Who, fixtures};
use crofter_test_cluster::wait;
use k8s_openapi::{
    api::{
        admissionregistration::v1::ValidatingAdmissionPolicyBinding,
        core::v1::{Namespace, ResourceQuota},
        rbac::v1::ClusterRoleBinding,
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::{Installed, site};

/// How long the API server may take to act on a wall that was taken down or put up.
const PROPAGATION_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a tenant or a key may take.
const READY_TIMEOUT: Duration = Duration::from_secs(90);
/// Policies that let pass who has more rights in the cluster: without RBAC everybody has.
const ASK_FOR_RIGHTS: [&str; 5] = [
    "paused.crofter.io",
    "tenant-claims.crofter.io",
    "tenant-objects.crofter.io",
    "tenant-secrets.crofter.io",
    "worker-tolerations.crofter.io",
];

/// What of the attacks is not refused by its wall.
async fn red(targets: &Targets<'_>, attacks: &[Attack]) -> BTreeSet<String> {
    let outcomes = targets.attack(attacks).await;
    let amiss = attacks.iter().zip(outcomes).filter(|(_, outcome)| *outcome != Outcome::Refused);
    amiss.map(|(attack, _)| name(attack)).collect()
}

fn name(attack: &Attack) -> String {
    format!("{}: {}: {}", attack.wall, attack.who, attack.what)
}

fn of(attacks: &[Attack], is_of: impl Fn(&Attack) -> bool) -> Vec<Attack> {
    attacks.iter().filter(|attack| is_of(attack)).cloned().collect()
}

/// Asserts that without a wall exactly its own attacks are red, and those of `others` may be.
async fn only_its_own(targets: &Targets<'_>, attacks: &[Attack], wall: Wall, others: &[Wall]) {
    let own = of(attacks, |attack| attack.wall == wall);
    let names: BTreeSet<String> = own.iter().map(name).collect();
    assert!(!names.is_empty(), "nothing attacks {wall}");
    wait::until(PROPAGATION_TIMEOUT, &format!("{wall} to be down"), async || {
        let green: Vec<_> = names.difference(&red(targets, &own).await).cloned().collect();
        if green.is_empty() { Ok(()) } else { Err(green) }
    })
    .await
    .unwrap();
    let rest = of(attacks, |attack| attack.wall != wall && !others.contains(&attack.wall));
    // What is red by a slow answer is green at the next attempt.
    let once = red(targets, &rest).await;
    let again = of(&rest, |attack| once.contains(&name(attack)));
    assert_eq!(red(targets, &again).await, BTreeSet::new(), "red without {wall}, which is not their wall");
    eprintln!("{wall}: {} attacks", names.len());
}

/// Waits until a wall is up again.
async fn up_again(targets: &Targets<'_>, attacks: &[Attack], wall: Wall) {
    wait::until(PROPAGATION_TIMEOUT, &format!("{wall} to be up"), async || {
        let red = red(targets, attacks).await;
        if red.is_empty() { Ok(()) } else { Err(red) }
    })
    .await
    .unwrap();
}

/// An object as it was, to be created again.
fn fresh<K: Resource>(mut object: K) -> K {
    let meta = object.meta_mut();
    (meta.resource_version, meta.uid, meta.managed_fields) = (None, None, None);
    object
}

/// Deletes an object, and returns it to be created again.
async fn taken<K>(api: &Api<K>, name: &str) -> K
where
    K: Resource + Clone + Debug + DeserializeOwned + Serialize,
{
    let object = api.get(name).await.unwrap();
    api.delete(name, &DeleteParams::default()).await.unwrap();
    fresh(object)
}

/// A schema without what it demands of values: their types stay.
fn loosened(schema: &mut Value) {
    const DEMANDS: [&str; 16] = [
        "x-kubernetes-validations",
        "x-kubernetes-list-type",
        "x-kubernetes-list-map-keys",
        "pattern",
        "format",
        "enum",
        "required",
        "minimum",
        "maximum",
        "minLength",
        "maxLength",
        "minItems",
        "maxItems",
        "minProperties",
        "maxProperties",
        "oneOf",
    ];
    match schema {
        Value::Object(fields) => {
            // A field may have the name of a demand: those of `properties` are fields.
            if let Some(Value::Object(properties)) = fields.get_mut("properties") {
                properties.values_mut().for_each(loosened);
            }
            fields.retain(|name, _| !DEMANDS.contains(&name.as_str()));
            for (name, value) in fields.iter_mut().filter(|(name, _)| *name != "properties") {
                if ["items", "additionalProperties"].contains(&name.as_str()) {
                    loosened(value);
                }
            }
        }
        Value::Array(all) => all.iter_mut().for_each(loosened),
        _ => (),
    }
}

async fn crds_change(client: &Client, change: impl Fn(&mut Value)) -> Vec<CustomResourceDefinition> {
    let crds: Api<CustomResourceDefinition> = Api::all(client.clone());
    let mut before = Vec::new();
    for crd in crds.list(&ListParams::default()).await.unwrap().items {
        if crd.spec.group != "crofter.io" {
            continue;
        }
        let mut spec = json!(crd.spec);
        for version in spec["versions"].as_array_mut().unwrap() {
            change(&mut version["schema"]["openAPIV3Schema"]);
        }
        let patch = Patch::Merge(json!({"spec": {"versions": spec["versions"]}}));
        crds.patch(&crd.name_any(), &PatchParams::default(), &patch).await.unwrap();
        before.push(crd);
    }
    before
}

#[tokio::test]
async fn each_wall_holds_exactly_its_own_attacks() {
    // Given what the attacks are on, and no operator that would put up again what is taken down.
    let mut installed = Installed::new().await;
    let (client, _report) = installed.cluster.client_with_report().await.unwrap();
    let site = site();
    let node = fixtures::begin(&client).await.unwrap();
    let fixtures = fixtures::make(&client, &site, &node, "free", READY_TIMEOUT).await.unwrap();
    installed.operator.kill().unwrap();
    let targets = Targets { api_server: &client, rest: None, site: &site, fixtures: &fixtures };
    let attacks = of(&attacks::all(&site), |attack| targets.reach(attack));
    targets.settle(&attacks, PROPAGATION_TIMEOUT).await;
    assert_eq!(red(&targets, &attacks).await, BTreeSet::new());

    // Each policy, with all its bindings.
    let bindings: Api<ValidatingAdmissionPolicyBinding> = Api::all(client.clone());
    let policies: BTreeSet<&str> = attacks
        .iter()
        .filter_map(|attack| if let Wall::Policy(policy) = attack.wall { Some(policy) } else { None })
        .collect();
    for policy in policies {
        let of_policy = |binding: &ValidatingAdmissionPolicyBinding| {
            binding.spec.as_ref().and_then(|spec| spec.policy_name.as_deref()) == Some(policy)
        };
        let all = bindings.list(&ListParams::default()).await.unwrap().items;
        let mut down = Vec::new();
        for binding in all.into_iter().filter(of_policy) {
            down.push(taken(&bindings, &binding.name_any()).await);
        }
        only_its_own(&targets, &attacks, Wall::Policy(policy), &[]).await;
        for binding in &down {
            bindings.create(&PostParams::default(), binding).await.unwrap();
        }
        up_again(&targets, &attacks, Wall::Policy(policy)).await;
    }

    // Pod Security, the quota, and the schema.
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let enforce = async |standard: &str| {
        let label = json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": standard}}});
        let patch = Patch::Merge(label);
        namespaces.patch(&site.namespace(), &PatchParams::default(), &patch).await.unwrap();
    };
    enforce("privileged").await;
    only_its_own(&targets, &attacks, Wall::PodSecurity, &[]).await;
    enforce("restricted").await;
    up_again(&targets, &attacks, Wall::PodSecurity).await;

    let quotas: Api<ResourceQuota> = Api::namespaced(client.clone(), &site.namespace());
    let quota = taken(&quotas, "crofter").await;
    only_its_own(&targets, &attacks, Wall::Quota, &[]).await;
    quotas.create(&PostParams::default(), &quota).await.unwrap();
    up_again(&targets, &attacks, Wall::Quota).await;

    let strict = crds_change(&client, loosened).await;
    only_its_own(&targets, &attacks, Wall::Schema, &[]).await;
    let crds: Api<CustomResourceDefinition> = Api::all(client.clone());
    for crd in strict {
        let patch = Patch::Merge(json!({"spec": {"versions": crd.spec.versions}}));
        crds.patch(&crd.name_any(), &PatchParams::default(), &patch).await.unwrap();
    }
    up_again(&targets, &attacks, Wall::Schema).await;

    // Everybody has every right.
    let subjects: Vec<Value> = attacks
        .iter()
        .filter(|attack| attack.who != Who::Administrator)
        .filter_map(|attack| attack.who.user(&site))
        .map(|(user, _)| user)
        .collect::<BTreeSet<_>>()
        .into_iter()
        .map(|user| json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}))
        .collect();
    let everything: ClusterRoleBinding = serde_json::from_value(json!({
        "metadata": {"name": "everything"}, "subjects": subjects,
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
    }))
    .unwrap();
    let grants: Api<ClusterRoleBinding> = Api::all(client.clone());
    grants.create(&PostParams::default(), &everything).await.unwrap();
    only_its_own(&targets, &attacks, Wall::Rbac, &ASK_FOR_RIGHTS.map(Wall::Policy)).await;
    grants.delete("everything", &DeleteParams::default()).await.unwrap();
    up_again(&targets, &attacks, Wall::Rbac).await;
}
