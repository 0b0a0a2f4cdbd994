//! What the database did not take in time while it answered: tried apart from the rest, in ever smaller groups, so that
//! one slow row (or one that the server can't take) holds up no other.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use tokio::time::Instant;
use uuid::Uuid;

use super::dirty::{Batch, Mark};

/// Before a single mark that failed is tried again; doubled with each failure.
const FIRST_PAUSE: Duration = Duration::from_secs(60);
/// The longest such pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);

/// Marks that are tried together.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) batch: Batch,
    due: Instant,
    /// How often it failed as a single mark.
    failures: u32,
}

/// All groups, those that wait longest first.
#[derive(Debug, Default)]
pub(super) struct Aside(VecDeque<Group>);

impl Aside {
    /// Takes in what failed among others.
    pub(super) fn add(&mut self, failed: Batch, now: Instant) {
        self.add_again(failed, 0, now);
    }

    /// What of a group failed again: in two halves, or after a pause where it is one mark alone.
    pub(super) fn failed_again(&mut self, failed: Batch, failures: u32, now: Instant) {
        if failed.len() > 1 {
            for half in failed.halves() {
                self.add_again(half, 0, now);
            }
        } else {
            self.add_again(failed, failures.saturating_add(1), now);
        }
    }

    fn add_again(&mut self, batch: Batch, failures: u32, now: Instant) {
        if batch.is_empty() {
            return;
        }
        // One that failed among others was not alone to blame; one that failed alone is given time.
        let failures = if batch.len() == 1 { failures } else { 0 };
        let pause = match failures {
            0 => Duration::ZERO,
            _ => FIRST_PAUSE.saturating_mul(1 << (failures - 1).min(16)).min(LONGEST_PAUSE),
        };
        self.0.push_back(Group { batch, due: now + pause, failures });
    }

    /// A group to try now.
    pub(super) fn due(&mut self, now: Instant) -> Option<Group> {
        let at = self.0.iter().position(|group| group.due <= now)?;
        self.0.remove(at)
    }

    /// A group that could not be tried.
    pub(super) fn put_back(&mut self, group: Group) {
        self.0.push_front(group);
    }

    /// When the next group is due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.0.iter().map(|group| group.due).min()
    }

    /// Newer marks of what is here join it: they would hold up the others again.
    pub(super) fn absorb(&mut self, newer: &mut Batch) {
        for Group { batch, .. } in &mut self.0 {
            absorb(&mut batch.tenants, &mut newer.tenants);
            absorb(&mut batch.nodes, &mut newer.nodes);
            absorb(&mut batch.jobs, &mut newer.jobs);
            absorb(&mut batch.pods, &mut newer.pods);
        }
    }

    /// Gives up all groups.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = Batch> {
        self.0.drain(..).map(|group| group.batch)
    }
}

impl Group {
    /// How often it failed as a single mark.
    pub(super) fn failures(&self) -> u32 {
        self.failures
    }
}

fn absorb<K>(here: &mut HashMap<Uuid, Mark<K>>, newer: &mut HashMap<Uuid, Mark<K>>) {
    for (uid, mark) in here {
        if let Some(newer) = newer.remove(uid) {
            *mark = newer;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::api_types::Job;

    fn batch(numbers: impl IntoIterator<Item = u128>) -> Batch {
        let job: Job = serde_json::from_value(serde_json::json!({
            "apiVersion": "crofter.io/v1alpha1", "kind": "Job", "metadata": {}, "spec": {"image": "i"},
        }))
        .unwrap();
        let mark = |n| (Uuid::from_u128(n), Mark::Exists(Arc::new(job.clone())));
        Batch { jobs: numbers.into_iter().map(mark).collect(), ..Batch::default() }
    }

    #[tokio::test(start_paused = true)]
    async fn a_poisonous_row_is_found_in_few_steps_and_the_others_are_written() {
        let mut aside = Aside::default();
        aside.add(batch(0..1000), Instant::now());
        let (mut tries, mut written) = (0, 0);
        while let Some(group) = aside.due(Instant::now()) {
            tries += 1;
            if group.batch.jobs.contains_key(&Uuid::from_u128(7)) {
                aside.failed_again(group.batch.clone(), group.failures(), Instant::now());
            } else {
                written += group.batch.len();
            }
        }
        assert_eq!(written, 999);
        assert!(tries <= 21, "{tries}");
        assert_eq!(aside.next(), Some(Instant::now() + FIRST_PAUSE), "it alone is left, and waits");

        // Tried again, less and less often.
        for minutes in [1, 2, 4, 8, 16, 32, 60, 60] {
            tokio::time::advance(Duration::from_secs(60 * minutes - 1)).await;
            assert!(aside.due(Instant::now()).is_none(), "not before {minutes} minutes");
            tokio::time::advance(Duration::from_secs(1)).await;
            let group = aside.due(Instant::now()).unwrap();
            aside.failed_again(group.batch.clone(), group.failures(), Instant::now());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn newer_marks_of_what_is_aside_join_it() {
        let mut aside = Aside::default();
        aside.add(batch([7]), Instant::now());
        let mut newer = batch([7, 8]);
        newer.jobs.insert(Uuid::from_u128(7), Mark::Deleted(None));
        aside.absorb(&mut newer);
        assert_eq!(newer.len(), 1);
        let group = aside.due(Instant::now()).unwrap();
        assert!(matches!(group.batch.jobs[&Uuid::from_u128(7)], Mark::Deleted(None)));
        assert!(aside.next().is_none());
    }
}
