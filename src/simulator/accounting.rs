//! Usage over time: by tenant, of which workers, compared with what each is entitled to.
//!
//! Usage is summed up exactly, from change to change. What tenants wait for, and the entitlement that follows from it,
//! is sampled four times in each interval.

use std::collections::BTreeMap;

use super::{
    cluster::Cluster,
    fairness::{entitlements, jain},
};
use crate::{
    api_types::Reason,
    domain::{admission::fair_share::dominant_share, resources::Resources},
};

/// Samples in an interval.
pub const SAMPLES_PER_INTERVAL: i64 = 4;

/// What keeps a tenant's jobs waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Room on the workers, or its fair share of it.
    Room,
    /// Its hourly limit.
    Hour,
    /// Another of its quotas.
    Quota,
}

/// A tenant in a sample, if it waits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Waiting {
    /// What it waits for.
    pub cause: Option<Cause>,
    /// The pools, by number, for whose room it waits.
    pub pools: Vec<usize>,
}

/// All series.
#[derive(Debug, Default)]
pub struct Series {
    /// From the first to the last.
    pub intervals: Vec<Interval>,
    /// By pool: while a tenant waited for its room.
    pub contended: Vec<Contended>,
    /// By tenant: in how many samples it waited, for room, its hour, or another quota.
    pub causes: Vec<[u32; 3]>,
    /// The number of samples.
    pub samples: u32,
}

/// A stretch of time.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Interval {
    /// Where it ends, in milliseconds from the start.
    pub end: i64,
    /// How long it is, in milliseconds.
    pub millis: i64,
    /// What was used, by pool, and last of all tenants' own workers.
    pub used: Vec<Amount>,
    /// Shares of each pool.
    pub pools: Vec<PoolShares>,
    /// Jobs that waited, on average, by reason.
    pub waiting: BTreeMap<Reason, f64>,
}

/// An amount used, times milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    /// Thousandths of a core.
    pub cpu_milli: u128,
    /// Bytes.
    pub memory_bytes: u128,
    /// GPUs.
    pub gpus: u128,
}

/// Shares of a pool in an interval, by plan, as parts of 1.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PoolShares {
    /// Held.
    pub used: Vec<f64>,
    /// What would be fair.
    pub entitled: Vec<f64>,
    /// Jain's index of what the tenants got by weight that waited for room all the time; `None` of fewer than two.
    pub jain: Option<f64>,
}

/// Shares of a pool while a tenant waited for its room, by plan.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Contended {
    /// Samples in which one did.
    pub samples: u32,
    /// Sum of the usage.
    pub used: Vec<f64>,
    /// Sum of what would have been fair.
    pub entitled: Vec<f64>,
}

/// A tenant's part of a pool.
#[derive(Clone, Debug, Default)]
struct Part {
    held: Resources,
    share: f64,
    since: i64,
    /// Share times milliseconds, in this interval.
    got: f64,
    /// Samples of this interval at which it waited for room.
    waited: i64,
}

/// Usage of a pool, or of all tenants' own workers.
#[derive(Clone, Debug, Default)]
struct Total {
    held: Resources,
    since: i64,
    amount: Amount,
}

/// Keeps account.
#[derive(Debug)]
pub struct Accounting {
    plan_count: usize,
    /// Plan and weight, by tenant.
    tenants: Vec<(usize, f64)>,
    capacities: Vec<Resources>,
    /// By pool and tenant.
    parts: Vec<Vec<Part>>,
    totals: Vec<Total>,
    interval: i64,
    begun: i64,
    samples: i64,
    shares: Vec<PoolShares>,
    waiting: BTreeMap<Reason, f64>,
    series: Series,
}

impl Accounting {
    /// An empty one, with intervals of `interval` milliseconds. `plans` are the plans' names in order.
    #[must_use]
    pub fn new(cluster: &Cluster, plans: &[&str], interval: i64) -> Self {
        let pools = cluster.pools.len();
        let tenants = cluster.tenants.iter().map(|tenant| {
            let plan = plans.iter().position(|plan| *plan == tenant.plan).unwrap_or_default();
            (plan, f64::from(tenant.weight.max(1)))
        });
        let contended =
            Contended { samples: 0, used: vec![0.0; plans.len()], entitled: vec![0.0; plans.len()] };
        Self {
            plan_count: plans.len(),
            tenants: tenants.collect(),
            capacities: cluster.pools.iter().map(|pool| cluster.capacity(Some(pool))).collect(),
            parts: vec![vec![Part::default(); cluster.tenants.len()]; pools],
            totals: vec![Total::default(); pools + 1],
            interval,
            begun: 0,
            samples: 0,
            shares: vec![PoolShares::new(plans.len()); pools],
            waiting: BTreeMap::new(),
            series: Series {
                contended: vec![contended; pools],
                causes: vec![[0; 3]; cluster.tenants.len()],
                ..Series::default()
            },
        }
    }

