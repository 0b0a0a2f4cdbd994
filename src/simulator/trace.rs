//! A trace: the jobs of a simulation, one a line, as a CSV table whose first line names the columns.
//!
//! `submitted`, `tenant` and `seconds` are required; the other columns, named like the fields of a Job, may be absent
//! or empty and then have a Job's defaults. Columns may have any order. A cell that can't be read is named by its
//! line and column, with what would be accepted.

use std::{
    collections::HashMap,
    io::{Read, Write},
    sync::Arc,
};

use csv::StringRecord;
use jiff::Timestamp;
use serde::de::{DeserializeOwned, IntoDeserializer, value::Error as WordError};

use crate::{
    api_types::{
        Quantity,
        job::{OnQuota, Priority, Queue},
        quantity::QuantityError,
    },
    domain::resources::Resources,
    names,
};

/// The columns, in the order in which they are written.
const COLUMNS: [&str; 14] = [
    "submitted",
    "tenant",
    "seconds",
    "cpu",
    "memory",
    "gpus",
    "bandwidthMbps",
    "queue",
    "priority",
    "pool",
    "onQuota",
    "timeoutSeconds",
    "retries",
    "outcome",
];
/// Those without which it is no trace.
const NEEDED: usize = 3;
/// Nothing in a trace lasts longer: ten years, in seconds.
const LONGEST: f64 = 10.0 * 365.0 * 86_400.0;
/// As many as a Job's `maxRetries` allows.
const MAX_RETRIES: u64 = 100;

/// One job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Work {
    /// When it is submitted, in milliseconds from the start.
    pub submitted: i64,
    /// Its tenant, by its number in the cluster.
    pub tenant: usize,
    /// How long each attempt runs if it is let, in milliseconds.
    pub millis: i64,
    /// What it asks for.
    pub asked: Resources,
    /// Its queue.
    pub queue: Queue,
    /// Its priority.
    pub priority: Priority,
    /// The only worker group that it may use.
    pub group: Option<Arc<str>>,
    /// What it wants when a quota is reached.
    pub on_quota: OnQuota,
    /// Its own limit of running time.
    pub timeout_seconds: Option<i64>,
    /// The number of attempts that are lost with their node, at their end, before one is not.
    pub retries: u32,
    /// It ends badly.
    pub fails: bool,
}

/// Why a trace is not accepted.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// Not a table, or not readable.
    #[error("failed to read the trace: {0}")]
    Read(#[from] csv::Error),
    /// The first line is not that of a trace.
    #[error("the trace, line 1: {problem}: the columns are {}", COLUMNS.join(", "))]
    Columns {
        /// What is wrong with it.
        problem: String,
    },
    /// A cell that can't be used.
    #[error("the trace, line {line}: {field} is `{value}`: {rule}")]
    Cell {
        /// Line in the file, from 1.
        line: u64,
        /// Name of the column.
        field: &'static str,
        /// The cell as written.
        value: String,
        /// What would be accepted.
        rule: String,
    },
    /// No job in it.
    #[error("the trace has no job: give at least one line below the names of the columns")]
    Empty,
}

/// Reads a trace; `tenants` are those of the cluster, in its order. Jobs come back in the order of submission, those of
/// the same time in the order of their lines. Points in time are counted from the first.
///
/// # Errors
/// [`TraceError`] names line, column, value, and what would be accepted.
pub fn read<'a>(
    from: impl Read,
    tenants: impl IntoIterator<Item = &'a str>,
) -> Result<Vec<Work>, TraceError> {
    let mut table = csv::ReaderBuilder::new().trim(csv::Trim::All).comment(Some(b'#')).from_reader(from);
    let columns = Columns::of(table.headers()?)?;
    let reader = RowReader {
        columns,
        tenants: tenants.into_iter().enumerate().map(|(number, name)| (name, number)).collect(),
    };
    let (mut jobs, mut times, mut record) = (Vec::new(), None, StringRecord::new());
    let mut groups = HashMap::new();
    while table.read_record(&mut record)? {
        let line = record.position().map_or(0, csv::Position::line);
        jobs.push(reader.job(
            &Row { line, record: &record, columns: &reader.columns },
            &mut times,
            &mut groups,
        )?);
    }
    let Some(first) = jobs.iter().map(|job: &Work| job.submitted).min() else {
        return Err(TraceError::Empty);
    };
    if matches!(times, Some(Form::Time)) {
        jobs.iter_mut().for_each(|job| job.submitted -= first);
    }
    jobs.sort_by_key(|job| job.submitted);
    Ok(jobs)
}

