//! Tokens from an address that fails too often.

use std::time::Duration;

use futures::future::join_all;
use tokio::time::Instant;

use super::*;

/// A server, and what it says to these credentials.
struct Server(axum::Router);

impl Server {
    fn new() -> Self {
        Self(routes(Lab::new().app, Metrics::default()))
    }

    async fn who(&self, token: &str) -> u16 {
        let request = Request::get("/v1/whoami").header("host", "x");
        let request = request.header("authorization", format!("Bearer {token}")).body(Body::empty()).unwrap();
        self.0.clone().oneshot(request).await.unwrap().status().as_u16()
    }
}

#[tokio::test(start_paused = true)]
async fn a_valid_token_is_accepted_whatever_fails_at_its_address() {
    let server = Server::new();
    // Given: an address whose failures are used up.
    for n in 0..45 {
        server.who(&format!("crft_guess{n}")).await;
    }
    assert_eq!(server.who("crft_guess").await, 429);
    // When: an administrator whom the server does not know comes in the middle of a flood of other tokens, each of whose
    // reviews takes 20 ms.
    let begun = Instant::now();
    let guess = async |n: usize| {
        let status = server.who(&format!("ey.guess.{n}")).await;
        (status, begun.elapsed())
    };
    let flood = |from: usize, to: usize| join_all((from..to).map(&guess));
    let boss = async {
        assert_eq!(server.who("boss").await, 200);
        begun.elapsed()
    };
    let (before, waited, after) = futures::join!(flood(0, 400), boss, flood(400, 800));
    // Then: it waits for the reviews before its own, eight at a time, and all others fail.
    assert!(before.iter().chain(&after).all(|(status, _)| *status == 401));
    let last = after.iter().map(|(_, at)| *at).max().unwrap();
    assert!(
        (Duration::from_secs(2)..=Duration::from_millis(2100)).contains(&last),
        "800 reviews in {last:?}"
    );
    assert!(Duration::ZERO < waited && waited < last, "{waited:?}");
    // When: the administrator comes again. Then: a token that was accepted before does not wait, however long the line is.
    let again = async {
        let begun = Instant::now();
        assert_eq!(server.who("boss").await, 200);
        begun.elapsed()
    };
    let (_, again) = futures::join!(flood(1000, 1300), again);
    assert_eq!(again, Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_line_that_is_full_is_said_to_be() {
    let server = Server::new();
    let flood = join_all((0..1100).map(async |n| server.who(&format!("ey.guess.{n}")).await)).await;
    let count = |status| flood.iter().filter(|one| **one == status).count();
    // 20 within the bucket, 8 whose reviews begin at once, and a thousand that wait.
    assert_eq!((count(401), count(429)), (1028, 72));
}