    /// The time of the next sample.
    #[must_use]
    pub fn next_sample(&self) -> i64 {
        self.begun + (self.samples + 1) * (self.interval / SAMPLES_PER_INTERVAL).max(1)
    }

    /// A job begins or ends to hold something of a pool, or of its tenant's own workers (`None`).
    pub fn change(
        &mut self,
        tenant: usize,
        pool: Option<usize>,
        change: impl Fn(Resources) -> Resources,
        now: i64,
    ) {
        let total = &mut self.totals[pool.unwrap_or(self.parts.len())];
        total.count(now);
        total.held = change(total.held);
        if let Some(pool) = pool {
            let part = &mut self.parts[pool][tenant];
            part.count(now);
            part.held = change(part.held);
            part.share = match self.capacities[pool] {
                // It is all supplied by an autoscaler.
                none if none == Resources::default() => 0.0,
                capacity => dominant_share(&part.held, &capacity),
            };
        }
    }

    /// Notes who waits for what, by tenant, and how many jobs wait, by reason.
    pub fn sample(&mut self, now: i64, tenants: &[Waiting], reasons: &BTreeMap<Reason, u64>) {
        self.samples += 1;
        self.series.samples += 1;
        for (reason, jobs) in reasons {
            *self.waiting.entry(*reason).or_default() += *jobs as f64;
        }
        for (causes, waiting) in self.series.causes.iter_mut().zip(tenants) {
            if let Some(cause) = waiting.cause {
                causes[cause as usize] += 1;
            }
        }
        (0..self.parts.len()).for_each(|pool| self.observe_pool(pool, tenants));
        if self.samples >= SAMPLES_PER_INTERVAL {
            self.close(now);
        }
    }

    fn observe_pool(&mut self, pool: usize, tenants: &[Waiting]) {
        let mut concerned = Vec::new();
        for (number, (part, waiting)) in self.parts[pool].iter_mut().zip(tenants).enumerate() {
            let waits = waiting.pools.contains(&pool);
            part.waited += i64::from(waits);
            if waits || part.share > 0.0 {
                concerned.push((number, waits, part.share));
            }
        }
        let demands: Vec<_> = concerned
            .iter()
            .map(|(number, waits, share)| ((!waits).then_some(*share), self.tenants[*number].1))
            .collect();
        let whole = concerned.iter().map(|(.., share)| share).sum();
        let contended = concerned.iter().any(|(_, waits, _)| *waits);
        let fair = entitlements(&demands, whole);
        let all = &mut self.series.contended[pool];
        all.samples += u32::from(contended);
        for ((number, _, share), entitled) in concerned.iter().zip(fair) {
            let plan = self.tenants[*number].0;
            self.shares[pool].used[plan] += share;
            self.shares[pool].entitled[plan] += entitled;
            if contended {
                all.used[plan] += share;
                all.entitled[plan] += entitled;
            }
        }
    }

    /// Ends the interval.
    fn close(&mut self, now: i64) {
        let millis = now - self.begun;
        let samples = self.samples.max(1) as f64;
        let mut shares = vec![PoolShares::new(self.plan_count); self.parts.len()];
        std::mem::swap(&mut shares, &mut self.shares);
        for (shares, parts) in shares.iter_mut().zip(&mut self.parts) {
            shares.used.iter_mut().chain(&mut shares.entitled).for_each(|share| *share /= samples);
            let mut got = Vec::new();
            for (part, (_, weight)) in parts.iter_mut().zip(&self.tenants) {
                part.count(now);
                if self.samples > 0 && part.waited == self.samples {
                    got.push(part.got / weight);
                }
                (part.got, part.waited) = (0.0, 0);
            }
            shares.jain = jain(&got);
        }
        let mut used = Vec::with_capacity(self.totals.len());
        for total in &mut self.totals {
            total.count(now);
            used.push(std::mem::take(&mut total.amount));
        }
        let mut waiting = std::mem::take(&mut self.waiting);
        waiting.values_mut().for_each(|jobs| *jobs /= samples);
        self.series.intervals.push(Interval { end: now, millis, used, pools: shares, waiting });
        (self.begun, self.samples) = (now, 0);
    }

    /// All series up to now.
    #[must_use]
    pub fn finish(mut self, now: i64) -> Series {
        if now > self.begun {
            self.close(now);
        }
        self.series
    }
}

impl PoolShares {
    fn new(plans: usize) -> Self {
        Self { used: vec![0.0; plans], entitled: vec![0.0; plans], jain: None }
    }
}

impl Part {
    fn count(&mut self, now: i64) {
        self.got += self.share * (now - self.since) as f64;
        self.since = now;
    }
}

impl Total {
    fn count(&mut self, now: i64) {
        let millis = u128::try_from(now - self.since).unwrap_or_default();
        self.amount.cpu_milli += u128::from(self.held.cpu_milli) * millis;
        self.amount.memory_bytes += u128::from(self.held.memory_bytes) * millis;
        self.amount.gpus += u128::from(self.held.gpus) * millis;
        self.since = now;
    }
}
