//! The latest change of each job, and the latest deletions, in the order in which the watch delivered them: what a stream
//! of all jobs of a tenant reads.
//!
//! The log is compacted: of a job it has the last change only, so that it never has more entries than there are jobs, and
//! at most [`MAX_DELETIONS`] deletions. A reader keeps its place and no entries, so that a slow one costs no memory.
//!
//! Each entry has a version, which is the resource version of its job wherever the log is ordered by them: versions never
//! decrease, also where a list after a gap of the watch delivers older changes. So a reader that has read everything up to a
//! version continues after it, here or in the log of another replica. Deletions before the oldest version that
//! [`ChangeLog::resume`] accepts may be missing.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    ops::Bound,
};

use uuid::Uuid;

use super::ListPosition;

/// Most deletions that the log keeps, of all tenants.
pub const MAX_DELETIONS: usize = 10_000;

/// A place in the log of a namespace: a version, and the number of an entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The version of the entry.
    pub version: u64,
    number: u64,
}

/// What an entry is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A job that exists, by its position in lists.
    Job(ListPosition),
    /// A job that was deleted, by its position.
    Deleted(ListPosition),
}

/// The log.
#[derive(Debug, Default)]
pub struct ChangeLog {
    by_namespace: HashMap<String, BTreeMap<Place, Entry>>,
    /// The place of each job, by its UID.
    places: HashMap<Uuid, Place>,
    deletions: VecDeque<(String, Place)>,
    /// The newest version.
    newest: u64,
    /// The number of the last entry.
    number: u64,
    /// Whether the first list is complete: from then on changes come in the order of their versions.
    is_live: bool,
    /// The version after which no deletion is missing; `None` before the first change that the watch has seen happen.
    complete_after: Option<u64>,
}

impl ChangeLog {
    /// Adds a change of a job with this resource version, in place of its last one.
    pub fn record(&mut self, namespace: &str, resource_version: Option<&str>, entry: Entry) {
        let version = resource_version.and_then(|version| version.parse().ok()).unwrap_or_default();
        let place = self.next(version);
        let uid = match entry {
            Entry::Job((_, uid)) | Entry::Deleted((_, uid)) => uid,
        };
        if let Some(before) = self.places.remove(&uid) {
            self.remove(namespace, before);
        }
        self.by_namespace.entry(namespace.to_owned()).or_default().insert(place, entry);
        match entry {
            Entry::Job(_) => drop(self.places.insert(uid, place)),
            Entry::Deleted(_) => self.deletions.push_back((namespace.to_owned(), place)),
        }
        while self.deletions.len() > MAX_DELETIONS {
            let Some((namespace, place)) = self.deletions.pop_front() else { return };
            self.remove(&namespace, place);
            self.complete_after = self.complete_after.max(Some(place.version));
        }
    }

    fn next(&mut self, version: u64) -> Place {
        self.number += 1;
        // The first list is in no order, and no reader has read any of it.
        let version = if self.is_live { version.max(self.newest) } else { version };
        self.newest = self.newest.max(version);
        if self.is_live && self.complete_after.is_none() {
            self.complete_after = Some(version);
        }
        Place { version, number: self.number }
    }

    fn remove(&mut self, namespace: &str, place: Place) {
        if let Some(entries) = self.by_namespace.get_mut(namespace) {
            entries.remove(&place);
            if entries.is_empty() {
                self.by_namespace.remove(namespace);
            }
        }
    }

    /// The first list is complete.
    pub fn synced(&mut self) {
        self.is_live = true;
    }

    /// The newest version.
    #[must_use]
    pub fn newest(&self) -> u64 {
        self.newest
    }

    /// The place after which a reader continues that has read everything up to this version; `None` where a deletion since
    /// then may be missing.
    #[must_use]
    pub fn resume(&self, version: u64) -> Option<Place> {
        let is_complete = self.complete_after.is_some_and(|after| after <= version);
        is_complete.then_some(Place { version, number: u64::MAX })
    }

