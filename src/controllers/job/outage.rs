//! Namespaces in which pods can't be created at the moment, whatever pod it is: a webhook that hangs, an API server
//! that answers with 5xx or not at all.
//!
//! Each of these creations may hold a worker of the controller for as long as a call may take, and every job of the
//! tenant would try its own. So the answer to one is taken for the answer to all of the namespace for a few seconds;
//! after that one pod is tried, and of all namespaces only few at a time. The other workers stay free for jobs that run
//! and end.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};

/// How long an answer is taken for that to all of the namespace.
const PAUSE: Duration = Duration::from_secs(5);
/// Pods that are tried at once, of all namespaces with an outage.
const PROBES: usize = 4;
/// Longer than a call may take: how long a pod that is tried keeps others from it, where nothing is reported of it.
const PROBE: Duration = Duration::from_secs(30);
/// An outage of which nothing was seen for so long is forgotten.
const FORGOTTEN: Duration = Duration::from_secs(600);

/// The outages that are known. Cheap to share behind a reference.
pub struct Outages {
    known: Mutex<HashMap<String, Outage>>,
    probes: Arc<Semaphore>,
}

struct Outage {
    /// What is answered until then.
    until: Instant,
    message: String,
}

/// The leave to create a pod; what comes of it is to be reported ([`Outages::report`]).
#[derive(Debug)]
pub(super) struct Leave {
    _probe: Option<OwnedSemaphorePermit>,
}

impl Default for Outages {
    fn default() -> Self {
        Self { known: Mutex::default(), probes: Arc::new(Semaphore::new(PROBES)) }
    }
}

impl Outages {
    /// Leave to create a pod in a namespace.
    ///
    /// # Errors
    /// The message of its outage, while that lasts.
    pub(super) fn enter(&self, namespace: &str) -> Result<Leave, String> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(outage) = known.get_mut(namespace) else { return Ok(Leave { _probe: None }) };
        if Instant::now() < outage.until {
            return Err(outage.message.clone());
        }
        match Arc::clone(&self.probes).try_acquire_owned() {
            Ok(probe) => {
                outage.until = Instant::now() + PROBE;
                Ok(Leave { _probe: Some(probe) })
            }
            Err(_) => Err(outage.message.clone()),
        }
    }

    /// Records what came of a creation: the message where no pod can be created in the namespace.
    pub(super) fn report(&self, namespace: &str, outage: Option<&str>) {
        let now = Instant::now();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        match outage {
            Some(message) => {
                known.retain(|_, outage| now < outage.until + FORGOTTEN);
                let outage = Outage { until: now + PAUSE, message: message.to_owned() };
                known.insert(namespace.to_owned(), outage);
            }
            None => {
                known.remove(namespace);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_answer_is_that_to_all_of_a_namespace_and_then_one_pod_is_tried() {
        let outages = Outages::default();
        let first = outages.enter("a").unwrap();
        outages.report("a", Some("down"));
        drop(first);
        assert_eq!(outages.enter("a").unwrap_err(), "down");
        assert!(outages.enter("b").is_ok(), "another namespace");
        tokio::time::advance(PAUSE).await;
        let probe = outages.enter("a").unwrap();
        assert_eq!(outages.enter("a").unwrap_err(), "down", "one at a time");
        outages.report("a", None);
        drop(probe);
        assert!(outages.enter("a").is_ok() && outages.known.lock().unwrap().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn of_many_namespaces_few_are_tried_at_once() {
        let outages = Outages::default();
        let names: Vec<String> = (0..20).map(|n| n.to_string()).collect();
        names.iter().for_each(|name| outages.report(name, Some("down")));
        tokio::time::advance(PAUSE).await;
        let probes: Vec<_> = names.iter().filter_map(|name| outages.enter(name).ok()).collect();
        assert_eq!(probes.len(), PROBES);
        drop(probes);
        assert!(outages.enter(&names[19]).is_ok());
    }
}
