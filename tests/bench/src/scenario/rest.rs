//! REST: requests a second and latency of the REST API, each compared with the least that can answer it.
//!
//! Reads of a job from the cache are compared with a bare axum handler, a process of its own that returns the same
//! bytes without any lookup; submits with bare creations of the same Job at the API server, while the operator runs
//! both sides' jobs. Another tenant's job, which the key may not see, is compared with one that never existed, while it
//! is in the cluster and when only the history has it: a client must not learn from the time of a 404 which it was. One
//! client library sends all requests, over connections that stay open. The sides alternate, so that other load of the
//! machine affects both.

use std::{
    fmt::Write as _,
    fs,
    path::Path,
    process::Stdio,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use anyhow::{Context, bail};
use axum::{Router, http::header::CONTENT_TYPE, routing::get};
use crofter::{
    api_types::{Job, TenantApiKey},
    db::{self, JobRecord, Readers},
    names,
};
use crofter_test_cluster::wait;
use http::Request;
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api, Client, Config,
    api::{DeleteParams, PostParams, Preconditions},
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    time::Instant,
};

use super::Terms;
use crate::{
    load::{Planned, Shape, job_object},
    stage::{Setting, Stage, WAIT_TIMEOUT},
    stats::{Quantiles, count},
};

const CONNECTIONS: [usize; 3] = [1, 16, 256];
const SHAPE: Shape = Shape { cores: 1, seconds: 1 };
const NODES: u32 = 4;
const CORES: u32 = 20;
/// Turns of each side.
const ROUNDS: usize = 2;
/// Of each round, before the part that counts.
const WARM: Duration = Duration::from_secs(1);
const MEASURED: Duration = Duration::from_secs(5);
/// Wanted of reads and of submits, as a part of what the bare side does.
const WANTED_READS: f64 = 0.5;
const WANTED_SUBMITS: f64 = 0.6;
/// Wanted of authentication, in milliseconds more than without, at the median.
const WANTED_AUTHENTICATION_MS: f64 = 0.02;

/// What one side did.
#[derive(Clone, Debug, Default, Serialize)]
struct Side {
    per_second: f64,
    /// In milliseconds.
    latency: Quantiles,
    failed: usize,
}

/// Two sides that were asked the same.
#[derive(Clone, Debug, Serialize)]
struct Pair {
    what: &'static str,
    connections: usize,
    crofter: Side,
    bare: Side,
}

/// One side while it is asked.
#[derive(Default)]
struct Tally {
    milliseconds: Vec<f64>,
    failed: usize,
    /// Why the first one failed.
    failure: Option<String>,
}

/// Measures all of it, and says so as it goes.
///
/// # Errors
/// Whatever kept it from being measured.
pub async fn run(terms: &Terms) -> anyhow::Result<()> {
    let tenants = Setting::tenants(["enterprise", "enterprise"]);
    let setting = Setting { tenants, shapes: vec![SHAPE], nodes: NODES, cores: CORES, postgres: true };
    let mut stage = Stage::bring_up(terms.program.clone(), setting).await?;
    let measured = measure(&mut stage, terms).await;
    stage.explain(measured)
}

