//! New jobs: rejected at once, queued, or in the overflow.

use jiff::Timestamp;

use super::{
    TenantQueue,
    job_entry::{QueueState, SizeCheck},
};
use crate::{
    api_types::{Reason, job::OnQuota, plan::Limit},
    clock::ClockReading,
    domain::{
        admission::{
            ids::JobIdx, inputs::ProspectiveJob, job_class::Shape, order::Submission, quota, shared::Shared,
        },
        resources::AskError,
    },
};

impl TenantQueue {
    /// Assesses new jobs for the first time: those that could never run, and those that rather end than wait, are
    /// rejected; the others are queued, the oldest first, or wait in the overflow.
    pub fn enqueue_arrivals(&mut self, shared: &mut Shared) {
        self.count_overtakes(&shared.inventory);
        let mut arrivals = std::mem::take(&mut self.arrivals);
        arrivals.retain(|job| {
            let entry = shared.jobs.get(*job);
            entry.is_some_and(|entry| entry.tenant == self.id && matches!(entry.queue_state, QueueState::New))
        });
        arrivals.sort_unstable_by(|a, b| {
            shared.jobs[*a].rank.submission().cmp(shared.jobs[*b].rank.submission())
        });
        arrivals.dedup();
        arrivals.iter().for_each(|job| self.check_new(*job, shared));
        self.fill_queue(shared);
        arrivals.into_iter().for_each(|job| self.reject_overflow(job, shared));
        self.weigh(shared);
    }

    /// Checks a new job for the first time. One that may wait enters the overflow, out of which `fill_queue` takes the
    /// oldest into the queue.
    fn check_new(&mut self, job: JobIdx, shared: &mut Shared) {
        let entry = &shared.jobs[job];
        let (size_check, rejection) = match &entry.input.asked {
            Err(error) => (entry.size_check, Some((error.reason(), error.to_string()))),
            Ok(_) if !self.is_closed() => {
                let shape = entry.shape();
                let (size_check, rejection) =
                    self.first_assessment(&shape, entry.size_check, shared.now, shared);
                let may_wait = shape.on_quota == OnQuota::Queue;
                let no_turn = || self.no_turn_soon(entry.rank.submission(), shape.charged, shared.now.wall);
                (size_check, rejection.or_else(|| if may_wait { None } else { no_turn() }))
            }
            Ok(_) => (entry.size_check, None),
        };
        let entry = &mut shared.jobs[job];
        entry.size_check = size_check;
        if let Some((reason, message)) = rejection {
            entry.reject(reason, message, &mut shared.agenda);
        } else {
            entry.queue_state = QueueState::Overflow;
            self.overflow.insert(entry.rank.submission().clone(), job);
        }
    }

    /// Whether a job could run were nothing else to run: the state of its size check, and why it is rejected if so.
    fn first_assessment(
        &self,
        shape: &Shape,
        size_check: SizeCheck,
        now: ClockReading,
        shared: &Shared,
    ) -> (SizeCheck, Option<(Reason, String)>) {
        let Some(infeasible) = self.infeasible(shape, &shared.inventory) else {
            return (SizeCheck::Passed, None);
        };
        let larger = self.larger_node(shape, infeasible, &shared.inventory, now.steady);
        let checked = larger.map_or(SizeCheck::Failed, |larger| size_check.next(larger, now.steady));
        let failed = checked == SizeCheck::Failed;
        (checked, failed.then(|| self.explain(shape, infeasible, &shared.inventory)))
    }

