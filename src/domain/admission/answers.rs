//! What admission says when it is asked: verdicts on jobs, what a tenant's jobs come to, how many wait.

use std::{collections::BTreeMap, time::Duration};

use super::{
    Account, Dispatcher,
    entry::{Assessment, Entry, Stand},
    queue::{Hold, Shape},
    quota,
    seat::Never,
    views::{Admission, ProspectiveJob, Verdict},
};
use crate::{
    api_types::{Reason, job::OnQuota},
    clock::ClockReading,
    domain::{pod_create::Meaning, resources::AskError, retry},
};

/// A pod that the API server refuses for the moment is tried again so many times before its admission is given back, the
/// first time after this long, and then after twice as long each time: three seconds in all.
const QUICK_RETRIES: u32 = 5;
const QUICK_RETRY: Duration = Duration::from_millis(100);

impl Dispatcher {
    /// What was decided of a job, by UID; `None` while nothing is new to its owner.
    #[must_use]
    pub fn verdict(&self, uid: &str) -> Option<Verdict> {
        let entry = &self.jobs[*self.uids.get(uid)?];
        let verdict = self.judgement(entry)?;
        match &verdict {
            Verdict::Wait(reason, _) => (entry.told == Some(*reason)).then_some(verdict),
            Verdict::Admit(_) | Verdict::Reject(..) => Some(verdict),
        }
    }

    /// What holds a job back or lets it go, by UID, with the numbers of this moment.
    #[must_use]
    pub fn standing(&self, uid: &str) -> Option<Verdict> {
        self.judgement(&self.jobs[*self.uids.get(uid)?])
    }

    /// Why a job would be refused at once if it were created now, as the youngest of its tenant; `None` where it would
    /// be admitted or wait, and where nothing is known of its tenant. The same checks as those of a new job, in the
    /// same order, so a refusal here is one there unless something changes in between.
    #[must_use]
    pub fn assess(&self, job: &ProspectiveJob<'_>, now: ClockReading) -> Option<(Reason, String)> {
        let seat = &self.seats[*self.namespaces.get(job.namespace)?];
        let view = seat.view.as_ref().filter(|view| view.closed.is_none())?;
        let asked = match &job.asked {
            Ok(asked) => *asked,
            // The API server's rules refuse it, in their own words.
            Err(AskError::Field { .. } | AskError::Scratch { .. }) => return None,
            Err(error @ AskError::Scenario(_)) => return Some((error.reason(), error.to_string())),
        };
        let shape = Shape { asked, group: job.group.clone(), on_quota: job.on_quota, fresh: true };
        let now = ClockReading { wall: now.wall.max(self.now.wall), steady: now.steady.max(self.now.steady) };
        let never = seat.never(view, &shape, &self.rooms);
        let is_final = |never: &Never| match never {
            Never::Quota(_) => true,
            Never::Pool | Never::Nodes => {
                let outlook = seat.outlook(&shape, *never, &self.rooms, now.steady);
                Assessment::Ahead.next(outlook, now.steady) == Assessment::Refused
            }
        };
        if let Some(never) = never.filter(is_final) {
            return Some(seat.why_never(view, &shape, never, &self.rooms));
        }
        if job.on_quota == OnQuota::Queue {
            return None;
        }
        // All that wait were submitted before it.
        let before = seat.places() + seat.outside.len() as u64;
        if let Some(refusal) = seat.no_turn_after(view, before, shape.fresh, now.wall) {
            return Some(refusal);
        }
        if !seat.outside.is_empty() || !seat.has_places(seat.places() + 1) {
            return Some((Reason::QueueFull, quota::queue_full(view, seat.usage.queued)));
        }
        // One that waits for a larger node is not judged by the quotas yet.
        let excess = seat.quota(view, &shape, false, now.wall).filter(|_| never.is_none())?;
        let reason = excess.reason();
        (reason != Reason::WaitingForTurn).then(|| (reason, excess.sentence(view)))
    }

    /// Takes an admission into use: from now on it stands until its pod was seen, or [`Self::refused`]. Again for the
    /// same attempt, it is the same.
    pub fn claim(&mut self, uid: &str, attempt: u32) -> Option<Admission> {
        let entry = &mut self.jobs[*self.uids.get(uid)?];
        if entry.attempt() != attempt {
            return None;
        }
        match &mut entry.stand {
            Stand::Admitted { claimed, .. } => *claimed = true,
            _ => return None,
        }
        match self.verdict(uid)? {
            Verdict::Admit(admission) => Some(admission),
            _ => None,
        }
    }

