use proptest::{collection::vec, prelude::*};

use super::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn minute(minute: i64) -> Timestamp {
    at(minute * 60)
}

fn charged(jobs: &[(&str, i64)]) -> RateWindow {
    let mut window = RateWindow::default();
    for (uid, created) in jobs {
        window.charge(uid, minute(*created));
    }
    window
}

fn restarted(stored: Option<&JobWindow>, pods: &[(&str, i64)]) -> RateWindow {
    let mut window = charged(pods);
    if let Some(stored) = stored {
        window.restore(stored);
    }
    window.retain_settling(|uid| pods.iter().any(|(held, _)| *held == uid));
    window
}

#[test]
fn sixty_minutes_from_the_first_job() {
    let mut window = charged(&[]);
    assert_eq!((window.used(minute(0)), window.resets_at(minute(0))), (0, None));
    for (uid, created) in [("a", 10), ("b", 69), ("a", 10)] {
        window.charge(uid, minute(created));
    }
    let end = minute(70) + LEEWAY;
    assert_eq!((window.used(minute(69)), window.resets_at(minute(69))), (2, Some(end)));
    assert_eq!(
        window.used(end - SignedDuration::from_millis(1)),
        2,
        "a clock that is behind may stamp 69:59"
    );
    assert_eq!((window.used(end), window.resets_at(end)), (0, None));
    window.charge("c", minute(70));
    assert_eq!((window.used(minute(70)), window.resets_at(minute(70))), (1, Some(minute(130) + LEEWAY)));
}

#[test]
fn the_first_job_may_be_reported_last() {
    let mut window = charged(&[("d", 75), ("c", 71), ("b", 30), ("a", 10)]);
    let expected = (2, Some(minute(131) + LEEWAY));
    assert_eq!((window.used(minute(76)), window.resets_at(minute(76))), expected, "a and b have their own");
    // The same with a window that was settled in: it begins where it would have.
    window = charged(&[("a", 10), ("d", 75)]);
    assert!(window.settle("d"));
    window.charge("b", minute(69));
    assert_eq!(window.used(minute(76)), 1, "b was the last of the window before");
    window.charge("c", minute(71));
    assert_eq!((window.used(minute(76)), window.resets_at(minute(76))), expected);
}

#[test]
fn a_pod_is_released_once_status_counts_it_and_is_counted_once() {
    // Given three charged pods, none of which keeps its finalizer for status.
    let mut window = charged(&[("a", 10), ("b", 11), ("c", 12)]);
    let now = minute(20);
    assert_eq!(window.stored(now), None);
    assert!(
        !window.may_remove_finalizer(None, "a", minute(10), minute(600)),
        "however old: its end says where the next window may begin"
    );
    // When the charge of one is requested, status gets its number and its name.
    assert!(window.settle("b") && !window.settle("b") && !window.settle("unknown"));
    let stored = window.stored(now);
    let expected = JobWindow {
        resets_at: Time(minute(70)),
        not_before: None,
        settled: 1,
        settling: vec!["b".to_owned()],
    };
    assert_eq!(stored, Some(expected));
    // Then the finalizer of that pod may be removed, and of the others once their window is over.
    let may = |stored: &Option<JobWindow>, uid: &str, created: i64, now: i64| {
        window.may_remove_finalizer(stored.as_ref(), uid, minute(created), minute(now))
    };
    assert!(may(&stored, "b", 11, 20) && !may(&stored, "a", 10, 20));
    assert!(may(&stored, "a", 10, 71) && !may(&stored, "late", 70, 71), "its window is over");
    // A restart with or without that pod counts each pod once.
    for pods in [&[("a", 10), ("b", 11), ("c", 12)][..], &[("c", 12), ("a", 10)]] {
        let mut window = restarted(stored.as_ref(), pods);
        assert_eq!((window.used(now), window.resets_at(now)), (3, Some(minute(70) + LEEWAY)));
        window.finalizer_removed("b");
        assert_eq!(window.used(now), 3);
        assert_eq!(window.stored(now).map(|s| (s.settled, s.settling)), Some((1, vec![])));
    }
}