/// Writes a trace, every column.
///
/// # Errors
/// What the writer says.
pub fn write(to: impl Write, jobs: &[Work], tenants: &[&str]) -> Result<(), TraceError> {
    let mut table = csv::Writer::from_writer(to);
    table.write_record(COLUMNS)?;
    for job in jobs {
        let asked = &job.asked;
        let group = job.group.as_deref().unwrap_or_default();
        let row: [&str; COLUMNS.len()] = [
            &thousandths(job.submitted),
            tenants.get(job.tenant).copied().unwrap_or_default(),
            &thousandths(job.millis),
            &crate::domain::resources::cores(asked.cpu_milli),
            &memory(asked.memory_bytes),
            &asked.gpus.to_string(),
            &asked.bandwidth_mbps.to_string(),
            job.queue.into(),
            job.priority.into(),
            group.strip_prefix(&names::pool_group("")).unwrap_or(group),
            if job.on_quota == OnQuota::Reject { "Reject" } else { "Queue" },
            &job.timeout_seconds.map_or_else(String::new, |seconds| seconds.to_string()),
            &job.retries.to_string(),
            if job.fails { FAILED } else { COMPLETED },
        ];
        table.write_record(row)?;
    }
    table.flush().map_err(|error| TraceError::Read(error.into()))
}

const COMPLETED: &str = "Completed";
const FAILED: &str = "Failed";

fn thousandths(millis: i64) -> String {
    crate::domain::resources::cores(u64::try_from(millis).unwrap_or_default())
}

fn memory(bytes: u64) -> String {
    const MI: u64 = 1 << 20;
    if bytes.is_multiple_of(MI) { format!("{}Mi", bytes / MI) } else { bytes.to_string() }
}

/// What a job asks for that says nothing, as for a Job.
const DEFAULTS: Resources = Resources {
    cpu_milli: 1000,
    memory_bytes: 512 << 20,
    gpus: 0,
    bandwidth_mbps: 0,
    ephemeral_bytes: 0,
    pods: 1,
};

/// The position of each column.
struct Columns([Option<usize>; COLUMNS.len()]);

impl Columns {
    fn of(names: &StringRecord) -> Result<Self, TraceError> {
        let mut at = [None; COLUMNS.len()];
        for (place, name) in names.iter().enumerate() {
            let known = COLUMNS.iter().position(|known| *known == name.trim_start_matches('\u{feff}'));
            let column =
                known.ok_or_else(|| TraceError::Columns { problem: format!("`{name}` is no column") })?;
            if at[column].replace(place).is_some() {
                return Err(TraceError::Columns { problem: format!("`{name}` occurs twice") });
            }
        }
        match at.iter().take(NEEDED).position(Option::is_none) {
            Some(missing) => {
                Err(TraceError::Columns { problem: format!("the column `{}` is missing", COLUMNS[missing]) })
            }
            None => Ok(Self(at)),
        }
    }
}

/// How `submitted` is written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Seconds,
    Time,
}

struct RowReader<'a> {
    columns: Columns,
    tenants: HashMap<&'a str, usize>,
}

struct Row<'a> {
    line: u64,
    record: &'a StringRecord,
    columns: &'a Columns,
}

impl RowReader<'_> {
    fn job(
        &self,
        row: &Row<'_>,
        times: &mut Option<Form>,
        groups: &mut HashMap<String, Arc<str>>,
    ) -> Result<Work, TraceError> {
        let tenant = row.cell("tenant").unwrap_or_default();
        let unknown = "there is no such tenant in the cluster file: add it there, or correct the name";
        let group = row.cell("pool").map(|pool| {
            let group = || Arc::from(names::pool_group(pool));
            Arc::clone(groups.entry(pool.to_owned()).or_insert_with(group))
        });
        Ok(Work {
            submitted: row.submitted(times)?,
            tenant: *self.tenants.get(tenant).ok_or_else(|| row.bad("tenant", unknown.to_owned()))?,
            millis: row.seconds("seconds")?,
            asked: Resources {
                cpu_milli: row.quantity("cpu", Quantity::milli)?.unwrap_or(DEFAULTS.cpu_milli),
                memory_bytes: row.quantity("memory", Quantity::units)?.unwrap_or(DEFAULTS.memory_bytes),
                gpus: row.number("gpus", u32::MAX.into())?.unwrap_or_default(),
                bandwidth_mbps: row.number("bandwidthMbps", u32::MAX.into())?.unwrap_or_default(),
                ..DEFAULTS
            },
            queue: row.word("queue", "live, default or batch")?,
            priority: row.word("priority", "high, medium or low")?,
            group,
            on_quota: row.word("onQuota", "Queue or Reject")?,
            timeout_seconds: row.number("timeoutSeconds", u32::MAX.into())?.and_then(|n| n.try_into().ok()),
            retries: row.number("retries", MAX_RETRIES)?.and_then(|n| n.try_into().ok()).unwrap_or_default(),
            fails: match row.cell("outcome") {
                None | Some(COMPLETED) => false,
                Some(FAILED) => true,
                Some(_) => return Err(row.bad("outcome", format!("give {COMPLETED} or {FAILED}"))),
            },
        })
    }
}

