//! The one place where randomness is taken from the operating system.
//!
//! As with time, whoever needs random bytes holds a [`Random`], which a test sets to what it likes. There is no
//! generator of our own in between: what is made of the bytes are keys, and there are few of them.

use std::sync::Arc;

/// The operating system gave no random bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the operating system gives no random bytes")]
pub struct Unavailable;

type Fill = dyn Fn(&mut [u8]) -> Result<(), Unavailable> + Send + Sync;

/// Returns random bytes from the operating system, fit for secrets.
#[derive(Clone)]
pub struct Random(Arc<Fill>);

impl Random {
    /// The operating system's random source.
    #[must_use]
    pub fn system() -> Self {
        Self(Arc::new(|bytes| getrandom::fill(bytes).map_err(|_| Unavailable)))
    }

    /// A source that fills with what `fill` gives.
    #[must_use]
    pub fn of(fill: impl Fn(&mut [u8]) -> Result<(), Unavailable> + Send + Sync + 'static) -> Self {
        Self(Arc::new(fill))
    }

    /// Fills `bytes`.
    ///
    /// # Errors
    /// [`Unavailable`]; `bytes` must not be used then.
    pub fn fill(&self, bytes: &mut [u8]) -> Result<(), Unavailable> {
        (self.0)(bytes)
    }
}

impl std::fmt::Debug for Random {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Random")
    }
}
