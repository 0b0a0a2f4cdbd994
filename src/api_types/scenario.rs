//! Scenarios: the administrator's templates of jobs, which `spec.scenario` of a Job names.
//!
//! What a job itself gives wins, field by field, so that a scenario says what most jobs of its kind want and a job only
//! what is different about it. A table is read whole or not at all, and held to the bounds that a Job's own fields have:
//! a job could have each field that a scenario supplies.

#[cfg(test)]
mod tests;

use std::{borrow::Cow, collections::BTreeMap};

use serde::Deserialize;

use super::{
    job::{EnvVar, JobResources, JobSpec, MAX_TEXT_BYTES},
    quantity::{self, Quantity, Range},
};
use crate::{names, yaml};

/// A template of jobs.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Scenario {
    /// What it is for, for people.
    pub description: Option<String>,
    /// Container image.
    pub image: String,
    /// Entry point; by default the image's.
    #[serde(default)]
    pub command: Vec<String>,
    /// Arguments; by default the image's.
    #[serde(default)]
    pub args: Vec<String>,
    /// Environment variables.
    #[serde(default)]
    pub env: Vec<Variable>,
    /// What a job needs.
    #[serde(default, with = "OnlyResources")]
    #[cfg_attr(test, schemars(with = "JobResources"))]
    pub resources: JobResources,
    /// The longest a job may run, in seconds.
    pub timeout_seconds: Option<i64>,
    /// User id of the process.
    pub run_as_user: Option<i64>,
}

/// An environment variable with its value. The catalogue serves all tenants, so it refers to no tenant's Secret.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Variable {
    /// Name of the variable.
    pub name: String,
    /// Its value.
    pub value: String,
}

/// The fields of [`JobResources`], and no others: the API server refuses other fields of a Job, and this type those of a table.
#[derive(Deserialize)]
#[cfg_attr(test, derive(serde::Serialize))]
#[serde(remote = "JobResources", rename_all = "camelCase", deny_unknown_fields)]
struct OnlyResources {
    cpu: Option<Quantity>,
    memory: Option<Quantity>,
    gpus: Option<i64>,
    ephemeral_storage: Option<Quantity>,
    bandwidth_mbps: Option<i64>,
}

/// The catalogue of scenarios, by name. The built-in one is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Scenarios {
    /// The scenarios, by name.
    scenarios: BTreeMap<String, Scenario>,
}

