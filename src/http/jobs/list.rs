//! `GET /jobs`: the newest first, page by page, history included.
//!
//! A page is made of the history and of the cache: the history has what is gone from the cluster, the cache what the
//! mirror has not written yet and the state of this moment. While the history is away the cache alone answers, and says so.
//!
//! A page is bounded by its jobs, its bytes and the jobs of the cache that are looked at for it, whichever is reached
//! first; `next_cursor` is where the next page begins, so with a filter that picks few a page may be empty and not the last.

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
    cursor,
    ended::{recorded_spec, whole, with_payload},
    get::{CACHE, SOURCE},
    view::{JobView, StatusWord, word},
};
use crate::{
    api_types::{Job, JobPhase, job::Queue},
    db::{self, JobsPage, JobsWanted},
    http::{
        App,
        auth::{ByKey, JobsRead},
        jobs_index::{Place, Scan, place},
        problem::{Code, Problem},
        query::Params,
    },
};

/// Jobs of a page, by default and at most.
const PAGE: usize = 50;
const LARGEST_PAGE: usize = 500;
/// Bytes of the jobs of a page, but for the first, which is always on it.
const PAGE_BYTES: usize = 1 << 20;
/// Jobs that are read from the history at once: of the longest, a few megabytes.
const READ_AT_ONCE: usize = 64;
/// Jobs of the cache that are looked at for a page.
const SCANNED: usize = 5_000;

/// Parameters of a list.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Wanted {
    /// Only jobs in this state are listed.
    #[serde(default)]
    #[schemars(with = "Option<StatusWord>")]
    status: Option<String>,
    /// Only jobs of this queue are listed.
    queue: Option<Queue>,
    /// A page has at most this many jobs, by default 50.
    #[schemars(range(min = 1, max = LARGEST_PAGE))]
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

/// A list, as it is asked for.
struct Asked {
    phase: Option<JobPhase>,
    queue: Option<Queue>,
    before: Option<Place>,
    limit: usize,
    /// What its cursors are good for.
    list: String,
}

impl Asked {
    fn of(wanted: Wanted, tenant: &str) -> Result<Self, Problem> {
        let Wanted { status, queue, limit, cursor } = wanted;
        let invalid = |detail: String| Problem::new(Code::InvalidQuery, detail);
        let limit = limit.unwrap_or(PAGE);
        if !(1..=LARGEST_PAGE).contains(&limit) {
            return Err(invalid(format!("limit is 1 to {LARGEST_PAGE}")));
        }
        let phase = |name: String| {
            let known = JobPhase::iter().find(|phase| word(*phase) == name);
            known.ok_or_else(|| {
                let all: Vec<_> = JobPhase::iter().map(word).collect();
                invalid(format!("status is one of {}", all.join(", ")))
            })
        };
        let phase = status.map(phase).transpose()?;
        let queue_name: &str = queue.map_or("", Into::into);
        let list = format!("{tenant}|{}|{queue_name}", phase.map_or("", word));
        let before = cursor.map(|cursor| cursor::read(&list, &cursor)).transpose()?;
        Ok(Self { phase, queue, before, limit, list })
    }

    fn holds(&self, job: &Job) -> bool {
        let phase = job.status.as_ref().map(|status| status.phase).unwrap_or_default();
        self.phase.is_none_or(|wanted| wanted == phase)
            && self.queue.is_none_or(|wanted| wanted == job.spec.queue)
    }
}

/// Lists jobs.
///
/// # Errors
/// `invalid_query`, `invalid_cursor`.
pub async fn list(
    State(app): State<App>,
    ByKey(context, _): ByKey<JobsRead>,
    Params(wanted): Params<Wanted>,
) -> Result<Response, Problem> {
    let of = &context.principal.tenant;
    list_of(&app, &of.uid, &of.namespace, wanted).await
}

/// Lists jobs of a tenant.
///
/// # Errors
/// As [`list`].
pub async fn list_of(app: &App, tenant: &str, namespace: &str, wanted: Wanted) -> Result<Response, Problem> {
    let asked = Asked::of(wanted, tenant)?;
    let recorded = recorded(app, tenant, &asked).await;
    let away = recorded.is_none();
    let page = page(app, (tenant, namespace), &asked, recorded).await;
    let mut response = Json(page).into_response();
    if away {
        response.headers_mut().insert(SOURCE, CACHE);
    }
    Ok(response)
}

/// What the history has of a page, read a few jobs at a time until that is all, or as many bytes.
struct Recorded {
    /// Jobs of a page and one more, to see whether there is another.
    most: usize,
    /// Bytes that may still be read.
    bytes: usize,
    records: Vec<db::JobRecord>,
    /// The last place that was read, or where the page begins.
    last: Option<Place>,
    /// There are no others.
    is_end: bool,
}

impl Recorded {
    /// Nothing yet of this page.
    fn new(asked: &Asked) -> Self {
        let (most, last) = (asked.limit + 1, asked.before);
        Self { most, bytes: PAGE_BYTES, records: Vec::new(), last, is_end: false }
    }

