//! One `Idempotency-Key` is sent many times at once, and the server is killed meanwhile: one job, and one answer.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicUsize, Ordering},
};

use crofter_test_cluster::wait;
use futures::future::join_all;
use kube::{ResourceExt, api::ListParams};
use serde_json::{Value, json};

use crate::{
    OPERATOR_FAULTS,
    common::{
        Answer, WAIT_TIMEOUT, World,
        rest::{Wire, code, id, job, request, tenant},
    },
};

/// How often a request is sent.
const SENDERS: usize = 50;

/// When the server is killed.
#[derive(Clone, Copy, Debug)]
enum Moment {
    /// All requests were sent.
    Sent,
    /// The API server has the job.
    Made,
    /// The number of responses.
    Answered(usize),
}

/// Sends a request many times at once and kills the server; says what was answered before.
async fn killed(world: &World, moment: Moment, request: &str, made: impl AsyncFn() -> bool) -> Vec<Answer> {
    let mut wires: Vec<Wire> = join_all((0..SENDERS).map(|_| world.wire())).await;
    for wire in &mut wires {
        wire.send(request).await.unwrap();
    }
    let answered = AtomicUsize::new(0);
    let answers = join_all(wires.iter_mut().map(async |wire| {
        let answer = wire.answer().await;
        answered.fetch_add(usize::from(answer.is_ok()), Ordering::SeqCst);
        answer
    }));
    let kill = async {
        let due = async || match moment {
            Moment::Sent => true,
            Moment::Made => made().await,
            Moment::Answered(count) => answered.load(Ordering::SeqCst) >= count,
        };
        while !due().await {
            tokio::task::yield_now().await;
        }
        world.kill_operator();
    };
    let (answers, ()) =
        tokio::time::timeout(WAIT_TIMEOUT, futures::future::join(answers, kill)).await.unwrap();
    answers.into_iter().filter_map(Result::ok).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_idempotency_key_makes_one_job_though_the_server_is_killed_meanwhile() {
    let (world, _exclusive) = OPERATOR_FAULTS.take().await;
    let verbs = world.verbs().await;
    world.start_operator();
    world.until_ready().await;
    // Given a tenant and the names of its jobs.
    let key = tenant(&verbs, "once", json!({"plan": "pro"})).await;
    let bearer = format!("Bearer {key}");
    let jobs = verbs.jobs("once");
    let names = async || -> BTreeSet<String> {
        let all = jobs.list(&ListParams::default()).await.unwrap();
        all.items.iter().map(ResourceExt::name_any).collect()
    };
    for moment in [Moment::Sent, Moment::Made, Moment::Answered(1), Moment::Answered(25)] {
        let sent = format!("order {moment:?}");
        let headers = [("authorization", bearer.as_str()), ("idempotency-key", sent.as_str())];
        let send = async |body: &Value| world.rest("POST", "/v1/jobs", &headers, Some(body)).await.unwrap();
        // When the server is killed while several clients submit with one idempotency key.
        let before = names().await;
        let bytes = request("POST", "/v1/jobs", &headers, Some(&job()));
        let made = async || names().await.len() > before.len();
        let first = killed(world, moment, &bytes, made).await;

        // When they submit again after the restart.
        world.start_operator();
        world.until_ready().await;
        world.until_answered(&key, 200).await;
        let again = job();
        let then = join_all((0..SENDERS).map(|_| send(&again))).await;
        let all: Vec<&Answer> = first.iter().chain(&then).collect();
        assert!(all.iter().all(|answer| [201, 202].contains(&answer.status)), "{moment:?}: {all:?}");
        // Then all responses name one job, which exists once.
        let ids: BTreeSet<String> = all.iter().map(|answer| id(answer)).collect();
        assert_eq!(ids.len(), 1, "{moment:?}: {ids:?}");
        let made: Vec<String> = names().await.difference(&before).cloned().collect();
        assert_eq!(made.len(), 1, "{moment:?}: {made:?}");
        assert_eq!(jobs.get(&made[0]).await.unwrap().uid(), ids.first().cloned());
        let new = then.iter().filter(|answer| answer.header("idempotency-replayed").is_none()).count();
        assert!(new <= 1, "{moment:?}: {new} of the answers after the restart say that they made it");
        println!("{moment:?}: {} answers before the kill, {new} job made after it", first.len());

        // A different body with that key is refused.
        let mut other = job();
        other["priority"] = json!("low");
        let other = send(&other).await;
        assert_eq!((other.status, code(&other).as_str()), (422, "idempotency_key_reused"));
    }
    // No further job appears.
    let idle = async || if names().await.len() == 4 { Ok(()) } else { Err(names().await) };
    wait::until(WAIT_TIMEOUT, "nothing but the four jobs", idle).await.unwrap();
    world.kill_operator();
}
