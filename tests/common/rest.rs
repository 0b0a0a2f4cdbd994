//! The REST API as its clients see it: keys, requests, answers.

use std::{
    io,
    sync::atomic::{AtomicU16, Ordering},
    time::Duration,
};

use crofter::names;
use crofter_test_cluster::wait;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpSocket, TcpStream},
    time::{Instant, sleep},
};

use super::{Verbs, WAIT_TIMEOUT, World, keys};

/// Every scope.
pub const ALL: [&str; 5] = ["jobs:read", "jobs:write", "keys:read", "keys:write", "tenant:read"];
/// The id of nothing.
pub const ABSENT: &str = "00000000-0000-4000-8000-000000000000";

/// The codes with which a server refuses a request because the API server does not answer it in time, as on a busy
/// machine. The server is then away.
const AWAY: [&str; 2] = ["keys_unavailable", "cluster_unavailable"];

/// An answer of the REST API.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Value,
}

impl Answer {
    fn of(head: &str, body: &str) -> Result<Self, String> {
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or("no status")?;
        let body = serde_json::from_str(body).unwrap_or(Value::String(body.to_owned()));
        Ok(Self { status, head: head.to_owned(), body })
    }

    /// A header.
    pub fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.into_iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// Whether something was made. The answer is 202 where that takes longer to be decided, ready or admitted than a request
    /// waits for it, as on a busy machine.
    pub fn is_made(&self) -> bool {
        [201, 202].contains(&self.status)
    }

    /// Whether it is the last one on its connection.
    pub fn closes(&self) -> bool {
        self.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"))
    }

    /// After which time the request is to be sent again; `None` where the answer is final.
    fn repeat_after(&self) -> Option<Duration> {
        let is_away = self.status == 503 && AWAY.iter().any(|code| self.body["code"] == *code);
        let seconds = self.header("retry-after").filter(|_| is_away)?;
        Some(Duration::from_secs(seconds.parse().unwrap()))
    }
}

/// Whether a request that was first sent at `begun` is to be sent again, as its answer asks for; if so, the time that the
/// answer names has passed. A server that is away for longer than `bound` is not: then the answer is final.
pub async fn is_to_be_repeated(answer: &Answer, begun: Instant, bound: Duration) -> bool {
    let Some(pause) = answer.repeat_after().filter(|pause| begun.elapsed() + *pause < bound) else {
        return false;
    };
    eprintln!("a request is sent again: {} {}", answer.status, answer.body);
    sleep(pause).await;
    true
}

/// The bytes of a request.
pub fn request(method: &str, path: &str, headers: &[(&str, &str)], body: Option<&Value>) -> String {
    let body = body.map(Value::to_string).unwrap_or_default();
    let mut head = format!("{method} {path} HTTP/1.1\r\nhost: x\r\n");
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    if !body.is_empty() {
        head += &format!("content-type: application/json\r\ncontent-length: {}\r\n", body.len());
    }
    format!("{head}\r\n{body}")
}

/// A streaming response of the REST API.
pub struct Open {
    stream: TcpStream,
    /// All that came so far, head and the frames of the pieces included.
    pub seen: String,
}

impl Open {
    /// Reads more; false at the end.
    async fn read(&mut self) -> bool {
        let mut bytes = [0; 4096];
        let read = tokio::time::timeout(WAIT_TIMEOUT, self.stream.read(&mut bytes)).await;
        let count = read.unwrap_or_else(|_| panic!("nothing more came after {}", self.seen)).unwrap_or(0);
        self.seen += std::str::from_utf8(&bytes[..count]).unwrap();
        count > 0
    }

    /// Reads until these words have come.
    pub async fn until(&mut self, words: &str) {
        while !self.seen.contains(words) {
            assert!(self.read().await, "it ended before `{words}`: {}", self.seen);
        }
    }

    /// Reads to the end, and returns whether the response is complete.
    pub async fn ended(mut self) -> (String, bool) {
        while self.read().await {}
        let complete = self.seen.ends_with("\r\n0\r\n\r\n") || self.seen.contains("content-length:");
        (self.seen, complete)
    }
}

/// A connection on which one request follows another.
pub struct Wire(BufReader<TcpStream>);

impl Wire {
    /// Sends these bytes.
    pub async fn send(&mut self, request: &str) -> io::Result<()> {
        self.0.get_mut().write_all(request.as_bytes()).await
    }

