//! Single passes.

use proptest::prelude::*;

use super::*;
use crate::{
    api_types::{
        Plans,
        job::{OnQuota, Priority, Queue},
        plan::Limit,
    },
    domain::{resources::Resources, skip_ahead::ENOUGH},
};

/// Judges with nothing remembered.
fn decide(tenants: &HashMap<String, TenantView>, workers: Vec<WorkerView>, jobs: Vec<JobView>) -> Decision {
    super::decide(tenants, workers, jobs, Memory::default(), Timestamp::UNIX_EPOCH)
}

fn tenant(name: &str, plan: &str) -> (String, TenantView) {
    let quotas =
        Plans::built_in().unwrap().get(plan).unwrap().effective(&crate::api_types::Quotas::default());
    let view = TenantView {
        name: name.to_owned(),
        plan: plan.to_owned(),
        closed: None,
        quotas,
        weight: 1,
        groups: vec![name.to_owned()],
        elastic: false,
    };
    (name.to_owned(), view)
}

fn cpu(cores: u64) -> Resources {
    Resources { cpu_milli: cores * 1000, memory_bytes: 1 << 20, ..Resources::default() }
}

fn worker(name: &str, group: &str, cores: u64) -> WorkerView {
    let capacity = Resources { cpu_milli: cores * 1000, memory_bytes: 64 << 30, ..Resources::default() };
    WorkerView { name: name.into(), group: group.into(), capacity, used: Resources::default(), open: true }
}

fn job(uid: &str, tenant: &str, asked: Resources) -> JobView {
    JobView {
        uid: uid.to_owned(),
        created: Timestamp::UNIX_EPOCH,
        queue: Queue::Default,
        priority: Priority::Medium,
        tenant: Some(tenant.to_owned()),
        asked: Ok(asked),
        group: None,
        on_quota: OnQuota::Queue,
        state: JobStanding::Waiting(1),
    }
}

fn verdict(decision: &Decision, uid: &str) -> Verdict {
    decision.verdicts.iter().find(|(u, _)| u == uid).map(|(_, v)| v.clone()).unwrap()
}

#[test]
fn quotas_are_counted_with_numbers() {
    let tenants = HashMap::from([tenant("acme", "pro")]);
    let mut running = job("a", "acme", cpu(62));
    running.state = JobStanding::Active { group: Some("acme".into()), reserved: Some("n1".into()) };
    let workers = vec![worker("n1", "acme", 64), worker("n2", "acme", 64)];
    let decision =
        decide(&tenants, workers, vec![running, job("b", "acme", cpu(4)), job("c", "acme", cpu(2))]);
    let sentence = "pro allows 64 CPU cores: 62 in use, this job asks for 4".to_owned();
    assert_eq!(verdict(&decision, "b"), Verdict::Wait(Reason::WaitingForQuota, sentence));
    let place = Admission { attempt: 1, group: "acme".into(), node: Some("n1".into()) };
    assert_eq!(
        verdict(&decision, "c"),
        Verdict::Admit(place),
        "a smaller one behind it passes, to the fuller node"
    );
    assert_eq!(decision.usage["acme"], Usage { queued: 1, active: 2, held: cpu(62) + cpu(2) });
}

#[test]
fn a_node_that_is_away_may_come_back_larger() {
    let tenants = HashMap::from([tenant("acme", "basic")]);
    let away = WorkerView { open: false, ..worker("n2", "acme", 1) };
    let workers = vec![worker("n1", "acme", 2), away];
    let decision = decide(&tenants, workers, vec![job("a", "acme", cpu(3))]);
    assert!(matches!(verdict(&decision, "a"), Verdict::Wait(Reason::WaitingForCapacity, _)));
}

#[test]
fn what_can_never_run_is_refused_at_once() {
    let tenants = HashMap::from([tenant("acme", "free")]);
    let gpu = Resources { gpus: 1, ..cpu(1) };
    let decision = decide(
        &tenants,
        vec![worker("n1", "acme", 2)],
        vec![job("a", "acme", gpu), job("b", "acme", cpu(3))],
    );
    let sentence = "free allows 0 GPUs: this job asks for 1".to_owned();
    assert_eq!(verdict(&decision, "a"), Verdict::Reject(Reason::ExceedsQuota, sentence));
    assert!(
        matches!(verdict(&decision, "b"), Verdict::Reject(Reason::DoesNotFit, s) if s.contains("n1, has 2 CPU"))
    );
}

#[test]
fn no_node_is_a_wait_and_a_foreign_node_is_none() {
    let tenants = HashMap::from([tenant("acme", "basic"), tenant("umbra", "basic")]);
    let decision = decide(&tenants, vec![worker("n1", "umbra", 8)], vec![job("a", "acme", cpu(1))]);
    assert!(matches!(verdict(&decision, "a"), Verdict::Wait(Reason::NoWorkers, _)));
}

