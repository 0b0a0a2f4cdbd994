//! Single decisions.

mod assess;
mod pod_creation;
mod reason_updates;
mod reservation;
mod room;
mod shares;
mod too_large;

use proptest::prelude::*;

use super::*;
use crate::{
    api_types::{
        JobPhase, Plans, Reason,
        job::{OnQuota, Priority, Queue},
        plan::Limit,
    },
    domain::{admission::backfill::BACKFILL_LIMIT, pod_create::Meaning, resources::Resources},
};

/// A dispatcher that has decided upon these inputs.
fn decide(tenants: &[TenantInput], workers: Vec<(&str, WorkerInput)>, jobs: Vec<JobInput>) -> Dispatcher {
    let mut dispatcher = Dispatcher::default();
    tenants.iter().for_each(|tenant| dispatcher.set_tenant(&tenant.name, Some(tenant.clone())));
    workers.into_iter().for_each(|(name, worker)| dispatcher.set_worker(name, Some(worker)));
    jobs.into_iter().for_each(|job| dispatcher.set_job(job));
    dispatcher.decide();
    dispatcher
}

fn tenant(name: &str, plan: &str) -> TenantInput {
    let quotas =
        Plans::built_in().unwrap().get(plan).unwrap().effective(&crate::api_types::Quotas::default());
    TenantInput {
        name: name.to_owned(),
        plan: plan.to_owned(),
        closed: None,
        quotas,
        weight: 1,
        groups: vec![name.to_owned()],
        elastic: false,
    }
}

fn cpu(cores: u64) -> Resources {
    Resources { cpu_milli: cores * 1000, memory_bytes: 1 << 20, ..Resources::default() }
}

fn worker(group: &str, cores: u64) -> WorkerInput {
    let capacity = Resources { cpu_milli: cores * 1000, memory_bytes: 64 << 30, ..Resources::default() };
    WorkerInput { group: group.into(), capacity, open: true }
}

fn job(uid: &str, tenant: &str, asked: Resources) -> JobInput {
    JobInput { uid: uid.into(), namespace: tenant.into(), asked: Ok(asked), ..JobInput::default() }
}

/// A job that runs on a node.
fn running(dispatcher: &mut Dispatcher, node: &str, job: JobInput) {
    let group = dispatcher.shared.inventory.pool_of_worker(node).unwrap();
    dispatcher.set_pod(&job.uid, Some((node, job.asked.clone().unwrap())));
    dispatcher.set_job(JobInput { state: JobState::Active { group: Some(group), bound: true }, ..job });
}

/// Its end.
fn ended(dispatcher: &mut Dispatcher, job: JobInput) {
    dispatcher.set_pod(&job.uid, None);
    dispatcher.set_job(JobInput { state: JobState::Ended(JobPhase::Completed), ..job });
}

fn verdict(dispatcher: &Dispatcher, uid: &str) -> Verdict {
    dispatcher.current_verdict(uid).unwrap()
}

fn waits(dispatcher: &Dispatcher, uid: &str) -> (Reason, String) {
    match verdict(dispatcher, uid) {
        Verdict::Wait(reason, message) => (reason, message),
        other => panic!("{uid}: {other:?}"),
    }
}

fn is_admitted(dispatcher: &Dispatcher, uid: &str) -> bool {
    matches!(verdict(dispatcher, uid), Verdict::Admit(_))
}

/// When something changes by itself.
fn next_wakeup(dispatcher: &Dispatcher) -> Option<Timestamp> {
    Some(dispatcher.shared.now.steady + dispatcher.next_wakeup(dispatcher.shared.now)?)
}

/// The same job, submitted at another second.
fn at(second: i64, job: JobInput) -> JobInput {
    JobInput { created: Timestamp::from_second(second).unwrap(), ..job }
}

