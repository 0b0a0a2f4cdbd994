//! The objects of one kind and every change of them: LIST in pages, then WATCH, through failures.
//!
//! kube's `watcher` does the same and leaves three things without a bound, which this one has:
//! - *Silence.* Every wait for the API server (the head of an answer, the next part of a page, the opening of a watch,
//!   its next event) ends after [`SILENCE`]. A watch is asked for [`WATCH_SECONDS`] only and then ends in good order,
//!   so that a quiet one and a dead one differ: bookmarks alone would not do, because a kind without any event since
//!   the API server started has none. What stays silent is dropped and begun again, the watch from the last version
//!   seen.
//! - *Memory.* The number of objects in a page follows the bytes of the page before; a page of more than [`PAGE_LIMIT`]
//!   is dropped while it is read, and asked for again in a smaller number.
//! - *Signs of life.* Bookmarks and ends in good order are noted in the [`Pulse`], by which health is judged.
//!
//! A bookmark that is older than what was seen (etcd was restored from a backup) begins with a LIST again: a watch from
//! a version that is yet to come would deliver nothing until then.

pub(super) mod retry;

use std::{error::Error as _, fmt::Debug, mem, time::Duration, vec};

use axum::http;
use futures::{
    FutureExt, Stream, StreamExt,
    stream::{self, BoxStream},
};
use http_body_util::BodyExt;
use kube::{
    Client, Resource,
    api::{ListParams, WatchParams},
    client::Body,
    core::{ObjectList, Request, Status, WatchEvent},
    runtime::watcher::{self, Event},
};
use serde::de::DeserializeOwned;
use tokio::time::{Instant, timeout};

use super::{
    guard::Guarded,
    pulse::{Cause, Pulse, SILENCE},
};

/// Length of a watch. The API server sends a bookmark two seconds before, and then ends it.
const WATCH_SECONDS: u32 = 60;
/// The longest that one page may take, however steadily it comes. The API server compacts the version of a list, and so
/// voids its next page, after as long.
const PAGE_DEADLINE: Duration = Duration::from_secs(300);
/// The longest error text that is read.
const ERROR_LIMIT: usize = 64 * 1024;
/// The most bytes of a page: four times what one object may have in etcd, and a few for those of a page that is larger
/// than the last.
const PAGE_LIMIT: usize = 48 << 20;
/// A watch that ends sooner than this, without an event, counts as a failure: opening it again at once would be a loop.
const SHORT: Duration = Duration::from_secs(1);

/// Why a list or a watch was interrupted.
#[derive(Debug, thiserror::Error)]
pub(super) enum Interruption {
    /// Nothing came for too long.
    #[error("failed to {doing}: the API server sent nothing for {} s", SILENCE.as_secs())]
    Silent {
        /// What was being done.
        doing: &'static str,
    },
    /// What was written elsewhere did not come.
    #[error("failed to watch: what was written did not come")]
    Behind,
    /// It came, but not within the deadline.
    #[error("failed to list: a page was not complete within {} s", PAGE_DEADLINE.as_secs())]
    Slow,
    /// The watch ended as soon as it was opened.
    #[error("failed to watch: the watch ended at once")]
    Ended,
    /// The version of the store has decreased: etcd was restored.
    #[error("failed to watch: the API server is at version {at}, and version {seen} was seen already")]
    Rewound {
        /// The version of a bookmark.
        at: u64,
        /// The newest version seen.
        seen: u64,
    },
    /// One object alone is larger than a page may be.
    #[error("failed to list: a page of one object has more than {PAGE_LIMIT} bytes")]
    TooLarge,
    /// The list names no version to watch from.
    #[error("failed to list: the list has no resource version")]
    NoVersion,
    /// The API server refused, could not be reached, or sent what can't be read.
    #[error("failed to {doing}: {source}")]
    Api {
        /// What was being done.
        doing: &'static str,
        /// The client's error.
        source: Box<kube::Error>,
    },
}

impl Interruption {
    fn api(doing: &'static str) -> impl Fn(kube::Error) -> Self {
        move |source| Self::Api { doing, source: Box::new(source) }
    }

