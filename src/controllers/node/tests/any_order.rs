//! Random histories of a cluster, its caches and its controller.

use std::collections::BTreeMap;

use proptest::{collection::vec, prelude::*};

use super::{
    world::{Fault, Lab, World, label, taint},
    *,
};

/// Something that happens in a world of five nodes.
#[derive(Clone, Debug)]
enum Happening {
    Label(usize, Option<&'static str>, u64),
    Replace(usize, u64),
    Delete(usize),
    Pod(usize),
    PodsEnd(usize),
    SyncNode(usize),
    SyncPods,
    Reconcile(usize, Option<Fault>),
    LateWrite,
    Restart,
}

fn happening() -> impl Strategy<Value = Happening> {
    let node = 0_usize..5;
    let tenant = prop::sample::select(vec![Some("acme"), Some("acme"), Some("umbra"), None]);
    let fault = prop::sample::select(vec![
        None,
        None,
        None,
        Some(Fault::Lost),
        Some(Fault::Unanswered),
        Some(Fault::Late),
    ]);
    prop_oneof![
        3 => (node.clone(), tenant, 0_u64..9).prop_map(|(node, tenant, age)| Happening::Label(node, tenant, age)),
        1 => (node.clone(), 0_u64..9).prop_map(|(node, age)| Happening::Replace(node, age)),
        1 => node.clone().prop_map(Happening::Delete),
        3 => node.clone().prop_map(Happening::Pod),
        2 => node.clone().prop_map(Happening::PodsEnd),
        6 => node.clone().prop_map(Happening::SyncNode),
        2 => Just(Happening::SyncPods),
        14 => (node, fault).prop_map(|(node, fault)| Happening::Reconcile(node, fault)),
        2 => Just(Happening::LateWrite),
        1 => Just(Happening::Restart),
    ]
}

const CORES: [u64; 5] = [1, 2, 4, 6, 9];
/// Quotas by tenant: maxWorkers and maxCpuCores.
const QUOTAS: [(&str, i64, i64); 2] = [("acme", 2, 10), ("umbra", 1, 6)];

fn name(node: usize) -> String {
    format!("n{node}")
}

fn restarted(world: &Arc<Mutex<World>>) -> Lab {
    let mut lab = Lab::new(world);
    for (tenant, workers, cores) in QUOTAS {
        lab.tenant(tenant, workers, cores);
    }
    // The list at the start is a consistent read, and a dead process sends nothing more.
    lab.world().late = None;
    lab.sync();
    lab
}

async fn happen(lab: &mut Lab, world: &Arc<Mutex<World>>, what: Happening) {
    let exists = |node: usize| world.lock().unwrap().nodes.contains_key(&name(node));
    match what {
        Happening::Label(node, tenant, age) if exists(node) => lab.world().label(&name(node), tenant, age),
        Happening::Replace(node, age) => lab.world().add_node(&name(node), CORES[node], Some("acme"), age),
        Happening::Delete(node) => {
            let mut world = lab.world();
            world.nodes.remove(&name(node));
            world.pods.retain(|pod| pod["spec"]["nodeName"] != name(node));
        }
        Happening::Pod(node) => {
            let mut world = lab.world();
            let group = world.nodes.get(&name(node)).and_then(|node| label(node, names::NODE_ADMITTED));
            if let Some(group) = group {
                world.add_pod(&name(node), &group);
            }
        }
        Happening::PodsEnd(node) => lab.world().pods.retain(|pod| pod["spec"]["nodeName"] != name(node)),
        Happening::SyncNode(node) => drop(lab.sync_node(&name(node))),
        Happening::SyncPods => lab.sync_pods(),
        Happening::Reconcile(node, fault) => {
            lab.world().fault = fault;
            // A failure is what is being tried here.
            let _ = lab.reconcile(&name(node)).await;
            lab.world().fault = None;
        }
        Happening::LateWrite => {
            let late = lab.world().late.take();
            if let Some((name, patch)) = late {
                let _ = lab.world().write(&name, &patch);
            }
        }
        Happening::Restart => *lab = restarted(world),
        Happening::Label(..) => {}
    }
}

/// What is wrong with the world, if anything.
fn wrong(world: &World) -> Option<String> {
    for (tenant, workers, cores) in QUOTAS {
        let holders = holders(world, tenant);
        let cpu = |name: &String| {
            world.nodes[name]["status"]["capacity"]["cpu"].as_str().unwrap().parse::<i64>().unwrap()
        };
        let total: i64 = holders.iter().map(cpu).sum();
        if i64::try_from(holders.len()).unwrap() > workers || total > cores {
            return Some(format!("{tenant} has {holders:?} with {total} cores"));
        }
    }
    world.violations.first().cloned()
}

/// Lets everything come to rest; whether it did.
async fn converge(lab: &mut Lab) -> bool {
    for _ in 0..20 {
        lab.world().pods.clear();
        lab.sync();
        let before = lab.world().nodes.clone();
        for node in 0..5 {
            lab.reconcile(&name(node)).await.unwrap();
        }
        if lab.world().nodes == before {
            return true;
        }
    }
    false
}

/// The nodes that each tenant should have: an account of the rule that owes nothing to the code under test.
fn should_have(lab: &Lab) -> BTreeMap<String, Vec<String>> {
    let nodes = lab.context.caches.nodes.state();
    let mut result = BTreeMap::new();
    for (tenant, workers, cores) in QUOTAS {
        let mut labelled: Vec<_> = nodes
            .iter()
            .filter(|n| n.labels().get(names::NODE_TENANT).is_some_and(|t| t == tenant))
            .collect();
        labelled.sort_by_key(|node| (node.annotations()[names::NODE_WORKER_SINCE].clone(), node.name_any()));
        let (mut left, mut cores, mut names) = (workers, cores, Vec::new());
        for node in labelled {
            let cpu = i64::try_from(CORES[node.name_any()[1..].parse::<usize>().unwrap()]).unwrap();
            if left > 0 && cpu <= cores {
                (left, cores) = (left - 1, cores - cpu);
                names.push(node.name_any());
            }
        }
        names.sort();
        result.insert(tenant.to_owned(), names);
    }
    result
}

async fn live_through(happenings: Vec<Happening>) -> Result<(), TestCaseError> {
    let world = empty();
    for (node, cores) in CORES.into_iter().enumerate() {
        world.lock().unwrap().add_node(&name(node), cores, (node % 2 == 0).then_some("acme"), 0);
    }
    let mut lab = restarted(&world);
    for what in happenings {
        let event = format!("{what:?}");
        happen(&mut lab, &world, what).await;
        let wrong = wrong(&world.lock().unwrap());
        prop_assert!(wrong.is_none(), "after {event}: {wrong:?}");
    }
    lab.world().late = None;
    prop_assert!(converge(&mut lab).await, "it does not converge");
    let should = should_have(&lab);
    for (tenant, names) in should {
        prop_assert_eq!(holders(&world.lock().unwrap(), &tenant), names, "{}", tenant);
    }
    let world = world.lock().unwrap();
    prop_assert!(wrong(&world).is_none());
    prop_assert!(world.nodes.values().all(|node| label(node, names::NODE_ADMITTED) == taint(node)));
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// However late the caches are, whichever writes get lost, unanswered or late, and whatever happens to the nodes:
    /// no tenant ever has more than its quotas, no node two groups, and in the end the right nodes work.
    #[test]
    fn no_order_of_events_admits_too_much(happenings in vec(happening(), 1..80)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(live_through(happenings))?;
    }
}
