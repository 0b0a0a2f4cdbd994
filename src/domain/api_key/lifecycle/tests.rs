//! A key in a small world, through everything that may befall it, in any order; and each step by itself.

use std::collections::BTreeMap;

use proptest::prelude::*;
use secrecy::SecretSlice;
use serde_json::json;

use super::*;
use crate::domain::api_key::Seed;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn spec(json: serde_json::Value) -> TenantApiKeySpec {
    serde_json::from_value(json).unwrap()
}

fn key(number: u64) -> Key {
    let fill = |bytes: &mut [u8]| {
        bytes.chunks_mut(8).for_each(|chunk| chunk.copy_from_slice(&number.to_be_bytes()));
        Ok::<_, ()>(())
    };
    Key::new(&Seed::of(fill).unwrap())
}

fn peppers(numbers: &[u32]) -> Peppers {
    let pepper =
        |number: &u32| (PepperVersion(*number), SecretSlice::from(vec![u8::try_from(*number).unwrap(); 32]));
    Peppers::new(numbers.iter().map(pepper)).unwrap()
}

/// What is under the Secret's name.
#[derive(Clone, Debug)]
enum Slot {
    Empty,
    Foreign,
    Ours(Option<Key>),
}

/// A key, its Secret, and the process that reconciles it.
#[derive(Debug)]
struct World {
    spec: TenantApiKeySpec,
    status: TenantApiKeyStatus,
    slot: Slot,
    annotation: Option<String>,
    at_hand: Option<Key>,
    peppers: Vec<u32>,
    now: i64,
    made: u64,
    /// All tokens that were ever made, by id.
    tokens: BTreeMap<String, Key>,
    causes: Vec<Cause>,
}

impl World {
    fn new(spec: TenantApiKeySpec) -> Self {
        Self {
            spec,
            status: TenantApiKeyStatus::default(),
            slot: Slot::Empty,
            annotation: None,
            at_hand: None,
            peppers: vec![1],
            now: 1_000_000,
            made: 0,
            tokens: BTreeMap::new(),
            causes: Vec::new(),
        }
    }

    fn peppers(&self) -> Peppers {
        peppers(&self.peppers)
    }

    fn stored(&self) -> Stored {
        let Slot::Ours(token) = &self.slot else {
            return if matches!(self.slot, Slot::Empty) { Stored::Absent } else { Stored::Foreign };
        };
        let known = |key: &&Key| self.status.versions.iter().any(|v| recognises(v, key, &self.peppers()));
        token.as_ref().filter(known).map_or(Stored::Damaged, |key| Stored::Holds(key.id()))
    }

    fn next(&self) -> Next {
        let newest = self.status.versions.first().map(|v| v.key_id.as_str());
        let request = self.annotation.as_deref().map(request);
        next(&View {
            spec: &self.spec,
            rotate_every: self.spec.rotate_every.as_deref().and_then(period),
            request: request.as_deref(),
            status: &self.status,
            peppers: &self.peppers(),
            stored: self.stored(),
            at_hand: self.at_hand.as_ref().is_some_and(|key| Some(key.id().as_str()) == newest),
            now: at(self.now),
        })
    }

    /// As the controller carries a step out; false when nothing is left to do.
    fn reconcile(&mut self) -> bool {
        let before = self.status.clone();
        match self.next().step {
            Step::UpToDate(v) | Step::Hold(v) | Step::Conflict(v) | Step::Expire(v) => {
                (self.status.versions, self.status.key_id) = (v.all, v.delivered);
            }
            Step::Revoke => (self.status.versions, self.status.key_id) = (vec![], None),
            Step::EndWith { .. } => unreachable!("the key has no parent"),
            Step::Issue { cause, kept } => {
                self.made += 1;
                self.causes.push(cause);
                let key = key(self.made);
                let new = version(&key, &self.peppers(), at(self.now)).unwrap();
                self.status.versions = [new].into_iter().chain(kept).collect();
                self.status.last_rotate_request =
                    self.annotation.as_deref().map(request).or(self.status.last_rotate_request.take());
                self.tokens.insert(key.id().to_string(), key.clone());
                self.at_hand = Some(key);
            }
            Step::Deliver => {
                self.slot = Slot::Ours(self.at_hand.take());
                return true;
            }
            Step::Rehash => {
                let Slot::Ours(Some(key)) = &self.slot else { panic!("nothing to hash") };
                self.status.versions[0] = rehashed(&self.status.versions[0], key, &self.peppers());
            }
        }
        before != self.status
    }

