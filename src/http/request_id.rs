//! The id of a request: the client's where it is acceptable, else a random one.

use axum::http::{HeaderMap, HeaderName, HeaderValue};

use super::header::only;
use crate::{hex::hex, random::Random};

/// The header that carries the id, in requests and responses.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Most characters of an id that a client sends.
const MAX_LENGTH: usize = 64;

/// Gives ids to requests. Cheap to clone.
#[derive(Clone, Debug)]
pub struct RequestIds(Random);

impl RequestIds {
    /// Ids from this source of randomness.
    #[must_use]
    pub fn new(random: Random) -> Self {
        Self(random)
    }

    /// The id of a request: that of its `X-Request-ID` header where it has 1 to 64 letters, digits, `-`, `_` and `.`.
    #[must_use]
    pub fn of(&self, headers: &HeaderMap) -> HeaderValue {
        let is_allowed = |id: &&str| {
            (1..=MAX_LENGTH).contains(&id.len())
                && id.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
        };
        let given = only(headers, &REQUEST_ID).ok().flatten().filter(is_allowed);
        given.and_then(|id| HeaderValue::from_str(id).ok()).unwrap_or_else(|| self.random())
    }

    /// A random id: 32 hexadecimal digits, or `none` where there is no randomness.
    #[must_use]
    pub fn random(&self) -> HeaderValue {
        let mut bytes = [0; 16];
        let filled = self.0.fill(&mut bytes).is_ok();
        let id = filled.then(|| HeaderValue::from_str(&hex(&bytes)).ok()).flatten();
        id.unwrap_or(HeaderValue::from_static("none"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Unavailable;

    #[test]
    fn an_id_is_the_clients_where_it_is_acceptable() {
        let ids = RequestIds::new(Random::of(|bytes| {
            bytes.fill(1);
            Ok(())
        }));
        let of = |values: &[&[u8]]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(REQUEST_ID, HeaderValue::from_bytes(value).unwrap());
            }
            ids.of(&headers).to_str().unwrap().to_owned()
        };
        let (random, longest) = ("01".repeat(16), "x".repeat(64));
        assert_eq!(of(&[b"a-b_c.9"]), "a-b_c.9");
        assert_eq!(of(&[longest.as_bytes()]), longest);
        let too_long = "x".repeat(65);
        let bad: [&[&[u8]]; 6] = [&[], &[b""], &[b"a b"], &[b"a\xe9"], &[b"a", b"a"], &[too_long.as_bytes()]];
        for bad in bad {
            assert_eq!(of(bad), random, "{bad:?}");
        }
        assert_eq!(RequestIds::new(Random::of(|_| Err(Unavailable))).random(), "none");
    }
}
