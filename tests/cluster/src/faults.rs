//! Faults of the control plane and of the database: one that hangs, dies, or starts again.

use std::time::Duration;

use crate::{
    access,
    cluster::{Cluster, Error},
    process::Signal,
    wait,
};

/// How long a restarted API server may take.
const RESTART_DEADLINE: Duration = Duration::from_secs(60);
/// What waits for an API server that starts. Roles are known to it only some time after it answers, and a pod whose
/// binding was forbidden meanwhile was seen to be left alone by kube-scheduler (1.36) for five minutes.
const SCHEDULER: &str = "kube-scheduler";

/// An API server that is frozen: connections to it stay open and it sends no responses. It resumes when this is
/// dropped.
#[derive(Debug)]
#[must_use = "the API server resumes when this is dropped"]
pub struct FrozenApi<'a> {
    cluster: &'a Cluster,
}

impl FrozenApi<'_> {
    /// Lets it go on.
    pub fn thaw(self) {}
}

impl Drop for FrozenApi<'_> {
    fn drop(&mut self) {
        // It may have been killed meanwhile, which thaws it for good.
        drop(self.cluster.signal_api(Signal::CONT));
    }
}

impl Cluster {
    /// Freezes the API server, as an overloaded or half-dead one is: requests hang instead of failing.
    ///
    /// # Errors
    /// When it does not run.
    pub fn freeze_api(&self) -> Result<FrozenApi<'_>, Error> {
        self.signal_api(Signal::STOP)?;
        Ok(FrozenApi { cluster: self })
    }

    /// Kills the API server: requests fail, and kube-scheduler is frozen, until [`Cluster::start_api`].
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub fn kill_api(&self) -> Result<(), Error> {
        self.plane().kill_api()?;
        self.signal_scheduler(Signal::STOP)
    }

    /// Starts the API server again, at its old address, and waits until it is ready and lets kube-scheduler bind pods,
    /// which then resumes.
    ///
    /// # Errors
    /// When it does not become ready.
    pub async fn start_api(&self) -> Result<(), Error> {
        self.plane().start_api()?;
        let ready = self.wait_for_api(RESTART_DEADLINE).await;
        if ready.is_err() {
            self.plane().check()?;
        }
        ready?;
        let kubeconfig = self.plane().kubeconfig_path(SCHEDULER);
        let scheduler = self.client_for(&kubeconfig).await?;
        let what = "kube-scheduler to be let in";
        wait::until(RESTART_DEADLINE, what, async || access::may_bind(&scheduler).await).await?;
        self.signal_scheduler(Signal::CONT)
    }

    /// Kills the API server and starts it again: every watch breaks.
    ///
    /// # Errors
    /// When it does not become ready.
    pub async fn restart_api(&self) -> Result<(), Error> {
        self.kill_api()?;
        self.start_api().await
    }

    /// Ends Postgres as a crash would: connections break, and new ones are refused until [`Cluster::start_postgres`].
    ///
    /// # Errors
    /// When there is none, or it cannot be waited for.
    pub fn kill_postgres(&self) -> Result<(), Error> {
        Ok(self.database()?.process().end_at_once()?)
    }

    /// Starts Postgres again where it does not run, at its old address and with what it held, and waits until it
    /// answers.
    ///
    /// # Errors
    /// When there is none, or it does not answer.
    pub async fn start_postgres(&self) -> Result<(), Error> {
        let postgres = self.database()?;
        postgres.start_again(&self.layout)?;
        Ok(postgres.ready().await?)
    }

    fn signal_scheduler(&self, signal: Signal) -> Result<(), Error> {
        let mut plane = self.plane();
        let scheduler = plane.rest.iter_mut().find(|process| process.name() == SCHEDULER);
        Ok(scheduler.map_or(Ok(()), |scheduler| scheduler.signal(signal))?)
    }

    fn signal_api(&self, signal: Signal) -> Result<(), Error> {
        match self.plane().api.as_mut() {
            Some(api) => Ok(api.signal(signal)?),
            None => Ok(()),
        }
    }
}
