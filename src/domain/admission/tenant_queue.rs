//! One tenant's queue (Kueue: ClusterQueue): its jobs by class, what it uses, and the pools that it may use.
//!
//! Of the waiting jobs the oldest are *queued*, as many as the quota of queued jobs allows; the others are the *overflow*,
//! in order of submission. Queued jobs of one shape form a class, which is assessed by its first job.
//!
//! The fields are private to this module and those below it: `enqueue` (new jobs), `classes`, `assess` (can a class start a
//! job? its admission), `backfill_count` and `reservation` (jobs that others overtake), `job_events` (what the job's object
//! and pods say) and `verdict` (what the job's status shall say).

mod assess;
mod backfill_count;
mod classes;
mod enqueue;
mod job_events;
mod reservation;
mod shares;
mod verdict;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    ops::Range,
    sync::Arc,
};

use jiff::Timestamp;
use slotmap::SlotMap;

use self::reservation::Reservation;
pub use self::{assess::Assessment, shares::PoolShare};
use super::{
    UsageSnapshot,
    agenda::Agenda,
    backfill::Overtaken,
    ids::{ClassId, JobIdx, MemberId, PoolId, TenantId},
    inputs::{TenantInput, Usage},
    inventory::Inventory,
    job_class::{BackfillCount, Inadmissible, JobClass, Shape},
    job_entry,
    order::{Rank, Submission},
    pool_shares::{BlockedClass, Nomination, TieBreak},
    shared::Shared,
};
use crate::{
    api_types::{JobPhase, plan::Limit, tenant::JobWindow},
    domain::{admission::fair_share::DecayedUsage, rate_window::RateWindow, resources::Resources},
};

/// The queue of a namespace, which is a tenant's or has jobs.
#[derive(Clone, Debug, Default)]
pub struct TenantQueue {
    id: TenantId,
    namespace: Arc<str>,
    /// Decides between tenants whose jobs are equal in all else; it has no meaning.
    tie_break: u64,
    input: TenantInput,
    /// The pools that it may use, its own group first.
    memberships: Vec<Membership>,
    usage: Usage,
    /// Jobs admitted so far.
    admitted: u64,
    /// All its jobs that have not ended.
    jobs: BTreeSet<JobIdx>,
    /// Jobs that have ended, by phase.
    ended: BTreeMap<JobPhase, u64>,

    classes: SlotMap<ClassId, JobClass>,
    class_ids: HashMap<Shape, ClassId>,
    /// The classes to assess, by their first job: those not assessed yet, and in a cycle those that were blocked and may
    /// have room by now.
    heads: BTreeSet<(Rank, ClassId)>,
    queued: BTreeMap<Submission, JobIdx>,
    overflow: BTreeMap<Submission, JobIdx>,
    /// Jobs that count as queued and are not assessed: they back off.
    backoff_count: u64,
    /// Those of them whose pod the API server refused, by the end of the pause.
    pod_backoff: BTreeSet<(Timestamp, JobIdx)>,
    /// Jobs that were not assessed yet.
    arrivals: Vec<JobIdx>,

    overtaken: Overtaken,
    backfill_count: Option<BackfillCount>,
    reservation: Option<Reservation>,
    /// In the line of those that wait for a reservation.
    awaits_reservation: bool,

    window: RateWindow,
    /// Charges that are to be stored soon, until their pods have lost their finalizers.
    urgent: HashSet<Box<str>>,
    /// Jobs that were admitted and are to be charged to the hourly window, whose pods were not seen yet.
    starting: u64,

    /// Something of its own has changed: its inadmissible classes are to be checked again.
    recheck: bool,
    /// In the current cycle or the next one.
    enqueued: bool,
    /// Its usage has changed since it was reported.
    usage_changed: bool,
}

/// That a tenant may use a pool.
#[derive(Clone, Debug)]
struct Membership {
    pool: PoolId,
    member: MemberId,
    /// Queued jobs that may go there.
    demand: u64,
}

impl TenantQueue {
    pub fn new(id: TenantId, namespace: Arc<str>) -> Self {
        let mut hasher = DefaultHasher::new();
        namespace.hash(&mut hasher);
        Self { id, namespace, tie_break: hasher.finish(), ..Self::default() }
    }

    pub fn namespace(&self) -> &Arc<str> {
        &self.namespace
    }