    /// Reconciles until nothing is left to do.
    fn converge(&mut self) -> usize {
        let reconciles = (0..10).take_while(|_| self.reconcile()).count();
        assert!(reconciles < 6, "it does not converge: {self:?}");
        reconciles
    }

    /// The tokens that open something now.
    fn accepted(&self) -> Vec<String> {
        let accepts = |key: &&Key| {
            self.status.versions.iter().any(|v| {
                refused(&self.spec, v, at(self.now)).is_none() && recognises(v, key, &self.peppers())
            })
        };
        self.tokens.values().filter(accepts).map(|key| key.id().to_string()).collect()
    }

    fn in_secret(&self) -> Option<String> {
        match &self.slot {
            Slot::Ours(Some(key)) => Some(key.id().to_string()),
            _ => None,
        }
    }
}

#[test]
fn a_new_key_is_hashed_then_delivered_then_reported() {
    let mut world = World::new(spec(json!({})));
    assert_eq!(world.next(), Next { step: Step::Issue { cause: Cause::First, kept: None }, at: None });
    world.reconcile();
    assert_eq!((world.next().step, world.status.key_id.clone()), (Step::Deliver, None));
    world.reconcile();
    world.converge();
    assert_eq!(world.status.key_id, world.in_secret());
    assert_eq!(world.accepted(), [world.in_secret().unwrap()]);
    assert_eq!(world.next().at, None);
}

#[test]
fn a_rotation_keeps_the_previous_version_until_the_new_one_is_delivered_and_then_for_the_overlap() {
    let mut world = World::new(spec(json!({"overlapSeconds": 30})));
    world.converge();
    let first = world.in_secret().unwrap();
    world.annotation = Some("now".to_owned());
    world.reconcile();
    assert_eq!(world.in_secret().as_ref(), Some(&first));
    world.now += 1000;
    assert_eq!(world.accepted().len(), 2, "not before the new one is in the Secret");
    world.converge();
    assert_eq!(world.accepted().len(), 2);
    assert_eq!(world.next().at, Some(at(world.now + 30)));
    world.now += 29;
    assert_eq!(world.accepted().len(), 2);
    world.now += 1;
    assert_eq!(world.accepted(), [world.in_secret().unwrap()], "also before the next reconcile");
    assert_ne!(world.in_secret().unwrap(), first);
    world.converge();
    assert_eq!(world.status.versions.len(), 1);
    assert_eq!(world.causes, [Cause::First, Cause::Requested]);
    world.annotation = None;
    assert_eq!(world.converge(), 0, "taking the annotation away asks for nothing");
}

#[test]
fn a_rotation_by_schedule_comes_by_itself_and_never_outlives_the_key() {
    let mut world = World::new(spec(json!({"rotateEvery": "1h"})));
    world.converge();
    let due = world.now + 3600;
    assert_eq!(world.next().at, Some(at(due)));
    world.spec.expires_at = Some(Time(at(due + 100)));
    world.now = due;
    world.converge();
    assert_eq!(world.causes, [Cause::First, Cause::Scheduled]);
    assert_eq!(world.status.versions[1].valid_until, Some(Time(at(due + 100))), "not for the whole overlap");
    assert_eq!(world.next().at, Some(at(due + 100)));
    world.now = due + 100;
    assert_eq!(world.accepted(), [""; 0]);
    assert!(matches!(world.next(), Next { step: Step::Expire(_), at: None }));
    world.now += 100_000;
    world.converge();
    assert_eq!(world.causes.len(), 2, "an expired key is not rotated");
}

#[test]
fn a_damaged_secret_gets_a_new_version_and_not_more_often_than_that() {
    let mut world = World::new(spec(json!({})));
    world.converge();
    let first = world.in_secret().unwrap();
    for slot in [Slot::Empty, Slot::Ours(None), Slot::Ours(Some(key(99)))] {
        world.slot = slot;
        assert!(matches!(world.next(), Next { step: Step::Hold(_), at: Some(t) } if t == at(world.now + 10)));
        world.now += 10;
        world.converge();
        assert!(world.accepted().contains(&world.in_secret().unwrap()));
    }
    assert_eq!(world.causes[1..], [Cause::Restored; 3]);
    assert!(!world.accepted().contains(&first), "two at most");
    // The token of the version before is a token of the key, and not what should be there.
    let before = world.tokens[&world.status.versions[1].key_id].clone();
    world.slot = Slot::Ours(Some(before));
    world.now += 10;
    assert!(matches!(world.next().step, Step::Issue { cause: Cause::Restored, .. }));
}