#[test]
fn reject_counts_the_queue_too() {
    let tenants = HashMap::from([tenant("acme", "free")]);
    let workers = vec![worker("n1", "acme", 4)];
    let mut jobs: Vec<_> = (0..6).map(|n| job(&n.to_string(), "acme", cpu(2))).collect();
    jobs[5].on_quota = OnQuota::Reject;
    let decision = decide(&tenants, workers, jobs);
    let sentence = "free allows 5 jobs at once: 0 admitted, 5 queued before this one".to_owned();
    assert_eq!(verdict(&decision, "5"), Verdict::Reject(Reason::WaitingForQuota, sentence));
}

/// The same job, submitted at another second.
fn at(second: i64, job: JobView) -> JobView {
    JobView { created: Timestamp::from_second(second).unwrap(), ..job }
}

#[test]
fn the_queue_has_a_length_and_what_is_beyond_waits_outside() {
    let mut tenants = HashMap::from([tenant("acme", "basic")]);
    let view = tenants.get_mut("acme").unwrap();
    (view.quotas.max_queued_jobs, view.quotas.max_jobs) = (2, 1);
    let mut jobs: Vec<_> = (0..5).map(|n| at(n, job(&n.to_string(), "acme", cpu(1)))).collect();
    jobs[4].queue = Queue::Live;
    jobs[1].state = JobStanding::BackingOff;
    let refused = JobView { on_quota: OnQuota::Reject, ..at(5, job("5", "acme", cpu(1))) };
    let decision = decide(&tenants, vec![worker("n1", "acme", 8)], [jobs, vec![refused]].concat());
    assert!(matches!(verdict(&decision, "0"), Verdict::Admit(_)));
    let waits = |uid| match verdict(&decision, uid) {
        Verdict::Wait(reason, sentence) => (reason, sentence),
        other => panic!("{uid}: {other:?}"),
    };
    assert_eq!(waits("2").0, Reason::WaitingForQuota, "got the place of the one that was admitted");
    let full = "basic allows 2 queued jobs: this is the ";
    assert_eq!(waits("3"), (Reason::QueueFull, format!("{full}3rd")));
    assert_eq!(waits("4"), (Reason::QueueFull, format!("{full}4th")), "whatever its queue");
    let sentence = "basic allows 1 jobs at once: 0 admitted, 5 queued before this one".to_owned();
    assert_eq!(verdict(&decision, "5"), Verdict::Reject(Reason::WaitingForQuota, sentence));
}

#[test]
fn one_that_would_not_wait_is_refused_where_the_queue_is_full() {
    let mut tenants = HashMap::from([tenant("acme", "basic")]);
    tenants.get_mut("acme").unwrap().quotas.max_queued_jobs = 1;
    let refused = JobView { on_quota: OnQuota::Reject, ..at(1, job("b", "acme", cpu(1))) };
    let decision = decide(&tenants, vec![], vec![job("a", "acme", cpu(1)), refused]);
    let sentence = "basic allows 1 queued jobs: this is the 2nd".to_owned();
    assert_eq!(verdict(&decision, "b"), Verdict::Reject(Reason::QueueFull, sentence));
}

#[test]
fn the_higher_score_goes_first_and_then_who_was_first() {
    let tenants = HashMap::from([tenant("acme", "pro")]);
    let first = |jobs: Vec<JobView>| {
        let decision = decide(&tenants, vec![worker("n1", "acme", 1)], jobs);
        let admitted = decision.verdicts.into_iter().filter(|(_, v)| matches!(v, Verdict::Admit(_)));
        admitted.map(|(uid, _)| uid).collect::<Vec<_>>()
    };
    let live = JobView { queue: Queue::Live, priority: Priority::Low, ..at(9, job("live", "acme", cpu(1))) };
    let high = JobView { priority: Priority::High, ..at(5, job("high", "acme", cpu(1))) };
    let plain = |uid, second| at(second, job(uid, "acme", cpu(1)));
    assert_eq!(first(vec![plain("a", 0), high.clone(), live]), ["live"]);
    assert_eq!(first(vec![plain("a", 0), high]), ["high"]);
    assert_eq!(first(vec![plain("late", 2), plain("early", 1)]), ["early"]);
}

/// A world in which `large` was passed often enough, and the node that has room for it is half full.
fn with_a_due_job(more: Vec<JobView>, tenants: &HashMap<String, TenantView>) -> Decision {
    let mut memory = Memory::default();
    memory.skipped.passed("large", ENOUGH);
    let mut running = job("running", "acme", cpu(4));
    running.state = JobStanding::Active { group: Some("acme".into()), reserved: Some("n1".into()) };
    let jobs = [vec![running, job("large", "acme", cpu(8))], more].concat();
    super::decide(tenants, vec![worker("n1", "acme", 8)], jobs, memory, Timestamp::UNIX_EPOCH)
}

