//! Big: memory and restart with 100,000 Jobs in the API, first all of them queued, then nine tenths of them ended.
//!
//! The operator is started on them, followed for half a minute from its first pod on, and stopped. The time counts from
//! the start of its process to the moment at which the API server has its first pod.

use std::{collections::HashMap, time::Duration};

use anyhow::{Context, bail};
use crofter::api_types::JobPhase;
use crofter_test_cluster::wait;
use futures::{StreamExt, TryStreamExt, stream};
use kube::Client;
use serde::Deserialize;

use super::{Case, Terms};
use crate::{
    follow::{JOBS as JOBS_PATH, Light, now},
    load::{Shape, Submitted, round_robin, scaled},
    measure::{Measured, Seen, seconds},
    process::{Reading, peak_memory},
    recipe::Values,
    say,
    stage::{FLOOR, OPERATOR, Setting, Stage},
};

/// Objects in the operator's largest pages.
const PAGE: u32 = 10_000;
const JOBS: usize = 100_000;
const TENANTS: usize = 30;
const SHAPE: Shape = Shape { cores: 1, seconds: 1 };
const NODES: u32 = 10;
const CORES: u32 = 20;
/// One in this number of jobs stays queued when the others are made to have ended.
const QUEUED: usize = 10;
/// How long the first pod may take.
const WAIT_TIMEOUT: Duration = Duration::from_secs(300);
/// How long the operator is followed from then on.
const FOLLOWED: Duration = Duration::from_secs(30);
/// Jobs that are made to have ended at once.
const AT_ONCE: usize = 64;
const API_SERVER: &str = "kube-apiserver";
/// It is idle when it uses no more of one processor than this part,
const IDLE: f64 = 0.1;
/// for so long.
const IDLE_FOR: Duration = Duration::from_secs(10);

pub async fn run(
    terms: &Terms,
    done: &mut (dyn FnMut(Case) -> anyhow::Result<()> + Send),
) -> anyhow::Result<()> {
    let tenants = Setting::tenants(std::iter::repeat_n("enterprise", TENANTS));
    let setting = Setting { tenants, shapes: vec![SHAPE], nodes: NODES, cores: CORES, postgres: false };
    let mut stage = Stage::bring_up(terms.program.clone(), setting).await?;
    let measured = measure(&mut stage, scaled(JOBS, terms.scale, 1_000), done).await;
    stage.explain(measured)
}

async fn measure(
    stage: &mut Stage,
    count: usize,
    done: &mut (dyn FnMut(Case) -> anyhow::Result<()> + Send),
) -> anyhow::Result<()> {
    say(&format!("  submitting {count} jobs"));
    let jobs = stage.submitter.all("job", &round_robin(count, TENANTS)).await?;
    done(restart(stage, format!("restart with {count} Jobs, all queued"), &jobs).await?)?;
    let ended = end(stage, &jobs).await?;
    let name = format!("restart with {count} Jobs, {ended} of them ended");
    done(restart(stage, name, &jobs).await?)
}

async fn restart(stage: &mut Stage, name: String, jobs: &[Submitted]) -> anyhow::Result<Case> {
    until_idle(stage).await?;
    say(&format!("  {name}"));
    let (listed, _) = list(&stage.submitter.client).await?;
    let mark = stage.audit.end()?;
    let before = Reading::of(&stage.processes())?;
    let begun = stage.start_operator()?;
    let mut first = None;
    let mut at = mark;
    while first.is_none() {
        tokio::time::sleep(Duration::from_millis(100)).await;
        stage.check_operator()?;
        if seconds(begun, now()) > WAIT_TIMEOUT.as_secs_f64() {
            bail!("no pod after {} s", WAIT_TIMEOUT.as_secs());
        }
        at = stage.audit.read(at, |request| {
            if request.user == OPERATOR && request.made_pod() {
                first = first.or(Some(request.answered));
            }
        })?;
    }
    let first = seconds(begun, first.context("no pod")?);
    let at_first = peak_memory(stage.operator_pid()?)?;
    tokio::time::sleep(FOLLOWED).await;
    stage.check_operator()?;
    let processor_seconds = Reading::of(&stage.processes())?.since(&before);
    let peak_mib = peak_memory(stage.operator_pid()?)?;
    stage.stop_operator()?;
    let requests = stage.audit.of_user(OPERATOR, mark)?;
    let completed = stage.completions.times();
    let seen = Seen { begun, jobs, requests: &requests, completed: &completed };
    let operator = Measured { processor_seconds, peak_mib, ..seen.evaluate() };
    let figures = [
        ("restart_to_first_pod_seconds", first),
        ("peak_mib_at_first_pod", at_first),
        ("bare_client_lists_all_in_seconds", listed),
    ];
    Ok(Case { name, operator, floor: None, others: Vec::new(), figures: figures.into() })
}