    /// How many jobs after the last are to be read next; none when it is done.
    fn next(&self) -> usize {
        let is_done = self.is_end || self.bytes == 0;
        if is_done { 0 } else { self.most.saturating_sub(self.records.len()).min(READ_AT_ONCE) }
    }

    /// Takes what was read of so many. Where the database stopped its search, this page ends as well.
    fn take(&mut self, page: JobsPage, asked: usize) {
        let JobsPage { jobs, searched_to } = page;
        self.is_end = jobs.len() < asked && searched_to.is_none();
        for record in &jobs {
            let size = record.spec.as_ref().map_or(0, |spec| spec.to_string().len());
            self.bytes = self.bytes.saturating_sub(size);
            self.last = Some((record.created_at, record.uid));
        }
        if searched_to.is_some() {
            (self.last, self.bytes) = (searched_to, 0);
        }
        self.records.extend(jobs);
    }

    /// Beyond this place there may be others that were not read.
    fn known_to(&self) -> Option<Place> {
        self.last.filter(|_| !self.is_end)
    }
}

/// What the history has of the page; `None` where it does not answer.
async fn recorded(app: &App, tenant: &str, asked: &Asked) -> Option<Recorded> {
    let readers = app.database.as_ref()?;
    let tenant = Uuid::parse_str(tenant).ok()?;
    let mut recorded = Recorded::new(asked);
    while let most @ 1.. = recorded.next() {
        let wanted = JobsWanted {
            phase: asked.phase.map(Into::into),
            queue: asked.queue.map(Into::into),
            before: recorded.last,
            most: i64::try_from(most).unwrap_or(i64::MAX),
        };
        match db::jobs_of(readers, tenant, wanted).await {
            Ok(some) => recorded.take(some, most),
            Err(error) => {
                // What is wrong is logged once, where the database is asked.
                tracing::debug!(%error, "a list comes from the cache");
                return None;
            }
        }
    }
    Some(recorded)
}

/// A job of a page, before it is shown.
enum Found {
    Living(Arc<Job>),
    Recorded(Box<db::JobRecord>),
}

/// What the cache lacks of the jobs of a page, which have ended.
struct Payloads<'a> {
    app: &'a App,
    tenant: &'a str,
    /// What the history had of jobs that the cache has, by UID.
    recorded: HashMap<Uuid, db::JobRecord>,
    /// Jobs that may still be read one by one: those whose row the history has in another state, or not yet. None while
    /// it is away.
    reads: usize,
}

impl Payloads<'_> {
    async fn whole(&mut self, job: Arc<Job>) -> Arc<Job> {
        if job.spec.has_payload() {
            return job;
        }
        let uid = job.metadata.uid.as_deref().and_then(|uid| Uuid::parse_str(uid).ok());
        let recorded = uid.and_then(|uid| recorded_spec(self.recorded.get(&uid)?));
        match recorded {
            Some(spec) => Arc::new(with_payload(&job, spec)),
            None if self.reads == 0 => job,
            None => {
                self.reads -= 1;
                whole(self.app, self.tenant, job).await
            }
        }
    }
}

async fn page(app: &App, of: (&str, &str), asked: &Asked, recorded: Option<Recorded>) -> Page {
    let (tenant, namespace) = of;
    let Scan { jobs: living, stopped_at } =
        app.jobs.newest(namespace, asked.before, asked.limit + 1, SCANNED, |job| asked.holds(job));
    let known_to = recorded.as_ref().and_then(Recorded::known_to).max(stopped_at);
    let reads = if recorded.is_some() { READ_AT_ONCE } else { 0 };
    // The cache knows better: what it has is on this page from there, or in another state and on no page of this list.
    let outdated = |record: &db::JobRecord| app.jobs.get(namespace, record.uid).is_some();
    let records = recorded.map(|recorded| recorded.records).unwrap_or_default();
    let (outdated, records): (Vec<_>, Vec<_>) = records.into_iter().partition(outdated);
    let mut found: BTreeMap<Place, Found> = records
        .into_iter()
        .map(|record| ((record.created_at, record.uid), Found::Recorded(Box::new(record))))
        .collect();
    found.extend(living.into_iter().filter_map(|job| Some((place(&job)?, Found::Living(job)))));
    if let Some(known_to) = known_to {
        found = found.split_off(&known_to);
    }
    let recorded = outdated.into_iter().map(|record| (record.uid, record)).collect();
    let mut payloads = Payloads { app, tenant, recorded, reads };
    let mut page = Views::default();
    let mut more = found.len() > asked.limit;
    for (place, found) in found.into_iter().rev().take(asked.limit) {
        let view = match found {
            Found::Living(job) => JobView::of(&*payloads.whole(job).await, tenant),
            Found::Recorded(record) => JobView::recorded(*record, tenant),
        };
        if !page.push(view) {
            more = true;
            break;
        }
        page.last = Some(place);
    }
    let last = if more { page.last } else { known_to };
    let next_cursor = last.map(|place| cursor::write(&asked.list, place));
    Page { jobs: page.views, next_cursor }
}

