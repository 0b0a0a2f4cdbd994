use proptest::{collection::vec, prelude::*};

use super::*;
use crate::api_types::plan::EffectiveQuotas;

fn node(name: &str, age: i64, cores: u64, gpus: u64) -> NodeFacts {
    NodeFacts {
        name: name.to_owned(),
        since: Timestamp::from_second(age).unwrap(),
        tenant: Some("acme".to_owned()),
        pool: None,
        cpu_milli: Some(cores * 1000),
        gpus,
        admitted: None,
        tainted: None,
        unconfirmed: None,
        deleting: false,
    }
}

fn working(node: NodeFacts, group: &str) -> NodeFacts {
    NodeFacts { admitted: Some(group.to_owned()), tainted: Some(group.to_owned()), ..node }
}

fn draining(node: NodeFacts, group: &str) -> NodeFacts {
    NodeFacts { tainted: Some(group.to_owned()), ..node }
}

fn quotas(workers: i64, cores: i64, gpus: i64) -> WorkerQuotas {
    WorkerQuotas::from(&EffectiveQuotas {
        max_workers: workers,
        max_cpu_cores: cores,
        max_gpus: gpus,
        ..EffectiveQuotas::default()
    })
}

fn fleet(quotas: Option<WorkerQuotas>, nodes: Vec<NodeFacts>) -> Fleet {
    let tenant = TenantFacts { plan: "basic".to_owned(), quotas, terminating: false };
    Fleet { tenants: BTreeMap::from([("acme".to_owned(), tenant)]), nodes }
}

fn pods(group: &str, count: usize) -> LivePods {
    LivePods::from([(group.to_owned(), count)])
}

fn admit(group: &str) -> Step {
    Step::Admit { group: group.to_owned() }
}

fn refused(step: Step) -> (Reason, String) {
    match step {
        Step::Refuse(refusal) => (refusal.reason, refusal.message),
        other => panic!("not refused: {other:?}"),
    }
}

/// The step of each node, with no pods anywhere.
fn steps(fleet: &Fleet) -> Vec<Step> {
    fleet.nodes.iter().map(|node| fleet.step(node, &LivePods::new())).collect()
}

/// The entitled nodes, by name.
fn entitled(fleet: &Fleet) -> Vec<&str> {
    let entitled = |node: &&NodeFacts| matches!(fleet.entitlement(node), Entitlement::Group(_));
    fleet.nodes.iter().filter(entitled).map(|node| node.name.as_str()).collect()
}

#[test]
fn the_oldest_are_admitted_and_the_rest_refused_with_numbers() {
    let fleet =
        fleet(Some(quotas(2, 16, 1)), vec![node("c", 3, 1, 0), node("a", 1, 1, 0), node("b", 1, 1, 0)]);
    let steps = steps(&fleet);
    assert_eq!(steps[1..], [admit("acme"), admit("acme")]);
    let message = "tenant acme on plan basic: maxWorkers is 2, and there are 2 older workers";
    assert_eq!(refused(steps[0].clone()), (Reason::WorkersOverQuota, message.to_owned()));
}

#[test]
fn cores_and_gpus_count_and_a_node_too_large_blocks_no_other() {
    let large = node("large", 2, 32, 0);
    let nodes = vec![node("old", 1, 12, 1), large, node("gpu", 3, 1, 1), node("young", 4, 4, 0)];
    let fleet = fleet(Some(quotas(5, 16, 1)), nodes);
    assert_eq!(entitled(&fleet), ["old", "young"]);
    let steps = steps(&fleet);
    assert_eq!(
        refused(steps[1].clone()).1,
        "tenant acme on plan basic: maxCpuCores is 16: older workers have 12, and this one has 32"
    );
    assert_eq!(
        refused(steps[2].clone()).1,
        "tenant acme on plan basic: maxGpus is 1: older workers have 1, and this one has 1"
    );
    let message = over_quota("acme", "basic", &quotas(1, -1, -1), &fleet.nodes).unwrap();
    assert!(
        message.starts_with("plan basic: 3 of 4 labelled workers are refused: large (maxWorkers is 1, and t")
    );
    assert_eq!(over_quota("acme", "basic", &quotas(-1, -1, -1), &fleet.nodes), None);
}

