//! Which of several replicas leads: the rules of leader election over one Lease, without a clock or a client.
//!
//! A replica reads the Lease, calls [`Elector::decide`], carries the step out, and reports how it went. Two rules keep a
//! second leader away, whatever the clocks of the machines show:
//!
//! - A follower takes a Lease over only when it has seen the same record for the whole [`LEASE_DURATION`], by its own steady
//!   clock, counted from when it first received that record. The times that stand in the record are for people.
//! - A leader leads until [`RENEW_DEADLINE`] after it *sent* the last renewal that the API server accepted, by its own steady
//!   clock. An answer that is late or lost makes that time shorter, never longer.
//!
//! So two replicas lead at once only where one clock advances more than 1.5 times as fast as another one: the ratio of the two
//! durations. Every write to the Lease names the resource version that it was decided by, so of two replicas that take it
//! over together one fails.
//!
//! The numbers are those of client-go's leader election. That one too judges expiry from when a record was seen to change;
//! it also sends renewals without a resource version of a read of its own, and retries them, which this one does not.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

/// How long a record must stay the same before another replica takes the Lease over.
pub const LEASE_DURATION: Duration = Duration::from_secs(15);
/// How long a leader leads after its last renewal.
pub const RENEW_DEADLINE: Duration = Duration::from_secs(10);
/// How often a replica reads the Lease, and a leader renews it.
pub const RETRY_PERIOD: Duration = Duration::from_secs(2);

/// What the Lease says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseRecord {
    /// The replica that leads; empty where the last one has released the Lease.
    pub holder: String,
    /// How many times the Lease has had another holder.
    pub transitions: i32,
    /// The resource version, by which a change is seen and a write is conditional.
    pub version: String,
}

/// What a replica does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Create the Lease, which does not exist, as its holder.
    Create,
    /// Replace the record with one that names this replica, where its resource version is still this one.
    Replace {
        /// The resource version.
        version: String,
        /// The transitions of the new record.
        transitions: i32,
    },
    /// Read the Lease again after a [`RETRY_PERIOD`].
    Wait,
    /// End the process: this replica led, and does not any more.
    Resign,
}

/// The state of one replica in the election.
#[derive(Clone, Debug)]
pub struct Elector {
    identity: String,
    /// The version of the record that was last received, and when it was received first, by the steady clock.
    observed: Option<(String, Timestamp)>,
    /// When the last accepted write of the Lease was sent, by the steady clock; `None` for a follower.
    renewed: Option<Timestamp>,
    transitions: i32,
}

impl Elector {
    /// A follower of this name, which no other replica has, and no earlier process of this one.
    #[must_use]
    pub fn new(identity: String) -> Self {
        Self { identity, observed: None, renewed: None, transitions: 0 }
    }

    /// The name.
    #[must_use]
    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// Until when this replica leads, by the steady clock; `None` for a follower.
    #[must_use]
    pub fn leads_until(&self) -> Option<Timestamp> {
        self.renewed.map(|sent| after(sent, RENEW_DEADLINE))
    }

    /// Whether this replica leads at `now`.
    #[must_use]
    pub fn leads(&self, now: Timestamp) -> bool {
        self.leads_until().is_some_and(|until| now < until)
    }

    /// How many times the Lease had another holder before this replica, while it leads.
    #[must_use]
    pub fn transitions(&self) -> i32 {
        self.transitions
    }

    /// The next step, by the Lease as it was just read (`None`: it does not exist), at `now` of the steady clock: a time
    /// after the answer to the read has come.
    pub fn decide(&mut self, lease: Option<&LeaseRecord>, now: Timestamp) -> Step {
        if self.is_over(now) {
            return Step::Resign;
        }
        let Some(record) = lease else {
            // Someone deleted it. A follower that has seen a record lets that one expire first: its holder may still lead.
            let may_create = self.renewed.is_some() || self.has_expired(now);
            return if may_create { Step::Create } else { Step::Wait };
        };
        if self.observed.as_ref().is_none_or(|(version, _)| *version != record.version) {
            self.observed = Some((record.version.clone(), now));
        }
        let version = record.version.clone();
        match (self.renewed.is_some(), record.holder == self.identity) {
            (true, true) => Step::Replace { version, transitions: record.transitions },
            // Another replica has taken it over: this one was away for long.
            (true, false) => Step::Resign,
            // A write of this replica was carried out although no answer came; it expires like any other record.
            _ if record.holder.is_empty() || self.has_expired(now) => {
                Step::Replace { version, transitions: record.transitions.saturating_add(1) }
            }
            _ => Step::Wait,
        }
    }

    /// A write of the Lease, sent at `sent`, was accepted; at `now` it has this record.
    pub fn accepted(&mut self, record: &LeaseRecord, sent: Timestamp, now: Timestamp) {
        self.observed = Some((record.version.clone(), now));
        self.renewed = Some(sent);
        self.transitions = record.transitions;
    }

    /// Whether this replica led and its time is over.
    #[must_use]
    pub fn is_over(&self, now: Timestamp) -> bool {
        self.leads_until().is_some_and(|until| now >= until)
    }

    /// Whether the record that was last received has stayed the same for long enough; true before any was.
    fn has_expired(&self, now: Timestamp) -> bool {
        self.observed.as_ref().is_none_or(|(_, since)| now >= after(*since, LEASE_DURATION))
    }
}

fn after(time: Timestamp, duration: Duration) -> Timestamp {
    let duration = SignedDuration::try_from(duration).unwrap_or(SignedDuration::MAX);
    time.saturating_add(duration).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests;
