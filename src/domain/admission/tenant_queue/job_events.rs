//! What the watches of Jobs and Pods, and the creation of pods, change of a job's state in the queue.

use std::time::Duration;

use super::{
    TenantQueue,
    job_entry::{QueueState, SizeCheck},
};
use crate::domain::{
    admission::{
        ids::JobIdx,
        inputs::{JobInput, JobState},
        shared::Shared,
    },
    pod_create::Meaning,
    retry,
};

/// The creation of a pod that fails for the moment is retried five times before the admission is given back, the first
/// time after this pause, which doubles each time: three seconds in all.
const MAX_QUICK_RETRIES: u32 = 5;
const FIRST_QUICK_RETRY: Duration = Duration::from_millis(100);
/// When to try again where the API server can't be reached.
const UNREACHABLE: Duration = Duration::from_secs(5);

impl TenantQueue {
    /// Takes a new input of one of its jobs.
    pub fn update_job(&mut self, job: JobIdx, input: JobInput, shared: &mut Shared) {
        if input.has_run() {
            shared.jobs[job].size_check = SizeCheck::Passed;
        }
        self.resize(job, &input, shared);
        let (before, reported) = (shared.jobs[job].input.reported, input.reported);
        if !self.advance(job, &input, shared) {
            self.detach(job, shared);
            shared.jobs[job].set_input(input);
            self.attach(job, shared);
        }
        if before != reported {
            shared.jobs[job].input.reported = reported;
            shared.reason_updates.add_job(self.id, job);
        }
    }

    /// Takes an input that leaves the job where it is or moves it from its admission on; false for any other one.
    fn advance(&mut self, job: JobIdx, input: &JobInput, shared: &mut Shared) -> bool {
        let entry = &mut shared.jobs[job];
        let same = entry.asks_as(input) && entry.input.state == input.state;
        if let QueueState::Admitted { claimed: true, unwanted, .. } = &mut entry.queue_state
            && (input.state == entry.input.state || input.state == JobState::Inactive)
        {
            // Its pod may have been created, whatever the spec asks for by now.
            *unwanted = input.state == JobState::Inactive;
            return true;
        }
        match (entry.queue_state.placement(), &input.state) {
            (Some((group, node)), JobState::Active { group: now, bound })
                if now.is_none() || now.as_ref() == group =>
            {
                let (group, asked) = (group.cloned(), entry.size());
                if matches!(entry.queue_state, QueueState::Admitted { .. }) {
                    self.starting -= u64::from(entry.is_charged());
                    entry.create_failures = 0;
                    self.enqueue_tenant(&mut shared.agenda);
                }
                entry.input.state = input.state.clone();
                entry.queue_state = QueueState::Active { group, reserved: node.filter(|_| !bound) };
                node.filter(|_| *bound).into_iter().for_each(|node| shared.inventory.give_back(node, asked));
                true
            }
            _ => same,
        }
    }

    /// An admitted or active job uses what its pod asks for: admission plugins may have added something to it.
    fn resize(&mut self, job: JobIdx, input: &JobInput, shared: &mut Shared) {
        let entry = &mut shared.jobs[job];
        let (JobState::Active { .. }, Ok(after)) = (&input.state, &input.asked) else { return };
        let (before, after) = (entry.size(), *after);
        let Some((group, node)) = entry.queue_state.placement() else { return };
        let group = group.cloned();
        if before == after {
            return;
        }
        entry.input.asked = Ok(after);
        self.usage.held = self.usage.held - before + after;
        self.change_pool_usage(group.as_deref(), |usage| *usage = *usage - before + after, shared);
        if let Some(node) = node {
            shared.inventory.take(node, after);
            shared.inventory.give_back(node, before);
        }
        self.mark_usage_changed(&mut shared.agenda);
        self.requeue_all(&mut shared.agenda);
    }

    /// Counts a job by the state that its object and pods give it.
    pub fn attach(&mut self, job: JobIdx, shared: &mut Shared) {
        self.jobs.insert(job);
        let state = shared.jobs[job].input.state.clone();
        shared.jobs[job].queue_state = match state {
            JobState::Inactive => QueueState::Inactive,
            JobState::Waiting(_) => {
                self.usage.queued += 1;
                self.arrivals.push(job);
                QueueState::New
            }
            JobState::BackingOff => {
                self.usage.queued += 1;
                self.backoff_count += 1;
                QueueState::BackingOff
            }
            JobState::Active { group, .. } => {
                let entry = &mut shared.jobs[job];
                entry.create_failures = 0;
                let asked = entry.size();
                self.add_usage(asked, group.as_deref(), shared);
                QueueState::Active { group, reserved: None }
            }
            JobState::Ended(phase) => {
                self.jobs.remove(&job);
                *self.ended.entry(phase).or_default() += 1;
                QueueState::Ended(phase)
            }
        };
        self.mark_usage_changed(&mut shared.agenda);
        self.enqueue_tenant(&mut shared.agenda);
    }

