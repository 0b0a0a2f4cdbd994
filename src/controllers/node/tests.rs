mod world;

use std::collections::BTreeMap;

use kube::runtime::watcher::Event;
use proptest::{collection::vec, prelude::*};
use serde_json::json;
use tokio::sync::{mpsc, oneshot};

use self::world::{Fault, Lab, World, label, taint};
use super::*;

fn empty() -> Arc<Mutex<World>> {
    Arc::default()
}

#[tokio::test]
async fn a_node_is_admitted_with_one_write_and_an_event() {
    let mut lab = Lab::new(&empty());
    lab.tenant("acme", 1, -1);
    lab.world().add_node("n1", 4, Some("acme"), 1);
    lab.sync();
    lab.reconcile("n1").await.unwrap();
    lab.reconcile("n1").await.unwrap();

    let world = lab.world();
    assert_eq!(
        world.requests,
        ["PATCH /api/v1/nodes/n1?&fieldManager=crofter"],
        "once, though the cache is behind"
    );
    let uid = world.nodes["n1"]["metadata"]["uid"].clone();
    let expected = json!({
        "metadata": {
            "uid": uid, "resourceVersion": "2",
            "labels": {(names::NODE_ADMITTED): "acme"},
            "annotations": {
                (names::NODE_WORKER_SINCE): "2026-02-01T00:00:01Z acme", (names::NODE_FENCE): null,
            },
        },
        "spec": {"taints": [
            {"key": "foreign", "effect": "NoSchedule"},
            {"key": names::NODE_ADMITTED, "value": "acme", "effect": "NoSchedule"},
        ]},
    });
    assert_eq!(world.patches, [expected]);
    assert_eq!(world.events, [("WorkerAdmitted".to_owned(), "admitted to tenant acme".to_owned())]);
}

#[tokio::test]
async fn a_refused_node_is_told_of_once_for_each_sentence_and_not_touched() {
    let mut lab = Lab::new(&empty());
    lab.tenant("acme", 0, -1);
    lab.world().add_node("n1", 4, Some("acme"), 1);
    lab.sync();
    lab.reconcile("n1").await.unwrap();
    lab.reconcile("n1").await.unwrap();
    lab.tenant("acme", 1, 2);
    lab.reconcile("n1").await.unwrap();

    let world = lab.world();
    assert!(world.requests.is_empty(), "{:?}", world.requests);
    let notes: Vec<_> = world.events.iter().map(|(reason, note)| format!("{reason}: {note}")).collect();
    assert_eq!(
        notes,
        [
            "WorkersOverQuota: tenant acme on plan basic: maxWorkers is 0 and 0 older workers use it up",
            "WorkersOverQuota: tenant acme on plan basic: maxCpuCores is 2: older workers have 0, and this one has 4",
        ]
    );
}

#[tokio::test]
async fn the_age_is_written_down_so_that_the_order_stays() {
    let mut lab = Lab::new(&empty());
    lab.tenant("acme", 1, -1);
    lab.world().add_node("n1", 4, Some("acme"), 1);
    lab.world().add_node("n2", 4, Some("acme"), 2);
    lab.sync();
    lab.reconcile("n1").await.unwrap();
    // The same manager changes something else, and with it the time of its entry.
    lab.world().label("n1", Some("acme"), 50);
    lab.sync();
    lab.reconcile("n1").await.unwrap();
    lab.reconcile("n2").await.unwrap();
    assert_eq!(lab.world().requests.len(), 1, "n1 keeps its place");
}

#[tokio::test]
async fn the_cache_is_not_trusted_with_handing_a_node_over() {
    let mut lab = Lab::new(&empty());
    lab.tenant("acme", 1, -1);
    lab.tenant("umbra", 1, -1);
    lab.world().add_node("n1", 4, Some("umbra"), 1);
    lab.sync();
    lab.reconcile("n1").await.unwrap();
    lab.world().add_pod("n1", "umbra");
    lab.world().label("n1", Some("acme"), 2);
    lab.sync_node("n1");
    lab.reconcile("n1").await.unwrap();
    let released = lab.world().nodes["n1"].clone();
    assert_eq!((label(&released, names::NODE_ADMITTED), taint(&released).as_deref()), (None, Some("umbra")));

    // The cache shows no pod, the API server does.
    lab.sync_node("n1");
    lab.reconcile("n1").await.unwrap();
    assert_eq!(lab.world().nodes["n1"], released);
    let list = "GET /api/v1/pods?&fieldSelector=spec.nodeName%3Dn1&labelSelector=app.kubernetes.io%2Fmanaged-by%3Dcrofter";
    assert_eq!(lab.world().requests.last().unwrap(), list);

    // Its own end is enough; that the pod is still there doesn't count.
    lab.world().pods[0]["status"]["phase"] = json!("Failed");
    lab.reconcile("n1").await.unwrap();
    let passed = lab.world().nodes["n1"].clone();
    assert_eq!(label(&passed, names::NODE_ADMITTED).as_deref(), Some("acme"));
    assert_eq!(taint(&passed).as_deref(), Some("acme"));
    assert_eq!(passed["metadata"]["annotations"][names::NODE_WORKER_SINCE], "2026-02-01T00:00:02Z acme");
}

