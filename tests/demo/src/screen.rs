//! The rows as lines of text: a full screen, or what has changed.
//!
//! Pure: a world and the size of the terminal in, lines out.

use crofter::api_types::JobPhase;

use crate::world::{JobRow, NodeRow, TenantRow, UsageRow, World};

/// What the screen says besides the world.
#[derive(Clone, Debug, Default)]
pub(crate) struct Frame {
    /// One line above the tables.
    pub(crate) title: String,
    /// Lines below them.
    pub(crate) footer: Vec<String>,
}

#[derive(Clone, Copy)]
enum Colour {
    Plain,
    Bold,
    Dim,
    Red,
    Green,
    Yellow,
    Cyan,
}

impl Colour {
    /// `text`, cut to `width` characters and in this colour.
    fn paint(self, text: &str, width: usize) -> String {
        let cut: String = text.chars().take(width).collect();
        let code = match self {
            Self::Plain => return cut,
            Self::Bold => 1,
            Self::Dim => 2,
            Self::Red => 31,
            Self::Green => 32,
            Self::Yellow => 33,
            Self::Cyan => 36,
        };
        format!("\x1b[{code}m{cut}\x1b[0m")
    }

    fn of(phase: JobPhase) -> Self {
        match phase {
            JobPhase::Queued => Self::Plain,
            JobPhase::Assigned | JobPhase::Retrying => Self::Yellow,
            JobPhase::Running => Self::Cyan,
            JobPhase::Completed => Self::Green,
            JobPhase::Failed | JobPhase::TimedOut | JobPhase::Rejected => Self::Red,
            JobPhase::Canceled => Self::Dim,
        }
    }
}

type Row = (Colour, Vec<String>);

/// A screen of `width` and `height` characters, ready to print. Where that is too little for all, jobs that have ended
/// go first, and of the usage rows the older ones.
pub(crate) fn lines(world: &World, frame: &Frame, width: usize, height: usize) -> Vec<String> {
    let empty = || (Colour::Plain, String::new());
    let mut all = vec![(Colour::Bold, frame.title.clone()), empty()];
    all.extend(table(&TENANT_HEAD, tenants(world)));
    all.push(empty());
    all.extend(table(&NODE_HEAD, nodes(world)));
    all.push(empty());

    // Besides the rows of the two tables below: their headings, and an empty line after each.
    let room = height.saturating_sub(all.len() + frame.footer.len() + 4).max(3);
    let for_usage = world.usage.len().clamp(1, 6).min(room / 3);
    all.extend(table(&JOB_HEAD, jobs(world, room - for_usage)));
    all.push(empty());
    all.extend(table(&USAGE_HEAD, usage(world, for_usage)));
    all.push(empty());
    all.extend(frame.footer.iter().map(|line| (Colour::Dim, line.clone())));
    all.iter().map(|(colour, text)| colour.paint(text, width)).collect()
}

/// What is different in `new`, one line for each change of a phase, a reason, an admission or a usage row.
pub(crate) fn changes(old: &World, new: &World) -> Vec<String> {
    let mut out = Vec::new();
    for tenant in &new.tenants {
        let before = old.tenants.iter().find(|other| other.name == tenant.name);
        if before.is_none_or(|b| {
            (&b.phase, &b.ready, &b.workers) != (&tenant.phase, &tenant.ready, &tenant.workers)
        }) {
            let (phase, ready, workers) = (dash(&tenant.phase), dash(&tenant.ready), dash(&tenant.workers));
            out.push(format!("tenant {}: {phase}, ready {ready}, workers {workers}", tenant.name));
        }
    }
    for node in &new.nodes {
        let before = old.nodes.iter().find(|other| other.name == node.name);
        if before.is_none_or(|b| {
            (b.ready, &b.labelled, &b.admitted) != (node.ready, &node.labelled, &node.admitted)
        }) {
            let ready = if node.ready { "ready" } else { "not ready" };
            let (labelled, admitted) = (dash(&node.labelled), dash(&node.admitted));
            out.push(format!("node {}: {ready}, labelled for {labelled}, admitted to {admitted}", node.name));
        }
    }
    for job in &new.jobs {
        let before = old.jobs.iter().find(|b| (&b.namespace, &b.name) == (&job.namespace, &job.name));
        if before.is_none_or(|b| (b.phase, &b.reason, b.attempt) != (job.phase, &job.reason, job.attempt)) {
            let at = if job.node.is_empty() { String::new() } else { format!(" on {}", job.node) };
            let why = format!("{} {}", job.reason, job.message);
            out.push(format!("job {}/{}: {}{at} {}", job.namespace, job.name, job.phase, why.trim()));
        }
    }
    for row in new.usage.iter().rev().filter(|row| !old.usage.contains(row)) {
        let (tenant, job, attempt, seconds) = (&row.tenant, &row.job, row.attempt, row.seconds);
        let (cores, gb) = (row.core_seconds, row.gb_seconds);
        out.push(format!(
            "usage {tenant}/{job} attempt {attempt}: {seconds:.1} s, {cores:.2} core s, {gb:.2} GB s"
        ));
    }
    out.into_iter().map(|line| line.trim_end().to_owned()).collect()
}

