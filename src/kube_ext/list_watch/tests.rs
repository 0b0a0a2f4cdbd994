//! Against an API server in memory that stalls where the test wants it, in paused time.

use std::{
    collections::VecDeque,
    convert::Infallible,
    sync::{Arc, Mutex},
};

use axum::body::{Body as Answer, Bytes};
use k8s_openapi::api::core::v1::ConfigMap;
use serde_json::{Value, json};

use super::*;

/// What the API server does with a request.
enum Does {
    /// Does not even answer.
    Nothing,
    /// Sends this, and then closes, or stays silent for ever.
    Sends { code: u16, text: String, closes: bool },
    /// Sends nothing for this number of seconds, and then closes.
    Closes(u64),
    /// Sends a byte every half minute, a thousand of them.
    Drips,
}

fn sends(text: impl ToString) -> Does {
    Does::Sends { code: 200, text: text.to_string(), closes: true }
}

fn stalls(text: impl ToString) -> Does {
    Does::Sends { code: 200, text: text.to_string(), closes: false }
}

fn refuses(code: u16) -> Does {
    let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": "no", "reason": "No", "code": code});
    Does::Sends { code, text: status.to_string(), closes: true }
}

fn list(names: &[&str], token: &str) -> String {
    let items: Vec<Value> = names.iter().map(|name| map(name, "5")).collect();
    let metadata = json!({"resourceVersion": "10", "continue": token});
    json!({"kind": "ConfigMapList", "apiVersion": "v1", "metadata": metadata, "items": items}).to_string()
}

fn map(name: &str, version: &str) -> Value {
    json!({"metadata": {"name": name, "namespace": "n", "uid": name, "resourceVersion": version}})
}

fn event(kind: &str, name: &str, version: &str) -> String {
    let mut object = map(name, version);
    object["kind"] = json!("ConfigMap");
    object["apiVersion"] = json!("v1");
    line(kind, &object)
}

/// An event as the API server writes it: its type first, by which the object is read without a copy.
fn line(kind: &str, object: &Value) -> String {
    format!("{{\"type\":\"{kind}\",\"object\":{object}}}\n")
}

struct World {
    asked: Arc<Mutex<Vec<String>>>,
    pulse: Pulse,
    events: BoxStream<'static, Result<Event<Guarded<ConfigMap>>, Interruption>>,
}

impl World {
    /// An API server that does these one after another, and nothing from then on.
    fn of(script: impl IntoIterator<Item = Does>) -> Self {
        let script = Arc::new(Mutex::new(script.into_iter().collect::<VecDeque<_>>()));
        let asked = Arc::<Mutex<Vec<String>>>::default();
        let seen = Arc::clone(&asked);
        let service = tower::service_fn(move |request: http::Request<Body>| {
            let query = request.uri().query().unwrap_or_default();
            seen.lock().unwrap().push(query.trim_start_matches('&').to_owned());
            let does = script.lock().unwrap().pop_front().unwrap_or(Does::Nothing);
            async move {
                let (code, text, end) = match does {
                    Does::Nothing => std::future::pending().await,
                    Does::Drips => {
                        let drops = stream::iter(vec![Bytes::from_static(b" "); 1000]).then(|byte| async {
                            tokio::time::sleep(Duration::from_secs(30)).await;
                            Ok::<_, Infallible>(byte)
                        });
                        return Ok(http::Response::new(Answer::from_stream(drops)));
                    }
                    Does::Sends { code, text, closes } => {
                        let end = if closes { Duration::ZERO } else { Duration::from_secs(1_000_000) };
                        (code, text, end)
                    }
                    Does::Closes(seconds) => (200, String::new(), Duration::from_secs(seconds)),
                };
                let end = stream::once(tokio::time::sleep(end)).map(|()| Bytes::new());
                let chunks = stream::once(async move { Bytes::from(text) }).chain(end);
                let body = Answer::from_stream(chunks.map(Ok::<_, Infallible>));
                Ok::<_, Infallible>(http::Response::builder().status(code).body(body).unwrap())
            }
        });
        let (client, path) = (Client::new(service, "default"), "/api/v1/configmaps".to_owned());
        let pulse = Pulse::default();
        let source = Source { client, path, config: watcher::Config::default(), metadata: false };
        let events = list_watch(source, pulse.clone()).boxed();
        Self { asked, pulse, events }
    }

