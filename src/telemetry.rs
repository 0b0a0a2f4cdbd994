//! Logs, and the port on which the operator's health and metrics are asked for.

use std::{io::IsTerminal, sync::Arc};

use axum::{Router, http::StatusCode, response::IntoResponse, routing::get};
use tokio::net::TcpListener;
use tracing_subscriber::EnvFilter;

use crate::{metrics::Metrics, scheduler::Board};

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

/// Serves `/healthz`, `/readyz` and `/metrics` until the process ends.
///
/// # Errors
/// The listener's.
pub async fn serve(
    listener: TcpListener,
    metrics: Metrics,
    board: Board,
    is_ready: IsReady,
) -> std::io::Result<()> {
    let waiting = board;
    let ready = move || {
        let is_ready = is_ready();
        async move {
            match is_ready {
                true => (StatusCode::OK, "ok\n"),
                false => (StatusCode::SERVICE_UNAVAILABLE, "the caches are not whole yet\n"),
            }
        }
    };
    let text = move || {
        metrics.show_waiting(&waiting.waiting());
        let text = metrics.text();
        async move {
            match text {
                Ok(text) => {
                    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
                    ([("content-type", kind)], text).into_response()
                }
                Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
            }
        }
    };
    let routes = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(text));
    axum::serve(listener, routes).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_unsaid_is_written_as_a_filter() {
        for words in UNSAID {
            assert!(words.parse::<tracing_subscriber::filter::Directive>().is_ok(), "{words}");
        }
    }
}
