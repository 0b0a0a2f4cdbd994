//! `GET /scenarios`. Values of environment variables are never in a response, as those of jobs are not.

use axum::{Json, extract::State};
use schemars::JsonSchema;
use serde::Serialize;

use crate::{
    api_types::scenario::Scenario,
    http::{App, auth::Caller, jobs::Resources, openapi::Operation},
};

/// A scenario is a template of jobs, which the `scenario` of a job names.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Scenario")]
pub struct ScenarioView {
    /// This is the name of the scenario.
    name: String,
    /// This says what the scenario is for.
    description: Option<String>,
    /// This is the container image.
    image: String,
    /// This is the entry point of the container.
    command: Vec<String>,
    /// These are the arguments of the entry point.
    args: Vec<String>,
    /// These are the names of the environment variables. Their values are never shown.
    env: Vec<String>,
    /// This is what a job of the scenario needs.
    resources: Resources,
    /// This is the longest running time over all attempts, in seconds.
    timeout_seconds: Option<i64>,
    /// This is the user id of the process.
    run_as_user: Option<i64>,
}

/// These are all scenarios.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Scenarios")]
pub struct ScenariosView {
    /// These are the scenarios, by name.
    scenarios: Vec<ScenarioView>,
    /// This is always null, because there is one page.
    next_cursor: Option<String>,
}

/// The description of the route.
pub fn operation() -> Operation {
    Operation::new("listScenarios", "List all scenarios", "Lists the scenarios that jobs can name, by name.")
        .json::<ScenariosView>(200, "These are all scenarios.")
}

/// Lists the scenarios in force, for every authenticated caller.
pub async fn list(State(app): State<App>, _: Caller) -> Json<ScenariosView> {
    let scenarios = app.scenarios.borrow().all().map(|(name, scenario)| view(name, scenario)).collect();
    Json(ScenariosView { scenarios, next_cursor: None })
}

fn view(name: &str, scenario: &Scenario) -> ScenarioView {
    let Scenario { description, image, command, args, env, resources, timeout_seconds, run_as_user } =
        scenario.clone();
    ScenarioView {
        name: name.to_owned(),
        description,
        image,
        command,
        args,
        env: env.into_iter().map(|variable| variable.name).collect(),
        resources: resources.into(),
        timeout_seconds,
        run_as_user,
    }
}
