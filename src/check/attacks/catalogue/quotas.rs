//! The ResourceQuota of a tenant, which bounds what the operator's own account could make there too.

use serde_json::json;

use super::{
    Attack, By, Site, Wall, Who,
    call::{self, CLAIMS, PODS},
    claim, container,
    pods::job_pod,
};

pub(super) fn all(site: &Site) -> Vec<Attack> {
    let at = site.namespace();
    let at = at.as_str();
    let by = |who| By { who, wall: Wall::Quota, code: 403 };
    let claim = |size: &str| {
        let storage = json!({"resources": {"requests": {"storage": size}}});
        call::create(CLAIMS, at, "new", claim(storage))
    };
    let pod = |resource: &str, amount: &str| {
        let mut amounts = json!({"cpu": "100m", "memory": "64Mi"});
        super::merge(&mut amounts, json!({resource: amount}));
        let container = container(json!({"resources": {"requests": amounts.clone(), "limits": amounts}}));
        call::create(PODS, at, "new", job_pod(json!({"containers": [container]})))
    };
    let operator = by(Who::Operator);
    let over = |resource: &str, amount: &str| -> Attack {
        let twin = (Who::Operator, pod("cpu", "100m"));
        let what = format!("create a pod with {resource} of {amount}");
        operator.attack(what, pod(resource, amount), "exceeded quota: crofter", twin)
    };
    let member = by(Who::TenantOperator);
    let small: (Who, _) = (Who::TenantOperator, claim("1Mi"));
    vec![
        member.attack("claim 1 PiB of storage", claim("1Pi"), "exceeded quota: crofter", small),
        over("cpu", "10k"),
        over("memory", "1Pi"),
        over("nvidia.com/gpu", "1k"),
    ]
}
