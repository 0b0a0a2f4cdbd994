//! The order of one tenant's waiting jobs.
//!
//! A job's score is its queue (live 10, default 5, batch 1) times ten plus its priority (high 3, medium 2, low 1); the
//! higher score is first, and within a score the job that was submitted first. Waiting raises a job's priority: every five
//! minutes are worth one point of the score, without a bound, so that nothing starves. A batch/low job (11) is as high
//! as one of batch/high (13) submitted ten minutes after it, of default/low (51) after 3 h 20 min, and of live/high
//! (103), the highest score, after 7 h 40 min; from then on no new job comes before it.
//!
//! Both jobs of a comparison age at the same pace, so the difference between them never changes: the order follows
//! from when the jobs were submitted and from their scores, not from the time of the decision. It is total, no two jobs
//! ever change their order, and it needs no clock. Waiting counts from the submission of the job, also for a retry.

use std::sync::Arc;

use jiff::Timestamp;

use crate::api_types::job::{Priority, Queue};

/// Waiting this long, in milliseconds, is worth one point of the score.
const AGING_MILLIS: i64 = 5 * 60 * 1000;

/// What a job's queue is worth: ten times 10, 5 or 1.
#[must_use]
pub fn queue_points(queue: Queue) -> u8 {
    match queue {
        Queue::Live => 100,
        Queue::Default => 50,
        Queue::Batch => 10,
    }
}

/// What a job's priority is worth, from 1 to 3.
#[must_use]
pub fn priority_points(priority: Priority) -> u8 {
    match priority {
        Priority::High => 3,
        Priority::Medium => 2,
        Priority::Low => 1,
    }
}

/// What a job's queue and priority are worth, from 11 to 103.
#[must_use]
pub fn score(queue: Queue, priority: Priority) -> u8 {
    queue_points(queue) + priority_points(priority)
}

/// What it is worth to have waited since `created`, in hundredths of a point. A clock that was set back takes nothing away.
#[must_use]
pub fn aging_hundredths(created: Timestamp, now: Timestamp) -> u64 {
    let waited = now.as_millisecond().saturating_sub(created.as_millisecond());
    u64::try_from(waited / (AGING_MILLIS / 100)).unwrap_or(0)
}

/// Where a job comes in the order of its tenant; the lowest is next.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank {
    /// Submission, put forward by what the score is worth, in milliseconds.
    effective_since: i64,
    submission: Submission,
}

/// When a job was submitted, the oldest first; the UID decides between jobs of the same second.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Submission(Timestamp, Arc<str>);

impl Rank {
    /// The rank of a job submitted at `created`.
    #[must_use]
    pub fn new(queue: Queue, priority: Priority, created: Timestamp, uid: Arc<str>) -> Self {
        let ahead = i64::from(score(queue, priority)) * AGING_MILLIS;
        Self {
            effective_since: created.as_millisecond().saturating_sub(ahead),
            submission: Submission(created, uid),
        }
    }

    /// Submission, put forward by what queue and priority are worth, in milliseconds: the least is first.
    #[must_use]
    pub fn effective_since(&self) -> i64 {
        self.effective_since
    }

    /// The order by submission alone.
    #[must_use]
    pub fn submission(&self) -> &Submission {
        &self.submission
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const QUEUES: [Queue; 3] = [Queue::Live, Queue::Default, Queue::Batch];
    const PRIORITIES: [Priority; 3] = [Priority::High, Priority::Medium, Priority::Low];

    fn rank(queue: Queue, priority: Priority, minute: i64, uid: &str) -> Rank {
        Rank::new(queue, priority, Timestamp::from_second(minute * 60).unwrap(), uid.into())
    }

    #[test]
    fn the_nine_scores() {
        let all: Vec<u8> = QUEUES.iter().flat_map(|q| PRIORITIES.iter().map(|p| score(*q, *p))).collect();
        assert_eq!(all, [103, 102, 101, 53, 52, 51, 13, 12, 11]);
    }

    #[test]
    fn five_minutes_are_worth_a_point() {
        let at = |second| Timestamp::from_second(second).unwrap();
        assert_eq!(aging_hundredths(at(0), at(299)), 99);
        assert_eq!(aging_hundredths(at(0), at(300)), 100);
        assert_eq!(aging_hundredths(at(9), at(0)), 0, "the clock was set back");
        assert_eq!(aging_hundredths(Timestamp::MIN, Timestamp::MAX), 210_369_076_800);
    }

    #[test]
    fn within_a_score_by_submission_and_then_by_uid() {
        let of = |minute, uid| rank(Queue::Default, Priority::Medium, minute, uid);
        assert!(of(0, "b") < of(1, "a"));
        assert!(of(0, "a") < of(0, "b"));
    }

    #[test]
    fn a_batch_job_comes_before_all_others_after_the_times_in_the_text() {
        let old = rank(Queue::Batch, Priority::Low, 0, "old");
        for (queue, priority, minutes) in [
            (Queue::Batch, Priority::High, 10),
            (Queue::Default, Priority::Low, 200),
            (Queue::Live, Priority::Low, 450),
            (Queue::Live, Priority::High, 460),
        ] {
            assert!(rank(queue, priority, minutes - 1, "new") < old, "{queue:?} before {minutes} minutes");
            assert!(old < rank(queue, priority, minutes, "new"), "{queue:?} after {minutes} minutes");
        }
    }

    prop_compose! {
        fn job()(queue in 0_usize..3, priority in 0_usize..3, minute in 0_i64..2000, uid in "[a-c]{1,2}")
            -> (Queue, Priority, i64, String) { (QUEUES[queue], PRIORITIES[priority], minute, uid) }
    }

    fn of(job: &(Queue, Priority, i64, String)) -> Rank {
        rank(job.0, job.1, job.2, &job.3)
    }

    proptest! {
        /// Two jobs are never equal; waiting longer never puts a job later; after 460 minutes it comes before any new one.
        #[test]
        fn total_monotone_and_without_starvation(a in job(), b in job(), longer in 1_i64..1000) {
            prop_assert_eq!(of(&a) == of(&b), a.3 == b.3 && a.2 == b.2 && score(a.0, a.1) == score(b.0, b.1));
            let waited = (a.0, a.1, a.2 - longer, a.3.clone());
            prop_assert!(of(&waited) < of(&a));
            prop_assert!(of(&a) >= of(&b) || of(&waited) < of(&b));
            let late = (b.0, b.1, a.2 + 460, format!("{}x", a.3));
            prop_assert!(of(&a) < of(&late));
        }

        /// The higher score is first, as long as none has waited long.
        #[test]
        fn the_score_decides_among_jobs_of_the_same_time(a in job(), b in job()) {
            let b = (b.0, b.1, a.2, b.3);
            if score(a.0, a.1) > score(b.0, b.1) {
                prop_assert!(of(&a) < of(&b));
            }
        }
    }
}
