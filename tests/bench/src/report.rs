//! What was measured, for people (an aligned table) and for programs (JSON).

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context;
use serde::Serialize;

use crate::{measure::Measured, process::OTHERS, scenario::Case};

/// Wanted of admissions, as a part of the bare client's.
const WANTED_OF_FLOOR: f64 = 0.8;
/// Wanted of the operator's writes for each job, at most.
const WANTED_WRITES: f64 = 4.0;
/// Whose processor time has a column; what is left goes to others.
const PROCESSES: [&str; 9] = [
    "operator",
    "kueue",
    "bench",
    "kube-apiserver",
    "etcd",
    "kube-scheduler",
    "kwok",
    "kube-controller-manager",
    OTHERS,
];

/// All cases so far, and what they were measured on.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Processors of the machine.
    pub processors: usize,
    /// The part of the full size.
    pub scale: f64,
    /// Seed of all that is random.
    pub seed: u64,
    /// What was measured.
    pub cases: Vec<Case>,
}

impl Report {
    /// Writes it as `<dir>/bench.json`, with the pictures; returns where.
    ///
    /// # Errors
    /// When a file can't be written.
    pub fn write(&self, dir: &Path) -> anyhow::Result<PathBuf> {
        fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
        let path = dir.join("bench.json");
        fs::write(&path, serde_json::to_vec_pretty(self)?)
            .with_context(|| format!("writing {}", path.display()))?;
        let picture = dir.join("bench.svg");
        let svg = crate::plot::svg(&self.cases)?;
        fs::write(&picture, svg).with_context(|| format!("writing {}", picture.display()))?;
        Ok(path)
    }
}

/// One case for the terminal.
pub fn text(case: &Case) -> String {
    let mut text = format!("\n{}\n", case.name);
    let floor = case.floor.as_ref();
    let sides: Vec<(&str, &Measured)> = [("operator", &case.operator)]
        .into_iter()
        .chain(floor.map(|f| ("bare client", &f.measured)))
        .chain(case.others.iter().map(|other| (other.name.as_str(), &other.measured)))
        .collect();
    let rates = sides.iter().map(|(name, side)| rates(name, side));
    text.push_str(&table(&RATES, rates.collect()));
    let ran = |process: &&str| sides.iter().any(|(_, side)| side.processor_seconds.contains_key(*process));
    let processes: Vec<&str> = PROCESSES.into_iter().filter(ran).collect();
    let times = sides.iter().map(|(name, side)| times(name, side, &processes));
    text.push_str(&table(&[&["processor seconds"], processes.as_slice()].concat(), times.collect()));
    for (name, side) in &sides {
        let kinds = side.writes.iter().map(|(kind, tally)| {
            let refused =
                if tally.refused > 0 { format!(", {} refused", tally.refused) } else { String::new() };
            format!("{} × {kind} ({:.1} ms{refused})", tally.done, tally.mean_ms)
        });
        // Writing into a String can't fail.
        let _ = writeln!(text, "  writes of the {name}: {}", kinds.collect::<Vec<_>>().join(", "));
    }
    for (name, value) in &case.figures {
        let _ = writeln!(text, "  {}: {value:.3}", name.replace('_', " "));
    }
    if let Some(part) = case.of_floor() {
        let _ = writeln!(
            text,
            "  admissions: {:.0} % of the bare client's (wanted: at least {:.0} %)",
            100.0 * part,
            100.0 * WANTED_OF_FLOOR
        );
    }
    let _ = writeln!(
        text,
        "  writes of the operator for each job: {:.2} (wanted: at most {WANTED_WRITES})",
        case.operator.writes_per_job
    );
    for other in &case.others {
        let by = other.writes_per_job.iter().map(|(writer, writes)| format!("{writes:.2} of {writer}"));
        let by = by.collect::<Vec<_>>().join(", ");
        let _ = writeln!(
            text,
            "  writes of {} for each job: {:.2} ({by})",
            other.name, other.measured.writes_per_job
        );
    }
    text
}

