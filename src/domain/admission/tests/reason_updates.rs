//! Which jobs get a new reason, and in which order.

use std::collections::BTreeSet;

use super::*;

#[test]
fn reasons_are_reported_once_a_few_at_a_time_and_others_turn_is_no_new_one() {
    let jobs: Vec<_> = (0..9).map(|n| at(n, job(&n.to_string(), "acme", cpu(1)))).collect();
    let mut dispatcher = decide(&[tenant("acme", "pro")], vec![], jobs.clone());
    assert_eq!(dispatcher.verdict("0"), None, "no reason was reported yet");
    let reported: Vec<_> = dispatcher.take_reason_updates(4).iter().map(ToString::to_string).collect();
    assert_eq!(reported, ["0", "1", "2", "3"]);
    assert!(matches!(dispatcher.verdict("0"), Some(Verdict::Wait(Reason::NoWorkers, _))));
    assert_eq!((dispatcher.take_reason_updates(40).len(), dispatcher.take_reason_updates(40).len()), (5, 0));
    // A status without the reason has it reported again; one with it does not.
    dispatcher.set_job(jobs[0].clone());
    assert_eq!(dispatcher.take_reason_updates(9), ["0".into()]);
    dispatcher.set_job(JobInput { reported: Some(Reason::NoWorkers), ..jobs[0].clone() });
    dispatcher.set_worker("n1", Some(worker("acme", 1)));
    dispatcher.decide();
    assert_eq!(
        dispatcher.take_reason_updates(40).len(),
        8,
        "all but the one that was admitted wait for room now"
    );
    dispatcher.set_job(JobInput {
        reported: Some(Reason::WaitingForCapacity),
        ..at(9, job("last", "acme", cpu(1)))
    });
    dispatcher.decide();
    assert_eq!(dispatcher.take_reason_updates(9).len(), 0);
}

#[test]
fn tenants_and_the_classes_of_each_are_reported_by_turns() {
    let of = |tenant: &'static str, size: u64| {
        (0..9).map(move |n| at(n, job(&format!("{tenant}{size}-{n}"), tenant, cpu(size))))
    };
    let jobs = of("acme", 1).chain(of("acme", 2)).chain(of("blue", 1));
    let mut dispatcher =
        decide(&[tenant("acme", "pro"), tenant("blue", "pro")], vec![], jobs.collect::<Vec<_>>());
    let reported = |dispatcher: &mut Dispatcher, most| -> BTreeSet<String> {
        dispatcher.take_reason_updates(most).iter().map(ToString::to_string).collect()
    };
    let expected = |uids: [&str; 4]| BTreeSet::from(uids.map(str::to_owned));
    assert_eq!(reported(&mut dispatcher, 4), expected(["acme1-0", "acme2-0", "blue1-0", "blue1-1"]));
    assert_eq!(reported(&mut dispatcher, 99).len(), 23);
    dispatcher.set_worker("n1", Some(worker("acme", 2)));
    dispatcher.set_worker("n2", Some(worker("blue", 1)));
    dispatcher.decide();
    assert_eq!(reported(&mut dispatcher, 4), expected(["acme1-2", "acme2-0", "blue1-1", "blue1-2"]));
    assert_eq!(reported(&mut dispatcher, 4), expected(["acme1-3", "acme2-1", "blue1-3", "blue1-4"]));
    // It comes before those of its class that were reported.
    dispatcher.set_job(JobInput { priority: Priority::High, ..at(9, job("late", "blue", cpu(1))) });
    dispatcher.decide();
    assert!(reported(&mut dispatcher, 2).contains("late"), "those that came last are reported first");
    dispatcher.set_worker("n2", None);
    dispatcher.decide();
    let rest = reported(&mut dispatcher, 99);
    assert!(rest.contains("blue1-1"), "the reason has changed while the class was being visited: {rest:?}");
    assert!(!rest.contains("blue1-8"), "it never had another reason");
}
