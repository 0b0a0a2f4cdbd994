//! One token bucket for all status writes that are a courtesy.
//!
//! A write is a courtesy where no client and no controller waits for it: why a job waits, what a tenant uses, how far a
//! deletion is. When thousands are due at once, they would take the API server's time from the writes that start and end
//! jobs. So each takes a token. Tokens are added while no jobs are admitted, and a part of one with each admission: an
//! admission keeps the API server busy for a while. Changes of phase take no token and are never deferred.
//!
//! Each kind of write may have a burst of tokens. New tokens are shared evenly by the kinds that miss some, so that many
//! writes of one kind defer those of another by half at most. Tenant statuses get a few by time in any case: usage changes
//! with each job that starts or ends, so it would be late just where it matters.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};

/// Tokens of a kind of writes in a full bucket: reasons of waiting jobs, and statuses of tenants.
const REASON_BURST: f64 = 250.0;
const TENANT_BURST: f64 = 50.0;
/// Tokens added each second while nothing is admitted.
const REFILL_PER_SECOND: f64 = 200.0;
/// Tokens for tenant statuses that are added each second in any case.
const TENANT_REFILL_PER_SECOND: f64 = 5.0;
/// Tokens added with each admission. Most jobs of a queue that moves so fast start before they would get a reason.
const REFILL_PER_ADMISSION: f64 = 0.25;

/// For how long an admission keeps the API server busy: a pod is created, and the charge of another one is stored.
const BUSY_PER_ADMISSION: SignedDuration = SignedDuration::from_millis(200);
/// The longest that many together do. An API server that has too much to do starts nothing for some seconds, and reasons
/// would only add to that.
const MAX_BUSY: SignedDuration = SignedDuration::from_secs(10);
/// Bounds of the time after which a deferred write is tried again.
const RETRY_AFTER: [f64; 2] = [0.2, 5.0];

/// Kinds of writes that share the budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Courtesy {
    /// Why a job waits, in Job status.
    Reason,
    /// Usage and the progress of a deletion, in Tenant status.
    TenantStatus,
}

/// The budget. Cheap to clone; all clones share the tokens. Times are those of a clock that does not step
/// ([`Clock::steady`](crate::clock::Clock::steady)).
#[derive(Clone, Debug, Default)]
pub struct CourtesyBudget(Arc<Mutex<TokenBucket>>);

/// The right to one write as soon as all that were reserved before it have their tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reservation(u64);

#[derive(Debug)]
struct TokenBucket {
    reasons: Tokens,
    tenants: Tokens,
    /// When tokens were added last.
    refilled: Timestamp,
    /// Until when tokens were added for time without admissions; in the future while admissions keep the API server busy.
    counted: Timestamp,
}

/// The tokens of one kind, counted from the start.
#[derive(Debug)]
struct Tokens {
    burst: f64,
    granted: f64,
    taken: u64,
}

impl CourtesyBudget {
    fn bucket(&self) -> MutexGuard<'_, TokenBucket> {
        // Each method leaves the bucket whole, so a poisoned lock holds nothing broken.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records jobs that were admitted since the last call.
    pub fn admitted(&self, now: Timestamp, jobs: usize) {
        self.bucket().admitted(now, jobs);
    }

    /// The number of whole tokens for writes of a kind.
    #[must_use]
    pub fn available(&self, kind: Courtesy, now: Timestamp) -> usize {
        let mut bucket = self.bucket();
        bucket.refill(now);
        bucket.of(kind).whole()
    }

    /// Takes tokens for writes of a kind, which [`Self::available`] has said are there.
    pub fn take(&self, kind: Courtesy, writes: usize) {
        let tokens = &mut *self.bucket();
        tokens.of(kind).taken += writes as u64;
    }

    /// Takes a token for one write, where there is one.
    #[must_use]
    pub fn try_take(&self, kind: Courtesy, now: Timestamp) -> bool {
        let mut bucket = self.bucket();
        bucket.refill(now);
        let tokens = bucket.of(kind);
        let is_available = tokens.whole() > 0;
        tokens.taken += u64::from(is_available);
        is_available
    }

    /// Reserves the next token for one write of a kind.
    #[must_use]
    pub fn reserve(&self, kind: Courtesy) -> Reservation {
        let mut bucket = self.bucket();
        let tokens = bucket.of(kind);
        tokens.taken += 1;
        Reservation(tokens.taken)
    }

