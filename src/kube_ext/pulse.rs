//! Signs of life of the watches, and what they say of this process: whether a restart would mend it.
//!
//! A watch delivers something at least once a minute, however little happens: an event, a bookmark, a page of a list,
//! or its own end in good order. What does not is *behind*, which `/readyz?verbose` shows. That alone is no reason to
//! be restarted: an API server that is away, overloaded, or refuses is not mended by it, and all replicas that start at
//! once, with empty caches, are the last that it needs when it comes back. So `/healthz` fails only where a new process
//! would do better:
//! - a watch has taken no step for [`STUCK`], neither delivered nor failed, although every attempt ends by itself
//!   before: something in this process holds it;
//! - a part that a watch feeds has taken no change from a non-empty outbox for [`STUCK`], and all caches are synced, so
//!   that it waits for none of them;
//! - a watch has delivered nothing for [`CUT_OFF`] and is not refused, while others hear from the same API server;
//! - no watch has delivered anything for [`STUCK`] because the certificate of the API server is signed by an authority
//!   that this process has not read: authorities are read at the start.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use strum::IntoStaticStr;
use tokio::{sync::Notify, time::Instant};

use super::outbox::Backlog;
use crate::metrics::Metrics;

/// The longest wait for the next part of an answer: above the length of a watch, and above the 60 s after which the API
/// server gives up an answer itself (`--request-timeout`).
pub const SILENCE: Duration = Duration::from_secs(75);
/// A watch that takes no step for so long has stopped: the longest that one takes is five minutes, of which a page of a
/// list may be, and half a minute of back-off.
pub const STUCK: Duration = Duration::from_secs(600);
/// A watch that fails for so long, while others do not, is taken for this process's fault.
pub const CUT_OFF: Duration = Duration::from_secs(1800);
/// Another watch that has delivered within this time shows that the API server responds.
const RECENT: Duration = Duration::from_secs(120);
/// A watch that has delivered nothing for so long is behind.
const BEHIND: Duration = SILENCE.saturating_add(Duration::from_secs(15));

/// Why a watch was interrupted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum Cause {
    /// Nothing came for too long.
    Silent,
    /// No connection, or one that broke.
    Unreachable,
    /// The API server's certificate is signed by an authority that is not known.
    Untrusted,
    /// The API server answered with an error.
    Refused,
    /// The version to continue from is not known any more: the list begins again.
    Expired,
    /// It ended as soon as it was opened.
    Ended,
    /// What came can't be read. The metric's label keeps its value.
    #[strum(serialize = "unreadable")]
    InvalidObjects,
}

/// When a watch has given which sign of life. All clones are one.
#[derive(Clone, Debug)]
pub struct Pulse {
    signs: Arc<Mutex<Signs>>,
    feeds: Arc<Mutex<Vec<Backlog>>>,
    renew: Arc<Notify>,
}

#[derive(Clone, Copy, Debug)]
struct Signs {
    /// False until the watch runs: some do not in some processes.
    runs: bool,
    /// When it last did anything, be it to fail.
    stepped: Instant,
    /// When something last came from the API server.
    delivered: Instant,
    /// A list was complete.
    synced: bool,
    /// Why it was interrupted last, if nothing was delivered since.
    failure: Option<Cause>,
}

impl Default for Pulse {
    fn default() -> Self {
        let now = Instant::now();
        let signs = Signs { runs: false, stepped: now, delivered: now, synced: false, failure: None };
        Self { signs: Arc::new(Mutex::new(signs)), feeds: Arc::default(), renew: Arc::default() }
    }
}

impl Pulse {
    fn signs(&self) -> MutexGuard<'_, Signs> {
        // Each method leaves the state consistent, so a poisoned lock can be used.
        self.signs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fed(&self) -> MutexGuard<'_, Vec<Backlog>> {
        self.feeds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known otherwise does not come through the watch: it is to be opened again.
    pub fn renew(&self) {
        self.renew.notify_one();
    }

    /// Waits until it is to be opened again.
    pub(crate) async fn renewed(&self) {
        self.renew.notified().await;
    }

    /// It feeds a subscriber.
    pub(super) fn feeds(&self, backlog: Backlog) {
        self.fed().push(backlog);
    }

    /// That of a watch that runs and whose first list was complete.
    #[cfg(test)]
    pub(crate) fn running() -> Self {
        let pulse = Self::default();
        pulse.begun();
        pulse.synced();
        pulse
    }

