//! `GET /jobs`: the newest first, page by page, history included.
//!
//! A page is made of the history and of the cache: the history has what is gone from the cluster, the cache what the
//! mirror has not written yet and the state of this moment. While the history is away the cache alone answers, and says so.

use std::collections::BTreeMap;

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
    get::{CACHE, SOURCE},
    view::{JobView, StatusWord, word},
};
use crate::{
    api_types::{Job, JobPhase, job::Queue},
    db::{self, JobsWanted},
    http::{
        App,
        auth::{ByKey, JobsRead},
        jobs_index::Place,
        problem::{Code, Problem},
        query::Params,
    },
};

/// Jobs of a page, by default and at most.
const PAGE: usize = 50;
const LARGEST_PAGE: usize = 500;

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
    /// These are the jobs of the page, the newest first.
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
    let page = page(app, (tenant, namespace), &asked, recorded.unwrap_or_default());
    let mut response = Json(page).into_response();
    if away {
        response.headers_mut().insert(SOURCE, CACHE);
    }
    Ok(response)
}

/// What the history has of the page, with one more to see whether there is another; `None` where it does not answer.
async fn recorded(app: &App, tenant: &str, asked: &Asked) -> Option<Vec<db::JobRecord>> {
    let readers = app.database.as_ref()?;
    let tenant = Uuid::parse_str(tenant).ok()?;
    let wanted = JobsWanted {
        phase: asked.phase.map(Into::into),
        queue: asked.queue.map(Into::into),
        before: asked.before,
        most: i64::try_from(asked.limit + 1).unwrap_or(i64::MAX),
    };
    match db::jobs_of(readers, tenant, wanted).await {
        Ok(records) => Some(records),
        Err(error) => {
            tracing::warn!(%error, "a list comes from the cache");
            None
        }
    }
}

fn page(app: &App, of: (&str, &str), asked: &Asked, recorded: Vec<db::JobRecord>) -> Page {
    let (tenant, namespace) = of;
    let living = app.jobs.newest(namespace, asked.before, asked.limit + 1, |job| asked.holds(job));
    // Beyond the last one that was read there may be others that were not.
    let known_to =
        recorded.last().filter(|_| recorded.len() > asked.limit).map(|last| (last.created_at, last.uid));
    // The cache knows better: what it has is on this page from there, or in another state and on no page of this list.
    let outdated = |record: &db::JobRecord| app.jobs.get(namespace, record.uid).is_some();
    let mut jobs: BTreeMap<Place, JobView> = recorded
        .into_iter()
        .filter(|record| !outdated(record))
        .map(|record| ((record.created_at, record.uid), JobView::recorded(record, tenant)))
        .collect();
    for job in living {
        let view = JobView::of(&job, tenant);
        if let Ok(uid) = Uuid::parse_str(&view.id) {
            jobs.insert((view.created_at, uid), view);
        }
    }
    if let Some(known_to) = known_to {
        jobs = jobs.split_off(&known_to);
    }
    let more = jobs.len() > asked.limit;
    let page: Vec<(Place, JobView)> = jobs.into_iter().rev().take(asked.limit).collect();
    let last = if more { page.last().map(|(place, _)| *place) } else { known_to };
    let next_cursor = last.map(|place| cursor::write(&asked.list, place));
    Page { jobs: page.into_iter().map(|(_, view)| view).collect(), next_cursor }
}
