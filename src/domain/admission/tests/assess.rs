//! The assessment of a job before it is created, and the verdict on it afterwards.

use super::*;

fn prospective(job: &JobInput) -> ProspectiveJob<'_> {
    ProspectiveJob {
        namespace: &job.namespace,
        asked: job.asked.clone(),
        group: job.group.clone(),
        on_quota: job.on_quota,
    }
}

/// Why a job is rejected, if it is.
type Rejection = Option<(Reason, String)>;

/// The assessment of a job before it is created, and the verdict on it afterwards.
fn both(dispatcher: &mut Dispatcher, job: JobInput) -> (Rejection, Rejection) {
    let said = dispatcher.assess_prospective(&prospective(&job), ClockReading::default());
    let uid = Arc::clone(&job.uid);
    dispatcher.set_job(job);
    dispatcher.decide();
    let verdict = match dispatcher.current_verdict(&uid) {
        Some(Verdict::Reject(reason, message)) => Some((reason, message)),
        _ => None,
    };
    (said, verdict)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]
    #[test]
    fn a_job_is_rejected_before_it_is_created_exactly_where_it_would_be_afterwards(
        limits in (-1_i64..3, -1_i64..3, -1_i64..4, -1_i64..9),
        nodes in prop::collection::vec(1_u64..9, 0..3),
        others in prop::collection::vec((1_u64..4, any::<bool>(), any::<bool>()), 0..5),
        asked in 1_u64..9,
        rejects in any::<bool>(),
        pool in any::<bool>(),
    ) {
        let on_quota = |rejects| if rejects { OnQuota::Reject } else { OnQuota::Queue };
        let mut input = tenant("acme", "pro");
        let (jobs, queued, hourly, cores) = limits;
        (input.quotas.max_jobs, input.quotas.max_queued_jobs) = (jobs, queued);
        (input.quotas.max_jobs_per_hour, input.quotas.max_cpu_cores) = (hourly, cores);
        let names: Vec<String> = (0..nodes.len()).map(|n| format!("n{n}")).collect();
        let workers = names.iter().zip(&nodes).map(|(name, cores)| (name.as_str(), worker("acme", *cores)));
        let mut dispatcher = decide(&[input], workers.collect(), vec![]);
        for (n, (cores, runs, rejects)) in others.into_iter().enumerate() {
            let other = JobInput { on_quota: on_quota(rejects), ..job(&format!("o{n}"), "acme", cpu(cores)) };
            match names.first().filter(|_| runs) {
                Some(node) => running(&mut dispatcher, node, other),
                None => dispatcher.set_job(other),
            }
        }
        dispatcher.decide();
        // Another size than any other job's: it is assessed by itself.
        let size = Resources { cpu_milli: asked * 1000 - 500, ..cpu(1) };
        let group = pool.then(|| "elsewhere".into());
        let new = at(60, JobInput { on_quota: on_quota(rejects), group, ..job("new", "acme", size) });
        let (said, verdict) = both(&mut dispatcher, new);
        // Afterwards no more of those before it are counted than the limit needs.
        let reason = |refusal: Rejection| refusal.map(|(reason, _)| reason);
        prop_assert_eq!(reason(said), reason(verdict));
    }
}

#[test]
fn nothing_is_rejected_for_an_unknown_or_closed_tenant_or_an_unreadable_number() {
    let huge = || JobInput { on_quota: OnQuota::Reject, ..job("new", "acme", cpu(1_000_000)) };
    let mut dispatcher = Dispatcher::default();
    assert_eq!(dispatcher.assess_prospective(&prospective(&huge()), ClockReading::default()), None);
    dispatcher.set_tenant("acme", Some(tenant("acme", "free")));
    dispatcher.decide();
    let said = dispatcher.assess_prospective(&prospective(&huge()), ClockReading::default());
    assert_eq!(said.unwrap().0, Reason::ExceedsQuota);
    let unreadable = crate::api_types::Quantity("x".to_owned()).milli().unwrap_err();
    let unreadable = crate::domain::resources::AskError::Field { field: "cpu", source: unreadable };
    let unreadable = JobInput { asked: Err(unreadable), ..huge() };
    let said = dispatcher.assess_prospective(&prospective(&unreadable), ClockReading::default());
    assert_eq!(said, None, "the API server refuses it in its own words");
    let closed = Some((Reason::TenantSuspended, "suspended".to_owned()));
    dispatcher.set_tenant("acme", Some(TenantInput { closed, ..tenant("acme", "free") }));
    assert_eq!(dispatcher.assess_prospective(&prospective(&huge()), ClockReading::default()), None);
}