impl Row<'_> {
    /// The text of a cell, unless it is empty.
    fn cell(&self, field: &'static str) -> Option<&str> {
        let column = COLUMNS.iter().position(|name| *name == field)?;
        self.record.get(self.columns.0[column]?).filter(|text| !text.is_empty())
    }

    fn bad(&self, field: &'static str, rule: String) -> TraceError {
        let value = self.cell(field).unwrap_or_default().to_owned();
        TraceError::Cell { line: self.line, field, value, rule }
    }

    fn submitted(&self, form: &mut Option<Form>) -> Result<i64, TraceError> {
        let text = self.cell("submitted").unwrap_or_default();
        let time = text.parse::<Timestamp>().ok();
        let now = if time.is_some() { Form::Time } else { Form::Seconds };
        if text.parse::<f64>().is_ok() || time.is_some() {
            let known = *form.get_or_insert(now);
            if known != now {
                let rule = "the lines before have it in another form: give times or seconds, not both";
                return Err(self.bad("submitted", rule.to_owned()));
            }
        }
        match time {
            Some(time) => Ok(time.as_millisecond()),
            None => self.seconds("submitted"),
        }
    }

    /// Milliseconds.
    fn seconds(&self, field: &'static str) -> Result<i64, TraceError> {
        let number = self.cell(field).and_then(|text| text.parse::<f64>().ok());
        match number.filter(|seconds| (0.0..=LONGEST).contains(seconds)) {
            Some(seconds) => Ok(millis(seconds)),
            None if field == "submitted" => Err(self.bad(
                field,
                "give seconds from the start, 0 or more, or a time such as 2026-01-31T08:00:00Z".to_owned(),
            )),
            None => Err(self.bad(field, "give seconds, 0 or more, such as 90 or 0.5".to_owned())),
        }
    }

    fn quantity(
        &self,
        field: &'static str,
        to: fn(&Quantity) -> Result<u64, QuantityError>,
    ) -> Result<Option<u64>, TraceError> {
        let read = |text: &str| {
            to(&Quantity::from(text)).map_err(|error| {
                let error = error.to_string();
                // The message begins with the value already.
                self.bad(field, error.split_once(": ").map_or(error.clone(), |(_, rule)| rule.to_owned()))
            })
        };
        self.cell(field).map(read).transpose()
    }

    fn number(&self, field: &'static str, most: u64) -> Result<Option<u64>, TraceError> {
        let read = |text: &str| {
            let number = text.parse::<u64>().ok().filter(|number| *number <= most);
            number.ok_or_else(|| self.bad(field, format!("give a whole number from 0 to {most}")))
        };
        self.cell(field).map(read).transpose()
    }

    /// A word of a closed list, or the default where there is none.
    fn word<T: Default + DeserializeOwned>(&self, field: &'static str, all: &str) -> Result<T, TraceError> {
        let Some(text) = self.cell(field) else { return Ok(T::default()) };
        T::deserialize(IntoDeserializer::<WordError>::into_deserializer(text))
            .map_err(|_| self.bad(field, format!("give {all}")))
    }
}