#[test]
fn quotas_are_counted_with_numbers() {
    let workers = vec![("n1", worker("acme", 64)), ("n2", worker("acme", 64))];
    let mut dispatcher = decide(&[tenant("acme", "pro")], workers, vec![]);
    running(&mut dispatcher, "n1", job("a", "acme", cpu(62)));
    dispatcher.set_job(job("b", "acme", cpu(4)));
    dispatcher.set_job(job("c", "acme", cpu(2)));
    let decision = dispatcher.decide();
    let message = "pro allows 64 CPU cores: 64 in use, this job asks for 4".to_owned();
    assert_eq!(waits(&dispatcher, "b").0, Reason::WaitingForQuota);
    let admission = Admission { attempt: 1, group: "acme".into(), node: Some("n1".into()) };
    assert_eq!(
        verdict(&dispatcher, "c"),
        Verdict::Admit(admission),
        "a smaller one overtakes it, to the fuller node"
    );
    assert_eq!(decision.decided, ["c".into()]);
    assert_eq!(decision.usage, ["acme".into()]);
    let usage = dispatcher.usage_snapshot("acme").unwrap().usage;
    assert_eq!(usage, Usage { queued: 1, active: 2, held: cpu(62) + cpu(2) });
    assert_eq!(waits(&dispatcher, "b").1, message, "with the numbers of this moment");
}

/// Lets the pause pass in which more nodes are expected.
fn settled(dispatcher: &mut Dispatcher) {
    dispatcher.tick(ClockReading::virtual_time(Timestamp::from_second(60).unwrap()));
    dispatcher.decide();
}

#[test]
fn what_can_never_run_is_rejected_at_once() {
    let gpu = Resources { gpus: 1, ..cpu(1) };
    let workers = vec![("n1", worker("acme", 2))];
    let mut dispatcher = decide(&[tenant("acme", "free")], workers, vec![job("a", "acme", gpu)]);
    let message = "free allows 0 GPUs: this job asks for 1".to_owned();
    assert_eq!(verdict(&dispatcher, "a"), Verdict::Reject(Reason::ExceedsQuota, message));
    settled(&mut dispatcher);
    dispatcher.set_job(job("b", "acme", cpu(3)));
    dispatcher.decide();
    let rejected = verdict(&dispatcher, "b");
    assert!(
        matches!(&rejected, Verdict::Reject(Reason::DoesNotFit, s) if s.contains("n1, has 2 CPU")),
        "{rejected:?}"
    );
}

/// The message of every quota of 0 that concerns a job has its number; whatever is asked for, no job starts and none is charged.
#[test]
fn a_quota_of_none_lets_no_job_start() {
    type Cut = fn(&mut crate::api_types::plan::EffectiveQuotas);
    let cuts: [(Cut, &str); 7] = [
        (|q| q.max_jobs = 0, "pro allows 0 jobs at once"),
        (|q| q.max_jobs_per_hour = 0, "pro allows 0 jobs per hour"),
        (|q| q.job_timeout_minutes = 0, "pro allows jobs 0 minutes of running time: no job may run"),
        (|q| q.max_cpu_cores = 0, "pro allows 0 CPU cores: this job asks for 1"),
        (|q| q.max_memory_gb = 0, "pro allows 0 GB of memory: this job asks for 0.001"),
        (|q| q.max_gpus = 0, "pro allows 0 GPUs: this job asks for 1"),
        (|q| q.max_bandwidth_mbps = 0, "pro allows 0 Mbit/s: this job asks for 1"),
    ];
    let everything = Resources { gpus: 1, bandwidth_mbps: 1, ..cpu(1) };
    let large = Resources { gpus: 8, ..worker("acme", 8).capacity };
    for (cut, message) in cuts {
        // A new job, one that has waited and one that has run before.
        let mut acme = tenant("acme", "pro");
        let workers = vec![("n1", WorkerInput { capacity: large, ..worker("acme", 8) })];
        let waiting =
            JobInput { reported: Some(Reason::WaitingForQuota), ..job("waiting", "acme", everything) };
        let retried = JobInput { state: JobState::Waiting(2), ..job("retried", "acme", everything) };
        let new = job("new", "acme", everything);
        cut(&mut acme.quotas);
        let dispatcher = decide(&[acme], workers, vec![new, waiting, retried]);
        for uid in ["new", "waiting", "retried"] {
            let expected = Verdict::Reject(Reason::ExceedsQuota, message.to_owned());
            assert_eq!(verdict(&dispatcher, uid), expected, "{uid}");
        }
        assert_eq!(dispatcher.usage_snapshot("acme").unwrap().started, 0);
    }
    // No queued jobs: it waits outside of the queue.
    let mut acme = tenant("acme", "pro");
    acme.quotas.max_queued_jobs = 0;
    let dispatcher = decide(&[acme], vec![("n1", worker("acme", 8))], vec![job("new", "acme", cpu(1))]);
    assert_eq!(waits(&dispatcher, "new"), (Reason::QueueFull, "pro allows 0 queued jobs: 1 wait".to_owned()));
}

