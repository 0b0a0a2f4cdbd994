//! Following a job against a REST API that plays a script: real HTTP, so that a log that is cut is cut as a server cuts it.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    body::Body,
    extract::{Path, Query, State},
    response::{IntoResponse, Response},
    routing::get,
};
use futures::stream;
use serde_json::{Value, json};

use super::*;
use crate::client::{Scope, rest::Rest};

const ID: &str = "0b8e9a52-6a5e-4d5c-9c0e-6a1f6c0a9f11";

/// A log that the server sends: its text, and whether it is cut after it.
type Piece = (&'static str, bool);

/// What the server says, in order; the last state is said again and again.
#[derive(Default)]
struct Script {
    states: Vec<Value>,
    /// How often each state is read before the next one holds.
    reads: usize,
    logs: VecDeque<(u32, Piece)>,
    asked: Vec<String>,
}

type Shared = Arc<Mutex<Script>>;

async fn log(State(script): State<Shared>, Query(query): Query<Vec<(String, String)>>) -> Response {
    let mut script = script.lock().unwrap();
    let query: Vec<String> = query.into_iter().map(|(name, value)| format!("{name}={value}")).collect();
    let query = query.join("&");
    script.asked.push(query.clone());
    let Some((attempt, (text, is_cut))) = script.logs.pop_front() else {
        let problem =
            json!({"status": 410, "code": "log_gone", "detail": "the log was deleted with its pod"});
        return (axum::http::StatusCode::GONE, problem.to_string()).into_response();
    };
    assert!(query.contains(&format!("attempt={attempt}")), "{query} {attempt}");
    let text = stream::iter([Ok::<_, std::io::Error>(text.to_owned())]);
    if is_cut {
        let cut = stream::once(async {
            // The server sends what it has before it waits.
            tokio::task::yield_now().await;
            Err(std::io::Error::other("cut"))
        });
        return Body::from_stream(stream::StreamExt::chain(text, cut)).into_response();
    }
    Body::from_stream(text).into_response()
}

async fn job(State(script): State<Shared>, Path(_): Path<String>) -> String {
    let mut script = script.lock().unwrap();
    script.reads += 1;
    let at = script.reads.min(script.states.len()) - 1;
    script.states[at].to_string()
}

async fn events(State(script): State<Shared>) -> String {
    let states = script.lock().unwrap().states.clone();
    states.iter().map(|state| format!("event: status\ndata: {state}\n\n")).collect()
}

fn state(status: &str, attempt: u32, more: &Value) -> Value {
    let mut job = json!({"id": ID, "name": "j", "status": status, "attempt": attempt});
    for (field, value) in more.as_object().unwrap() {
        job[field] = value.clone();
    }
    job
}

/// Follows a job through these states and logs: its end, what was printed, and what was requested.
async fn followed(
    states: Vec<Value>,
    logs: Vec<(u32, Piece)>,
    options: LogOptions,
) -> (Result<Job>, String, Vec<String>) {
    let script = Arc::new(Mutex::new(Script { states, logs: logs.into(), ..Script::default() }));
    let app = Router::new()
        .route("/v1/jobs/{id}", get(job))
        .route("/v1/jobs/{id}/events", get(events))
        .route("/v1/jobs/{id}/logs", get(log))
        .with_state(Arc::clone(&script));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = format!("http://{}", listener.local_addr().unwrap());
    let served = tokio::spawn(async move { axum::serve(listener, app).await });
    let rest = Rest::new(&server, "crft_x".into(), None, false).unwrap();
    let session = Session { transport: Arc::new(rest), scope: Scope::Own };
    let job = Job { id: ID.to_owned(), name: "j".to_owned(), ..Job::default() };
    let printed = Mutex::new(Vec::new());
    let print = |piece: &[u8]| {
        printed.lock().unwrap().extend_from_slice(piece);
        Ok(())
    };
    let terminal = Terminal::default();
    let follower = Follower {
        session: &session,
        job: &job,
        terminal,
        log: Some(options),
        says_states: false,
        print: &print,
    };
    let end = follower.to_end().await;
    served.abort();
    let printed = String::from_utf8(printed.lock().unwrap().clone()).unwrap();
    let asked = script.lock().unwrap().asked.clone();
    (end, printed, asked)
}

#[tokio::test]
async fn a_log_survives_a_retry_and_is_printed_once() {
    // Given a job whose first attempt is evicted, and whose second one completes.
    let none = json!({});
    let states = vec![
        state("running", 1, &none),
        state("retrying", 1, &none),
        state("running", 2, &none),
        state("completed", 2, &json!({"exit_code": 0})),
    ];
    let logs = vec![(1, ("one\n", false)), (2, ("two\n", false))];
    let (end, printed, asked) = followed(states, logs, LogOptions::default()).await;
    // Both logs are printed, each once, and the end is the job's.
    assert_eq!(printed, "one\ntwo\n", "{asked:?}");
    assert_eq!(exit_code(&end.unwrap()), 0);
}

#[tokio::test]
async fn a_log_that_is_cut_continues_where_it_was() {
    let none = json!({});
    let states = vec![state("running", 1, &none), state("failed", 1, &json!({"exit_code": 3}))];
    let logs = vec![(1, ("first li", true)), (1, ("first line\nsecond line\n", false))];
    let (end, printed, asked) = followed(states, logs, LogOptions::default()).await;
    assert_eq!(printed, "first line\nsecond line\n", "{asked:?}");
    assert_eq!(exit_code(&end.unwrap()), 3);
}

#[tokio::test]
async fn a_part_of_a_log_that_is_cut_continues_by_time() {
    let none = json!({});
    let states = vec![state("running", 1, &none), state("completed", 1, &none)];
    let logs = vec![(1, ("a\n", true)), (1, ("b\n", false))];
    let options = LogOptions { tail: Some(5), ..LogOptions::default() };
    let (end, printed, asked) = followed(states, logs, options).await;
    assert_eq!(printed, "a\nb\n");
    assert!(asked[0].contains("tail_lines=5") && asked[1].contains("since_seconds="), "{asked:?}");
    assert!(end.is_ok());
}

#[tokio::test]
async fn a_log_that_is_gone_keeps_no_one_from_the_end_of_the_job() {
    let none = json!({});
    let states = vec![state("running", 1, &none), state("canceled", 1, &none)];
    let (end, printed, _) = followed(states, Vec::new(), LogOptions::default()).await;
    assert_eq!((exit_code(&end.unwrap()), printed.as_str()), (CANCELED, ""));
}

#[tokio::test]
async fn a_job_that_is_rejected_or_deleted_has_no_log() {
    let states = vec![state("queued", 0, &json!({})), state("rejected", 0, &json!({"reason": "DoesNotFit"}))];
    let (end, _, asked) = followed(states, Vec::new(), LogOptions::default()).await;
    assert_eq!((exit_code(&end.unwrap()), asked.len()), (5, 0));
}

#[test]
fn the_exit_code_is_the_jobs_own_where_it_has_one() {
    let of = |status: &str, code: Option<i32>| {
        exit_code(&Job { status: Some(status.to_owned()), exit_code: code, ..Job::default() })
    };
    assert_eq!([of("completed", Some(0)), of("failed", Some(3)), of("failed", Some(0))], [0, 3, 1]);
    assert_eq!([of("failed", None), of("failed", Some(300)), of("timed_out", Some(137))], [1, 1, 124]);
    assert_eq!([of("canceled", None), of("rejected", None)], [130, 5]);
}

#[test]
fn a_state_is_one_line() {
    let job: Job =
        serde_json::from_value(state("queued", 0, &json!({"reason": "NoWorkers", "message": "no worker"})))
            .unwrap();
    assert_eq!(sentence(&job), "j: queued: NoWorkers: no worker");
    let job: Job =
        serde_json::from_value(state("running", 2, &json!({"node": "w1", "reason": "Running"}))).unwrap();
    assert_eq!(sentence(&job), "j: running, attempt 2 on w1");
    let ended = json!({"exit_code": 3, "reason": "NonZeroExit", "message": "exit code 3"});
    let job: Job = serde_json::from_value(state("failed", 1, &ended)).unwrap();
    assert_eq!(sentence(&job), "j: failed with exit code 3: NonZeroExit: exit code 3");
}
