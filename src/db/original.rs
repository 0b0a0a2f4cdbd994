//! Reads the tables of the job service that Crofter replaces: `tenants`, `nodes` and `jobs`, for `crofter import`.
//!
//! All reads are of one snapshot, in a transaction that can write nothing, so a standby will do. A row comes as JSON: columns
//! that a version of that service lacks are absent, and columns that this program does not know do no harm.

use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::Value;
use sqlx::{Connection as _, PgConnection};

use super::{Cause, Error, UrlSource};

/// Within which each query must end.
const DEADLINE: Duration = Duration::from_secs(60);

/// States of jobs that have ended there.
pub const ENDED: [&str; 6] = ["completed", "failed", "timed_out", "canceled", "cancelled", "rejected"];

/// A table of that service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table {
    /// `tenants`. A service from before there were any lacks it.
    Tenants,
    /// `nodes`.
    Nodes,
    /// `jobs` that have not ended, oldest first. Logs and past states are not read.
    OpenJobs,
}

impl Table {
    fn cursor(self) -> &'static str {
        match self {
            Self::Tenants => {
                "CLOSE ALL; DECLARE imported NO SCROLL CURSOR FOR SELECT to_jsonb(t) FROM tenants t ORDER BY t.name, t.id"
            }
            Self::Nodes => {
                "CLOSE ALL; DECLARE imported NO SCROLL CURSOR FOR SELECT to_jsonb(n) FROM nodes n ORDER BY n.name, n.id"
            }
            Self::OpenJobs => {
                "CLOSE ALL; DECLARE imported NO SCROLL CURSOR FOR SELECT to_jsonb(j) - 'logs' - 'state_transitions' FROM jobs j \
                 WHERE lower(j.status) NOT IN ('completed', 'failed', 'timed_out', 'canceled', 'cancelled', 'rejected') \
                 ORDER BY j.created_at, j.id"
            }
        }
    }
}

/// The database of that service, in one transaction.
#[derive(Debug)]
pub struct Original {
    connection: PgConnection,
    has_tenants: bool,
    has_nodes: bool,
}

impl Original {
    /// Connects, and begins the transaction.
    ///
    /// # Errors
    /// It can't be reached, has no table `jobs`, or is a database of Crofter itself.
    pub async fn open(url: &UrlSource) -> Result<Self, Error> {
        within("failed to open the database that is imported", async {
            let mut connection = PgConnection::connect_with(&url.connect_options()?).await?;
            sqlx::raw_sql("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").execute(&mut connection).await?;
            let (has_jobs, has_tenants, has_nodes, is_ours): (bool, bool, bool, bool) = sqlx::query_as(
                "SELECT to_regclass('jobs') IS NOT NULL, to_regclass('tenants') IS NOT NULL, to_regclass('nodes') IS NOT NULL, \
                 to_regclass('mirror_state') IS NOT NULL",
            )
            .fetch_one(&mut connection)
            .await?;
            match (has_jobs, is_ours) {
                (true, false) => Ok(Self { connection, has_tenants, has_nodes }),
                (_, true) => Err(Cause::OwnDatabase),
                (false, false) => Err(Cause::NoJobs),
            }
        })
        .await
    }

    /// Whether the database has a table.
    #[must_use]
    pub fn has(&self, table: Table) -> bool {
        match table {
            Table::Tenants => self.has_tenants,
            Table::Nodes => self.has_nodes,
            Table::OpenJobs => true,
        }
    }

    /// How many jobs there are in each state.
    ///
    /// # Errors
    /// The query fails.
    pub async fn job_counts(&mut self) -> Result<Vec<(String, i64)>, Error> {
        let query = "SELECT lower(status), count(*) FROM jobs GROUP BY 1 ORDER BY 1";
        within("failed to count the jobs that are imported", async {
            Ok(sqlx::query_as(query).fetch_all(&mut self.connection).await?)
        })
        .await
    }

    /// Begins to read a table; [`fetch`](Self::fetch) then returns its rows.
    ///
    /// # Errors
    /// The table lacks a column that is needed.
    pub async fn begin(&mut self, table: Table) -> Result<(), Error> {
        within("failed to read the table that is imported", async {
            sqlx::raw_sql(table.cursor()).execute(&mut self.connection).await?;
            Ok(())
        })
        .await
    }

    /// The next rows of the table, each as it could be read; none at its end.
    ///
    /// # Errors
    /// The query fails.
    pub async fn fetch<T: DeserializeOwned>(&mut self) -> Result<Vec<Result<T, UnreadableRow>>, Error> {
        let rows = within("failed to read the rows that are imported", async {
            let rows = sqlx::query_scalar("FETCH 1000 FROM imported").fetch_all(&mut self.connection).await?;
            Ok::<Vec<Value>, Cause>(rows)
        });
        Ok(rows.await?.into_iter().map(read).collect())
    }
}

async fn within<T>(doing: &'static str, work: impl Future<Output = Result<T, Cause>>) -> Result<T, Error> {
    let done = tokio::time::timeout(DEADLINE, work).await;
    done.unwrap_or(Err(Cause::Deadline(DEADLINE))).map_err(|cause| Error { doing, cause })
}

fn read<T: DeserializeOwned>(row: Value) -> Result<T, UnreadableRow> {
    let id = row["id"].as_str().unwrap_or("?").to_owned();
    serde_json::from_value(row).map_err(|error| UnreadableRow { id, cause: error.to_string() })
}

/// A row that is not of the form that it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnreadableRow {
    /// Its column `id`.
    pub id: String,
    /// What is wrong with it.
    pub cause: String,
}