    /// What comes next, and after how many seconds.
    async fn next(&mut self) -> (String, u64) {
        let begun = Instant::now();
        let name = |object: &Guarded<ConfigMap>| object.meta().name.clone().unwrap();
        let text = match self.events.next().await.unwrap() {
            Ok(Event::Init) => "(".to_owned(),
            Ok(Event::InitApply(object)) => name(&object),
            Ok(Event::InitDone) => ")".to_owned(),
            Ok(Event::Apply(object)) => format!("+{}", name(&object)),
            Ok(Event::Delete(object)) => format!("-{}", name(&object)),
            Err(error) => format!("{:?}: {error}", error.cause()),
        };
        (text, begun.elapsed().as_secs())
    }

    /// How many seconds nothing was delivered, where that is longer than a quiet watch can take.
    fn behind(&self) -> Option<u64> {
        let watches = crate::kube_ext::pulse::Watches::default();
        watches.add("maps", self.pulse.clone());
        watches.states()[0].behind.map(|behind| behind.as_secs())
    }

    /// Waits for `seconds`, within which nothing comes.
    async fn quiet(&mut self, seconds: u64) {
        let next = timeout(Duration::from_secs(seconds), self.next()).await;
        assert!(next.is_err(), "{next:?}");
    }

    async fn all(&mut self, so_many: usize) -> Vec<String> {
        let mut all = Vec::new();
        for _ in 0..so_many {
            all.push(self.next().await.0);
        }
        all
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.asked.lock().unwrap())
    }
}

const SILENT_LIST: &str = "Silent: failed to list: the API server sent nothing for 75 s";
const SILENT_WATCH: &str = "Silent: failed to watch: the API server sent nothing for 75 s";

#[tokio::test(start_paused = true)]
async fn a_list_that_is_never_answered_is_begun_again() {
    let mut world = World::of([Does::Nothing, sends(list(&["a"], ""))]);
    assert_eq!(world.next().await.0, "(");
    assert_eq!(world.next().await, (SILENT_LIST.to_owned(), 75));
    assert_eq!(world.all(3).await, ["(", "a", ")"]);
}

#[tokio::test(start_paused = true)]
async fn a_list_that_stalls_in_the_middle_is_begun_again() {
    let half = list(&["a", "b"], "");
    let mut world = World::of([
        sends(list(&["z"], "more")),
        stalls(&half[..half.len() / 2]),
        sends(list(&["a", "b"], "")),
    ]);
    assert_eq!(world.all(2).await, ["(", "z"]);
    assert_eq!(world.next().await, (SILENT_LIST.to_owned(), 75));
    assert_eq!(world.all(4).await, ["(", "a", "b", ")"]);
    assert_eq!(world.asked(), ["limit=500", "limit=10000&continue=more", "limit=10000"]);
}

