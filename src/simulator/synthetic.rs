//! A synthetic month: tenants in realistic proportion, with day and night, weekends, bursts, and a few heavy users.
//!
//! What is drawn follows from the options and the seed alone, and each tenant has a generator of its own: the same
//! options give the same load, whatever the machine. How much a tenant submits and how large its jobs are goes by the
//! *name* of its plan, not by the plan's numbers: a plan table with other weights and quotas is tried under the same
//! load. (A plan of another name than the built-in ones is taken for the one whose weight is nearest.)
//!
//! All is scaled so that the jobs together ask for a given share of the cluster's CPU, as they are submitted: what
//! their timeouts cut off later is counted in.

use fastrand::Rng;

use super::{
    cluster::{ClusterFile, TenantEntry, WorkerEntry, usual_pods},
    trace::Work,
};
use crate::{
    api_types::{
        Plans,
        job::{OnQuota, Priority, Queue},
    },
    domain::resources::Resources,
};

/// The one shared pool.
const POOL: &str = "shared";
const HOUR: f64 = 3_600_000.0;
const DAY: f64 = 24.0 * HOUR;

/// What to draw.
#[derive(Clone, Debug, clap::Args)]
pub struct Synthetic {
    /// Tenants.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    pub tenants: u32,
    /// Days.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=366))]
    pub days: u32,
    /// The share of the cluster's CPU that all jobs together ask for; above 1 is more than there is.
    #[arg(long, default_value_t = 0.7, value_parser = load)]
    pub load: f64,
    /// Another number, another load; the same number, the same load.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Workers of the shared pool, of 32 cores each, one in five with 4 GPUs [default: one for 25 tenants]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    pub workers: Option<u32>,
}

fn load(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|load| (0.01..=10.0).contains(load));
    number.ok_or_else(|| format!("`{text}` is no load: give a number from 0.01 to 10, such as 0.9"))
}

/// How the tenants of a plan work.
struct Profile {
    plan: &'static str,
    /// Its weight in the built-in table, by which plans of other names are matched.
    weight: u32,
    /// The number of its tenants in a thousand.
    of_thousand: u32,
    /// Own workers of each tenant.
    own_workers: usize,
    /// Submissions an hour of a usual tenant, and of the heaviest: what the built-in quotas have room for in the long
    /// run. A user stops submitting jobs that are never admitted.
    hourly: f64,
    most_hourly: f64,
    /// Minutes that half of the jobs last at most.
    minutes: f64,
    /// Cores of a job, with how many of a hundred jobs.
    cores: &'static [(u64, u32)],
    /// The number of jobs in a hundred that ask for GPUs.
    gpu_percent: u32,
}

const PROFILES: [Profile; 4] = [
    Profile {
        plan: "free",
        weight: 1,
        of_thousand: 700,
        own_workers: 0,
        hourly: 0.14,
        most_hourly: 2.0,
        minutes: 5.0,
        cores: &[(1, 80), (2, 20)],
        gpu_percent: 0,
    },
    Profile {
        plan: "basic",
        weight: 2,
        of_thousand: 210,
        own_workers: 0,
        hourly: 0.38,
        most_hourly: 8.0,
        minutes: 10.0,
        cores: &[(1, 55), (2, 30), (4, 15)],
        gpu_percent: 1,
    },
    Profile {
        plan: "pro",
        weight: 4,
        of_thousand: 70,
        own_workers: 0,
        hourly: 1.0,
        most_hourly: 14.0,
        minutes: 16.0,
        cores: &[(1, 40), (2, 30), (4, 20), (8, 10)],
        gpu_percent: 2,
    },
    Profile {
        plan: "enterprise",
        weight: 8,
        of_thousand: 20,
        own_workers: 1,
        hourly: 3.2,
        most_hourly: 25.0,
        minutes: 24.0,
        cores: &[(1, 35), (2, 25), (4, 20), (8, 15), (16, 5)],
        gpu_percent: 4,
    },
];

