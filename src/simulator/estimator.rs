//! Estimates starts in a simulation, as `GET /jobs/{id}/why` does.
//!
//! It knows what the operator would: the state of admission, what runs since when, and how long the tenant's own jobs ran
//! before. A trace has neither images nor scenarios, so all jobs of a tenant count as of one image.

use std::{collections::HashSet, sync::Arc};

use jiff::Timestamp;

use crate::{
    clock::ClockReading,
    domain::{
        admission::Dispatcher,
        estimate::{
            Estimate, Outlook, Unknown,
            history::{Kind, PastRun},
        },
    },
};

/// Estimates when some jobs start.
#[derive(Debug, Default)]
pub struct Estimator {
    /// What the estimates go by.
    pub outlook: Outlook,
    /// Jobs to ask about, by number.
    jobs: HashSet<usize>,
}

/// A job, by number, and when it was estimated to start, from when it began to wait.
pub type Estimated = (usize, Result<Estimate, Unknown>);

impl Estimator {
    /// One that asks about these jobs, by number.
    #[must_use]
    pub fn new(jobs: HashSet<usize>) -> Self {
        Self { outlook: Outlook::default(), jobs }
    }

    /// What all jobs of a tenant run.
    #[must_use]
    pub fn kind(namespace: &str) -> Kind {
        Kind::image(namespace)
    }

    /// Estimates the start of a job, unless it is none to ask about.
    pub fn ask(
        &mut self,
        number: usize,
        uid: &str,
        dispatcher: &Dispatcher,
        now: ClockReading,
    ) -> Option<Estimated> {
        self.jobs.contains(&number).then(|| {
            let forecast = self.outlook.forecast(dispatcher.clone(), uid, now);
            (number, forecast.and_then(|forecast| forecast.estimate(number as u64, || true)))
        })
    }

    /// Notes that a job has ended, and how long its last attempt ran; one that was rejected has none.
    pub fn ended(
        &mut self,
        namespace: &Arc<str>,
        uid: &Arc<str>,
        attempt: u32,
        started: Timestamp,
        finished: Timestamp,
    ) {
        self.outlook.remove(uid);
        let ran = finished.duration_since(started);
        let run = PastRun { job: Arc::clone(uid), attempt, finished, ran };
        self.outlook.add_run(namespace, &[Self::kind(namespace)], &run);
    }
}
