//! `usage`: what a tenant has used, by hour or day, for people and as CSV. The amounts are exact: whole numbers of the ledger,
//! divided for display only, and never rounded up.

use jiff::{SignedDuration, Timestamp, ToSpan, civil::Date, tz::TimeZone};
use serde_json::json;

use super::{
    Context,
    output::{Format, structured},
    table::{Cell, clean, table},
};
use crate::client::{Error, Kind, Result, UsageSpan, model::UsageLine};

/// Milliseconds of an hour.
const HOUR: u128 = 3_600_000;
/// Decimals that are shown.
const DECIMALS: u32 = 6;
/// Longest time by hour, as the REST API has it.
const MAX_BY_HOUR: SignedDuration = SignedDuration::from_hours(31 * 24);

/// The flags of the verb.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A month, such as 2026-11, in UTC
    #[arg(long, conflicts_with_all = ["from", "to"], value_parser = month, value_name = "MONTH")]
    month: Option<Date>,
    /// First moment, such as 2026-11-01T00:00:00Z; by default 24 hours before the last
    #[arg(long, value_name = "TIME")]
    from: Option<Timestamp>,
    /// Last moment; by default now
    #[arg(long, value_name = "TIME")]
    to: Option<Timestamp>,
    /// One line for each; by default hours of up to two days, else days
    #[arg(long, value_parser = ["hour", "day"])]
    step: Option<String>,
}

/// The first day of a month.
fn month(text: &str) -> std::result::Result<Date, String> {
    let invalid = || format!("{text} is no month: give one such as 2026-11");
    let is_month = text.len() == 7 && text.as_bytes()[4] == b'-';
    if !is_month {
        return Err(invalid());
    }
    format!("{text}-01").parse().map_err(|_| invalid())
}

impl Args {
    fn span(&self, now: Timestamp) -> Result<UsageSpan> {
        let invalid = |error: &dyn std::fmt::Display| {
            Error::usage(format!("failed to choose the time of the usage: {error}")).next("usage --help")
        };
        let (from, to) = match self.month {
            Some(first) => {
                let next = first.checked_add(1.month()).map_err(|error| invalid(&error))?;
                let begin = |day: Date| day.to_zoned(TimeZone::UTC).map(|begin| begin.timestamp());
                (
                    begin(first).map_err(|error| invalid(&error))?,
                    begin(next).map_err(|error| invalid(&error))?,
                )
            }
            None => {
                let to = self.to.unwrap_or(now);
                let day_before =
                    to.checked_sub(SignedDuration::from_hours(24)).map_err(|error| invalid(&error))?;
                (self.from.unwrap_or(day_before), to)
            }
        };
        if from >= to {
            return Err(invalid(&"its beginning is not before its end"));
        }
        let length = to.duration_since(from);
        let step = match self.step.as_deref() {
            Some("hour") if length > MAX_BY_HOUR => {
                return Err(invalid(&"it is longer than 31 days: give --step day"));
            }
            Some("hour") => "hour",
            None if length <= SignedDuration::from_hours(48) => "hour",
            _ => "day",
        };
        Ok(UsageSpan { from, to, step })
    }
}

pub async fn run(context: &Context, args: Args) -> Result<()> {
    let span = args.span(context.clock.now())?;
    let session = context.session().await?;
    let lines = session.transport.usage(&session.scope, &span).await?;
    let format = context.format();
    let text = match format {
        Format::Csv => csv(&lines)?,
        Format::Json | Format::Yaml => {
            let usage = json!({"from": span.from, "to": span.to, "step": span.step, "usage": lines});
            structured(format, &usage)?.unwrap_or_default()
        }
        Format::Name => {
            return Err(Error::usage("failed to write the usage: it has no names").next("usage -o csv"));
        }
        Format::Table | Format::Wide => rendered(&lines, context.terminal.color)?,
    };
    context.terminal.print(&text)?;
    if lines.is_empty() && matches!(format, Format::Table | Format::Wide) {
        context.terminal.remark("nothing was used");
    }
    Ok(())
}

/// Amounts of a line, in hours: running time, cores, GB, GPUs, Mbit/s.
const COLUMNS: [&str; 5] =
    ["running_hours", "cpu_core_hours", "memory_gb_hours", "gpu_hours", "bandwidth_mbps_hours"];
/// Units of the ledger in one of them.
const UNITS: [u128; 5] = [HOUR, HOUR * 1000, HOUR * 1_000_000_000, HOUR, HOUR];

fn amounts(line: &UsageLine) -> Result<[u128; 5]> {
    let texts = [
        &line.running_millis,
        &line.cpu_millicore_millis,
        &line.memory_byte_millis,
        &line.gpu_millis,
        &line.bandwidth_mbps_millis,
    ];
    let mut amounts = [0; 5];
    for (amount, text) in amounts.iter_mut().zip(texts) {
        *amount = text.parse().map_err(|_| {
            let message =
                format!("failed to read the usage of {}: {} is no whole number", line.start, clean(text));
            Error::new(Kind::Failed, message)
        })?;
    }
    Ok(amounts)
}

