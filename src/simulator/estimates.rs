//! How good the estimates of starts are: some jobs are asked about when they begin to wait, and what then happened is
//! compared.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{
    engine::Outcome,
    estimator::{Estimated, Estimator},
    fairness::percentile,
    trace::Work,
};
use crate::domain::estimate::Estimate;

/// An estimator that asks about at most `max` of the jobs that waited in a run before, spread evenly over them.
#[must_use]
pub fn of_waiting(jobs: &[Work], outcomes: &[Outcome], max: usize) -> Estimator {
    let waited = |(number, (job, outcome)): (usize, (&Work, &Outcome))| {
        (outcome.started != Some(job.submitted) && !outcome.is_rejected()).then_some(number)
    };
    let waited: Vec<usize> = jobs.iter().zip(outcomes).enumerate().filter_map(waited).collect();
    let count = max.min(waited.len());
    Estimator::new((0..count).map(|n| waited[n * waited.len() / count]).collect())
}

/// How good the estimates were.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EstimatesReport {
    /// Jobs asked about when they began to wait.
    pub jobs: u64,
    /// Those among them whose start could not be known, by why.
    pub unknown: BTreeMap<String, u64>,
    /// Part of the others, from 0 to 1, that started within the median of their estimate: best is 0.5.
    pub within_median: f64,
    /// Part of them that started within the ninth decile: best is 0.9.
    pub within_ninth_decile: f64,
    /// Seconds that half of them waited at most.
    pub median_wait_seconds: f64,
    /// Seconds by which half of the estimated medians are wrong at most.
    pub median_error_seconds: f64,
}

/// Compares the estimates with what then happened.
#[must_use]
pub fn report(estimated: &[Estimated], jobs: &[Work], outcomes: &[Outcome]) -> EstimatesReport {
    let mut report = EstimatesReport { jobs: estimated.len() as u64, ..EstimatesReport::default() };
    let (mut waits, mut errors) = (Vec::new(), Vec::new());
    let (mut by_median, mut by_ninth_decile) = (0_u32, 0_u32);
    for (number, estimate) in estimated {
        match estimate {
            Err(why) => *report.unknown.entry(why.to_string()).or_default() += 1,
            Ok(Estimate { median, ninth_decile }) => {
                // One that never started waited longer than any estimate.
                let wait = outcomes[*number].started.map_or(i64::MAX, |at| at - jobs[*number].submitted);
                by_median += u32::from(i128::from(wait) <= median.as_millis());
                by_ninth_decile += u32::from(i128::from(wait) <= ninth_decile.as_millis());
                waits.push(wait);
                let error = i128::from(wait).abs_diff(median.as_millis());
                errors.push(i64::try_from(error).unwrap_or(i64::MAX));
            }
        }
    }
    let part = |count: u32| f64::from(count) / (waits.len().max(1)) as f64;
    report.within_median = part(by_median);
    report.within_ninth_decile = part(by_ninth_decile);
    waits.sort_unstable();
    errors.sort_unstable();
    let median = |sorted: &[i64]| percentile(sorted, 50).unwrap_or_default() as f64 / 1000.0;
    report.median_wait_seconds = median(&waits);
    report.median_error_seconds = median(&errors);
    report
}
