//! The attempts that were charged last, in memory: if the database loses their commits, they are charged
//! again, also where nothing of them is left in the cluster.

use std::collections::VecDeque;

use crate::db::AttemptRow;

/// Attempts that are kept: about 10 MB.
const MAX_ATTEMPTS: usize = 20_000;

/// The attempts that were charged last, with the number of the transaction by whose end they were committed.
#[derive(Debug, Default)]
pub(super) struct Recent {
    rows: VecDeque<(i64, AttemptRow)>,
    /// What was committed up to this transaction is no longer all here.
    forgotten: i64,
}

impl Recent {
    /// These were committed by transaction `number` or before.
    pub(super) fn add(&mut self, number: i64, rows: impl Iterator<Item = AttemptRow>) {
        self.rows.extend(rows.map(|row| (number, row)));
        let surplus = self.rows.len().saturating_sub(MAX_ATTEMPTS);
        if let Some((number, _)) = self.rows.drain(..surplus).next_back() {
            self.forgotten = number;
        }
    }

    /// Gives up those that were committed after transaction `number`, and says whether they are all.
    pub(super) fn after(&mut self, number: i64) -> (Vec<AttemptRow>, bool) {
        let at = self.rows.partition_point(|(committed, _)| *committed <= number);
        let rows = self.rows.drain(at..).map(|(_, row)| row).collect();
        let complete = self.forgotten <= number;
        self.forgotten = self.forgotten.min(number);
        (rows, complete)
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn row(number: usize) -> AttemptRow {
        let record = serde_json::from_value(serde_json::json!({
            "attempt": 1, "pod": "p", "finishedAt": "2026-01-01T15:30:00Z", "reason": "Succeeded",
            "cpuMillicores": 1, "memoryBytes": 1, "gpus": 0, "bandwidthMbps": 0,
        }));
        AttemptRow { job_uid: Uuid::from_u128(number as u128), record: record.unwrap(), seen: None }
    }

    fn uids(rows: &[AttemptRow]) -> Vec<u128> {
        rows.iter().map(|row| row.job_uid.as_u128()).collect()
    }

    #[test]
    fn what_was_committed_after_a_transaction_is_given_again() {
        let mut recent = Recent::default();
        recent.add(3, [row(1)].into_iter());
        recent.add(5, [row(2), row(3)].into_iter());
        let (rows, complete) = recent.after(4);
        assert_eq!((uids(&rows), complete), (vec![2, 3], true));
        assert_eq!(uids(&recent.after(0).0), [1]);
    }

    #[test]
    fn what_was_forgotten_is_said() {
        let mut recent = Recent::default();
        recent.add(3, [row(1), row(2)].into_iter());
        recent.add(9, (0..MAX_ATTEMPTS - 1).map(row));
        assert!(recent.after(3).1, "those of transaction 3 that are forgotten are not asked for");
        recent.add(9, (0..MAX_ATTEMPTS - 1).map(row));
        let (rows, complete) = recent.after(2);
        assert_eq!((rows.len(), complete), (MAX_ATTEMPTS, false));
    }
}
