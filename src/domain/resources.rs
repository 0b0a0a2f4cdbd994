//! What a job asks for and a node has, as exact integers.

use std::ops::{Add, AddAssign, Sub};

use crate::api_types::{
    JobSpec, Quantity, Reason, Scenarios,
    quantity::{self, QuantityError, Range},
    quota::QuotaDimension,
    scenario::UnknownScenario,
};

/// CPU of a job that names none, in thousandths of a core.
const DEFAULT_CPU_MILLI: u64 = 1000;
/// Memory of a job that names none, in bytes (512 MiB).
const DEFAULT_MEMORY_BYTES: u64 = 512 << 20;

/// Reads a quantity in the unit in which it is counted.
type Count = fn(&Quantity) -> Result<u64, QuantityError>;

/// An amount of everything that quotas and nodes limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Resources {
    /// Thousandths of a CPU core.
    pub cpu_milli: u64,
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// Whole GPUs.
    pub gpus: u64,
    /// Mbit/s of network.
    pub bandwidth_mbps: u64,
    /// Bytes of scratch space on the node's disk.
    pub ephemeral_bytes: u64,
    /// Pods: one for each job; a kubelet has a limit of them.
    pub pods: u64,
}

/// Why it is not known what a job asks for.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum AskError {
    /// A field can't be read.
    #[error("spec.resources.{field}: {source}")]
    Field {
        /// Its name.
        field: &'static str,
        /// What is wrong with it.
        source: QuantityError,
    },
    /// The size of a scratch volume can't be read.
    #[error("spec.volumes: scratch of `{volume}`: {source}")]
    Scratch {
        /// Name of the volume.
        volume: String,
        /// What is wrong with its size.
        source: QuantityError,
    },
    /// The job's scenario is not in the catalogue.
    #[error(transparent)]
    Scenario(#[from] UnknownScenario),
}

impl AskError {
    /// Why such a job is Rejected.
    #[must_use]
    pub fn reason(&self) -> Reason {
        match self {
            // Not InvalidObject: that is taken back from a job that can be read.
            Self::Field { .. } | Self::Scratch { .. } => Reason::PodRefused,
            Self::Scenario(_) => Reason::UnknownScenario,
        }
    }
}

impl Resources {
    /// The amount that counts against a quota, in the unit of [`QuotaDimension::limit`]; `None` of those that do not
    /// limit what jobs hold.
    #[must_use]
    pub fn amount(&self, of: QuotaDimension) -> Option<u64> {
        match of {
            QuotaDimension::Cpu => Some(self.cpu_milli),
            QuotaDimension::Memory => Some(self.memory_bytes),
            QuotaDimension::Gpus => Some(self.gpus),
            QuotaDimension::Bandwidth => Some(self.bandwidth_mbps),
            QuotaDimension::Jobs
            | QuotaDimension::QueuedJobs
            | QuotaDimension::JobsPerHour
            | QuotaDimension::Workers
            | QuotaDimension::Storage
            | QuotaDimension::JobTimeout
            | QuotaDimension::ApiKeys => None,
        }
    }

    /// What a job asks for: its own numbers, else its scenario's, else 1 core and 512 MiB. Its scratch volumes are on
    /// the node's disk like what it writes elsewhere, and it is one pod. What is below the least that a job may ask for
    /// counts as that: the CRD and the catalogue refuse it, so it was stored without their rules, and to a kubelet a
    /// limit of zero is none.
    ///
    /// # Errors
    /// [`AskError`]: the catalogue does not have the job's scenario; or names the field that can't be read: the CRD's
    /// rules refuse such a job, so it was stored without them.
    pub fn of_job(spec: &JobSpec, scenarios: &Scenarios) -> Result<Self, AskError> {
        let own = spec.resources.clone().unwrap_or_default();
        let own = match scenarios.of(spec)? {
            Some(scenario) => scenario.resources(own),
            None => own,
        };
        let read = |field, value: Option<&Quantity>, range: Range, to: Count, default| {
            let count = |q| to(&range.at_least(q)).map_err(|source| AskError::Field { field, source });
            value.map_or(Ok(default), count)
        };
        let count = |number: Option<i64>| number.and_then(|n| u64::try_from(n).ok()).unwrap_or(0);
        let disk =
            read("ephemeralStorage", own.ephemeral_storage.as_ref(), quantity::DISK, Quantity::units, 0)?;
        Ok(Self {
            cpu_milli: read("cpu", own.cpu.as_ref(), quantity::CPU, Quantity::milli, DEFAULT_CPU_MILLI)?,
            memory_bytes: read(
                "memory",
                own.memory.as_ref(),
                quantity::MEMORY,
                Quantity::units,
                DEFAULT_MEMORY_BYTES,
            )?,
            gpus: count(own.gpus),
            bandwidth_mbps: count(own.bandwidth_mbps),
            ephemeral_bytes: disk.saturating_add(scratch(spec)?),
            pods: 1,
        })
    }

