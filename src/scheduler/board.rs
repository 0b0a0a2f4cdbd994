//! Where the scheduler's decisions stand for others to read.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
};

use kube::runtime::reflector::ObjectRef;

use crate::{
    api_types::{Job, Reason, tenant::TenantUsage},
    domain::admission::{Decision, Verdict},
};

/// The newest decision. Cheap to clone; all clones show the same.
#[derive(Clone, Default)]
pub struct Board(Arc<RwLock<State>>);

#[derive(Default)]
struct State {
    /// By job UID.
    verdicts: HashMap<String, Verdict>,
    /// By tenant UID.
    usage: HashMap<String, TenantUsage>,
    /// Whether a first decision was made.
    ready: bool,
}

/// Who has something new on the board.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Changed {
    pub(super) jobs: Vec<ObjectRef<Job>>,
    /// Names of tenants.
    pub(super) tenants: Vec<String>,
}

/// Names that belong to UIDs, for telling who is concerned.
#[derive(Debug, Default)]
pub(super) struct Names {
    /// Job by UID.
    pub(super) jobs: HashMap<String, ObjectRef<Job>>,
    /// Tenant's name by UID.
    pub(super) tenants: HashMap<String, String>,
}

impl Board {
    /// A board that shows these verdicts, by job UID.
    #[cfg(test)]
    pub(crate) fn showing(verdicts: impl IntoIterator<Item = (&'static str, Verdict)>) -> Self {
        let verdicts = verdicts.into_iter().map(|(uid, verdict)| (uid.to_owned(), verdict)).collect();
        Self(Arc::new(RwLock::new(State { verdicts, ready: true, ..State::default() })))
    }

    /// What was decided of a job, by UID.
    #[must_use]
    pub fn verdict(&self, job_uid: &str) -> Option<Verdict> {
        self.read(|state| state.verdicts.get(job_uid).cloned())
    }

    /// What a tenant uses, by UID.
    #[must_use]
    pub fn usage(&self, tenant_uid: &str) -> Option<TenantUsage> {
        self.read(|state| state.usage.get(tenant_uid).cloned())
    }

    /// Whether a first decision was made, from whole caches.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.read(|state| state.ready)
    }

    /// Replaces the decision. A verdict is new to its job when it is of another kind or reason; new numbers alone
    /// concern nobody. A job that waits for room or quota keeps that reason while it is others' turn: what is kept for a
    /// large job comes and goes, and would be a write for every job behind it each time. Admissions of jobs in `names` that were not judged again stay: they are reservations in use.
    pub(super) fn publish(
        &self,
        decision: Decision,
        names: &Names,
        usage: HashMap<String, TenantUsage>,
    ) -> Changed {
        let mut state = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let mut changed = Changed::default();
        let mut verdicts: HashMap<String, Verdict> = HashMap::with_capacity(decision.verdicts.len());
        for (uid, old) in &state.verdicts {
            if matches!(old, Verdict::Admit(_)) && names.jobs.contains_key(uid) {
                verdicts.insert(uid.clone(), old.clone());
            }
        }
        for (uid, verdict) in decision.verdicts {
            let verdict = match state.verdicts.remove(&uid) {
                Some(old) if same(&old, &verdict) => verdict,
                Some(old) if still_waits(&old, &verdict) => old,
                _ => {
                    changed.jobs.extend(names.jobs.get(&uid).cloned());
                    verdict
                }
            };
            verdicts.insert(uid, verdict);
        }
        for (uid, now) in &usage {
            if state.usage.get(uid) != Some(now) {
                changed.tenants.extend(names.tenants.get(uid).cloned());
            }
        }
        *state = State { verdicts, usage, ready: true };
        changed
    }

    fn read<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }
}

fn same(old: &Verdict, new: &Verdict) -> bool {
    match (old, new) {
        (Verdict::Admit(a), Verdict::Admit(b)) => a == b,
        (Verdict::Wait(a, _), Verdict::Wait(b, _)) | (Verdict::Reject(a, _), Verdict::Reject(b, _)) => a == b,
        _ => false,
    }
}

fn still_waits(old: &Verdict, new: &Verdict) -> bool {
    matches!(old, Verdict::Wait(Reason::WaitingForCapacity | Reason::WaitingForQuota, _))
        && matches!(new, Verdict::Wait(Reason::WaitingForTurn, _))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::admission::Admission;

    fn publish(board: &Board, verdicts: Vec<(&str, Verdict)>) -> usize {
        let names = ["a", "b"].map(|uid| (uid.to_owned(), ObjectRef::new(uid).within("n")));
        let names = Names { jobs: HashMap::from(names), tenants: HashMap::new() };
        let verdicts = verdicts.into_iter().map(|(u, v)| (u.to_owned(), v)).collect();
        board.publish(Decision { verdicts, ..Decision::default() }, &names, HashMap::new()).jobs.len()
    }

    #[test]
    fn only_a_new_reason_concerns_anybody_and_admissions_stay() {
        let board = Board::default();
        assert!(!board.is_ready());
        let wait = |n: &str| Verdict::Wait(Reason::WaitingForQuota, n.to_owned());
        let admit = Verdict::Admit(Admission { attempt: 1, group: "g".into(), node: None });
        assert_eq!(publish(&board, vec![("a", wait("1")), ("b", admit.clone())]), 2);
        assert_eq!(publish(&board, vec![("a", wait("2"))]), 0, "other numbers, the same reason");
        assert_eq!(board.verdict("a"), Some(wait("2")));
        assert_eq!(board.verdict("b"), Some(admit), "not judged again: in use");
        assert_eq!(publish(&board, vec![("a", Verdict::Wait(Reason::NoWorkers, String::new()))]), 1);
    }

    #[test]
    fn who_waits_for_room_keeps_that_reason_while_others_are_first() {
        let board = Board::default();
        let wait = |reason| Verdict::Wait(reason, String::new());
        publish(&board, vec![("a", wait(Reason::WaitingForCapacity)), ("b", wait(Reason::NoWorkers))]);
        let turn = || vec![("a", wait(Reason::WaitingForTurn)), ("b", wait(Reason::WaitingForTurn))];
        assert_eq!(publish(&board, turn()), 1, "only the one that had no workers");
        assert_eq!(board.verdict("a"), Some(wait(Reason::WaitingForCapacity)));
        assert_eq!(publish(&board, vec![("a", wait(Reason::WaitingForQuota))]), 1);
    }
}