    /// The entries of a namespace after this place, the oldest first, at most `limit`.
    pub fn after(
        &self,
        namespace: &str,
        place: Place,
        limit: usize,
    ) -> impl Iterator<Item = (Place, Entry)> + '_ {
        let entries = self.by_namespace.get(namespace).into_iter();
        let entries = entries.flat_map(move |all| all.range((Bound::Excluded(place), Bound::Unbounded)));
        entries.take(limit).map(|(place, entry)| (*place, *entry))
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    fn job(n: u128) -> Entry {
        Entry::Job((Timestamp::UNIX_EPOCH, Uuid::from_u128(n)))
    }

    fn deleted(n: u128) -> Entry {
        Entry::Deleted((Timestamp::UNIX_EPOCH, Uuid::from_u128(n)))
    }

    /// A log with these jobs of the first list, in namespace `a`.
    fn listed(jobs: &[(u128, &str)]) -> ChangeLog {
        let mut log = ChangeLog::default();
        for (n, version) in jobs {
            log.record("a", Some(version), job(*n));
        }
        log.synced();
        log
    }

    fn after(log: &ChangeLog, place: Place) -> Vec<(u64, Entry)> {
        log.after("a", place, 99).map(|(place, entry)| (place.version, entry)).collect()
    }

    #[test]
    fn a_log_has_the_last_change_of_each_job_in_the_order_of_versions() {
        // Given: a list, which is in the order of names.
        let mut log = listed(&[(1, "30"), (2, "10"), (3, "20")]);
        assert_eq!(after(&log, Place::default()), [(10, job(2)), (20, job(3)), (30, job(1))]);
        let end = log.after("a", Place::default(), 99).last().unwrap().0;
        // Changes replace the last change of their job, and a deletion replaces the job.
        log.record("a", Some("40"), job(2));
        log.record("b", Some("41"), job(9));
        log.record("a", Some("42"), job(2));
        log.record("a", Some("43"), deleted(3));
        assert_eq!(after(&log, end), [(42, job(2)), (43, deleted(3))]);
        assert_eq!(
            after(&log, Place::default()),
            [(30, job(1)), (42, job(2)), (43, deleted(3))],
            "and nothing of another namespace"
        );
        assert_eq!(log.after("a", Place::default(), 1).count(), 1);
        // A change that a list after a gap delivers late follows what was read before it.
        let end = log.after("a", Place::default(), 99).last().unwrap().0;
        log.record("a", Some("35"), job(4));
        assert_eq!(after(&log, end), [(43, job(4))]);
    }

    #[test]
    fn a_reader_continues_only_where_no_deletion_can_be_missing() {
        let mut log = listed(&[(1, "30")]);
        assert_eq!(log.resume(30), None, "a job may have been deleted after the version and before the list");
        log.record("a", Some("50"), job(2));
        assert_eq!(log.resume(49), None);
        assert_eq!(after(&log, log.resume(50).unwrap()), []);
        log.record("a", Some("60"), deleted(2));
        assert_eq!(after(&log, log.resume(55).unwrap()), [(60, deleted(2))]);
        assert_eq!(after(&log, log.resume(99).unwrap()), [], "a log that is behind another replica's");
        // The oldest deletions are forgotten, and with them who could miss them.
        for n in 0..MAX_DELETIONS as u128 {
            log.record("b", Some(&(100 + n).to_string()), deleted(100 + n));
        }
        assert_eq!(log.resume(59), None);
        assert_eq!(after(&log, log.resume(60).unwrap()), []);
        assert_eq!(after(&log, Place::default()), [(30, job(1))]);
    }

    #[test]
    fn a_namespace_without_jobs_takes_no_memory() {
        let mut log = listed(&[(1, "30")]);
        log.record("a", Some("31"), deleted(1));
        for n in 0..MAX_DELETIONS as u128 {
            log.record("b", Some("40"), deleted(100 + n));
        }
        assert!(log.places.is_empty() && !log.by_namespace.contains_key("a"));
        assert_eq!(log.deletions.len(), MAX_DELETIONS);
    }
}
