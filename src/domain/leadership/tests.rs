//! The rules by themselves, and several replicas with clocks of their own and an API server that loses and delays.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn at(millis: i64) -> Timestamp {
    Timestamp::from_millisecond(millis).unwrap()
}

fn record(holder: &str, version: u64, transitions: i32) -> LeaseRecord {
    LeaseRecord { holder: holder.to_owned(), transitions, version: version.to_string() }
}

fn replace(version: u64, transitions: i32) -> Step {
    Step::Replace { version: version.to_string(), transitions }
}

#[test]
fn the_first_replica_creates_the_lease_and_renews_it() {
    let mut elector = Elector::new("a".to_owned());
    assert_eq!(elector.decide(None, at(0)), Step::Create);
    assert!(!elector.leads(at(0)), "not before the API server has accepted it");

    elector.accepted(&record("a", 1, 0), at(0), at(50));
    assert!(elector.leads(at(9_999)) && !elector.leads(at(10_000)), "from when it was sent");
    assert_eq!(elector.decide(Some(&record("a", 1, 0)), at(2000)), replace(1, 0));
}

#[test]
fn a_follower_takes_over_what_has_stayed_the_same_for_the_lease_duration() {
    let mut elector = Elector::new("b".to_owned());
    assert_eq!(elector.decide(Some(&record("a", 1, 3)), at(0)), Step::Wait);
    assert_eq!(elector.decide(Some(&record("a", 2, 3)), at(14_000)), Step::Wait, "it was renewed");
    assert_eq!(elector.decide(Some(&record("a", 2, 3)), at(28_999)), Step::Wait);
    assert_eq!(elector.decide(Some(&record("a", 2, 3)), at(29_000)), replace(2, 4));
}

#[test]
fn a_released_lease_is_taken_over_at_once() {
    let mut elector = Elector::new("b".to_owned());
    assert_eq!(elector.decide(Some(&record("", 9, 3)), at(0)), replace(9, 4));
}

#[test]
fn a_lease_that_was_deleted_is_created_by_its_leader_at_once_and_by_a_follower_when_the_last_record_has_expired()
 {
    let (mut leader, mut follower) = (Elector::new("a".to_owned()), Elector::new("b".to_owned()));
    leader.accepted(&record("a", 1, 0), at(0), at(0));
    assert_eq!(follower.decide(Some(&record("a", 1, 0)), at(0)), Step::Wait);

    assert_eq!(leader.decide(None, at(2000)), Step::Create);
    assert_eq!(follower.decide(None, at(2000)), Step::Wait);
    assert_eq!(follower.decide(None, at(15_000)), Step::Create);
}

#[test]
fn a_leader_resigns_when_its_time_is_over_or_another_one_has_the_lease() {
    let mut late = Elector::new("a".to_owned());
    late.accepted(&record("a", 1, 0), at(0), at(0));
    let mut replaced = late.clone();
    assert_eq!(
        late.decide(Some(&record("a", 1, 0)), at(10_000)),
        Step::Resign,
        "though it has the Lease still"
    );
    assert_eq!(replaced.decide(Some(&record("b", 2, 1)), at(5000)), Step::Resign);
}

#[test]
fn a_process_with_the_lease_of_its_unanswered_write_waits_like_any_other() {
    let mut elector = Elector::new("a".to_owned());
    assert_eq!(elector.decide(Some(&record("a", 5, 1)), at(0)), Step::Wait);
    assert_eq!(elector.decide(Some(&record("a", 5, 1)), at(15_000)), replace(5, 2));
}

/// What happens to one request.
#[derive(Clone, Copy, Debug)]
struct Network {
    /// Real milliseconds until the API server has the request; `None`: it is lost.
    to: Option<u16>,
    /// Real milliseconds until the answer is back; `None`: it is lost.
    back: Option<u16>,
}

/// A message under way.
#[derive(Clone, Debug)]
enum Message {
    Read,
    Written(Step),
    Record(Option<LeaseRecord>),
    Accepted(LeaseRecord),
    /// The API server refused it, or no answer came in time.
    Refused,
    /// The next process starts.
    Start,
}

