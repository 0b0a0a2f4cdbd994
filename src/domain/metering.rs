//! What an attempt is charged for: what it asked for, times how long its container ran.
//!
//! Whole milliseconds and whole units, never a float: the parts of a run that crosses full hours add up to the run
//! exactly. An amount is the product of two `i64`, which `i128` always holds and `i64` does not (1 TiB over a day is
//! 9.5e19 byte-milliseconds; `i64` ends at 9.2e18).

use std::ops::AddAssign;

use jiff::Timestamp;

use crate::api_types::job::AttemptRecord;

/// One hour; hours begin where UTC's do.
const HOUR: i64 = 3_600_000;

/// The longest run that is believed, ten years: beyond it a node's clock was wrong, and the run counts as none. It
/// also bounds the number of hours of one attempt.
pub const LONGEST_RUN: i64 = 10 * 366 * 24 * HOUR;

/// Requested amounts times running time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Running time, in milliseconds.
    pub running_millis: i64,
    /// Thousandths of a core × milliseconds.
    pub cpu_millicore_millis: i128,
    /// Bytes × milliseconds.
    pub memory_byte_millis: i128,
    /// GPUs × milliseconds.
    pub gpu_millis: i128,
    /// Mbit/s × milliseconds.
    pub bandwidth_mbps_millis: i128,
}

impl Usage {
    /// What `record` asked for, over `running_millis`. Amounts below zero, which no pod can have, count as none.
    fn over(record: &AttemptRecord, running_millis: i64) -> Self {
        let amount = |asked: i64| i128::from(asked.max(0)) * i128::from(running_millis);
        Self {
            running_millis,
            cpu_millicore_millis: amount(record.cpu_millicores),
            memory_byte_millis: amount(record.memory_bytes),
            gpu_millis: amount(record.gpus),
            bandwidth_mbps_millis: amount(record.bandwidth_mbps),
        }
    }
}

impl AddAssign for Usage {
    fn add_assign(&mut self, other: Self) {
        self.running_millis += other.running_millis;
        self.cpu_millicore_millis += other.cpu_millicore_millis;
        self.memory_byte_millis += other.memory_byte_millis;
        self.gpu_millis += other.gpu_millis;
        self.bandwidth_mbps_millis += other.bandwidth_mbps_millis;
    }
}

/// The part of an attempt that lies in one hour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HourlyUsage {
    /// When the hour began.
    pub hour: Timestamp,
    /// What is charged within it.
    pub usage: Usage,
}

/// What a whole attempt is charged: nothing when it never started, when it ended before it started (clocks differ)
/// or when it claims to have run longer than [`LONGEST_RUN`].
#[must_use]
pub fn usage(record: &AttemptRecord) -> Usage {
    let (start, end) = span(record);
    Usage::over(record, end - start)
}

/// [`usage`], split at the full hours, in order. Hours without any running time are left out.
#[must_use]
pub fn by_hour(record: &AttemptRecord) -> Vec<HourlyUsage> {
    let (start, end) = span(record);
    let mut parts = Vec::new();
    let mut from = start;
    while from < end {
        let hour = from.div_euclid(HOUR) * HOUR;
        let to = end.min(hour + HOUR);
        if let Ok(hour) = Timestamp::from_millisecond(hour) {
            parts.push(HourlyUsage { hour, usage: Usage::over(record, to - from) });
        }
        from = to;
    }
    parts
}

/// Start and end of the running time, in milliseconds of the epoch; the same where nothing is charged.
fn span(record: &AttemptRecord) -> (i64, i64) {
    let end = record.finished_at.0.as_millisecond();
    let start = record.started_at.as_ref().map_or(end, |t| t.0.as_millisecond());
    if (1..=LONGEST_RUN).contains(&(end - start)) { (start, end) } else { (end, end) }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use proptest::prelude::*;

    use super::*;

    fn record(start: Option<i64>, end: i64) -> AttemptRecord {
        let time = |millis| Time(Timestamp::from_millisecond(millis).unwrap());
        AttemptRecord {
            attempt: 1,
            pod: "p".into(),
            node: None,
            started_at: start.map(time),
            finished_at: time(end),
            reason: "Succeeded".into(),
            exit_code: Some(0),
            cpu_millicores: 1500,
            memory_bytes: 1 << 40,
            gpus: 2,
            bandwidth_mbps: 100,
        }
    }

    #[test]
    fn an_amount_is_request_times_time() {
        let day = record(Some(0), 24 * HOUR);
        let expected = Usage {
            running_millis: 86_400_000,
            cpu_millicore_millis: 129_600_000_000,
            memory_byte_millis: 94_997_804_639_846_400_000,
            gpu_millis: 172_800_000,
            bandwidth_mbps_millis: 8_640_000_000,
        };
        assert_eq!(usage(&day), expected);
        assert!(expected.memory_byte_millis > i128::from(i64::MAX));
        assert_eq!(by_hour(&day).len(), 24);
    }

    #[test]
    fn a_run_is_split_where_the_hour_ends() {
        let parts = by_hour(&record(Some(HOUR - 250), HOUR + 1));
        let times: Vec<(i64, i64)> =
            parts.iter().map(|p| (p.hour.as_millisecond(), p.usage.running_millis)).collect();
        assert_eq!(times, [(0, 250), (HOUR, 1)]);
        assert_eq!(by_hour(&record(Some(HOUR), 2 * HOUR)).len(), 1, "ends with the hour");
    }

    #[test]
    fn what_did_not_run_costs_nothing() {
        let ended = 1_000_000_000_000;
        for none in [
            record(None, ended),
            record(Some(ended), ended),
            record(Some(ended + 1), ended),
            record(Some(ended - LONGEST_RUN - 1), ended),
        ] {
            assert_eq!(usage(&none), Usage::default());
            assert!(by_hour(&none).is_empty());
        }
    }

    proptest! {
        #[test]
        fn the_parts_add_up(
            start in -4_000_000_000_000_i64..4_000_000_000_000,
            length in -HOUR..400 * HOUR,
            (cpu, memory) in (any::<i64>(), any::<i64>()),
            (gpus, bandwidth) in (any::<i64>(), any::<i64>()),
        ) {
            let mut run = record(Some(start), start + length);
            run.cpu_millicores = cpu;
            run.memory_bytes = memory;
            run.gpus = gpus;
            run.bandwidth_mbps = bandwidth;
            let parts = by_hour(&run);
            let mut sum = Usage::default();
            for part in &parts {
                sum += part.usage;
                prop_assert!((1..=HOUR).contains(&part.usage.running_millis));
                prop_assert_eq!(part.hour.as_millisecond().rem_euclid(HOUR), 0);
                prop_assert!(part.usage.cpu_millicore_millis >= 0 && part.usage.memory_byte_millis >= 0);
                prop_assert!(part.usage.gpu_millis >= 0 && part.usage.bandwidth_mbps_millis >= 0);
            }
            prop_assert_eq!(sum, usage(&run));
            prop_assert_eq!(sum.running_millis, length.max(0));
            prop_assert!(parts.windows(2).all(|w| w[1].hour.as_millisecond() - w[0].hour.as_millisecond() == HOUR));
        }
    }
}
