//! What the controller remembers from one reconcile of a tenant to the next.
//!
//! All of it may be lost at any time: a reconcile that finds nothing here applies every child again and writes usage
//! once more. What is remembered never says how the cluster is, only which version of each child was written, and which
//! one a watch has delivered last: as long as these are the same, no other client has changed a child. Tenant status
//! keeps a mark of it ([`ReconcileState::applied_hash`]), so that a restart need not apply the children of every tenant
//! again.
//!
//! Times here only pace what is written. They are of a clock that does not step: by the time of day, one that is set
//! back by an hour would keep a tenant's status as it is for an hour.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use super::{usage::WriteDecision, validate::Validated};
use crate::{
    hex::hex,
    kube_ext::courtesy::{Courtesy, CourtesyBudget, Reservation},
};

/// Hash of the children that were applied.
pub(super) type Fingerprint = [u8; 32];

/// Kind and name of a child.
pub(super) type Key = (String, String);
/// The hash of each child.
pub(super) type Hashes = BTreeMap<Key, Fingerprint>;
/// The version of each child.
pub(super) type Versions = BTreeMap<Key, String>;

#[derive(Debug, Default, PartialEq)]
struct Entry {
    /// What was last built, and the hash of the children that came of it.
    built: Option<(Validated, Fingerprint)>,
    /// What was last applied as a whole.
    applied: Option<Fingerprint>,
    /// The hash of each child of the apply that gave it its version in `written`.
    hashes: Hashes,
    /// The version of each child as we wrote it.
    written: Versions,
    /// The version of each child that a watch has delivered last; `None` when it is deleted.
    seen: BTreeMap<Key, Option<String>>,
    usage_written: Option<Instant>,
    /// The courtesy write that is reserved for its usage.
    usage_reserved: Option<Reservation>,
    /// The step of a deletion reported last, and when.
    step: Option<(&'static str, Instant)>,
}

/// By name of tenant.
#[derive(Debug, Default)]
pub(super) struct ReconcileState(Mutex<HashMap<String, Entry>>);

impl ReconcileState {
    fn entries(&self) -> MutexGuard<'_, HashMap<String, Entry>> {
        // Each method leaves the map whole, so a poisoned lock holds nothing broken.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with<T>(&self, tenant: &str, f: impl FnOnce(&mut Entry) -> T) -> T {
        let mut entries = self.entries();
        match entries.get_mut(tenant) {
            Some(entry) => f(entry),
            None => f(entries.entry(tenant.to_owned()).or_default()),
        }
    }

    /// The hash of the children that `build` makes of a tenant; it is called only where the tenant is not as last time.
    ///
    /// # Errors
    /// Those of `build`.
    pub(super) fn fingerprint<E>(
        &self,
        tenant: &Validated,
        build: impl FnOnce() -> Result<Fingerprint, E>,
    ) -> Result<Fingerprint, E> {
        self.with(&tenant.owner.name, |entry| match &entry.built {
            Some((built, fingerprint)) if built == tenant => Ok(*fingerprint),
            _ => {
                let fingerprint = build()?;
                entry.built = Some((tenant.clone(), fingerprint));
                Ok(fingerprint)
            }
        })
    }

    /// A watch delivers a child: its version, or that it is deleted (`None`). True when that is not as it was written,
    /// and for every child that is deleted: a deletion of the tenant waits for that.
    pub(super) fn observed(&self, tenant: &str, kind: &str, name: &str, version: Option<String>) -> bool {
        let key = (kind.to_owned(), name.to_owned());
        let mut entries = self.entries();
        let entry = entries.entry(tenant.to_owned()).or_default();
        let written = entry.written.get(&key);
        let drifted = version.is_none() || version.as_ref() != written;
        // A wanted child without a version is being applied: its deletion may be the later one.
        if version.is_none() && written.is_none() && !entry.hashes.contains_key(&key) {
            entry.seen.remove(&key);
        } else {
            entry.seen.insert(key, version);
        }
        // The namespace may be no tenant's (any more).
        if *entry == Entry::default() {
            entries.remove(tenant);
        }
        drifted
    }

    /// A child was written, or found as it should be.
    pub(super) fn recorded(&self, tenant: &str, kind: &str, name: &str, version: String) {
        self.with(tenant, |entry| entry.written.insert((kind.to_owned(), name.to_owned()), version));
    }

