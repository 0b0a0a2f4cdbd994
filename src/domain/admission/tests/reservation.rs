//! Starving jobs: nodes that are reserved for them, and what is set aside of the quotas.

use super::*;

/// A dispatcher in which `large` is starving, and the node that could hold it is half full.
pub(super) fn with_a_starving_job(tenants: &[TenantInput]) -> Dispatcher {
    let mut dispatcher = decide(tenants, vec![("n1", worker("acme", 8))], vec![]);
    running(&mut dispatcher, "n1", job("running", "acme", cpu(4)));
    dispatcher.set_job(job("large", "acme", cpu(8)));
    dispatcher.decide();
    for n in 0..BACKFILL_LIMIT {
        let small = at(1, job(&format!("s{n}"), "acme", cpu(1)));
        dispatcher.set_job(small.clone());
        assert_eq!(dispatcher.decide().decided, [Arc::clone(&small.uid)], "it overtakes");
        dispatcher.claim(&small.uid, 1).unwrap();
        running(&mut dispatcher, "n1", small.clone());
        ended(&mut dispatcher, small);
    }
    dispatcher.decide();
    dispatcher
}

#[test]
fn a_node_is_reserved_for_a_starving_job_but_not_from_those_before_it() {
    let mut tenants = [tenant("acme", "pro"), tenant("umbra", "pro")];
    tenants[1].groups.push("acme".to_owned());
    let mut dispatcher = with_a_starving_job(&tenants);
    assert_eq!(dispatcher.reserved_nodes(), ["n1"]);
    dispatcher.set_job(at(1, job("small", "acme", cpu(1))));
    dispatcher.set_job(job("foreign", "umbra", cpu(1)));
    dispatcher.set_job(JobInput { queue: Queue::Live, ..at(1, job("urgent", "acme", cpu(1))) });
    dispatcher.decide();
    let message = "the room on n1 is kept for a larger job that 16 or more others have passed".to_owned();
    for uid in ["small", "foreign"] {
        assert_eq!(waits(&dispatcher, uid), (Reason::WaitingForTurn, message.clone()));
    }
    assert!(is_admitted(&dispatcher, "urgent"), "its tenant's own order is kept");
    assert_eq!(waits(&dispatcher, "large").0, Reason::WaitingForCapacity);
    ended(&mut dispatcher, job("running", "acme", cpu(4)));
    dispatcher.remove_job("urgent");
    dispatcher.decide();
    assert!(is_admitted(&dispatcher, "large"), "in the room that was reserved");
    assert_eq!(dispatcher.reserved_nodes(), [""; 0], "and is forgotten");
}

#[test]
fn what_was_reserved_for_a_deleted_job_is_free_for_all() {
    let mut dispatcher = with_a_starving_job(&[tenant("acme", "pro")]);
    dispatcher.set_job(at(1, job("small", "acme", cpu(1))));
    dispatcher.decide();
    assert_eq!(waits(&dispatcher, "small").0, Reason::WaitingForTurn);
    dispatcher.remove_job("large");
    assert_eq!(dispatcher.decide().decided, ["small".into()]);
}

/// A batch of events in which the pods of a reserved node end and the node is deleted.
#[test]
fn a_reserved_node_that_is_deleted_with_its_pods_is_reserved_no_longer() {
    let mut dispatcher = with_a_starving_job(&[tenant("acme", "pro")]);
    assert_eq!(dispatcher.reserved_nodes(), ["n1"]);
    ended(&mut dispatcher, job("running", "acme", cpu(4)));
    dispatcher.set_worker("n1", None);
    assert_eq!(dispatcher.decide().decided.len(), 0);
    assert_eq!(waits(&dispatcher, "large").0, Reason::NoWorkers);
    assert_eq!(dispatcher.reserved_nodes(), [""; 0]);
    dispatcher.set_worker("n2", Some(worker("acme", 8)));
    assert_eq!(dispatcher.decide().decided, ["large".into()]);
}

#[test]
fn quota_is_set_aside_for_a_starving_job_and_no_node_reserved_meanwhile() {
    let mut acme = tenant("acme", "pro");
    let mut dispatcher = with_a_starving_job(std::slice::from_ref(&acme));
    acme.quotas.max_cpu_cores = 10;
    dispatcher.set_tenant("acme", Some(acme));
    dispatcher.set_job(at(1, job("small", "acme", cpu(1))));
    dispatcher.decide();
    // Another input of the tenant resets the counts.
    for n in 0..=BACKFILL_LIMIT {
        let small = at(1, job(&format!("t{n}"), "acme", cpu(1)));
        dispatcher.set_job(small.clone());
        dispatcher.decide();
        dispatcher.remove_job(&small.uid);
    }
    dispatcher.set_job(at(2, job("last", "acme", cpu(1))));
    dispatcher.decide();
    assert_eq!(dispatcher.reserved_nodes(), [""; 0]);
    let (reason, message) = waits(&dispatcher, "last");
    assert_eq!(reason, Reason::WaitingForTurn);
    assert!(message.starts_with("what is left of the quotas of pro is kept for a larger job"), "{message}");
}