async fn measure(stage: &mut Stage, terms: &Terms) -> anyhow::Result<()> {
    stage.start_operator()?;
    let token = issue_key(stage).await?;
    let crofter = client(stage.api_url(), Some(token))?;
    let path = job_to_read(stage, &crofter).await?;
    let body = crofter.request_text(read(&path)?).await.context("reading a job")?;
    fs::create_dir_all(&terms.out).with_context(|| format!("making {}", terms.out.display()))?;
    let handler = Handler::start(&terms.out.join("bare-answer.json"), &body).await?;
    let bare = client(handler.url.clone(), None)?;
    print!("\n{}", head());
    let mut pairs = Vec::new();
    for connections in CONNECTIONS {
        let ask = |_: usize| read(&path);
        let sides = [(&crofter, &ask as Ask<'_>), (&bare, &ask)];
        pairs.push(pair(stage, "GET a job", connections, sides, 0, Result::is_ok).await?);
    }
    let (who, alive) = (|_: usize| read("/v1/whoami"), |_: usize| read("/healthz"));
    let sides = [(&crofter, &who as Ask<'_>), (&crofter, &alive)];
    let authenticated = pair(stage, "whoami / healthz", 1, sides, 0, Result::is_ok).await?;
    let hidden = hidden(stage, &crofter).await?;
    for connections in CONNECTIONS {
        let submitter = stage.submitter.clone();
        let tenant = submitter.tenants.first().context("no tenant")?;
        let jobs = format!("/apis/crofter.io/v1alpha1/namespaces/{}/jobs", tenant.namespace());
        let submit = |_: usize| post("/v1/jobs", &submission());
        let create = |number: usize| post(&jobs, &job_object(&format!("bare{connections}x{number}"), &SHAPE));
        let sides = [(&crofter, &submit as Ask<'_>), (&submitter.client, &create)];
        pairs.push(pair(stage, "submit a job", connections, sides, 1, Result::is_ok).await?);
    }
    let added = authenticated.crofter.latency.p50 - authenticated.bare.latency.p50;
    println!(
        "  whoami takes {:.0} us more than healthz at the median (wanted of authentication: at most {:.0} us)\n  \
         wanted: reads at least {:.0} %, submits at least {:.0} % of the bare side",
        1e3 * added,
        1e3 * WANTED_AUTHENTICATION_MS,
        100.0 * WANTED_READS,
        100.0 * WANTED_SUBMITS
    );
    pairs.push(authenticated);
    pairs.extend(hidden);
    stage.stop_operator()?;
    let path = terms.out.join("rest.json");
    fs::write(&path, serde_json::to_vec_pretty(&pairs)?)
        .with_context(|| format!("writing {}", path.display()))
}

/// Asks for another tenant's job, and for one that never was; then again when the job is of the past.
async fn hidden(stage: &Stage, crofter: &Client) -> anyhow::Result<[Pair; 2]> {
    let ended = stage.completions.count();
    let jobs = stage.submitter.all("foreign", &[Planned { tenant: 1, shape: 0 }]).await?;
    stage.completions.until(ended + 1, WAIT_TIMEOUT, || Ok(())).await?;
    let job = jobs.first().context("no foreign job")?;
    let absent_uid = format!("{:08x}{}", fastrand::u32(..), job.uid.get(8..).context("a short UID")?);
    let (foreign, absent) = (format!("/v1/jobs/{}", job.uid), format!("/v1/jobs/{absent_uid}"));
    let (foreign, absent) = (|_: usize| read(&foreign), |_: usize| read(&absent));
    let sides = [(crofter, &foreign as Ask<'_>), (crofter, &absent)];
    until_recorded(stage, &job.uid, |record| record.deleted_at.is_none()).await?;
    let living = pair(stage, "404 foreign / absent", 1, sides, 0, is_not_found).await?;
    let own: Api<Job> = Api::namespaced(stage.submitter.client.clone(), &job.namespace);
    let of_this_uid = Preconditions { uid: Some(job.uid.clone()), ..Preconditions::default() };
    own.delete(&job.name, &DeleteParams::default().preconditions(of_this_uid))
        .await
        .context("the foreign job")?;
    until_recorded(stage, &job.uid, |record| record.deleted_at.is_some()).await?;
    let past = pair(stage, "404 past / absent", 1, sides, 0, is_not_found).await?;
    Ok([living, past])
}

/// Waits until the history has the second tenant's job so.
async fn until_recorded(stage: &Stage, uid: &str, holds: fn(&JobRecord) -> bool) -> anyhow::Result<()> {
    let tenant = stage.submitter.tenants.get(1).context("no second tenant")?.uid.parse()?;
    let (uid, url) = (uid.parse()?, stage.database_url().context("no database")?);
    let readers = Readers::new(&url.into(), db::Options::default())?;
    wait::until(WAIT_TIMEOUT, "the history to have the foreign job", || async {
        let record = db::job_of(&readers, tenant, uid).await.map_err(|error| error.to_string())?;
        if record.as_ref().is_some_and(holds) { Ok(()) } else { Err(format!("{record:?}")) }
    })
    .await?;
    Ok(())
}

/// Makes the request of a number.
type Ask<'a> = &'a (dyn Fn(usize) -> anyhow::Result<Request<Vec<u8>>> + Sync);

/// Whether an answer is as it should be.
type Well = fn(&kube::Result<String>) -> bool;

fn is_not_found(answer: &kube::Result<String>) -> bool {
    matches!(answer, Err(kube::Error::Api(status)) if status.code == 404)
}

/// Sends the requests of both sides, round by round. Each round creates a number of jobs and waits for their end.
async fn pair(
    stage: &Stage,
    what: &'static str,
    connections: usize,
    sides: [(&Client, Ask<'_>); 2],
    jobs: usize,
    well: Well,
) -> anyhow::Result<Pair> {
    let mut tallies = [Tally::default(), Tally::default()];
    let numbers = AtomicUsize::new(0);
    for number in 0..ROUNDS {
        // Each goes first as often as the other: work that is still in flight affects both.
        for side in [number % 2, 1 - number % 2] {
            let ((client, ask), tally) = (sides[side], &mut tallies[side]);
            let ended = stage.completions.count();
            let answered = round(client, ask, well, connections, &numbers, tally).await?;
            stage.completions.until(ended + jobs * answered, WAIT_TIMEOUT, || Ok(())).await?;
        }
    }
    let [crofter, bare] = tallies.map(|tally| {
        if let Some(failure) = &tally.failure {
            crate::say(&format!("  {what}: {} failed, the first with: {failure}", tally.failed));
        }
        let per_second = count(tally.milliseconds.len()) / (MEASURED.as_secs_f64() * count(ROUNDS));
        Side { per_second, latency: Quantiles::of(tally.milliseconds), failed: tally.failed }
    });
    let pair = Pair { what, connections, crofter, bare };
    print!("{}", line(&pair));
    Ok(pair)
}

/// One round of one side. Returns how many requests were answered well, those before the part that counts included.
async fn round(
    client: &Client,
    ask: Ask<'_>,
    is_well: Well,
    connections: usize,
    numbers: &AtomicUsize,
    tally: &mut Tally,
) -> anyhow::Result<usize> {
    let from = Instant::now() + WARM;
    let until = from + MEASURED;
    let one = || async {
        let (mut own, mut well) = (Tally::default(), 0);
        while Instant::now() < until {
            let request = ask(numbers.fetch_add(1, Ordering::Relaxed))?;
            let begun = Instant::now();
            let answer = client.request_text(request).await;
            let (took, counts) = (begun.elapsed(), begun >= from && Instant::now() < until);
            if is_well(&answer) {
                well += 1;
                own.milliseconds.extend(counts.then_some(1e3 * took.as_secs_f64()));
            } else {
                own.failed += usize::from(counts);
                own.failure.get_or_insert_with(|| answer.unwrap_or_else(|error| error.to_string()));
            }
        }
        anyhow::Ok((own, well))
    };
    let all = futures::future::try_join_all((0..connections).map(|_| one())).await?;
    let mut well = 0;
    for (own, answered) in all {
        tally.milliseconds.extend(own.milliseconds);
        tally.failed += own.failed;
        tally.failure = tally.failure.take().or(own.failure);
        well += answered;
    }
    Ok(well)
}

fn client(url: String, token: Option<String>) -> anyhow::Result<Client> {
    let mut config = Config::new(url.parse().with_context(|| format!("the address {url}"))?);
    config.auth_info.token = token.map(Into::into);
    Ok(Client::try_from(config)?)
}

fn read(path: &str) -> anyhow::Result<Request<Vec<u8>>> {
    Ok(Request::get(path).body(Vec::new())?)
}

fn post(path: &str, body: &serde_json::Value) -> anyhow::Result<Request<Vec<u8>>> {
    Ok(Request::post(path)
        .header(http::header::CONTENT_TYPE, "application/json")
        .body(body.to_string().into_bytes())?)
}

/// What a job asks for over REST, as [`job_object`] does at the API server.
fn submission() -> serde_json::Value {
    let mut spec = job_object("unused", &SHAPE)["spec"].take();
    spec["on_quota"] = json!("queue");
    spec
}

/// Has the tenant's key issued, and returns its text.
async fn issue_key(stage: &Stage) -> anyhow::Result<String> {
    const NAME: &str = "bench";
    let client = stage.submitter.client.clone();
    let namespace = stage.submitter.tenants.first().context("no tenant")?.namespace();
    let key: TenantApiKey = serde_json::from_value(json!({
        "apiVersion": "crofter.io/v1alpha1", "kind": "TenantApiKey", "metadata": {"name": NAME},
        "spec": {"scopes": ["jobs:read", "jobs:write"]},
    }))?;
    let keys: Api<TenantApiKey> = Api::namespaced(client.clone(), &namespace);
    keys.create(&PostParams::default(), &key).await.context("making a key")?;
    let secrets: Api<Secret> = Api::namespaced(client, &namespace);
    let text = wait::until(WAIT_TIMEOUT, "the key to be issued", || async {
        let secret = secrets.get_opt(&names::key_secret(NAME)).await.map_err(|error| error.to_string())?;
        secret
            .and_then(|secret| secret.data?.remove("token"))
            .ok_or_else(|| "no Secret with a token".to_owned())
    });
    Ok(String::from_utf8(text.await?.0)?)
}

/// Submits a job, waits for its end, and returns its path.
async fn job_to_read(stage: &Stage, crofter: &Client) -> anyhow::Result<String> {
    #[derive(Deserialize)]
    struct Answer {
        id: String,
    }
    let ended = stage.completions.count();
    let submit = || async {
        let request = post("/v1/jobs", &submission()).map_err(|error| error.to_string())?;
        crofter.request::<Answer>(request).await.map_err(|error| error.to_string())
    };
    // The server may not know the key yet.
    let answer = wait::until(WAIT_TIMEOUT, "the first job to be accepted", submit).await?;
    stage.completions.until(ended + 1, WAIT_TIMEOUT, || Ok(())).await?;
    Ok(format!("/v1/jobs/{}", answer.id))
}

/// The bare handler's process.
struct Handler {
    url: String,
    _process: Child,
}

impl Handler {
    /// Starts one that answers `body`, by way of a file.
    async fn start(file: &Path, body: &str) -> anyhow::Result<Self> {
        fs::write(file, body).with_context(|| format!("writing {}", file.display()))?;
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("--bare-handler").arg(file).stdout(Stdio::piped()).kill_on_drop(true);
        let mut process = command.spawn().context("starting the bare handler")?;
        let output = process.stdout.take().context("the bare handler has no output")?;
        let Some(url) = BufReader::new(output).lines().next_line().await? else {
            bail!("the bare handler has ended");
        };
        Ok(Self { url, _process: process })
    }
}

/// The bare handler: answers every job with the contents of a file, and says where. Never returns.
///
/// # Errors
/// When the file can't be read, or nothing listened to.
pub async fn bare_handler(file: &Path) -> anyhow::Result<()> {
    let body = fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
    let answer = || async move { ([(CONTENT_TYPE, "application/json")], body) };
    let routes = Router::new().route("/v1/jobs/{id}", get(answer));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    println!("http://{}", listener.local_addr()?);
    Ok(axum::serve(listener, routes).await?)
}

fn head() -> String {
    format!(
        "  {:<21}{:>12}{:>12}{:>9}{:>9}{:>12}{:>9}{:>9}{:>8}{:>8}\n",
        "asked",
        "connections",
        "crofter/s",
        "p50 ms",
        "p99 ms",
        "bare/s",
        "p50 ms",
        "p99 ms",
        "part",
        "failed"
    )
}

fn line(pair: &Pair) -> String {
    let Pair { what, connections, crofter, bare } = pair;
    let mut line = format!("  {what:<21}{connections:>12}");
    for side in [crofter, bare] {
        // Writing into a String can't fail.
        let _ = write!(line, "{:>12.0}{:>9.2}{:>9.2}", side.per_second, side.latency.p50, side.latency.p99);
    }
    let part = if bare.per_second > 0.0 { 100.0 * crofter.per_second / bare.per_second } else { 0.0 };
    line + &format!("{part:>6.0} %{:>8}\n", crofter.failed + bare.failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_bare_handler_is_asked_and_counted() {
        let file = std::env::temp_dir().join(format!("crofter-bench-{}.json", std::process::id()));
        fs::write(&file, "{}").unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let routes = Router::new().route("/v1/jobs/{id}", get(|| async { "{}" }));
        let mut server = tokio::task::JoinSet::new();
        server.spawn(async move { axum::serve(listener, routes).await });
        let client = client(url, None).unwrap();
        let (mut tally, numbers) = (Tally::default(), AtomicUsize::new(0));
        let ask = |number: usize| read(if number.is_multiple_of(2) { "/v1/jobs/a" } else { "/nothing" });
        let answered = round(&client, &ask, Result::is_ok, 2, &numbers, &mut tally).await.unwrap();
        assert!(answered > 1 && answered >= tally.milliseconds.len(), "{answered}");
        assert!(tally.failed > 0 && tally.failure.is_some());
        let (mut hidden, nothing) = (Tally::default(), |_: usize| read("/nothing"));
        let answered = round(&client, &nothing, is_not_found, 1, &numbers, &mut hidden).await.unwrap();
        assert!(answered > 1 && hidden.failed == 0, "a refusal that is wanted is no failure: {answered}");
        let failed = round(&client, &ask, is_not_found, 1, &numbers, &mut hidden).await.unwrap();
        assert!(failed > 0 && hidden.failed > 0, "a response of another kind is a failure");
        fs::remove_file(file).unwrap();
    }

    #[test]
    fn a_pair_is_a_line_under_its_head() {
        let side = |per_second| Side { per_second, ..Side::default() };
        let pair = Pair { what: "GET a job", connections: 16, crofter: side(600.0), bare: side(1000.0) };
        assert!(line(&pair).contains("60 %"), "{}", line(&pair));
        assert_eq!(line(&pair).chars().count(), head().chars().count());
    }
}