/// Spread of how much tenants submit, and of how long jobs last (standard deviations of the logarithms).
const HEAVY: f64 = 1.2;
const LENGTHS: f64 = 1.2;
/// No job lasts longer.
const LONGEST_HOURS: f64 = 48.0;
/// The number of bursts in a hundred submissions, and of jobs that a burst has on average.
const BURST_PERCENT: u32 = 6;
const BURST_JOBS: f64 = 15.0;
/// By how much the hours of a day differ from their mean, and what a day of the weekend has of a working day's load.
const DAY_SWING: f64 = 0.7;
const WEEKEND: f64 = 0.4;
/// The mean of a week with these.
const WEEK_MEAN: f64 = (5.0 + 2.0 * WEEKEND) / 7.0;
/// Hours by which tenants of other parts of the world are ahead; most are at home.
const ZONES: [f64; 8] = [0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 6.0, 16.0];

/// A tenant and what it is drawn from.
struct Drawn<'a> {
    profile: &'a Profile,
    rng: Rng,
    /// Submissions an hour, on average, before all is scaled.
    hourly: f64,
    zone: f64,
}

/// The cluster and its load.
#[must_use]
pub fn draw(options: &Synthetic, plans: &Plans) -> (ClusterFile, Vec<Work>) {
    let names: Vec<(&str, &Profile)> =
        plans.names().filter_map(|name| Some((name, profile(name, plans.get(name)?.weight)))).collect();
    let mut tenants: Vec<(TenantEntry, Drawn<'_>)> =
        (0..options.tenants).map(|number| tenant(number, options.seed, &names)).collect();
    let cluster = cluster(options, &tenants);
    let asked: f64 = tenants.iter().map(|(_, drawn)| drawn.core_hours()).sum();
    let scale = options.load * cores(&cluster) / asked.max(f64::MIN_POSITIVE);
    let end = f64::from(options.days) * DAY;
    let mut jobs: Vec<Work> = (0..).zip(&mut tenants).flat_map(|(n, (_, t))| t.jobs(n, scale, end)).collect();
    jobs.sort_by_key(|job| job.submitted);
    (cluster, jobs)
}

fn profile(plan: &str, weight: u32) -> &'static Profile {
    let nearest = || PROFILES.iter().min_by_key(|profile| profile.weight.abs_diff(weight));
    PROFILES.iter().find(|profile| profile.plan == plan).or_else(nearest).unwrap_or(&PROFILES[0])
}

fn tenant<'a>(number: u32, seed: u64, plans: &[(&str, &'a Profile)]) -> (TenantEntry, Drawn<'a>) {
    let mut rng = Rng::with_seed(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ u64::from(number));
    let (plan, profile) = pick(&mut rng, plans, |(_, profile)| profile.of_thousand);
    let entry = TenantEntry {
        name: format!("{plan}-{number:04}"),
        plan: (*plan).to_owned(),
        shared_pools: vec![POOL.to_owned()],
        ..TenantEntry::default()
    };
    let hourly = (profile.hourly * log_normal(&mut rng, HEAVY)).min(profile.most_hourly);
    let zone = ZONES[rng.usize(..ZONES.len())];
    (entry, Drawn { profile, rng, hourly, zone })
}

/// One of them, each as often as it counts. There must be one.
fn pick<'a, T>(rng: &mut Rng, all: &'a [T], counts: impl Fn(&T) -> u32) -> &'a T {
    let mut left = rng.u32(..all.iter().map(&counts).sum::<u32>().max(1));
    for one in all {
        match left.checked_sub(counts(one)) {
            Some(rest) => left = rest,
            None => return one,
        }
    }
    &all[0]
}

