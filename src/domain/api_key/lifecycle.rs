//! The life of a key: one pure function from the wanted and the observed state to the next step.
//!
//! A version is made in two steps: its hash is written into the status, and then its token into the Secret. The token
//! is nowhere else, so a version whose token was lost in between (`keyId` does not name it yet, and no process has it)
//! can't be delivered any more, and is replaced by a new one. In the other order the Secret would hold, for a time, a
//! token that is not accepted. From this follow the guarantees:
//! - the Secret's token is accepted, or will be replaced by one that is, wherever the operator is killed;
//! - at most two versions are accepted: the one that no client has is dropped first, then the older one;
//! - the version before is accepted at least until the new one is in the Secret, and from then on for the overlap;
//! - a token is made once. The token of a Secret is only compared with the hashes, never adopted: a client that can
//!   write a Secret can't choose a key.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use sha2::{Digest, Sha256};

use super::{Key, KeyId, Lineage, Mac, PepperVersion, Peppers};
use crate::api_types::api_key::{KeyMac, KeyVersion, TenantApiKeySpec, TenantApiKeyStatus};

/// A Secret that doesn't hold its key's token gets a new version this long after the last one was made: if a client
/// keeps writing to it, versions are not made faster than this.
pub const REPAIR_INTERVAL: SignedDuration = SignedDuration::from_secs(10);
/// The shortest time between rotations by schedule: each costs the API server three writes, for ever.
pub const SHORTEST_PERIOD: SignedDuration = SignedDuration::from_hours(1);
/// The longest: the CRD's rule reads no longer one.
const LONGEST_PERIOD: SignedDuration = SignedDuration::from_nanos(i64::MAX);
/// Longest request that is kept as it is.
const REQUEST_ROOM: usize = 64;

/// What exists under the name of the key's Secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// Nothing.
    Absent,
    /// A Secret that is not this key's.
    Foreign,
    /// The token of this version.
    Holds(KeyId),
    /// The key's own Secret, without a token that is accepted.
    Damaged,
}

/// Everything that the next step depends on.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// What is wanted.
    pub spec: &'a TenantApiKeySpec,
    /// `spec.rotateEvery`, read with [`period`].
    pub rotate_every: Option<SignedDuration>,
    /// A rotation asked for, as [`request`] gives it.
    pub request: Option<&'a str>,
    /// What was done so far.
    pub status: &'a TenantApiKeyStatus,
    /// The peppers in force.
    pub peppers: &'a Peppers,
    /// What the Secret holds.
    pub stored: Stored,
    /// The token of the newest version is at hand: this process has made it.
    pub at_hand: bool,
    /// The time.
    pub now: Timestamp,
}

/// Why a version is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum Cause {
    /// The key had no version.
    First,
    /// A user asked for it.
    Requested,
    /// `spec.rotateEvery` is over.
    Scheduled,
    /// The Secret is deleted or holds another token.
    Restored,
    /// The token of the one before never reached the Secret.
    Undelivered,
}

/// The versions to keep, and which of them is in the Secret.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Versions {
    /// Newest first.
    pub all: Vec<KeyVersion>,
    /// The id of the one in the Secret.
    pub delivered: Option<String>,
}

/// What to do next.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Nothing: the key is in order with these versions.
    UpToDate(Versions),
    /// Make a version, and put its hash before what is kept.
    Issue {
        /// Why.
        cause: Cause,
        /// The earlier version that stays accepted.
        kept: Option<KeyVersion>,
    },
    /// Write the token at hand into the Secret.
    Deliver,
    /// Hash the token in the Secret under the newest pepper, too.
    Rehash,
    /// The Secret was damaged; repair it when that is due.
    Hold(Versions),
    /// A Secret of that name belongs to another owner.
    Conflict(Versions),
    /// The key is expired: no version is accepted or made, unless `expiresAt` is set later.
    Expire(Versions),
    /// The key is revoked: no version is kept.
    Revoke,
    /// A key that this one comes from has ended, and this one with it.
    EndWith {
        /// The name of that key.
        ancestor: String,
        /// How it has ended.
        closed: Closed,
        /// The versions to keep, should that key be accepted again.
        kept: Versions,
    },
}

/// The next step, and when the answer changes by itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Next {
    /// The step.
    pub step: Step,
    /// When to reconcile again; `None` when nothing changes by itself.
    pub at: Option<Timestamp>,
}

/// Why a version is refused whatever its token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    /// `spec.revoked`.
    Revoked,
    /// `spec.expiresAt` has passed, or the overlap of a version that was replaced.
    Expired,
}

/// Whether the key as a whole is refused. Needs nothing but the spec, so that it takes effect before any status is
/// written.
#[must_use]
pub fn closed(spec: &TenantApiKeySpec, now: Timestamp) -> Option<Closed> {
    if spec.revoked {
        return Some(Closed::Revoked);
    }
    spec.expires_at.as_ref().is_some_and(|at| at.0 <= now).then_some(Closed::Expired)
}

