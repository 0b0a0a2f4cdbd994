//! One run of the future: the scheduler's core plays on from a copy of its state, until the job in question is admitted.
//!
//! How long each job runs is drawn, and which jobs are submitted meanwhile. A job that ends does not come back: no attempt
//! fails, and no node joins or leaves. A pod starts in the instant in which its job is admitted.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
    sync::Arc,
};

use fastrand::Rng;
use jiff::SignedDuration;

use super::{Forecast, MAX_AHEAD, MAX_EVENTS, Unknown, arrivals::Cursor, job_times::Expected};
use crate::{
    api_types::Reason,
    clock::ClockReading,
    domain::{
        admission::{Dispatcher, JobInput, JobState, Stage, Verdict},
        rate_window::charge_id,
    },
};

/// Ends are put off to the next full second from now, so that the core decides less often.
const GRID_MILLIS: i64 = 1000;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// The attempt of a job ends.
    End,
    /// The back-off of a job ends.
    Back,
    /// A tenant, by the number of its pattern, submits a job.
    Submit(usize),
}

pub(super) struct Play<'a> {
    forecast: &'a Forecast,
    dispatcher: Dispatcher,
    rng: Rng,
    /// Milliseconds from the beginning.
    now: i64,
    events: BinaryHeap<Reverse<(i64, Event, Arc<str>)>>,
    /// Events other than submits.
    pending: usize,
    /// By pattern.
    cursors: Vec<Cursor>,
    /// The jobs submitted in this run, by UID.
    submitted: HashMap<Arc<str>, &'a Expected>,
    /// A job runs of which it is not known when it ends.
    endless: bool,
}

impl<'a> Play<'a> {
    pub(super) fn new(forecast: &'a Forecast, rng: Rng) -> Self {
        Self {
            forecast,
            dispatcher: Dispatcher::clone(&forecast.dispatcher),
            rng,
            now: 0,
            events: BinaryHeap::new(),
            pending: 0,
            cursors: Vec::new(),
            submitted: HashMap::new(),
            endless: false,
        }
    }

    /// Plays until the job is admitted, and returns after how many milliseconds. `may_continue` is asked again and again.
    pub(super) fn run(mut self, may_continue: &mut dyn FnMut() -> bool) -> Result<i64, Unknown> {
        self.tick();
        for (uid, stage) in &self.forecast.contention.order {
            match stage {
                Stage::Active => self.ends(uid),
                Stage::BackingOff => {
                    let back = self.expected(uid).map_or(0, |job| job.back);
                    self.push(back, Event::Back, uid);
                }
                Stage::Admitted if *uid == self.forecast.job => return Ok(0),
                Stage::Admitted => self.start(uid),
                Stage::Waiting => (),
            }
        }
        self.begin_submits();
        for step in 0..MAX_EVENTS {
            if step % 64 == 63 && !may_continue() {
                return Err(Unknown::TooLong);
            }
            for uid in self.dispatcher.decide().decided {
                match self.dispatcher.verdict(&uid) {
                    Some(Verdict::Admit(_)) if uid == self.forecast.job => return Ok(self.now),
                    Some(Verdict::Admit(_)) => self.start(&uid),
                    Some(Verdict::Reject(_, message)) if uid == self.forecast.job => {
                        return Err(Unknown::Never(message));
                    }
                    Some(Verdict::Reject(..)) => self.dispatcher.remove_job(&uid),
                    Some(Verdict::Wait(..)) | None => (),
                }
            }
            if step == 0 {
                self.check_nodes()?;
            }
            match self.next_time() {
                Some(next) if SignedDuration::from_millis(next) <= MAX_AHEAD => self.advance(next),
                next => return Err(self.stuck(next.is_some())),
            }
        }
        Err(Unknown::TooLong)
    }

    /// Whether nodes exist that could hold the job: none joins in a run.
    fn check_nodes(&self) -> Result<(), Unknown> {
        match self.dispatcher.current_verdict(&self.forecast.job) {
            Some(Verdict::Wait(Reason::NoWorkers | Reason::DoesNotFit, message)) => {
                Err(Unknown::Never(message))
            }
            _ => Ok(()),
        }
    }

    /// Why the job still waits at the end of the run, where nothing lets it start any more, or `late`.
    fn stuck(&self, late: bool) -> Unknown {
        match self.dispatcher.current_verdict(&self.forecast.job) {
            Some(Verdict::Wait(reason, _)) if self.endless && waits_for_runs(reason) => Unknown::NoHistory,
            _ if late => Unknown::Late,
            Some(Verdict::Wait(_, message) | Verdict::Reject(_, message)) => Unknown::Never(message),
            _ => Unknown::NotScheduled,
        }
    }

