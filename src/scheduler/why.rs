//! Why a job waits, for who asks: the verdict of this moment, whether its owner was told or not.

use super::Board;
use crate::domain::admission::Verdict;

impl Board {
    /// What holds a job back or lets it go, by UID, with the numbers of this moment; `None` before the first decision, and
    /// for a job that waits for nothing.
    #[must_use]
    pub fn standing(&self, job_uid: &str) -> Option<Verdict> {
        self.is_ready().then(|| self.with(|dispatcher| dispatcher.standing(job_uid))).flatten()
    }
}