    /// Why a job would be rejected at once if it were created now, as the youngest of its tenant. The same checks as those
    /// of a new job, in the same order, so a rejection here is one there unless something changes in between.
    pub fn assess_prospective(
        &self,
        job: &ProspectiveJob<'_>,
        now: ClockReading,
        shared: &Shared,
    ) -> Option<(Reason, String)> {
        let asked = match &job.asked {
            _ if self.is_closed() => return None,
            Ok(asked) => *asked,
            // The API server's rules refuse it, in their own words.
            Err(AskError::Field { .. } | AskError::Scratch { .. }) => return None,
            Err(error @ AskError::Scenario(_)) => return Some((error.reason(), error.to_string())),
        };
        let shape = Shape { asked, group: job.group.clone(), on_quota: job.on_quota, charged: true };
        let (_, rejection) = self.first_assessment(&shape, SizeCheck::Pending, now, shared);
        if rejection.is_some() || job.on_quota == OnQuota::Queue {
            return rejection;
        }
        // All that wait were submitted before it.
        let before = self.queue_length() + self.overflow.len() as u64;
        if let Some(rejection) = self.no_turn_after(before, shape.charged, now.wall) {
            return Some(rejection);
        }
        if !self.overflow.is_empty() || !self.may_queue(self.queue_length() + 1) {
            return Some((Reason::QueueFull, quota::queue_full(&self.input, self.usage.queued)));
        }
        // The quotas are assessed once a node could hold it.
        let is_feasible = self.infeasible(&shape, &shared.inventory).is_none();
        let excess = self.quota_excess(&shape, None, now.wall).filter(|_| is_feasible)?;
        let reason = excess.reason();
        (reason != Reason::WaitingForTurn).then(|| (reason, excess.message(&self.input)))
    }

    /// Why a job that rather ends than waits is rejected at once.
    fn no_turn_soon(
        &self,
        submission: &Submission,
        charged: bool,
        now: Timestamp,
    ) -> Option<(Reason, String)> {
        let limits = [self.input.quotas.max_jobs, self.input.quotas.max_jobs_per_hour];
        let max = limits.into_iter().filter_map(|quota| Limit::from_quota(quota).at_most()).max()?;
        self.no_turn_after(self.queued_before(submission, max), charged, now)
    }

    /// The same, with the number of jobs that wait before it.
    fn no_turn_after(&self, before: u64, charged: bool, now: Timestamp) -> Option<(Reason, String)> {
        if let Some(message) = quota::no_turn_soon(&self.input, self.usage.active, before) {
            return Some((Reason::WaitingForQuota, message));
        }
        let message = quota::no_start_soon(&self.input, self.started(now), before).filter(|_| charged)?;
        Some((Reason::RateLimited, message))
    }

    /// Queues the oldest jobs, as many as the quota of queued jobs allows.
    pub(super) fn fill_queue(&mut self, shared: &mut Shared) {
        loop {
            let oldest = self.overflow.first_key_value().map(|(submission, job)| (submission, *job));
            let youngest = self.queued.last_key_value().map(|(submission, job)| (submission, *job));
            let has_place = self.may_queue(self.queue_length() + 1);
            let is_over = !self.may_queue(self.queue_length());
            match (oldest, youngest) {
                (Some((_, job)), _) if has_place => self.queue_from_overflow(job, shared),
                (_, Some((_, job))) if is_over => self.evict_to_overflow(job, shared),
                (Some((older, _)), Some((younger, job))) if older < younger => {
                    self.evict_to_overflow(job, shared)
                }
                _ => return,
            }
        }
    }

    fn queue_from_overflow(&mut self, job: JobIdx, shared: &mut Shared) {
        let entry = &mut shared.jobs[job];
        self.overflow.remove(entry.rank.submission());
        let class = self.insert_into_class(job, entry.rank.clone(), entry.shape(), &mut shared.inventory);
        if entry.size_check != SizeCheck::Passed {
            self.classes[class].unchecked.push(job);
        }
        entry.queue_state = QueueState::Queued(class);
        shared.reason_updates.add_job(self.id, job);
    }

    fn evict_to_overflow(&mut self, job: JobIdx, shared: &mut Shared) {
        if let QueueState::Queued(class) = shared.jobs[job].queue_state {
            self.dequeue(job, class, shared);
        }
        let entry = &mut shared.jobs[job];
        entry.queue_state = QueueState::Overflow;
        self.overflow.insert(entry.rank.submission().clone(), job);
        shared.reason_updates.add_job(self.id, job);
    }

    /// Rejects a new job in the overflow that rather ends than waits; another one gets a reason.
    fn reject_overflow(&mut self, job: JobIdx, shared: &mut Shared) {
        let entry = &mut shared.jobs[job];
        if !matches!(entry.queue_state, QueueState::Overflow) {
            return;
        }
        if self.is_closed() || entry.input.on_quota == OnQuota::Queue {
            return shared.reason_updates.add_job(self.id, job);
        }
        self.overflow.remove(entry.rank.submission());
        let message = quota::queue_full(&self.input, self.usage.queued - 1);
        entry.reject(Reason::QueueFull, message, &mut shared.agenda);
    }
}
