//! From what was seen of a run to its numbers.

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;

use crate::{
    audit::{Request, Tally, writes},
    follow::key,
    load::Submitted,
    stats::{Quantiles, count, rate},
};

/// What one side, operator or bare client, has done.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Measured {
    /// Jobs of the run.
    pub jobs: usize,
    /// Seconds from the beginning to the first pod.
    pub to_first_pod: f64,
    /// Seconds from the beginning to the last job's end.
    pub seconds: f64,
    /// Pods made a second, from the first to the last.
    pub admissions_per_second: f64,
    /// Jobs ended a second, from the first to the last.
    pub completions_per_second: f64,
    /// Seconds from a job's submission, or from the beginning if that is later, to its pod.
    pub wait: Quantiles,
    /// Writes that were done, for each job.
    pub writes_per_job: f64,
    /// Writes that were refused, in all.
    pub writes_refused: usize,
    /// Requests that read, in all.
    pub reads: usize,
    /// Writes by verb and resource.
    pub writes: BTreeMap<String, Tally>,
    /// The most memory the operator had at once, in MiB; 0 for the bare client, which is a part of this process.
    pub peak_mib: f64,
    /// Processor seconds by process.
    pub processor_seconds: BTreeMap<String, f64>,
    /// When pods were made and jobs ended, in seconds from the beginning; for the picture.
    #[serde(skip)]
    pub curves: Curves,
}

/// Times in seconds from the beginning, sorted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Curves {
    /// Of pods made.
    pub admitted: Vec<f64>,
    /// Of jobs ended.
    pub completed: Vec<f64>,
}

/// What was seen of a run.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// Its beginning, in microseconds since 1970.
    pub begun: i64,
    /// Its jobs.
    pub jobs: &'a [Submitted],
    /// What the side that is measured has asked of the API server.
    pub requests: &'a [Request],
    /// When jobs have ended, by key.
    pub completed: &'a HashMap<String, i64>,
}

/// The job that a pod is of, from the pod's name: `<job>-<part of the UID>-<attempt>`.
pub fn job_of(pod: &str) -> &str {
    pod.rsplitn(3, '-').nth(2).unwrap_or_default()
}

/// Seconds between two times in microseconds.
pub fn seconds(from: i64, to: i64) -> f64 {
    i32::try_from((to - from) / 1_000).map_or(f64::INFINITY, f64::from) / 1e3
}

