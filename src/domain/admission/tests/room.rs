//! What room is counted, and that a long queue costs a decision little.

use super::*;

fn pods(count: u64) -> Resources {
    Resources { pods: count, ..Resources::default() }
}

#[test]
fn a_node_takes_no_more_pods_than_its_kubelet() {
    let two = WorkerInput { capacity: worker("acme", 8).capacity + pods(2), ..worker("acme", 8) };
    let one = cpu(1) + pods(1);
    let mut dispatcher = decide(&[tenant("acme", "pro")], vec![("n1", two)], vec![]);
    for uid in ["a", "b", "c"] {
        dispatcher.set_job(job(uid, "acme", one));
        dispatcher.decide();
    }
    assert!(is_admitted(&dispatcher, "a") && is_admitted(&dispatcher, "b"));
    let message =
        "no worker has 1 CPU, 0.001 GB free: 1 of 1 are open, and 1 with room run as many pods as they take";
    assert_eq!(waits(&dispatcher, "c"), (Reason::WaitingForCapacity, message.to_owned()));
    // A foreign pod that asks for nothing is a pod, too.
    dispatcher.set_pod(&"daemon".into(), Some(("n1", pods(1))));
    dispatcher.remove_job("a");
    assert_eq!(dispatcher.decide().decided.len(), 0);
    dispatcher.set_pod(&"daemon".into(), None);
    assert_eq!(dispatcher.decide().decided, ["c".into()]);
}

#[test]
fn a_node_that_takes_no_pods_says_so() {
    let one = cpu(1) + pods(1);
    let mut dispatcher =
        decide(&[tenant("acme", "pro")], vec![("n1", worker("acme", 8))], vec![job("a", "acme", one)]);
    let message = "asks for 1 CPU, 0.001 GB: none of the 1 workers could hold it, were it empty; the largest, n1, has 8 \
                    CPU, 68.719 GB and takes no pods";
    assert_eq!(waits(&dispatcher, "a"), (Reason::DoesNotFit, message.to_owned()));
    settled(&mut dispatcher);
    assert!(matches!(verdict(&dispatcher, "a"), Verdict::Reject(Reason::DoesNotFit, _)));
}

#[test]
fn what_was_added_to_a_pod_counts_as_soon_as_it_is_seen() {
    let mut dispatcher = decide(&[tenant("acme", "pro")], vec![("n1", worker("acme", 4))], vec![]);
    let first = one_admitted(&mut dispatcher, "a");
    dispatcher.claim("a", 1).unwrap();
    let state = JobState::Active { group: Some("acme".into()), bound: false };
    let injected = JobInput { state, asked: Ok(cpu(3)), ..first };
    dispatcher.set_job(injected.clone());
    dispatcher.set_job(job("b", "acme", cpu(2)));
    assert_eq!(dispatcher.decide().decided.len(), 0, "three of four are reserved");
    assert_eq!(dispatcher.usage_snapshot("acme").unwrap().usage.held, cpu(3));
    dispatcher.set_job(job("c", "acme", cpu(1)));
    assert_eq!(dispatcher.decide().decided, ["c".into()]);
    dispatcher.remove_job("c");
    // The pod has its node, and is made smaller there.
    dispatcher.set_pod(&injected.uid, Some(("n1", cpu(2))));
    let state = JobState::Active { group: Some("acme".into()), bound: true };
    dispatcher.set_job(JobInput { state, asked: Ok(cpu(2)), ..injected });
    assert_eq!(dispatcher.decide().decided, ["b".into()]);
    assert_eq!(dispatcher.usage_snapshot("acme").unwrap().usage.held, cpu(2) + cpu(2));
}

/// Thousands of classes wait for a quota. A change of their tenant compares numbers, and assesses those few for which it may
/// matter.
#[test]
fn a_change_assesses_few_of_many_classes() {
    let mut acme = tenant("acme", "pro");
    acme.quotas = crate::api_types::plan::EffectiveQuotas { max_cpu_cores: 4, ..unlimited() };
    let mut dispatcher = decide(&[acme], vec![("n1", worker("acme", 64))], vec![]);
    running(&mut dispatcher, "n1", job("first", "acme", cpu(3)));
    running(&mut dispatcher, "n1", job("second", "acme", Resources { cpu_milli: 600, ..cpu(0) }));
    for n in 0..2000 {
        let asked = Resources { cpu_milli: 1001 + n, ..cpu(0) };
        dispatcher.set_job(at(1, job(&format!("j{n:04}"), "acme", asked)));
    }
    dispatcher.decide();
    assert_eq!(waits(&dispatcher, "j0000").1, "pro allows 4 CPU cores: 3.6 in use, this job asks for 1.001");
    let before = dispatcher.shared.assessed;
    ended(&mut dispatcher, job("second", "acme", Resources { cpu_milli: 600, ..cpu(0) }));
    dispatcher.decide();
    assert_eq!(dispatcher.shared.assessed - before, 0, "none asks for so little");
    assert_eq!(waits(&dispatcher, "j0000").1, "pro allows 4 CPU cores: 3 in use, this job asks for 1.001");
    let before = dispatcher.shared.assessed;
    ended(&mut dispatcher, job("first", "acme", cpu(3)));
    let decided = dispatcher.decide().decided.len();
    assert_eq!(decided, 3, "of 1.001 cores and a little more");
    assert!(dispatcher.shared.assessed - before >= 2000, "all of them had room until those had gone");
    let before = dispatcher.shared.assessed;
    dispatcher.set_worker("n2", Some(worker("acme", 2)));
    dispatcher.decide();
    assert_eq!(dispatcher.shared.assessed - before, 0, "it is not room that they wait for");
}

fn unlimited() -> crate::api_types::plan::EffectiveQuotas {
    crate::api_types::plan::EffectiveQuotas::unlimited()
}

/// At its admission to a shared pool only the room for a job is checked again.
#[test]
fn a_job_of_a_shared_pool_is_assessed_once() {
    let mut tenants = [tenant("acme", "pro"), tenant("umbra", "pro")];
    tenants.iter_mut().for_each(|tenant| tenant.groups.push("pool.p".to_owned()));
    let jobs = ["acme", "umbra"].map(|name| job(name, name, cpu(1)));
    let dispatcher = decide(&tenants, vec![("p1", worker("pool.p", 2))], jobs.to_vec());
    assert!(["acme", "umbra"].into_iter().all(|uid| is_admitted(&dispatcher, uid)));
    assert_eq!(dispatcher.shared.assessed, 2);
}
