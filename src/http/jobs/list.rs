//! `GET /jobs`: the newest first, page by page, history included.
//!
//! A page merges the history and the cache: the history has jobs that are deleted from the cluster, the cache has jobs that
//! the mirror has not written yet and the current state. While the history is unavailable a page has the cache alone, and a
//! header says so.
//!
//! A page is limited by its jobs, its bytes and the cached jobs that the server scans for it, whichever limit is reached
//! first; `next_cursor` is where the next page begins. So with a filter that few jobs match, a page may be empty and not the
//! last one.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use strum::IntoEnumIterator;
use uuid::Uuid;

use super::{
    ended::{recorded_spec, with_payload, with_stored_payload},
    get::{CACHE, SOURCE},
    view::{JobView, StatusWord, word},
};
use crate::{
    api_types::{Job, JobPhase, job::Queue},
    db::{self, JobsPage, JobsWanted},
    http::{
        App,
        by_tenant::ByTenant,
        cursor,
        jobs_index::{ListPosition, Scan, list_position},
        openapi::Operation,
        problem::{Code, Problem},
        query::Params,
        rights::ListJobs,
    },
};

/// Jobs of a page, by default and at most.
const DEFAULT_LIMIT: usize = 50;
const MAX_LIMIT: usize = 500;
/// Characters of the name of an object at most.
const MAX_NAME: usize = 253;
/// Most bytes of the jobs of a page. The first job is on it whatever its size.
const MAX_PAGE_BYTES: usize = 1 << 20;
/// Jobs that one query reads from the history: at most a few megabytes.
const QUERY_LIMIT: usize = 64;
/// Most cached jobs that the server scans for a page.
const MAX_SCANNED: usize = 5_000;

/// Parameters of a list.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListParams {
    /// Only jobs in this state are listed.
    #[serde(default)]
    #[schemars(with = "Option<StatusWord>")]
    status: Option<String>,
    /// Only jobs of this queue are listed.
    queue: Option<Queue>,
    /// Only jobs of this name are listed. A name may be used again once its job is deleted, so there may be several.
    #[schemars(length(min = 1, max = MAX_NAME))]
    name: Option<String>,
    /// A page has at most this many jobs, by default 50.
    #[schemars(range(min = 1, max = MAX_LIMIT))]
    limit: Option<usize>,
    /// This is `next_cursor` of the previous page, of a list with the same filters.
    #[schemars(regex(pattern = "^[0-9a-f]{64}$"))]
    cursor: Option<String>,
}

/// A page is a part of a list of jobs.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Jobs")]
pub struct Page {
    /// These are the jobs of the page, the newest first. There may be fewer than `limit` where `next_cursor` is not null.
    jobs: Vec<JobView>,
    /// This is the cursor of the next page. It is null on the last page.
    next_cursor: Option<String>,
}

/// The query of a list.
struct ListQuery {
    phase: Option<JobPhase>,
    queue: Option<Queue>,
    name: Option<String>,
    before: Option<ListPosition>,
    limit: usize,
    /// The tenant and the filters, to which the cursors belong.
    list: String,
}

impl ListQuery {
    fn of(params: ListParams, tenant: &str) -> Result<Self, Problem> {
        let ListParams { status, queue, name, limit, cursor } = params;
        let invalid = |detail: String| Problem::new(Code::InvalidQuery, detail);
        let limit = limit.unwrap_or(DEFAULT_LIMIT);
        if !(1..=MAX_LIMIT).contains(&limit) {
            return Err(invalid(format!("limit is {limit}: give 1 to {MAX_LIMIT}")));
        }
        if let Some(length) = name.as_ref().map(String::len).filter(|length| !(1..=MAX_NAME).contains(length))
        {
            return Err(invalid(format!("name has {length} bytes: give 1 to {MAX_NAME}")));
        }
        let phase = |name: String| {
            let known = JobPhase::iter().find(|phase| word(*phase) == name);
            known.ok_or_else(|| {
                let all: Vec<_> = JobPhase::iter().map(word).collect();
                invalid(format!("status is `{name}`: give one of {}", all.join(", ")))
            })
        };
        let phase = status.map(phase).transpose()?;
        let queue_name: &str = queue.map_or("", Into::into);
        // The name last: it is the only part that may have any character.
        let wanted_name = name.as_deref().unwrap_or_default();
        let list = format!("{tenant}|{}|{queue_name}|{wanted_name}", phase.map_or("", word));
        let before = cursor.map(|cursor| cursor::read(&list, &cursor)).transpose()?;
        Ok(Self { phase, queue, name, before, limit, list })
    }

