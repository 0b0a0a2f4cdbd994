//! etcd -> Postgres: tenants, nodes, jobs and attempts as rows, and what each attempt is charged.
//!
//! Guarantees:
//! - Level-triggered: what is marked is an object, and what is written is its last state. The watches never wait for
//!   the database; while it is away marks gather, one per object, and are written when it is back.
//! - Only the leader writes: whether this process leads is checked before each transaction ([`Pool::written_while`]).
//! - An older state never replaces a newer one (`(epoch, resource_version)` grows), also when this process was deposed
//!   without knowing (each transaction is fenced by `mirror_state.writer`) and when etcd was restored from a backup
//!   (rows ahead of the cluster raise the epoch).
//! - An attempt is charged once, whatever reports it and how often (its pod, its job's status, again after a restart).
//! - A row that Postgres refuses is left out with a log line; one that it does not take in time is tried apart, ever
//!   less often. Neither holds up another, and attempts are written before what is only shown.
//! - Where the database loses commits (a standby is promoted that lacks them), all that exists is written again, and
//!   the last charges are written again from memory.
//! - With a new connection, and after each relist, the rows are compared with the caches: what is deleted gets its
//!   `deleted_at`, what is missing or older is written.
//!
//! A job of a namespace that is no tenant's is not mirrored until it is. See `docs/mirror.md`.

use std::{future::Future, sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{Client, runtime::reflector::Store};
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::{
    api_types::{Job, Tenant},
    clock::Clock,
    db::{self, Pool},
    kube_ext::watch::Change,
    metrics::Metrics,
};

mod aside;
mod batch;
mod dirty;
mod handle;
mod listen;
mod payload;
mod recent;
mod resync;
mod rows;
mod tenant_index;
mod write;

pub use handle::MirrorHandle;

/// How the mirror works.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where it writes to. Nothing needs to answer yet.
    pub pool: Pool,
    /// UID of the namespace `kube-system`: which cluster this is.
    pub cluster_uid: Uuid,
    /// Extended resource that counts GPUs.
    pub gpu_resource: String,
    /// Shortest time between two batches.
    pub interval: Duration,
    /// How long the database may be away, or a change wait, before [`MirrorHandle::behind`] says so.
    pub behind_after: Duration,
    /// Longest time between two tries while the database is away.
    pub longest_pause: Duration,
    /// While there is nothing to write, how often the database is asked whether it still holds what was committed.
    pub verify_interval: Duration,
    /// Counters.
    pub metrics: Metrics,
}

impl Config {
    /// The usual times, with counters of its own.
    #[must_use]
    pub fn new(pool: Pool, cluster_uid: Uuid, gpu_resource: String) -> Self {
        Self {
            pool,
            cluster_uid,
            gpu_resource,
            interval: Duration::from_millis(200),
            behind_after: Duration::from_secs(5),
            longest_pause: Duration::from_secs(15),
            verify_interval: Duration::from_secs(15),
            metrics: Metrics::default(),
        }
    }
}

/// The caches: what exists.
#[derive(Clone)]
pub struct Stores {
    /// All tenants.
    pub tenants: Store<Tenant>,
    /// All nodes.
    pub nodes: Store<Node>,
    /// All jobs.
    pub jobs: Store<Job>,
    /// All pods of ours.
    pub pods: Store<Pod>,
}

impl std::fmt::Debug for Stores {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Stores")
    }
}

/// What changes, from the start of the watches.
#[derive(Debug)]
pub struct Changes {
    /// Of tenants.
    pub tenants: mpsc::Receiver<Change<Tenant>>,
    /// Of nodes.
    pub nodes: mpsc::Receiver<Change<Node>>,
    /// Of jobs.
    pub jobs: mpsc::Receiver<Change<Job>>,
    /// Of pods of ours.
    pub pods: mpsc::Receiver<Change<Pod>>,
}

/// The mirror: a handle to ask, and a future that does the work. Nothing happens before that is polled. What the caches
/// lack of a Job is read by `client`.
///
/// The future may be dropped at any point; the next start finishes what was under way. It ends well when all watches
/// have ended, and with an error when another process has taken over ([`db::Cause::Superseded`]) or this one does not
/// lead ([`db::Cause::NotLeader`]): this one should end then. A database that is away, read-only or another cluster's does not end it: it keeps trying.
pub fn start(
    config: Config,
    client: Client,
    stores: Stores,
    changes: Changes,
    clock: Clock,
) -> (MirrorHandle, impl Future<Output = Result<(), db::Error>> + Send + 'static) {
    let shared = Arc::new(handle::Shared::new(config.behind_after));
    let handle = MirrorHandle { shared: Arc::clone(&shared) };
    let gpu_resource = config.gpu_resource.clone();
    let future = async move {
        shared.begin();
        let writer = write::MirrorWriter::new(config, client, stores, clock, Arc::clone(&shared));
        tokio::select! {
            () = listen::listen(changes, &shared, &gpu_resource) => Ok(()),
            error = writer.run() => Err(error),
        }
    };
    (handle, future)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kube_ext::mock;

    #[tokio::test]
    async fn the_mirror_of_a_process_that_does_not_lead_ends_without_asking_the_database() {
        // Nothing answers at this address.
        let url = db::UrlSource::from("postgres://crofter@127.0.0.1:1/crofter");
        let pool = Pool::new(&url, db::Options::default()).unwrap().written_while(|| false);
        let config = Config::new(pool, Uuid::nil(), "example.com/gpu".to_owned());
        let stores = Stores {
            tenants: mock::cache().0,
            nodes: mock::cache().0,
            jobs: mock::cache().0,
            pods: mock::cache().0,
        };
        let (_tenants, tenants) = mpsc::channel(1);
        let (_nodes, nodes) = mpsc::channel(1);
        let (_jobs, jobs) = mpsc::channel(1);
        let (_pods, pods) = mpsc::channel(1);
        let changes = Changes { tenants, nodes, jobs, pods };
        let client = mock::client(|_| mock::refusal(500, "no call is expected"));
        let (handle, writing) = start(config, client, stores, changes, Clock::system());
        assert!(!handle.has_begun());
        let error = writing.await.unwrap_err();
        assert!(matches!(error.cause, db::Cause::NotLeader), "{error}");
        assert!(handle.has_begun());
    }
}
