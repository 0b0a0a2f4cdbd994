//! What a job asks for and a node has, as exact integers.

use std::ops::{Add, AddAssign, Sub};

use crate::api_types::{JobSpec, Quantity, quantity::QuantityError};

/// CPU of a job that names none, in thousandths of a core.
const DEFAULT_CPU_MILLI: u64 = 1000;
/// Memory of a job that names none, in bytes (512 MiB).
const DEFAULT_MEMORY_BYTES: u64 = 512 << 20;

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
}

/// A field of a job's resources that can't be read.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("spec.resources.{field}: {source}")]
pub struct ResourceError {
    field: &'static str,
    source: QuantityError,
}

impl Resources {
    /// What a job asks for: its own numbers, else 1 core and 512 MiB.
    ///
    /// # Errors
    /// [`ResourceError`] names the field; the CRD's rules refuse such a job, so it was stored without them.
    pub fn of_job(spec: &JobSpec) -> Result<Self, ResourceError> {
        let own = spec.resources.clone().unwrap_or_default();
        let read =
            |field, value: Option<&Quantity>, to: fn(&Quantity) -> Result<u64, QuantityError>, default| {
                value.map_or(Ok(default), |q| to(q).map_err(|source| ResourceError { field, source }))
            };
        Ok(Self {
            cpu_milli: read("cpu", own.cpu.as_ref(), Quantity::milli, DEFAULT_CPU_MILLI)?,
            memory_bytes: read("memory", own.memory.as_ref(), Quantity::units, DEFAULT_MEMORY_BYTES)?,
            gpus: u64::try_from(own.gpus).unwrap_or(0),
            bandwidth_mbps: u64::try_from(own.bandwidth_mbps).unwrap_or(0),
            ephemeral_bytes: read("ephemeralStorage", own.ephemeral_storage.as_ref(), Quantity::units, 0)?,
        })
    }

    /// Whether this fits into `room` on a node. Bandwidth is a quota of the tenant and no property of a node.
    #[must_use]
    pub fn fits(&self, room: &Self) -> bool {
        self.cpu_milli <= room.cpu_milli
            && self.memory_bytes <= room.memory_bytes
            && self.gpus <= room.gpus
            && self.ephemeral_bytes <= room.ephemeral_bytes
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
        }
    }
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
    use super::*;
    use crate::api_types::job::JobResources;

    #[test]
    fn a_job_without_numbers_gets_the_defaults() {
        let spec: JobSpec = serde_json::from_value(serde_json::json!({"image": "a"})).unwrap();
        let asked = Resources::of_job(&spec).unwrap();
        assert_eq!((asked.cpu_milli, asked.memory_bytes, asked.gpus), (1000, 536_870_912, 0));
    }

    #[test]
    fn the_wrong_field_is_named() {
        let mut spec: JobSpec = serde_json::from_value(serde_json::json!({"image": "a"})).unwrap();
        spec.resources = Some(JobResources { memory: Some("4Gb".into()), ..JobResources::default() });
        let error = Resources::of_job(&spec).unwrap_err().to_string();
        assert!(error.starts_with("spec.resources.memory: `4Gb` is no quantity"), "{error}");
    }

    #[test]
    fn numbers_read_as_people_write_them() {
        assert_eq!(cores(1500), "1.5");
        assert_eq!(cores(62_000), "62");
        assert_eq!([cores(0), cores(1), cores(10_000)], ["0", "0.001", "10"]);
        assert_eq!(gigabytes(16_500_000_000), "16.5");
    }
}