    /// Takes back what [`Self::attach`], and all that came after it, counted.
    pub fn detach(&mut self, job: JobIdx, shared: &mut Shared) {
        let entry = &mut shared.jobs[job];
        let (asked, charged) = (entry.size(), entry.is_charged());
        self.jobs.remove(&job);
        match std::mem::replace(&mut entry.queue_state, QueueState::Inactive) {
            QueueState::Inactive => return,
            QueueState::New | QueueState::Rejected(..) => self.usage.queued -= 1,
            QueueState::Queued(class) => {
                self.usage.queued -= 1;
                self.dequeue(job, class, shared);
            }
            QueueState::Overflow => {
                self.usage.queued -= 1;
                self.overflow.remove(entry.rank.submission());
            }
            QueueState::BackingOff => {
                self.usage.queued -= 1;
                self.backoff_count -= 1;
            }
            QueueState::PodBackoff { until, .. } => {
                self.usage.queued -= 1;
                self.backoff_count -= 1;
                self.pod_backoff.remove(&(until, job));
            }
            QueueState::Admitted { group, node, .. } => {
                self.starting -= u64::from(charged);
                self.remove_usage(asked, Some(&group), shared);
                node.into_iter().for_each(|node| shared.inventory.give_back(node, asked));
            }
            QueueState::Active { group, reserved } => {
                self.remove_usage(asked, group.as_deref(), shared);
                reserved.into_iter().for_each(|node| shared.inventory.give_back(node, asked));
            }
            QueueState::Ended(phase) => *self.ended.entry(phase).or_default() -= 1,
        }
        self.mark_usage_changed(&mut shared.agenda);
        self.requeue_all(&mut shared.agenda);
    }

    /// Takes an admission into use, of this attempt; false where the job is not admitted to it.
    pub fn claim(&self, job: JobIdx, attempt: u32, shared: &mut Shared) -> bool {
        let entry = &mut shared.jobs[job];
        let right_attempt = entry.attempt() == attempt;
        match &mut entry.queue_state {
            QueueState::Admitted { claimed, .. } if right_attempt => {
                *claimed = true;
                true
            }
            _ => false,
        }
    }

    /// The creation of an admitted job's pod has failed: when to retry it, or `None` where the admission is given back
    /// and the job pauses, longer each time.
    pub fn pod_create_failed(
        &mut self,
        job: JobIdx,
        attempt: u32,
        meaning: Meaning,
        message: String,
        shared: &mut Shared,
    ) -> Option<Duration> {
        let entry = &mut shared.jobs[job];
        let right_attempt = entry.attempt() == attempt;
        let is_unwanted = match &mut entry.queue_state {
            QueueState::Admitted { claimed, unwanted, .. } if right_attempt => {
                *claimed = false;
                *unwanted
            }
            _ => return None,
        };
        // What came while the pod was being created holds now.
        if is_unwanted || !entry.survives(&self.input) {
            self.detach(job, shared);
            if is_unwanted {
                shared.jobs[job].input.state = JobState::Inactive;
            }
            self.attach(job, shared);
            return None;
        }
        if meaning == Meaning::Keep {
            return Some(UNREACHABLE);
        }
        let entry = &mut shared.jobs[job];
        if meaning != Meaning::TryAgain {
            entry.create_failures = entry.create_failures.max(MAX_QUICK_RETRIES);
        }
        entry.create_failures = entry.create_failures.saturating_add(1);
        let failures = entry.create_failures;
        if failures <= MAX_QUICK_RETRIES {
            return Some(FIRST_QUICK_RETRY.saturating_mul(2_u32.saturating_pow(failures - 1)));
        }
        let now = shared.now.steady;
        let until =
            now.checked_add(retry::backoff(&entry.input.uid, failures - MAX_QUICK_RETRIES)).unwrap_or(now);
        self.detach(job, shared);
        shared.jobs[job].queue_state = QueueState::PodBackoff { until, message };
        self.jobs.insert(job);
        self.pod_backoff.insert((until, job));
        self.usage.queued += 1;
        self.backoff_count += 1;
        shared.agenda.wake_at(until, self.id);
        shared.reason_updates.add_job(self.id, job);
        None
    }

    /// Queues the jobs again whose pause after a failed creation is over.
    pub fn end_pod_backoff(&mut self, shared: &mut Shared) {
        while let Some((_, job)) =
            self.pod_backoff.first().copied().filter(|(until, _)| *until <= shared.now.steady)
        {
            self.detach(job, shared);
            self.attach(job, shared);
        }
    }
}