#[test]
fn a_clock_that_is_set_back_does_not_keep_a_damaged_secret() {
    let mut world = World::new(spec(json!({})));
    world.converge();
    world.slot = Slot::Empty;
    world.now -= 3600;
    assert!(matches!(world.next().step, Step::Issue { cause: Cause::Restored, .. }), "not in an hour");
    world.converge();
    world.slot = Slot::Empty;
    assert!(matches!(world.next().step, Step::Hold(_)), "and not more often for that");
}

#[test]
fn a_token_that_was_lost_before_delivery_is_replaced_and_the_previous_one_stays() {
    let mut world = World::new(spec(json!({"overlapSeconds": 0})));
    world.converge();
    let first = world.in_secret().unwrap();
    world.annotation = Some("x".to_owned());
    world.reconcile();
    let lost = world.at_hand.take().unwrap().id().to_string();
    assert!(
        matches!(&world.next().step, Step::Issue { cause: Cause::Undelivered, kept: Some(kept) } if kept.key_id == first)
    );
    world.reconcile();
    assert!(!world.accepted().contains(&lost) && world.accepted().contains(&first));
    world.converge();
    assert_eq!(world.accepted(), [world.in_secret().unwrap()]);
}

#[test]
fn a_foreign_secret_stays_and_the_versions_too() {
    let mut world = World::new(spec(json!({})));
    world.slot = Slot::Foreign;
    assert_eq!(world.next().step, Step::Conflict(Versions::default()));
    world.slot = Slot::Empty;
    world.converge();
    world.slot = Slot::Foreign;
    world.converge();
    assert_eq!(world.accepted().len(), 1);
}

#[test]
fn revoked_is_for_good_and_nothing_is_kept() {
    let mut world = World::new(spec(json!({"rotateEvery": "1h"})));
    world.converge();
    world.spec.revoked = true;
    assert_eq!(world.accepted(), [""; 0], "before the next reconcile");
    world.now += 1000;
    world.converge();
    assert_eq!((world.status.versions.len(), world.status.key_id.clone()), (0, None));
    assert_eq!(world.next(), Next { step: Step::Revoke, at: None });
}

#[test]
fn a_new_pepper_costs_no_key() {
    let mut world = World::new(spec(json!({})));
    world.converge();
    let token = world.in_secret();
    let pepper = |world: &World| world.status.versions[0].macs.iter().map(|m| m.pepper).collect::<Vec<_>>();
    world.peppers = vec![1, 2];
    world.converge();
    assert_eq!(
        pepper(&world),
        [2, 1],
        "a process that does not have the new pepper yet recognises the key, too"
    );
    world.peppers = vec![2];
    world.converge();
    assert_eq!(pepper(&world), [2]);
    assert_eq!((world.in_secret(), world.causes.len()), (token, 1));
    world.peppers = vec![3];
    world.now += 10;
    world.converge();
    assert_eq!(world.causes[1..], [Cause::Restored], "taken away too soon");
    assert_eq!(world.accepted(), [world.in_secret().unwrap()]);
}

#[test]
fn requests_and_periods_are_read() {
    assert_eq!(request("2026-01-01"), "2026-01-01");
    assert_eq!(request(&"x".repeat(65)).len(), 64);
    assert_ne!(request(&"x".repeat(65)), request(&"x".repeat(66)));
    for (text, seconds) in [
        ("60m", Some(3600)),
        ("1h30m", Some(5400)),
        ("5400s", Some(5400)),
        ("59m59s", Some(3600)),
        ("0s", None),
    ] {
        assert_eq!(period(text).map(|p| p.as_secs()), seconds, "{text}");
    }
    // The longest that the CRD's rule reads.
    for (longest, seconds) in [("2562047h47m16s", 9_223_372_036), ("9223372036s", 9_223_372_036)] {
        assert_eq!(period(longest).map(|p| p.as_secs()), Some(seconds), "{longest}");
    }
    assert_eq!((period("2562048h"), period("9223372037s")), (None, None));
    for bad in ["", "h", "1", "1d", "1h2", "-1h", "99999999999h", "1.5h"] {
        assert_eq!(period(bad), None, "{bad}");
    }
}