#[derive(Debug)]
struct Replica {
    elector: Elector,
    /// How fast its clock advances, in thousandths.
    rate: i64,
    offset: i64,
    /// By its clock: when the request under way was sent.
    sent: Timestamp,
    /// The number of the request that it waits for: a late answer to an earlier one is ignored.
    awaited: u64,
    /// The process has ended, and another one has not started in its place yet.
    resigned: bool,
    /// How many processes it has had.
    starts: u32,
}

impl Replica {
    fn clock(&self, real: i64) -> Timestamp {
        at(self.offset + real * self.rate / 1000)
    }

    /// Real milliseconds for a duration of its clock.
    fn real(&self, own: i64) -> i64 {
        own * 1000 / self.rate
    }
}

/// Replica, request, message, whether it goes to the API server, and its network.
type Event = (usize, u64, Message, bool, Network);

/// Several replicas and an API server, in real time.
struct World {
    now: i64,
    replicas: Vec<Replica>,
    lease: Option<LeaseRecord>,
    versions: u64,
    requests: u64,
    /// Events by their real time and number.
    queue: BTreeMap<(i64, u64), Event>,
    events: u64,
    networks: Vec<Network>,
}

impl World {
    fn new(rates: &[i64], networks: Vec<Network>) -> Self {
        let replica = |(n, rate): (usize, &i64)| Replica {
            elector: Elector::new(format!("r{n}-0")),
            rate: *rate,
            offset: 1_000_000 * (n as i64 + 1),
            sent: at(0),
            awaited: 0,
            resigned: false,
            starts: 0,
        };
        let mut world = Self {
            now: 0,
            replicas: rates.iter().enumerate().map(replica).collect(),
            lease: None,
            versions: 0,
            requests: 0,
            queue: BTreeMap::new(),
            events: 0,
            networks,
        };
        (0..rates.len()).for_each(|n| world.send(n, Message::Read));
        world
    }

    fn push(&mut self, delay: i64, event: Event) {
        self.events += 1;
        self.queue.insert((self.now + delay, self.events), event);
    }

    /// Sends a request of a replica, which waits for the answer for a retry period at most, then reads again.
    fn send(&mut self, n: usize, message: Message) {
        self.requests += 1;
        let request = self.requests;
        let network = self.networks
            [usize::try_from(request).unwrap().wrapping_mul(7).wrapping_add(n) % self.networks.len()];
        let sent = self.replicas[n].clock(self.now);
        (self.replicas[n].sent, self.replicas[n].awaited) = (sent, request);
        if let Some(to) = network.to {
            self.push(to.into(), (n, request, message, true, network));
        }
        let patience = self.replicas[n].real(2000) + 1;
        self.push(patience, (n, request, Message::Refused, false, network));
    }

    fn serve(&mut self, n: usize, message: &Message) -> Message {
        let holder = self.replicas[n].elector.identity().to_owned();
        let transitions = match (message, &self.lease) {
            (Message::Read, lease) => return Message::Record(lease.clone()),
            (Message::Written(Step::Create), None) => 0,
            (Message::Written(Step::Replace { version, transitions }), Some(lease))
                if lease.version == *version =>
            {
                *transitions
            }
            _ => return Message::Refused,
        };
        self.versions += 1;
        let record = LeaseRecord { holder, transitions, version: self.versions.to_string() };
        self.lease = Some(record.clone());
        Message::Accepted(record)
    }

    fn receive(&mut self, n: usize, message: Message) {
        let now = self.replicas[n].clock(self.now);
        let replica = &mut self.replicas[n];
        match message {
            Message::Record(lease) => match replica.elector.decide(lease.as_ref(), now) {
                Step::Resign => self.resign(n),
                Step::Wait => self.read_later(n),
                step => self.send(n, Message::Written(step)),
            },
            Message::Accepted(record) => {
                let sent = replica.sent;
                replica.elector.accepted(&record, sent, now);
                self.read_later(n);
            }
            _ if replica.elector.is_over(now) => self.resign(n),
            _ => self.send(n, Message::Read),
        }
    }

