//! The one way in which tests wait: for a condition, with a deadline, and with a useful message when it does not come.

use std::{fmt::Debug, future::Future, time::Duration};

use tokio::time::{Instant, sleep, timeout_at};

/// The interval between two checks of a condition.
const INTERVAL: Duration = Duration::from_millis(50);

/// A condition that did not come true in time.
#[derive(Debug, thiserror::Error)]
#[error("waited {deadline:?} for {what}; last seen: {last_seen}")]
pub struct TimedOut {
    /// What was waited for.
    pub what: String,
    /// How long.
    pub deadline: Duration,
    /// What the last check before the deadline saw.
    pub last_seen: String,
}

/// Calls `check` until it returns `Ok`, and returns that value. An `Err` of `check` is what was seen: the last one is
/// in the error when `deadline` passes. A `check` that hangs is cut off at the deadline.
///
/// # Errors
/// [`TimedOut`] when the deadline passes.
pub async fn until<T, Seen, Check, Answer>(
    deadline: Duration,
    what: &str,
    mut check: Check,
) -> Result<T, TimedOut>
where
    Seen: Debug,
    Check: FnMut() -> Answer,
    Answer: Future<Output = Result<T, Seen>>,
{
    let end = Instant::now() + deadline;
    let mut last_seen = "nothing yet".to_owned();
    loop {
        match timeout_at(end, check()).await {
            Ok(Ok(found)) => return Ok(found),
            Ok(Err(seen)) => last_seen = format!("{seen:?}"),
            Err(_) => last_seen.push_str(" (the last check did not return)"),
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
    async fn returns_the_value_of_the_condition() {
        let mut checks = 0;
        let found = until(Duration::from_secs(1), "three checks", || {
            checks += 1;
            let answer = if checks == 3 { Ok(checks) } else { Err(checks) };
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
    async fn cuts_off_a_check_that_hangs() {
        let check = || std::future::pending::<Result<(), ()>>();
        let error = until(Duration::from_secs(5), "an answer", check).await.unwrap_err();
        assert_eq!(error.last_seen, "nothing yet (the last check did not return)");
    }
}