#[test]
fn without_a_node_a_job_waits_and_a_foreign_node_is_none() {
    let tenants = [tenant("acme", "basic"), tenant("umbra", "basic")];
    let mut dispatcher = decide(&tenants, vec![("n1", worker("umbra", 8))], vec![job("a", "acme", cpu(1))]);
    assert_eq!(waits(&dispatcher, "a").0, Reason::NoWorkers);
    dispatcher.set_worker("n1", Some(worker("acme", 8)));
    assert_eq!(dispatcher.decide().decided, ["a".into()]);
}

#[test]
fn reject_counts_the_queue_too() {
    let mut jobs: Vec<_> = (0..6).map(|n| job(&n.to_string(), "acme", cpu(2))).collect();
    jobs[5].on_quota = OnQuota::Reject;
    let dispatcher = decide(&[tenant("acme", "free")], vec![("n1", worker("acme", 4))], jobs);
    let message = "free allows 5 jobs at once: 0 admitted, 5 queued before this one".to_owned();
    assert_eq!(verdict(&dispatcher, "5"), Verdict::Reject(Reason::WaitingForQuota, message));
}

#[test]
fn the_queue_has_a_length_and_the_rest_is_overflow() {
    let mut acme = tenant("acme", "basic");
    (acme.quotas.max_queued_jobs, acme.quotas.max_jobs) = (2, 1);
    let mut jobs: Vec<_> = (0..5).map(|n| at(n, job(&n.to_string(), "acme", cpu(1)))).collect();
    jobs[4].queue = Queue::Live;
    jobs[1].state = JobState::BackingOff;
    let rejected = JobInput { on_quota: OnQuota::Reject, ..at(5, job("5", "acme", cpu(1))) };
    let all = [jobs, vec![rejected]].concat();
    let mut dispatcher = decide(&[acme], vec![("n1", worker("acme", 8))], all);
    assert!(is_admitted(&dispatcher, "0"));
    assert_eq!(
        waits(&dispatcher, "2").0,
        Reason::WaitingForQuota,
        "got the place of the one that was admitted"
    );
    let full = "basic allows 2 queued jobs: 5 wait".to_owned();
    assert_eq!(waits(&dispatcher, "3"), (Reason::QueueFull, full.clone()));
    assert_eq!(waits(&dispatcher, "4"), (Reason::QueueFull, full), "whatever its queue");
    let message = "basic allows 1 jobs at once: 0 admitted, 5 queued before this one".to_owned();
    assert_eq!(verdict(&dispatcher, "5"), Verdict::Reject(Reason::WaitingForQuota, message));
    // The retry counts as queued again, and one more has ended: the oldest of the overflow is queued.
    dispatcher.remove_job("2");
    dispatcher.decide();
    assert_eq!(waits(&dispatcher, "3").0, Reason::WaitingForQuota);
    assert_eq!(waits(&dispatcher, "4").0, Reason::QueueFull);
}