/// Why a catalogue is not accepted.
#[derive(Debug, thiserror::Error)]
pub enum ScenariosError {
    /// Not the YAML that a catalogue is.
    #[error("failed to read the catalogue: {0}")]
    Read(#[from] yaml::ReadError),
    /// A scenario that no job can name.
    #[error("scenario `{0}`: a name is 1 to 63 characters of a-z, 0-9 and -, the first and the last no -")]
    Name(String),
    /// A scenario with a field that no job may have.
    #[error("scenario `{scenario}`: {field} {problem}")]
    Field {
        /// Name of the scenario.
        scenario: String,
        /// Name of the field.
        field: &'static str,
        /// What is wrong with it.
        problem: String,
    },
}

/// The field that is wrong, and why.
type Check = Result<(), (&'static str, String)>;

/// A job names a scenario that is not in the catalogue.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("the catalogue has no scenario `{scenario}`: it {}", has(known))]
pub struct UnknownScenario {
    scenario: String,
    known: Vec<String>,
}

fn has(known: &[String]) -> String {
    if known.is_empty() { "is empty".to_owned() } else { format!("has {}", known.join(", ")) }
}

impl Scenarios {
    /// Reads a catalogue from YAML (`scenarios: {name: {image, …}}`).
    ///
    /// # Errors
    /// [`ScenariosError`] names the scenario and field that is wrong.
    pub fn from_yaml(text: &str) -> Result<Self, ScenariosError> {
        let catalogue: Self = yaml::read(text)?;
        for (name, scenario) in &catalogue.scenarios {
            if !is_name(name) {
                return Err(ScenariosError::Name(name.clone()));
            }
            scenario.check().map_err(|(field, problem)| ScenariosError::Field {
                scenario: name.clone(),
                field,
                problem,
            })?;
        }
        Ok(catalogue)
    }

    /// The scenario of that name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Scenario> {
        self.scenarios.get(name)
    }

    /// The scenarios by their names, in order.
    pub fn all(&self) -> impl Iterator<Item = (&str, &Scenario)> {
        self.scenarios.iter().map(|(name, scenario)| (name.as_str(), scenario))
    }

    /// The scenario that a job names; `None` where it names none.
    ///
    /// # Errors
    /// [`UnknownScenario`] names the ones that there are.
    pub fn of(&self, spec: &JobSpec) -> Result<Option<&Scenario>, UnknownScenario> {
        let Some(name) = &spec.scenario else { return Ok(None) };
        self.get(name).map(Some).ok_or_else(|| UnknownScenario {
            scenario: name.clone(),
            known: self.scenarios.keys().cloned().collect(),
        })
    }

    /// A job's spec with everything that its scenario supplies.
    ///
    /// # Errors
    /// [`UnknownScenario`], as [`of`](Self::of).
    pub fn complete<'a>(&self, spec: &'a JobSpec) -> Result<Cow<'a, JobSpec>, UnknownScenario> {
        Ok(self.of(spec)?.map_or(Cow::Borrowed(spec), |scenario| Cow::Owned(scenario.complete(spec.clone()))))
    }

    /// The longest a job may run by itself or by its scenario, in seconds. A scenario that the catalogue no longer has
    /// bounds nothing.
    #[must_use]
    pub fn timeout_seconds(&self, spec: &JobSpec) -> Option<i64> {
        spec.timeout_seconds.or_else(|| self.of(spec).ok().flatten()?.timeout_seconds)
    }
}

impl Scenario {
    /// What a job needs that gives `own`: its own where given, the scenario's elsewhere.
    #[must_use]
    pub fn resources(&self, own: JobResources) -> JobResources {
        let default = self.resources.clone();
        JobResources {
            cpu: own.cpu.or(default.cpu),
            memory: own.memory.or(default.memory),
            gpus: own.gpus.or(default.gpus),
            ephemeral_storage: own.ephemeral_storage.or(default.ephemeral_storage),
            bandwidth_mbps: own.bandwidth_mbps.or(default.bandwidth_mbps),
        }
    }

    fn complete(&self, mut spec: JobSpec) -> JobSpec {
        spec.image.get_or_insert_with(|| self.image.clone());
        // Arguments belong to their command: a job with a command of its own leaves both of the scenario's away, as a
        // pod does with those of its image.
        if spec.command.is_empty() {
            spec.command.clone_from(&self.command);
            if spec.args.is_empty() {
                spec.args.clone_from(&self.args);
            }
        }
        // The scenario's first: a job's may refer to them, and of two of one name the last counts.
        spec.env = self.env.iter().map(Variable::to_env).chain(spec.env).collect();
        spec.resources = Some(self.resources(spec.resources.unwrap_or_default()));
        spec.timeout_seconds = spec.timeout_seconds.or(self.timeout_seconds);
        spec.run_as_user = spec.run_as_user.or(self.run_as_user);
        spec
    }

    /// The first field that a job could not have, and why.
    fn check(&self) -> Check {
        check_length("image", &self.image, 1, 1024)?;
        check_image(&self.image)?;
        check_texts("command", &self.command)?;
        check_texts("args", &self.args)?;
        check_count("env", self.env.len(), 128)?;
        self.env.iter().try_for_each(Variable::check)?;
        self.check_size()?;
        check_resources(&self.resources)?;
        check_range("timeoutSeconds", self.timeout_seconds, 1, 31_536_000)?;
        check_range("runAsUser", self.run_as_user, 0, 2_147_483_647)
    }
}

impl Scenario {
    /// All texts together: a job's may be as much again.
    fn check_size(&self) -> Check {
        let variables = self.env.iter().flat_map(|variable| [&variable.name, &variable.value]);
        let texts = [&self.image].into_iter().chain(&self.command).chain(&self.args).chain(variables);
        let bytes: usize = texts.map(String::len).sum();
        if bytes <= MAX_TEXT_BYTES {
            return Ok(());
        }
        Err(("texts", format!("have {bytes} bytes in all: give at most {MAX_TEXT_BYTES}")))
    }
}