    /// What is at the bottom of it: a client's errors say which layer failed, and their sources why.
    pub(super) fn root(&self) -> String {
        let mut root: &dyn std::error::Error = self;
        while let Some(source) = root.source() {
            root = source;
        }
        root.to_string()
    }

    /// The word for metrics and health.
    pub(super) fn cause(&self) -> Cause {
        match self {
            Self::Silent { .. } | Self::Slow | Self::Behind => Cause::Silent,
            Self::Ended => Cause::Ended,
            Self::Rewound { .. } => Cause::Expired,
            Self::TooLarge | Self::NoVersion => Cause::InvalidObjects,
            Self::Api { source, .. } => match source.as_ref() {
                kube::Error::Api(status) if status.code == 410 => Cause::Expired,
                // So kube reports an event that can't be read: as a Status that says nothing.
                kube::Error::Api(status) if status.code == 0 => Cause::InvalidObjects,
                kube::Error::Api(_) => Cause::Refused,
                kube::Error::SerdeError(_) | kube::Error::FromUtf8(_) => Cause::InvalidObjects,
                error if is_untrusted(error) => Cause::Untrusted,
                _ => Cause::Unreachable,
            },
        }
    }
}

/// Whether the certificate of the API server is not signed by the authority that this process read at its start.
/// rustls' type is no dependency of ours; its words are.
fn is_untrusted(error: &kube::Error) -> bool {
    let mut source = error.source();
    while let Some(error) = source {
        let text = error.to_string();
        if text.contains("invalid peer certificate: UnknownIssuer")
            || text.contains("invalid peer certificate: BadSignature")
        {
            return true;
        }
        source = error.source();
    }
    false
}

/// What is asked for.
pub(super) struct Source {
    pub(super) client: Client,
    /// Path of the collection.
    pub(super) path: String,
    /// Selectors; the rest is not used.
    pub(super) config: watcher::Config,
    /// Metadata only.
    pub(super) metadata: bool,
}

/// Lists and watches for ever. After an error it continues at the next poll: let a pause be in between ([`retry`]).
pub(super) fn list_watch<K>(
    source: Source,
    pulse: Pulse,
) -> impl Stream<Item = Result<Event<Guarded<K>>, Interruption>> + Send
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    let all = ListWatch { source, pulse, size: PageSize::default(), state: State::Start };
    stream::unfold(all, async |mut all| Some((all.next().await, all)))
}

struct ListWatch<K> {
    source: Source,
    pulse: Pulse,
    size: PageSize,
    state: State<K>,
}

type Events<K> = BoxStream<'static, kube::Result<WatchEvent<Guarded<K>>>>;

enum State<K> {
    Start,
    Listing { objects: vec::IntoIter<Guarded<K>>, rest: Rest },
    Listed { version: String },
    Watching { version: String, events: Events<K>, opened: Instant, delivered: bool },
}

/// What follows the objects of a page.
enum Rest {
    /// The page with this token; without one, the first.
    Page(Option<String>),
    /// Nothing: the list is of this version.
    Watch(String),
}

