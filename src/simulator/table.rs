//! The report as a table to read in a terminal.

use std::fmt::{Result, Write};

use super::{
    estimates::EstimatesReport,
    report::{Causes, Jobs, PoolReport, Report, TenantReport},
};

/// Tenants that are shown.
const SHOWN: usize = 10;
/// Refused workers that are shown.
const REFUSED: usize = 5;

impl Report {
    /// The text.
    #[must_use]
    pub fn table(&self) -> String {
        let mut text = String::new();
        // Writing into a String does not fail.
        let _ = self.write(&mut text);
        text
    }

    fn write(&self, to: &mut String) -> Result {
        writeln!(
            to,
            "{} jobs of {} tenants in {:.1} days: {}",
            grouped(self.jobs.all),
            grouped(self.tenants.len() as u64),
            self.days,
            ends(&self.jobs)
        )?;
        self.write_plans(to)?;
        self.pools.iter().try_for_each(|pool| write_pool(to, pool))?;
        writeln!(to, "\nJobs that wait, on average, by reason")?;
        if self.waiting_jobs.is_empty() {
            writeln!(to, "  none")?;
        }
        for (reason, jobs) in &self.waiting_jobs {
            writeln!(to, "  {reason:<22} {jobs:>10.1}")?;
        }
        self.write_tenants(to)?;
        self.estimates.iter().try_for_each(|estimates| write_estimates(to, estimates))?;
        for sentence in self.refused_workers.iter().take(REFUSED) {
            writeln!(to, "not admitted: {sentence}")?;
        }
        if let Some(more @ 1..) = self.refused_workers.len().checked_sub(REFUSED) {
            writeln!(to, "and {more} more workers are not admitted")?;
        }
        Ok(())
    }

    fn write_plans(&self, to: &mut String) -> Result {
        let head = ["jobs", "rejected", "timed out", "median", "p95", "max", "room", "hour", "quota"];
        writeln!(to, "\n{:<24}{:>29}{:>27}{:>24}", "By plan", "jobs", "waited", "tenants waited for")?;
        write!(to, "  {:<12}{:>7}{:>8}", "plan", "weight", "tenants")?;
        for name in head {
            write!(to, "{name:>10}")?;
        }
        writeln!(to)?;
        for plan in &self.plans {
            write!(to, "  {:<12}{:>7}{:>8}", plan.plan, plan.weight, plan.tenants)?;
            write_jobs(to, &plan.jobs)?;
            writeln!(to, "{}", causes(&plan.waited_for))?;
        }
        Ok(())
    }

    fn write_tenants(&self, to: &mut String) -> Result {
        writeln!(to, "\nThe tenants that waited longest")?;
        write!(to, "  {:<27}", "tenant")?;
        for name in ["jobs", "rejected", "timed out", "median", "p95", "max", "room", "hour", "quota"] {
            write!(to, "{name:>10}")?;
        }
        writeln!(to)?;
        let waited = |tenant: &&TenantReport| tenant.jobs.wait_seconds.max > 0.0;
        for tenant in self.tenants.iter().filter(waited).take(SHOWN) {
            write!(to, "  {:<27}", tenant.tenant)?;
            write_jobs(to, &tenant.jobs)?;
            writeln!(to, "{}", causes(&tenant.waited_for))?;
        }
        Ok(())
    }
}

fn write_jobs(to: &mut String, jobs: &Jobs) -> Result {
    let wait = &jobs.wait_seconds;
    let rejected = jobs.rejected.values().sum();
    write!(to, "{:>10}{:>10}{:>10}", grouped(jobs.all), grouped(rejected), grouped(jobs.timed_out))?;
    write!(to, "{:>10}{:>10}{:>10}", span(wait.median), span(wait.p95), span(wait.max))
}