impl Seen<'_> {
    /// When each job's first pod was made, by key.
    pub fn admitted(&self) -> HashMap<String, i64> {
        let mut times = HashMap::new();
        for request in self.requests.iter().filter(|request| request.made_pod()) {
            times.entry(key(&request.namespace, job_of(&request.name))).or_insert(request.answered);
        }
        times
    }

    /// The numbers.
    pub fn evaluate(&self) -> Measured {
        let admitted = self.admitted();
        self.numbers(self.jobs.iter().filter_map(|job| Some((job.at, *admitted.get(&job.key())?))))
    }

    /// The numbers where the API server has named the pods, so that the request for one does not say which job it is
    /// of. All jobs were submitted before the beginning.
    pub fn evaluate_unnamed(&self) -> Measured {
        let made = self.requests.iter().filter(|request| request.made_pod());
        self.numbers(made.map(|request| (self.begun, request.answered)))
    }

    /// The numbers, from when each job was submitted and its pod made.
    fn numbers(&self, admitted: impl Iterator<Item = (i64, i64)>) -> Measured {
        let mut curves = Curves::default();
        let mut waits = Vec::new();
        for (submitted, made) in admitted {
            curves.admitted.push(seconds(self.begun, made));
            waits.push(seconds(submitted.max(self.begun), made).max(0.0));
        }
        let ended = self.jobs.iter().filter_map(|job| self.completed.get(&job.key()));
        curves.completed.extend(ended.map(|at| seconds(self.begun, *at)));
        curves.admitted.sort_by(f64::total_cmp);
        curves.completed.sort_by(f64::total_cmp);
        let writes = writes(self.requests);
        let done: usize = writes.values().map(|tally| tally.done).sum();
        Measured {
            jobs: self.jobs.len(),
            to_first_pod: curves.admitted.first().copied().unwrap_or_default(),
            seconds: curves.completed.last().copied().unwrap_or_default(),
            admissions_per_second: rate(&curves.admitted),
            completions_per_second: rate(&curves.completed),
            wait: Quantiles::of(waits),
            writes_per_job: count(done) / count(self.jobs.len().max(1)),
            writes_refused: writes.values().map(|tally| tally.refused).sum(),
            reads: self.requests.iter().filter(|request| !request.is_write()).count(),
            writes,
            peak_mib: 0.0,
            processor_seconds: BTreeMap::new(),
            curves,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::Planned;

    fn job(name: &str, at: i64) -> Submitted {
        let (namespace, name) = ("tenant-a".to_owned(), name.to_owned());
        let plan = Planned { tenant: 0, shape: 0 };
        Submitted { plan, namespace, name, uid: String::new(), version: String::new(), at }
    }

    fn request(verb: &str, resource: &str, name: &str, code: u16, answered: i64) -> Request {
        Request {
            user: "op".into(),
            verb: verb.into(),
            resource: resource.into(),
            namespace: "tenant-a".into(),
            name: name.into(),
            code,
            received: answered - 1_000,
            answered,
            uri: String::new(),
            body: None,
        }
    }

    #[test]
    fn a_run_is_counted_from_its_beginning_or_the_jobs() {
        let second = 1_000_000;
        let jobs = [job("j-1", 0), job("j-2", 12 * second)];
        let requests = [
            request("list", "jobs", "", 200, 10 * second),
            request("create", "pods", "j-1-abc-1", 403, 10 * second),
            request("create", "pods", "j-1-abc-1", 201, 11 * second),
            request("create", "pods", "j-2-abc-1", 201, 15 * second),
            request("create", "pods", "j-2-abc-2", 201, 18 * second),
        ];
        let completed = HashMap::from([
            ("tenant-a/j-1".to_owned(), 13 * second),
            ("tenant-a/j-2".to_owned(), 21 * second),
        ]);
        let seen = Seen { begun: 10 * second, jobs: &jobs, requests: &requests, completed: &completed };
        let measured = seen.evaluate();
        assert_eq!((measured.to_first_pod, measured.seconds), (1.0, 11.0));
        assert_eq!(measured.wait, Quantiles { p50: 1.0, p99: 3.0, max: 3.0 });
        assert_eq!(measured.admissions_per_second, 0.25, "the second attempt is none");
        assert_eq!(measured.completions_per_second, 0.125);
        assert_eq!((measured.writes_per_job, measured.writes_refused, measured.reads), (1.5, 1, 1));
        assert_eq!(measured.curves, Curves { admitted: vec![1.0, 5.0], completed: vec![3.0, 11.0] });
    }

    #[test]
    fn pods_that_the_api_server_named_count_from_the_beginning() {
        let second = 1_000_000;
        let jobs = [job("j-1", 0), job("j-2", 0)];
        let requests = [
            request("create", "pods", "", 500, 11 * second),
            request("create", "pods", "", 201, 12 * second),
            request("create", "pods", "", 201, 14 * second),
        ];
        let completed = HashMap::from([("tenant-a/j-2".to_owned(), 15 * second)]);
        let seen = Seen { begun: 10 * second, jobs: &jobs, requests: &requests, completed: &completed };
        let measured = seen.evaluate_unnamed();
        assert_eq!(measured.curves, Curves { admitted: vec![2.0, 4.0], completed: vec![5.0] });
        assert_eq!((measured.wait.max, measured.admissions_per_second), (4.0, 0.5));
    }

    #[test]
    fn a_pods_name_contains_its_job() {
        assert_eq!(job_of("nightly-report-0b8e9a526a5e-12"), "nightly-report");
        assert_eq!(job_of("odd"), "");
    }
}