#[test]
fn what_a_node_would_break_is_asked_before_it_is_labelled() {
    let small =
        |name, tenant: Option<&str>| NodeFacts { tenant: tenant.map(str::to_owned), ..node(name, 1, 4, 1) };
    let own = [small("a", Some("acme")), small("b", Some("umbra"))];
    let asked = |quotas: &WorkerQuotas, node: &NodeFacts| {
        excess("acme", quotas, &own, node).map(|excess| excess.in_short())
    };
    let new = small("new", None);
    assert_eq!(asked(&quotas(1, 4, 1), &new).unwrap(), "max workers limit reached (1/1)");
    assert_eq!(asked(&quotas(2, 4, 1), &new).unwrap(), "max CPU cores limit reached (4+4 > 4)");
    assert_eq!(asked(&quotas(2, 8, 1), &new).unwrap(), "max GPUs limit reached (1/1)");
    assert_eq!(asked(&quotas(2, 8, 2), &new), None);
    assert_eq!(asked(&quotas(1, 4, 1), &own[0]), None, "it is in already");
    let odd = NodeFacts { cpu_milli: Some(1500), ..new.clone() };
    assert_eq!(asked(&quotas(2, 4, 1), &odd).unwrap(), "max CPU cores limit reached (4+1.5 > 4)");
    let unknown = NodeFacts { cpu_milli: None, gpus: 0, ..new };
    assert_eq!(asked(&quotas(2, 4, 1), &unknown), None, "of no size until its kubelet says");
    assert_eq!(asked(&quotas(1, 4, 1), &unknown).unwrap(), "max workers limit reached (1/1)");
}

#[test]
fn a_younger_node_that_filled_a_gap_makes_way() {
    let (large, young) = (node("large", 2, 12, 0), working(node("young", 3, 8, 0), "acme"));
    let fleet = fleet(Some(quotas(5, 16, 0)), vec![large.clone(), young.clone()]);
    assert_eq!(fleet.step(&large, &LivePods::new()), Step::Wait(Waiting::Room), "never both at once");
    let Step::Release { because: Some(because), .. } = fleet.step(&young, &pods("acme", 1)) else {
        panic!("the younger one is not displaced");
    };
    assert_eq!(because.reason, Reason::WorkersOverQuota);
    let released = draining(node("young", 3, 8, 0), "acme");
    let after = Fleet { nodes: vec![large.clone(), released.clone()], ..fleet };
    assert_eq!(after.step(&large, &LivePods::new()), admit("acme"));
    assert_eq!(after.step(&released, &pods("acme", 1)), Step::Wait(Waiting::Pods(1)));
    assert_eq!(after.step(&released, &LivePods::new()), Step::Free { group: "acme".to_owned() });
}

#[test]
fn a_quota_cut_takes_the_newest() {
    let three =
        || ["a", "b", "c"].into_iter().zip(1..).map(|(name, age)| working(node(name, age, 4, 0), "acme"));
    let fleet = fleet(Some(quotas(2, 64, 0)), three().collect());
    assert_eq!(steps(&fleet)[..2], [Step::Keep, Step::Keep]);
    assert!(matches!(&steps(&fleet)[2], Step::Release { group, .. } if group == "acme"));
}

#[test]
fn a_relabelled_node_is_admitted_when_the_pods_of_the_old_group_have_ended() {
    let fleet = fleet(Some(quotas(5, 16, 0)), Vec::new());
    let with = |node: &NodeFacts| Fleet { nodes: vec![node.clone()], ..fleet.clone() };
    let step = |node: &NodeFacts, live: &LivePods| with(node).step(node, live);

    let still_umbra = working(node("n", 1, 4, 0), "umbra");
    let release = Step::Release { group: "umbra".to_owned(), because: None };
    assert_eq!(step(&still_umbra, &pods("umbra", 2)), release);
    let leaving = draining(node("n", 1, 4, 0), "umbra");
    assert_eq!(step(&leaving, &pods("umbra", 2)), Step::Wait(Waiting::Pods(2)));
    let passed = Step::Admit { group: "acme".to_owned() };
    assert_eq!(step(&leaving, &LivePods::new()), passed);
    assert_eq!(step(&leaving, &pods("acme", 1)), passed, "its own pods are no obstacle");

    let bare = node("n", 1, 4, 0);
    assert_eq!(
        step(&bare, &pods("umbra", 1)),
        Step::Wait(Waiting::Pods(1)),
        "even where the taint was taken off"
    );
    let untainted = NodeFacts { tainted: None, ..working(bare.clone(), "acme") };
    assert_eq!(step(&untainted, &pods("umbra", 1)), admit("acme"), "a lost taint is put back at once");
    let other_taint = NodeFacts { tainted: Some("umbra".to_owned()), ..untainted };
    assert_eq!(step(&other_taint, &LivePods::new()), admit("acme"));
    assert_eq!(step(&draining(bare, "acme"), &pods("acme", 3)), admit("acme"), "taken back while it drains");
}

