mod any_order;
mod world;

use kube::runtime::{controller::Action, reflector::ObjectRef, watcher::Event};
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};

use self::world::{Fault, Lab, World, label, taint};
use super::{reconcile::ROOM_INTERVAL, *};
use crate::{kube_ext::controller::ReconcileError, names};

fn empty() -> Arc<Mutex<World>> {
    Arc::default()
}

/// The request for the job pods on a node.
fn job_pods_on(node: &str) -> String {
    let selector = "labelSelector=app.kubernetes.io%2Fmanaged-by%3Dcrofter";
    format!("GET /api/v1/pods?&fieldSelector=spec.nodeName%3D{node}&{selector}")
}

#[tokio::test]
async fn a_node_is_admitted_with_one_write_and_an_event() {
    // Given: a labelled node within the quotas.
    let mut lab = Lab::new(&empty());
    lab.tenant("acme", 1, -1);
    lab.world().add_node("n1", 4, Some("acme"), 1);
    lab.sync();
    // When: it is reconciled twice, with a cache that is behind.
    lab.reconcile("n1").await.unwrap();
    lab.reconcile("n1").await.unwrap();

    // Then: one write sets label, taint and annotation, and one Event reports it.
    let world = lab.world();
    let [read, write] = &world.requests[..] else {
        panic!("once, though the cache is behind: {:?}", world.requests);
    };
    assert_eq!(*read, job_pods_on("n1"));
    assert_eq!(write, "PATCH /api/v1/nodes/n1?&fieldManager=crofter");
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
async fn a_refused_node_is_reported_once_for_each_message_and_not_written() {
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
            "WorkersOverQuota: tenant acme on plan basic: maxWorkers is 0, and there are 0 older workers",
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
    assert_eq!(lab.world().patches.len(), 1, "n1 is not displaced");
}

#[tokio::test]
async fn a_node_is_admitted_to_another_group_only_after_a_live_read() {
    // Given: a node that is admitted to one tenant, with a pod, and labelled for another.
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
    assert_eq!(*lab.world().requests.last().unwrap(), job_pods_on("n1"));

    // Its own end is enough; that the pod is still there doesn't count.
    lab.world().pods[0]["status"]["phase"] = json!("Failed");
    lab.reconcile("n1").await.unwrap();
    let passed = lab.world().nodes["n1"].clone();
    assert_eq!(label(&passed, names::NODE_ADMITTED).as_deref(), Some("acme"));
    assert_eq!(taint(&passed).as_deref(), Some("acme"));
    assert_eq!(passed["metadata"]["annotations"][names::NODE_WORKER_SINCE], "2026-02-01T00:00:02Z acme");
}

#[tokio::test]
async fn a_node_that_was_created_again_is_not_admitted_with_pods_of_another_group() {
    // Given: a node of umbra with a pod that the cache lacks, created again under its name for acme.
    let mut lab = Lab::new(&empty());
    lab.tenant("acme", 1, -1);
    lab.tenant("umbra", 1, -1);
    lab.world().add_node("n1", 4, Some("umbra"), 1);
    lab.sync();
    lab.reconcile("n1").await.unwrap();
    lab.world().add_pod("n1", "umbra");
    lab.world().add_node("n1", 4, Some("acme"), 2);
    lab.sync_node("n1");

    lab.reconcile("n1").await.unwrap();
    assert_eq!(label(&lab.world().nodes["n1"], names::NODE_ADMITTED), None);

    lab.world().pods.clear();
    lab.reconcile("n1").await.unwrap();
    assert_eq!(label(&lab.world().nodes["n1"], names::NODE_ADMITTED).as_deref(), Some("acme"));
}

#[tokio::test]
async fn a_forged_pod_keeps_no_node_from_the_next_group() {
    let mut lab = Lab::new(&empty());
    lab.tenant("acme", 1, -1);
    lab.tenant("umbra", 1, -1);
    lab.world().add_node("n1", 4, Some("umbra"), 1);
    lab.sync();
    lab.reconcile("n1").await.unwrap();
    lab.world().add_pod("n1", "umbra");
    // With all the labels, in a namespace that is no tenant's: the API server lists it, and no cache holds it.
    lab.world().pods[0]["metadata"]["namespace"] = json!("default");
    lab.world().label("n1", Some("acme"), 2);
    lab.sync_node("n1");
    lab.reconcile("n1").await.unwrap();
    lab.sync_node("n1");
    lab.reconcile("n1").await.unwrap();
    let passed = lab.world().nodes["n1"].clone();
    assert_eq!(label(&passed, names::NODE_ADMITTED).as_deref(), Some("acme"));
    // The fake API server takes the forged pod for one of umbra's.
    assert_eq!(lab.world().violations.drain(..).count(), 1);
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
    let again = || error_policy(Arc::clone(&node), &error, Arc::clone(&lab.context));
    let first = again();
    for n in 2..=5 {
        again();
        assert_eq!(lab.context.reconciler.failures(&*node), n);
    }
    lab.reconcile("n1").await.unwrap();
    assert_eq!((lab.context.reconciler.failures(&*node), again()), (0, first), "a success ends the row");
}

#[tokio::test]
async fn a_write_without_an_answer_counts_until_it_is_known_or_impossible() {
    for fault in [Fault::Lost, Fault::Unanswered, Fault::Late] {
        // Given: an admission whose answer is lost.
        let mut lab = Lab::new(&empty());
        lab.tenant("acme", 1, -1);
        lab.world().add_node("young", 4, Some("acme"), 5);
        lab.sync();
        lab.world().fault = Some(fault);
        lab.reconcile("young").await.unwrap_err();
        // An older node appears, which is entitled to the only admission.
        lab.world().add_node("old", 4, Some("acme"), 1);
        let old = lab.sync_node("old").unwrap();
        let waiting = reconcile(old, Arc::clone(&lab.context)).await.unwrap();
        assert_eq!(waiting, Action::requeue(ROOM_INTERVAL), "{fault:?}");
        assert_eq!(label(&lab.world().nodes["old"], names::NODE_ADMITTED), None, "{fault:?}");

        // When: it is fenced, and comes after that.
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
        // Then: only the older node is admitted.
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

/// The controller as it runs: events of each kind of object requeue the right nodes.
#[tokio::test(start_paused = true)]
async fn changes_of_nodes_tenants_and_pods_lead_to_the_nodes_concerned() {
    // Given: the running controller, and two nodes for one tenant with room for one.
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
    // Events of nodes: the older node is admitted.
    let works = |world: &World, name: &str| label(&world.nodes[name], names::NODE_ADMITTED).is_some();
    lab.until("n1 admitted and n2 refused", |w| works(w, "n1") && w.events.len() == 2).await;
    nodes.send(lab.sync_node("n1").unwrap()).await.unwrap();
    rest().await;

    // The plan table.
    lab.plans.send_replace(Arc::new(without_plan("basic")));
    lab.until("n2 refused for its tenant's plan", |w| w.events.last().unwrap().0 == "UnknownPlan").await;
    lab.plans.send_replace(Arc::new(Plans::built_in().unwrap()));

    // A tenant whose quota grows.
    tenants.send(lab.tenant("acme", 2, -1)).await.unwrap();
    lab.until("n2 admitted with the larger quota", |w| works(w, "n2")).await;
    nodes.send(lab.sync_node("n2").unwrap()).await.unwrap();
    rest().await;

    // A tenant whose quota shrinks, and the pod that its node waits for.
    let pod: Pod = serde_json::from_value(lab.world().add_pod("n2", "acme")).unwrap();
    lab.sync_pods();
    tenants.send(lab.tenant("acme", 1, -1)).await.unwrap();
    lab.until("n2 released", |w| !works(w, "n2")).await;
    nodes.send(lab.sync_node("n2").unwrap()).await.unwrap();
    rest().await;
    lab.world().pods.clear();
    lab.sync_pods();
    pods.send(Arc::new(pod)).await.unwrap();
    lab.until("n2 free once its pod is deleted", |w| taint(&w.nodes["n2"]).is_none()).await;
    nodes.send(lab.sync_node("n2").unwrap()).await.unwrap();
    rest().await;

    // A node that is deleted.
    let deleted = lab.context.caches.nodes.get(&ObjectRef::new("n1")).unwrap();
    lab.world().nodes.remove("n1");
    lab.sync_node("n1");
    nodes.send(deleted).await.unwrap();
    lab.until("n2 is admitted instead of the deleted n1", |w| works(w, "n2")).await;

    stop.send(()).unwrap();
    tokio::time::timeout(Duration::from_secs(10), running).await.unwrap().unwrap();
}

/// The built-in plans without one of them.
fn without_plan(name: &str) -> Plans {
    let mut table = serde_json::to_value(Plans::built_in().unwrap()).unwrap();
    table["plans"].as_object_mut().unwrap().remove(name);
    serde_json::from_value(table).unwrap()
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

/// Nodes that hold an admission to a tenant, by what the API server has.
fn holders(world: &World, tenant: &str) -> Vec<String> {
    let holds = |node: &Value| label(node, names::NODE_ADMITTED).as_deref() == Some(tenant);
    world.nodes.iter().filter(|(_, node)| holds(node)).map(|(name, _)| name.clone()).collect()
}