/// Each example with how it should end and how it is.
pub(crate) fn expectations(world: &World) -> Vec<String> {
    let rows = world.jobs.iter().filter_map(|job| {
        let expected = job.expected.as_ref()?;
        let is = format!("{}/{}", job.phase, job.reason);
        let should = format!("{}/{}", expected.phase, expected.reason);
        let verdict = if job.as_expected() { "as expected" } else { "NOT as expected" };
        Some((
            Colour::Plain,
            vec![
                job.namespace.clone(),
                job.name.clone(),
                should,
                is,
                verdict.to_owned(),
                job.message.clone(),
            ],
        ))
    });
    let head = ["NAMESPACE", "JOB", "SHOULD END", "IS", "", "MESSAGE"];
    table(&head, rows.collect()).into_iter().map(|(_, line)| line).collect()
}

const TENANT_HEAD: [&str; 8] = ["TENANT", "PLAN", "PHASE", "READY", "JOBS", "QUEUED", "CPU", "WORKERS"];
const NODE_HEAD: [&str; 6] = ["NODE", "READY", "LABELLED FOR", "ADMITTED TO", "CPU", "MEMORY"];
const JOB_HEAD: [&str; 9] =
    ["NAMESPACE", "JOB", "QUEUE", "ASKS", "PHASE", "TRY", "NODE", "REASON", "MESSAGE"];
const USAGE_HEAD: [&str; 6] = ["USAGE IN POSTGRES", "JOB", "TRY", "SECONDS", "CORE SECONDS", "GB SECONDS"];

fn tenants(world: &World) -> Vec<Row> {
    let row = |t: &TenantRow| {
        let cells = [&t.name, &t.plan, &t.phase, &t.ready, &t.jobs, &t.queued, &t.cpu, &t.workers];
        (Colour::Plain, cells.map(|cell| dash(cell).to_owned()).to_vec())
    };
    world.tenants.iter().map(row).collect()
}

fn nodes(world: &World) -> Vec<Row> {
    let row = |n: &NodeRow| {
        let ready = if n.ready { "yes" } else { "no" }.to_owned();
        let cells = [&n.name, &ready, &n.labelled, &n.admitted, &n.cpu, &n.memory];
        let colour = if n.ready { Colour::Plain } else { Colour::Red };
        (colour, cells.map(|cell| dash(cell).to_owned()).to_vec())
    };
    world.nodes.iter().map(row).collect()
}

/// At most `room` rows, in the order of their names, with a last line that says what is left out.
fn jobs(world: &World, room: usize) -> Vec<Row> {
    let mut shown: Vec<&JobRow> = world.jobs.iter().collect();
    let hidden = if shown.len() > room { shown.len() - room.saturating_sub(1) } else { 0 };
    // A stable sort: what has not ended stays, the ended ones fall off the end.
    shown.sort_by_key(|job| job.ended());
    shown.truncate(world.jobs.len() - hidden);
    shown.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    let row = |job: &JobRow| {
        let attempt = if job.attempt == 0 { String::new() } else { job.attempt.to_string() };
        let (queue, phase) = (job.queue.to_owned(), job.phase.to_string());
        let cells = [
            &job.namespace,
            &job.name,
            &queue,
            &job.asks,
            &phase,
            &attempt,
            &job.node,
            &job.reason,
            &job.message,
        ];
        (Colour::of(job.phase), cells.map(|cell| dash(cell).to_owned()).to_vec())
    };
    let mut rows: Vec<Row> = shown.into_iter().map(row).collect();
    if hidden > 0 {
        rows.push((Colour::Dim, vec![format!("… {hidden} more")]));
    }
    rows
}