    /// An apply of these children begins. Those stay recorded that were applied just so and are, as far as the watches
    /// have delivered, as they were written; all others are to be applied, or are not wanted any more.
    pub(super) fn applying(&self, tenant: &str, wanted: &Hashes) {
        self.with(tenant, |entry| {
            entry.applied = None;
            let Entry { written, hashes, seen, .. } = entry;
            written.retain(|key, version| {
                let same = wanted.get(key).is_some_and(|hash| hashes.get(key) == Some(hash));
                same && seen.get(key).is_none_or(|seen| seen.as_ref() == Some(version))
            });
            hashes.clone_from(wanted);
        });
    }

    /// Whether a child needs no write of the apply that has begun.
    pub(super) fn is_recorded(&self, tenant: &str, kind: &str, name: &str) -> bool {
        self.with(tenant, |entry| entry.written.contains_key(&(kind.to_owned(), name.to_owned())))
    }

    /// The namespace does not exist, so no child in it does.
    pub(super) fn forget_children(&self, tenant: &str) {
        self.with(tenant, |entry| entry.written.clear());
    }

    /// A whole apply has ended well.
    pub(super) fn applied(&self, tenant: &str, children: Fingerprint) {
        self.with(tenant, |entry| entry.applied = Some(children));
    }

    /// Whether just these children were applied, and each is, as far as the watches have delivered, as it was written.
    pub(super) fn is_applied(&self, tenant: &str, children: &Fingerprint) -> bool {
        self.with(tenant, |entry| {
            let as_written = |(key, seen): (&Key, &Option<String>)| seen.as_ref() == entry.written.get(key);
            entry.applied.as_ref() == Some(children) && entry.seen.iter().all(as_written)
        })
    }

    /// What Tenant status is to keep of the last whole apply: a hash of the children wanted and of their versions.
    pub(super) fn applied_hash(&self, tenant: &str) -> Option<String> {
        self.with(tenant, |entry| Some(mark(entry.applied.as_ref()?, &entry.written)))
    }

    /// Before the first apply since the start: takes the children for applied, where the mark kept in Tenant status
    /// says that just these were, and their versions are the same still.
    pub(super) fn resume(
        &self,
        tenant: &str,
        children: &Fingerprint,
        kept: &str,
        children_of: impl FnOnce() -> Option<(Versions, Hashes)>,
    ) {
        self.with(tenant, |entry| {
            if entry.applied.is_none()
                && entry.written.is_empty()
                && let Some((versions, hashes)) = children_of()
                && mark(children, &versions) == kept
            {
                entry.applied = Some(*children);
                (entry.written, entry.hashes) = (versions, hashes);
            }
        });
    }

    /// How long ago usage was last written.
    pub(super) fn since_usage(&self, tenant: &str) -> Option<Duration> {
        self.with(tenant, |entry| entry.usage_written).map(|at| at.elapsed())
    }

    /// Whether the budget of courtesy writes allows to write the usage of this tenant now, or when to try again. The
    /// write stays reserved until usage is written.
    pub(super) fn reserve_usage(
        &self,
        tenant: &str,
        budget: &CourtesyBudget,
        now: Timestamp,
    ) -> WriteDecision {
        let reserve = || budget.reserve(Courtesy::TenantStatus);
        let reserved = self.with(tenant, |entry| *entry.usage_reserved.get_or_insert_with(reserve));
        budget.wait(Courtesy::TenantStatus, reserved, now).map_or(WriteDecision::Now, WriteDecision::In)
    }

    /// Usage was written.
    pub(super) fn recorded_usage(&self, tenant: &str) {
        self.with(tenant, |entry| {
            entry.usage_written = Some(Instant::now());
            entry.usage_reserved = None;
        });
    }

    /// The step of a deletion that was reported last, and how long ago.
    pub(super) fn step(&self, tenant: &str) -> Option<(&'static str, Duration)> {
        self.with(tenant, |entry| entry.step).map(|(step, at)| (step, at.elapsed()))
    }

    /// A step of a deletion was reported.
    pub(super) fn recorded_step(&self, tenant: &str, step: &'static str) {
        self.with(tenant, |entry| entry.step = Some((step, Instant::now())));
    }

    /// The tenant is deleted.
    pub(super) fn forget(&self, tenant: &str) {
        self.entries().remove(tenant);
    }
}

