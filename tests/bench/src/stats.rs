//! Arithmetic over what was measured. Pure.

use serde::Serialize;

/// Quantiles of a sample, in the unit of the sample.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Quantiles {
    /// Half of the sample is at most this.
    pub p50: f64,
    /// 99 % of the sample are at most this.
    pub p99: f64,
    /// The largest value.
    pub max: f64,
}

impl Quantiles {
    /// Those of a sample; all zero when it is empty.
    pub fn of(mut sample: Vec<f64>) -> Self {
        sample.sort_by(f64::total_cmp);
        let at = |percent| sample.get(rank(sample.len(), percent)).copied().unwrap_or_default();
        Self { p50: at(50), p99: at(99), max: at(100) }
    }
}

/// The nearest rank, from 0: the smallest value that at least `percent` percent of the sample do not exceed.
fn rank(count: usize, percent: usize) -> usize {
    (count * percent).div_ceil(100).max(1) - 1
}

/// Jain's index of fairness, (Σx)² / (n Σx²): 1 when all get the same, 1/n when one gets everything. `None` when none
/// gets anything.
pub fn jain(shares: &[f64]) -> Option<f64> {
    let sum: f64 = shares.iter().sum();
    let squares: f64 = shares.iter().map(|share| share * share).sum();
    (squares > 0.0).then(|| sum * sum / (count(shares.len()) * squares))
}

/// Events a second between the first and the last of `times` (in seconds, any order); 0 for fewer than two.
pub fn rate(times: &[f64]) -> f64 {
    let first = times.iter().copied().fold(f64::INFINITY, f64::min);
    let last = times.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if last > first { count(times.len() - 1) / (last - first) } else { 0.0 }
}

/// How much of the interval from `start` to `end` lies within `window`.
pub fn overlap((start, end): (f64, f64), window: (f64, f64)) -> f64 {
    (end.min(window.1) - start.max(window.0)).max(0.0)
}

/// A count as a number to calculate with. Counts here are far below 2^52.
pub fn count(n: usize) -> f64 {
    u32::try_from(n).map_or(f64::INFINITY, f64::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_nearest_ranks() {
        let hundred = (1..=100).rev().map(f64::from).collect();
        assert_eq!(Quantiles::of(hundred), Quantiles { p50: 50.0, p99: 99.0, max: 100.0 });
        assert_eq!(Quantiles::of(vec![3.0, 1.0]), Quantiles { p50: 1.0, p99: 3.0, max: 3.0 });
        assert_eq!(Quantiles::of(vec![]), Quantiles::default());
    }

    #[test]
    fn jains_index_separates_equal_from_one_sided_shares() {
        assert_eq!(jain(&[2.0, 2.0, 2.0]), Some(1.0));
        assert_eq!(jain(&[5.0, 0.0, 0.0, 0.0]), Some(0.25));
        assert_eq!(jain(&[1.0, 3.0]), Some(0.8));
        assert_eq!(jain(&[0.0, 0.0]), None);
    }

    #[test]
    fn a_rate_counts_the_gaps() {
        assert_eq!(rate(&[4.0, 2.0, 3.0]), 1.0);
        assert_eq!(rate(&[4.0]), 0.0);
        assert_eq!(rate(&[]), 0.0);
    }

    #[test]
    fn only_the_part_within_the_window_counts() {
        assert_eq!(overlap((1.0, 4.0), (2.0, 10.0)), 2.0);
        assert_eq!(overlap((1.0, 4.0), (5.0, 10.0)), 0.0);
    }
}
