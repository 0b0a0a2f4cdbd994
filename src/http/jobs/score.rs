//! What decides when a waiting job's turn comes, for the response of `GET /jobs/{id}/why`: its score among the tenant's
//! jobs, and the tenant's share of each pool that others use, too.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;

use crate::{
    api_types::{
        Job,
        job::{Priority, Queue},
    },
    domain::admission::{self, MemberShare, order},
    names,
};

/// A score says where a waiting job comes among the jobs of its tenant: the highest is next.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Score {
    /// This is the sum of the points.
    total: f64,
    /// This is the queue of the job.
    queue: Queue,
    /// These are the points for the queue: 100 for `live`, 50 for `default` and 10 for `batch`.
    queue_points: u8,
    /// This is the priority of the job.
    priority: Priority,
    /// These are the points for the priority, from 1 to 3.
    priority_points: u8,
    /// These are the points for waiting: one for every five minutes since the job was submitted.
    waiting_points: f64,
}

impl Score {
    /// The score of a job at a time.
    pub(super) fn of(job: &Job, now: Timestamp) -> Self {
        let (queue, priority) = (job.spec.queue, job.spec.priority);
        let (queue_points, priority_points) = (order::queue_points(queue), order::priority_points(priority));
        let created = job.metadata.creation_timestamp.as_ref().map_or(now, |time| time.0);
        let waited = order::aging_hundredths(created, now);
        let points = |hundredths: u64| hundredths as f64 / 100.0;
        Self {
            total: points(u64::from(order::score(queue, priority)) * 100 + waited),
            queue,
            queue_points,
            priority,
            priority_points,
            waiting_points: points(waited),
        }
    }
}

/// A share says what the tenant has of a pool that several tenants use. The parts are those of the resource of which the
/// tenant has the largest part, from 0 (nothing) to 1 (all of the pool).
#[derive(Debug, Serialize, JsonSchema)]
pub struct PoolShare {
    /// This is the name of the pool.
    pool: String,
    /// This is the weight of the tenant's plan.
    weight: u32,
    /// This is the part that the tenant is guaranteed at the moment: its weight over those of all tenants that use the pool
    /// or want to.
    guaranteed: f64,
    /// This is the part that the tenant's jobs hold.
    held: f64,
    /// This is the part that they would hold with this job. It may be more than 1 where the pool has shrunk.
    with_job: f64,
    /// This is the mean part that they held lately, with a half-life of a day. Beyond the guarantees, the tenant that has the
    /// least of it by weight is next. It is null where this replica does not lead: only the leading one knows it.
    recent: Option<f64>,
    /// Whether the tenant is within its guarantee with this job. Such jobs come before all others.
    within_guarantee: bool,
}

impl PoolShare {
    /// A share, of which this replica knows what was held lately or does not.
    pub(super) fn of(share: &admission::PoolShare, knows_recent: bool) -> Self {
        let admission::PoolShare { pool, share: member } = share;
        let MemberShare { share, guarantee, weight } = *member;
        // No more digits than mean something.
        let part = |part: f64| (part * 10_000.0).round() / 10_000.0;
        Self {
            pool: names::pool_of_group(pool).unwrap_or(pool).to_owned(),
            weight,
            guaranteed: part(guarantee),
            held: part(share.held),
            with_job: part(share.with_job),
            recent: knows_recent.then(|| part(share.recent)),
            within_guarantee: member.is_guaranteed(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn a_score_is_the_sum_of_its_parts() {
        let of = |spec: Value, waited: &str| {
            let job: Job = serde_json::from_value(json!({
                "apiVersion": "crofter.io/v1alpha1", "kind": "Job",
                "metadata": {"name": "j", "creationTimestamp": "2030-01-01T00:00:00Z"}, "spec": spec,
            }))
            .unwrap();
            json!(Score::of(&job, waited.parse().unwrap()))
        };
        assert_eq!(
            of(json!({"queue": "live", "priority": "high"}), "2030-01-01T00:11:03Z"),
            json!({
                "total": 105.21, "queue": "live", "queue_points": 100, "priority": "high", "priority_points": 3,
                "waiting_points": 2.21,
            })
        );
        assert_eq!(of(json!({}), "2029-12-31T00:00:00Z")["total"], json!(52.0), "the clock was set back");
    }

    #[test]
    fn a_share_has_four_digits() {
        let share = admission::Share { held: 1.0 / 3.0, with_job: 0.5, recent: 0.000_04 };
        let member = |guarantee| MemberShare { share, guarantee, weight: 2 };
        let shown = |guarantee| {
            let share = admission::PoolShare { pool: "pool.gpu".into(), share: member(guarantee) };
            json!(PoolShare::of(&share, true))
        };
        assert_eq!(
            shown(0.5),
            json!({
                "pool": "gpu", "weight": 2, "guaranteed": 0.5, "held": 0.3333, "with_job": 0.5, "recent": 0.0,
                "within_guarantee": true,
            })
        );
        assert_eq!(shown(0.4999)["within_guarantee"], json!(false));
    }
}
