//! The rows against the caches: what is deleted, what is missing or older, and whether etcd was restored.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use kube::Resource;
use uuid::Uuid;

use super::{dirty::Mark, rows};
use crate::db::RowVersion;

/// What a comparison shows. `S` are the objects whose row is missing or of another version.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Found<S> {
    /// Rows without `deleted_at` whose object does not exist.
    pub(super) deleted: Vec<Uuid>,
    /// Objects whose row is missing or of another version.
    pub(super) stale: S,
    /// Some row of this epoch is ahead of its object, or has `deleted_at` although the object exists: etcd was restored
    /// (or the cache lags behind what an earlier process saw, and the same remedy does no harm: what comes is newer
    /// again).
    pub(super) ahead: bool,
}

/// UIDs of what exists.
pub(super) fn uids<K: Resource>(exists: &[Arc<K>]) -> Vec<Uuid> {
    exists.iter().filter_map(|object| rows::uid(object.as_ref())).collect()
}

/// Compares what `exists` with its rows. `invalid` objects exist too, in an unknown version.
pub(super) fn compare<K: Resource>(
    exists: Vec<Arc<K>>,
    rows: &[RowVersion],
    invalid: &HashSet<Uuid>,
    epoch: i64,
) -> Found<HashMap<Uuid, Mark<K>>> {
    let mut objects: HashMap<Uuid, Arc<K>> =
        exists.into_iter().filter_map(|object| Some((rows::uid(object.as_ref())?, object))).collect();
    let version = |object: &Arc<K>| rows::resource_version(object.as_ref()).unwrap_or_default();
    let versions = objects.iter().map(|(uid, object)| (*uid, version(object))).collect();
    let Found { deleted, stale, ahead } = differences(rows, &versions, invalid, epoch);
    let stale =
        stale.into_iter().filter_map(|uid| Some((uid, Mark::Exists(objects.remove(&uid)?)))).collect();
    Found { deleted, stale, ahead }
}

/// [`compare`], with the resource versions of what `exists`.
fn differences(
    rows: &[RowVersion],
    exists: &HashMap<Uuid, i64>,
    invalid: &HashSet<Uuid>,
    epoch: i64,
) -> Found<Vec<Uuid>> {
    let mut found = Found::<Vec<Uuid>>::default();
    let mut rowless: HashSet<Uuid> = exists.keys().copied().collect();
    for row in rows {
        rowless.remove(&row.uid);
        match exists.get(&row.uid) {
            None if row.living && !invalid.contains(&row.uid) => found.deleted.push(row.uid),
            None => (),
            Some(version) => {
                // Resource version 0: a row made from what a pod said of its job. It is never ahead.
                let ahead = row.resource_version > *version || (!row.living && row.resource_version > 0);
                found.ahead |= ahead && row.epoch >= epoch;
                if ahead || row.resource_version < *version {
                    found.stale.push(row.uid);
                }
            }
        }
    }
    found.stale.extend(rowless);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(uid: u128, epoch: i64, resource_version: i64, living: bool) -> RowVersion {
        RowVersion { uid: Uuid::from_u128(uid), epoch, resource_version, living }
    }

    fn check(row: RowVersion, exists: Option<i64>) -> (bool, bool, bool) {
        let exists: HashMap<Uuid, i64> = exists.map(|version| (row.uid, version)).into_iter().collect();
        let found = differences(&[row], &exists, &HashSet::from([Uuid::from_u128(9)]), 2);
        (!found.deleted.is_empty(), !found.stale.is_empty(), found.ahead)
    }

    #[test]
    fn every_case() {
        assert_eq!(check(row(1, 2, 5, true), Some(5)), (false, false, false), "the same");
        assert_eq!(check(row(1, 2, 4, true), Some(5)), (false, true, false), "older");
        assert_eq!(check(row(1, 2, 6, true), Some(5)), (false, true, true), "ahead: restored");
        assert_eq!(
            check(row(1, 1, 6, true), Some(5)),
            (false, true, false),
            "ahead, in an epoch that has ended"
        );
        assert_eq!(check(row(1, 2, 5, true), None), (true, false, false), "deleted");
        assert_eq!(check(row(9, 2, 5, true), None), (false, false, false), "exists, and invalid");
        assert_eq!(check(row(1, 2, 5, false), Some(5)), (false, true, true), "back from a backup");
        assert_eq!(check(row(1, 2, 0, false), Some(5)), (false, true, false), "known from a pod only");
        assert_eq!(check(row(1, 2, 5, false), None), (false, false, false), "history");
    }

    #[test]
    fn what_has_no_row_is_stale() {
        let found = differences(&[], &HashMap::from([(Uuid::from_u128(3), 1)]), &HashSet::new(), 1);
        assert_eq!(found, Found { stale: vec![Uuid::from_u128(3)], ..Found::default() });
    }
}
