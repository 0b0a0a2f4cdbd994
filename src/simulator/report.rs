//! What came of a simulation, in figures: what the table shows and `report.json` holds.
//!
//! Waiting is from submission to the start of the first attempt, of jobs that started; percentiles are nearest ranks.
//! Everything else that is a mean is one over the whole run, from the first submission to the end of the last job.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{
    accounting::{Amount, Series},
    cluster::Cluster,
    engine::{End, Outcome, Run},
    estimates::EstimatesReport,
    fairness::percentile,
    trace::Work,
};
use crate::{api_types::Plans, domain::resources::Resources};

/// The whole report.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// From the first submission to the end of the last job.
    pub days: f64,
    /// Decisions of the scheduler.
    pub decisions: u64,
    /// All jobs.
    pub jobs: Jobs,
    /// By plan.
    pub plans: Vec<PlanReport>,
    /// By shared pool; the last one is all tenants' own workers together, where there are any.
    pub pools: Vec<PoolReport>,
    /// Jobs that waited at a time, on average, by reason.
    pub waiting_jobs: BTreeMap<&'static str, f64>,
    /// By tenant, who waited longest first.
    pub tenants: Vec<TenantReport>,
    /// Workers that are not admitted, and why.
    pub refused_workers: Vec<String>,
    /// How good estimates of starts were, where some were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub estimates: Option<EstimatesReport>,
    /// Over time.
    pub intervals: Vec<IntervalReport>,
}

/// Jobs, by what became of them.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Jobs {
    /// All.
    pub all: u64,
    /// Ended well.
    pub completed: u64,
    /// Ended badly.
    pub failed: u64,
    /// Ended at their limit of running time.
    pub timed_out: u64,
    /// Refused, by reason.
    pub rejected: BTreeMap<&'static str, u64>,
    /// Never ended: they wait for what does not come.
    pub waiting_for_ever: u64,
    /// How long they waited.
    pub wait_seconds: Wait,
}

/// Seconds of waiting.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Wait {
    /// Half of the jobs waited at most this.
    pub median: f64,
    /// 95 % of them did.
    pub p95: f64,
    /// The longest.
    pub max: f64,
}

/// A plan.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PlanReport {
    /// Its name.
    pub plan: String,
    /// Its weight.
    pub weight: u32,
    /// Tenants on it.
    pub tenants: u64,
    /// Their jobs.
    #[serde(flatten)]
    pub jobs: Jobs,
    /// What its tenants waited for.
    pub waited_for: Causes,
}

/// Parts of the time, from 0 to 1, in which a tenant waited, by what it waited for; of a plan, the mean of its tenants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Causes {
    /// Room on the workers, or its fair share of it.
    pub room: f64,
    /// Its hourly limit.
    pub hour: f64,
    /// Another quota of its own.
    pub quota: f64,
}

/// A tenant.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TenantReport {
    /// Its name.
    pub tenant: String,
    /// Its plan.
    pub plan: String,
    /// Its jobs.
    #[serde(flatten)]
    pub jobs: Jobs,
    /// What it waited for.
    pub waited_for: Causes,
}

/// A shared pool, or all tenants' own workers.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PoolReport {
    /// Its name; `None` of tenants' own workers.
    pub pool: Option<String>,
    /// Its workers.
    pub workers: u64,
    /// Their cores.
    pub cores: f64,
    /// Parts of what there is that were used.
    pub utilisation: Utilisation,
    /// Part of the time in which a tenant waited for room in it.
    pub contended: f64,
    /// By plan, while one did.
    pub shares: Vec<ShareReport>,
    /// Jain's index over intervals; `None` where no two tenants waited all through one.
    pub jain: Option<JainReport>,
}

/// Parts of the capacity, from 0 to 1; 0 where there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Utilisation {
    /// Of the cores.
    pub cpu: f64,
    /// Of the memory.
    pub memory: f64,
    /// Of the GPUs.
    pub gpus: f64,
}

/// A plan's share of a pool, as a part of 1: the mean of its tenants' dominant shares, added up.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ShareReport {
    /// The plan.
    pub plan: String,
    /// Held.
    pub used: f64,
    /// What would be fair: by weight, what others leave included, and no more than is wanted.
    pub entitled: f64,
}

/// Jain's index of what tenants got by weight, among those that waited for room all through an interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct JainReport {
    /// Intervals in which there were two or more.
    pub intervals: u64,
    /// Half of these are at least this.
    pub median: f64,
    /// 95 % are at least this.
    pub p5: f64,
}