#[tokio::test(start_paused = true)]
async fn a_page_that_comes_steadily_and_too_slowly_is_asked_for_again() {
    let mut world = World::of([Does::Drips, sends(list(&["a"], ""))]);
    assert_eq!(world.next().await.0, "(");
    let words = "Silent: failed to list: a page was not complete within 300 s";
    assert_eq!(world.next().await, (words.to_owned(), 300));
    assert_eq!(world.all(3).await, ["(", "a", ")"]);
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_never_opens_or_stays_silent_is_opened_again_where_it_was() {
    let mut world = World::of([
        sends(list(&["a"], "")),
        Does::Nothing,
        stalls(event("ADDED", "b", "11")),
        stalls(event("DELETED", "b", "12")),
    ]);
    assert_eq!(world.all(3).await, ["(", "a", ")"]);
    assert_eq!(world.next().await, (SILENT_WATCH.to_owned(), 75));
    assert_eq!(world.all(1).await, ["+b"]);
    assert_eq!(world.next().await, (SILENT_WATCH.to_owned(), 75));
    assert_eq!(world.all(1).await, ["-b"]);
    let versions = ["limit=500", "resourceVersion=10", "resourceVersion=10", "resourceVersion=11"];
    for (asked, version) in world.asked().iter().zip(versions) {
        assert!(asked.ends_with(version), "{asked}: {version}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_quiet_watch_ends_by_itself_and_counts_as_a_sign_of_life() {
    let quiet = (0..10).map(|_| Does::Closes(60));
    let script = [sends(list(&["a"], ""))].into_iter().chain(quiet).chain([sends(event("ADDED", "b", "11"))]);
    let mut world = World::of(script);
    let watches = crate::kube_ext::pulse::Watches::default();
    watches.add("maps", world.pulse.clone());
    world.pulse.begun();
    assert_eq!(world.all(3).await, ["(", "a", ")"]);
    world.quiet(590).await;
    assert_eq!(world.behind(), None);
    assert_eq!(world.next().await, ("+b".to_owned(), 10), "without an error in between");
    assert!(world.asked()[1].contains("timeoutSeconds=60"));
    let states = watches.states();
    assert_eq!((states.len(), states[0].behind), (1, None));
    // From here on the API server is silent.
    for _ in 0..8 {
        assert!(world.next().await.0.starts_with("Silent"));
        world.pulse.failed(Cause::Silent);
    }
    let states = watches.states();
    assert_eq!(states[0].behind, Some(Duration::from_secs(600)));
    assert_eq!(watches.ailments(), [""; 0], "no restart mends that");
}

#[tokio::test(start_paused = true)]
async fn what_comes_is_a_sign_of_life_and_an_end_before_its_time_is_none() {
    for sent in [event("ADDED", "b", "11"), event("BOOKMARK", "", "11")] {
        let mut world =
            World::of([sends(list(&["a"], "")), Does::Closes(50), Does::Closes(50), stalls(sent.clone())]);
        world.pulse.begun();
        assert_eq!(world.all(3).await, ["(", "a", ")"]);
        world.quiet(95).await;
        assert_eq!(world.behind(), Some(95));
        // A bookmark is no event: what follows it is the silence of 75 s.
        world.next().await;
        assert_eq!(world.behind(), None, "{sent}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_is_known_to_be_behind_is_opened_again_at_once() {
    let script =
        [sends(list(&["a"], "")), stalls(event("ADDED", "b", "11")), sends(event("ADDED", "c", "12"))];
    let mut world = World::of(script);
    assert_eq!(world.all(4).await, ["(", "a", ")", "+b"]);
    world.pulse.renew();
    assert_eq!(world.next().await, ("Silent: failed to watch: what was written did not come".to_owned(), 0));
    assert_eq!(world.all(1).await, ["+c"]);
    assert!(world.asked()[2].ends_with("resourceVersion=11"));
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_ends_at_once_is_no_loop() {
    let mut world = World::of([sends(list(&[], "")), sends(""), sends(event("ADDED", "b", "11")), sends("")]);
    assert_eq!(world.all(2).await, ["(", ")"]);
    assert_eq!(world.all(1).await, ["Ended: failed to watch: the watch ended at once"]);
    assert_eq!(world.all(1).await, ["+b"]);
}

#[tokio::test(start_paused = true)]
async fn a_store_whose_version_decreased_is_listed_again() {
    let bookmark = event("BOOKMARK", "", "12");
    let back = event("BOOKMARK", "", "7");
    let mut world = World::of([sends(list(&["a"], "")), stalls(bookmark + &back), sends(list(&[], ""))]);
    assert_eq!(world.all(3).await, ["(", "a", ")"]);
    let words = "Expired: failed to watch: the API server is at version 7, and version 12 was seen already";
    assert_eq!(world.all(3).await, [words, "(", ")"]);
}

#[tokio::test(start_paused = true)]
async fn an_expired_version_is_listed_again_and_a_refusal_is_not() {
    let expired = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": "old", "reason": "Expired", "code": 410});
    let mut world = World::of([
        sends(list(&["a"], "")),
        refuses(500),
        sends(line("ERROR", &expired)),
        refuses(403),
        sends(list(&["b"], "")),
    ]);
    assert_eq!(world.all(3).await, ["(", "a", ")"]);
    let said: Vec<String> = world.all(6).await;
    assert!(said[0].starts_with("Refused: failed to watch:"), "{said:?}");
    assert!(said[1].starts_with("Expired: failed to watch:"), "{said:?}");
    assert_eq!(said[2], "(");
    assert!(said[3].starts_with("Refused: failed to list:"), "{said:?}");
    assert_eq!(said[4..], ["(", "b"]);
}

#[tokio::test(start_paused = true)]
async fn a_page_of_giants_is_never_in_memory_as_a_whole() {
    // Ten thousand small objects and then giants of 1 MiB: the page is dropped at its bound, and asked for in less.
    let large = "x".repeat(1 << 20);
    let giants = |count: usize, token: &str| {
        let one = |n: usize| {
            format!(r#"{{"metadata":{{"name":"giant-{n}","uid":"{n}"}},"data":{{"a":"{large}"}}}}"#)
        };
        let all: Vec<String> = (0..count).map(one).collect();
        let metadata = json!({"resourceVersion": "10", "continue": token});
        format!(r#"{{"metadata":{metadata},"items":[{}]}}"#, all.join(","))
    };
    let mut world = World::of([
        sends(list(&["small"], "1")),
        sends(giants(50, "2")),
        sends(giants(50, "2")),
        sends(giants(16, "2")),
        sends(list(&["small"], "")),
    ]);
    let seen = world.all(2 + 16 + 2).await;
    assert_eq!(seen.last().map(String::as_str), Some(")"));
    let continued = [
        "limit=500",
        "limit=10000&continue=1",
        "limit=1250&continue=1",
        "limit=156&continue=1",
        "limit=31&continue=2",
    ];
    assert_eq!(world.asked()[..5], continued);
}

#[test]
fn what_is_at_the_bottom_of_a_failure_is_known() {
    let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
    let error = Interruption::api("list")(kube::Error::Service(Box::new(kube::Error::ReadEvents(refused))));
    assert_eq!((error.cause(), error.root().as_str()), (Cause::Unreachable, "connection refused"));
    let tls = std::io::Error::other("invalid peer certificate: UnknownIssuer");
    let error = Interruption::api("list")(kube::Error::Service(Box::new(kube::Error::ReadEvents(tls))));
    assert_eq!(error.cause(), Cause::Untrusted);
}

#[test]
fn the_number_of_a_page_follows_its_bytes() {
    let after = |objects: usize, bytes: usize| {
        let mut size = PageSize::default();
        size.measured(objects, bytes);
        size.0
    };
    assert_eq!(PageSize::default().0, 500);
    assert_eq!(after(0, 100), 500, "an empty list says nothing");
    assert_eq!(after(500, 500 * 2048), 10_000);
    assert_eq!(after(500, 500 * 8192), 4096);
    assert_eq!(after(20, 20 << 20), 32);
    assert_eq!(after(1, 48 << 20), 1);
    let mut size = PageSize(100);
    for expected in [12, 1, 1] {
        size.too_long();
        assert_eq!(size.0, expected);
    }
}