    fn resign(&mut self, n: usize) {
        self.replicas[n].resigned = true;
        self.push(500, (n, 0, Message::Start, false, Network { to: None, back: None }));
    }

    fn start(&mut self, n: usize) {
        let replica = &mut self.replicas[n];
        (replica.resigned, replica.starts) = (false, replica.starts + 1);
        replica.elector = Elector::new(format!("r{n}-{}", replica.starts));
        self.send(n, Message::Read);
    }

    fn read_later(&mut self, n: usize) {
        let (delay, request) = (self.replicas[n].real(2000), self.replicas[n].awaited);
        let network = Network { to: None, back: None };
        self.push(delay, (n, request, Message::Refused, false, network));
    }

    /// The replicas that lead, each by its own clock.
    fn leaders(&self) -> Vec<usize> {
        let leads = |n: &usize| {
            let replica = &self.replicas[*n];
            !replica.resigned && replica.elector.leads(replica.clock(self.now))
        };
        (0..self.replicas.len()).filter(leads).collect()
    }

    /// Runs until a real time; each time that something happens at most one replica leads.
    fn run(&mut self, until: i64) -> Result<(), TestCaseError> {
        while let Some(((time, _), (n, request, message, to_server, network))) = self.queue.pop_first() {
            if time > until {
                return Ok(());
            }
            self.now = time;
            if to_server {
                let answer = self.serve(n, &message);
                if let Some(back) = network.back {
                    self.push(back.into(), (n, request, answer, false, network));
                }
            } else if matches!(message, Message::Start) {
                self.start(n);
            } else if self.replicas[n].awaited == request && !self.replicas[n].resigned {
                self.receive(n, message);
            }
            let leaders = self.leaders();
            prop_assert!(leaders.len() <= 1, "{leaders:?} lead at {}", self.now);
        }
        Ok(())
    }
}

fn network() -> impl Strategy<Value = Network> {
    let delay = || {
        prop_oneof![
            6 => (1_u16..50).prop_map(Some),
            2 => (50_u16..20_000).prop_map(Some),
            1 => Just(None),
        ]
    };
    (delay(), delay()).prop_map(|(to, back)| Network { to, back })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Whatever is lost or late, and in whatever order it comes: no two replicas lead at once while the fastest clock
    /// advances less than 1.5 times as fast as the slowest.
    #[test]
    fn never_two_leaders(
        rates in prop::collection::vec(820_i64..1220, 2..5),
        networks in prop::collection::vec(network(), 1..40),
    ) {
        World::new(&rates, networks).run(300_000)?;
    }
}

#[test]
fn on_a_good_network_one_leads_all_the_time_and_the_next_takes_over_when_it_is_killed() {
    let good = Network { to: Some(5), back: Some(5) };
    let mut world = World::new(&[1000, 900, 1200], vec![good]);
    world.run(60_000).unwrap();
    let [first] = world.leaders()[..] else { panic!("{:?}", world.leaders()) };

    world.replicas[first].resigned = true;
    world.run(80_000).unwrap();
    let [second] = world.leaders()[..] else { panic!("no replica leads 20 s after the leader was killed") };
    assert_ne!(first, second);
    assert_eq!(world.lease.as_ref().unwrap().transitions, 1);
}

/// That the test above can fail: a clock that is twice as fast makes two leaders.
#[test]
fn with_a_clock_that_is_twice_as_fast_two_may_lead() {
    let good = Network { to: Some(5), back: Some(5) };
    let mut world = World::new(&[700, 1400], vec![good]);
    world.run(10_000).unwrap();
    assert_eq!(world.leaders(), [0], "the first that asked");
    // All answers to it are lost from now on.
    let first = 0;
    world.replicas[first].awaited = u64::MAX;
    assert!(world.run(40_000).is_err());
}