    fn expected(&self, uid: &str) -> Option<&'a Expected> {
        self.forecast.contention.jobs.get(uid).or_else(|| self.submitted.get(uid).copied())
    }

    fn push(&mut self, at: i64, event: Event, uid: &Arc<str>) {
        self.pending += usize::from(!matches!(event, Event::Submit(_)));
        self.events.push(Reverse((at, event, Arc::clone(uid))));
    }

    fn reading(&self) -> ClockReading {
        let ClockReading { wall, steady } = self.forecast.now;
        let passed = SignedDuration::from_millis(self.now);
        let after = |time: jiff::Timestamp| time.saturating_add(passed).unwrap_or(time);
        ClockReading { wall: after(wall), steady: after(steady) }
    }

    fn tick(&mut self) {
        self.dispatcher.tick(self.reading());
    }

    /// When something happens next; `None` where nothing is left that could let a job start.
    fn next_time(&self) -> Option<i64> {
        let wake = self.dispatcher.next_wakeup(self.reading()).map(|wait| {
            // The next millisecond, where it comes between two.
            let millis = wait.as_nanos().div_euclid(1_000_000) + i128::from(wait.as_nanos() % 1_000_000 != 0);
            self.now.saturating_add(i64::try_from(millis).unwrap_or(i64::MAX))
        });
        if wake.is_none() && self.pending == 0 {
            return None;
        }
        let event = self.events.peek().map(|Reverse((at, ..))| *at);
        [event, wake].into_iter().flatten().min().map(|next| next.max(self.now))
    }

    /// Gives all events up to a time to the dispatcher.
    fn advance(&mut self, to: i64) {
        self.now = to;
        self.tick();
        while self.events.peek().is_some_and(|Reverse((at, ..))| *at <= to) {
            let Some(Reverse((_, event, uid))) = self.events.pop() else { return };
            self.pending -= usize::from(!matches!(event, Event::Submit(_)));
            match event {
                Event::End => self.end(&uid),
                Event::Back => self.wait_again(&uid),
                Event::Submit(pattern) => self.submit(pattern, &uid),
            }
        }
    }

    /// Draws where in their patterns the tenants are.
    fn begin_submits(&mut self) {
        let patterns = &self.forecast.contention.patterns;
        self.cursors = patterns.iter().map(|pattern| pattern.begin(&mut self.rng)).collect();
        for (number, (pattern, cursor)) in patterns.iter().zip(&self.cursors).enumerate() {
            let uid = format!("submitted-{number}-0").into();
            self.events.push(Reverse((pattern.next_time(*cursor), Event::Submit(number), uid)));
        }
    }

    /// Submits the next job of a pattern, as one of this UID.
    fn submit(&mut self, number: usize, uid: &Arc<str>) {
        let (pattern, cursor) = (&self.forecast.contention.patterns[number], self.cursors[number]);
        let Some((input, expected, after)) = pattern.take(cursor) else { return };
        let created = self.reading().wall;
        self.dispatcher.set_job(JobInput { uid: Arc::clone(uid), created, ..input.clone() });
        self.submitted.insert(Arc::clone(uid), expected);
        self.cursors[number] = after;
        let next = format!("submitted-{number}-{}", self.submitted.len()).into();
        self.push(pattern.next_time(after), Event::Submit(number), &next);
    }

    fn start(&mut self, uid: &Arc<str>) {
        let Some((input, _)) = self.dispatcher.unfinished_job(uid) else { return };
        let (input, JobState::Waiting(attempt)) = (input.clone(), input.state.clone()) else { return };
        let Some(admission) = self.dispatcher.claim(uid, attempt) else { return };
        let asked = input.asked.clone().unwrap_or_default();
        // The pod has a node at once.
        self.dispatcher.set_pod(uid, admission.node.as_deref().map(|node| (node, asked)));
        let retry = input.charged_retry.then_some(attempt);
        if let Some(charge) = charge_id(uid, attempt, retry) {
            self.dispatcher.charge(&input.namespace, &charge, self.reading().wall);
        }
        let state = JobState::Active { group: Some(admission.group.into()), bound: true };
        self.dispatcher.set_job(JobInput { state, ..input });
        self.ends(uid);
    }

    /// Draws when a job that runs ends.
    fn ends(&mut self, uid: &Arc<str>) {
        let rest = self.expected(uid).and_then(|job| {
            // One that begins later has not run yet.
            let ran = if self.now == 0 { job.ran } else { 0 };
            job.durations.draw_rest(ran, job.limit, &mut self.rng)
        });
        let Some(rest) = rest else {
            self.endless = true;
            return;
        };
        let end = self.now.saturating_add(rest).max(self.now.saturating_add(1));
        let end = end.saturating_add(GRID_MILLIS - 1) / GRID_MILLIS * GRID_MILLIS;
        self.push(end, Event::End, uid);
    }

    fn end(&mut self, uid: &Arc<str>) {
        if let Some(pod) = self.expected(uid).and_then(|job| job.pod.as_ref()) {
            self.dispatcher.set_pod(pod, None);
        }
        self.dispatcher.set_pod(uid, None);
        self.dispatcher.remove_job(uid);
    }

    fn wait_again(&mut self, uid: &Arc<str>) {
        let Some((input, Stage::BackingOff)) = self.dispatcher.unfinished_job(uid) else { return };
        let (attempt, charged_retry) = self.expected(uid).map_or((2, false), |job| job.next_attempt);
        let state = JobState::Waiting(attempt);
        self.dispatcher.set_job(JobInput { state, charged_retry, ..input.clone() });
    }
}

/// Whether a job that waits for this reason may start when another one ends.
fn waits_for_runs(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::WaitingForQuota | Reason::WaitingForCapacity | Reason::WaitingForTurn | Reason::QueueFull
    )
}