fn mark(children: &Fingerprint, versions: &Versions) -> String {
    let mut hash = Sha256::new_with_prefix(children);
    for ((kind, name), version) in versions {
        // None of these holds a line break.
        hash.update(format!("{kind}\n{name}\n{version}\n"));
    }
    hex(&hash.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api_types::{
            plan::EffectiveQuotas,
            tenant::{NetworkIsolation, PodSecurity},
        },
        controllers::tenant::validate::Owner,
    };

    fn key(name: &str) -> Key {
        ("K".to_owned(), name.to_owned())
    }

    /// Children of these names, each with a content.
    fn wanted(children: &[(&str, u8)]) -> Hashes {
        children.iter().map(|(name, content)| (key(name), [*content; 32])).collect()
    }

    fn apply(state: &ReconcileState, versions: &[(&str, &str)]) {
        state.applying("a", &versions.iter().map(|(name, _)| (key(name), [0; 32])).collect());
        for (name, version) in versions {
            state.recorded("a", "K", name, (*version).to_owned());
        }
        state.applied("a", [1; 32]);
    }

    #[test]
    fn what_we_wrote_ourselves_is_no_drift_and_anything_else_is() {
        let state = ReconcileState::default();
        let saw =
            |name: &str, version: Option<&str>| state.observed("a", "K", name, version.map(str::to_owned));
        let applied = || state.is_applied("a", &[1; 32]);
        assert!(!applied());
        apply(&state, &[("x", "11")]);
        assert!(applied(), "no event yet");
        assert!(!state.is_applied("a", &[2; 32]), "other children are wanted now");
        assert!(!saw("x", Some("11")) && applied());
        assert!(saw("x", Some("12")) && !applied(), "changed by another client");
        apply(&state, &[("x", "13")]);
        assert!(!saw("x", Some("13")) && applied());
        assert!(saw("x", None) && !applied(), "deleted");
        apply(&state, &[("x", "15")]);
        assert!(!saw("x", Some("15")) && applied());
        assert!(saw("y", Some("16")) && !applied(), "a child that is not wanted");
        assert!(saw("y", None) && applied(), "deleted again");
    }

    #[test]
    fn a_change_during_the_apply_is_not_lost() {
        let state = ReconcileState::default();
        state.applying("a", &wanted(&[("x", 0)]));
        // Another client changed what was just written, and the watch is faster than the answer.
        state.observed("a", "K", "x", Some("12".to_owned()));
        state.recorded("a", "K", "x", "11".to_owned());
        state.applied("a", [1; 32]);
        assert!(!state.is_applied("a", &[1; 32]));
    }

    #[test]
    fn a_child_that_is_deleted_before_the_answer_to_its_apply_comes_is_applied_again() {
        let state = ReconcileState::default();
        state.applying("a", &wanted(&[("x", 0)]));
        // The API server has created it, another client deletes it, and the watch is faster than the answer.
        state.observed("a", "K", "x", Some("11".to_owned()));
        assert!(state.observed("a", "K", "x", None));
        state.recorded("a", "K", "x", "11".to_owned());
        state.applied("a", [1; 32]);
        assert!(!state.is_applied("a", &[1; 32]));
        state.applying("a", &wanted(&[("x", 0)]));
        assert!(!state.is_recorded("a", "K", "x"));
    }

    #[test]
    fn an_apply_writes_only_the_children_that_differ() {
        // Given: which children an apply of these would write.
        let state = ReconcileState::default();
        let due = |children: &[(&str, u8)]| -> Vec<String> {
            state.applying("a", &wanted(children));
            let names = children.iter().map(|(name, _)| *name);
            names.filter(|name| !state.is_recorded("a", "K", name)).map(str::to_owned).collect()
        };
        let done = |name: &str, version: &str| state.recorded("a", "K", name, version.to_owned());
        // The first apply, and its repetition.
        assert_eq!(due(&[("x", 0), ("y", 0)]), ["x", "y"]);
        done("x", "11");
        assert_eq!(due(&[("x", 0), ("y", 0)]), ["y"], "an apply that failed after the first");
        done("y", "12");
        state.applied("a", [1; 32]);
        // Another content.
        assert_eq!(due(&[("x", 1), ("y", 0)]), ["x"], "its content has changed");
        assert_eq!(due(&[("x", 0), ("y", 0)]), ["x"], "and was not applied");
        done("x", "13");
        state.observed("a", "K", "x", Some("13".to_owned()));
        // Changes by other clients.
        state.observed("a", "K", "y", Some("14".to_owned()));
        assert_eq!(due(&[("x", 0), ("y", 0)]), ["y"], "changed by another client");
        done("y", "15");
        state.observed("a", "K", "x", None);
        assert_eq!(due(&[("x", 0), ("y", 0)]), ["x", "y"], "deleted, and an earlier version was seen last");
        // A namespace that was created again.
        state.forget_children("a");
        assert_eq!(due(&[("x", 0)]), ["x"]);
        done("x", "16");
        state.observed("a", "K", "x", Some("16".to_owned()));
        assert_eq!(due(&[("x", 0), ("y", 0)]), ["y"], "not wanted meanwhile");
    }

    #[test]
    fn after_a_restart_only_what_is_as_it_was_left_is_taken_for_applied() {
        // Given: the hash that an earlier process left in the status.
        let versions = |all: &[(&str, &str)]| -> Option<(Versions, Hashes)> {
            let one = |(name, version): &(&str, &str)| (key(name), (*version).to_owned());
            Some((all.iter().map(one).collect(), wanted(&[("x", 0), ("y", 0)])))
        };
        let before = ReconcileState::default();
        assert_eq!(before.applied_hash("a"), None);
        apply(&before, &[("x", "11"), ("y", "12")]);
        let kept = before.applied_hash("a").unwrap();
        // When: a new process finds these children. Then: they count as applied only where all are the same.
        let resumed = |children: Fingerprint, found: &[(&str, &str)]| {
            let state = ReconcileState::default();
            state.resume("a", &children, &kept, || versions(found));
            assert_eq!(
                state.applied_hash("a").is_some_and(|mark| mark == kept),
                state.is_applied("a", &children)
            );
            state.is_applied("a", &children)
        };
        assert!(resumed([1; 32], &[("x", "11"), ("y", "12")]));
        assert!(!resumed([2; 32], &[("x", "11"), ("y", "12")]), "other children are wanted now");
        assert!(!resumed([1; 32], &[("x", "11"), ("y", "13")]), "changed by another client");
        assert!(!resumed([1; 32], &[("x", "11")]), "deleted");

        // Not where a watch has delivered another child before, or an apply has failed.
        let state = ReconcileState::default();
        state.observed("a", "K", "z", Some("14".to_owned()));
        state.resume("a", &[1; 32], &kept, || versions(&[("x", "11"), ("y", "12")]));
        assert!(!state.is_applied("a", &[1; 32]), "a child that is not wanted");
        state.applying("a", &wanted(&[("x", 0)]));
        state.recorded("a", "K", "x", "15".to_owned());
        state.resume("a", &[1; 32], &kept, || versions(&[("x", "11"), ("y", "12")]));
        assert!(!state.is_applied("a", &[1; 32]), "an apply that has failed is not over");
    }

    #[test]
    fn children_are_built_again_only_of_a_tenant_that_changed() {
        let state = ReconcileState::default();
        let tenant = |max_jobs| Validated {
            owner: Owner { name: "a".into(), uid: "u".into(), namespace: "tenant-a".into() },
            quotas: EffectiveQuotas { max_jobs, ..EffectiveQuotas::default() },
            counts_objects: false,
            access: BTreeMap::new(),
            isolation: NetworkIsolation::default(),
            pod_security: PodSecurity::default(),
            gpu_resource: "gpu".into(),
            accounts: crate::config::Accounts::default(),
        };
        let built = |tenant: &Validated, hash: Result<Fingerprint, ()>| {
            let mut called = false;
            let found = state.fingerprint(tenant, || {
                called = true;
                hash
            });
            (called, found)
        };
        assert_eq!(built(&tenant(1), Err(())), (true, Err(())));
        assert_eq!(built(&tenant(1), Ok([1; 32])), (true, Ok([1; 32])), "a failure is not remembered");
        assert_eq!(built(&tenant(1), Ok([9; 32])), (false, Ok([1; 32])));
        assert_eq!(built(&tenant(2), Ok([2; 32])), (true, Ok([2; 32])));
        assert_eq!(built(&tenant(1), Ok([3; 32])), (true, Ok([3; 32])), "only the last is remembered");
    }
}