#[test]
fn an_unlabelled_or_deleted_node_is_given_back() {
    let unlabelled = |node: NodeFacts| NodeFacts { tenant: None, ..node };
    let deleting = |node: NodeFacts| NodeFacts { deleting: true, ..node };
    for change in [unlabelled, deleting] {
        let fleet = fleet(Some(quotas(5, 16, 0)), Vec::new());
        let step = |node: NodeFacts, live: &LivePods| fleet.step(&change(node), live);
        let bare = node("n", 1, 4, 0);
        let release = Step::Release { group: "acme".to_owned(), because: None };
        assert_eq!(step(working(bare.clone(), "acme"), &pods("acme", 1)), release);
        assert_eq!(step(draining(bare.clone(), "acme"), &pods("acme", 1)), Step::Wait(Waiting::Pods(1)));
        assert_eq!(
            step(draining(bare.clone(), "acme"), &LivePods::new()),
            Step::Free { group: "acme".to_owned() }
        );
        assert_eq!(step(bare, &LivePods::new()), Step::Leave);
    }
}

#[test]
fn a_shared_pool_takes_all_its_nodes() {
    let pool = |name: &str| NodeFacts { tenant: None, pool: Some(name.to_owned()), ..node("n", 1, 400, 9) };
    let fleet = Fleet::default();
    assert_eq!(fleet.step(&pool("gpu"), &LivePods::new()), admit("pool.gpu"));
    assert_eq!(fleet.step(&working(pool("gpu"), "pool.gpu"), &pods("pool.gpu", 3)), Step::Keep);
    for bad in ["", "A", "a.b", "-a", "a-", &"x".repeat(59)] {
        assert_eq!(refused(fleet.step(&pool(bad), &LivePods::new())).0, Reason::InvalidObject, "{bad}");
    }
}

#[test]
fn labels_that_mean_nothing_are_refused() {
    let fleet = fleet(Some(quotas(5, 16, 0)), Vec::new());
    let step = |node: &NodeFacts| fleet.step(node, &LivePods::new());
    let both = NodeFacts { pool: Some("gpu".to_owned()), ..node("n", 1, 4, 0) };
    let (reason, message) = refused(step(&both));
    assert_eq!(reason, Reason::InvalidObject);
    assert!(message.contains("labelled for 2 groups, tenant acme and pool gpu"), "{message}");
    assert!(matches!(step(&working(both, "acme")), Step::Release { .. }));

    let orphan = NodeFacts { tenant: Some("unknown".to_owned()), ..node("n", 1, 4, 0) };
    let (reason, message) = refused(step(&orphan));
    assert_eq!(reason, Reason::NoSuchTenant);
    assert!(message.ends_with("names `unknown`, which does not exist"), "{message}");
}

#[test]
fn a_tenant_being_deleted_lets_all_go() {
    let mut fleet = fleet(Some(quotas(5, 16, 0)), Vec::new());
    fleet.tenants.get_mut("acme").unwrap().terminating = true;
    let step = |node: &NodeFacts, live: &LivePods| fleet.step(node, live);
    let bare = node("n", 1, 4, 0);
    assert!(matches!(step(&working(bare.clone(), "acme"), &pods("acme", 1)), Step::Release { .. }));
    assert_eq!(step(&draining(bare.clone(), "acme"), &pods("acme", 1)), Step::Wait(Waiting::Pods(1)));
    assert_eq!(refused(step(&bare, &LivePods::new())).0, Reason::Terminating);
}

#[test]
fn an_unknown_plan_keeps_what_is_there_and_admits_nothing() {
    let (kept, new) = (working(node("a", 1, 4, 0), "acme"), node("b", 2, 4, 0));
    let fleet = fleet(None, vec![kept.clone(), new.clone()]);
    assert_eq!(fleet.step(&kept, &LivePods::new()), Step::Keep);
    let (reason, message) = refused(fleet.step(&new, &LivePods::new()));
    assert_eq!(reason, Reason::UnknownPlan);
    assert!(message.contains("plan `basic`, which does not exist"), "{message}");
}

#[test]
fn a_node_is_judged_once_its_capacity_is_known() {
    let unknown = NodeFacts { cpu_milli: None, ..node("n", 1, 0, 0) };
    let fleet = fleet(Some(quotas(1, 16, 0)), vec![unknown.clone(), node("m", 2, 4, 0)]);
    assert_eq!(steps(&fleet), [Step::Wait(Waiting::Capacity), admit("acme")]);
}

#[test]
fn what_may_have_been_admitted_counts() {
    let maybe = NodeFacts { unconfirmed: Some("acme".to_owned()), tenant: None, ..node("m", 1, 4, 0) };
    let new = node("n", 2, 4, 0);
    let fleet = fleet(Some(quotas(1, 16, 0)), vec![maybe, new.clone()]);
    assert_eq!(fleet.step(&new, &LivePods::new()), Step::Wait(Waiting::Room));
}