const RATES: [&str; 11] = [
    "",
    "jobs",
    "first pod s",
    "all s",
    "admitted/s",
    "ended/s",
    "wait p50 s",
    "p99 s",
    "writes/job",
    "reads",
    "peak MiB",
];

fn rates(name: &str, side: &Measured) -> Vec<String> {
    let memory = if side.peak_mib > 0.0 { format!("{:.0}", side.peak_mib) } else { String::new() };
    vec![
        name.to_owned(),
        side.jobs.to_string(),
        format!("{:.2}", side.to_first_pod),
        format!("{:.1}", side.seconds),
        format!("{:.1}", side.admissions_per_second),
        format!("{:.1}", side.completions_per_second),
        format!("{:.2}", side.wait.p50),
        format!("{:.2}", side.wait.p99),
        format!("{:.2}", side.writes_per_job),
        side.reads.to_string(),
        memory,
    ]
}

fn times(name: &str, side: &Measured, processes: &[&str]) -> Vec<String> {
    let of =
        |process: &&str| side.processor_seconds.get(*process).map_or(String::new(), |s| format!("{s:.1}"));
    [name.to_owned()].into_iter().chain(processes.iter().map(of)).collect()
}

/// Columns as wide as their widest cell; the first is aligned left, numbers right.
fn table(head: &[&str], rows: Vec<Vec<String>>) -> String {
    let head: Vec<String> = head.iter().map(|&cell| cell.to_owned()).collect();
    let rows: Vec<Vec<String>> = [head].into_iter().chain(rows).collect();
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width =
        |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or_default()).collect();
    let mut text = String::new();
    for row in &rows {
        let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, width))| match column {
            0 => format!("{cell:<width$}"),
            _ => format!("{cell:>width$}"),
        });
        let line = cells.collect::<Vec<_>>().join("  ");
        let _ = writeln!(text, "  {}", line.trim_end());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sides::{FloorRun, OtherRun};

    #[test]
    fn a_table_is_aligned() {
        let rows = vec![vec!["operator".into(), "7".into()], vec!["x".into(), "1234".into()]];
        assert_eq!(table(&["", "jobs"], rows), "            jobs\n  operator     7\n  x         1234\n");
    }

    #[test]
    fn a_case_says_what_is_wanted() {
        let side =
            |rate| Measured { admissions_per_second: rate, writes_per_job: 4.5, ..Measured::default() };
        let floor = FloorRun { in_flight: 32, tried: vec![], measured: side(100.0) };
        let case = Case {
            name: "x".into(),
            operator: side(75.0),
            floor: Some(floor),
            others: Vec::new(),
            figures: [].into(),
        };
        let text = text(&case);
        assert!(text.contains("admissions: 75 % of the bare client's (wanted: at least 80 %)"), "{text}");
        assert!(text.contains("for each job: 4.50 (wanted: at most 4)"), "{text}");
    }

    #[test]
    fn others_are_rows_with_their_writers() {
        let ran = |process: &str| Measured {
            processor_seconds: [(process.to_owned(), 1.5)].into(),
            writes_per_job: 9.0,
            ..Measured::default()
        };
        let writes_per_job = [("Kueue", 5.25), ("job controller", 3.75)].into();
        let other = OtherRun { name: "Kueue".into(), measured: ran("kueue"), writes_per_job };
        let case = |others| Case {
            name: "x".into(),
            operator: ran("operator"),
            floor: None,
            others,
            figures: [].into(),
        };
        let alone = text(&case(vec![]));
        assert!(alone.contains("processor seconds  operator\n") && !alone.contains("Kueue"), "{alone}");
        let both = text(&case(vec![other]));
        assert!(both.contains("processor seconds  operator  kueue\n"), "{both}");
        let writes = "writes of Kueue for each job: 9.00 (5.25 of Kueue, 3.75 of job controller)";
        assert!(both.contains(writes), "{both}");
    }
}
