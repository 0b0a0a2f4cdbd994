//! Logs, and the port on which the operator's health and metrics are asked for.

use std::{io::IsTerminal, sync::Arc};

use axum::{
    Router,
    extract::RawQuery,
    http::{HeaderMap, StatusCode, header},
    response::IntoResponse,
    routing::get,
};
use futures::{FutureExt as _, future};
use tokio::{net::TcpListener, sync::watch};
use tracing_subscriber::EnvFilter;

use crate::{
    clock::Clock,
    http::{
        health::{WatchView, liveness},
        server,
    },
    kube_ext::{lease::Leadership, policies, pulse::Watches},
    metrics::{Format, Metrics},
    random::Random,
    scheduler::SchedulerHandle,
};

/// Form of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

/// What is never logged, whatever is asked for: the answers of the API server to what it refuses, which hold what was
/// sent, be it a key or password in the wrong field. Our own lines say which call failed.
const UNSAID: [&str; 1] = ["kube_client::client=warn"];

/// Starts logging to standard error; `RUST_LOG` chooses what (default `info`).
pub fn log(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let filter = UNSAID.iter().filter_map(|words| words.parse().ok()).fold(filter, EnvFilter::add_directive);
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    match format {
        LogFormat::Json => lines.json().init(),
        LogFormat::Text => lines.init(),
    }
}

/// Whether a process is ready.
pub type IsReady = Arc<dyn Fn() -> bool + Send + Sync>;

/// What health is judged by.
pub struct Health {
    /// Whether the process is ready.
    pub is_ready: IsReady,
    /// Its watches.
    pub watches: Watches,
    /// Whether it leads.
    pub leadership: Leadership,
    /// The admission policies that are missing.
    pub policies: watch::Receiver<policies::Missing>,
    /// The time.
    pub clock: Clock,
}

/// What this replica does, in a line.
fn role(leads: bool, decided: bool) -> &'static str {
    match (leads, decided) {
        (true, true) => "[+]leader election: this replica leads, and its scheduler has decided\n",
        (true, false) => "[-]leader election: this replica leads, and its scheduler has not decided yet\n",
        (false, _) => "[+]leader election: this replica follows\n",
    }
}

/// Which admission policies are missing, in a line: a warning, as the process is ready without them.
fn admission(missing: &policies::Missing) -> String {
    match missing.as_deref() {
        None => String::new(),
        Some([]) => "[+]admission policies: all deny\n".to_owned(),
        Some(missing) => format!("[!]admission policies: missing, or don't deny: {}\n", missing.join(", ")),
    }
}

/// What is ready and what is not, a line each.
fn verbose(is_ready: bool, role: &str, watches: &[WatchView]) -> String {
    let line = |WatchView { name, current, behind_since, cause }: &WatchView| {
        let sign = if *current { '+' } else { '-' };
        let state = match behind_since {
            Some(since) => format!("behind since {since}"),
            None if *current => "ok".to_owned(),
            None => "not synced yet".to_owned(),
        };
        let cause = cause.map(|cause| format!(" ({cause})")).unwrap_or_default();
        format!("[{sign}]watch of {name}: {state}{cause}\n")
    };
    let lines: String = watches.iter().map(line).collect();
    format!(
        "{lines}{role}{}",
        if is_ready { "ready\n" } else { "not ready: the caches are not synced yet\n" }
    )
}

/// Serves `/healthz`, `/readyz` and `/metrics` until the process ends, with the limits of the REST API's listener. `random`
/// makes the ids of requests that are none.
pub async fn serve(
    listener: TcpListener,
    metrics: Metrics,
    scheduler: SchedulerHandle,
    health: Health,
    random: Random,
) {
    let (waiting, decided) = (scheduler.clone(), scheduler);
    let Health { is_ready, watches, leadership, policies, clock } = health;
    let led = leadership.clone();
    let (living, shown) = (watches.clone(), policies.clone());
    let alive = move || std::future::ready(liveness(&living));
    let ready = move |RawQuery(query): RawQuery| {
        let is_ready = is_ready();
        let status = if is_ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        let text = match query {
            Some(query) if query.split('&').any(|word| word.starts_with("verbose")) => {
                let role = if led.is_candidate() { role(led.leads(), decided.is_ready()) } else { "" };
                let role = format!("{role}{}", admission(&policies.borrow()));
                verbose(is_ready, &role, &WatchView::all(&watches, clock.now()))
            }
            _ if is_ready => "ok\n".to_owned(),
            _ => "the caches are not synced yet\n".to_owned(),
        };
        std::future::ready((status, text))
    };
    let text = move |headers: HeaderMap| {
        metrics.show_waiting(&waiting.waiting());
        metrics.show_missing_policies(shown.borrow().as_ref().map(Vec::len));
        if leadership.is_candidate() {
            metrics.show_leader(leadership.leads(), leadership.transitions());
        }
        let accepted = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
        let format = Format::preferred(&accepted.collect::<Vec<_>>().join(","));
        let text = metrics.text_as(format);
        async move {
            match text {
                Ok(text) => {
                    let headers = [(header::CONTENT_TYPE, format.media_type()), (header::VARY, "Accept")];
                    (headers, text).into_response()
                }
                Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
            }
        }
    };
    let routes =
        Router::new().route("/healthz", get(alive)).route("/readyz", get(ready)).route("/metrics", get(text));
    server::serve(listener, routes, random, future::pending().boxed().shared()).await;
}