    fn matches(&self, job: &Job) -> bool {
        let phase = job.status.as_ref().map(|status| status.phase).unwrap_or_default();
        self.phase.is_none_or(|wanted| wanted == phase)
            && self.queue.is_none_or(|wanted| wanted == job.spec.queue)
            && self.name.as_ref().is_none_or(|wanted| job.metadata.name.as_ref() == Some(wanted))
    }
}

/// The description of a route that lists jobs.
pub fn lists_jobs(id: &'static str, summary: &'static str, description: &'static str) -> Operation {
    Operation::new(id, summary, description)
        .json::<Page>(200, "This is a page of jobs.")
        .headers(&["X-Crofter-Source"])
        .problems([Code::InvalidCursor])
}

/// The description of the route.
pub fn operation() -> Operation {
    lists_jobs(
        "listJobs",
        "List all jobs",
        "Lists the tenant's jobs, the newest first, those of the history included.",
    )
}

/// Lists jobs of the caller's tenant.
///
/// # Errors
/// `invalid_query`, `invalid_cursor`.
pub async fn list(
    State(app): State<App>,
    ByTenant(context, _): ByTenant<ListJobs>,
    Params(params): Params<ListParams>,
) -> Result<Response, Problem> {
    let tenant = &context.of;
    list_of(&app, &tenant.uid, &tenant.namespace, params).await
}

/// Lists jobs of a tenant.
///
/// # Errors
/// As `GET /jobs`.
pub async fn list_of(
    app: &App,
    tenant: &str,
    namespace: &str,
    params: ListParams,
) -> Result<Response, Problem> {
    let query = ListQuery::of(params, tenant)?;
    let recorded = recorded(app, tenant, &query).await;
    let is_unavailable = recorded.is_none();
    let page = page(app, (tenant, namespace), &query, recorded).await;
    let mut response = Json(page).into_response();
    if is_unavailable {
        response.headers_mut().insert(SOURCE, CACHE);
    }
    Ok(response)
}

/// The records of the history for a page, read a few at a time until the page, its bytes or the history end.
struct Recorded {
    /// Most records: one more than the page, to know whether another page follows.
    limit: usize,
    /// Bytes that the page may still have.
    bytes_left: usize,
    records: Vec<db::JobRecord>,
    /// The position of the last record, or where the page begins.
    last: Option<ListPosition>,
    /// Whether the history has no further records.
    is_end: bool,
}

impl Recorded {
    /// No records yet of this page.
    fn new(query: &ListQuery) -> Self {
        let (limit, last) = (query.limit + 1, query.before);
        Self { limit, bytes_left: MAX_PAGE_BYTES, records: Vec::new(), last, is_end: false }
    }

    /// How many records the next query reads; 0 at the end.
    fn next(&self) -> usize {
        let is_done = self.is_end || self.bytes_left == 0;
        if is_done { 0 } else { self.limit.saturating_sub(self.records.len()).min(QUERY_LIMIT) }
    }

    /// Adds the records of a query for `requested` of them. Where the database stopped its search, this page ends too.
    fn add(&mut self, page: JobsPage, requested: usize) {
        let JobsPage { jobs, searched_to } = page;
        self.is_end = jobs.len() < requested && searched_to.is_none();
        for record in &jobs {
            let size = record.spec.as_ref().map_or(0, |spec| spec.to_string().len());
            self.bytes_left = self.bytes_left.saturating_sub(size);
            self.last = Some((record.created_at, record.uid));
        }
        if searched_to.is_some() {
            (self.last, self.bytes_left) = (searched_to, 0);
        }
        self.records.extend(jobs);
    }

    /// The position after which the history may have records that were not read.
    fn complete_to(&self) -> Option<ListPosition> {
        self.last.filter(|_| !self.is_end)
    }
}

/// The records of the history for a page; `None` where the database does not answer.
async fn recorded(app: &App, tenant: &str, query: &ListQuery) -> Option<Recorded> {
    let readers = app.database.as_ref()?;
    let tenant = Uuid::parse_str(tenant).ok()?;
    let mut recorded = Recorded::new(query);
    while let most @ 1.. = recorded.next() {
        let wanted = JobsWanted {
            phase: query.phase.map(Into::into),
            queue: query.queue.map(Into::into),
            name: query.name.as_deref(),
            before: recorded.last,
            most: i64::try_from(most).unwrap_or(i64::MAX),
        };
        match db::jobs_of(readers, tenant, wanted).await {
            Ok(page) => recorded.add(page, most),
            Err(error) => {
                // The database module logs the error once.
                tracing::debug!(%error, "listed jobs from the cache alone");
                return None;
            }
        }
    }
    Some(recorded)
}