/// What may happen to a key between two reconciles.
#[derive(Clone, Debug)]
enum Event {
    Reconcile,
    Wait(i64),
    Kill,
    Rotate(u8),
    Damage,
    Delete,
    Forge,
    Squat,
    PutBack,
    Pepper,
    DropOldPepper,
    Expire(i64),
    Overlap(i64),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => Just(Event::Reconcile),
        3 => (1_i64..200).prop_map(Event::Wait),
        2 => Just(Event::Kill),
        2 => any::<u8>().prop_map(Event::Rotate),
        1 => Just(Event::Damage),
        1 => Just(Event::Delete),
        1 => Just(Event::Forge),
        1 => Just(Event::Squat),
        1 => Just(Event::PutBack),
        1 => Just(Event::Pepper),
        1 => Just(Event::DropOldPepper),
        1 => (-50_i64..3000).prop_map(Event::Expire),
        1 => (0_i64..500).prop_map(Event::Overlap),
    ]
}

impl World {
    fn befall(&mut self, event: &Event) {
        match event {
            Event::Reconcile => drop(self.reconcile()),
            Event::Wait(seconds) => self.now += seconds,
            Event::Kill => self.at_hand = None,
            Event::Rotate(word) => self.annotation = Some(word.to_string()),
            Event::Damage if matches!(self.slot, Slot::Ours(_)) => self.slot = Slot::Ours(None),
            Event::Delete => self.slot = Slot::Empty,
            Event::Forge if matches!(self.slot, Slot::Ours(_)) => {
                self.slot = Slot::Ours(Some(key(1 << 40)));
            }
            Event::Squat => self.slot = Slot::Foreign,
            Event::PutBack => {
                let old = self.tokens.values().next().cloned();
                self.slot = Slot::Ours(old);
            }
            Event::Pepper => {
                self.peppers = vec![*self.peppers.last().unwrap(), self.peppers.last().unwrap() + 1];
            }
            Event::DropOldPepper => self.peppers = vec![*self.peppers.last().unwrap()],
            Event::Expire(seconds) => self.spec.expires_at = Some(Time(at(self.now + seconds))),
            Event::Overlap(seconds) => self.spec.overlap_seconds = *seconds,
            Event::Damage | Event::Forge => (),
        }
    }
}

proptest! {
    #[test]
    fn whatever_befalls_a_key_its_secret_opens_and_at_most_two_versions_do(
        events in prop::collection::vec(event(), 1..60),
        scheduled in any::<bool>(),
    ) {
        let spec = if scheduled { json!({"rotateEvery": "1h"}) } else { json!({}) };
        let mut world = World::new(self::spec(spec));
        // At every moment at most two versions are accepted, and no forged one.
        for event in &events {
            let before = world.accepted();
            let (in_secret, delivered) = (world.in_secret(), world.status.key_id.clone());
            world.befall(event);
            prop_assert!(world.status.versions.len() <= 2);
            let forged = key(1 << 40);
            prop_assert!(world.status.versions.iter().all(|v| v.key_id != forged.id().as_str()));
            if let Some(end) = &world.spec.expires_at {
                prop_assert!(end.0 > at(world.now) || world.accepted().is_empty());
            }
            // A reconcile by itself never refuses the token that is in the Secret.
            let opened = in_secret.filter(|id| before.contains(id) && world.in_secret().as_ref() == Some(id));
            let opened = opened.filter(|id| delivered.as_ref() == Some(id));
            if let (Event::Reconcile, Some(id)) = (event, opened) {
                prop_assert!(world.accepted().contains(&id), "{:?} {:?}", event, world);
            }
        }
        // In the end the Secret's token is accepted, unless the key has ended.
        world.now += 10;
        world.converge();
        let next = world.next();
        let open = closed(&world.spec, at(world.now)).is_none();
        if open && !matches!(world.slot, Slot::Foreign) {
            prop_assert!(world.accepted().contains(&world.in_secret().unwrap()), "{:?}", world);
            prop_assert_eq!(&world.status.key_id, &world.in_secret());
        }
        prop_assert!(next.at.is_none_or(|t| t > at(world.now)));
        // Until the time given nothing changes by itself, and then something does, or the time advances.
        if let Some(then) = next.at {
            world.now = then.as_second() - 1;
            let step = world.next().step;
            prop_assert_eq!(step, next.step);
        }
    }
}
