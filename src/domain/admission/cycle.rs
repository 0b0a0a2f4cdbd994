//! The scheduling cycle: from what has changed to what is admitted.
//!
//! [`Dispatcher::decide`] runs cycles until one finds nothing to do. Each of them is a story of six steps:
//!
//! 1. **What changed**: the tenants that are enqueued, and those that a change of the nodes concerns.
//! 2. **Assess**: new jobs are rejected, queued, or put into the overflow.
//! 3. **Reservations**: starving jobs, which others have overtaken too often, are admitted first; one that does not fit yet
//!    gets a node reserved ([`backfill`](super::backfill)).
//! 4. **Candidates**: each tenant's classes are assessed in its own order ([`order`](super::order)). What fits into the
//!    tenant's own group, for which no other tenant contends, is admitted at once; the first that would go to a shared
//!    pool is the tenant's candidate.
//! 5. **Admit**: the candidate that is first in fair-share order ([`fair_share`](super::fair_share)) is admitted, and its
//!    tenant nominates the next one, until no candidate is left.
//! 6. **Report**: tenants whose jobs have begun to starve are enqueued again; verdicts and usage go to the caller.
//!
//! A class is assessed once: between its nomination and its admission only the room can change, so only that is checked
//! again. Tenants that merely wait for room in a pool are not assessed before their turn comes, and most turns do not
//! come: for them step 1 adds the *blocked* classes of the pool as candidates, in the order that they would have.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, BinaryHeap},
};

use super::{
    Decision, Dispatcher,
    ids::{PoolId, TenantId},
    inventory::CapacityChanges,
    pool_shares::Nomination,
    tenant_queue::Assessment,
};

/// Starving jobs that one cycle handles, of those that wait for a reservation and of those in each pool that may have begun
/// to starve: it reserves at most one more node of a pool, and thousands may starve at once.
const MAX_STARVING: usize = 16;

/// A class that may start a job in a pool. The least is next.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    nomination: Nomination,
    pool: PoolId,
    /// False for a blocked class of a tenant that is not in the cycle yet.
    assessed: bool,
}

/// What one cycle handles.
#[derive(Default)]
struct Cycle {
    /// Its tenants, each once.
    tenants: Vec<TenantId>,
    candidates: BinaryHeap<Reverse<Candidate>>,
    /// Blocked candidates for which the room was used up.
    misses: usize,
}

impl Dispatcher {
    /// Admits and rejects all jobs that can be by the changes so far.
    pub fn decide(&mut self) -> Decision {
        while self.run_cycle() {}
        self.report()
    }

    /// Runs one cycle, as described at the top; false where nothing has changed.
    fn run_cycle(&mut self) -> bool {
        // 1. What changed.
        self.shared.inventory.sort_pools(self.shared.now.steady);
        let mut cycle = Cycle { tenants: self.shared.agenda.take_enqueued(), ..Cycle::default() };

        // 2. Assess new jobs, by the nodes as they are now.
        cycle.tenants.iter().for_each(|tenant| self.tenants[*tenant].enqueue_arrivals(&mut self.shared));
        self.collect_changes(&mut cycle);
        if cycle.tenants.is_empty() && cycle.candidates.is_empty() {
            return false;
        }

        // 3. Reservations; what is reserved no longer is free for all.
        self.admit_starving(&cycle.tenants);
        self.collect_changes(&mut cycle);

        // 4. Candidates.
        for index in 0..cycle.tenants.len() {
            let tenant = cycle.tenants[index];
            self.tenants[tenant].recheck_inadmissible(&mut self.shared);
            self.tenants[tenant].collect_retryable(&self.shared.inventory);
            self.nominate(tenant, &mut cycle);
        }

        // 5. Admit, in fair-share order.
        while let Some(Reverse(candidate)) = cycle.candidates.pop() {
            if candidate.assessed {
                self.admit_candidate(&candidate, &mut cycle);
            } else {
                self.join_blocked(&candidate, &mut cycle);
            }
        }

        // 6. Report.
        for tenant in cycle.tenants {
            self.tenants[tenant].end_cycle(&mut self.shared);
            self.drop_if_empty(tenant);
        }
        true
    }

    // --- 1. what changed

    /// Adds what the changes of the nodes concern: tenants with a reservation, or that wait for one; tenants that wait for
    /// a pool whose nodes have changed; and where a node just has more room, the blocked classes that it may be enough for.
    fn collect_changes(&mut self, cycle: &mut Cycle) {
        let now = self.shared.now.steady;
        let CapacityChanges { changed, freed, reservations } = self.shared.inventory.take_changes(now);
        if changed.is_empty() && freed.is_empty() && reservations.is_empty() {
            return;
        }
        for tenant in self.shared.agenda.take_awaiting_reservation(MAX_STARVING) {
            if let Some(queue) = self.tenants.get_mut(tenant) {
                queue.left_reservation_line();
            }
            self.add_tenant(tenant, cycle);
        }
        reservations.into_iter().for_each(|tenant| self.add_tenant(tenant, cycle));
        for pool in changed.iter().chain(&freed) {
            let overtaken = self.shared.inventory.shares_mut(*pool).take_overtaken(MAX_STARVING);
            overtaken.into_iter().for_each(|tenant| self.add_tenant(tenant, cycle));
        }
        for pool in changed {
            for tenant in self.shared.inventory.shares(pool).blocked_tenants() {
                self.tenants[tenant].recheck();
                self.add_tenant(tenant, cycle);
            }
        }
        for pool in freed {
            let blocked = self.shared.inventory.nominations(pool, now);
            let blocked = blocked.map(|nomination| Reverse(Candidate { nomination, pool, assessed: false }));
            cycle.candidates.append(&mut blocked.collect());
        }
    }

