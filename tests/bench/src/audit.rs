//! The API server's own record of who asked for what, and how long it took.
//!
//! An entry is written before its request is answered, so whoever has got an answer finds it here.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    fs::File,
    io::{BufRead, BufReader, Seek, SeekFrom},
    path::PathBuf,
};

use anyhow::Context;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::stats::count;

/// A request, answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Who asked.
    pub user: String,
    /// `create`, `patch`, `list`, …
    pub verb: String,
    /// With its subresource, as RBAC names it: `jobs/status`.
    pub resource: String,
    /// Empty for what is in none.
    pub namespace: String,
    /// Empty for collections.
    pub name: String,
    /// HTTP status of the answer.
    pub code: u16,
    /// When it came, in microseconds since 1970.
    pub received: i64,
    /// When it was answered, in microseconds since 1970.
    pub answered: i64,
    /// Path and query.
    pub uri: String,
    /// What was written, where the audit policy has it logged.
    pub body: Option<String>,
}

impl Request {
    /// Whether it was to change something.
    pub fn is_write(&self) -> bool {
        matches!(self.verb.as_str(), "create" | "update" | "patch" | "delete" | "deletecollection")
    }

    /// Whether it was done.
    pub fn is_done(&self) -> bool {
        (200..300).contains(&self.code)
    }

    /// Whether it made a pod.
    pub fn made_pod(&self) -> bool {
        self.verb == "create" && self.resource == "pods" && self.is_done()
    }

    /// Whether it took a pod's finalizer away, which is all that is ever changed of a pod.
    pub fn released_pod(&self) -> bool {
        self.verb == "patch" && self.resource == "pods" && self.is_done()
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry<'a> {
    #[serde(borrow)]
    verb: Cow<'a, str>,
    #[serde(borrow, rename = "requestURI")]
    request_uri: Cow<'a, str>,
    #[serde(borrow)]
    user: User<'a>,
    #[serde(borrow, default)]
    object_ref: ObjectRef<'a>,
    response_status: Option<Status>,
    request_received_timestamp: Timestamp,
    stage_timestamp: Timestamp,
    #[serde(borrow)]
    request_object: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct User<'a> {
    #[serde(borrow)]
    username: Cow<'a, str>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ObjectRef<'a> {
    #[serde(borrow)]
    resource: Cow<'a, str>,
    #[serde(borrow)]
    subresource: Cow<'a, str>,
    #[serde(borrow)]
    namespace: Cow<'a, str>,
    #[serde(borrow)]
    name: Cow<'a, str>,
}

#[derive(Deserialize)]
struct Status {
    #[serde(default)]
    code: u16,
}

/// Reads one line of the log.
fn parse(line: &str) -> Result<Request, serde_json::Error> {
    let entry: Entry<'_> = serde_json::from_str(line)?;
    let ObjectRef { resource, subresource, namespace, name } = entry.object_ref;
    let resource =
        if subresource.is_empty() { resource.into_owned() } else { format!("{resource}/{subresource}") };
    Ok(Request {
        user: entry.user.username.into_owned(),
        verb: entry.verb.into_owned(),
        resource,
        namespace: namespace.into_owned(),
        name: name.into_owned(),
        code: entry.response_status.map_or(0, |status| status.code),
        received: entry.request_received_timestamp.as_microsecond(),
        answered: entry.stage_timestamp.as_microsecond(),
        uri: entry.request_uri.into_owned(),
        body: entry.request_object.map(|raw| raw.get().to_owned()),
    })
}

/// The log of one cluster.
#[derive(Clone, Debug)]
pub struct Log(PathBuf);

/// A position in it.
#[derive(Clone, Copy, Debug)]
pub struct Mark(u64);

impl Log {
    /// The log in a file.
    pub fn new(path: PathBuf) -> Self {
        Self(path)
    }

    /// Its end at this moment.
    ///
    /// # Errors
    /// When the file can't be read.
    pub fn end(&self) -> anyhow::Result<Mark> {
        let metadata = std::fs::metadata(&self.0).with_context(|| self.reading())?;
        Ok(Mark(metadata.len()))
    }

    /// Passes the whole lines behind `mark` to `take`, and returns where they end.
    ///
    /// # Errors
    /// When the file can't be read, or a line is no entry.
    pub fn read(&self, mark: Mark, mut take: impl FnMut(Request)) -> anyhow::Result<Mark> {
        let mut file = File::open(&self.0).with_context(|| self.reading())?;
        file.seek(SeekFrom::Start(mark.0)).with_context(|| self.reading())?;
        let (mut lines, mut line, mut at) = (BufReader::new(file), String::new(), mark.0);
        loop {
            line.clear();
            let length = lines.read_line(&mut line).with_context(|| self.reading())?;
            if !line.ends_with('\n') {
                return Ok(Mark(at));
            }
            at += u64::try_from(length)?;
            take(parse(&line).with_context(|| format!("an entry of the audit log: {line}"))?);
        }
    }

    /// What one user has asked for behind `mark`.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn of_user(&self, user: &str, mark: Mark) -> anyhow::Result<Vec<Request>> {
        let mut all = Vec::new();
        self.read(mark, |request| {
            if request.user == user {
                all.push(request);
            }
        })?;
        Ok(all)
    }

    fn reading(&self) -> String {
        format!("reading the audit log {}", self.0.display())
    }
}

/// How many requests of one kind there were.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Tally {
    /// Requests that were done.
    pub done: usize,
    /// Requests that were refused or failed.
    pub refused: usize,
    /// What the API server took for one on average, in milliseconds.
    pub mean_ms: f64,
}

