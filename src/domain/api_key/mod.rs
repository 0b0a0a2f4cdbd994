//! API keys, as rules over plain data: the form of a key ([`token`]), what is stored of it ([`mac`]), and its life
//! in time ([`lifecycle`]).

pub mod lifecycle;
pub mod mac;
pub mod token;

pub use mac::{Mac, PepperVersion, Peppers};
pub use token::{Key, KeyId, Malformed, Seed};