    /// The API server refused the pod of an admission for the moment; `sentence` says so. At first, and only where quick
    /// tries are worth while ([`Meaning::TryAgain`]: a quota whose count lags is right in a moment), when to try again.
    /// `None` where the admission is given back; the job then waits, longer each time, and its status says so.
    pub fn refused(
        &mut self,
        uid: &str,
        attempt: u32,
        meaning: Meaning,
        sentence: String,
    ) -> Option<Duration> {
        let number = self.uids.get(uid).copied()?;
        let entry = &mut self.jobs[number];
        if entry.attempt() != attempt || !matches!(entry.stand, Stand::Admitted { .. }) {
            return None;
        }
        let before =
            if meaning == Meaning::TryAgain { entry.refusals } else { entry.refusals.max(QUICK_RETRIES) };
        entry.refusals = before.saturating_add(1);
        let (seat, refusals) = (entry.seat, entry.refusals);
        if refusals <= QUICK_RETRIES {
            return Some(QUICK_RETRY.saturating_mul(2_u32.saturating_pow(refusals - 1)));
        }
        let now = self.now.steady;
        let until = now.checked_add(retry::backoff(uid, refusals - QUICK_RETRIES)).unwrap_or(now);
        self.withdraw(number);
        self.jobs[number].stand = Stand::Parked { until, sentence };
        let seat_now = &mut self.seats[seat];
        seat_now.members.insert(number);
        seat_now.parked.insert((until, number));
        seat_now.usage.queued += 1;
        seat_now.backing += 1;
        self.timers.insert((until, seat));
        self.lane.add(seat, number);
        self.stir(seat);
        None
    }

    /// What a tenant's jobs come to, by namespace.
    #[must_use]
    pub fn account(&self, namespace: &str) -> Option<Account> {
        let seat = &self.seats[*self.namespaces.get(namespace)?];
        Some(Account {
            usage: seat.usage.clone(),
            ended: seat.ended.clone(),
            started: seat.started(self.now.wall),
            resets_at: seat.window.resets_at(self.now.wall),
            window: seat.window.stored(self.now.wall),
            awaited: !seat.awaited.is_empty(),
        })
    }

    /// How many jobs wait, by reason.
    #[must_use]
    pub fn waiting(&self) -> BTreeMap<Reason, u64> {
        let mut all = BTreeMap::new();
        let mut count = |reason, jobs: usize| {
            if jobs > 0 {
                *all.entry(reason).or_default() += jobs as u64;
            }
        };
        for (_, seat) in &self.seats {
            let closed = match &seat.view {
                None => Some(Reason::NotATenantNamespace),
                Some(view) => view.closed.as_ref().map(|(reason, _)| *reason),
            };
            for (_, line) in &seat.lines {
                let reason = closed.or(line.hold.map(Hold::reason));
                count(reason.unwrap_or(Reason::Queued), line.jobs.len());
            }
            count(closed.unwrap_or(Reason::QueueFull), seat.outside.len());
            count(Reason::BackingOff, usize::try_from(seat.backing).unwrap_or(usize::MAX));
        }
        all
    }

    /// Nodes that are kept for jobs that are due.
    #[must_use]
    pub fn kept(&self) -> Vec<&str> {
        let due = self.seats.iter().filter_map(|(_, seat)| seat.due.as_ref()?.node);
        due.map(|node| self.rooms.node_name(node)).collect()
    }

    fn judgement(&self, entry: &Entry) -> Option<Verdict> {
        let seat = &self.seats[entry.seat];
        let closed = || {
            let Some(view) = &seat.view else { return Some(no_tenant()) };
            view.closed.clone().map(|(reason, sentence)| Verdict::Wait(reason, sentence))
        };
        match &entry.stand {
            Stand::Admitted { group, node, .. } => Some(Verdict::Admit(Admission {
                attempt: entry.attempt(),
                group: (**group).to_owned(),
                node: node.map(|node| self.rooms.node_name(node).to_owned()),
            })),
            Stand::Refused(reason, sentence) => Some(Verdict::Reject(*reason, sentence.clone())),
            Stand::Parked { sentence, .. } => Some(Verdict::Wait(Reason::PodRefused, sentence.clone())),
            Stand::Outside => closed().or_else(|| {
                let sentence = quota::queue_full(seat.view.as_ref()?, seat.usage.queued);
                Some(Verdict::Wait(Reason::QueueFull, sentence))
            }),
            Stand::Line(line) => closed().or_else(|| {
                let line = &seat.lines[*line];
                let hold = line.hold?;
                let sentence = match hold {
                    Hold::Quota(excess) => {
                        let view = seat.view.as_ref()?;
                        let now = seat.quota(view, &line.shape, seat.is_ahead(&entry.rank), self.now.wall);
                        let same = now.filter(|now| now.reason() == excess.reason());
                        same.unwrap_or(excess).sentence(view)
                    }
                    Hold::Room(reason) => self.room_sentence(seat, line, reason),
                };
                Some(Verdict::Wait(hold.reason(), sentence))
            }),
            Stand::Aside | Stand::Arrived | Stand::BackingOff | Stand::Active { .. } | Stand::Ended(_) => {
                None
            }
        }
    }
}

/// The verdict on a job outside of every tenant.
fn no_tenant() -> Verdict {
    Verdict::Wait(Reason::NotATenantNamespace, "this namespace is not that of a tenant".to_owned())
}