/// Waits until the API server is done with what was made before: it is not for the restart.
async fn until_idle(stage: &Stage) -> anyhow::Result<()> {
    let most = IDLE * IDLE_FOR.as_secs_f64();
    wait::until(WAIT_TIMEOUT, "an idle API server", || async {
        let read = || Reading::of(&stage.processes()).map_err(|error| error.to_string());
        let before = read()?;
        tokio::time::sleep(IDLE_FOR).await;
        let used = read()?.since(&before).remove(API_SERVER).unwrap_or_default();
        if used <= most { Ok(()) } else { Err(format!("it used {used:.1} s of {}", IDLE_FOR.as_secs())) }
    })
    .await?;
    Ok(())
}

/// Makes nine of ten jobs have ended well, as the operator would have written it; those that it has begun with stay.
async fn end(stage: &Stage, jobs: &[Submitted]) -> anyhow::Result<usize> {
    let client = stage.client(FLOOR).await?;
    let recipe = stage.recipes.first().context("nothing was recorded")?;
    let (_, all) = list(&client).await?;
    let queued: HashMap<String, String> = all
        .into_iter()
        .filter(|job| job.status.phase == <&str>::from(JobPhase::Queued))
        .map(|job| (job.key(), job.metadata.resource_version))
        .collect();
    let chosen = jobs.iter().enumerate().filter(|(number, _)| number % QUEUED > 0);
    let chosen: Vec<_> = chosen.filter_map(|(_, job)| Some((job, queued.get(&job.key())?))).collect();
    say(&format!("  making {} jobs have ended", chosen.len()));
    let one = |(job, version): &(&Submitted, &String)| {
        let tenant = stage.submitter.tenants.get(job.plan.tenant);
        let values = Values {
            tenant: tenant.map_or("", |tenant| &tenant.name),
            job: &job.name,
            job_uid: &job.uid,
            pod: &job.name,
            node: stage.nodes.first().map_or("", String::as_str),
            version,
            ..Values::default()
        };
        let request = recipe.only_end.request(&values);
        let client = client.clone();
        async move { client.request_text(request?).await.context("making a job have ended") }
    };
    stream::iter(chosen.iter().map(one)).buffer_unordered(AT_ONCE).try_for_each(async |_| Ok(())).await?;
    Ok(chosen.len())
}

/// All Jobs, and how long a bare client takes to read them in pages as large as the operator's, in seconds.
async fn list(client: &Client) -> anyhow::Result<(f64, Vec<Light>)> {
    #[derive(Deserialize)]
    struct Page {
        metadata: Next,
        items: Vec<Light>,
    }
    #[derive(Deserialize)]
    struct Next {
        #[serde(rename = "continue", default)]
        token: String,
    }
    let (begun, mut token, mut all) = (now(), String::new(), Vec::new());
    loop {
        let uri = format!("{JOBS_PATH}?limit={PAGE}&continue={token}");
        let request = http::Request::get(uri).body(Vec::new())?;
        let page: Page = client.request(request).await.context("listing all Jobs")?;
        all.extend(page.items);
        token = page.metadata.token;
        if token.is_empty() {
            return Ok((seconds(begun, now()), all));
        }
    }
}