/// Requests by verb and resource, writes only.
pub fn writes<'a>(requests: impl IntoIterator<Item = &'a Request>) -> BTreeMap<String, Tally> {
    let mut kinds: BTreeMap<String, Tally> = BTreeMap::new();
    for request in requests.into_iter().filter(|request| request.is_write()) {
        let tally = kinds.entry(format!("{} {}", request.verb, request.resource)).or_default();
        let taken = u32::try_from(request.answered - request.received).map_or(0.0, f64::from) / 1e3;
        let before = count(tally.done + tally.refused);
        tally.mean_ms = (tally.mean_ms * before + taken) / (before + 1.0);
        if request.is_done() { tally.done += 1 } else { tally.refused += 1 }
    }
    kinds
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    const CREATE: &str = r#"{"kind":"Event","apiVersion":"audit.k8s.io/v1","level":"Request","auditID":"7","stage":"ResponseComplete","requestURI":"/api/v1/namespaces/tenant-a/pods?a=1\u0026b=2","verb":"create","user":{"username":"op","groups":["system:masters"]},"sourceIPs":["127.0.0.1"],"userAgent":"kube","objectRef":{"resource":"pods","namespace":"tenant-a","name":"j-1","apiVersion":"v1"},"responseStatus":{"metadata":{},"code":201},"requestObject":{"metadata":{"name":"j-1"}},"requestReceivedTimestamp":"2026-01-02T03:04:05.000100Z","stageTimestamp":"2026-01-02T03:04:05.002100Z","annotations":{}}"#;

    fn patch(code: u16, millis: i64) -> Request {
        Request {
            verb: "patch".into(),
            resource: "jobs/status".into(),
            code,
            answered: 1_000 * millis,
            received: 0,
            ..parse(CREATE).unwrap()
        }
    }

    #[test]
    fn an_entry_is_read() {
        let request = parse(CREATE).unwrap();
        assert!(request.made_pod());
        assert_eq!(request.uri, "/api/v1/namespaces/tenant-a/pods?a=1&b=2");
        assert_eq!((request.user.as_str(), request.name.as_str()), ("op", "j-1"));
        assert_eq!(request.answered - request.received, 2_000);
        assert_eq!(request.body.as_deref(), Some(r#"{"metadata":{"name":"j-1"}}"#));
        let health = r#"{"verb":"get","requestURI":"/readyz","user":{"username":"x"},"requestReceivedTimestamp":"2026-01-02T03:04:05Z","stageTimestamp":"2026-01-02T03:04:05Z"}"#;
        let health = parse(health).unwrap();
        assert!(!health.is_write() && !health.is_done() && health.resource.is_empty());
    }

    #[test]
    fn writes_are_counted_by_verb_and_resource() {
        let get = Request { verb: "get".into(), ..patch(200, 1) };
        let kinds = writes(&[patch(200, 2), patch(409, 5), patch(200, 2), get]);
        let wanted = Tally { done: 2, refused: 1, mean_ms: 3.0 };
        assert_eq!(kinds, BTreeMap::from([("patch jobs/status".to_owned(), wanted)]));
    }

    #[test]
    fn half_a_line_is_left_for_later() {
        let path = std::env::temp_dir().join(format!("crofter-bench-audit-{}", std::process::id()));
        let mut file = File::create(&path).unwrap();
        let (log, middle) = (Log::new(path.clone()), CREATE.len() / 2);
        let start = log.end().unwrap();
        writeln!(file, "{CREATE}").unwrap();
        write!(file, "{}", &CREATE[..middle]).unwrap();
        let mut seen = 0;
        let mark = log.read(start, |_| seen += 1).unwrap();
        writeln!(file, "{}", &CREATE[middle..]).unwrap();
        log.read(mark, |_| seen += 1).unwrap();
        assert_eq!(seen, 2);
        assert_eq!(log.of_user("nobody", start).unwrap(), []);
        std::fs::remove_file(path).unwrap();
    }
}
