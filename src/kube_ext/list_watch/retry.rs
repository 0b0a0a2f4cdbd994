//! The pauses between failures of a list and watch.
//!
//! kube's default back-off has one sequence for all failures, of up to a minute with its jitter. So after an outage of a
//! minute a watch was opened up to a minute later, and once more as late where its version was not known any more.

use std::time::Duration;

use futures::{Stream, StreamExt, stream};
use kube::runtime::watcher::Event;
use tokio::time::{Instant, sleep_until};

use super::{super::backoff::delay, Cause, Interruption};

/// The first pause.
const FIRST: Duration = Duration::from_secs(1);
/// The longest pause where the API server can't be reached. To try costs nothing, and after an outage all waits for it.
const LONGEST_UNREACHABLE: Duration = Duration::from_secs(8);
/// The longest pause where it can be: what it refuses may be too much for it.
const LONGEST: Duration = Duration::from_secs(30);
/// Failures this far apart are not in a row.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(120);
/// How long a watch must last for what it delivers to end a row of failures.
const LASTING: Duration = Duration::from_secs(10);

/// The same events; after a failure the next one is asked for after a pause, which grows with each failure in a row. A row
/// begins with the first failure once the API server can be reached again. `seed` makes watches that failed together return one after another.
pub(in crate::kube_ext) fn retried<K: Send>(
    events: impl Stream<Item = Result<Event<K>, Interruption>> + Send,
    seed: String,
) -> impl Stream<Item = Result<Event<K>, Interruption>> + Send {
    stream::unfold((Box::pin(events), Failures::default()), move |(mut events, mut failures)| {
        let seed = seed.clone();
        async move {
            if let Some(until) = failures.until {
                sleep_until(until).await;
                (failures.until, failures.resumed) = (None, Some(Instant::now()));
            }
            let event = events.next().await?;
            match &event {
                Ok(Event::Apply(_) | Event::Delete(_)) => failures.delivered(),
                Ok(_) => (),
                Err(error) => failures.add(error.cause(), &seed),
            }
            Some((event, (events, failures)))
        }
    })
}

/// Failures in a row.
#[derive(Default)]
struct Failures {
    count: u32,
    last: Option<(Cause, Instant)>,
    /// When the next event is asked for.
    until: Option<Instant>,
    /// When one was asked for after the last failure.
    resumed: Option<Instant>,
}

impl Failures {
    fn delivered(&mut self) {
        if self.resumed.is_none_or(|at| at.elapsed() >= LASTING) {
            *self = Self::default();
        }
    }

    fn add(&mut self, cause: Cause, seed: &str) {
        let now = Instant::now();
        let is_in_a_row = self.last.is_some_and(|(last, at)| {
            let is_back = last == Cause::Unreachable && cause != Cause::Unreachable;
            !is_back && now.duration_since(at) < FORGOTTEN_AFTER
        });
        self.count = if is_in_a_row { self.count.saturating_add(1) } else { 0 };
        self.last = Some((cause, now));
        let longest = if cause == Cause::Unreachable { LONGEST_UNREACHABLE } else { LONGEST };
        self.until = Some(now + delay(FIRST, longest, self.count, seed));
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;

    use super::*;

    fn unreachable() -> Interruption {
        let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        Interruption::api("watch")(kube::Error::Service(refused.into()))
    }

    /// When each of these came, in seconds since the first.
    async fn times(events: Vec<Result<Event<ConfigMap>, Interruption>>) -> Vec<f64> {
        let begun = Instant::now();
        let came = retried(stream::iter(events), "seed".to_owned()).map(|_| begun.elapsed().as_secs_f64());
        came.collect().await
    }

    /// The pauses after each of them but the last.
    async fn pauses(events: Vec<Result<Event<ConfigMap>, Interruption>>) -> Vec<f64> {
        times(events).await.windows(2).map(|pair| pair[1] - pair[0]).collect()
    }

    fn is_about(pause: f64, full: f64) -> bool {
        pause <= full + 0.01 && pause >= full * 0.74
    }

    #[tokio::test(start_paused = true)]
    async fn an_outage_is_over_within_seconds_for_each_watch() {
        let outage = (0..30).map(|_| Err(unreachable())).chain([Ok(Event::Init)]).collect();
        let pauses = pauses(outage).await;
        for (n, full) in [1.0, 2.0, 4.0, 8.0, 8.0].into_iter().enumerate() {
            assert!(is_about(pauses[n], full), "{pauses:?}");
        }
        assert!(pauses.iter().all(|pause| *pause <= 8.01), "{pauses:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_is_back_is_asked_at_once_and_one_that_still_fails_is_not() {
        let expired = || Err(Interruption::Rewound { at: 1, seen: 2 });
        let outage = [Err(unreachable()), Err(unreachable()), Err(unreachable()), expired(), Ok(Event::Init)];
        let again = [
            Ok(Event::InitDone),
            expired(),
            Ok(Event::Init),
            Ok(Event::InitDone),
            expired(),
            Ok(Event::Init),
        ];
        let pauses = pauses(outage.into_iter().chain(again).collect()).await;
        for (n, full) in [(3, 1.0), (6, 2.0), (9, 4.0)] {
            assert!(is_about(pauses[n], full), "a list alone does not end the row: {n}: {pauses:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn failures_of_changing_causes_are_one_row() {
        let overloaded = (0..10).flat_map(|_| [Err(Interruption::Slow), Err(Interruption::Ended)]);
        let pauses = pauses(overloaded.chain([Ok(Event::Init)]).collect()).await;
        assert!(is_about(pauses[18], 30.0) && is_about(pauses[19], 30.0), "{pauses:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn only_a_watch_that_lasts_ends_a_row() {
        let failed = || Err(Interruption::Ended);
        let short = (0..10).flat_map(|_| [failed(), Ok(Event::Apply(ConfigMap::default()))]);
        let pauses = pauses(short.chain([failed(), Ok(Event::Init)]).collect()).await;
        assert!(is_about(pauses[20], 30.0), "{pauses:?}");

        let mut failures = Failures::default();
        (0..10).for_each(|_| failures.add(Cause::Ended, "seed"));
        failures.resumed = Some(Instant::now());
        tokio::time::advance(LASTING).await;
        failures.delivered();
        failures.add(Cause::Ended, "seed");
        assert_eq!(failures.count, 0);
    }
}