/// Whether a version of the key is refused.
#[must_use]
pub fn refused(spec: &TenantApiKeySpec, version: &KeyVersion, now: Timestamp) -> Option<Closed> {
    let over = version.valid_until.as_ref().is_some_and(|until| until.0 <= now);
    closed(spec, now).or_else(|| over.then_some(Closed::Expired))
}

/// Finds the next step.
#[must_use]
pub fn next(view: &View<'_>) -> Next {
    let step = step(view);
    let times = match &step {
        Step::UpToDate(versions) | Step::Conflict(versions) => times(view, versions),
        Step::Hold(versions) => times(view, versions).into_iter().chain(repair_due(versions)).collect(),
        Step::Issue { .. } | Step::Deliver | Step::Rehash => Vec::new(),
        Step::Expire(_) | Step::Revoke | Step::EndWith { .. } => Vec::new(),
    };
    Next { step, at: times.into_iter().filter(|at| *at > view.now).min() }
}

/// The step of a key that is refused as a whole, whatever else there is; `None` of one that is not.
#[must_use]
pub fn end(spec: &TenantApiKeySpec, status: &TenantApiKeyStatus, now: Timestamp) -> Option<Step> {
    Some(match closed(spec, now)? {
        Closed::Revoked => Step::Revoke,
        Closed::Expired => Step::Expire(kept(status, now)),
    })
}

/// The step of a key that one of its ancestors takes along; `None` while all are accepted.
#[must_use]
pub fn end_with(lineage: &Lineage, status: &TenantApiKeyStatus, now: Timestamp) -> Option<Step> {
    let (ancestor, closed) = lineage.ended(now)?;
    // An ancestor that is missing may be one that this version can't read. Where it was deleted, Kubernetes deletes the key.
    let returns = closed == Closed::Expired || lineage.misses_one();
    let kept = if returns { kept(status, now) } else { Versions::default() };
    Some(Step::EndWith { ancestor, closed, kept })
}

fn step(view: &View<'_>) -> Step {
    if let Some(end) = end(view.spec, view.status, view.now) {
        return end;
    }
    if view.stored == Stored::Foreign {
        return Step::Conflict(kept(view.status, view.now));
    }
    let mut versions = view.status.versions.iter();
    let (Some(newest), before) = (versions.next(), versions.next()) else {
        return Step::Issue { cause: Cause::First, kept: None };
    };
    let in_place = matches!(view.stored, Stored::Holds(id) if id.as_str() == newest.key_id);
    if !is_delivered(view.status, newest) {
        return match (in_place, view.at_hand) {
            (true, _) => Step::UpToDate(current_versions(view)),
            (false, true) => Step::Deliver,
            (false, false) => Step::Issue { cause: Cause::Undelivered, kept: before.cloned() },
        };
    }
    let issue = |cause| {
        let recognised = view.peppers.versions().any(|pepper| mac_of(newest, pepper).is_some());
        Step::Issue { cause, kept: recognised.then(|| newest.clone()) }
    };
    if !in_place {
        // A version from the time to come was made before the clock was set back: no reason to wait that long.
        let ahead = newest.created_at.0 > later(view.now, REPAIR_INTERVAL);
        let due = ahead || repair_due(&current_versions(view)).is_none_or(|due| due <= view.now);
        return if due { issue(Cause::Restored) } else { Step::Hold(current_versions(view)) };
    }
    if view.request.is_some() && view.request != view.status.last_rotate_request.as_deref() {
        return issue(Cause::Requested);
    }
    if rotation_due(view, newest).is_some_and(|due| due <= view.now) {
        return issue(Cause::Scheduled);
    }
    if !is_hashed(newest, view.peppers) {
        return Step::Rehash;
    }
    Step::UpToDate(current_versions(view))
}

fn is_delivered(status: &TenantApiKeyStatus, newest: &KeyVersion) -> bool {
    status.key_id.as_ref() == Some(&newest.key_id)
}

/// The versions as they are, without one that is over.
fn kept(status: &TenantApiKeyStatus, now: Timestamp) -> Versions {
    let live = |version: &&KeyVersion| version.valid_until.as_ref().is_none_or(|until| until.0 > now);
    let all = status.versions.iter().filter(live).cloned().collect();
    Versions { all, delivered: status.key_id.clone() }
}

/// The versions once the newest is in the Secret: with it the overlap of the one before begins, which ends with the key
/// at the latest.
fn current_versions(view: &View<'_>) -> Versions {
    // Times are stored in whole seconds: rounded up, so that it is never shorter than was promised.
    let second = later(view.now, SignedDuration::from_nanos(999_999_999)).as_second();
    let from = Timestamp::from_second(second).unwrap_or(view.now);
    let overlap = later(from, SignedDuration::from_secs(view.spec.overlap_seconds));
    let end = view.spec.expires_at.iter().map(|at| at.0).chain([overlap]).min();
    let mut status = view.status.clone();
    for before in status.versions.iter_mut().skip(1).filter(|before| before.valid_until.is_none()) {
        before.valid_until = end.map(Time);
    }
    status.key_id = status.versions.first().map(|newest| newest.key_id.clone());
    kept(&status, view.now)
}