fn usage(world: &World, room: usize) -> Vec<Row> {
    let row = |row: &UsageRow| {
        let amounts = [row.seconds, row.core_seconds, row.gb_seconds].map(|amount| format!("{amount:.2}"));
        let cells = [row.tenant.clone(), row.job.clone(), row.attempt.to_string()];
        (Colour::Plain, cells.into_iter().chain(amounts).collect())
    };
    if world.usage.is_empty() {
        return vec![(Colour::Dim, vec!["nothing yet".to_owned()])];
    }
    world.usage.iter().take(room).map(row).collect()
}

/// A heading and rows, in columns as wide as their widest cell. A row of one cell only is a remark.
fn table(head: &[&str], rows: Vec<Row>) -> Vec<(Colour, String)> {
    let heading = (Colour::Bold, head.iter().map(|&cell| cell.to_owned()).collect());
    let all: Vec<Row> = std::iter::once(heading).chain(rows).collect();
    let mut widths = vec![0; head.len()];
    for (_, cells) in all.iter().filter(|(_, cells)| cells.len() == head.len()) {
        for (width, cell) in widths.iter_mut().zip(cells) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |(colour, cells): Row| {
        let padded: Vec<String> =
            cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        (colour, padded.join("  ").trim_end().to_owned())
    };
    all.into_iter().map(line).collect()
}

fn dash(text: &str) -> &str {
    if text.is_empty() { "-" } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::example::End;

    fn job(name: &str, phase: JobPhase, reason: &str) -> JobRow {
        JobRow {
            namespace: "tenant-acme".to_owned(),
            name: name.to_owned(),
            queue: "default",
            asks: "1 1Gi".to_owned(),
            phase,
            reason: reason.to_owned(),
            message: "because".to_owned(),
            node: String::new(),
            attempt: 0,
            expected: Some(End { phase: JobPhase::Completed, reason: "Succeeded".to_owned() }),
        }
    }

    fn usage_row(job: &str) -> UsageRow {
        let (tenant, job) = ("acme".to_owned(), job.to_owned());
        UsageRow { tenant, job, attempt: 1, seconds: 2.0, core_seconds: 1.0, gb_seconds: 0.5 }
    }

    #[test]
    fn a_small_screen_drops_jobs_that_have_ended_and_says_so() {
        let mut world = World { usage: vec![usage_row("a")], ..World::default() };
        world.jobs.extend((0..20).map(|i| job(&format!("done-{i:02}"), JobPhase::Completed, "Succeeded")));
        world.jobs.push(job("zebra", JobPhase::Running, "Running"));
        let frame = Frame { title: "title".to_owned(), footer: vec!["footer".to_owned()] };
        let screen = lines(&world, &frame, 60, 24);
        assert_eq!(screen.len(), 24);
        let text = screen.join("\n");
        assert!(text.contains("zebra"), "{text}");
        assert!(text.contains("done-00") && !text.contains("done-19"), "{text}");
        let shown = screen.iter().filter(|line| line.contains("done-")).count();
        assert!(text.contains(&format!("… {} more", 20 - shown)), "{text}");
        let all = lines(&world, &frame, 60, 100).join("\n");
        assert!(all.contains("done-19") && !all.contains("more"), "{all}");
    }

    #[test]
    fn a_change_is_printed_once_and_an_unchanged_state_is_not() {
        let old = World { jobs: vec![job("a", JobPhase::Queued, "NoWorkers")], ..World::default() };
        let mut new = old.clone();
        assert_eq!(changes(&old, &new), Vec::<String>::new());
        new.jobs[0].phase = JobPhase::Running;
        new.jobs[0].node = "real-1".to_owned();
        new.usage.push(usage_row("a"));
        let printed = changes(&old, &new);
        assert_eq!(
            printed,
            [
                "job tenant-acme/a: Running on real-1 NoWorkers because",
                "usage acme/a attempt 1: 2.0 s, 1.00 core s, 0.50 GB s",
            ]
        );
    }

    #[test]
    fn an_end_that_is_not_the_expected_one_is_marked() {
        let jobs =
            vec![job("a", JobPhase::Completed, "Succeeded"), job("b", JobPhase::Failed, "NonZeroExit")];
        let printed = expectations(&World { jobs, ..World::default() });
        assert!(printed[1].contains("as expected") && !printed[1].contains("NOT"), "{printed:?}");
        assert!(
            printed[2].contains("Failed/NonZeroExit") && printed[2].contains("NOT as expected"),
            "{printed:?}"
        );
    }
}