    pub fn input(&self) -> &TenantInput {
        &self.input
    }

    /// Whether nothing is left in the namespace, and nothing is to be reported of it.
    pub fn is_empty(&self) -> bool {
        let has_jobs = !self.jobs.is_empty() || self.ended.values().any(|n| *n > 0);
        !self.is_tenant() && !has_jobs && !self.enqueued && !self.usage_changed
    }

    /// Whether the namespace is a tenant's; each has its own group.
    fn is_tenant(&self) -> bool {
        !self.input.groups.is_empty()
    }

    /// Whether nothing of it is admitted at the moment.
    fn is_closed(&self) -> bool {
        self.input.closed.is_some()
    }

    // --- what changed

    /// Handles the tenant in the next cycle.
    pub fn enqueue_tenant(&mut self, agenda: &mut Agenda) {
        if !std::mem::replace(&mut self.enqueued, true) {
            agenda.enqueue(self.id);
        }
    }

    /// Handles the tenant in this cycle; false where that is so already.
    pub fn join_cycle(&mut self, inventory: &Inventory) -> bool {
        self.count_overtakes(inventory);
        !std::mem::replace(&mut self.enqueued, true)
    }

    pub fn is_enqueued(&self) -> bool {
        self.enqueued
    }

    /// Has all inadmissible classes checked again.
    pub fn requeue_all(&mut self, agenda: &mut Agenda) {
        self.recheck = true;
        self.enqueue_tenant(agenda);
    }

    /// The same in this cycle, where the tenant is enqueued for it.
    pub fn recheck(&mut self) {
        self.recheck = true;
    }

    fn mark_usage_changed(&mut self, agenda: &mut Agenda) {
        if !std::mem::replace(&mut self.usage_changed, true) {
            agenda.report_usage(self.id);
        }
    }

    /// The change of its usage is reported.
    pub fn usage_reported(&mut self) -> Arc<str> {
        self.usage_changed = false;
        Arc::clone(&self.namespace)
    }

    /// Changes the hourly window.
    pub fn change_window(&mut self, agenda: &mut Agenda, change: impl FnOnce(&mut RateWindow)) {
        change(&mut self.window);
        self.mark_usage_changed(agenda);
        self.enqueue_tenant(agenda);
    }

    /// Takes the stored hourly window over.
    pub fn restore_window(&mut self, stored: &JobWindow, agenda: &mut Agenda) {
        self.window.restore(stored);
        self.requeue_all(agenda);
    }

    pub fn window(&self) -> &RateWindow {
        &self.window
    }

    /// Drops from the settling jobs of the hourly window those whose pods have no finalizer any more.
    pub fn retain_settling(&mut self, has_finalizer: impl Fn(&str) -> bool) {
        self.window.retain_settling(has_finalizer);
    }

    /// Whether the charge of a job, by UID, is to be stored soon.
    pub fn set_urgent(&mut self, job_uid: &str, urgent: bool) {
        if urgent {
            self.urgent.insert(job_uid.into());
        } else {
            self.urgent.remove(job_uid);
        }
    }

    // --- what it may use and does use

    /// Takes a new input of the tenant. What it runs stays, as far as the input allows; its waiting jobs are queued again.
    pub fn set_input(&mut self, input: TenantInput, shared: &mut Shared) {
        if self.input == input {
            return;
        }
        let jobs = self.jobs.iter().copied();
        let (keep, again): (Vec<_>, Vec<_>) = jobs.partition(|job| shared.jobs[*job].survives(&input));
        again.iter().for_each(|job| self.detach(*job, shared));
        self.join_pools(input, &mut shared.inventory);
        for job in keep {
            let entry = &shared.jobs[job];
            let (asked, group) =
                (entry.size(), entry.queue_state.placement().and_then(|(group, _)| group.cloned()));
            self.change_pool_usage(group.as_deref(), |usage| *usage += asked, shared);
        }
        again.iter().for_each(|job| self.attach(*job, shared));
        self.requeue_all(&mut shared.agenda);
    }

