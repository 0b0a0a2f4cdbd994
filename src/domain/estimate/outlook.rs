//! What an estimate needs to know of jobs, apart from what admission does: what they run, since when, and up to when; and
//! what ran and what was submitted before.

use std::{collections::HashMap, sync::Arc};

use super::{
    Forecast, Unknown,
    arrivals::Arrivals,
    history::{History, Kind, PastRun},
    job_times::{Expected, JobTimes},
    state_copy::{Contention, StateCopy},
};
use crate::{
    api_types::plan::Limit,
    clock::ClockReading,
    domain::admission::{Dispatcher, JobInput},
};

/// The times of all jobs, how long jobs ran before, and when jobs were submitted.
#[derive(Clone, Debug, Default)]
pub struct Outlook {
    jobs: HashMap<Arc<str>, JobTimes>,
    history: History,
    arrivals: Arrivals,
}

impl Outlook {
    /// Sets the times of a job.
    pub fn set(&mut self, job: &JobInput, times: JobTimes) {
        self.arrivals.add(job, &times);
        self.jobs.insert(Arc::clone(&job.uid), times);
    }

    /// Notes that a job was submitted, which has ended by now.
    pub fn submitted(&mut self, job: &JobInput, times: &JobTimes) {
        self.arrivals.add(job, times);
    }

    /// Drops all that is known of the tenant of a namespace.
    pub fn forget(&mut self, namespace: &str) {
        self.history.forget(namespace);
        self.arrivals.forget(namespace);
    }

    /// What a job runs, by UID, while it has not ended.
    #[must_use]
    pub fn kinds(&self, uid: &str) -> Option<&[Kind]> {
        self.jobs.get(uid).map(|times| times.kinds.as_slice())
    }

    /// Drops those of a job that has ended or is deleted.
    pub fn remove(&mut self, uid: &str) {
        self.jobs.remove(uid);
    }

    /// Adds an attempt that has ended to the history of each of its kinds.
    pub fn add_run(&mut self, namespace: &Arc<str>, kinds: &[Kind], run: &PastRun) {
        kinds.iter().for_each(|kind| self.history.add(namespace, *kind, run));
    }

    /// What is needed to estimate the start of a job, by UID: `dispatcher` is a copy of the scheduler's.
    ///
    /// # Errors
    /// As [`StateCopy::forecast`].
    pub fn forecast(
        &mut self,
        dispatcher: Dispatcher,
        uid: &str,
        now: ClockReading,
    ) -> Result<Forecast, Unknown> {
        StateCopy::new(dispatcher, now).forecast(uid, |copy, namespace| self.contention(copy, namespace))
    }

    /// Copies what is known of the jobs of a tenant, by namespace, and of all on which their starts depend.
    #[must_use]
    pub fn contention(&mut self, copy: &StateCopy, namespace: &str) -> Contention {
        let (dispatcher, now) = (copy.dispatcher(), copy.now());
        let contenders = dispatcher.contenders(namespace);
        let concerned = dispatcher.unfinished().filter(|(job, _)| contenders.contains(&*job.namespace));
        let minutes = |namespace: &str| {
            let tenant = dispatcher.tenant_input(namespace);
            tenant.map_or(Limit::Unlimited, |tenant| Limit::from_quota(tenant.quotas.job_timeout_minutes))
        };
        let (mut order, mut jobs, mut patterns) = (Vec::new(), HashMap::new(), Vec::new());
        let unknown = JobTimes::default();
        for (job, stage) in concerned {
            order.push((Arc::clone(&job.uid), stage));
            let times = self.jobs.get(&job.uid).unwrap_or(&unknown);
            let expected =
                Expected::of(&mut self.history, &job.namespace, times, minutes(&job.namespace), now.wall);
            jobs.insert(Arc::clone(&job.uid), expected);
        }
        let mut contenders: Vec<&str> = contenders.into_iter().collect();
        contenders.sort_unstable();
        for namespace in &contenders {
            let history = &mut self.history;
            let expected =
                |times: &JobTimes| Expected::of(history, namespace, times, minutes(namespace), now.wall);
            patterns.extend(self.arrivals.pattern(namespace, now.wall, expected));
        }
        let namespaces = contenders.into_iter().map(Arc::from).collect();
        Contention { namespaces, order, jobs, patterns }
    }
}
