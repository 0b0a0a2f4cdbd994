//! Arithmetic of fair shares, over numbers alone.

/// The part of each in a total that is divided by weight, where none gets more than its demand and what one leaves
/// goes to the others: weighted max-min. A demand is a part of 1; `None` is that of one who waits for more. Where
/// none waits, each has its demand.
///
/// One is a pair of demand and weight; weights are above 0.
#[must_use]
pub fn entitlements(all: &[(Option<f64>, f64)], total: f64) -> Vec<f64> {
    let mut by_level: Vec<usize> = (0..all.len()).collect();
    let level = |at: &usize| all[*at].0.map_or(f64::INFINITY, |demand| demand / all[*at].1);
    by_level.sort_by(|a, b| level(a).total_cmp(&level(b)));
    let mut weights: f64 = all.iter().map(|(_, weight)| weight).sum();
    let (mut left, mut shares) = (total, vec![0.0; all.len()]);
    for at in by_level {
        let (demand, weight) = all[at];
        let part = left * weight / weights.max(f64::MIN_POSITIVE);
        let share = demand.unwrap_or(f64::INFINITY).min(part);
        shares[at] = share;
        left -= share;
        weights -= weight;
    }
    shares
}

/// Jain's index, (Σx)² / (n Σx²): 1 where all get the same, 1/n where one gets everything. `None` of fewer than two, or
/// where none gets anything.
#[must_use]
pub fn jain(all: &[f64]) -> Option<f64> {
    let (sum, squares) = (all.iter().sum::<f64>(), all.iter().map(|x| x * x).sum::<f64>());
    (all.len() > 1 && squares > 0.0).then(|| sum * sum / (all.len() as f64 * squares))
}

/// The nearest rank of a sorted sample: the smallest value that at least `percent` percent do not exceed.
#[must_use]
pub fn percentile<T: Copy>(sorted: &[T], percent: usize) -> Option<T> {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(a: &[f64], b: &[f64]) {
        assert!(a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-9), "{a:?} {b:?}");
    }

    #[test]
    fn who_waits_shares_by_weight_what_others_leave() {
        close(&entitlements(&[(None, 1.0), (None, 3.0)], 1.0), &[0.25, 0.75]);
        close(&entitlements(&[(None, 1.0), (Some(0.1), 8.0), (None, 2.0)], 1.0), &[0.3, 0.1, 0.6]);
        close(&entitlements(&[(Some(0.9), 1.0), (None, 1.0)], 1.0), &[0.5, 0.5]);
        close(&entitlements(&[(Some(0.2), 1.0), (Some(0.3), 5.0)], 0.5), &[0.2, 0.3]);
        close(&entitlements(&[], 0.0), &[]);
    }

    #[test]
    fn jains_index() {
        assert_eq!(jain(&[2.0, 2.0, 2.0]), Some(1.0));
        assert_eq!(jain(&[1.0, 0.0]), Some(0.5));
        assert_eq!(jain(&[3.0, 1.0]), Some(0.8));
        assert_eq!((jain(&[0.0, 0.0]), jain(&[1.0])), (None, None));
    }

    #[test]
    fn percentiles_are_nearest_ranks() {
        let ten: Vec<i64> = (1..=10).collect();
        let at = |percent| percentile(&ten, percent);
        assert_eq!((at(0), at(50), at(95), at(100)), (Some(1), Some(5), Some(10), Some(10)));
        assert_eq!(percentile::<i64>(&[], 50), None);
    }
}