#[cfg(test)]
mod tests {
    use std::{net::SocketAddr, time::Duration};

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpStream,
    };

    use super::*;

    /// Serves, and returns where.
    async fn served(leadership: Leadership) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let health = Health {
            is_ready: Arc::new(|| true),
            watches: Watches::default(),
            leadership,
            policies: watch::channel(None).1,
            clock: Clock::system(),
        };
        let scheduler = SchedulerHandle::default();
        tokio::spawn(serve(listener, Metrics::default(), scheduler, health, Random::system()));
        address
    }

    async fn get(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn a_process_that_takes_no_part_in_the_election_does_not_say_that_it_does_not_lead() {
        let samples = async |address, name: &str| -> Vec<String> {
            let text = get(address, "/metrics").await;
            text.lines().filter(|line| line.starts_with(name)).map(str::to_owned).collect()
        };
        let leads = served(Leadership::led()).await;
        assert_eq!(samples(leads, "crofter_leader").await, ["crofter_leader{} 1"]);
        assert_eq!(samples(leads, "crofter_lease_transitions").await, [""; 0], "the Lease was not read yet");
        let api = served(Leadership::new(Clock::system())).await;
        assert_eq!(samples(api, "crofter_leader").await, [""; 0]);
        assert!(!get(api, "/readyz?verbose").await.contains("leader election"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_without_a_request_is_closed() {
        let address = served(Leadership::led()).await;
        // Given: clients that send nothing, and as many that send half a head.
        let mut silent = Vec::new();
        for head in ["", "GET /metrics HTTP/1.1\r\nhost"].repeat(150) {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(head.as_bytes()).await.unwrap();
            silent.push(stream);
        }
        // Then: the server closes their connections, and serves others.
        for mut stream in silent {
            let end = tokio::time::timeout(Duration::from_mins(1), stream.read_to_end(&mut Vec::new())).await;
            assert!(end.is_ok(), "it is still open after a minute");
        }
        let answer = get(address, "/healthz").await;
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    }

    #[test]
    fn what_is_behind_is_shown_with_its_time_and_cause() {
        let watch = |name, current, behind_since: Option<&str>, cause| WatchView {
            name,
            current,
            behind_since: behind_since.map(|time| time.parse().unwrap()),
            cause,
        };
        let all = [
            watch("jobs", true, None, None),
            watch("pods", false, Some("2030-01-01T00:00:00Z"), Some("silent")),
            watch("nodes", false, None, Some("refused")),
        ];
        assert_eq!(
            verbose(false, role(true, false), &all),
            "[+]watch of jobs: ok\n[-]watch of pods: behind since 2030-01-01T00:00:00Z (silent)\n\
             [-]watch of nodes: not synced yet (refused)\n\
             [-]leader election: this replica leads, and its scheduler has not decided yet\n\
             not ready: the caches are not synced yet\n"
        );
    }

    #[test]
    fn missing_policies_are_a_warning() {
        assert_eq!(admission(&None), "");
        assert_eq!(admission(&Some(Vec::new())), "[+]admission policies: all deny\n");
        let missing = Some(vec!["paused.crofter.io", "kubelets.crofter.io"]);
        let line = "[!]admission policies: missing, or don't deny: paused.crofter.io, kubelets.crofter.io\n";
        assert_eq!(admission(&missing), line);
    }

    #[test]
    fn what_is_unsaid_is_written_as_a_filter() {
        for words in UNSAID {
            assert!(words.parse::<tracing_subscriber::filter::Directive>().is_ok(), "{words}");
        }
    }
}