    /// Joins the pools of an input and leaves those before; recent usage of a pool in both is kept.
    fn join_pools(&mut self, input: TenantInput, inventory: &mut Inventory) {
        let old: Vec<(PoolId, DecayedUsage)> = std::mem::take(&mut self.memberships)
            .into_iter()
            .map(|m| (m.pool, inventory.shares_mut(m.pool).leave(m.member)))
            .collect();
        for name in &input.groups {
            let pool = inventory.join_pool(name);
            let recent = old.iter().find(|(before, _)| *before == pool).map(|(_, recent)| *recent);
            let member = inventory.shares_mut(pool).join(input.weight, recent.unwrap_or_default());
            self.memberships.push(Membership { pool, member, demand: 0 });
        }
        old.into_iter().for_each(|(pool, _)| inventory.leave_pool(pool));
        self.input = input;
    }

    /// The memberships that a job of a group may use, as a range; empty where it names a group that is not the tenant's.
    fn allowed_range(&self, group: Option<&str>) -> Range<usize> {
        let Some(wanted) = group else { return 0..self.memberships.len() };
        self.input.groups.iter().position(|group| group == wanted).map_or(0..0, |at| at..at + 1)
    }

    fn allowed(&self, shape: &Shape) -> &[Membership] {
        &self.memberships[self.allowed_range(shape.group.as_deref())]
    }

    /// The pools that a job may use, in the order of preference.
    fn pools(&self, shape: &Shape) -> impl Iterator<Item = PoolId> + Clone {
        self.allowed(shape).iter().map(|membership| membership.pool)
    }

    /// Whether other tenants contend for a pool: every one but the tenant's own group.
    pub fn is_shared(&self, pool: PoolId) -> bool {
        self.memberships.first().is_none_or(|own| own.pool != pool)
    }

    fn add_usage(&mut self, asked: Resources, group: Option<&str>, shared: &mut Shared) {
        self.usage.active += 1;
        self.usage.held += asked;
        self.change_pool_usage(group, |usage| *usage += asked, shared);
    }

    fn remove_usage(&mut self, asked: Resources, group: Option<&str>, shared: &mut Shared) {
        self.usage.active -= 1;
        self.usage.held = self.usage.held - asked;
        self.change_pool_usage(group, |usage| *usage = *usage - asked, shared);
    }

    /// Changes the usage of a pool; of one that the tenant may not use any more only the quotas count it.
    fn change_pool_usage(
        &self,
        group: Option<&str>,
        change: impl FnOnce(&mut Resources),
        shared: &mut Shared,
    ) {
        let at = self.allowed_range(group).next().filter(|_| group.is_some());
        if let Some(Membership { pool, member, .. }) = at.map(|at| &self.memberships[at]) {
            shared.inventory.shares_mut(*pool).change_usage(*member, change, shared.now.steady);
        }
    }

    /// Counts the tenant's weight in the pools that it uses or has demand for.
    fn weigh(&self, shared: &mut Shared) {
        let Shared { inventory, now, .. } = shared;
        let is_open = !self.is_closed();
        for Membership { pool, member, demand } in &self.memberships {
            let shares = inventory.shares_mut(*pool);
            let counts = is_open && (*demand > 0 || *shares.usage(*member) != Resources::default());
            match counts {
                true => shares.count(*member, now.steady),
                false => shares.uncount(*member),
            }
        }
    }

    pub fn snapshot(&self, now: Timestamp) -> UsageSnapshot {
        UsageSnapshot {
            usage: self.usage.clone(),
            ended: self.ended.clone(),
            started: self.started(now),
            resets_at: self.window.resets_at(now),
            window: self.window.stored(now),
            urgent: !self.urgent.is_empty(),
        }
    }

    /// Jobs started in the hourly window, with those about to.
    fn started(&self, now: Timestamp) -> u64 {
        self.window.used(now) + self.starting
    }

    // --- the queue

    /// How many jobs were submitted before this one and wait; counted up to `max`.
    fn queued_before(&self, submission: &Submission, max: u64) -> u64 {
        let max = usize::try_from(max).unwrap_or(usize::MAX);
        let older =
            |jobs: &BTreeMap<Submission, JobIdx>| jobs.range(..submission.clone()).take(max).count() as u64;
        self.backoff_count + older(&self.queued) + older(&self.overflow)
    }

    /// Whether the quota allows this number of queued jobs.
    fn may_queue(&self, jobs: u64) -> bool {
        Limit::from_quota(self.input.quotas.max_queued_jobs).allows(jobs)
    }

    /// Jobs that count as queued.
    fn queue_length(&self) -> u64 {
        self.queued.len() as u64 + self.backoff_count
    }
}
