//! `GET /tenants/{id}/usage`: what the attempts of a tenant's jobs used, from the history.

use axum::{Json, extract::State};
use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Id, readable, reads_tenant};
use crate::{
    db,
    http::{
        App,
        auth::Caller,
        openapi::Operation,
        problem::{Code, Problem},
        query::Params,
        rights::ReadTenant,
    },
};

/// Parameters.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UsageQuery {
    /// This is the first moment that counts. By default it is 24 hours before `to`.
    from: Option<Timestamp>,
    /// This is the first moment that does not count any more, by default now. It is at most 31 days after `from` by hour,
    /// and 366 days by day.
    to: Option<Timestamp>,
    /// This is the length of one step.
    #[serde(default)]
    step: Step,
}

/// A step is the length of one line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Step {
    #[default]
    Hour,
    Day,
}

impl Step {
    /// The longest time span for this step.
    fn max_span(self) -> SignedDuration {
        match self {
            Self::Hour => SignedDuration::from_hours(31 * 24),
            Self::Day => SignedDuration::from_hours(366 * 24),
        }
    }
}

/// A line is what was used in one step. Its numbers are strings, because they may be larger than JSON readers represent
/// exactly.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "UsageLine")]
struct Line {
    /// This is when the step began.
    start: Timestamp,
    /// This is the running time of all attempts, in milliseconds.
    running_millis: String,
    /// This is the CPU, in thousandths of a core times milliseconds.
    cpu_millicore_millis: String,
    /// This is the memory, in bytes times milliseconds.
    memory_byte_millis: String,
    /// These are the GPUs, in GPUs times milliseconds.
    gpu_millis: String,
    /// This is the network bandwidth, in Mbit/s times milliseconds.
    bandwidth_mbps_millis: String,
}

/// Usage is what the attempts of a tenant's jobs used.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Usage {
    /// These are the lines by time. Steps without usage are left out.
    usage: Vec<Line>,
    /// This is always null, because there is one page.
    next_cursor: Option<String>,
}

/// The begin and the end of the time span of a query.
fn span(query: &UsageQuery, now: Timestamp) -> Result<(Timestamp, Timestamp), Problem> {
    let invalid = |detail: &str| Problem::new(Code::InvalidQuery, detail);
    let to = query.to.unwrap_or(now);
    let day = SignedDuration::from_hours(24);
    let from = query.from.or_else(|| to.checked_sub(day).ok());
    let from = from.ok_or_else(|| invalid("`to` is out of range"))?;
    match to.duration_since(from) {
        span if span <= SignedDuration::ZERO => Err(invalid("`from` must be before `to`")),
        span if span > query.step.max_span() => Err(invalid(
            "the time from `from` to `to` is too long: give at most 31 days by hour, or 366 days with step=day",
        )),
        _ => Ok((from, to)),
    }
}

/// The description of the route.
pub fn operation() -> Operation {
    reads_tenant(
        "getTenantUsage",
        "Read the usage of a tenant",
        "Returns what the attempts of a tenant's jobs used, by hour or by day.",
    )
    .json::<Usage>(200, "This is the usage of the full hours that began in that time.")
    .problems([Code::HistoryUnavailable])
}

/// Returns the usage of the full hours that began in a time span.
///
/// # Errors
/// `invalid_query`; `history_unavailable`.
pub async fn usage(
    State(app): State<App>,
    caller: Caller,
    id: Id,
    Params(query): Params<UsageQuery>,
) -> Result<Json<Usage>, Problem> {
    let tenant = readable::<ReadTenant>(&app, &caller, &id).await?;
    let (from, to) = span(&query, app.clock.now())?;
    let unavailable =
        || Problem::new(Code::HistoryUnavailable, "the database, which has the usage, does not answer");
    let readers = app.database.as_ref().ok_or_else(unavailable)?;
    let uid = Uuid::parse_str(&tenant.uid().unwrap_or_default());
    let uid = uid.map_err(|error| Problem::not_found("tenant").with_cause(error))?;
    let records = db::usage_of(readers, uid, from, to, query.step == Step::Day).await;
    let records = records.map_err(|error| unavailable().with_cause(error))?;
    let lines = records.into_iter().map(|record| Line {
        start: record.start,
        running_millis: record.running_millis,
        cpu_millicore_millis: record.cpu_millicore_millis,
        memory_byte_millis: record.memory_byte_millis,
        gpu_millis: record.gpu_millis,
        bandwidth_mbps_millis: record.bandwidth_mbps_millis,
    });
    Ok(Json(Usage { usage: lines.collect(), next_cursor: None }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_span_is_bounded_and_not_empty() {
        let at = |hour: i64| Timestamp::from_second(hour * 3600).unwrap();
        let of =
            |from, to, step| span(&UsageQuery { from, to, step }, at(10_000)).map_err(|problem| problem.code);
        assert_eq!(of(None, None, Step::Hour), Ok((at(9976), at(10_000))));
        assert_eq!(of(Some(at(0)), Some(at(24 * 31)), Step::Hour), Ok((at(0), at(744))));
        assert_eq!(of(Some(at(0)), Some(at(745)), Step::Hour), Err(Code::InvalidQuery));
        assert_eq!(of(Some(at(0)), Some(at(745)), Step::Day), Ok((at(0), at(745))));
        assert_eq!(of(Some(at(5)), Some(at(5)), Step::Hour), Err(Code::InvalidQuery));
    }
}
