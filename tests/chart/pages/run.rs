//! Runs the steps of a page.

use std::{
    fmt::{self, Debug, Formatter},
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use crofter::yaml;
use crofter_test_cluster::{Cluster, wait};
use serde_json::{Value, json};

use super::{
    list::Page,
    session::{Printed, Session},
};
use crate::{
    NAMESPACE, RELEASE, chart,
    page::{self, Action, Commands, Step},
};

/// How long the output of commands that are repeated may take to be what the page says.
const REPEAT_TIMEOUT: Duration = Duration::from_secs(90);

/// Where pages are typed.
pub(super) struct Stage<'a> {
    pub(super) cluster: &'a Cluster,
    /// The directory of the shell.
    pub(super) dir: PathBuf,
    /// What a page may be given: names in braces, and what they are.
    pub(super) names: Vec<(&'static str, String)>,
    /// Variables of the shell.
    pub(super) variables: Vec<(String, String)>,
}

impl Stage<'_> {
    /// Replaces the names of the stage.
    fn filled(&self, text: &str) -> String {
        self.names.iter().fold(text.to_owned(), |text, (name, value)| text.replace(name, value))
    }

    /// Types commands into a shell of their own.
    pub(super) async fn type_in(&self, commands: &str) -> Result<(), String> {
        type_in(&mut Session::start(self.cluster, &self.dir, &self.variables), commands).await
    }

    /// Types a page; an error names the line and says what is wrong.
    pub(super) async fn run(&self, page: &Page, given: &str) -> Result<(), String> {
        let words: Vec<_> =
            page.words.iter().map(|(theirs, ours)| (theirs.clone(), self.filled(ours))).collect();
        let at = |line: usize, error: String| format!("{}:{line}: {error}", page.path);
        let steps = page::steps(&page::read(&page.path, &words)?, page.by())
            .map_err(|error| format!("{}: {error}", page.path))?;
        let mut session = Session::start(self.cluster, &self.dir, &self.variables);
        let given = self.filled(given);
        succeeded(&given, session.run(&given).await).map_err(|error| at(0, error))?;
        for Step { line, action } in steps {
            self.step(&mut session, action).await.map_err(|error| at(line, error))?;
        }
        Ok(())
    }

    async fn step(&self, session: &mut Session, action: Action) -> Result<(), String> {
        match action {
            Action::Run(commands) if commands.repeated => repeat(session, &commands).await,
            Action::Run(commands) => run(session, &commands).await,
            Action::Apply(objects) => {
                let file = self.write("applied.yaml", &objects);
                type_in(session, &format!("kubectl apply --filename '{}'", file.display())).await
            }
            Action::Write { name, text } => {
                self.write(&name, &text);
                Ok(())
            }
            Action::Check { part_of, text } if part_of == "values" => {
                let file = self.write("part.yaml", &text);
                let (chart, file) = (chart(), file.display().to_string());
                let render = format!(
                    "helm template {RELEASE} '{}' --namespace {NAMESPACE} --values '{file}'",
                    chart.display()
                );
                type_in(session, &render).await
            }
            Action::Check { part_of, text } => {
                let file = self.write("part.json", &whole(&part_of, &text)?.to_string());
                let check = format!("kubectl apply --dry-run=server --filename '{}'", file.display());
                type_in(session, &check).await
            }
        }
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let file = self.dir.join(name);
        fs::create_dir_all(file.parent().unwrap_or(Path::new("/"))).unwrap();
        fs::write(&file, text).unwrap();
        file
    }
}

/// The smallest object of a kind, with this part.
fn whole(kind: &str, part: &str) -> Result<Value, String> {
    let (spec, namespace) = match kind {
        "Tenant" => (json!({"plan": "basic"}), None),
        "Job" => (json!({"image": "busybox:1"}), Some("default")),
        "TenantApiKey" => (json!({"scopes": ["jobs:read"]}), Some("default")),
        other => return Err(format!("`{other}` is nothing of which parts are checked")),
    };
    let mut object = json!({
        "apiVersion": "crofter.io/v1alpha1", "kind": kind, "metadata": {"name": "part", "namespace": namespace},
        "spec": spec,
    });
    merge(&mut object, yaml::read(part).map_err(|error| error.to_string())?);
    Ok(object)
}

fn merge(into: &mut Value, part: Value) {
    match (into, part) {
        (Value::Object(into), Value::Object(part)) => {
            for (key, value) in part {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, part) => *into = part,
    }
}

/// Types what the page has no output for.
async fn type_in(session: &mut Session, commands: &str) -> Result<(), String> {
    succeeded(commands, session.run(commands).await).map(drop)
}

fn succeeded(commands: &str, printed: Printed) -> Result<String, String> {
    match printed.code {
        Some(0) => Ok(printed.out),
        code => Err(format!("{commands}\nended with {code:?}\n{}\n{}", printed.out, printed.err)),
    }
}

/// Types commands once, and compares what they print.
async fn run(session: &mut Session, commands: &Commands) -> Result<(), String> {
    let text = &commands.text;
    let out = if commands.exits == 0 {
        succeeded(text, session.run(text).await)?
    } else {
        let printed = session.run_to_a_failure(text).await;
        if printed.code != Some(commands.exits) {
            return Err(format!(
                "{text}\nended with {:?}, not {}\n{}",
                printed.code, commands.exits, printed.out
            ));
        }
        printed.out
    };
    let compared = commands.prints.as_ref().map_or(Ok(()), |prints| prints.compare(&out));
    compared.map_err(|error| format!("{text}\n{error}"))
}

/// Types commands until they print what the page says.
async fn repeat(session: &mut Session, commands: &Commands) -> Result<(), String> {
    let session = tokio::sync::Mutex::new(session);
    let once = || async {
        // Below the page's shell, which ends where a command fails.
        let printed = session.lock().await.run_to_a_failure(&commands.text).await;
        if printed.code != Some(commands.exits) {
            return Err(AsPrinted(format!("ended with {:?}\n{}", printed.code, printed.out)));
        }
        let compared = commands.prints.as_ref().map_or(Ok(()), |prints| prints.compare(&printed.out));
        compared.map_err(AsPrinted)
    };
    let until = wait::until(REPEAT_TIMEOUT, &commands.text, once).await;
    until.map_err(|error| error.to_string())
}

/// What was seen last, with its lines as they are.
struct AsPrinted(String);

impl Debug for AsPrinted {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