impl<K> ListWatch<K>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    async fn next(&mut self) -> Result<Event<Guarded<K>>, Interruption> {
        loop {
            // After an error the list begins again, unless another state is set before.
            match mem::replace(&mut self.state, State::Start) {
                State::Start => {
                    self.state = State::Listing { objects: Vec::new().into_iter(), rest: Rest::Page(None) };
                    return Ok(Event::Init);
                }
                State::Listing { mut objects, rest } => {
                    if let Some(object) = objects.next() {
                        self.state = State::Listing { objects, rest };
                        return Ok(Event::InitApply(object));
                    }
                    match rest {
                        Rest::Page(token) => self.state = self.page(token).await?,
                        Rest::Watch(version) => {
                            self.state = State::Listed { version };
                            return Ok(Event::InitDone);
                        }
                    }
                }
                State::Listed { version } => match self.source.watch(&version).await {
                    Ok(events) => {
                        self.state =
                            State::Watching { version, events, opened: Instant::now(), delivered: false };
                    }
                    Err(error) => {
                        if error.cause() != Cause::Expired {
                            self.state = State::Listed { version };
                        }
                        return Err(error);
                    }
                },
                State::Watching { version, mut events, opened, delivered } => {
                    let event = tokio::select! {
                        event = timeout(SILENCE, events.next()) => event.ok(),
                        () = self.pulse.renewed() => {
                            self.state = State::Listed { version };
                            return Err(Interruption::Behind);
                        }
                    };
                    let Some(event) = event else {
                        self.state = State::Listed { version };
                        return Err(Interruption::Silent { doing: "watch" });
                    };
                    let Some(event) = event else {
                        self.ended(version, opened, delivered)?;
                        continue;
                    };
                    if let Some(event) = self.event(event, version, events, opened)? {
                        return Ok(event);
                    }
                }
            }
        }
    }

    /// The end of a watch: when it is due, a sign of life.
    fn ended(&mut self, version: String, opened: Instant, delivered: bool) -> Result<(), Interruption> {
        self.state = State::Listed { version };
        let lasted = opened.elapsed();
        if lasted.as_secs() + 5 >= WATCH_SECONDS.into() {
            self.pulse.delivered();
        }
        if lasted < SHORT && !delivered { Err(Interruption::Ended) } else { Ok(()) }
    }

    fn event(
        &mut self,
        event: kube::Result<WatchEvent<Guarded<K>>>,
        seen: String,
        events: Events<K>,
        opened: Instant,
    ) -> Result<Option<Event<Guarded<K>>>, Interruption> {
        let (version, event) = match event {
            Ok(WatchEvent::Added(object) | WatchEvent::Modified(object)) => {
                (object.meta().resource_version.clone(), Some(Event::Apply(object)))
            }
            Ok(WatchEvent::Deleted(object)) => {
                (object.meta().resource_version.clone(), Some(Event::Delete(object)))
            }
            Ok(WatchEvent::Bookmark(bookmark)) => {
                let version = bookmark.metadata.resource_version;
                if let (Ok(at), Ok(seen)) = (version.parse(), seen.parse())
                    && at < seen
                {
                    return Err(Interruption::Rewound { at, seen });
                }
                (Some(version), None)
            }
            Ok(WatchEvent::Error(status)) => return Err(self.interrupted(kube::Error::Api(status), seen)),
            Err(error) => return Err(self.interrupted(error, seen)),
        };
        self.pulse.delivered();
        // Without a version a watch can't be opened again: the list begins again.
        let version = version.filter(|version| !version.is_empty()).ok_or(Interruption::NoVersion)?;
        self.state = State::Watching { version, events, opened, delivered: true };
        Ok(event)
    }

    /// A watch that was broken off is opened again where it was, unless that version is not known any more.
    fn interrupted(&mut self, error: kube::Error, seen: String) -> Interruption {
        let error = Interruption::api("watch")(error);
        if error.cause() != Cause::Expired {
            self.state = State::Listed { version: seen };
        }
        error
    }

    async fn page(&mut self, token: Option<String>) -> Result<State<K>, Interruption> {
        loop {
            let limit = self.size.0;
            let page = self.source.page(token.clone(), limit);
            let Some(text) = timeout(PAGE_DEADLINE, page).await.map_err(|_| Interruption::Slow)?? else {
                if limit == 1 {
                    return Err(Interruption::TooLarge);
                }
                self.size.too_long();
                self.pulse.stepped();
                continue;
            };
            let list: ObjectList<Guarded<K>> = serde_json::from_slice(&text)
                .map_err(|error| Interruption::api("list")(kube::Error::SerdeError(error)))?;
            self.pulse.delivered();
            self.size.measured(list.items.len(), text.len());
            let rest = match list.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => Rest::Page(Some(token)),
                None => {
                    let version = list.metadata.resource_version.filter(|version| !version.is_empty());
                    Rest::Watch(version.ok_or(Interruption::NoVersion)?)
                }
            };
            return Ok(State::Listing { objects: list.items.into_iter(), rest });
        }
    }
}

