//! Pages of jobs, as they come from the cache.

use uuid::Uuid;

use super::*;

/// A job of this number, the higher the newer, with a spec of at least this many bytes.
fn numbered(n: u32, bytes: usize) -> Arc<Job> {
    let mut job = job(1, json!({"phase": if n.is_multiple_of(1000) { "Failed" } else { "Completed" }}));
    let created = jiff::Timestamp::from_second(1_900_000_000 + i64::from(n)).unwrap();
    job.metadata.creation_timestamp.as_mut().unwrap().0 = created;
    job.metadata.uid = Some(Uuid::from_u128(u128::from(n) + 1).to_string());
    job.spec.args = vec!["x".repeat(bytes)];
    Arc::new(job)
}

/// The pages of a list: how many jobs each has, and how many bytes the longest.
async fn pages(lab: &Lab, query: &str) -> (Vec<usize>, usize) {
    let (mut counts, mut longest, mut cursor) = (Vec::new(), 0, String::new());
    let mut seen = std::collections::BTreeSet::new();
    loop {
        let (status, page) = lab.ask("GET", &format!("/v1/jobs?{query}{cursor}"), KEY, "").await;
        assert_eq!(status, 200, "{page}");
        let jobs = page["jobs"].as_array().unwrap();
        for job in jobs {
            assert!(seen.insert(job["id"].as_str().unwrap().to_owned()), "twice: {job}");
        }
        counts.push(jobs.len());
        longest = longest.max(page.to_string().len());
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return (counts, longest),
        }
    }
}

#[tokio::test]
async fn a_page_of_jobs_ends_before_its_limit_of_bytes() {
    let lab = Lab::new();
    for n in 1..=40 {
        lab.app.jobs.apply(&numbered(n, 64 << 10));
    }
    let (counts, longest) = pages(&lab, "limit=500").await;
    assert_eq!((counts.iter().sum::<usize>(), counts.len()), (40, 3), "{counts:?}");
    assert!(longest <= (1 << 20) + 1024, "{longest}");
    lab.app.jobs.apply(&numbered(41, 3 << 20));
    let (counts, _) = pages(&lab, "limit=2").await;
    assert_eq!(counts[..2], [1, 2], "one that is too long is on a page of its own: {counts:?}");
    assert_eq!(counts.iter().sum::<usize>(), 41);
}

#[tokio::test]
async fn a_filtered_list_scans_a_bounded_number_of_jobs_a_page_and_misses_none() {
    let lab = Lab::new();
    for n in 1..=6_000 {
        lab.app.jobs.apply(&numbered(n, 0));
    }
    let (counts, _) = pages(&lab, "status=failed").await;
    assert_eq!(counts, [5, 1], "5,000 jobs are scanned for each");
    let (counts, _) = pages(&lab, "status=queued").await;
    assert_eq!(counts, [0, 0], "empty, and not the last");
}

#[tokio::test]
async fn a_list_by_name_has_the_jobs_of_that_name_alone() {
    let lab = Lab::new();
    for n in 1..=3 {
        let mut job = Job::clone(&numbered(n, 0));
        job.metadata.name = Some(format!("render-{n}"));
        lab.app.jobs.apply(&Arc::new(job));
    }
    let listed = async |query: &str| lab.ask("GET", &format!("/v1/jobs?{query}"), KEY, "").await;
    let (_, page) = listed("name=render-2").await;
    let names: Vec<_> = page["jobs"].as_array().unwrap().iter().map(|job| &job["name"]).collect();
    assert_eq!(names, ["render-2"]);
    assert_eq!(pages(&lab, "name=render").await.0, [0], "no part of a name");
    // A cursor belongs to the name, too.
    let (_, all) = listed("limit=1").await;
    let cursor = all["next_cursor"].as_str().unwrap();
    let (status, problem) = listed(&format!("name=render-2&cursor={cursor}")).await;
    assert_eq!((status, &problem["code"]), (400, &json!("invalid_cursor")));
    for length in [0, 254] {
        let (status, problem) = listed(&format!("name={}", "x".repeat(length))).await;
        assert_eq!((status, &problem["code"]), (400, &json!("invalid_query")), "{length}");
    }
}
