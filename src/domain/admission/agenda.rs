//! What the next cycle has to do, and what has to be reported after it.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
};

use jiff::{SignedDuration, Timestamp};

use super::ids::TenantId;
use crate::clock::ClockReading;

/// Tenants to handle in the next cycle or later, and the outcome of those before.
#[derive(Clone, Debug, Default)]
pub(super) struct Agenda {
    /// Tenants of which something has changed since the last cycle.
    enqueued: Vec<TenantId>,
    /// Tenants to assess again when their hourly window resets, by the time of day.
    window_resets: BTreeSet<(Timestamp, TenantId)>,
    /// Tenants to assess again when a pause is over, by the steady clock.
    timers: BTreeSet<(Timestamp, TenantId)>,
    /// Tenants with a starving job that no node is reserved for.
    awaiting_reservation: VecDeque<TenantId>,
    /// Jobs by UID that were admitted or rejected, in that order.
    decided: Vec<Arc<str>>,
    /// Tenants whose usage has changed since it was reported.
    usage_changed: Vec<TenantId>,
}

impl Agenda {
    pub(super) fn enqueue(&mut self, tenant: TenantId) {
        self.enqueued.push(tenant);
    }

    pub(super) fn take_enqueued(&mut self) -> Vec<TenantId> {
        std::mem::take(&mut self.enqueued)
    }

    /// Has a tenant assessed again at a time of day.
    pub(super) fn wake_at_reset(&mut self, at: Timestamp, tenant: TenantId) {
        self.window_resets.insert((at, tenant));
    }

    /// Has a tenant assessed again at a time of the steady clock.
    pub(super) fn wake_at(&mut self, at: Timestamp, tenant: TenantId) {
        self.timers.insert((at, tenant));
    }

    /// The tenants whose time has come.
    pub(super) fn take_due(&mut self, now: ClockReading) -> Vec<TenantId> {
        let mut due = Vec::new();
        for (times, now) in [(&mut self.window_resets, now.wall), (&mut self.timers, now.steady)] {
            while let Some((_, tenant)) = times.first().copied().filter(|(at, _)| *at <= now) {
                times.pop_first();
                due.push(tenant);
            }
        }
        due
    }

    /// How long after `now` a tenant's time comes; not positive where it has.
    pub(super) fn next_wakeup(&self, now: ClockReading) -> Option<SignedDuration> {
        let until = |at: Option<&(Timestamp, TenantId)>, now| at.map(|(at, _)| at.duration_since(now));
        let (reset, timer) = (self.window_resets.first(), self.timers.first());
        [until(reset, now.wall), until(timer, now.steady)].into_iter().flatten().min()
    }

    pub(super) fn await_reservation(&mut self, tenant: TenantId) {
        self.awaiting_reservation.push_back(tenant);
    }

    /// At most `max` tenants, those that have waited longest for a reservation.
    pub(super) fn take_awaiting_reservation(&mut self, max: usize) -> Vec<TenantId> {
        let count = max.min(self.awaiting_reservation.len());
        self.awaiting_reservation.drain(..count).collect()
    }

    /// Reports a decision on a job, by UID.
    pub(super) fn report(&mut self, uid: &Arc<str>) {
        self.decided.push(Arc::clone(uid));
    }

    pub(super) fn report_usage(&mut self, tenant: TenantId) {
        self.usage_changed.push(tenant);
    }

    /// The jobs decided, and the tenants whose usage has changed, since the last call.
    pub(super) fn take_report(&mut self) -> (Vec<Arc<str>>, Vec<TenantId>) {
        (std::mem::take(&mut self.decided), std::mem::take(&mut self.usage_changed))
    }
}