#[tokio::test]
async fn a_tenant_that_cannot_be_read_keeps_its_workers() {
    let mut lab = Lab::new(&empty());
    let tenant = lab.tenant("acme", 1, -1);
    lab.world().add_node("n1", 4, Some("acme"), 1);
    lab.world().add_node("n2", 4, Some("acme"), 2);
    lab.sync();
    lab.reconcile("n1").await.unwrap();
    lab.sync();
    lab.tenants.apply_watcher_event(&Event::Delete(Tenant::clone(&tenant)));
    lab.reconcile("n1").await.unwrap();
    lab.reconcile("n2").await.unwrap();
    assert_eq!(label(&lab.world().nodes["n1"], names::NODE_ADMITTED).as_deref(), Some("acme"));
    assert_eq!(lab.world().events.len(), 1, "only the admission: {:?}", lab.world().events);

    lab.world().tenants.clear();
    lab.reconcile("n1").await.unwrap();
    lab.reconcile("n2").await.unwrap();
    assert_eq!(label(&lab.world().nodes["n1"], names::NODE_ADMITTED), None);
    assert_eq!(lab.world().events.last().unwrap().0, "NoSuchTenant");
}

#[tokio::test]
async fn what_changed_meanwhile_is_left_to_the_watch_and_the_rest_is_tried_again() {
    let mut lab = Lab::new(&empty());
    lab.tenant("acme", 1, -1);
    lab.world().add_node("n1", 4, Some("acme"), 1);
    lab.sync();
    lab.world().label("n1", None, 0);
    lab.reconcile("n1").await.unwrap();
    assert!(lab.world().events.is_empty(), "nothing was done");

    lab.world().label("n1", Some("acme"), 2);
    let node = lab.sync_node("n1").unwrap();
    lab.world().fault = Some(Fault::Lost);
    let error = lab.reconcile("n1").await.unwrap_err();
    assert_eq!(error.category(), "server_error");
    let after = |seconds| Action::requeue(Duration::from_secs(seconds));
    let again = || error_policy(Arc::clone(&node), &error, Arc::clone(&lab.context));
    assert_eq!([again(), again(), again()], [after(1), after(2), after(4)]);
    for _ in 0..100 {
        again();
    }
    assert_eq!(again(), after(60));
    lab.reconcile("n1").await.unwrap();
    assert_eq!(again(), after(1), "success begins anew");
}

#[tokio::test]
async fn a_write_without_an_answer_counts_until_it_is_known_or_impossible() {
    for fault in [Fault::Lost, Fault::Unanswered, Fault::Late] {
        let mut lab = Lab::new(&empty());
        lab.tenant("acme", 1, -1);
        lab.world().add_node("young", 4, Some("acme"), 5);
        lab.sync();
        lab.world().fault = Some(fault);
        lab.reconcile("young").await.unwrap_err();
        // An older one appears, which is entitled to the only place.
        lab.world().add_node("old", 4, Some("acme"), 1);
        let old = lab.sync_node("old").unwrap();
        let waiting = reconcile(old, Arc::clone(&lab.context)).await.unwrap();
        assert_eq!(waiting, Action::requeue(LOOK_FOR_ROOM), "{fault:?}");
        assert_eq!(label(&lab.world().nodes["old"], names::NODE_ADMITTED), None, "{fault:?}");

        lab.reconcile("young").await.unwrap();
        let late = lab.world().late.take();
        if let Some((name, patch)) = late {
            assert!(lab.world().write(&name, &patch).is_err(), "it came too late");
        }
        for _ in 0..3 {
            lab.sync();
            lab.reconcile("young").await.unwrap();
            lab.reconcile("old").await.unwrap();
        }
        let holders = holders(&lab.world(), "acme");
        assert_eq!(holders, ["old"], "{fault:?}");
        let fence = lab.world().nodes["old"]["metadata"]["annotations"][names::NODE_FENCE].clone();
        assert_eq!(fence, Value::Null);
    }
}

#[tokio::test]
async fn a_paused_node_is_left_alone() {
    let mut lab = Lab::new(&empty());
    lab.tenant("acme", 1, -1);
    lab.world().add_node("n1", 4, Some("acme"), 1);
    lab.world().nodes.get_mut("n1").unwrap()["metadata"]["annotations"][names::ANNOTATION_PAUSED] =
        json!("true");
    lab.sync();
    lab.reconcile("n1").await.unwrap();
    assert!(lab.world().requests.is_empty());
}

