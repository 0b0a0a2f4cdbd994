//! A copy of what the estimates of one moment depend on, which they share: to copy it takes longer than many an estimate, and
//! the scheduler waits for it.

use std::{collections::HashMap, sync::Arc};

use super::{Forecast, Unknown, arrivals::Pattern, job_times::Expected};
use crate::{
    clock::ClockReading,
    domain::admission::{Dispatcher, PoolShare, Stage},
};

/// The scheduler's state, and the times of jobs as far as estimates have asked for them.
#[derive(Debug)]
pub struct StateCopy {
    dispatcher: Arc<Dispatcher>,
    now: ClockReading,
    /// By namespace.
    contentions: HashMap<Arc<str>, Arc<Contention>>,
}

/// The jobs of tenants whose starts depend on each other.
#[derive(Debug)]
pub struct Contention {
    pub(super) namespaces: Vec<Arc<str>>,
    /// Their jobs, in an order that does not depend on chance.
    pub(super) order: Vec<(Arc<str>, Stage)>,
    pub(super) jobs: HashMap<Arc<str>, Expected>,
    /// What the tenants will submit.
    pub(super) patterns: Vec<Pattern>,
}

impl StateCopy {
    /// A copy of the scheduler's state as it is now.
    #[must_use]
    pub fn new(dispatcher: Dispatcher, now: ClockReading) -> Self {
        Self { dispatcher: Arc::new(dispatcher), now, contentions: HashMap::new() }
    }

    /// The scheduler's state.
    pub(super) fn dispatcher(&self) -> &Dispatcher {
        &self.dispatcher
    }

    /// When it was copied.
    #[must_use]
    pub fn now(&self) -> ClockReading {
        self.now
    }

    /// Whether a job, by UID, waits or runs in it.
    #[must_use]
    pub fn has(&self, uid: &str) -> bool {
        self.dispatcher.unfinished_job(uid).is_some()
    }

    /// What the tenant of a job, by UID, has of each shared pool that the job may use.
    #[must_use]
    pub fn pool_shares(&self, uid: &str) -> Vec<PoolShare> {
        self.dispatcher.pool_shares(uid)
    }

    /// What is needed to estimate the start of a job, by UID. `contention` copies what is known of the tenant of a namespace and
    /// of those that it depends on; it is called once for all of these.
    ///
    /// # Errors
    /// Where it is known without any forecast that the start can't be.
    pub fn forecast(
        &mut self,
        uid: &str,
        contention: impl FnOnce(&Self, &str) -> Contention,
    ) -> Result<Forecast, Unknown> {
        let (job, _) = self.dispatcher.unfinished_job(uid).ok_or(Unknown::NotScheduled)?;
        let namespace = Arc::clone(&job.namespace);
        let tenant = self.dispatcher.tenant_input(&namespace);
        if let Some((_, message)) = tenant.and_then(|tenant| tenant.closed.as_ref()) {
            return Err(Unknown::Never(message.clone()));
        }
        let contention = match self.contentions.get(&namespace) {
            Some(known) => Arc::clone(known),
            None => {
                let contention = Arc::new(contention(self, &namespace));
                let namespaces = contention.namespaces.iter();
                self.contentions
                    .extend(namespaces.map(|namespace| (Arc::clone(namespace), Arc::clone(&contention))));
                contention
            }
        };
        Ok(Forecast { dispatcher: Arc::clone(&self.dispatcher), now: self.now, job: uid.into(), contention })
    }
}
