//! What an import did, what it changed on the way, and what is left for people.

use std::fmt;

/// Most lines of each part: the rest is counted.
const MAX_LINES: usize = 200;

/// Lines of one part of the report.
#[derive(Debug, Default)]
pub struct Lines {
    lines: Vec<String>,
    more: u64,
}

impl Lines {
    /// Adds a line, without its control characters: it may hold what was in a row.
    pub fn add(&mut self, line: impl Into<String>) {
        if self.lines.len() == MAX_LINES {
            self.more += 1;
            return;
        }
        let line: String = line.into();
        self.lines.push(line.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect());
    }

    /// How many lines there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.more + u64::try_from(self.lines.len()).unwrap_or(u64::MAX)
    }

    fn write(&self, title: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.lines.is_empty() {
            return Ok(());
        }
        writeln!(f, "{title}:")?;
        for line in &self.lines {
            writeln!(f, "  {line}")?;
        }
        if self.more > 0 { writeln!(f, "  and {} more", self.more) } else { Ok(()) }
    }
}

/// The report of an import.
#[derive(Debug, Default)]
pub struct Report {
    /// Tenants that were written, or would be.
    pub tenants: u64,
    /// Jobs that were written, or would be.
    pub jobs: u64,
    /// Jobs that an earlier import has written.
    pub jobs_before: u64,
    /// Differences between a row and its object.
    pub changed: Lines,
    /// Rows that have no object, by design.
    pub left: Lines,
    /// Objects that could not be written.
    pub failed: Lines,
    /// What people have to do.
    pub to_do: Lines,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tenants, jobs, jobs_before, changed, left, failed, to_do } = self;
        write!(f, "imported: {tenants} tenants, {jobs} jobs")?;
        if *jobs_before > 0 {
            write!(f, "; {jobs_before} jobs were there already")?;
        }
        writeln!(f)?;
        changed.write("changed on the way", f)?;
        left.write("not imported", f)?;
        failed.write("failed", f)?;
        to_do.write("to do", f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_bounded_and_has_no_control_characters() {
        let mut report = Report { tenants: 2, jobs: 3, jobs_before: 1, ..Report::default() };
        report.changed.add("name \u{1b}[31mred\nline");
        (0..MAX_LINES + 5).for_each(|n| report.left.add(format!("job {n}")));
        let text = report.to_string();
        let begin = "imported: 2 tenants, 3 jobs; 1 jobs were there already\nchanged on the way:\n  name \u{fffd}[31mred\u{fffd}line\n";
        assert!(text.starts_with(begin), "{text}");
        assert!(text.ends_with("  job 199\n  and 5 more\n"), "{text}");
        assert_eq!((report.left.count(), report.failed.count()), (205, 0));
    }
}