#[test]
fn the_rest_of_an_old_window_begins_no_new_one() {
    let mut window = charged(&[("a", 10), ("b", 65), ("c", 73)]);
    let now = minute(74);
    assert!(window.settle("a"));
    let stored = window.stored(now);
    let expected = JobWindow {
        resets_at: Time(minute(133)),
        not_before: Some(Time(minute(70))),
        settled: 0,
        settling: vec![],
    };
    assert_eq!(stored, Some(expected));
    assert!(window.may_remove_finalizer(stored.as_ref(), "a", minute(10), now));
    assert!(!window.settle("b"), "status says so already");
    let after = restarted(stored.as_ref(), &[("b", 65), ("c", 73)]);
    assert_eq!((after.used(now), after.resets_at(now)), (1, window.resets_at(now)));
}

#[test]
fn of_a_window_that_is_over_only_the_end_is_kept() {
    let mut window = charged(&[("a", 10), ("b", 11)]);
    assert!(window.settle("a"));
    let over =
        |settled, settling| JobWindow { resets_at: Time(minute(70)), not_before: None, settled, settling };
    assert_eq!(window.stored(minute(70)), Some(over(1, vec!["a".to_owned()])));
    assert_eq!(window.stored(minute(71)), Some(over(0, vec![])));
    window.finalizer_removed("b");
    assert_eq!(window.stored(minute(71)), Some(over(0, vec![])), "nothing to write for every pod that goes");
    assert_eq!(restarted(Some(&over(0, vec![])), &[("c", 70)]).used(minute(71)), 1);
}

#[test]
fn a_job_reported_after_a_later_one_was_settled_moves_what_is_stored() {
    let mut window = charged(&[("b", 3)]);
    assert!(window.settle("b"));
    window.charge("a", minute(0));
    let stored = window.stored(minute(59)).unwrap();
    assert_eq!(stored.resets_at.0, minute(60), "not 63: a pod of minute 60 would go uncounted");
    assert!(!window.may_remove_finalizer(Some(&stored), "c", minute(60), minute(64)));
    assert_eq!(restarted(Some(&stored), &[("a", 0)]).used(minute(59)), 2);
}

#[test]
fn what_is_stored_moves_also_when_the_next_window_runs_already() {
    let mut window = charged(&[("b", 3)]);
    assert!(window.settle("b"));
    window.charge("a", minute(0));
    window.charge("c", minute(60));
    let stored = window.stored(minute(60)).unwrap();
    assert_eq!(stored.resets_at.0, minute(60), "not 63: d of minute 60, not seen yet, would go uncounted");
    assert!(!window.may_remove_finalizer(Some(&stored), "d", minute(60), minute(64)));
    let after = restarted(Some(&stored), &[("a", 0), ("c", 60), ("d", 60)]);
    assert_eq!((after.used(minute(61)), after.resets_at(minute(61))), (2, Some(minute(120) + LEEWAY)));
}

#[test]
fn an_end_that_moved_and_is_not_stored_yet_lets_nothing_of_the_next_window_go() {
    let mut window = charged(&[("b", 4)]);
    assert!(window.settle("b"));
    let stale = window.stored(minute(56));
    let may = |window: &RateWindow| window.may_remove_finalizer(stale.as_ref(), "c", minute(60), minute(65));
    assert!(may(&window), "60 to 64 are of the window that is over");
    window.charge("a", minute(0));
    assert!(!may(&window), "it is over since 60, as status does not say yet");
    assert!(window.may_remove_finalizer(window.stored(minute(65)).as_ref(), "a", minute(0), minute(65)));
}

#[test]
fn what_goes_without_asking_stays_counted() {
    let mut window = charged(&[("a", 10), ("b", 11)]);
    window.finalizer_removed("a");
    assert_eq!((window.used(minute(12)), window.resets_at(minute(12))), (2, Some(minute(70) + LEEWAY)));
    assert_eq!(window.stored(minute(12)).map(|s| (s.settled, s.settling)), Some((1, vec![])));
}