    /// After what time to try the reserved write again; `None` when it has its token.
    #[must_use]
    pub fn wait(&self, kind: Courtesy, reserved: Reservation, now: Timestamp) -> Option<Duration> {
        let mut bucket = self.bucket();
        bucket.refill(now);
        let missing = reserved.0 as f64 - bucket.of(kind).granted;
        let [shortest, longest] = RETRY_AFTER;
        let after = (missing / REFILL_PER_SECOND).clamp(shortest, longest);
        (missing > 0.0).then(|| Duration::from_secs_f64(after))
    }
}

impl Default for TokenBucket {
    fn default() -> Self {
        let full = |burst| Tokens { burst, granted: burst, taken: 0 };
        let (reasons, tenants) = (full(REASON_BURST), full(TENANT_BURST));
        Self { reasons, tenants, refilled: Timestamp::MIN, counted: Timestamp::MIN }
    }
}

impl TokenBucket {
    fn of(&mut self, kind: Courtesy) -> &mut Tokens {
        match kind {
            Courtesy::Reason => &mut self.reasons,
            Courtesy::TenantStatus => &mut self.tenants,
        }
    }

    /// Adds the tokens of the time since the last call.
    fn refill(&mut self, now: Timestamp) {
        let elapsed = now.duration_since(self.refilled).as_secs_f64().max(0.0);
        self.tenants.granted += self.tenants.room().min(elapsed * TENANT_REFILL_PER_SECOND);
        self.refilled = now;
        let counted = self.counted.min(at_latest(now));
        let quiet = now.duration_since(counted).as_secs_f64().max(0.0);
        self.share_out(quiet * REFILL_PER_SECOND);
        self.counted = counted.max(now);
    }

    fn admitted(&mut self, now: Timestamp, jobs: usize) {
        self.refill(now);
        self.share_out(jobs as f64 * REFILL_PER_ADMISSION);
        let (busy, at_latest) =
            (BUSY_PER_ADMISSION * i32::try_from(jobs).unwrap_or(i32::MAX), at_latest(now));
        self.counted = self.counted.saturating_add(busy).unwrap_or(at_latest).min(at_latest);
    }

    /// Half of the tokens to each kind; what one has no room for, to the other.
    fn share_out(&mut self, tokens: f64) {
        let (mut less, mut more) = (&mut self.reasons, &mut self.tenants);
        if less.room() > more.room() {
            (less, more) = (more, less);
        }
        let first = less.room().min(tokens / 2.0);
        less.granted += first;
        more.granted += more.room().min(tokens - first);
    }
}

impl Tokens {
    /// Negative while reserved writes wait.
    fn left(&self) -> f64 {
        self.granted - self.taken as f64
    }

    fn room(&self) -> f64 {
        self.burst - self.left()
    }

    fn whole(&self) -> usize {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "at most a burst, and not below 0"
        )]
        let whole = self.left().max(0.0) as usize;
        whole
    }
}