impl Source {
    /// The text of a page; `None` where it is longer than a page may be.
    async fn page(&self, token: Option<String>, limit: u32) -> Result<Option<Vec<u8>>, Interruption> {
        let params = ListParams {
            label_selector: self.config.label_selector.clone(),
            field_selector: self.config.field_selector.clone(),
            limit: Some(limit),
            continue_token: token,
            ..ListParams::default()
        };
        let request = Request::new(self.path.as_str());
        let request = if self.metadata { request.list_metadata(&params) } else { request.list(&params) };
        let request = request.map_err(kube::Error::BuildRequest).map_err(Interruption::api("list"))?;
        let response = heard("list", self.client.send(request.map(Body::from))).await?;
        let status = response.status();
        if status.is_success() {
            return read(response.into_body(), PAGE_LIMIT).await;
        }
        let text = read(response.into_body(), ERROR_LIMIT).await?.unwrap_or_default();
        Err(Interruption::api("list")(refusal(status, &text)))
    }

    async fn watch<K>(&self, version: &str) -> Result<Events<K>, Interruption>
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Send + 'static,
    {
        let params = WatchParams {
            label_selector: self.config.label_selector.clone(),
            field_selector: self.config.field_selector.clone(),
            timeout: Some(WATCH_SECONDS),
            ..WatchParams::default()
        };
        let request = Request::new(self.path.as_str());
        let request = if self.metadata {
            request.watch_metadata(&params, version)
        } else {
            request.watch(&params, version)
        };
        let request = request.map_err(kube::Error::BuildRequest).map_err(Interruption::api("watch"))?;
        let opened = self.client.request_events(request).map(|opened| opened.map(StreamExt::boxed));
        heard("watch", opened).await
    }
}

/// What comes, unless nothing comes for too long.
async fn heard<T>(
    doing: &'static str,
    call: impl Future<Output = kube::Result<T>>,
) -> Result<T, Interruption> {
    let answer = timeout(SILENCE, call).await.map_err(|_| Interruption::Silent { doing })?;
    answer.map_err(Interruption::api(doing))
}

/// A body as it comes; `None` where it is longer than `most`.
async fn read(mut body: Body, most: usize) -> Result<Option<Vec<u8>>, Interruption> {
    let mut text = Vec::new();
    while let Some(frame) = heard("list", body.frame().map(Option::transpose)).await? {
        let Ok(data) = frame.into_data() else { continue };
        if text.len() + data.len() > most {
            return Ok(None);
        }
        text.extend_from_slice(&data);
    }
    Ok(Some(text))
}

/// The Status of an error, or what a proxy answered instead.
fn refusal(code: http::StatusCode, text: &[u8]) -> kube::Error {
    let status = serde_json::from_slice::<Status>(text).unwrap_or_else(|_| {
        let text = String::from_utf8_lossy(text);
        Status::failure(text.trim(), "Unknown").with_code(code.as_u16())
    });
    kube::Error::Api(status.boxed())
}

/// How many objects the next page has.
#[derive(Debug, PartialEq, Eq)]
struct PageSize(u32);

impl Default for PageSize {
    fn default() -> Self {
        Self(Self::FIRST)
    }
}

impl PageSize {
    /// As kube's and client-go's pages: of the first page nothing is known.
    const FIRST: u32 = 500;
    /// For each page the API server (1.36) gathers all objects that are left and cuts them off, so that 100,000 Jobs,
    /// most of them ended, take 13.5 s in pages of 10,000 and 19.6 s in pages of 2,000, measured with a bare client.
    const MAX_ITEMS: u32 = 10_000;
    /// The bytes that a page is to have.
    const TARGET_BYTES: usize = 32 << 20;

    /// Records that a page of `objects` had `bytes`.
    fn measured(&mut self, objects: usize, bytes: usize) {
        if let Some(each) = bytes.checked_div(objects) {
            let fit = Self::TARGET_BYTES / each.max(1);
            self.0 = u32::try_from(fit).unwrap_or(Self::MAX_ITEMS).clamp(1, Self::MAX_ITEMS);
        }
    }

    /// The page was longer than a page may be.
    fn too_long(&mut self) {
        self.0 = (self.0 / 8).max(1);
    }
}

#[cfg(test)]
mod tests;