fn write_pool(to: &mut String, pool: &PoolReport) -> Result {
    let name = pool.pool.as_ref().map_or("Tenants' own workers".to_owned(), |pool| format!("Pool {pool}"));
    let used = &pool.utilisation;
    writeln!(
        to,
        "\n{name}: {} workers, {} cores; used: {} of the CPU, {} of the memory, {} of the GPUs",
        grouped(pool.workers),
        pool.cores,
        percent(used.cpu),
        percent(used.memory),
        percent(used.gpus)
    )?;
    if pool.pool.is_none() {
        return Ok(());
    }
    writeln!(to, "  jobs waited for its room {} of the time", percent(pool.contended))?;
    if pool.contended > 0.0 {
        writeln!(to, "  {:<12}{:>12}{:>12}{:>18}", "then", "share used", "entitled", "used / entitled")?;
        for share in &pool.shares {
            let ratio =
                if share.entitled > 0.0 { format!("{:.2}", share.used / share.entitled) } else { "-".into() };
            let (used, entitled) = (percent(share.used), percent(share.entitled));
            writeln!(to, "  {:<12}{used:>12}{entitled:>12}{ratio:>18}", share.plan)?;
        }
    }
    match &pool.jain {
        Some(jain) => writeln!(
            to,
            "  fairness by weight among tenants that waited all through an hour (Jain's index, 1 is best): \
             median {:.3}, 95 % of {} hours at least {:.3}",
            jain.median,
            grouped(jain.intervals),
            jain.p5
        ),
        None => Ok(()),
    }
}

fn write_estimates(to: &mut String, estimates: &EstimatesReport) -> Result {
    let unknown = estimates.unknown.values().sum::<u64>();
    writeln!(
        to,
        "\nEstimated starts of {} jobs, asked for when they began to wait",
        grouped(estimates.jobs)
    )?;
    writeln!(
        to,
        "  {} started within the estimated median (best is 50 %), {} within its ninth decile (best is 90 %)",
        percent(estimates.within_median),
        percent(estimates.within_ninth_decile)
    )?;
    writeln!(
        to,
        "  half of the medians are wrong by at most {}, where half of the jobs waited at most {}",
        span(estimates.median_error_seconds),
        span(estimates.median_wait_seconds)
    )?;
    writeln!(to, "  {} could not be known", grouped(unknown))?;
    for (why, jobs) in &estimates.unknown {
        writeln!(to, "  {:>8}: {why}", grouped(*jobs))?;
    }
    Ok(())
}

fn ends(jobs: &Jobs) -> String {
    let mut parts = vec![format!("{} completed", grouped(jobs.completed))];
    let mut add = |count: u64, what: &str| {
        if count > 0 {
            parts.push(format!("{} {what}", grouped(count)));
        }
    };
    add(jobs.failed, "failed");
    add(jobs.timed_out, "timed out");
    for (reason, count) in &jobs.rejected {
        add(*count, &format!("rejected ({reason})"));
    }
    add(jobs.waiting_for_ever, "wait for what does not come");
    parts.join(", ")
}

fn causes(causes: &Causes) -> String {
    [causes.room, causes.hour, causes.quota].iter().map(|part| format!("{:>10}", percent(*part))).collect()
}

fn percent(part: f64) -> String {
    format!("{:.1} %", part * 100.0)
}

/// A span of time, as people say it.
fn span(seconds: f64) -> String {
    match seconds {
        s if s < 0.001 => "0".to_owned(),
        s if s < 100.0 => format!("{s:.1} s"),
        s if s < 6_000.0 => format!("{:.1} min", s / 60.0),
        s if s < 360_000.0 => format!("{:.1} h", s / 3600.0),
        s => format!("{:.1} d", s / 86_400.0),
    }
}

/// A number with its thousands apart.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_as_people_write_them() {
        assert_eq!([0, 999, 1000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
        let spans = [0.0, 2.0, 120.0, 7200.0, 864_000.0].map(span);
        assert_eq!(spans, ["0", "2.0 s", "2.0 min", "2.0 h", "10.0 d"]);
    }
}