#[test]
fn settling_jobs_are_bounded() {
    let mut window = RateWindow::default();
    let uid = |n: usize| format!("job-{n}");
    for n in 0..=MAX_SETTLING {
        window.charge(&uid(n), minute(0));
    }
    assert!((0..MAX_SETTLING).all(|n| window.settle(&uid(n))));
    assert!(!window.settle(&uid(MAX_SETTLING)));
    window.finalizer_removed(&uid(7));
    assert!(window.settle(&uid(MAX_SETTLING)));
    assert_eq!(window.used(minute(1)), 513);
    // A start without any of the pods has room at once; so has the next window.
    let mut restarted = restarted(window.stored(minute(1)).as_ref(), &[]);
    restarted.charge("new", minute(2));
    assert!(restarted.settle("new"));
    window.charge("next", minute(60));
    assert!(window.settle("next"));
}

#[test]
fn a_status_that_could_not_be_written_is_survived() {
    for resets_at in [Timestamp::MIN, Timestamp::MAX] {
        let stored = JobWindow {
            resets_at: Time(resets_at),
            not_before: None,
            settled: -5,
            settling: vec!["a".to_owned()],
        };
        let window = restarted(Some(&stored), &[("a", 1), ("b", 2)]);
        assert!(window.used(minute(3)) <= 1);
        assert!(window.may_remove_finalizer(Some(&stored), "a", minute(1), minute(3)));
    }
}

/// What can happen. Numbers pick a pod.
#[derive(Clone, Debug)]
enum Event {
    /// A first pod is created; jobs deleted and created again are no different.
    Create,
    /// Minutes go by.
    Pass(i64),
    /// The watch delivers a pod to the scheduler.
    Deliver(usize),
    /// The pod-finalizer controller requests a charge for one.
    Settle(usize),
    /// Status is written.
    Write,
    /// The pod-finalizer controller removes a pod's finalizer, if status allows it.
    RemoveFinalizer(usize),
    /// The watch delivers that to the scheduler.
    DeliverRemoval(usize),
    /// The operator restarts; the cache delivers pods in some order, before or after the tenant.
    Restart { reverse: bool, status_first: bool },
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => Just(Event::Create),
        4 => (0_i64..8).prop_map(Event::Pass),
        1 => (8_i64..75).prop_map(Event::Pass),
        8 => any::<usize>().prop_map(Event::Deliver),
        6 => any::<usize>().prop_map(Event::Settle),
        4 => Just(Event::Write),
        6 => any::<usize>().prop_map(Event::RemoveFinalizer),
        4 => any::<usize>().prop_map(Event::DeliverRemoval),
        1 => (any::<bool>(), any::<bool>())
            .prop_map(|(reverse, status_first)| Event::Restart { reverse, status_first }),
    ]
}

#[derive(Clone, Debug)]
struct HeldPod {
    uid: String,
    created: Timestamp,
    held: bool,
    seen: bool,
}

#[derive(Default)]
struct World {
    minute: i64,
    /// Every first pod there ever was.
    pods: Vec<HeldPod>,
    status: Option<JobWindow>,
    window: RateWindow,
}

impl World {
    fn deliver(&mut self, which: impl Fn(&HeldPod) -> bool) {
        for pod in self.pods.iter_mut().filter(|pod| pod.held && !pod.seen && which(pod)) {
            pod.seen = true;
            self.window.charge(&pod.uid, pod.created);
        }
    }