impl Variable {
    fn to_env(&self) -> EnvVar {
        let Self { name, value } = self.clone();
        EnvVar { name, value: Some(value), secret_key_ref: None, config_map_key_ref: None }
    }

    fn check(&self) -> Check {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
        let starts = !self.name.starts_with(|c: char| c.is_ascii_digit());
        let dots = self.name == "." || self.name.starts_with("..");
        check_length("env.name", &self.name, 1, 253)?;
        if !starts || dots || !self.name.chars().all(plain) {
            let problem = "give letters, digits, -, . and _, the first no digit, and no two dots first";
            return Err(("env.name", format!("is `{}`: {problem}", self.name)));
        }
        if self.name.starts_with("CROFTER_") {
            let problem = "names that begin with CROFTER_ are Crofter's own";
            return Err(("env.name", format!("is `{}`: {problem}", self.name)));
        }
        if names::makes_gpus_visible(&self.name) {
            let problem = "it is set by the node, for the GPUs of resources.gpus";
            return Err(("env.name", format!("is `{}`: {problem}", self.name)));
        }
        check_length("env.value", &self.value, 0, 32_768)?;
        check_no_nul("env.value", &self.value)
    }
}

/// Whether a job can name a scenario so: the CRD's pattern.
fn is_name(name: &str) -> bool {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    (1..=63).contains(&name.len())
        && name.chars().all(inner)
        && !name.starts_with('-')
        && !name.ends_with('-')
}

fn check_resources(resources: &JobResources) -> Check {
    let JobResources { cpu, memory, gpus, ephemeral_storage, bandwidth_mbps } = resources;
    let check = |field, quantity: &Option<Quantity>, range: Range| {
        let checked = quantity.as_ref().map_or(Ok(()), |quantity| range.check(quantity));
        checked.map_err(|error| (field, format!("is wrong: {error}")))
    };
    check("resources.cpu", cpu, quantity::CPU)?;
    check("resources.memory", memory, quantity::MEMORY)?;
    check("resources.ephemeralStorage", ephemeral_storage, quantity::DISK)?;
    check_range("resources.gpus", *gpus, 0, 1024)?;
    check_range("resources.bandwidthMbps", *bandwidth_mbps, 0, 1_000_000)
}

fn check_range(field: &'static str, value: Option<i64>, least: i64, most: i64) -> Check {
    match value {
        Some(value) if !(least..=most).contains(&value) => {
            Err((field, format!("is {value}: give {least} to {most}")))
        }
        _ => Ok(()),
    }
}

fn check_length(field: &'static str, text: &str, least: usize, most: usize) -> Check {
    let length = text.chars().count();
    if (least..=most).contains(&length) {
        Ok(())
    } else {
        Err((field, format!("has {length} characters: give {least} to {most}")))
    }
}

/// The characters that a reference to an image may have: the CRD's pattern.
fn check_image(image: &str) -> Check {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._:/@+[]-".contains(c);
    let starts = image.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '[');
    if starts && image.chars().all(plain) {
        return Ok(());
    }
    Err(("image", format!("is `{}`: give registry/name:tag, without spaces", image.escape_debug())))
}

/// A process reads its arguments and variables to the first NUL.
fn check_no_nul(field: &'static str, text: &str) -> Check {
    if text.contains('\0') { Err((field, "has a NUL character: give none".to_owned())) } else { Ok(()) }
}

fn check_count(field: &'static str, count: usize, most: usize) -> Check {
    if count <= most { Ok(()) } else { Err((field, format!("has {count} entries: give at most {most}"))) }
}

fn check_texts(field: &'static str, texts: &[String]) -> Check {
    check_count(field, texts.len(), 256)?;
    texts.iter().try_for_each(|text| {
        check_length(field, text, 0, 32_768)?;
        check_no_nul(field, text)
    })
}