/// The jobs of a page: as many as have [`PAGE_BYTES`] together, and at least one.
#[derive(Default)]
struct Views {
    views: Vec<JobView>,
    bytes: usize,
    /// Where the last one is.
    last: Option<Place>,
}

impl Views {
    /// Takes one more; not where it would be too much.
    fn push(&mut self, view: JobView) -> bool {
        self.bytes += serde_json::to_vec(&view).map_or(0, |text| text.len());
        let fits = self.bytes <= PAGE_BYTES || self.views.is_empty();
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

    /// How many are read of a history of `all` such jobs, in how many steps, and to where all are known.
    fn read(limit: usize, all: u128, bytes: usize) -> (usize, usize, Option<u128>) {
        let wanted = Wanted { limit: Some(limit), ..Wanted::default() };
        let (mut recorded, mut steps) = (Recorded::new(&Asked::of(wanted, "t").unwrap()), 0);
        while let most @ 1.. = recorded.next() {
            steps += 1;
            let newest = recorded.last.map_or(all, |(_, uid)| uid.as_u128());
            let jobs = (0..newest).rev().take(most).map(|n| record(n, bytes)).collect();
            recorded.take(JobsPage { jobs, searched_to: None }, most);
        }
        (recorded.records.len(), steps, recorded.known_to().map(|(_, uid)| uid.as_u128()))
    }

    #[test]
    fn of_the_history_no_more_is_read_than_a_page_may_have_and_a_few() {
        assert_eq!(read(50, 1000, 9), (51, 1, Some(949)), "one more than the page");
        assert_eq!(read(50, 20, 9), (20, 1, None), "all there is");
        assert_eq!(read(500, 1000, 9), (501, 8, Some(499)));
        assert_eq!(read(500, 128, 9), (128, 3, None), "it ends where a step does");
        assert_eq!(read(500, 1000, 64 << 10), (64, 1, Some(936)), "1 MiB after one step");
        assert_eq!(read(500, 1000, 8 << 10), (128, 2, Some(872)));
    }

    #[tokio::test]
    async fn what_was_submitted_of_an_ended_job_comes_from_the_history() {
        let lab = Lab::new();
        let job = lab.job(1, json!({"phase": "Completed", "finishedAt": "2030-01-01T00:01:00Z"}));
        let mut ended = (*job).clone();
        ended.spec.drop_payload();
        lab.app.jobs.apply(&Arc::new(ended));
        let asked = Asked::of(Wanted::default(), "t").unwrap();
        for (spec, image) in [(json!({"image": "of the row"}), json!("of the row")), (json!({}), Value::Null)]
        {
            let (created_at, uid) = place(&job).unwrap();
            let row = db::JobRecord { uid, created_at, spec: Some(spec), ..record(0, 0) };
            let mut recorded = Recorded::new(&asked);
            recorded.take(JobsPage { jobs: vec![row], searched_to: None }, 9);
            let page = json!(page(&lab.app, ("t", "tenant-acme"), &asked, Some(recorded)).await);
            assert_eq!(
                (page["jobs"].as_array().unwrap().len(), &page["jobs"][0]["status"]),
                (1, &json!("completed"))
            );
            assert_eq!(page["jobs"][0].get("image").cloned().unwrap_or_default(), image, "{page}");
        }
    }

    #[tokio::test]
    async fn a_page_of_the_history_that_holds_nothing_yet_leads_to_the_next_one() {
        let lab = Lab::new();
        let made = lab.job(1, json!({"phase": "Queued"}));
        let made_at = made.metadata.creation_timestamp.as_ref().unwrap().0;
        let wanted = Wanted { status: Some("queued".into()), ..Wanted::default() };
        let asked = Asked::of(wanted, "t").unwrap();
        let searched = |to: &str| JobsPage {
            jobs: Vec::new(),
            searched_to: Some((to.parse().unwrap(), Uuid::from_u128(1))),
        };
        let of = |read: JobsPage| {
            let mut recorded = Recorded::new(&asked);
            recorded.take(read, asked.limit + 1);
            assert_eq!(recorded.next(), 0, "the page ends there");
            page(&lab.app, ("t", "tenant-acme"), &asked, Some(recorded)).now_or_never().unwrap()
        };

        // What is older than what was looked at comes with the page that looks there.
        let to = "9999-01-01T00:00:00Z";
        let empty = of(searched(to));
        assert!(empty.jobs.is_empty());
        let next = cursor::read(&asked.list, &empty.next_cursor.unwrap()).unwrap();
        assert_eq!(next, (to.parse().unwrap(), Uuid::from_u128(1)));
        assert!(made_at < next.0);

        let with_one = of(searched("1971-01-01T00:00:00Z"));
        assert!(with_one.jobs.len() == 1 && with_one.next_cursor.is_some());
        let last = of(JobsPage::default());
        assert!(last.jobs.len() == 1 && last.next_cursor.is_none());
    }
}
