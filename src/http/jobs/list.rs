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
    view::{JobView, word, words},
};
use crate::{
    api_types::{Job, JobPhase, job::Queue},
    db::{self, JobsPage, JobsWanted},
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
    /// Only those of this status.
    #[serde(default)]
    #[schemars(schema_with = "words")]
    status: Option<String>,
    /// Only those of this queue.
    queue: Option<Queue>,
    /// Jobs of a page, by default 50.
    #[schemars(range(min = 1, max = LARGEST_PAGE))]
    limit: Option<usize>,
    /// `next_cursor` of the page before, of a list with the same filters.
    #[schemars(regex(pattern = "^[0-9a-f]{64}$"))]
    cursor: Option<String>,
}

/// A page of jobs.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Jobs")]
pub struct Page {
    /// The newest first.
    jobs: Vec<JobView>,
    /// Where the next page begins; null on the last one.
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
async fn recorded(app: &App, tenant: &str, asked: &Asked) -> Option<JobsPage> {
    let readers = app.database.as_ref()?;
    let tenant = Uuid::parse_str(tenant).ok()?;
    let wanted = JobsWanted {
        phase: asked.phase.map(Into::into),
        queue: asked.queue.map(Into::into),
        before: asked.before,
        most: i64::try_from(asked.limit + 1).unwrap_or(i64::MAX),
    };
    match db::jobs_of(readers, tenant, wanted).await {
        Ok(page) => Some(page),
        Err(error) => {
            // What is wrong is logged once, where the database is asked.
            tracing::debug!(%error, "a list comes from the cache");
            None
        }
    }
}

fn page(app: &App, of: (&str, &str), asked: &Asked, recorded: JobsPage) -> Page {
    let JobsPage { jobs: recorded, searched_to } = recorded;
    let (tenant, namespace) = of;
    let living = app.jobs.newest(namespace, asked.before, asked.limit + 1, |job| asked.holds(job));
    // Beyond the last one that was read there may be others that were not.
    let full = || recorded.last().filter(|_| recorded.len() > asked.limit);
    let known_to = searched_to.or_else(|| full().map(|last| (last.created_at, last.uid)));
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::http::tests::Lab;

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
        let of = |recorded| page(&lab.app, ("t", "tenant-acme"), &asked, recorded);

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
