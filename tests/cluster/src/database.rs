//! A Postgres server without a cluster, for tests that need nothing else.

use crate::{
    cluster::{Error, start_postgres},
    layout::Layout,
    postgres::Postgres,
    reaper::Reaper,
};

/// A running database server. Stopped when dropped, and when its process ends, as a [`Cluster`](crate::Cluster) is; it
/// may live in a static as well.
#[derive(Debug)]
pub struct DatabaseServer {
    // Dropped first: the reaper stops the server.
    _reaper: Reaper,
    postgres: Postgres,
}

impl DatabaseServer {
    /// Starts a server with nothing in it: about two seconds. Blocks as [`Builder::start`](crate::Builder::start).
    ///
    /// # Errors
    /// When Postgres is not installed or does not come up.
    pub fn start() -> Result<Self, Error> {
        let layout = Layout::create().map_err(Error::Prepare)?;
        let reaper = Reaper::start(&layout, true).map_err(Error::Prepare)?;
        let postgres = start_postgres(&layout, None)?;
        Ok(Self { _reaper: reaper, postgres })
    }

    /// Creates an empty database and returns its address, with user (a superuser) and password.
    ///
    /// # Errors
    /// When the name is taken.
    pub async fn create_database(&self, name: &str) -> Result<String, Error> {
        Ok(self.postgres.create_database(name).await?)
    }
}