/// A job of a page.
enum ListedJob {
    Cached(Arc<Job>),
    Recorded(Box<db::JobRecord>),
}

/// Adds the payload to cached jobs of a page that have ended.
struct Payloads<'a> {
    app: &'a App,
    tenant: &'a str,
    /// Records of the history about cached jobs, by UID.
    recorded: HashMap<Uuid, db::JobRecord>,
    /// Jobs that may still be read one by one, as the page has no record of theirs; 0 while the history is unavailable.
    reads_left: usize,
}

impl Payloads<'_> {
    async fn add(&mut self, job: Arc<Job>) -> Arc<Job> {
        if job.spec.has_payload() {
            return job;
        }
        let uid = job.metadata.uid.as_deref().and_then(|uid| Uuid::parse_str(uid).ok());
        let recorded = uid.and_then(|uid| recorded_spec(self.recorded.get(&uid)?));
        match recorded {
            Some(spec) => Arc::new(with_payload(&job, spec)),
            None if self.reads_left == 0 => job,
            None => {
                self.reads_left -= 1;
                with_stored_payload(self.app, self.tenant, job).await
            }
        }
    }
}

async fn page(app: &App, of: (&str, &str), query: &ListQuery, recorded: Option<Recorded>) -> Page {
    let (tenant, namespace) = of;
    let Scan { jobs: cached, stopped_at } =
        app.jobs.newest(namespace, query.before, query.limit + 1, MAX_SCANNED, |job| query.matches(job));
    let complete_to = recorded.as_ref().and_then(Recorded::complete_to).max(stopped_at);
    let reads_left = if recorded.is_some() { QUERY_LIMIT } else { 0 };
    // The cache is newer: a job that it has is on this page from the cache, or does not match the filters any more.
    let is_cached = |record: &db::JobRecord| app.jobs.get(namespace, record.uid).is_some();
    let records = recorded.map(|recorded| recorded.records).unwrap_or_default();
    let (outdated, records): (Vec<_>, Vec<_>) = records.into_iter().partition(is_cached);
    let mut found: BTreeMap<ListPosition, ListedJob> = records
        .into_iter()
        .map(|record| ((record.created_at, record.uid), ListedJob::Recorded(Box::new(record))))
        .collect();
    found.extend(cached.into_iter().filter_map(|job| Some((list_position(&job)?, ListedJob::Cached(job)))));
    if let Some(complete_to) = complete_to {
        found = found.split_off(&complete_to);
    }
    let recorded = outdated.into_iter().map(|record| (record.uid, record)).collect();
    let mut payloads = Payloads { app, tenant, recorded, reads_left };
    let mut page = Views::default();
    let mut has_more = found.len() > query.limit;
    for (position, job) in found.into_iter().rev().take(query.limit) {
        let view = match job {
            ListedJob::Cached(job) => JobView::of(&*payloads.add(job).await, tenant),
            ListedJob::Recorded(record) => JobView::recorded(*record, tenant),
        };
        if !page.try_push(view) {
            has_more = true;
            break;
        }
        page.last = Some(position);
    }
    let last = if has_more { page.last } else { complete_to };
    let next_cursor = last.map(|position| cursor::write(&query.list, position));
    Page { jobs: page.views, next_cursor }
}

/// The jobs of a page: at most [`MAX_PAGE_BYTES`] together, and at least one.
#[derive(Default)]
struct Views {
    views: Vec<JobView>,
    bytes: usize,
    /// The position of the last one.
    last: Option<ListPosition>,
}

