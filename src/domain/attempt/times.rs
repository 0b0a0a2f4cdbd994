//! When an attempt ran: what its node says, within the bounds of what the API server saw.
//!
//! A node's clock may be minutes off, or be set while a container runs. A container starts after its pod was created
//! and ends before now, by the API server's time, and not long before its end was reported (`reported.rs`); a start that
//! was recorded while it ran is kept. Where both of a node's times are off by the same amount, the time between them is right.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;

use super::created;

/// Times of objects have whole seconds.
const ROUNDING: SignedDuration = SignedDuration::from_secs(1);

/// What is known of an attempt's times from others than its node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// When its pod was created.
    pub created: Timestamp,
    /// Its start, as recorded while it ran.
    pub started: Option<Timestamp>,
    /// The earliest time at which it can have ended; `None` where it is not known.
    pub earliest_end: Option<Timestamp>,
    /// The time now; `None` where it is not known.
    pub now: Option<Timestamp>,
}

impl Bounds {
    /// What a pod says of itself.
    #[must_use]
    pub fn of(pod: &Pod) -> Self {
        Self { created: created(pod), started: None, earliest_end: None, now: None }
    }

    /// When a container that runs has started: as recorded, else as its node says, and where that can't be, now.
    #[must_use]
    pub fn start(&self, said: Timestamp) -> Timestamp {
        self.recorded()
            .unwrap_or_else(|| if self.contain(said) { said } else { self.latest().unwrap_or(self.created) })
    }

    /// Start and end of a container of which its node says `start` and `end`; no start where it never ran.
    #[must_use]
    pub fn run(&self, start: Option<Timestamp>, end: Timestamp) -> (Option<Timestamp>, Timestamp) {
        let length = start.map(|start| end.duration_since(start)).filter(|length| self.allow(*length));
        let known = self.recorded().or(start.filter(|start| self.contain(*start)));
        match (known, length) {
            (Some(start), Some(length)) => {
                (Some(start), self.end(start.saturating_add(length).unwrap_or(end)).max(start))
            }
            // Its node has forgotten one of the two, or its clock was set between them. A time that is no later than
            // the start is not the end's.
            (Some(start), None) if end > start && self.contain(end) => (Some(start), self.end(end)),
            (Some(start), None) => (Some(start), self.latest().unwrap_or(end).max(start)),
            (None, Some(length)) => {
                let end = self.clamp(end).max(self.clamp(self.created.saturating_add(length).unwrap_or(end)));
                (Some(end.saturating_sub(length).unwrap_or(end).max(self.created)), end)
            }
            (None, None) => (start.map(|_| self.created), self.clamp(end)),
        }
    }

    /// A record from before the pod was created is an earlier version's, which believed every node.
    fn recorded(&self) -> Option<Timestamp> {
        self.started.filter(|started| *started >= self.created)
    }

    /// Now, unless this machine's clock is the one that is behind.
    fn latest(&self) -> Option<Timestamp> {
        self.now.filter(|now| *now >= self.created)
    }

    fn contain(&self, time: Timestamp) -> bool {
        self.created <= time && self.latest().is_none_or(|now| time.duration_since(now) <= ROUNDING)
    }

    /// An end of a container whose start is known.
    fn end(&self, said: Timestamp) -> Timestamp {
        self.clamp(self.earliest_end.map_or(said, |earliest| said.max(earliest)))
    }

    /// Whether a container can have run for so long.
    fn allow(&self, length: SignedDuration) -> bool {
        !length.is_negative()
            && self
                .latest()
                .is_none_or(|now| length <= now.duration_since(self.created).saturating_add(ROUNDING))
    }