    /// The next answer.
    pub async fn answer(&mut self) -> Result<Answer, String> {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            let read = self.0.read_line(&mut head).await.map_err(|e| e.to_string())?;
            if read == 0 {
                return Err("closed".to_owned());
            }
        }
        let mut answer = Answer::of(head.trim_end(), "")?;
        let length = answer.header("content-length").and_then(|n| n.parse().ok()).unwrap_or(0);
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).await.map_err(|e| e.to_string())?;
        answer.body = serde_json::from_slice(&body).unwrap_or_default();
        Ok(answer)
    }

    /// The answer to a request without a body, which is sent again while the server is away.
    pub async fn ask(&mut self, method: &str, path: &str, key: &str) -> Result<Answer, String> {
        let begun = Instant::now();
        loop {
            let answer = self.ask_once(method, path, key).await?;
            if answer.closes() || !is_to_be_repeated(&answer, begun, WAIT_TIMEOUT).await {
                return Ok(answer);
            }
        }
    }

    /// The answer to a request without a body, whatever it is.
    pub async fn ask_once(&mut self, method: &str, path: &str, key: &str) -> Result<Answer, String> {
        let bearer = format!("Bearer {key}");
        self.send(&request(method, path, &[("authorization", &bearer)], None))
            .await
            .map_err(|e| e.to_string())?;
        tokio::time::timeout(WAIT_TIMEOUT, self.answer()).await.map_err(|e| e.to_string())?
    }
}

impl World {
    /// What the REST API answers. As every request here, it is sent again while the server is away.
    pub async fn rest(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Result<Answer, String> {
        let headers = [&[("connection", "close")], headers].concat();
        self.rest_raw(&request(method, path, &headers, body)).await
    }

    /// What the REST API answers to the holder of a key, also where that is that the server is away.
    pub async fn asked_once(&self, method: &str, path: &str, key: &str) -> Result<Answer, String> {
        ask_once_at(self.api_port, method, path, &[("x-api-key", key)], None).await
    }

    /// What the REST API answers to the holder of a key.
    pub async fn asked(&self, method: &str, path: &str, key: &str, body: Option<&Value>) -> Answer {
        let bearer = format!("Bearer {key}");
        self.rest(method, path, &[("authorization", &bearer)], body).await.unwrap()
    }

    /// What the REST API answers to these bytes, from an address that has failed little: failures are counted by
    /// address.
    pub async fn rest_raw(&self, request: &str) -> Result<Answer, String> {
        self.rest_from(fresh_address(), request).await
    }

    /// What the REST API answers to these bytes from this address.
    pub async fn rest_from(&self, address: [u8; 4], request: &str) -> Result<Answer, String> {
        exchange(self.api_port, address, request).await
    }

    /// Where the REST API has this path.
    pub fn rest_url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.api_port)
    }

    /// Sends a request whose response streams.
    pub async fn rest_open(&self, path: &str, headers: &[(&str, &str)]) -> Open {
        let headers = [&[("connection", "close")], headers].concat();
        let mut stream = self.connect().await.unwrap();
        stream.write_all(request("GET", path, &headers, None).as_bytes()).await.unwrap();
        Open { stream, seen: String::new() }
    }

    /// A connection to the REST API from an address that has failed little.
    pub async fn connect(&self) -> io::Result<TcpStream> {
        self.connect_from(fresh_address()).await
    }

    async fn connect_from(&self, address: [u8; 4]) -> io::Result<TcpStream> {
        connect(self.api_port, address).await
    }

    /// The same, for requests one after the other.
    pub async fn wire(&self) -> Wire {
        Wire(BufReader::new(self.connect().await.unwrap()))
    }

    /// Waits until a key is let in, or is refused with this status.
    pub async fn until_answered(&self, key: &str, status: u16) {
        let check = async || match self.rest("GET", "/v1/whoami", &[("x-api-key", key)], None).await {
            Ok(answer) if answer.status == status => Ok(()),
            other => Err(other),
        };
        wait::until(WAIT_TIMEOUT, &format!("a key to be answered {status}"), check).await.unwrap();
    }
}

/// A connection to the REST API at this port, for requests one after the other.
pub async fn wire_at(port: u16) -> Wire {
    Wire(BufReader::new(connect(port, fresh_address()).await.unwrap()))
}

async fn connect(port: u16, address: [u8; 4]) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((address, 0).into())?;
    socket.connect(([127, 0, 0, 1], port).into()).await
}

