//! A job from a file and flags: `submit` and `can-run` take the same.

use std::{io::Read as _, path::PathBuf};

use serde_json::{Map, Value, json};

use crate::client::{Error, Result, spec::Submission};

/// Flags that describe a job. A flag replaces what the file has.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Job")]
pub struct SpecFlags {
    /// File with a Job manifest or with its spec alone, YAML or JSON; `-` for standard input
    #[arg(short, long, value_name = "FILE")]
    filename: Option<PathBuf>,
    /// Name of the job. Over the REST API it is the idempotency key: submitting it twice creates one job
    #[arg(long)]
    name: Option<String>,
    /// Container image
    #[arg(long)]
    image: Option<String>,
    /// Scenario of the catalogue
    #[arg(long)]
    scenario: Option<String>,
    /// Parameter of the work, such as frames=10
    #[arg(short, long, value_name = "NAME=VALUE", value_parser = pair)]
    param: Vec<(String, String)>,
    /// Environment variable
    #[arg(short, long, value_name = "NAME=VALUE", value_parser = pair)]
    env: Vec<(String, String)>,
    /// CPU, such as 2 or 500m
    #[arg(long)]
    cpu: Option<String>,
    /// Memory, such as 4Gi
    #[arg(long)]
    memory: Option<String>,
    /// Whole GPUs
    #[arg(long)]
    gpus: Option<u32>,
    /// Network bandwidth, in Mbit/s
    #[arg(long, value_name = "MBPS")]
    bandwidth: Option<u32>,
    /// Queue
    #[arg(long, value_parser = ["live", "default", "batch"])]
    queue: Option<String>,
    /// Priority in the queue
    #[arg(long, value_parser = ["high", "medium", "low"])]
    priority: Option<String>,
    /// Shared pool to run on
    #[arg(long)]
    pool: Option<String>,
    /// Longest running time over all attempts, in seconds
    #[arg(long, value_name = "SECONDS")]
    time_limit: Option<u32>,
    /// How often it is tried again
    #[arg(long, value_name = "COUNT")]
    max_retries: Option<u32>,
    /// Be refused at a quota in place of waiting
    #[arg(long)]
    reject: bool,
    /// Entry point and arguments of the container, after `--`
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

fn pair(text: &str) -> std::result::Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("give NAME=VALUE")?;
    if name.is_empty() {
        Err("the name is empty".to_owned())
    } else {
        Ok((name.to_owned(), value.to_owned()))
    }
}

impl SpecFlags {
    /// The job of the file and the flags.
    ///
    /// # Errors
    /// Neither is given, or the file can't be read.
    pub fn submission(&self) -> Result<Submission> {
        let mut job = match &self.filename {
            Some(file) => Submission::read(&read(file)?)?,
            None if self.image.is_none() && self.scenario.is_none() => {
                let message = "failed to describe the job: give a file with -f, or --image, or --scenario";
                return Err(Error::usage(message).next("submit --help"));
            }
            None => Submission::default(),
        };
        if self.name.is_some() {
            job.name.clone_from(&self.name);
        }
        self.apply(&mut job.spec);
        Ok(job)
    }