    fn clamp(&self, time: Timestamp) -> Timestamp {
        let time = time.max(self.created);
        if self.contain(time) { time } else { self.latest().unwrap_or(time) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        "2026-01-01T00:00:00Z".parse::<Timestamp>().unwrap() + SignedDuration::from_secs(seconds)
    }

    fn bounds(started: Option<i64>, now: i64) -> Bounds {
        Bounds { created: at(0), started: started.map(at), earliest_end: None, now: Some(at(now)) }
    }

    const YEARS: i64 = 9 * 365 * 86_400;

    #[test]
    fn a_start_that_can_not_be_is_when_it_was_first_seen() {
        let cases = [
            ("right", None, 5, 7, 5),
            ("ten minutes behind", None, -595, 7, 7),
            ("nine years ago", None, -YEARS, 7, 7),
            ("ten minutes ahead", None, 605, 7, 7),
            ("in the second that just began", None, 8, 7, 8),
            ("as recorded", Some(6), -595, 9, 6),
            ("as recorded by who believed it", Some(-595), -595, 9, 9),
            ("this machine is behind", None, 5, -600, 5),
        ];
        for (what, recorded, said, now, expected) in cases {
            assert_eq!(bounds(recorded, now).start(at(said)), at(expected), "{what}");
        }
    }

    #[test]
    fn a_run_lies_between_the_pods_creation_and_now() {
        // What is recorded, what the node says, now; what is believed.
        let cases = [
            ("right", None, (Some(5), 9), 10, (Some(5), 9)),
            ("never ran", None, (None, 9), 10, (None, 9)),
            ("never ran, ten minutes behind", None, (None, -591), 10, (None, 0)),
            ("never ran, ten minutes ahead", None, (None, 609), 10, (None, 10)),
            ("ten minutes behind", None, (Some(-595), -591), 10, (Some(0), 4)),
            ("ten minutes behind, as recorded", Some(6), (Some(-595), -591), 12, (Some(6), 10)),
            ("ten minutes ahead", None, (Some(605), 609), 10, (Some(6), 10)),
            ("ten minutes ahead, as recorded", Some(5), (Some(605), 609), 12, (Some(5), 9)),
            ("recorded late", Some(8), (Some(-595), -591), 10, (Some(8), 10)),
            ("set forward by years while it ran", None, (Some(-YEARS), 9), 10, (Some(0), 9)),
            ("set forward, as recorded", Some(5), (Some(-YEARS), 9), 10, (Some(5), 9)),
            ("set back by years while it ran", None, (Some(5), 9 - YEARS), 10, (Some(5), 10)),
            ("an end in the future", None, (Some(5), 9 + YEARS), 10, (Some(5), 10)),
            ("all of it nine years ago", None, (Some(5 - YEARS), 9 - YEARS), 10, (Some(0), 4)),
            ("the start is forgotten", Some(5), (None, 9), 20, (Some(5), 9)),
            ("start and end are forgotten", Some(2), (None, 0), 10, (Some(2), 10)),
            ("this machine is behind", None, (Some(5), 9), -600, (Some(5), 9)),
        ];
        for (what, recorded, (start, end), now, (first, last)) in cases {
            let run = bounds(recorded, now).run(start.map(at), at(end));
            assert_eq!(run, (first.map(at), at(last)), "{what}");
        }
    }

    #[test]
    fn a_run_does_not_end_long_before_its_end_was_reported() {
        // What is recorded, what the node says, the earliest end; what is believed.
        let cases = [
            ("right", Some(5), (Some(5), 9), Some(-600), (Some(5), 9)),
            ("ran for no time", Some(5), (Some(5), 5), Some(3000), (Some(5), 3000)),
            (
                "ran for no time, says who never said that it ran",
                None,
                (Some(5), 5),
                Some(3000),
                (Some(5), 3000),
            ),
            ("the start is forgotten", Some(5), (None, 6), Some(3000), (Some(5), 3000)),
            ("start and end are forgotten", Some(5), (None, 0), Some(3000), (Some(5), 3600)),
            ("a report in the future", Some(5), (Some(5), 5), Some(YEARS), (Some(5), 3600)),
            (
                "a short run that waited long, ten years behind",
                None,
                (Some(-YEARS), 4 - YEARS),
                Some(3000),
                (Some(0), 4),
            ),
            ("never ran", None, (None, 9), Some(3000), (None, 9)),
            ("nothing is known of the report", Some(5), (Some(5), 5), None, (Some(5), 5)),
        ];
        for (what, recorded, (start, end), earliest, (first, last)) in cases {
            let bounds = Bounds { earliest_end: earliest.map(at), ..bounds(recorded, 3600) };
            assert_eq!(bounds.run(start.map(at), at(end)), (first.map(at), at(last)), "{what}");
        }
    }

    #[test]
    fn where_now_is_not_known_only_the_creation_bounds() {
        let bounds = Bounds { now: None, ..bounds(None, 0) };
        assert_eq!(bounds.run(Some(at(5)), at(9 + YEARS)), (Some(at(5)), at(9 + YEARS)));
        assert_eq!(bounds.run(Some(at(-595)), at(-591)), (Some(at(0)), at(4)));
    }
}