/// What the REST API at this port answers to these bytes from this address, sent again while the server is away.
async fn exchange(port: u16, address: [u8; 4], request: &str) -> Result<Answer, String> {
    let begun = Instant::now();
    loop {
        let answer = exchange_once(port, address, request).await?;
        if !is_to_be_repeated(&answer, begun, WAIT_TIMEOUT).await {
            return Ok(answer);
        }
    }
}

async fn exchange_once(port: u16, address: [u8; 4], request: &str) -> Result<Answer, String> {
    let exchange = async {
        let mut stream = connect(port, address).await?;
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        Ok::<_, io::Error>(answer)
    };
    let answer = tokio::time::timeout(WAIT_TIMEOUT, exchange).await.map_err(|e| e.to_string())?;
    let answer = String::from_utf8(answer.map_err(|e| e.to_string())?).map_err(|e| e.to_string())?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("half an answer")?;
    Answer::of(head, body)
}

/// What the REST API at this port answers to the holder of a key.
pub async fn ask_at(
    port: u16,
    method: &str,
    path: &str,
    key: &str,
    body: Option<&Value>,
) -> Result<Answer, String> {
    let bearer = format!("Bearer {key}");
    let headers = [("connection", "close"), ("authorization", bearer.as_str())];
    exchange(port, fresh_address(), &request(method, path, &headers, body)).await
}

/// What the REST API at this port answers, also where that is that the server is away.
pub async fn ask_once_at(
    port: u16,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: Option<&Value>,
) -> Result<Answer, String> {
    let headers = [&[("connection", "close")], headers].concat();
    exchange_once(port, fresh_address(), &request(method, path, &headers, body)).await
}

fn fresh_address() -> [u8; 4] {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let [high, low] = NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    [127, 1, high, low.max(1)]
}

/// The text of a new key.
pub async fn key(verbs: &Verbs<'_>, tenant: &str, name: &str, spec: Value) -> String {
    keys::make(verbs, tenant, name, spec).await.unwrap();
    keys::until_ready(verbs, tenant, name).await;
    let text = keys::text(verbs, tenant, name).await;
    verbs.world.until_answered(&text, 200).await;
    text
}

/// A tenant of this plan, and a key that may do everything.
pub async fn tenant(verbs: &Verbs<'_>, name: &str, spec: Value) -> String {
    verbs.tenant(name, spec).await;
    key(verbs, name, "all", json!({"scopes": ALL})).await
}

/// The token in the answer to a request that made a key or rotated it. Where it takes longer than the request waits
/// (202), it is in the Secret of the key soon, instead of the token `before`.
pub async fn token(verbs: &Verbs<'_>, tenant: &str, answer: &Answer, before: Option<&str>) -> String {
    if answer.status != 202 {
        assert!([200, 201].contains(&answer.status), "{answer:?}");
        return answer.body["token"].as_str().unwrap_or_else(|| panic!("{answer:?}")).to_owned();
    }
    let (secrets, name) = (keys::secrets(verbs, tenant), answer.body["name"].as_str().unwrap());
    wait::until(WAIT_TIMEOUT, &format!("the token of {tenant}/{name}"), || async {
        let secret = secrets.get_opt(&names::key_secret(name)).await.map_err(|e| e.to_string())?;
        let token = secret.and_then(|secret| secret.data?.remove(names::SECRET_TOKEN)).ok_or("no token")?;
        let token = String::from_utf8(token.0).map_err(|e| e.to_string())?;
        if Some(&*token) == before { Err("the token of before".to_owned()) } else { Ok(token) }
    })
    .await
    .unwrap()
}

/// A small job that waits where there is no room.
pub fn job() -> Value {
    json!({"image": "crofter.test/busybox:1", "resources": {"cpu": "100m", "memory": "64Mi"}, "on_quota": "queue"})
}

/// The id in an answer.
pub fn id(answer: &Answer) -> String {
    answer.body["id"].as_str().unwrap_or_else(|| panic!("{answer:?}")).to_owned()
}

/// A problem's code, and that it is one.
pub fn code(answer: &Answer) -> String {
    assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{answer:?}");
    assert_eq!(answer.body["status"], answer.status, "{answer:?}");
    assert!(answer.header("x-request-id").is_some());
    answer.body["code"].as_str().unwrap().to_owned()
}
