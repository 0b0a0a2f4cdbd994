//! The one way in which tests wait: for a condition, with a deadline, and with a useful message when it does not come.

use std::{fmt::Debug, future::Future, time::Duration};

use tokio::time::{Instant, sleep, timeout_at};

/// How often a condition is looked at.
const INTERVAL: Duration = Duration::from_millis(50);

/// A condition that did not come true in time.
#[derive(Debug, thiserror::Error)]
#[error("waited {deadline:?} for {what}; last seen: {last_seen}")]
pub struct TimedOut {
    /// What was waited for.
    pub what: String,
    /// How long.
    pub deadline: Duration,
    /// The last answer before the deadline.
    pub last_seen: String,
}

/// Looks until `look` answers `Ok`, and returns that. What it answers until then, as `Err`, is what is seen meanwhile:
/// the last of it is in the error when `deadline` passes. A `look` that hangs is cut off at the deadline.
///
/// # Errors
/// [`TimedOut`] when the deadline passes.
pub async fn until<T, Seen, Look, Answer>(
    deadline: Duration,
    what: &str,
    mut look: Look,
) -> Result<T, TimedOut>
where
    Seen: Debug,
    Look: FnMut() -> Answer,
    Answer: Future<Output = Result<T, Seen>>,
{
    let end = Instant::now() + deadline;
    let mut last_seen = "nothing yet".to_owned();
    loop {
        match timeout_at(end, look()).await {
            Ok(Ok(found)) => return Ok(found),
            Ok(Err(seen)) => last_seen = format!("{seen:?}"),
            Err(_) => last_seen.push_str(" (the last look got no answer)"),
        }
        if Instant::now() + INTERVAL >= end {
            return Err(TimedOut { what: what.to_owned(), deadline, last_seen });
        }
        sleep(INTERVAL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn returns_what_was_found() {
        let mut looks = 0;
        let found = until(Duration::from_secs(1), "three looks", || {
            looks += 1;
            let answer = if looks == 3 { Ok(looks) } else { Err(looks) };
            async move { answer }
        });
        assert_eq!(found.await.unwrap(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn says_what_was_seen_last() {
        let error =
            until(Duration::from_secs(2), "a miracle", || async { Err::<(), _>("rain") }).await.unwrap_err();
        assert_eq!(error.to_string(), "waited 2s for a miracle; last seen: \"rain\"");
    }

    #[tokio::test(start_paused = true)]
    async fn cuts_off_a_look_that_hangs() {
        let look = || std::future::pending::<Result<(), ()>>();
        let error = until(Duration::from_secs(5), "an answer", look).await.unwrap_err();
        assert_eq!(error.last_seen, "nothing yet (the last look got no answer)");
    }
}