    /// Whether this fits into `room` on a node. Bandwidth is a quota of the tenant and no property of a node.
    #[must_use]
    pub fn fits(&self, room: &Self) -> bool {
        self.cpu_milli <= room.cpu_milli
            && self.memory_bytes <= room.memory_bytes
            && self.gpus <= room.gpus
            && self.ephemeral_bytes <= room.ephemeral_bytes
            && self.pods <= room.pods
    }

    /// The larger amount of each.
    #[must_use]
    pub fn max_each(&self, other: &Self) -> Self {
        Self {
            cpu_milli: self.cpu_milli.max(other.cpu_milli),
            memory_bytes: self.memory_bytes.max(other.memory_bytes),
            gpus: self.gpus.max(other.gpus),
            bandwidth_mbps: self.bandwidth_mbps.max(other.bandwidth_mbps),
            ephemeral_bytes: self.ephemeral_bytes.max(other.ephemeral_bytes),
            pods: self.pods.max(other.pods),
        }
    }
}

impl Add for Resources {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self {
            cpu_milli: self.cpu_milli.saturating_add(other.cpu_milli),
            memory_bytes: self.memory_bytes.saturating_add(other.memory_bytes),
            gpus: self.gpus.saturating_add(other.gpus),
            bandwidth_mbps: self.bandwidth_mbps.saturating_add(other.bandwidth_mbps),
            ephemeral_bytes: self.ephemeral_bytes.saturating_add(other.ephemeral_bytes),
            pods: self.pods.saturating_add(other.pods),
        }
    }
}

impl AddAssign for Resources {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

/// Room that is left; nothing goes below zero (a node may shrink under its pods).
impl Sub for Resources {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        Self {
            cpu_milli: self.cpu_milli.saturating_sub(other.cpu_milli),
            memory_bytes: self.memory_bytes.saturating_sub(other.memory_bytes),
            gpus: self.gpus.saturating_sub(other.gpus),
            bandwidth_mbps: self.bandwidth_mbps.saturating_sub(other.bandwidth_mbps),
            ephemeral_bytes: self.ephemeral_bytes.saturating_sub(other.ephemeral_bytes),
            pods: self.pods.saturating_sub(other.pods),
        }
    }
}

impl QuotaDimension {
    /// An amount as people write it in the unit of the quota, such as `1.5` of CPU cores.
    #[must_use]
    pub fn written(self, amount: u64) -> String {
        match self.unit() {
            1 => amount.to_string(),
            1000 => cores(amount),
            _ => gigabytes(amount),
        }
    }
}

/// The scratch volumes of a job, together.
fn scratch(spec: &JobSpec) -> Result<u64, AskError> {
    spec.volumes.iter().try_fold(0_u64, |sum, volume| {
        let size = volume.scratch.as_ref().map_or(Ok(0), |size| quantity::DISK.at_least(size).units());
        let size = size.map_err(|source| AskError::Scratch { volume: volume.name.clone(), source })?;
        Ok(sum.saturating_add(size))
    })
}

/// Cores as people write them: `1.5` for 1500.
#[must_use]
pub fn cores(milli: u64) -> String {
    decimal(milli, 1000)
}

/// Gigabytes (10^9) as people write them, with at most three decimals, rounded down.
#[must_use]
pub fn gigabytes(bytes: u64) -> String {
    decimal(bytes / 1_000_000, 1000)
}