#[test]
fn a_job_that_rather_ends_than_waits_is_rejected_where_the_queue_is_full() {
    let mut acme = tenant("acme", "basic");
    acme.quotas.max_queued_jobs = 1;
    let rejected = JobInput { on_quota: OnQuota::Reject, ..at(1, job("b", "acme", cpu(1))) };
    let dispatcher = decide(&[acme], vec![], vec![job("a", "acme", cpu(1)), rejected]);
    let message = "basic allows 1 queued jobs: 1 wait".to_owned();
    assert_eq!(verdict(&dispatcher, "b"), Verdict::Reject(Reason::QueueFull, message));
}

#[test]
fn the_higher_score_is_first_and_then_by_submission() {
    let first = |jobs: Vec<JobInput>| {
        let mut dispatcher = decide(&[tenant("acme", "pro")], vec![], jobs);
        dispatcher.set_worker("n1", Some(worker("acme", 1)));
        dispatcher.decide().decided.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let live = JobInput { queue: Queue::Live, priority: Priority::Low, ..at(9, job("live", "acme", cpu(1))) };
    let high = JobInput { priority: Priority::High, ..at(5, job("high", "acme", cpu(1))) };
    let plain = |uid, second| at(second, job(uid, "acme", cpu(1)));
    assert_eq!(first(vec![plain("a", 0), high.clone(), live]), ["live"]);
    assert_eq!(first(vec![plain("a", 0), high]), ["high"]);
    assert_eq!(first(vec![plain("late", 2), plain("early", 1)]), ["early"]);
}

#[test]
fn an_autoscaler_supplies_the_tenants_own_nodes_and_no_pool_unless_it_is_elastic() {
    let mut acme = tenant("acme", "pro");
    acme.elastic = true;
    acme.groups.extend(["pool.p".to_owned(), "pool.e".to_owned()]);
    let of = |uid, pool: &str| JobInput { group: Some(pool.into()), ..job(uid, "acme", cpu(2)) };
    let mut dispatcher = Dispatcher::new(["pool.e"]);
    dispatcher.set_tenant("acme", Some(acme));
    dispatcher.set_worker("p1", Some(worker("pool.p", 1)));
    dispatcher.set_worker("e1", Some(worker("pool.e", 1)));
    for job in [job("own", "acme", cpu(2)), of("pooled", "pool.p"), of("elastic", "pool.e")] {
        dispatcher.set_job(job);
    }
    dispatcher.decide();
    settled(&mut dispatcher);
    let admission = |group: &str| Verdict::Admit(Admission { attempt: 1, group: group.into(), node: None });
    assert_eq!(verdict(&dispatcher, "own"), admission("acme"));
    assert_eq!(verdict(&dispatcher, "elastic"), admission("pool.e"));
    assert!(matches!(verdict(&dispatcher, "pooled"), Verdict::Reject(Reason::DoesNotFit, _)));
}

proptest! {
    /// Whatever is asked for: never over a quota, never more on a node than it has, and never on a foreign node.
    #[test]
    fn never_over(asks in proptest::collection::vec((0_u64..6, 0_usize..2, any::<bool>()), 0..40)) {
        let tenants = [tenant("a", "free"), tenant("b", "basic")];
        let workers = [("a1", worker("a", 3)), ("b1", worker("b", 5)), ("b2", worker("b", 2))];
        let jobs: Vec<_> = asks.iter().enumerate().map(|(n, (cores, who, reject))| {
            let mut job = job(&n.to_string(), ["a", "b"][*who], cpu(*cores));
            job.on_quota = if *reject { OnQuota::Reject } else { OnQuota::Queue };
            job
        }).collect();
        let dispatcher = decide(&tenants, workers.to_vec(), jobs.clone());
        let mut nodes: HashMap<String, Resources> = HashMap::new();
        for job in &jobs {
            let Verdict::Admit(admission) = verdict(&dispatcher, &job.uid) else { continue };
            prop_assert_eq!(admission.group.as_str(), &*job.namespace);
            *nodes.entry(admission.node.clone().unwrap()).or_default() += job.asked.clone().unwrap();
        }
        for (name, worker) in &workers {
            let used = nodes.get(*name).copied().unwrap_or_default();
            prop_assert!(used.fits(&worker.capacity), "{} holds {:?}", name, used);
        }
        for tenant in &tenants {
            let usage = dispatcher.usage_snapshot(&tenant.name).unwrap().usage;
            prop_assert!(Limit::from_quota(tenant.quotas.max_jobs).allows(usage.active));
            let cores = Limit::from_quota(tenant.quotas.max_cpu_cores).times(1000);
            prop_assert!(cores.allows(usage.held.cpu_milli));
        }
    }
}

// --- after a decision

fn one_admitted(dispatcher: &mut Dispatcher, uid: &str) -> JobInput {
    let job = job(uid, "acme", cpu(2));
    dispatcher.set_job(job.clone());
    dispatcher.decide();
    assert!(is_admitted(dispatcher, uid));
    job
}

#[test]
fn an_admission_is_taken_back_when_its_tenant_closes_unless_it_is_claimed() {
    let acme = tenant("acme", "pro");
    let mut dispatcher = decide(std::slice::from_ref(&acme), vec![("n1", worker("acme", 4))], vec![]);
    one_admitted(&mut dispatcher, "claimed");
    one_admitted(&mut dispatcher, "late");
    assert!(dispatcher.claim("claimed", 1).is_some());
    let closed = Some((Reason::TenantSuspended, "suspended".to_owned()));
    dispatcher.set_tenant("acme", Some(TenantInput { closed, ..acme.clone() }));
    dispatcher.decide();
    assert_eq!((dispatcher.claim("claimed", 1).is_some(), dispatcher.claim("late", 1)), (true, None));
    assert_eq!(waits(&dispatcher, "late").0, Reason::TenantSuspended);
    assert_eq!(
        dispatcher.usage_snapshot("acme").unwrap().usage,
        Usage { queued: 1, active: 1, held: cpu(2) }
    );
    dispatcher.set_tenant("acme", Some(acme));
    assert_eq!(dispatcher.decide().decided, ["late".into()]);
}

#[test]
fn the_room_of_an_admission_passes_to_the_pod_and_is_never_counted_twice() {
    let mut dispatcher = decide(&[tenant("acme", "pro")], vec![("n1", worker("acme", 4))], vec![]);
    let first = one_admitted(&mut dispatcher, "a");
    dispatcher.claim("a", 1).unwrap();
    let active = |bound| JobState::Active { group: Some("acme".into()), bound };
    dispatcher.set_job(JobInput { state: active(false), ..first.clone() });
    dispatcher.set_job(job("b", "acme", cpu(3)));
    assert_eq!(dispatcher.decide().decided.len(), 0, "the room stays reserved while the pod has no node");
    dispatcher.set_pod(&first.uid, Some(("n1", cpu(2))));
    dispatcher.set_job(JobInput { state: active(true), ..first.clone() });
    assert_eq!(dispatcher.decide().decided.len(), 0);
    dispatcher.set_job(job("c", "acme", cpu(2)));
    assert_eq!(dispatcher.decide().decided, ["c".into()], "two of four are left");
    ended(&mut dispatcher, first);
    dispatcher.decide();
    assert_eq!(dispatcher.usage_snapshot("acme").unwrap().usage.held, cpu(2));
    assert_eq!(dispatcher.usage_snapshot("acme").unwrap().ended[&JobPhase::Completed], 1);
}

#[test]
fn a_charge_is_urgent_until_the_pod_has_lost_its_finalizer() {
    let mut dispatcher = decide(&[tenant("acme", "pro")], vec![], vec![]);
    let urgent = |dispatcher: &Dispatcher| dispatcher.usage_snapshot("acme").unwrap().urgent;
    ["a", "b"].iter().for_each(|job| dispatcher.charge("acme", job, Timestamp::UNIX_EPOCH));
    dispatcher.request_charge("acme", "a", false);
    assert!(!urgent(&dispatcher));
    dispatcher.request_charge("acme", "b", true);
    dispatcher.request_charge("acme", "a", true);
    dispatcher.finalizer_removed("acme", "b");
    assert!(urgent(&dispatcher), "a was asked for again, with more of a hurry");
    dispatcher.finalizer_removed("acme", "a");
    assert!(!urgent(&dispatcher));
}

#[test]
fn the_hour_is_counted_with_those_about_to_start_and_ends_by_itself() {
    let mut dispatcher = decide(&[tenant("acme", "free")], vec![("n1", worker("acme", 64))], vec![]);
    let small = Resources { cpu_milli: 10, ..Resources::default() };
    for n in 0..9 {
        dispatcher.charge("acme", &format!("old{n}"), Timestamp::UNIX_EPOCH);
    }
    // Nine of ten jobs of the hour have started; one more may, and retries of what the cluster ended.
    let rejected = JobInput { on_quota: OnQuota::Reject, ..at(2, job("refused", "acme", small)) };
    let disrupted = JobInput { state: JobState::Waiting(2), ..at(3, job("disrupted", "acme", small)) };
    let retry = JobInput { charged_retry: true, uid: "retry".into(), ..disrupted.clone() };
    let (tenth, eleventh) = (at(0, job("tenth", "acme", small)), at(1, job("eleventh", "acme", small)));
    for job in [tenth, eleventh, rejected, disrupted, retry] {
        dispatcher.set_job(job);
    }
    dispatcher.decide();
    assert!(is_admitted(&dispatcher, "tenth"));
    assert!(is_admitted(&dispatcher, "disrupted"), "what the cluster ended is free");
    let limit = (Reason::RateLimited, "hourly job limit reached (10/10)".to_owned());
    assert_eq!(waits(&dispatcher, "eleventh"), limit);
    assert_eq!(waits(&dispatcher, "retry"), limit);
    let verdict = verdict(&dispatcher, "refused");
    assert!(
        matches!(&verdict, Verdict::Reject(Reason::RateLimited, s) if s.contains("(9/10")),
        "{verdict:?}"
    );
    let end = next_wakeup(&dispatcher).unwrap();
    assert!((3600..3610).contains(&end.as_second()), "{end}");
    dispatcher.tick(ClockReading::virtual_time(end));
    assert_eq!(dispatcher.decide().decided, ["eleventh".into(), "retry".into()]);
}

#[test]
fn a_deleted_tenant_leaves_nothing_behind() {
    let jobs: Vec<_> = (0..9).map(|n| at(n, job(&n.to_string(), "acme", cpu(1)))).collect();
    let mut dispatcher = decide(&[tenant("acme", "basic")], vec![("n1", worker("acme", 2))], jobs.clone());
    dispatcher.set_tenant("acme", None);
    dispatcher.decide();
    assert_eq!(waits(&dispatcher, "5").0, Reason::NotATenantNamespace);
    jobs.iter().for_each(|job| dispatcher.remove_job(&job.uid));
    dispatcher.set_worker("n1", None);
    dispatcher.decide();
    assert!(
        dispatcher.tenants.is_empty()
            && dispatcher.shared.jobs.is_empty()
            && dispatcher.namespaces.is_empty()
    );
    assert_eq!(dispatcher.decide().decided.len(), 0);
    assert!(dispatcher.shared.inventory.is_empty(), "{:?}", dispatcher.shared.inventory);
}