    fn apply(&self, spec: &mut Map<String, Value>) {
        let texts = [
            ("image", &self.image),
            ("scenario", &self.scenario),
            ("queue", &self.queue),
            ("priority", &self.priority),
            ("pool", &self.pool),
        ];
        for (field, value) in texts {
            if let Some(value) = value {
                spec.insert(field.to_owned(), json!(value));
            }
        }
        for (field, value) in [("timeoutSeconds", self.time_limit), ("maxRetries", self.max_retries)] {
            if let Some(value) = value {
                spec.insert(field.to_owned(), json!(value));
            }
        }
        if self.reject {
            spec.insert("onQuota".to_owned(), json!("Reject"));
        }
        if !self.command.is_empty() {
            spec.insert("command".to_owned(), json!(self.command));
            // Those of the file belong to its command.
            spec.remove("args");
        }
        let resources = [
            ("cpu", self.cpu.as_ref().map(|cpu| json!(cpu))),
            ("memory", self.memory.as_ref().map(|memory| json!(memory))),
            ("gpus", self.gpus.map(|gpus| json!(gpus))),
            ("bandwidthMbps", self.bandwidth.map(|mbps| json!(mbps))),
        ];
        let resources = resources.into_iter().filter_map(|(field, value)| Some((field.to_owned(), value?)));
        merge(spec, "resources", resources);
        let parameters = self.param.iter().map(|(name, value)| (name.clone(), json!(value)));
        merge(spec, "parameters", parameters);
        if !self.env.is_empty()
            && let Value::Array(env) = spec.entry("env").or_insert_with(|| json!([]))
        {
            let variable = |(name, value): &(String, String)| json!({"name": name, "value": value});
            env.extend(self.env.iter().map(variable));
        }
    }
}

/// Adds entries to a mapping of the spec. One that is of another type stays, so that the server names it.
fn merge(spec: &mut Map<String, Value>, field: &str, entries: impl Iterator<Item = (String, Value)>) {
    let mut entries = entries.peekable();
    if entries.peek().is_some()
        && let Value::Object(all) = spec.entry(field).or_insert_with(|| json!({}))
    {
        all.extend(entries);
    }
}

fn read(file: &PathBuf) -> Result<String> {
    let mut text = String::new();
    let read = if file.as_os_str() == "-" {
        std::io::stdin().read_to_string(&mut text).map(|_| ())
    } else {
        std::fs::read_to_string(file).map(|read| text = read)
    };
    let failed =
        |error| Error::usage(format!("failed to read {}: {error}", file.display())).next("submit --help");
    read.map_err(failed)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        spec: SpecFlags,
    }

    fn parsed(arguments: &[&str]) -> Result<Submission> {
        Line::try_parse_from([&["x"], arguments].concat()).unwrap().spec.submission()
    }

    #[test]
    fn flags_replace_what_the_file_has() {
        // Given a file with most of a job.
        let file = tempfile::NamedTempFile::new().unwrap();
        let manifest = "apiVersion: crofter.io/v1alpha1\nkind: Job\nmetadata: {name: j}\nspec:\n  image: i\n  args: [x]\n  \
            resources: {cpu: '1', memory: 1Gi}\n  parameters: {a: '1', b: '2'}\n  env: [{name: A, value: a}]\n";
        std::fs::write(file.path(), manifest).unwrap();
        let path = file.path().to_str().unwrap();
        // Flags that replace a part of it, and add to it.
        let job = parsed(&[
            "-f",
            path,
            "--cpu",
            "2",
            "-p",
            "b=3=4",
            "-e",
            "B=b",
            "--max-retries",
            "0",
            "--reject",
            "--",
            "sh",
            "-c",
            "echo -n",
        ])
        .unwrap();
        let expected = json!({
            "image": "i", "command": ["sh", "-c", "echo -n"], "maxRetries": 0, "onQuota": "Reject",
            "resources": {"cpu": "2", "memory": "1Gi"}, "parameters": {"a": "1", "b": "3=4"},
            "env": [{"name": "A", "value": "a"}, {"name": "B", "value": "b"}],
        });
        assert_eq!((job.name.as_deref(), Value::Object(job.spec.clone())), (Some("j"), expected));
        assert!(job.typed().is_ok());
    }

    #[test]
    fn a_job_needs_something_to_run() {
        let error = parsed(&["--cpu", "1"]).unwrap_err();
        assert!(error.message.contains("give a file with -f, or --image, or --scenario"), "{error}");
        assert!(
            parsed(&["-f", "/does/not/exist"])
                .unwrap_err()
                .message
                .starts_with("failed to read /does/not/exist")
        );
        assert!(Line::try_parse_from(["x", "-p", "=1"]).is_err());
        assert!(Line::try_parse_from(["x", "-e", "A"]).is_err());
    }
}