    /// The watch runs from now on.
    pub(super) fn begun(&self) {
        let now = Instant::now();
        *self.signs() = Signs { runs: true, stepped: now, delivered: now, synced: false, failure: None };
    }

    /// It took a step.
    pub(crate) fn stepped(&self) {
        self.signs().stepped = Instant::now();
    }

    /// Something came from the API server.
    pub(crate) fn delivered(&self) {
        let now = Instant::now();
        let mut signs = self.signs();
        *signs = Signs { stepped: now, delivered: now, failure: None, ..*signs };
    }

    /// It was interrupted.
    pub(crate) fn failed(&self, cause: Cause) {
        let mut signs = self.signs();
        *signs = Signs { stepped: Instant::now(), failure: Some(cause), ..*signs };
    }

    /// A list was complete.
    pub(super) fn synced(&self) {
        self.signs().synced = true;
    }
}

/// The watches of a process. Cheap to clone; all clones are one.
#[derive(Clone, Default)]
pub struct Watches {
    all: Arc<Mutex<Vec<(&'static str, Pulse)>>>,
    metrics: Metrics,
}

/// What is known of a watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchState {
    /// Its name, from a closed list.
    pub name: &'static str,
    /// Whether its first list was complete.
    pub synced: bool,
    /// How long it has delivered nothing, where that is longer than a quiet watch can take.
    pub behind: Option<Duration>,
    /// Why it was interrupted last, if nothing was delivered since.
    pub cause: Option<Cause>,
}

impl WatchState {
    /// Whether its cache is synced and up to date, as far as is known.
    #[must_use]
    pub fn is_current(&self) -> bool {
        self.synced && self.behind.is_none()
    }
}

impl Watches {
    /// None yet; interruptions are counted there.
    #[must_use]
    pub fn new(metrics: Metrics) -> Self {
        Self { all: Arc::default(), metrics }
    }

    fn all(&self) -> MutexGuard<'_, Vec<(&'static str, Pulse)>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn add(&self, name: &'static str, pulse: Pulse) {
        self.all().push((name, pulse));
    }

    /// Counts an interruption.
    pub(super) fn interrupted(&self, name: &'static str, cause: Cause) {
        self.metrics.watch_interrupted(name, cause.into());
    }

    fn running(&self) -> Vec<(&'static str, Signs)> {
        self.all()
            .iter()
            .map(|(name, pulse)| (*name, *pulse.signs()))
            .filter(|(_, signs)| signs.runs)
            .collect()
    }

    /// Each watch that runs.
    #[must_use]
    pub fn states(&self) -> Vec<WatchState> {
        let now = Instant::now();
        let state = |(name, signs): (&'static str, Signs)| {
            let quiet = now.duration_since(signs.delivered);
            let behind = (quiet > BEHIND).then_some(quiet);
            WatchState { name, synced: signs.synced, behind, cause: signs.failure }
        };
        self.running().into_iter().map(state).collect()
    }

    /// What a restart would mend, in a sentence each; none where the process is healthy.
    #[must_use]
    pub fn ailments(&self) -> Vec<String> {
        let (running, now) = (self.running(), Instant::now());
        let mut all = ailments(&running, now);
        if running.iter().all(|(_, signs)| signs.synced) {
            all.extend(self.all().iter().flat_map(|(name, pulse)| held_up(name, &pulse.fed(), now)));
        }
        all
    }
}

/// What the watch of that name feeds, and takes nothing.
fn held_up(name: &str, fed: &[Backlog], now: Instant) -> Vec<String> {
    let held_up = |backlog: &Backlog| {
        let idle = now.duration_since(backlog.since()?);
        let (seconds, at) = (idle.as_secs(), backlog.subscriber);
        (idle >= STUCK).then(|| {
            let (file, line) = (at.file(), at.line());
            format!("what the watch of {name} feeds at {file}:{line} has taken nothing for {seconds} s")
        })
    };
    fed.iter().filter_map(held_up).collect()
}

