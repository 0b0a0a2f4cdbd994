//! The job state machine: nine states, and which may follow which. Anything else is an error; the same state again is
//! no move at all.

use crate::api_types::JobPhase;

/// A move that the state machine does not know.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a job can't go from {from} to {to}")]
pub struct IllegalMove {
    /// Where the job is.
    pub from: JobPhase,
    /// Where it should have gone.
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

/// Checks a way through the state machine: each step is legal, or stays where it is.
///
/// A way of several steps is one write: a pod that has started before anybody wrote `Assigned` takes its job from
/// Queued by way of Assigned to Running at once.
///
/// # Errors
/// [`IllegalMove`] names the first step that is not.
pub fn check_way(from: JobPhase, way: &[JobPhase]) -> Result<(), IllegalMove> {
    way.iter().try_fold(from, |here, &to| {
        if here == to || successors(here).contains(&to) {
            Ok(to)
        } else {
            Err(IllegalMove { from: here, to })
        }
    })?;
    Ok(())
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

    /// The table of the design, as text, so that the code is not its own witness.
    const LEGAL: &str = "Queued>Assigned Queued>Canceled Queued>Rejected Assigned>Running Assigned>Completed \
        Assigned>Failed Assigned>TimedOut Assigned>Retrying Assigned>Canceled Running>Completed Running>Failed \
        Running>TimedOut Running>Retrying Running>Canceled TimedOut>Retrying Retrying>Queued Retrying>Failed \
        Retrying>Canceled";

    #[test]
    fn every_pair_is_as_in_the_table() {
        for from in JobPhase::iter() {
            for to in JobPhase::iter() {
                let legal = from == to || LEGAL.split_whitespace().any(|pair| pair == format!("{from}>{to}"));
                assert_eq!(check_way(from, &[to]).is_ok(), legal, "{from} > {to}");
            }
        }
    }

    #[test]
    fn a_way_names_its_illegal_step() {
        use JobPhase::{Assigned, Completed, Queued, Running};
        assert_eq!(check_way(Queued, &[Assigned, Running]), Ok(()));
        let error = check_way(Queued, &[Assigned, Completed, Running]).unwrap_err();
        assert_eq!(error.to_string(), "a job can't go from Completed to Running");
    }
}