fn times(view: &View<'_>, versions: &Versions) -> Vec<Timestamp> {
    let ends = versions.all.iter().filter_map(|version| version.valid_until.as_ref());
    let ends = ends.chain(&view.spec.expires_at).map(|time| time.0);
    ends.chain(versions.all.first().and_then(|newest| rotation_due(view, newest))).collect()
}

fn rotation_due(view: &View<'_>, newest: &KeyVersion) -> Option<Timestamp> {
    view.rotate_every.map(|every| later(newest.created_at.0, every))
}

fn repair_due(versions: &Versions) -> Option<Timestamp> {
    versions.all.first().map(|newest| later(newest.created_at.0, REPAIR_INTERVAL))
}

fn later(time: Timestamp, by: SignedDuration) -> Timestamp {
    time.saturating_add(by).unwrap_or(Timestamp::MAX)
}

/// A new version of `key`, hashed under the newest pepper; `None` without one.
#[must_use]
pub fn version(key: &Key, peppers: &Peppers, now: Timestamp) -> Option<KeyVersion> {
    let mac = hashed(key, peppers, peppers.newest())?;
    let key_id = key.id().to_string();
    Some(KeyVersion { key_id, macs: vec![mac], created_at: Time(now), valid_until: None })
}

/// The version of `key` with a hash under the newest pepper, and that under the pepper before if it is still in force.
#[must_use]
pub fn rehashed(version: &KeyVersion, key: &Key, peppers: &Peppers) -> KeyVersion {
    let known = |pepper: &PepperVersion| *pepper == peppers.newest() || mac_of(version, *pepper).is_some();
    let macs = peppers.versions().filter(known).filter_map(|pepper| hashed(key, peppers, pepper)).collect();
    KeyVersion { macs, ..version.clone() }
}

fn hashed(key: &Key, peppers: &Peppers, pepper: PepperVersion) -> Option<KeyMac> {
    let mac = peppers.mac(pepper, key)?.as_bytes().to_vec();
    Some(KeyMac { pepper: pepper.0.into(), mac: k8s_openapi::ByteString(mac) })
}

/// Whether a version has a hash under the newest pepper, and none under one that is not in force any more.
#[must_use]
pub fn is_hashed(version: &KeyVersion, peppers: &Peppers) -> bool {
    let in_force = |mac: &KeyMac| peppers.versions().any(|pepper| i64::from(pepper.0) == mac.pepper);
    mac_of(version, peppers.newest()).is_some() && version.macs.iter().all(in_force)
}

/// The hash of a version under one pepper.
#[must_use]
pub fn mac_of(version: &KeyVersion, pepper: PepperVersion) -> Option<Mac> {
    let stored = version.macs.iter().find(|mac| mac.pepper == i64::from(pepper.0))?;
    Mac::of(&stored.mac.0)
}

/// Whether `key` is the token of this version.
#[must_use]
pub fn recognises(version: &KeyVersion, key: &Key, peppers: &Peppers) -> bool {
    let same = |pepper| Some(mac_of(version, pepper)?.is(&peppers.mac(pepper, key)?));
    version.key_id == key.id().as_str() && peppers.versions().find_map(same).unwrap_or(false)
}

/// A request for a rotation as it is remembered: a long one by its hash.
#[must_use]
pub fn request(annotation: &str) -> String {
    if annotation.chars().count() <= REQUEST_ROOM {
        return annotation.to_owned();
    }
    Sha256::digest(annotation).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Reads a period such as `720h` or `1h30m`; `None` of what is none. One that is shorter than [`SHORTEST_PERIOD`] was stored
/// before that bound, and counts as it.
#[must_use]
pub fn period(text: &str) -> Option<SignedDuration> {
    written_period(text).map(|period| period.max(SHORTEST_PERIOD))
}

/// Whether a text is a period of at least [`SHORTEST_PERIOD`].
#[must_use]
pub fn is_long_enough(text: &str) -> bool {
    written_period(text).is_some_and(|period| period >= SHORTEST_PERIOD)
}

fn written_period(text: &str) -> Option<SignedDuration> {
    let mut seconds = 0_i64;
    let mut digits = String::new();
    for c in text.chars() {
        let unit = match c {
            'h' => 3600,
            'm' => 60,
            's' => 1,
            digit => {
                digits.push(digit);
                continue;
            }
        };
        let count: i64 = std::mem::take(&mut digits).parse().ok()?;
        seconds = seconds.checked_add(count.checked_mul(unit)?)?;
    }
    let period = SignedDuration::from_secs(seconds);
    (digits.is_empty() && period > SignedDuration::ZERO && period <= LONGEST_PERIOD).then_some(period)
}

#[cfg(test)]
mod tests;