fn any_node() -> impl Strategy<Value = NodeFacts> {
    let group =
        || prop::option::weighted(0.3, prop::sample::select(vec!["acme".to_owned(), "umbra".to_owned()]));
    (0_i64..6, 0_u64..20, 0_u64..3, group(), group(), prop::bool::weighted(0.8)).prop_map(
        |(age, cores, gpus, admitted, tainted, ours)| NodeFacts {
            tenant: Some(if ours { "acme" } else { "umbra" }.to_owned()),
            admitted,
            tainted,
            ..node("", age, cores, gpus)
        },
    )
}

fn any_fleet() -> impl Strategy<Value = Fleet> {
    (vec(any_node(), 0..12), -1_i64..8, -1_i64..40, -1_i64..4).prop_map(
        |(mut nodes, workers, cores, gpus)| {
            for (number, node) in nodes.iter_mut().enumerate() {
                node.name = format!("n{number:02}");
            }
            let mut fleet = fleet(Some(quotas(workers, cores, gpus)), nodes);
            let umbra = fleet.tenants["acme"].clone();
            fleet.tenants.insert("umbra".to_owned(), umbra);
            fleet
        },
    )
}

/// Whether what `tenant` holds is within its quotas.
fn within(fleet: &Fleet, tenant: &str) -> bool {
    let held =
        fleet.nodes.iter().filter(|node| node.holds(tenant)).map(Size::of).fold(Size::default(), Size::plus);
    fleet.tenants[tenant].quotas.unwrap().excess(Size::default(), held).is_none()
}

proptest! {
    #[test]
    fn entitlement_depends_on_neither_order_nor_who_is_admitted(fleet in any_fleet()) {
        let mut other = fleet.clone();
        other.nodes.reverse();
        for node in &mut other.nodes {
            node.admitted = None;
        }
        let mut names = entitled(&other);
        names.reverse();
        prop_assert_eq!(entitled(&fleet), names);
    }

    #[test]
    fn a_younger_node_never_displaces_an_older_one(fleet in any_fleet()) {
        for young in &fleet.nodes {
            let mut without = fleet.clone();
            without.nodes.retain(|node| node.name != young.name);
            let older = |name: &&str| {
                let node = fleet.nodes.iter().find(|node| node.name == *name).unwrap();
                (node.since, &node.name) < (young.since, &young.name)
            };
            let with: Vec<_> = entitled(&fleet).into_iter().filter(older).collect();
            let without: Vec<_> = entitled(&without).into_iter().filter(older).collect();
            prop_assert_eq!(with, without);
        }
    }

    /// Steps taken in any order, pods leaving at any time: never more than the quotas beyond what was there at the
    /// start, never two groups on one node, and in the end exactly the entitled nodes work.
    #[test]
    fn any_order_of_steps_is_safe_and_ends_well(mut fleet in any_fleet(), order in vec(any::<prop::sample::Index>(), 150)) {
        // Given: any fleet, with pods of the groups that its nodes are admitted to.
        let mut live: Vec<LivePods> = fleet.nodes.iter().map(|node| {
            node.admitted.iter().map(|group| (group.clone(), 1)).collect()
        }).collect();
        prop_assume!(!fleet.nodes.is_empty());
        let rounds = (0..20).flat_map(|_| 0..fleet.nodes.len()).collect::<Vec<_>>();
        let all: Vec<usize> = order.iter().map(|index| index.index(fleet.nodes.len())).chain(rounds).collect();
        // When: steps are taken in any order. Then: each keeps quotas and groups.
        for index in all {
            let before = ["acme", "umbra"].map(|tenant| within(&fleet, tenant));
            let step = fleet.step(&fleet.nodes[index], &live[index]);
            let node = &mut fleet.nodes[index];
            match step {
                Step::Admit { group, .. } => {
                    let was = node.admitted.clone();
                    prop_assert!(was == Some(group.clone()) || live[index].keys().all(|owner| *owner == group));
                    (node.admitted, node.tainted) = (Some(group.clone()), Some(group.clone()));
                    let now = within(&fleet, &group);
                    prop_assert!(now || was == Some(group), "over quota");
                }
                Step::Release { group, .. } => (node.admitted, node.tainted) = (None, Some(group)),
                Step::Free { .. } => {
                    prop_assert!(live[index].is_empty());
                    node.tainted = None;
                }
                Step::Wait(Waiting::Pods(_)) => live[index].clear(),
                Step::Wait(_) | Step::Keep | Step::Leave | Step::Refuse(_) => {}
            }
            for (tenant, was) in ["acme", "umbra"].into_iter().zip(before) {
                prop_assert!(!was || within(&fleet, tenant));
            }
        }
        // In the end just the entitled nodes are admitted.
        let working: Vec<_> = fleet.nodes.iter().filter(|node| node.admitted.is_some()).collect();
        prop_assert!(working.iter().all(|node| node.admitted == node.tainted && node.admitted == node.tenant));
        prop_assert_eq!(working.iter().map(|node| node.name.as_str()).collect::<Vec<_>>(), entitled(&fleet));
    }
}
