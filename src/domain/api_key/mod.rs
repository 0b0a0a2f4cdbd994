//! API keys, as rules over plain data: what a key looks like ([`text`]), what is kept of it ([`mac`]), and what becomes of it
//! in time ([`lifecycle`]).

pub mod lifecycle;
pub mod mac;
pub mod text;

pub use mac::{Mac, PepperVersion, Peppers};
pub use text::{Key, KeyId, Malformed, Seed};