/// A stretch of time.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct IntervalReport {
    /// Where it ends, in days from the start.
    pub end_day: f64,
    /// Of all workers.
    pub utilisation: Utilisation,
    /// Shares of each pool, by plan.
    pub shares: Vec<Vec<ShareReport>>,
    /// Jobs that waited.
    pub waiting_jobs: f64,
}

const DAY: f64 = 86_400_000.0;

/// The plans' names, in the order in which a report has them: the lightest first.
#[must_use]
pub fn plan_order(plans: &Plans) -> Vec<&str> {
    let mut names: Vec<&str> = plans.names().collect();
    names.sort_by_key(|name| plans.get(name).map(|plan| plan.weight));
    names
}

/// The report of a run made with the plans in [`plan_order`]. `plans` is the table in force.
#[must_use]
pub fn report(cluster: &Cluster, plans: &Plans, jobs: &[Work], run: &Run) -> Report {
    let names = plan_order(plans);
    let mut by_tenant: Vec<Tally> = vec![Tally::default(); cluster.tenants.len()];
    let mut by_plan: BTreeMap<&str, Tally> = BTreeMap::new();
    let mut all = Tally::default();
    for (job, outcome) in jobs.iter().zip(&run.outcomes) {
        let plan = cluster.tenants[job.tenant].plan.as_str();
        for tally in [&mut by_tenant[job.tenant], by_plan.entry(plan).or_default(), &mut all] {
            tally.add(job, outcome);
        }
    }
    let causes = |tenant: usize| causes(run.series.causes.get(tenant).copied(), run.series.samples);
    let plan_report = |name: &&str| {
        let members: Vec<usize> =
            (0..cluster.tenants.len()).filter(|tenant| cluster.tenants[*tenant].plan == **name).collect();
        PlanReport {
            plan: (*name).to_owned(),
            weight: plans.get(name).map_or(1, |plan| plan.weight),
            tenants: members.len() as u64,
            jobs: by_plan.remove(*name).unwrap_or_default().finish(),
            waited_for: mean(members.iter().map(|tenant| causes(*tenant))),
        }
    };
    let plan_reports = names.iter().map(plan_report).collect();
    let tenant_report = |(number, tally): (usize, Tally)| TenantReport {
        tenant: cluster.tenants[number].name.clone(),
        plan: cluster.tenants[number].plan.clone(),
        jobs: tally.finish(),
        waited_for: causes(number),
    };
    let mut tenants: Vec<TenantReport> = by_tenant.into_iter().enumerate().map(tenant_report).collect();
    let waited = |tenant: &TenantReport| (tenant.jobs.wait_seconds.p95, tenant.jobs.wait_seconds.max);
    tenants.sort_by(|a, b| waited(b).partial_cmp(&waited(a)).unwrap_or(std::cmp::Ordering::Equal));
    Report {
        days: run.end as f64 / DAY,
        decisions: run.decisions,
        jobs: all.finish(),
        plans: plan_reports,
        pools: pools(cluster, &names, &run.series, run.end),
        waiting_jobs: waiting(&run.series),
        tenants,
        refused_workers: cluster.refused.clone(),
        estimates: None,
        intervals: intervals(cluster, &names, &run.series),
    }
}

/// Jobs as they are counted.
#[derive(Clone, Debug, Default)]
struct Tally {
    jobs: Jobs,
    /// Milliseconds of waiting.
    waits: Vec<i64>,
}

impl Tally {
    fn add(&mut self, job: &Work, outcome: &Outcome) {
        self.jobs.all += 1;
        self.waits.extend(outcome.started.map(|started| started - job.submitted));
        match outcome.end {
            End::Completed => self.jobs.completed += 1,
            End::Failed => self.jobs.failed += 1,
            End::TimedOut => self.jobs.timed_out += 1,
            End::Waits => self.jobs.waiting_for_ever += 1,
            End::Rejected(reason) => *self.jobs.rejected.entry(reason.into()).or_default() += 1,
        }
    }

    fn finish(mut self) -> Jobs {
        self.waits.sort_unstable();
        let at = |percent| percentile(&self.waits, percent).unwrap_or_default() as f64 / 1000.0;
        self.jobs.wait_seconds = Wait { median: at(50), p95: at(95), max: at(100) };
        self.jobs
    }
}

fn causes(samples: Option<[u32; 3]>, all: u32) -> Causes {
    let [room, hour, quota] = samples.unwrap_or_default().map(|n| f64::from(n) / f64::from(all.max(1)));
    Causes { room, hour, quota }
}