#[test]
fn a_node_is_kept_for_a_job_that_is_due_but_not_from_those_before_it() {
    let mut tenants = HashMap::from([tenant("acme", "pro"), tenant("umbra", "pro")]);
    tenants.get_mut("umbra").unwrap().groups.push("acme".to_owned());
    let small = at(1, job("small", "acme", cpu(1)));
    let foreign = job("foreign", "umbra", cpu(1));
    let urgent = JobView { queue: Queue::Live, ..at(1, job("urgent", "acme", cpu(1))) };
    let decision = with_a_due_job(vec![small, foreign, urgent], &tenants);
    assert_eq!(decision.memory.skipped.node("large"), Some("n1"));
    let sentence = "the room on n1 is kept for a larger job that 16 or more others have passed".to_owned();
    for uid in ["small", "foreign"] {
        assert_eq!(verdict(&decision, uid), Verdict::Wait(Reason::WaitingForTurn, sentence.clone()));
    }
    assert!(matches!(verdict(&decision, "urgent"), Verdict::Admit(_)), "its tenant's own order stands");
    let waiting = verdict(&decision, "large");
    assert!(matches!(waiting, Verdict::Wait(Reason::WaitingForCapacity, _)), "{waiting:?}");
    let ended = super::decide(
        &tenants,
        vec![worker("n1", "acme", 8)],
        vec![job("large", "acme", cpu(8))],
        decision.memory,
        Timestamp::UNIX_EPOCH,
    );
    assert!(matches!(verdict(&ended, "large"), Verdict::Admit(_)), "in the room that was kept");
    assert_eq!(ended.memory.skipped.due("large"), None, "and is forgotten");
}

#[test]
fn quota_is_set_aside_for_a_job_that_is_due_and_no_node_kept_meanwhile() {
    let mut tenants = HashMap::from([tenant("acme", "pro")]);
    tenants.get_mut("acme").unwrap().quotas.max_cpu_cores = 10;
    let decision = with_a_due_job(vec![at(1, job("small", "acme", cpu(1)))], &tenants);
    assert_eq!(decision.memory.skipped.node("large"), None);
    let sentence =
        "what is left of the quotas of pro is kept for a larger job of the tenant that 16 others have passed";
    assert_eq!(verdict(&decision, "small"), Verdict::Wait(Reason::WaitingForTurn, sentence.to_owned()));
}

#[test]
fn an_autoscaler_supplies_the_tenants_own_nodes_and_no_pool() {
    let mut tenants = HashMap::from([tenant("acme", "pro")]);
    let view = tenants.get_mut("acme").unwrap();
    view.elastic = true;
    view.groups.push("pool.p".to_owned());
    let pooled = JobView { group: Some("pool.p".to_owned()), ..job("pooled", "acme", cpu(2)) };
    let decision =
        decide(&tenants, vec![worker("p1", "pool.p", 1)], vec![job("own", "acme", cpu(2)), pooled]);
    let place = Admission { attempt: 1, group: "acme".into(), node: None };
    assert_eq!(verdict(&decision, "own"), Verdict::Admit(place));
    assert!(matches!(verdict(&decision, "pooled"), Verdict::Reject(Reason::DoesNotFit, _)));
}

proptest! {
    /// Whatever is asked for: never over a quota, never more on a node than it has, and never on a foreign node.
    #[test]
    fn never_over(asks in proptest::collection::vec((0_u64..6, 0_usize..2, any::<bool>()), 0..40)) {
        let tenants = HashMap::from([tenant("a", "free"), tenant("b", "basic")]);
        let workers = vec![worker("a1", "a", 3), worker("b1", "b", 5), worker("b2", "b", 2)];
        let jobs: Vec<_> = asks.iter().enumerate().map(|(n, (cores, who, reject))| {
            let mut job = job(&n.to_string(), ["a", "b"][*who], cpu(*cores));
            job.on_quota = if *reject { OnQuota::Reject } else { OnQuota::Queue };
            job
        }).collect();
        let decision = decide(&tenants, workers.clone(), jobs.clone());
        let mut nodes: HashMap<String, Resources> = HashMap::new();
        for (uid, verdict) in &decision.verdicts {
            let Verdict::Admit(place) = verdict else { continue };
            let job = jobs.iter().find(|j| &j.uid == uid).unwrap();
            prop_assert_eq!(Some(&place.group), job.tenant.as_ref());
            *nodes.entry(place.node.clone().unwrap()).or_default() += job.asked.clone().unwrap();
        }
        for worker in &workers {
            let used = nodes.get(&worker.name).copied().unwrap_or_default();
            prop_assert!(used.fits(&worker.capacity), "{} holds {:?}", worker.name, used);
        }
        for (name, usage) in &decision.usage {
            let quotas = &tenants[name].quotas;
            prop_assert!(Limit::from_quota(quotas.max_jobs).allows(usage.active));
            prop_assert!(Limit::from_quota(quotas.max_cpu_cores).times(1000).allows(usage.held.cpu_milli));
        }
    }
}
