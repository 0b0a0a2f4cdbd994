//! What a tenant is shown of its shares.

use super::*;

/// Two tenants that share a pool of ten cores with each other, the second with three times the weight.
fn sharing() -> Dispatcher {
    let mut tenants = [tenant("acme", "pro"), tenant("umbra", "pro")];
    tenants.iter_mut().for_each(|tenant| tenant.groups.push("gpu".to_owned()));
    tenants[1].weight = 3;
    decide(&tenants, vec![("n1", worker("gpu", 10))], vec![])
}

#[test]
fn a_job_has_the_shares_of_its_own_tenant_in_shared_pools() {
    let mut dispatcher = sharing();
    running(&mut dispatcher, "n1", job("a", "acme", cpu(2)));
    dispatcher.set_job(job("wide", "acme", cpu(9)));
    dispatcher.decide();
    let shares = dispatcher.pool_shares("wide");
    assert_eq!(shares.iter().map(|share| &*share.pool).collect::<Vec<_>>(), ["gpu"], "not its own group");
    let MemberShare { share, guarantee, weight } = shares[0].share;
    assert_eq!(
        (share.held, share.with_job, guarantee, weight),
        (0.2, 1.1, 1.0, 1),
        "no other tenant has demand"
    );
    assert!(!shares[0].share.is_guaranteed());
    // As soon as another tenant has demand, only a part by weight is guaranteed.
    dispatcher.set_job(job("other", "umbra", cpu(9)));
    dispatcher.set_job(job("small", "acme", cpu(1)));
    dispatcher.decide();
    let shown = dispatcher.pool_shares("other")[0].share;
    assert_eq!((shown.share.held, shown.guarantee, shown.weight), (0.0, 0.75, 3));
    assert!((dispatcher.pool_shares("small")[0].share.guarantee - 0.25).abs() < 1e-9);
    // Of no nodes there is no share.
    dispatcher.set_worker("n1", None);
    dispatcher.decide();
    assert!(dispatcher.pool_shares("small").is_empty());
    // One that names its own group contends for nothing.
    dispatcher.set_worker("n1", Some(worker("gpu", 10)));
    dispatcher.set_job(JobInput { group: Some("acme".into()), ..job("own", "acme", cpu(1)) });
    dispatcher.set_job(JobInput { group: Some("others".into()), ..job("lost", "acme", cpu(1)) });
    dispatcher.decide();
    for uid in ["own", "lost", "unknown"] {
        assert!(dispatcher.pool_shares(uid).is_empty(), "{uid}");
    }
}
