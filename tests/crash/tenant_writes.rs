//! What the operator writes where a plan changes, and where a child is deleted.

use std::{cell::RefCell, collections::BTreeMap, time::Duration};

use crofter::{api_types::Tenant, names};
use crofter_test_cluster::wait;
use futures::{StreamExt, stream};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::{
    Api, Resource, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::json;

use crate::{
    OPERATOR_FAULTS,
    audit::{Audit, Request},
    common::{Verbs, WAIT_TIMEOUT, condition, namespace},
};

/// How many tenants change at once; more by this variable of the environment.
const TENANTS: usize = 40;
const VARIABLE: &str = "CROFTER_TEST_TENANTS";
/// Requests of the test under way at once.
const AT_ONCE: usize = 16;
/// The operator has done all that it has to when it has written nothing for as long: usage is written every 15 s at most.
const QUIET: Duration = Duration::from_secs(20);

/// What the names of the test's tenants begin with.
const PREFIX: &str = "plan-";

/// Waits until all tenants of the test are as `holds` says.
async fn until_all(verbs: &Verbs<'_>, what: &str, holds: impl Fn(&Tenant) -> bool) {
    let api = verbs.all::<Tenant>();
    wait::until(WAIT_TIMEOUT * 10, what, || async {
        let all = api.list(&ListParams::default()).await.map_err(|error| error.to_string())?.items;
        let all: Vec<_> = all.iter().filter(|tenant| tenant.name_any().starts_with(PREFIX)).collect();
        let missing = all.iter().filter(|tenant| !holds(tenant)).count();
        if missing == 0 { Ok(()) } else { Err(format!("{missing} of {} are not", all.len())) }
    })
    .await
    .unwrap();
}

/// The operator's writes until it has written nothing for [`QUIET`].
async fn writes_until_quiet(audit: &Audit) -> Vec<Request> {
    let writes = RefCell::new((Vec::new(), tokio::time::Instant::now()));
    wait::until(WAIT_TIMEOUT * 10, "the operator to have written all", || async {
        let new: Vec<_> = audit.next().into_iter().filter(Request::is_write_of_operator).collect();
        let (all, last) = &mut *writes.borrow_mut();
        if !new.is_empty() {
            *last = tokio::time::Instant::now();
            all.extend(new);
        }
        if last.elapsed() >= QUIET { Ok(()) } else { Err(format!("{} writes", all.len())) }
    })
    .await
    .unwrap();
    writes.into_inner().0
}

/// The writes of each tenant, as `verb resource`.
fn by_tenant(writes: &[Request], tenants: &[String]) -> BTreeMap<String, Vec<String>> {
    let mut all: BTreeMap<String, Vec<String>> =
        tenants.iter().map(|tenant| (tenant.clone(), Vec::new())).collect();
    for Request { verb, resource, namespace: within, name, .. } in writes {
        let of = tenants.iter().find(|tenant| *within == namespace(tenant) || name == *tenant);
        if let Some(of) = of.and_then(|tenant| all.get_mut(tenant)) {
            of.push(format!("{verb} {resource}"));
        }
    }
    all
}

/// Before children were compared by hash, a changed plan was ten writes a tenant, and a deleted policy nine.
#[tokio::test]
async fn a_changed_plan_costs_a_tenant_three_writes_and_a_deleted_child_one() {
    // Given: tenants with all that they own, of which the operator has nothing left to write.
    let (world, _guard) = OPERATOR_FAULTS.take().await;
    world.start_operator();
    world.until_ready().await;
    let verbs = world.verbs().await;
    let audit = Audit::of(&world.cluster);
    let count = std::env::var(VARIABLE).map_or(TENANTS, |count| count.parse().unwrap());
    let tenants: Vec<String> = (0..count).map(|n| format!("{PREFIX}{n:04}")).collect();
    let (api, is_ready) =
        (verbs.all::<Tenant>(), |tenant: &Tenant| condition(tenant, "Ready").as_deref() == Some("True"));
    stream::iter(&tenants)
        .for_each_concurrent(AT_ONCE, async |name| {
            let tenant =
                serde_json::from_value(json!({"metadata": {"name": name}, "spec": {"plan": "free"}}));
            api.create(&PostParams::default(), &tenant.unwrap()).await.unwrap();
        })
        .await;
    until_all(&verbs, "all tenants to be ready", is_ready).await;
    let created = writes_until_quiet(&audit).await.len();

    // When: each gets another plan.
    let begun = tokio::time::Instant::now();
    let patch = Patch::Merge(json!({"spec": {"plan": "basic"}}));
    stream::iter(&tenants)
        .for_each_concurrent(AT_ONCE, async |name| {
            api.patch(name, &PatchParams::default(), &patch).await.unwrap();
        })
        .await;
    let has_changed = |tenant: &Tenant| {
        let status = tenant.status.as_ref();
        status.is_some_and(|status| Some(status.observed_generation) == tenant.meta().generation)
    };
    until_all(&verbs, "all tenants to have their new plan", has_changed).await;
    let took = begun.elapsed();

    // Then: that was at most three writes for each, and at least the quota and the status.
    let writes = by_tenant(&writes_until_quiet(&audit).await, &tenants);
    let sum: usize = writes.values().map(Vec::len).sum();
    println!("{count} tenants: {created} writes to create, {sum} to change the plan within {took:?}");
    for (tenant, writes) in &writes {
        assert!(writes.len() <= 3, "{tenant}: {writes:?}");
        for needed in ["patch resourcequotas", "patch tenants/status"] {
            assert!(writes.iter().any(|write| write == needed), "{tenant}: {writes:?}");
        }
    }

    // When: one child of one tenant is deleted.
    let policies: Api<NetworkPolicy> = verbs.within(&namespace(&tenants[0]));
    let ours = ListParams::default().labels(&format!("{}={}", names::LABEL_MANAGED_BY, names::MANAGER));
    let policy = policies.list(&ours).await.unwrap().items.remove(0).metadata.name.unwrap();
    policies.delete(&policy, &DeleteParams::default()).await.unwrap();
    wait::until(WAIT_TIMEOUT, "the policy to exist again", || async {
        policies.get_opt(&policy).await.unwrap().ok_or("absent")
    })
    .await
    .unwrap();

    // Then: that one was written, and nothing else.
    let writes = by_tenant(&writes_until_quiet(&audit).await, &tenants);
    let written: Vec<&String> = writes.values().flatten().collect();
    assert_eq!(written, ["patch networkpolicies"]);

    for name in &tenants {
        api.delete(name, &DeleteParams::default()).await.unwrap();
    }
    until_all(&verbs, "all tenants to be deleted", |_| false).await;
    world.kill_operator();
}