/// A quotient with six decimals, rounded down.
fn decimal(amount: u128, unit: u128) -> String {
    let scale = 10_u128.pow(DECIMALS);
    let rest = (amount % unit) * scale / unit;
    let text = format!("{}.{rest:06}", amount / unit);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn csv(lines: &[UsageLine]) -> Result<String> {
    let mut text = format!("start,{}\n", COLUMNS.join(","));
    for line in lines {
        let amounts = amounts(line)?;
        let fields: Vec<String> =
            amounts.iter().zip(UNITS).map(|(amount, unit)| decimal(*amount, unit)).collect();
        text += &format!("{},{}\n", line.start, fields.join(","));
    }
    Ok(text)
}

fn rendered(lines: &[UsageLine], color: bool) -> Result<String> {
    if lines.is_empty() {
        return Ok(String::new());
    }
    let mut total = [0_u128; 5];
    let mut rows = Vec::with_capacity(lines.len() + 1);
    let row = |first: String, amounts: &[u128; 5]| -> Vec<Cell> {
        let fields = amounts.iter().zip(UNITS).map(|(amount, unit)| Cell::from(decimal(*amount, unit)));
        [Cell::from(first)].into_iter().chain(fields).collect()
    };
    for line in lines {
        let amounts = amounts(line)?;
        for (sum, amount) in total.iter_mut().zip(amounts) {
            *sum = sum.saturating_add(amount);
        }
        rows.push(row(line.start.to_string(), &amounts));
    }
    rows.push(row("TOTAL".to_owned(), &total));
    let header = ["START", "RUNNING H", "CPU CORE-H", "MEMORY GB-H", "GPU-H", "MBIT/S-H"];
    Ok(table(&header, rows, color))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines() -> Vec<UsageLine> {
        let line = |start: &str, cpu: &str| {
            json!({"start": start, "running_millis": "5400000", "cpu_millicore_millis": cpu, "memory_byte_millis": "3865470566400000",
                   "gpu_millis": "0", "bandwidth_mbps_millis": "1"})
        };
        let lines = json!([
            line("2026-11-01T00:00:00Z", "7200000000"),
            line("2026-11-02T00:00:00Z", "340282366920938463463374607431768211455")
        ]);
        serde_json::from_value(lines).unwrap()
    }

    #[test]
    fn usage_is_csv_and_a_table_with_a_total() {
        let csv = csv(&lines()).unwrap();
        assert!(csv.starts_with("start,running_hours,cpu_core_hours,memory_gb_hours,gpu_hours,bandwidth_mbps_hours\n2026-11-01T00:00:00Z,1.5,2,1.073741,0,0\n"), "{csv}");
        insta::assert_snapshot!(rendered(&lines(), false).unwrap());
    }

    #[test]
    fn an_amount_that_is_none_is_named() {
        let mut lines = lines();
        lines[0].gpu_millis = "x\u{1b}".to_owned();
        let error = csv(&lines).unwrap_err();
        assert_eq!(error.message, "failed to read the usage of 2026-11-01T00:00:00Z: x is no whole number");
    }

    #[test]
    fn a_month_is_whole_and_longer_times_go_by_day() {
        // Given a moment, and the flags of a command.
        let now: Timestamp = "2026-11-30T12:00:00Z".parse().unwrap();
        let args = |month: Option<&str>, from: Option<&str>, step: Option<&str>| Args {
            month: month.map(|text| super::month(text).unwrap()),
            from: from.map(|text| text.parse().unwrap()),
            to: None,
            step: step.map(str::to_owned),
        };
        let of = |args: Args| {
            args.span(now)
                .map(|span| (span.from.to_string(), span.to.to_string(), span.step))
                .map_err(|error| error.message)
        };
        // A month is that of the calendar, a day the last 24 hours, and what is too long or no time is refused.
        let month = of(args(Some("2024-02"), None, None)).unwrap();
        assert_eq!(month, ("2024-02-01T00:00:00Z".to_owned(), "2024-03-01T00:00:00Z".to_owned(), "day"));
        assert_eq!(of(args(Some("2026-10"), None, Some("hour"))).unwrap().2, "hour");
        assert_eq!(
            of(args(None, None, None)).unwrap(),
            ("2026-11-29T12:00:00Z".to_owned(), now.to_string(), "hour")
        );
        assert!(
            of(args(None, Some("2026-12-01T00:00:00Z"), None)).unwrap_err().contains("not before its end")
        );
        assert!(
            of(args(None, Some("2026-01-01T00:00:00Z"), Some("hour")))
                .unwrap_err()
                .contains("give --step day")
        );
        for bad in ["2026", "2026-13", "11-2026", "2026-11-", "9999-12-"] {
            assert!(super::month(bad).is_err(), "{bad}");
        }
    }
}