fn ailments(watches: &[(&'static str, Signs)], now: Instant) -> Vec<String> {
    let quiet = |signs: &Signs| now.duration_since(signs.delivered);
    let untrusted = |signs: &Signs| signs.failure == Some(Cause::Untrusted) && quiet(signs) >= STUCK;
    if !watches.is_empty() && watches.iter().all(|(_, signs)| untrusted(signs)) {
        return vec![
            "the certificate of the API server is signed by an authority that was not known at the start"
                .to_owned(),
        ];
    }
    let answers = watches.iter().any(|(_, signs)| quiet(signs) < RECENT);
    let ailment = |(name, signs): &(&'static str, Signs)| {
        let idle = now.duration_since(signs.stepped);
        if idle >= STUCK {
            return Some(format!("the watch of {name} has stopped: no step for {} s", idle.as_secs()));
        }
        let ours = !matches!(signs.failure, Some(Cause::Refused | Cause::Expired | Cause::InvalidObjects));
        (ours && answers && quiet(signs) >= CUT_OFF).then(|| {
            let seconds = quiet(signs).as_secs();
            format!("the watch of {name} has delivered nothing for {seconds} s, while others have")
        })
    };
    watches.iter().filter_map(ailment).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: u64 = 60;

    /// A watch that last took a step and last delivered these numbers of seconds ago.
    fn ago(now: Instant, stepped: u64, delivered: u64, failure: Option<Cause>) -> Signs {
        let at = |seconds| now.checked_sub(Duration::from_secs(seconds)).unwrap();
        Signs { runs: true, stepped: at(stepped), delivered: at(delivered), synced: true, failure }
    }

    fn now() -> Instant {
        Instant::now() + Duration::from_secs(100_000)
    }

    #[test]
    fn an_api_server_that_is_away_restarts_no_replica() {
        let now = now();
        for cause in [Cause::Unreachable, Cause::Silent, Cause::Ended, Cause::Refused, Cause::Expired] {
            let away = ago(now, 40, 24 * 60 * MINUTE, Some(cause));
            assert_eq!(ailments(&[("jobs", away), ("pods", away)], now), [""; 0], "{cause:?}");
        }
    }

    #[test]
    fn a_watch_that_has_stopped_is_restarted() {
        let now = now();
        let fine = ago(now, 1, 1, None);
        let slow = ago(now, 10 * MINUTE - 1, 10 * MINUTE - 1, None);
        assert_eq!(ailments(&[("jobs", fine), ("pods", slow)], now), [""; 0]);
        let stopped = ago(now, 10 * MINUTE, 10 * MINUTE, None);
        let words = ["the watch of pods has stopped: no step for 600 s"];
        assert_eq!(ailments(&[("jobs", fine), ("pods", stopped)], now), words);
        // Also where the API server is away: that does not stop a watch from failing.
        let away = ago(now, 40, 60 * MINUTE, Some(Cause::Unreachable));
        assert_eq!(ailments(&[("jobs", away), ("pods", stopped)], now), words);
    }

    #[test]
    fn a_watch_that_alone_is_cut_off_is_restarted_unless_it_is_refused() {
        let now = now();
        let fine = ago(now, 1, 50, None);
        let off = |minutes, cause| ago(now, 1, minutes * MINUTE, Some(cause));
        assert_eq!(ailments(&[("jobs", fine), ("pods", off(29, Cause::Silent))], now), [""; 0]);
        let words = ["the watch of pods has delivered nothing for 1800 s, while others have"];
        assert_eq!(ailments(&[("jobs", fine), ("pods", off(30, Cause::Silent))], now), words);
        for refused in [Cause::Refused, Cause::InvalidObjects, Cause::Expired] {
            assert_eq!(ailments(&[("jobs", fine), ("pods", off(30, refused))], now), [""; 0]);
        }
    }

    #[test]
    fn an_authority_that_changed_is_read_at_a_restart() {
        let now = now();
        let untrusted = |minutes| ago(now, 1, minutes * MINUTE, Some(Cause::Untrusted));
        assert_eq!(ailments(&[("jobs", untrusted(9)), ("pods", untrusted(60))], now), [""; 0]);
        assert_eq!(ailments(&[("jobs", untrusted(10)), ("pods", untrusted(60))], now).len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_behind_is_shown_and_since_when() {
        let watches = Watches::default();
        let (jobs, pods, never) = (Pulse::default(), Pulse::default(), Pulse::default());
        for (name, pulse) in [("jobs", &jobs), ("pods", &pods), ("nodes", &never)] {
            watches.add(name, pulse.clone());
        }
        jobs.begun();
        pods.begun();
        jobs.synced();
        tokio::time::advance(Duration::from_secs(100)).await;
        jobs.delivered();
        pods.failed(Cause::Silent);
        let current = WatchState { name: "jobs", synced: true, behind: None, cause: None };
        let behind = WatchState {
            name: "pods",
            synced: false,
            behind: Some(Duration::from_secs(100)),
            cause: Some(Cause::Silent),
        };
        assert_eq!(watches.states(), [current, behind], "one that does not run here is not waited for");
    }
}
