//! Scenarios: templates out of the administrator's catalogue, which may change while jobs wait and run.

use crofter::api_types::{Job, JobPhase};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use crate::{
    common::{namespace, reason},
    world,
};

/// A job that gives nothing but its scenario, and how its simulated container goes.
fn of(scenario: &str, seconds: &str) -> Value {
    json!({"image": null, "resources": null, "scenario": scenario, "parameters": {"run-seconds": seconds}})
}

fn message(job: &Job) -> &str {
    job.status.as_ref().and_then(|status| status.message.as_deref()).unwrap_or_default()
}

/// Replaces the catalogue and waits until the operator has it. One test does all of it: there is one catalogue.
async fn catalogue(yaml: &str) {
    let since = world().operator_log().len();
    world().write_scenarios(yaml);
    world().until_logged(since, "the scenario catalogue has changed").await;
}

#[tokio::test]
async fn a_job_is_made_of_its_scenario_and_the_catalogue_may_change() {
    let verbs = world().verbs().await;
    // Given an empty catalogue, a job of a scenario is rejected.
    verbs.tenant("actor", json!({"plan": "basic"})).await;
    verbs.tenant("waiter", json!({"plan": "basic"})).await;
    verbs.worker("actor-1", "actor", "4").await;
    verbs.job("actor", "early", of("sing", "1")).await;
    let refused = verbs.until_phase("actor", "early", JobPhase::Rejected).await;
    assert_eq!(reason(&refused), "UnknownScenario");
    assert_eq!(message(&refused), "the catalogue has no scenario `sing`: it is empty");

    // When the catalogue has the scenario, the pod gets its image, command, environment and resources.
    let sing = "image: crofter.test/busybox:1, command: [sing], env: [{name: KEY, value: c}]";
    let asks = "resources: {cpu: 250m, memory: 128Mi}";
    catalogue(&format!("scenarios: {{sing: {{{sing}, {asks}}}, dance: {{image: i, timeoutSeconds: 600}}}}"))
        .await;
    verbs.job("actor", "song", of("sing", "1")).await;
    let song = verbs.until_phase("actor", "song", JobPhase::Completed).await.status.unwrap();
    assert_eq!((song.attempts[0].cpu_millicores, song.attempts[0].memory_bytes), (250, 128 << 20));
    let pod: Pod = verbs.within(&namespace("actor")).get(&song.pod.unwrap()).await.unwrap();
    let container = pod.spec.unwrap().containers.remove(0);
    assert_eq!(container.image.as_deref(), Some("crofter.test/busybox:1"));
    assert_eq!(container.command, Some(vec!["sing".to_owned()]));
    assert!(container.env.unwrap().iter().any(|e| e.name == "KEY" && e.value.as_deref() == Some("c")));

    // Given a running and a queued job.
    verbs.job("actor", "opera", of("dance", "forever")).await;
    verbs.until_phase("actor", "opera", JobPhase::Running).await;
    verbs.job("waiter", "queued", of("sing", "1")).await;
    verbs.until_reason("waiter", "queued", "NoWorkers").await;
    // When their scenarios are changed or removed, the queued job is rejected,
    catalogue("scenarios: {dance: {image: i, timeoutSeconds: 1}, mime: {image: i}}").await;
    let queued = verbs.until_phase("waiter", "queued", JobPhase::Rejected).await;
    assert_eq!(message(&queued), "the catalogue has no scenario `sing`: it has dance, mime");
    // a new pod has the new limit, and the running one keeps its own.
    verbs.job("actor", "encore", of("dance", "forever")).await;
    let encore = verbs.until_phase("actor", "encore", JobPhase::TimedOut).await;
    assert_eq!(reason(&encore), "DeadlineExceeded", "a pod made from now on has the new limit");
    let opera = verbs.jobs("actor").get("opera").await.unwrap();
    assert_eq!(crate::common::phase(&opera), JobPhase::Running, "one that runs keeps the time it was given");
}
