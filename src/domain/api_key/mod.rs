//! API keys, as rules over plain data: the form of a key ([`token`]), what is stored of it ([`mac`]), its life in time
//! ([`lifecycle`]), and the keys with which it ends ([`lineage`]).

pub mod lifecycle;
pub mod lineage;
pub mod mac;
pub mod token;

pub use lineage::Lineage;
pub use mac::{Mac, PepperVersion, Peppers};
pub use token::{Key, KeyId, Malformed, Seed};