    fn add_tenant(&mut self, tenant: TenantId, cycle: &mut Cycle) {
        if self.tenants.get_mut(tenant).is_some_and(|queue| queue.join_cycle(&self.shared.inventory)) {
            cycle.tenants.push(tenant);
        }
    }

    // --- 3. reservations

    /// Admits starving jobs that fit by now, and reserves nodes for the others; those that most have overtaken come first.
    fn admit_starving(&mut self, tenants: &[TenantId]) {
        let mut starving = Vec::new();
        for tenant in tenants {
            let found = self.tenants[*tenant].find_starving(&mut self.shared);
            starving.extend(found.map(|order| (order, *tenant)));
        }
        starving.sort_unstable();
        let mut reserved_in = BTreeSet::new();
        for (_, tenant) in starving {
            self.tenants[tenant].admit_or_reserve(&mut reserved_in, &mut self.shared);
        }
    }

    // --- 4. candidates

    /// Assesses a tenant's classes in its order, up to the first that would go to a shared pool.
    fn nominate(&mut self, tenant: TenantId, cycle: &mut Cycle) {
        let (queue, shared) = (&mut self.tenants[tenant], &mut self.shared);
        while let Some(class) = queue.next_class(&mut shared.inventory) {
            match queue.assess(class, shared) {
                Assessment::Fit(assignment) if queue.is_shared(assignment.pool) => {
                    let nomination = queue.nomination(class, assignment.pool, shared);
                    return cycle.push(nomination, assignment.pool);
                }
                Assessment::Fit(assignment) => queue.admit_first(class, assignment, shared),
                Assessment::Inadmissible(why) => queue.mark_inadmissible(class, why, shared),
                Assessment::Reject(jobs, reason, message) => {
                    queue.reject(class, jobs, reason, &message, shared)
                }
            }
        }
    }

    // --- 5. admit

    /// Admits a candidate, if there is still room for it, and has its tenant nominate the next one. Where only another
    /// shared pool has room, the job is a candidate there.
    fn admit_candidate(&mut self, candidate: &Candidate, cycle: &mut Cycle) {
        let Nomination { tenant, class, .. } = candidate.nomination;
        let (queue, shared) = (&mut self.tenants[tenant], &mut self.shared);
        match queue.reassign(class, &shared.inventory) {
            Ok(assignment) if queue.is_shared(assignment.pool) && assignment.pool != candidate.pool => {
                let nomination = queue.nomination(class, assignment.pool, shared);
                return cycle.push(nomination, assignment.pool);
            }
            Ok(assignment) => queue.admit_first(class, assignment, shared),
            Err(why) => queue.mark_inadmissible(class, why, shared),
        }
        self.nominate(tenant, cycle);
    }

    /// It is the turn of a tenant with a blocked class: while there is room for that, the tenant takes part in the cycle.
    fn join_blocked(&mut self, candidate: &Candidate, cycle: &mut Cycle) {
        let tenant = candidate.nomination.tenant;
        if self.tenants[tenant].is_enqueued() {
            return;
        }
        if !self.may_fit(candidate) {
            return self.drop_stale_candidates(candidate.pool, cycle);
        }
        self.add_tenant(tenant, cycle);
        self.tenants[tenant].collect_retryable(&self.shared.inventory);
        self.nominate(tenant, cycle);
    }

    fn may_fit(&self, candidate: &Candidate) -> bool {
        let Candidate { nomination, pool, .. } = candidate;
        self.tenants[nomination.tenant].may_fit_in(nomination.class, *pool, &self.shared.inventory)
    }

    /// Drops the blocked candidates of a pool for which the room is used up, which most of them find. That is done at the
    /// first miss, the second, the fourth and so on: at each it would cost too much, and one by one, too.
    fn drop_stale_candidates(&self, pool: PoolId, cycle: &mut Cycle) {
        cycle.misses += 1;
        if cycle.misses.is_power_of_two() {
            let none_fits = self.shared.inventory.nominations(pool, self.shared.now.steady).next().is_none();
            cycle.candidates.retain(|Reverse(candidate)| {
                let is_blocked = !candidate.assessed && candidate.pool == pool;
                !is_blocked || (!none_fits && self.may_fit(candidate))
            });
        }
    }

    // --- 6. report

    /// What was decided, and whose usage has changed, since the last report.
    fn report(&mut self) -> Decision {
        let (decided, changed) = self.shared.agenda.take_report();
        let mut usage = Vec::with_capacity(changed.len());
        for tenant in changed {
            usage.push(self.tenants[tenant].usage_reported());
            self.drop_if_empty(tenant);
        }
        Decision { decided, usage }
    }
}

impl Cycle {
    /// Adds a class that was assessed.
    fn push(&mut self, nomination: Option<Nomination>, pool: PoolId) {
        self.candidates
            .extend(nomination.map(|nomination| Reverse(Candidate { nomination, pool, assessed: true })));
    }
}