fn at_latest(now: Timestamp) -> Timestamp {
    now.saturating_add(MAX_BUSY).unwrap_or(now)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millisecond(millis).unwrap()
    }

    /// The tokens for reasons, with the number of jobs admitted since the last call.
    fn available(budget: &CourtesyBudget, now: Timestamp, admitted: usize) -> usize {
        budget.admitted(now, admitted);
        budget.available(Courtesy::Reason, now)
    }

    fn take(budget: &CourtesyBudget, reasons: usize) {
        budget.take(Courtesy::Reason, reasons);
    }

    /// A budget without tokens for reasons, and with all for tenants.
    fn used_up() -> CourtesyBudget {
        let budget = CourtesyBudget::default();
        assert_eq!(available(&budget, at(0), 0), 250);
        take(&budget, 250);
        budget
    }

    #[test]
    fn it_refills_while_nothing_is_admitted() {
        let budget = used_up();
        assert_eq!(available(&budget, at(500), 0), 100);
        take(&budget, 60);
        assert_eq!(available(&budget, at(0), 0), 40, "a clock set back gives nothing");
        assert_eq!(available(&budget, at(60_000), 0), 250, "and no more than that");
    }

    #[test]
    fn while_jobs_are_admitted_each_adds_a_quarter_token() {
        let budget = used_up();
        for second in 1..=10 {
            available(&budget, at(second * 1000), 8);
        }
        assert_eq!(
            available(&budget, at(10_500), 0),
            220,
            "from a second in which nothing was, and 80 that were"
        );
        take(&budget, 220);
        for second in 11..=20 {
            available(&budget, at(second * 1000), 1);
        }
        assert_eq!(available(&budget, at(20_500), 0), 250, "few leave time enough");
        take(&budget, 250);
        assert_eq!(available(&budget, at(20_500), 1000), 250);
        take(&budget, 250);
        assert_eq!(available(&budget, at(30_500), 0), 0, "many at once are under way for a while");
        assert_eq!(available(&budget, at(31_500), 0), 200);
    }

    #[test]
    fn a_clock_set_back_does_not_stop_it() {
        let budget = used_up();
        available(&budget, at(1_000_000), 0);
        take(&budget, 250);
        assert_eq!(available(&budget, at(1000), 0), 0);
        assert_eq!(available(&budget, at(12_000), 0), 200);
    }

    #[test]
    fn reserved_writes_have_their_tokens_in_order() {
        let (budget, kind) = (CourtesyBudget::default(), Courtesy::TenantStatus);
        budget.admitted(at(0), 0);
        let reserved: Vec<_> = (0..53).map(|_| budget.reserve(kind)).collect();
        let ready = |now| reserved.iter().filter(|one| budget.wait(kind, **one, now).is_none()).count();
        assert_eq!(ready(at(0)), 50, "a burst");
        assert_eq!(budget.wait(kind, reserved[52], at(0)), Some(Duration::from_millis(200)));
        assert!(!budget.try_take(kind, at(0)));
        assert_eq!(ready(at(5)), 51, "the first of the others");
        assert_eq!(ready(at(1000)), 53);
        assert!(budget.try_take(kind, at(1000)));
        assert_eq!(budget.available(kind, at(60_000)), 50, "no more than a burst is kept");
    }

    #[test]
    fn tenant_statuses_have_five_tokens_a_second_whatever_is_admitted() {
        let (budget, kind) = (used_up(), Courtesy::TenantStatus);
        let reserved: Vec<_> = (0..150).map(|_| budget.reserve(kind)).collect();
        let ready = |now| reserved.iter().filter(|one| budget.wait(kind, **one, now).is_none()).count();
        // Enough that no time is left without admissions; their own tokens are shared with the reasons.
        for second in 0..=10 {
            budget.admitted(at(second * 1000), 8);
        }
        assert_eq!(ready(at(10_000)), 50 + 10 * 5 + 11);
        assert_eq!(budget.available(Courtesy::Reason, at(10_000)), 11);
    }

    #[test]
    fn a_deferred_write_is_tried_again_within_seconds_however_many_wait() {
        let (budget, kind) = (CourtesyBudget::default(), Courtesy::TenantStatus);
        budget.admitted(at(0), 0);
        let reserved: Vec<_> = (0..100_000).map(|_| budget.reserve(kind)).collect();
        assert_eq!(budget.wait(kind, reserved[99_999], at(0)), Some(Duration::from_secs(5)));
    }

    #[test]
    fn neither_kind_defers_the_other_by_more_than_half() {
        let budget = used_up();
        let reserved: Vec<_> = (0..1050).map(|_| budget.reserve(Courtesy::TenantStatus)).collect();
        let ready = |now| {
            let has_token = |one: &&Reservation| budget.wait(Courtesy::TenantStatus, **one, now).is_none();
            reserved.iter().filter(has_token).count()
        };
        assert_eq!(ready(at(0)), 50);
        assert_eq!(available(&budget, at(1000), 0), 100, "half of a second's");
        assert_eq!(ready(at(1000)), 155, "the other half, and five in any case");
        // Under load the same holds for what admissions add.
        budget.admitted(at(1000), 400);
        take(&budget, 100);
        assert_eq!((budget.available(Courtesy::Reason, at(1000)), ready(at(1000))), (50, 205));
        // The reasons are full again, so usage has all the rest.
        assert_eq!(available(&budget, at(60_000), 0), 250);
        assert_eq!(ready(at(60_000)), 1050);
    }
}
