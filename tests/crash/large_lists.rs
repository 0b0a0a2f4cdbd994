//! Lists of the largest jobs that there may be: a page is bounded by bytes, and so is what the operator needs for it.

use std::fs;

use crofter_test_cluster::wait;
use futures::{StreamExt, future::join_all, stream};
use serde_json::json;

use crate::{
    OPERATOR_FAULTS,
    common::{Answer, WAIT_TIMEOUT, World, rest::tenant},
};

/// Jobs of the tenant.
const JOBS: usize = 80;
/// The text of each: a little less than a job may have.
const TEXT: usize = 60_000;
/// Lists at once, again and again.
const AT_ONCE: usize = 6;
const ROUNDS: usize = 10;
/// What they may add to the operator's memory, in MiB: far more than they do, and a fraction of what whole lists would.
const MOST: usize = 150;

/// A figure of a process's memory, in MiB.
fn memory(pid: u32, what: &str) -> usize {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with(what)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() / 1024
}

async fn page(world: &World, key: &str, cursor: Option<&str>) -> Answer {
    let cursor = cursor.map(|cursor| format!("&cursor={cursor}")).unwrap_or_default();
    let answer = world.asked("GET", &format!("/v1/jobs?limit=500{cursor}"), key, None).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let bytes = answer.body.to_string().len();
    assert!(bytes < (1 << 20) + 1024, "a page has {bytes} bytes");
    answer
}

/// How many jobs all pages have, and how many pages there are.
async fn counted(world: &World, key: &str) -> (usize, usize) {
    let (mut jobs, mut pages, mut cursor) = (0, 0, None);
    loop {
        let answer = page(world, key, cursor.as_deref()).await;
        (jobs, pages) = (jobs + answer.body["jobs"].as_array().unwrap().len(), pages + 1);
        match answer.body["next_cursor"].as_str() {
            Some(next) => cursor = Some(next.to_owned()),
            None => return (jobs, pages),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_of_the_largest_jobs_take_little_memory() {
    let (world, _exclusive) = OPERATOR_FAULTS.take().await;
    let verbs = world.verbs().await;
    world.start_operator();
    world.until_ready().await;
    // Given: as many jobs as may wait, each about as large as a job may be.
    let key = tenant(&verbs, "large", json!({"plan": "pro"})).await;
    stream::iter(0..JOBS)
        .for_each_concurrent(8, async |n| {
            verbs
                .job(
                    "large",
                    &format!("job-{n}"),
                    json!({"args": ["x".repeat(TEXT / 2), "x".repeat(TEXT / 2)]}),
                )
                .await;
        })
        .await;
    let pid = world.operator_pid();
    fs::write(format!("/proc/{pid}/clear_refs"), "5").unwrap();
    let before = memory(pid, "VmRSS:");
    let pages = wait::until(WAIT_TIMEOUT, "all jobs to be listed", || async {
        let (jobs, pages) = counted(world, &key).await;
        if jobs == JOBS { Ok(pages) } else { Err(jobs) }
    })
    .await
    .unwrap();
    assert!(pages >= JOBS * TEXT / (1 << 20), "{pages} pages");
    // When: several clients list them at once, again and again.
    for _ in 0..ROUNDS {
        join_all((0..AT_ONCE).map(|_| page(world, &key, None))).await;
    }
    // Then: little memory was needed for it.
    let peak = memory(pid, "VmHWM:");
    println!("{AT_ONCE} lists of {JOBS} jobs at once: {before} MiB before, at most {peak}");
    assert!(peak < before + MOST, "{before} MiB before, at most {peak}");
    world.kill_operator();
}