fn decimal(value: u64, unit: u64) -> String {
    match value % unit {
        0 => (value / unit).to_string(),
        rest => format!("{}.{}", value / unit, format!("{rest:03}").trim_end_matches('0')),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::api_types::job::JobResources;

    #[test]
    fn a_job_without_numbers_gets_the_defaults() {
        let spec: JobSpec = serde_json::from_value(serde_json::json!({"image": "a"})).unwrap();
        let asked = Resources::of_job(&spec, &Scenarios::default()).unwrap();
        assert_eq!((asked.cpu_milli, asked.memory_bytes, asked.gpus), (1000, 536_870_912, 0));
    }

    #[test]
    fn each_number_is_the_jobs_own_or_its_scenarios_or_the_default() {
        let catalogue = "scenarios: {train: {image: t, resources: {cpu: 4, gpus: 2, bandwidthMbps: 100}}}";
        let catalogue = Scenarios::from_yaml(catalogue).unwrap();
        let asked = |resources: serde_json::Value| {
            let spec = serde_json::json!({"scenario": "train", "resources": resources});
            Resources::of_job(&serde_json::from_value(spec).unwrap(), &catalogue).unwrap()
        };
        let whole = Resources {
            cpu_milli: 4000,
            memory_bytes: DEFAULT_MEMORY_BYTES,
            gpus: 2,
            bandwidth_mbps: 100,
            ephemeral_bytes: 0,
            pods: 1,
        };
        assert_eq!(asked(serde_json::Value::Null), whole);
        let own = serde_json::json!({"cpu": "500m", "gpus": 0, "ephemeralStorage": "1Gi"});
        let mixed = Resources { cpu_milli: 500, gpus: 0, ephemeral_bytes: 1 << 30, ..whole };
        assert_eq!(asked(own), mixed, "0 GPUs are given, not absent");

        let unknown: JobSpec = serde_json::from_value(serde_json::json!({"scenario": "other"})).unwrap();
        let error = Resources::of_job(&unknown, &catalogue).unwrap_err();
        assert_eq!(error.reason(), Reason::UnknownScenario);
        assert_eq!(error.to_string(), "the catalogue has no scenario `other`: it has train");
    }

    #[test]
    fn no_job_asks_for_so_little_that_a_kubelet_takes_it_for_no_limit() {
        for nothing in ["0", "0.0", "0e3", "1e-400", "1n"] {
            let spec = json!({"image": "a", "resources": {
                "cpu": nothing, "memory": nothing, "ephemeralStorage": nothing,
            }});
            let asked =
                Resources::of_job(&serde_json::from_value(spec).unwrap(), &Scenarios::default()).unwrap();
            let least = (asked.cpu_milli, asked.memory_bytes, asked.ephemeral_bytes);
            assert_eq!(least, (1, 16 << 20, 1 << 20), "{nothing}");
        }
    }

    #[test]
    fn the_wrong_field_is_named() {
        let mut spec: JobSpec = serde_json::from_value(serde_json::json!({"image": "a"})).unwrap();
        spec.resources = Some(JobResources { memory: Some("4Gb".into()), ..JobResources::default() });
        let error = Resources::of_job(&spec, &Scenarios::default()).unwrap_err().to_string();
        assert!(error.starts_with("spec.resources.memory: `4Gb` is no quantity"), "{error}");
    }

    #[test]
    fn scratch_volumes_are_on_the_nodes_disk_too() {
        let spec: JobSpec = serde_json::from_value(serde_json::json!({
            "image": "a", "resources": {"ephemeralStorage": "2Gi"},
            "volumes": [{"name": "a", "mountPath": "/a", "scratch": "1Gi"}, {"name": "c", "mountPath": "/c", "claim": "c"},
                {"name": "b", "mountPath": "/b", "scratch": "512Mi"}],
        }))
        .unwrap();
        let asked = Resources::of_job(&spec, &Scenarios::default()).unwrap();
        assert_eq!(asked.ephemeral_bytes, (2 << 30) + (1 << 30) + (512 << 20));
        let mut bad = spec;
        bad.volumes[2].scratch = Some("many".into());
        let error = Resources::of_job(&bad, &Scenarios::default()).unwrap_err().to_string();
        assert!(error.starts_with("spec.volumes: scratch of `b`: `many` is no quantity"), "{error}");
    }

    #[test]
    fn numbers_read_as_people_write_them() {
        assert_eq!(cores(1500), "1.5");
        assert_eq!(cores(62_000), "62");
        assert_eq!([cores(0), cores(1), cores(10_000)], ["0", "0.001", "10"]);
        assert_eq!(gigabytes(16_500_000_000), "16.5");
    }
}