impl Views {
    /// Adds a job, unless the page would be too large.
    fn try_push(&mut self, view: JobView) -> bool {
        self.bytes += serde_json::to_vec(&view).map_or(0, |text| text.len());
        let fits = self.bytes <= MAX_PAGE_BYTES || self.views.is_empty();
        if fits {
            self.views.push(view);
        }
        fits
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use jiff::Timestamp;
    use serde_json::{Value, json};

    use super::*;
    use crate::http::tests::Lab;

    fn record(n: u128, bytes: usize) -> db::JobRecord {
        db::JobRecord {
            uid: Uuid::from_u128(n),
            name: "j".into(),
            phase: None,
            reason: None,
            message: None,
            attempt: 0,
            retries: 0,
            node: None,
            exit_code: None,
            spec: Some(json!({"args": ["x".repeat(bytes)]})),
            created_at: Timestamp::UNIX_EPOCH,
            assigned_at: None,
            started_at: None,
            finished_at: None,
            deleted_at: None,
        }
    }

    /// How many records are read of a history of `all` such jobs, in how many queries, and to where the page is complete.
    fn read(limit: usize, all: u128, bytes: usize) -> (usize, usize, Option<u128>) {
        let params = ListParams { limit: Some(limit), ..ListParams::default() };
        let (mut recorded, mut steps) = (Recorded::new(&ListQuery::of(params, "t").unwrap()), 0);
        while let most @ 1.. = recorded.next() {
            steps += 1;
            let newest = recorded.last.map_or(all, |(_, uid)| uid.as_u128());
            let jobs = (0..newest).rev().take(most).map(|n| record(n, bytes)).collect();
            recorded.add(JobsPage { jobs, searched_to: None }, most);
        }
        (recorded.records.len(), steps, recorded.complete_to().map(|(_, uid)| uid.as_u128()))
    }

    #[test]
    fn a_page_reads_few_more_records_than_it_may_have() {
        assert_eq!(read(50, 1000, 9), (51, 1, Some(949)), "one more than the page");
        assert_eq!(read(50, 20, 9), (20, 1, None), "the whole history");
        assert_eq!(read(500, 1000, 9), (501, 8, Some(499)));
        assert_eq!(read(500, 128, 9), (128, 3, None), "it ends where a step does");
        assert_eq!(read(500, 1000, 64 << 10), (64, 1, Some(936)), "1 MiB after one step");
        assert_eq!(read(500, 1000, 8 << 10), (128, 2, Some(872)));
    }

    #[tokio::test]
    async fn the_submitted_fields_of_an_ended_job_come_from_the_history() {
        let lab = Lab::new();
        let job = lab.job(1, json!({"phase": "Completed", "finishedAt": "2030-01-01T00:01:00Z"}));
        let mut ended = (*job).clone();
        ended.spec.drop_payload();
        lab.app.jobs.apply(&Arc::new(ended));
        let query = ListQuery::of(ListParams::default(), "t").unwrap();
        for (spec, image) in [(json!({"image": "of the row"}), json!("of the row")), (json!({}), Value::Null)]
        {
            let (created_at, uid) = list_position(&job).unwrap();
            let row = db::JobRecord { uid, created_at, spec: Some(spec), ..record(0, 0) };
            let mut recorded = Recorded::new(&query);
            recorded.add(JobsPage { jobs: vec![row], searched_to: None }, 9);
            let page = json!(page(&lab.app, ("t", "tenant-acme"), &query, Some(recorded)).await);
            assert_eq!(
                (page["jobs"].as_array().unwrap().len(), &page["jobs"][0]["status"]),
                (1, &json!("completed"))
            );
            assert_eq!(page["jobs"][0].get("image").cloned().unwrap_or_default(), image, "{page}");
        }
    }

    #[tokio::test]
    async fn an_empty_page_of_the_history_leads_to_the_next_one() {
        // Given: a queued job, and reads of the history that end at a time.
        let lab = Lab::new();
        let made = lab.job(1, json!({"phase": "Queued"}));
        let made_at = made.metadata.creation_timestamp.as_ref().unwrap().0;
        let params = ListParams { status: Some("queued".into()), ..ListParams::default() };
        let query = ListQuery::of(params, "t").unwrap();
        let searched = |to: &str| JobsPage {
            jobs: Vec::new(),
            searched_to: Some((to.parse().unwrap(), Uuid::from_u128(1))),
        };
        let of = |read: JobsPage| {
            let mut recorded = Recorded::new(&query);
            recorded.add(read, query.limit + 1);
            assert_eq!(recorded.next(), 0, "the page ends there");
            page(&lab.app, ("t", "tenant-acme"), &query, Some(recorded)).now_or_never().unwrap()
        };

        // Step 1: an empty page has a cursor; older jobs are on the page whose search reaches them.
        let to = "9999-01-01T00:00:00Z";
        let empty = of(searched(to));
        assert!(empty.jobs.is_empty());
        let next = cursor::read(&query.list, &empty.next_cursor.unwrap()).unwrap();
        assert_eq!(next, (to.parse().unwrap(), Uuid::from_u128(1)));
        assert!(made_at < next.0);

        // Step 2: the next page has the job, and the last one no cursor.
        let with_one = of(searched("1971-01-01T00:00:00Z"));
        assert!(with_one.jobs.len() == 1 && with_one.next_cursor.is_some());
        let last = of(JobsPage::default());
        assert!(last.jobs.len() == 1 && last.next_cursor.is_none());
    }
}
