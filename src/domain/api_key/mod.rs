//! API keys, as rules over plain data: what a key looks like ([`token`]), what is kept of it ([`mac`]), and what
//! becomes of it in time ([`lifecycle`]).

pub mod lifecycle;
pub mod mac;
pub mod token;

pub use mac::{Mac, PepperVersion, Peppers};
pub use token::{Key, KeyId, Malformed, Seed};