fn cluster(options: &Synthetic, tenants: &[(TenantEntry, Drawn<'_>)]) -> ClusterFile {
    let shared =
        usize::try_from(options.workers.unwrap_or(options.tenants.div_ceil(25))).unwrap_or(usize::MAX);
    let with_gpus = shared.div_ceil(5);
    let node = |count, gpus| WorkerEntry {
        count,
        tenant: None,
        pool: Some(POOL.to_owned()),
        cpu: "32".into(),
        memory: "128Gi".into(),
        gpus,
        pods: usual_pods(),
    };
    let own =
        tenants.iter().filter(|(_, drawn)| drawn.profile.own_workers > 0).map(|(entry, drawn)| WorkerEntry {
            count: drawn.profile.own_workers,
            tenant: Some(entry.name.clone()),
            pool: None,
            cpu: "16".into(),
            memory: "64Gi".into(),
            gpus: 0,
            pods: usual_pods(),
        });
    let pool = [node(shared - with_gpus, 0), node(with_gpus, 4)];
    ClusterFile {
        tenants: tenants.iter().map(|(entry, _)| entry.clone()).collect(),
        workers: pool.into_iter().filter(|entry| entry.count > 0).chain(own).collect(),
        elastic_pools: Vec::new(),
    }
}

/// Cores of all workers.
fn cores(cluster: &ClusterFile) -> f64 {
    let milli = |worker: &WorkerEntry| worker.cpu.milli().unwrap_or_default() as f64 * worker.count as f64;
    cluster.workers.iter().map(milli).sum::<f64>() / 1000.0
}

impl Drawn<'_> {
    /// Core hours that it asks for in an hour, on average.
    fn core_hours(&self) -> f64 {
        let burst = f64::from(BURST_PERCENT) / 100.0;
        let jobs = self.hourly * (1.0 - burst + burst * BURST_JOBS);
        let cores: f64 = self
            .profile
            .cores
            .iter()
            .map(|(cores, percent)| *cores as f64 * f64::from(*percent) / 100.0)
            .sum();
        let hours = self.profile.minutes / 60.0 * (LENGTHS * LENGTHS / 2.0).exp();
        jobs * cores * hours
    }

    fn jobs(&mut self, tenant: usize, scale: f64, end: f64) -> Vec<Work> {
        let mut jobs = Vec::new();
        let most = self.hourly * scale * (1.0 + DAY_SWING) / WEEK_MEAN / HOUR;
        let mut at = 0.0;
        loop {
            // A Poisson process of the highest rate, of which as much is taken as the hour has.
            at -= (1.0 - self.rng.f64()).ln() / most;
            if at >= end {
                return jobs;
            }
            if self.rng.f64() * (1.0 + DAY_SWING) < self.rhythm(at) {
                let count = if self.rng.u32(..100) < BURST_PERCENT { self.burst() } else { 1 };
                let like = self.job(tenant, at);
                for number in 0..count {
                    // Those of a burst are alike but for how long they last.
                    let millis = if number == 0 { like.millis } else { self.length() };
                    jobs.push(Work { millis, ..like.clone() });
                }
            }
        }
    }

    /// The rate of submissions at a time, where 1 is the mean of a working day. The first day is a Monday.
    fn rhythm(&self, at: f64) -> f64 {
        let local = at + self.zone * HOUR;
        let hour = local.rem_euclid(DAY) / HOUR;
        let weekend = (local / DAY).rem_euclid(7.0) >= 5.0;
        // Highest at two in the afternoon.
        let swing = 1.0 + DAY_SWING * ((hour - 14.0) / 24.0 * std::f64::consts::TAU).cos();
        if weekend { swing * WEEKEND } else { swing }
    }

    /// At least two.
    fn burst(&mut self) -> u32 {
        let more = (1.0 - self.rng.f64()).ln() / (1.0 - 1.0 / (BURST_JOBS - 1.0)).ln();
        bounded(more.ceil(), 1.0, 1000.0).try_into().map_or(1, |more: u32| 1 + more)
    }

    fn length(&mut self) -> i64 {
        let minutes = self.profile.minutes * log_normal(&mut self.rng, LENGTHS);
        // In whole seconds, as its submission: so more of what happens is decided upon together.
        bounded(minutes * 60.0, 1.0, LONGEST_HOURS * 3600.0) * 1000
    }

    fn job(&mut self, tenant: usize, at: f64) -> Work {
        let rng = &mut self.rng;
        let cores = pick(rng, self.profile.cores, |(_, percent)| *percent).0;
        let gib = cores * pick(rng, &[(1_u64, 40), (2, 35), (4, 20), (8, 5)], |(_, percent)| *percent).0;
        let gpus = if rng.u32(..100) < self.profile.gpu_percent { 1 } else { 0 };
        Work {
            // In whole seconds, as creation times on a cluster are.
            submitted: bounded(at / 1000.0, 0.0, f64::MAX) * 1000,
            tenant,
            asked: Resources {
                cpu_milli: cores * 1000,
                memory_bytes: gib << 30,
                gpus,
                pods: 1,
                ..Resources::default()
            },
            queue: pick(rng, &[(Queue::Default, 70), (Queue::Live, 10), (Queue::Batch, 20)], |q| q.1).0,
            priority: pick(rng, &[(Priority::Medium, 80), (Priority::High, 10), (Priority::Low, 10)], |p| {
                p.1
            })
            .0,
            group: None,
            on_quota: OnQuota::Queue,
            timeout_seconds: None,
            retries: u32::from(rng.u32(..1000) < 5),
            fails: rng.u32(..100) < 4,
            millis: self.length(),
        }
    }
}

/// A factor whose logarithm is normal around 0 (Box and Muller's method).
fn log_normal(rng: &mut Rng, deviation: f64) -> f64 {
    let radius = (-2.0 * (1.0 - rng.f64()).ln()).sqrt();
    (deviation * radius * (std::f64::consts::TAU * rng.f64()).cos()).exp()
}

/// The whole number below a value within bounds.
fn bounded(value: f64, least: f64, most: f64) -> i64 {
    #[expect(clippy::cast_possible_truncation, reason = "a cast of a float saturates")]
    let whole = value.clamp(least, most) as i64;
    whole
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(seed: u64) -> Synthetic {
        Synthetic { tenants: 200, days: 14, load: 0.8, seed, workers: None }
    }

    fn built_in() -> Plans {
        Plans::built_in().unwrap()
    }

    #[test]
    fn the_same_seed_is_the_same_load_and_another_is_another() {
        let (one, again, other) =
            (draw(&options(7), &built_in()), draw(&options(7), &built_in()), draw(&options(8), &built_in()));
        assert_eq!(one, again);
        assert_ne!(one.1, other.1);
        assert!(one.1.is_sorted_by_key(|job| job.submitted));
    }

    #[test]
    fn a_plan_table_with_other_numbers_is_tried_under_the_same_load() {
        let table = include_str!("../api_types/plans.yaml").replace("weight: 8", "weight: 1");
        let other = Plans::from_yaml(&table.replace("maxCpuCores: 4\n", "maxCpuCores: 64\n")).unwrap();
        assert_ne!(other, built_in());
        assert_eq!(draw(&options(7), &other), draw(&options(7), &built_in()));
        let renamed =
            Plans::from_yaml(&include_str!("../api_types/plans.yaml").replace("free:", "trial:")).unwrap();
        let (cluster, _) = draw(&options(7), &renamed);
        assert!(cluster.tenants.iter().any(|tenant| tenant.plan == "trial"));
    }

    #[test]
    fn the_load_is_what_was_asked_for_and_has_a_rhythm() {
        let (cluster, jobs) = draw(&Synthetic { days: 28, ..options(3) }, &built_in());
        let asked = |jobs: &mut dyn Iterator<Item = &Work>| {
            jobs.map(|job| job.asked.cpu_milli as f64 / 1000.0 * job.millis as f64).sum::<f64>()
        };
        let load = asked(&mut jobs.iter()) / (cores(&cluster) * 28.0 * DAY);
        assert!((0.65..0.95).contains(&load), "{load}");
        let hour = |job: &Work| job.submitted / 3_600_000 % 24;
        let (day, night) = (|h| (11..17).contains(&h), |h| !(5..23).contains(&h));
        let count = |when: fn(i64) -> bool| jobs.iter().filter(|job| when(hour(job))).count();
        assert!(count(day) > 2 * count(night), "{} by day, {} by night", count(day), count(night));
        let weekend = jobs.iter().filter(|job| job.submitted / 86_400_000 % 7 >= 5).count();
        assert!(weekend * 5 < jobs.len(), "{weekend} of {}", jobs.len());
        let same_second =
            jobs.windows(2).filter(|w| w[0].submitted == w[1].submitted && w[0].tenant == w[1].tenant);
        assert!(same_second.count() > jobs.len() / 4, "bursts");
    }

    #[test]
    fn tenants_come_in_proportion_and_a_few_are_heavy() {
        let (cluster, jobs) = draw(&Synthetic { tenants: 1000, days: 2, ..options(1) }, &built_in());
        let of = |plan: &str| cluster.tenants.iter().filter(|tenant| tenant.plan == plan).count();
        assert!((650..750).contains(&of("free")), "{}", of("free"));
        assert!((10..35).contains(&of("enterprise")), "{}", of("enterprise"));
        let mut counts = vec![0_usize; 1000];
        jobs.iter().for_each(|job| counts[job.tenant] += 1);
        counts.sort_unstable();
        let top: usize = counts.iter().rev().take(50).sum();
        assert!(top * 5 > jobs.len() * 2, "the top 5 % submit {top} of {}", jobs.len());
    }
}