/// The controller as it runs: what it is told by one kind of object leads it to the right nodes.
#[tokio::test(start_paused = true)]
async fn changes_of_nodes_tenants_and_pods_lead_to_the_nodes_concerned() {
    let mut lab = Lab::new(&empty());
    let tenant = lab.tenant("acme", 1, -1);
    lab.world().add_node("n1", 4, Some("acme"), 1);
    lab.world().add_node("n2", 4, Some("acme"), 2);
    let (nodes, node_stream) = stream_of::<Node>();
    let (tenants, tenant_stream) = stream_of::<Tenant>();
    let (pods, pod_stream) = stream_of::<Pod>();
    let (stop, stopped) = oneshot::channel::<()>();
    let shutdown = async move { drop(stopped.await) };
    let context = Arc::clone(&lab.context);
    let running = tokio::spawn(run(context, node_stream, tenant_stream, pod_stream, shutdown));
    tenants.send(tenant).await.unwrap();
    for name in ["n1", "n2"] {
        nodes.send(lab.sync_node(name).unwrap()).await.unwrap();
    }
    let works = |world: &World, name: &str| label(&world.nodes[name], names::NODE_ADMITTED).is_some();
    lab.until("n1 admitted and n2 refused", |w| works(w, "n1") && w.events.len() == 2).await;
    nodes.send(lab.sync_node("n1").unwrap()).await.unwrap();
    rest().await;

    tenants.send(lab.tenant("acme", 2, -1)).await.unwrap();
    lab.until("n2 admitted with the larger quota", |w| works(w, "n2")).await;
    nodes.send(lab.sync_node("n2").unwrap()).await.unwrap();
    rest().await;

    let pod: Pod = serde_json::from_value(lab.world().add_pod("n2", "acme")).unwrap();
    lab.sync_pods();
    tenants.send(lab.tenant("acme", 1, -1)).await.unwrap();
    lab.until("n2 released", |w| !works(w, "n2")).await;
    nodes.send(lab.sync_node("n2").unwrap()).await.unwrap();
    rest().await;
    lab.world().pods.clear();
    lab.sync_pods();
    pods.send(Arc::new(pod)).await.unwrap();
    lab.until("n2 free once its pod is gone", |w| taint(&w.nodes["n2"]).is_none()).await;
    nodes.send(lab.sync_node("n2").unwrap()).await.unwrap();
    rest().await;

    let gone = lab.context.caches.nodes.get(&ObjectRef::new("n1")).unwrap();
    lab.world().nodes.remove("n1");
    lab.sync_node("n1");
    nodes.send(gone).await.unwrap();
    lab.until("n2 takes the place of the deleted n1", |w| works(w, "n2")).await;

    stop.send(()).unwrap();
    tokio::time::timeout(Duration::from_secs(10), running).await.unwrap().unwrap();
}

/// Lets everything that is under way finish: paused time moves only when nothing else can.
async fn rest() {
    tokio::time::sleep(Duration::from_millis(10)).await;
}

fn stream_of<K: Send + Sync + 'static>() -> (mpsc::Sender<Arc<K>>, impl Stream<Item = Arc<K>> + Send + 'static)
{
    let (sender, receiver) = mpsc::channel(16);
    let next = |mut receiver: mpsc::Receiver<Arc<K>>| async move {
        receiver.recv().await.map(|object| (object, receiver))
    };
    (sender, stream::unfold(receiver, next))
}

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
    // The list at the start is a quorum read, and a dead process sends nothing more.
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

/// Nodes that hold an admission to a tenant, by what the API server has.
fn holders(world: &World, tenant: &str) -> Vec<String> {
    let holds = |node: &Value| label(node, names::NODE_ADMITTED).as_deref() == Some(tenant);
    world.nodes.iter().filter(|(_, node)| holds(node)).map(|(name, _)| name.clone()).collect()
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
async fn settle(lab: &mut Lab) -> bool {
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
        let told = format!("{what:?}");
        happen(&mut lab, &world, what).await;
        let wrong = wrong(&world.lock().unwrap());
        prop_assert!(wrong.is_none(), "after {told}: {wrong:?}");
    }
    lab.world().late = None;
    prop_assert!(settle(&mut lab).await, "it never comes to rest");
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
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// However late the caches are, whichever writes get lost, unanswered or late, and whatever happens to the nodes:
    /// no tenant ever has more than its quotas, no node two groups, and in the end the right nodes work.
    #[test]
    fn no_order_of_events_admits_too_much(happenings in vec(happening(), 1..80)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(live_through(happenings))?;
    }
}
