//! The examples: how each of their jobs should end, as it says itself.

use std::path::{Path, PathBuf};

use crofter::api_types::{Job, JobPhase};
use kube::ResourceExt;

/// The annotation of an example that says how it ends: `Phase/Reason`.
const ENDS: &str = "example.crofter.io/ends";

/// The tenants.
pub(crate) const TENANTS: &str = "examples/tenants.yaml";
/// A key of one of them.
pub(crate) const KEYS: &str = "examples/tenant-acme/keys.yaml";
/// The catalogue that some of their jobs are made from.
pub(crate) const SCENARIOS: &str = "examples/operator/scenarios.yaml";
/// Their jobs.
pub(crate) const JOBS: [&str; 2] = ["examples/tenant-acme/jobs.yaml", "examples/tenant-globex/jobs.yaml"];

/// How a job ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct End {
    pub(crate) phase: JobPhase,
    pub(crate) reason: String,
}

impl End {
    /// How this job should end; `None` when it is no example.
    pub(crate) fn of(job: &Job) -> Option<Self> {
        let (phase, reason) = job.annotations().get(ENDS)?.split_once('/')?;
        Some(Self { phase: phase.parse().ok()?, reason: reason.to_owned() })
    }
}

/// The root of the project, which the paths of examples are relative to.
pub(crate) fn project() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_owned()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use crofter::{api_types::Scenarios, yaml};

    use super::*;

    fn read() -> Vec<Job> {
        let files = JOBS.map(|path| std::fs::read_to_string(project().join(path)).unwrap());
        files.iter().flat_map(|text| yaml::read_all(text).unwrap()).collect()
    }

    #[test]
    fn every_example_says_how_it_ends() {
        let jobs = read();
        let ends: BTreeSet<String> = jobs
            .iter()
            .map(|job| End::of(job).unwrap_or_else(|| panic!("{} does not say it", job.name_any())))
            .map(|end| format!("{}/{}", end.phase, end.reason))
            .collect();
        let shown = ["Completed/Succeeded", "Failed/NonZeroExit", "Rejected/ExceedsQuota"];
        assert!(shown.iter().all(|end| ends.contains(*end)), "{ends:?}");
        assert!(jobs.len() >= 12, "{} jobs", jobs.len());
    }

    #[test]
    fn every_scenario_that_an_example_names_exists() {
        let catalogue = std::fs::read_to_string(project().join(SCENARIOS)).unwrap();
        let catalogue = Scenarios::from_yaml(&catalogue).unwrap();
        let named = read().iter().filter(|job| catalogue.of(&job.spec).unwrap().is_some()).count();
        assert!(named > 0);
    }
}