/// Whole milliseconds of what [`LONGEST`] bounds.
fn millis(seconds: f64) -> i64 {
    #[expect(clippy::cast_possible_truncation, reason = "at most LONGEST, far below 2^52")]
    let millis = (seconds * 1000.0).round() as i64;
    millis
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_all(text: &str) -> Result<Vec<Work>, TraceError> {
        read(text.as_bytes(), ["acme", "globex"])
    }

    #[test]
    fn absent_columns_have_a_jobs_defaults() {
        let jobs = read_all("tenant,submitted,seconds\n# a remark\nglobex, 1.5 ,60\nacme,0,0.25\n").unwrap();
        let job = Work {
            submitted: 0,
            tenant: 0,
            millis: 250,
            asked: Resources { cpu_milli: 1000, memory_bytes: 512 << 20, pods: 1, ..Resources::default() },
            queue: Queue::Default,
            priority: Priority::Medium,
            group: None,
            on_quota: OnQuota::Queue,
            timeout_seconds: None,
            retries: 0,
            fails: false,
        };
        let spec = serde_json::from_value(serde_json::json!({"image": "i"})).unwrap();
        assert_eq!(Resources::of_job(&spec, &crate::api_types::Scenarios::default()).unwrap(), job.asked);
        let second = Work { submitted: 1500, tenant: 1, millis: 60_000, ..job.clone() };
        assert_eq!(jobs, [job, second], "in the order of submission");
    }

    #[test]
    fn what_is_written_reads_the_same() {
        let text = "submitted,tenant,seconds,cpu,memory,gpus,bandwidthMbps,queue,priority,pool,onQuota,\
                    timeoutSeconds,retries,outcome\n\
                    0.001,acme,1,500m,1.5G,2,10,live,high,gpu,Reject,90,3,Failed\n\
                    7,globex,2,,,,,batch,low,,,,,\n";
        let jobs = read_all(text).unwrap();
        assert_eq!(jobs[0].asked.cpu_milli, 500);
        assert_eq!(jobs[0].group.as_deref(), Some("pool.gpu"));
        assert_eq!((jobs[0].timeout_seconds, jobs[0].retries, jobs[0].fails), (Some(90), 3, true));
        let mut written = Vec::new();
        write(&mut written, &jobs, &["acme", "globex"]).unwrap();
        assert_eq!(read_all(std::str::from_utf8(&written).unwrap()).unwrap(), jobs);
    }

    #[test]
    fn times_are_counted_from_the_first() {
        let text =
            "submitted,tenant,seconds\n2026-01-31T09:00:00+01:00,acme,1\n2026-01-31T07:59:30Z,acme,1\n";
        let jobs = read_all(text).unwrap();
        assert_eq!(jobs.iter().map(|job| job.submitted).collect::<Vec<_>>(), [0, 30_000]);
        let mixed = read_all(&format!("{text}12,acme,1\n")).unwrap_err().to_string();
        assert!(mixed.starts_with("the trace, line 4: submitted is `12`: the lines before"), "{mixed}");
    }

    #[test]
    fn a_bad_cell_is_named_with_its_line_and_what_to_do() {
        let error = |column: &str, cell: &str| {
            let text = format!("submitted,tenant,seconds,{column}\n0,acme,1,\n5,acme,1,{cell}\n");
            read_all(&text).unwrap_err().to_string()
        };
        assert_eq!(
            error("cpu", "two"),
            "the trace, line 3: cpu is `two`: write a number with an optional unit, such as 500m, 2, 1.5Gi or 100M"
        );
        assert_eq!(error("queue", "fast"), "the trace, line 3: queue is `fast`: give live, default or batch");
        assert_eq!(
            error("gpus", "-1"),
            "the trace, line 3: gpus is `-1`: give a whole number from 0 to 4294967295"
        );
        assert_eq!(error("outcome", "ok"), "the trace, line 3: outcome is `ok`: give Completed or Failed");
        let of =
            |line: &str| read_all(&format!("submitted,tenant,seconds\n{line}\n")).unwrap_err().to_string();
        assert!(of("0,other,1").contains("line 2: tenant is `other`: there is no such tenant"));
        assert!(of("0,acme,-1").contains("line 2: seconds is `-1`: give seconds, 0 or more"));
        assert!(of("soon,acme,1").contains("line 2: submitted is `soon`: give seconds from the start"));
        assert!(of("0,acme,NaN").contains("line 2: seconds is `NaN`"));
        assert!(of("0,acme").contains("found record with 2 fields"), "{}", of("0,acme"));
    }

    #[test]
    fn a_bad_header_lists_the_columns() {
        let error = read_all("submitted,tenant,duration\n").unwrap_err().to_string();
        assert!(
            error
                .starts_with("the trace, line 1: `duration` is no column: the columns are submitted, tenant")
        );
        let error = read_all("submitted,seconds\n").unwrap_err().to_string();
        assert!(error.contains("the column `tenant` is missing"), "{error}");
        assert!(read_all("tenant,tenant,submitted,seconds\n").unwrap_err().to_string().contains("twice"));
        assert!(matches!(read_all("submitted,tenant,seconds\n"), Err(TraceError::Empty)));
    }
}
