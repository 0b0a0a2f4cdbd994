//! The job state machine: nine states, and which may follow which. Anything else is an error; the same state again is
//! no move at all.
//!
//! The API server holds every writer of a status to the same table: the rule on `status.phase` in the Job's CRD is
//! [`storable`], and a test compares the two.

use std::collections::BTreeSet;

use crate::api_types::JobPhase;

/// A move that the state machine does not know.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a job can't go from {from} to {to}")]
pub struct IllegalMove {
    /// The job's phase.
    pub from: JobPhase,
    /// The phase it was to enter.
    pub to: JobPhase,
}

/// The states that may directly follow `from`.
#[must_use]
pub fn successors(from: JobPhase) -> &'static [JobPhase] {
    use JobPhase::{Assigned, Canceled, Completed, Failed, Queued, Rejected, Retrying, Running, TimedOut};
    match from {
        Queued => &[Assigned, Canceled, Rejected],
        Assigned => &[Running, Completed, Failed, TimedOut, Retrying, Canceled],
        Running => &[Completed, Failed, TimedOut, Retrying, Canceled],
        TimedOut => &[Retrying],
        Retrying => &[Queued, Failed, Canceled],
        Completed | Failed | Canceled | Rejected => &[],
    }
}

/// Phases that one write may skip on its way to the one that it stores: a pod has started, or ended, before `Assigned`
/// was written; and a job that ran too long and is retried is stored as `Retrying` at once. Each other phase has a
/// write of its own, so that every watch sees it.
const SKIPPABLE: [JobPhase; 2] = [JobPhase::Assigned, JobPhase::TimedOut];

/// Checks a way through the state machine, from what is stored to what is to be: each step is legal, or stays where it
/// is, and only phases are skipped that one write may skip.
///
/// A way of several steps is one write: a pod that has started before `Assigned` was written takes its job from
/// Queued by way of Assigned to Running at once.
///
/// # Errors
/// [`IllegalMove`] names the first step that is not.
pub fn check_way(from: JobPhase, way: &[JobPhase]) -> Result<(), IllegalMove> {
    way.iter().try_fold(from, |here, &to| {
        let leaves = if here == from { !is_terminal(from) } else { SKIPPABLE.contains(&here) };
        if here == to || leaves && successors(here).contains(&to) {
            Ok(to)
        } else {
            Err(IllegalMove { from: here, to })
        }
    })?;
    Ok(())
}

/// The states that one write may store over `from`, by whatever way; nothing is stored over an end.
#[must_use]
pub fn storable(from: JobPhase) -> BTreeSet<JobPhase> {
    let mut found = BTreeSet::new();
    let mut here = if is_terminal(from) { vec![] } else { vec![from] };
    while let Some(phase) = here.pop() {
        for &next in successors(phase) {
            if found.insert(next) && SKIPPABLE.contains(&next) {
                here.push(next);
            }
        }
    }
    found
}

/// Whether nothing follows any more. `TimedOut` as stored is an end: a job that is retried is stored as `Retrying`.
#[must_use]
pub fn is_terminal(phase: JobPhase) -> bool {
    use JobPhase::{Canceled, Completed, Failed, Rejected, TimedOut};
    matches!(phase, Completed | Failed | Canceled | Rejected | TimedOut)
}

#[cfg(test)]
mod tests {
    use strum::IntoEnumIterator;

    use super::*;
    use crate::api_types::job::MOVES;

    /// The table of the design, as text, so that the code is not its own witness.
    const LEGAL: &str = "Queued>Assigned Queued>Canceled Queued>Rejected Assigned>Running Assigned>Completed \
        Assigned>Failed Assigned>TimedOut Assigned>Retrying Assigned>Canceled Running>Completed Running>Failed \
        Running>TimedOut Running>Retrying Running>Canceled TimedOut>Retrying Retrying>Queued Retrying>Failed \
        Retrying>Canceled";

    fn pairs() -> impl Iterator<Item = (JobPhase, JobPhase)> {
        JobPhase::iter().flat_map(|from| JobPhase::iter().map(move |to| (from, to)))
    }

    #[test]
    fn every_pair_is_as_in_the_table() {
        for (from, to) in pairs() {
            let legal = LEGAL.split_whitespace().any(|pair| pair == format!("{from}>{to}"));
            assert_eq!(successors(from).contains(&to), legal, "{from} > {to}");
            let one_step = from == to || legal && from != JobPhase::TimedOut;
            assert_eq!(check_way(from, &[to]).is_ok(), one_step, "{from} > {to}, stored as {from}");
        }
    }

    /// What one write may store, as text. A waiting job can be stored in any later phase, because its pod can
    /// have reached it before the next reconcile; a retry is stored as waiting, and as queued again, before it runs.
    const STORABLE: &str = "Queued>Assigned Queued>Running Queued>Completed Queued>Failed Queued>TimedOut \
        Queued>Retrying Queued>Canceled Queued>Rejected Assigned>Running Assigned>Completed Assigned>Failed \
        Assigned>TimedOut Assigned>Retrying Assigned>Canceled Running>Completed Running>Failed Running>TimedOut \
        Running>Retrying Running>Canceled Retrying>Queued Retrying>Failed Retrying>Canceled";

    #[test]
    fn what_one_write_may_store_is_what_ways_lead_to() {
        for (from, to) in pairs().filter(|(from, to)| from != to) {
            let storable = storable(from).contains(&to);
            assert_eq!(
                storable,
                STORABLE.split_whitespace().any(|p| p == format!("{from}>{to}")),
                "{from} > {to}"
            );
            let ways = JobPhase::iter().flat_map(|a| JobPhase::iter().map(move |b| [a, b, to]));
            let leads = ways.into_iter().any(|way| check_way(from, &way).is_ok());
            assert_eq!(leads, storable, "{from} > {to}");
        }
    }

    #[test]
    fn the_api_server_holds_to_the_same_table() {
        let list = |phases: &mut dyn Iterator<Item = JobPhase>| {
            phases.map(|phase| format!("'{phase}'")).collect::<Vec<_>>().join(", ")
        };
        let moves = JobPhase::iter().filter(|from| !storable(*from).is_empty()).map(|from| {
            format!("oldSelf == '{from}' && self in [{}]", list(&mut storable(from).into_iter()))
        });
        let mut rule = vec!["self == oldSelf".to_owned()];
        rule.extend(moves);
        rule.push(format!("!(oldSelf in [{}])", list(&mut JobPhase::iter())));
        assert_eq!(MOVES, rule.join(" || "));
    }

    #[test]
    fn a_way_names_its_illegal_step() {
        use JobPhase::{Assigned, Completed, Queued, Retrying, Running, TimedOut};
        assert_eq!(check_way(Queued, &[Assigned, Running]), Ok(()));
        let error = check_way(Queued, &[Assigned, Completed, Running]).unwrap_err();
        assert_eq!(error.to_string(), "a job can't go from Completed to Running");
        assert_eq!(check_way(Running, &[TimedOut, Retrying]), Ok(()));
        assert!(check_way(TimedOut, &[TimedOut, Retrying]).is_err(), "it is stored as an end");
        assert!(check_way(Running, &[Retrying, Queued]).is_err(), "no watch would see the retry");
    }
}
