//! When a waiting job starts, for the response of `GET /jobs/{id}/why`.
//!
//! An estimate takes up to [`MAX_COMPUTING`] of one core, whatever the length of the queue. One is computed at a time, apart
//! from what serves requests, so any number of requests takes at most one core; the next ones wait a moment, tenants by round
//! robin, and then the start is unknown. A result is kept for [`KEPT`], for all that ask about the job.

use std::{
    hash::BuildHasher as _,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use jiff::SignedDuration;
use moka::future::Cache;
use schemars::JsonSchema;
use serde::Serialize;
use tokio::time::{sleep, timeout};
use uuid::Uuid;

use crate::{
    clock::Clock,
    domain::{
        admission::PoolShare,
        estimate::{Estimate, Unknown},
    },
    fair_semaphore::FairSemaphore,
    scheduler::SchedulerHandle,
};

/// How long one estimate computes at most; with what it has by then it is less exact, or unknown.
const MAX_COMPUTING: SignedDuration = SignedDuration::from_millis(500);
/// How long a request waits for others' estimates.
const MAX_WAITING: Duration = Duration::from_secs(2);
/// How long an estimate is kept.
const KEPT: Duration = Duration::from_secs(2);
/// How often it is looked whether the copy of the scheduler's state, which takes memory, is old.
const FREEING: Duration = Duration::from_secs(2);
/// Estimates that are kept.
const MAX_KEPT: u64 = 1000;

/// An estimate says when a waiting job starts: either two times, or why they can't be known.
#[derive(Clone, Debug, Default, PartialEq, Serialize, JsonSchema)]
pub struct StartEstimate {
    /// This is the number of seconds within which the job starts with a probability of one half.
    #[serde(skip_serializing_if = "Option::is_none")]
    starts_in_seconds_p50: Option<u64>,
    /// This is the number of seconds within which the job starts with a probability of nine tenths.
    #[serde(skip_serializing_if = "Option::is_none")]
    starts_in_seconds_p90: Option<u64>,
    /// This sentence says why it can't be known when the job starts.
    #[serde(skip_serializing_if = "Option::is_none")]
    unknown: Option<String>,
}

impl From<Result<Estimate, Unknown>> for StartEstimate {
    fn from(result: Result<Estimate, Unknown>) -> Self {
        let seconds =
            |duration: SignedDuration| u64::try_from(duration.as_millis()).unwrap_or(0).div_ceil(1000);
        match result {
            Ok(Estimate { median, ninth_decile }) => Self {
                starts_in_seconds_p50: Some(seconds(median)),
                starts_in_seconds_p90: Some(seconds(ninth_decile)),
                unknown: None,
            },
            Err(why) => Self::unknown(why.to_string()),
        }
    }
}

impl StartEstimate {
    /// One that is not known.
    fn unknown(why: impl Into<String>) -> Self {
        Self { unknown: Some(why.into()), ..Self::default() }
    }
}

/// What decides when a job starts, by the copy of the scheduler's state.
#[derive(Clone, Default)]
pub(super) struct Start {
    pub(super) estimate: StartEstimate,
    /// What the job's tenant has of each shared pool that the job may use.
    pub(super) shares: Vec<PoolShare>,
}

impl Start {
    /// One of which nothing is known.
    pub(super) fn unknown(why: impl Into<String>) -> Self {
        Self { estimate: StartEstimate::unknown(why), shares: Vec::new() }
    }
}

/// Computes estimates and keeps them for a moment. Cheap to clone; all clones share them.
#[derive(Clone)]
pub struct Estimates {
    computing: FairSemaphore,
    /// Whether the copy of the scheduler's state will be freed.
    will_forget: Arc<AtomicBool>,
    /// By UID of the job.
    kept: Cache<String, Start>,
}

impl Default for Estimates {
    fn default() -> Self {
        Self {
            computing: FairSemaphore::new(1),
            will_forget: Arc::default(),
            kept: Cache::builder().max_capacity(MAX_KEPT).time_to_live(KEPT).build(),
        }
    }
}

/// Others' estimates take too long.
#[derive(Clone, Debug, thiserror::Error)]
#[error("too many estimates are requested at the moment: try again in a few seconds")]
struct Busy;

impl Estimates {
    /// When a job of a tenant, both by UID, starts.
    pub(super) async fn of(
        &self,
        tenant: Uuid,
        job_uid: &str,
        scheduler: &SchedulerHandle,
        clock: &Clock,
    ) -> Start {
        let compute = self.compute(tenant, job_uid.to_owned(), scheduler.clone(), clock.clone());
        let kept = self.kept.try_get_with_by_ref(job_uid, compute).await;
        kept.unwrap_or_else(|busy| Start::unknown(busy.to_string()))
    }

    async fn compute(
        &self,
        tenant: Uuid,
        uid: String,
        scheduler: SchedulerHandle,
        clock: Clock,
    ) -> Result<Start, Busy> {
        let permit = timeout(MAX_WAITING, self.computing.acquire(tenant)).await.map_err(|_| Busy)?;
        self.forget_later(&scheduler, &clock);
        let computed = tokio::task::spawn_blocking(move || {
            // Held to the end also where the request is gone.
            let _permit = permit;
            let forecast = scheduler.forecast(&uid, &clock);
            // From here on: a copy of the state may take as long as an estimate.
            let end = clock.steady().saturating_add(MAX_COMPUTING).ok();
            let may_continue = || end.is_some_and(|end| clock.steady() < end);
            let estimate = forecast.and_then(|forecast| forecast.estimate(seed(&uid), may_continue));
            Start { estimate: estimate.into(), shares: scheduler.copied_pool_shares(&uid) }
        });
        computed.await.map_err(|_| Busy)
    }

    /// Frees the copy of the scheduler's state after a while.
    fn forget_later(&self, scheduler: &SchedulerHandle, clock: &Clock) {
        if self.will_forget.swap(true, Ordering::Relaxed) {
            return;
        }
        let (will_forget, scheduler, clock) =
            (Arc::clone(&self.will_forget), scheduler.clone(), clock.clone());
        tokio::spawn(async move {
            loop {
                sleep(FREEING).await;
                will_forget.store(false, Ordering::Relaxed);
                // It waits for an estimate that is just made, and frees much.
                let (scheduler, clock) = (scheduler.clone(), clock.clone());
                let forgotten = tokio::task::spawn_blocking(move || scheduler.forget_copy(&clock)).await;
                // What a request has copied since it began is the next task's.
                if forgotten.unwrap_or(true) || will_forget.swap(true, Ordering::Relaxed) {
                    break;
                }
            }
        });
    }
}

/// The same for the same job, so that one whose queue does not change has the same estimate again.
fn seed(uid: &str) -> u64 {
    std::hash::BuildHasherDefault::<std::hash::DefaultHasher>::default().hash_one(uid)
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[test]
    fn seconds_are_rounded_up() {
        let (median, ninth_decile) = (SignedDuration::from_millis(1), SignedDuration::from_millis(2000));
        let known = StartEstimate::from(Ok(Estimate { median, ninth_decile }));
        assert_eq!((known.starts_in_seconds_p50, known.starts_in_seconds_p90), (Some(1), Some(2)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_waits_too_long_for_others_is_refused_and_the_next_is_not() {
        let (estimates, scheduler) = (Estimates::default(), SchedulerHandle::default());
        let tenant = Uuid::from_u128;
        let other = estimates.computing.acquire(tenant(1)).await;
        let busy = estimates.of(tenant(1), "j", &scheduler, &Clock::system()).await;
        assert!(busy.estimate.unknown.unwrap().contains("too many estimates"));
        drop(other);
        let answered = estimates.of(tenant(1), "j", &scheduler, &Clock::system()).await;
        assert!(answered.estimate.unknown.unwrap().contains("has not seen the job"), "a refusal is not kept");
    }

    #[tokio::test(start_paused = true)]
    async fn a_tenant_that_requests_many_does_not_keep_another_one_from_its_own() {
        // Given: an estimate that is computed, and many requests of one tenant that wait.
        let (estimates, clock) = (Estimates::default(), Clock::system());
        let busy = estimates.computing.acquire(Uuid::from_u128(1)).await;
        let ask = |tenant: u128, job: String| {
            let (estimates, clock) = (estimates.clone(), clock.clone());
            let scheduler = SchedulerHandle::default();
            async move { estimates.of(Uuid::from_u128(tenant), &job, &scheduler, &clock).await }.boxed()
        };
        let mut many: Vec<_> = (0..100).map(|job| ask(1, job.to_string())).collect();
        assert!(many.iter_mut().all(|request| request.now_or_never().is_none()));
        // Then another tenant is second.
        let mut other = ask(2, "other".to_owned());
        assert!((&mut other).now_or_never().is_none());
        drop(busy);
        drop(many.remove(0).await);
        let answered = other.await.estimate.unknown.unwrap();
        assert!(answered.contains("has not seen the job"), "{answered}");
        assert!(many.iter_mut().skip(1).all(|request| request.now_or_never().is_none()));
    }
}