    fn happens(&mut self, event: &Event) {
        let (now, many) = (minute(self.minute), self.pods.len().max(1));
        let picked = |n: &usize| self.pods.get(n % many).cloned();
        match event {
            Event::Create => {
                let uid = format!("job-{}", self.pods.len());
                self.pods.push(HeldPod { uid, created: now, held: true, seen: false });
            }
            Event::Pass(minutes) => {
                let next = self.minute + minutes;
                self.deliver(|pod| end_of(pod.created) <= minute(next));
                self.minute = next;
            }
            Event::Deliver(n) => {
                if let Some(picked) = picked(n) {
                    self.deliver(|pod| pod.uid == picked.uid);
                }
            }
            Event::Settle(n) => drop(picked(n).map(|pod| self.window.settle(&pod.uid))),
            Event::Write => self.status = self.window.stored(now),
            Event::RemoveFinalizer(n) => {
                let status = self.status.as_ref();
                if let Some(pod) = self.pods.get_mut(n % many) {
                    pod.held &= !self.window.may_remove_finalizer(status, &pod.uid, pod.created, now);
                }
            }
            Event::DeliverRemoval(n) => {
                if let Some(pod) = picked(n).filter(|pod| !pod.held) {
                    self.window.finalizer_removed(&pod.uid);
                }
            }
            Event::Restart { reverse, status_first } => self.restart(*reverse, *status_first),
        }
    }

    fn restart(&mut self, reverse: bool, status_first: bool) {
        self.window = RateWindow::default();
        self.pods.iter_mut().for_each(|pod| pod.seen = !pod.held);
        if let (true, Some(status)) = (status_first, &self.status) {
            self.window.restore(status);
        }
        if reverse {
            self.pods.reverse();
        }
        self.deliver(|_| true);
        if reverse {
            self.pods.reverse();
        }
        let _ = self.found();
        if let Some(status) = &self.status {
            self.window.restore(status);
        }
        let pods = &self.pods;
        self.window.retain_settling(|uid| pods.iter().any(|pod| pod.held && pod.uid == uid));
    }

    /// The rule, from everything that ever happened, as far as the scheduler has heard of it.
    fn expected(&self) -> (u64, Option<Timestamp>) {
        let (mut used, mut start) = (0, None);
        for pod in self.pods.iter().filter(|pod| pod.seen || !pod.held) {
            match start {
                Some(start) if pod.created < start + LENGTH => used += 1,
                _ => (used, start) = (1, Some(pod.created)),
            }
        }
        let end = start.map(|start| start + LENGTH + LEEWAY).filter(|end| minute(self.minute) < *end);
        (if end.is_some() { used } else { 0 }, end)
    }

    fn found(&self) -> (u64, Option<Timestamp>) {
        (self.window.used(minute(self.minute)), self.window.resets_at(minute(self.minute)))
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    /// Whatever happens in whatever order, what is counted is what was started; and every finalizer can be removed.
    #[test]
    fn counts_what_was_started(events in vec(event(), 0..120)) {
        let mut world = World::default();
        for event in &events {
            let before = world.found().0;
            world.happens(event);
            prop_assert_eq!(world.found(), world.expected(), "after {:?}", event);
            if !matches!(event, Event::Pass(_) | Event::Deliver(_) | Event::Restart { .. }) {
                prop_assert!(world.found().0 >= before, "lowered by {:?}", event);
            }
        }
        world.deliver(|_| true);
        for n in 0..world.pods.len() {
            for event in [Event::Settle(n), Event::Write, Event::RemoveFinalizer(n)] {
                world.happens(&event);
            }
            prop_assert!(!world.pods[n].held, "stuck: {:?}", world.pods[n]);
        }
        prop_assert_eq!(world.found(), world.expected());
        world.happens(&Event::Restart { reverse: false, status_first: false });
        prop_assert_eq!(world.found(), world.expected(), "from status alone");
    }

    /// The order of the events does not matter.
    #[test]
    fn any_order(created in vec(0_i64..200, 1..12).prop_flat_map(|all| (Just(all.clone()), Just(all).prop_shuffle()))) {
        let windows = [created.0, created.1].map(|order| {
            let mut window = RateWindow::default();
            for created in order {
                window.charge(&created.to_string(), minute(created));
                let _ = window.used(minute(200));
            }
            (window.used(minute(200)), window.resets_at(minute(200)))
        });
        prop_assert_eq!(&windows[0], &windows[1]);
    }
}