fn mean(all: impl ExactSizeIterator<Item = Causes>) -> Causes {
    let count = all.len().max(1) as f64;
    let sum = all.fold(Causes::default(), |sum, one| Causes {
        room: sum.room + one.room,
        hour: sum.hour + one.hour,
        quota: sum.quota + one.quota,
    });
    Causes { room: sum.room / count, hour: sum.hour / count, quota: sum.quota / count }
}

fn pools(cluster: &Cluster, plans: &[&str], series: &Series, end: i64) -> Vec<PoolReport> {
    let groups = cluster.pools.iter().map(|pool| Some(&**pool)).chain([None]);
    let mut all = Vec::new();
    for (number, group) in groups.enumerate() {
        let is_of =
            |of: &str| group.map_or_else(|| !cluster.pools.iter().any(|p| **p == *of), |group| group == of);
        let workers = cluster.workers.iter().filter(|(_, view)| is_of(&view.group)).count() as u64;
        if group.is_none() && workers == 0 {
            continue;
        }
        let capacity = cluster.capacity(group);
        let used = series.intervals.iter().filter_map(|interval| interval.used.get(number).copied());
        let contended = series.contended.get(number);
        let shares = contended.map(|c| {
            let part = |sum: f64| sum / f64::from(c.samples.max(1));
            share_reports(plans, c.used.iter().map(|s| part(*s)), c.entitled.iter().map(|s| part(*s)))
        });
        let mut jains: Vec<f64> =
            series.intervals.iter().filter_map(|interval| interval.pools.get(number)?.jain).collect();
        jains.sort_by(f64::total_cmp);
        let at = |percent| percentile(&jains, percent);
        all.push(PoolReport {
            pool: group.map(|group| group.strip_prefix("pool.").unwrap_or(group).to_owned()),
            workers,
            cores: capacity.cpu_milli as f64 / 1000.0,
            utilisation: utilisation(used.fold(Amount::default(), sum), &capacity, end),
            contended: contended.map_or(0.0, |c| f64::from(c.samples) / f64::from(series.samples.max(1))),
            shares: shares.unwrap_or_default(),
            jain: at(50).zip(at(5)).map(|(median, p5)| JainReport {
                intervals: jains.len() as u64,
                median,
                p5,
            }),
        });
    }
    all
}

fn share_reports(
    plans: &[&str],
    used: impl Iterator<Item = f64>,
    entitled: impl Iterator<Item = f64>,
) -> Vec<ShareReport> {
    let rows = plans.iter().zip(used.zip(entitled));
    rows.map(|(plan, (used, entitled))| ShareReport { plan: (*plan).to_owned(), used, entitled }).collect()
}

fn sum(a: Amount, b: Amount) -> Amount {
    Amount {
        cpu_milli: a.cpu_milli + b.cpu_milli,
        memory_bytes: a.memory_bytes + b.memory_bytes,
        gpus: a.gpus + b.gpus,
    }
}

fn utilisation(used: Amount, capacity: &Resources, millis: i64) -> Utilisation {
    let part = |used: u128, capacity: u64| {
        let all = capacity as f64 * millis as f64;
        if all > 0.0 { used as f64 / all } else { 0.0 }
    };
    Utilisation {
        cpu: part(used.cpu_milli, capacity.cpu_milli),
        memory: part(used.memory_bytes, capacity.memory_bytes),
        gpus: part(used.gpus, capacity.gpus),
    }
}

fn waiting(series: &Series) -> BTreeMap<&'static str, f64> {
    let millis = series.intervals.iter().map(|interval| interval.millis).sum::<i64>().max(1) as f64;
    let mut all = BTreeMap::new();
    for interval in &series.intervals {
        for (reason, jobs) in &interval.waiting {
            *all.entry((*reason).into()).or_default() += jobs * interval.millis as f64 / millis;
        }
    }
    all
}

fn intervals(cluster: &Cluster, plans: &[&str], series: &Series) -> Vec<IntervalReport> {
    let own = cluster.capacity(None);
    let capacity = cluster.pools.iter().fold(own, |sum, pool| sum + cluster.capacity(Some(pool)));
    let one = |interval: &super::accounting::Interval| IntervalReport {
        end_day: interval.end as f64 / DAY,
        utilisation: utilisation(
            interval.used.iter().copied().fold(Amount::default(), sum),
            &capacity,
            interval.millis,
        ),
        shares: interval
            .pools
            .iter()
            .map(|pool| share_reports(plans, pool.used.iter().copied(), pool.entitled.iter().copied()))
            .collect(),
        waiting_jobs: interval.waiting.values().sum(),
    };
    series.intervals.iter().map(one).collect()
}
