//! What processes cost, as the kernel counts it: `/proc/<pid>/stat` and `/proc/<pid>/status`.

use std::{collections::BTreeMap, fs};

use anyhow::Context;

/// Clock ticks a second in `/proc`: `USER_HZ`, which is 100 wherever Linux runs a control plane.
const TICKS: f64 = 100.0;
/// What the machine spent on other processes than the measured ones.
pub const OTHERS: &str = "others";

/// Processor seconds so far, by process.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading {
    by_process: BTreeMap<String, f64>,
    machine: f64,
}

impl Reading {
    /// Of these processes (name, id), at this moment. One that has ended is left out.
    ///
    /// # Errors
    /// When the kernel does not give it.
    pub fn of(processes: &[(String, u32)]) -> anyhow::Result<Self> {
        let machine = fs::read_to_string("/proc/stat").context("reading /proc/stat")?;
        let machine = busy(&machine).context("no times in /proc/stat")?;
        let stat = |pid: &u32| fs::read_to_string(format!("/proc/{pid}/stat")).ok();
        let one = |(name, pid): &(String, u32)| Some((name.clone(), processor_seconds(&stat(pid)?)?));
        Ok(Self { by_process: processes.iter().filter_map(one).collect(), machine })
    }

    /// What was used since an earlier reading; a process that was not there then has used all of its own.
    pub fn since(&self, before: &Self) -> BTreeMap<String, f64> {
        let used = |(name, now): (&String, &f64)| {
            let then = before.by_process.get(name).copied().unwrap_or_default();
            (name.clone(), now - then)
        };
        let mut used: BTreeMap<String, f64> = self.by_process.iter().map(used).collect();
        let known: f64 = used.values().sum();
        used.insert(OTHERS.to_owned(), (self.machine - before.machine - known).max(0.0));
        used
    }
}

/// The most memory that a process has had at once, in MiB.
///
/// # Errors
/// When it has ended.
pub fn peak_memory(pid: u32) -> anyhow::Result<f64> {
    let path = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    high_water(&text).with_context(|| format!("no VmHWM in {path}"))
}

/// User and system time of a process from its `stat`.
fn processor_seconds(stat: &str) -> Option<f64> {
    // The second field, the program's name in parentheses, may itself hold spaces and parentheses.
    let (_, rest) = stat.rsplit_once(") ")?;
    let fields: Vec<&str> = rest.split(' ').collect();
    let ticks = |field: usize| fields.get(field)?.parse::<f64>().ok();
    Some((ticks(11)? + ticks(12)?) / TICKS)
}

/// Seconds that the machine's processors were not idle, from `/proc/stat`.
fn busy(stat: &str) -> Option<f64> {
    let line = stat.lines().next()?.strip_prefix("cpu ")?;
    let ticks: Vec<f64> = line.split_whitespace().map_while(|field| field.parse().ok()).collect();
    // user, nice, system, idle, iowait, irq, softirq, steal; what follows is counted in user already.
    let [user, nice, system, _idle, _iowait, irq, softirq, steal, ..] = ticks.as_slice() else { return None };
    Some((user + nice + system + irq + softirq + steal) / TICKS)
}

fn high_water(status: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: f64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kibibytes / 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_words_are_read() {
        let stat = "42 (a) b (c)) S 1 42 42 0 -1 4194560 900 0 0 0 250 50 0 0 20 0 8 0 1000 1 2";
        assert_eq!(processor_seconds(stat), Some(3.0));
        let machine = "cpu  100 10 50 9000 500 1 2 7 99 0\ncpu0 1 1\n";
        assert_eq!(busy(machine), Some(1.7));
        assert_eq!(high_water("VmPeak:\t 9 kB\nVmHWM:\t    2048 kB\nVmRSS: 1 kB\n"), Some(2.0));
    }

    #[test]
    fn cpu_of_unknown_processes_counts_as_others() {
        let reading = |by: &[(&str, f64)], machine| Reading {
            by_process: by.iter().map(|(name, seconds)| ((*name).to_owned(), *seconds)).collect(),
            machine,
        };
        let before = reading(&[("api", 1.0)], 10.0);
        let used = reading(&[("api", 3.0), ("operator", 0.5)], 14.0).since(&before);
        let wanted = [("api", 2.0), ("operator", 0.5), (OTHERS, 1.5)];
        assert_eq!(used, wanted.map(|(name, seconds)| (name.to_owned(), seconds)).into());
    }

    #[test]
    fn this_process_costs_something() {
        let me = [("me".to_owned(), std::process::id())];
        assert!(Reading::of(&me).unwrap().by_process.contains_key("me"));
        assert!(peak_memory(std::process::id()).unwrap() > 1.0);
    }
}
