//! What is kept of a key: a keyed hash, under a pepper that is kept elsewhere.
//!
//! Whoever reads a key's object, or a copy of the database, holds nothing that opens anything: the secret has 256
//! random bits, and without the pepper a guess can't even be tried. There may be two peppers while one replaces the
//! other. A comparison takes the same time wherever the first difference is.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac as _};
use secrecy::{ExposeSecret, SecretSlice};
use sha2::Sha256;
use subtle::ConstantTimeEq;

use super::token::Key;

/// Peppers in force at most.
pub const MAX_PEPPERS: usize = 2;
/// Bytes of a pepper at least.
pub const PEPPER_LEN: usize = 32;

/// The number of a pepper, from 1: the greatest is the newest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PepperVersion(pub u32);

impl fmt::Display for PepperVersion {
    /// As it names the pepper in its Secret: `v1`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "v{}", self.0)
    }
}

impl std::str::FromStr for PepperVersion {
    type Err = NoPepper;

    fn from_str(text: &str) -> Result<Self, NoPepper> {
        let number = text.strip_prefix('v').and_then(|digits| digits.parse().ok());
        // Written in one way only, so that no two names mean the same.
        number.map(Self).filter(|version| version.0 > 0 && version.to_string() == text).ok_or(NoPepper::Name)
    }
}

/// Why something is no pepper.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoPepper {
    /// Its name.
    #[error("a pepper's name is `v` and a number, such as `v1`")]
    Name,
    /// Its length.
    #[error("a pepper has at least {PEPPER_LEN} bytes")]
    Short,
    /// There is none at all.
    #[error("there is no pepper")]
    Absent,
}

/// The peppers in force, newest first; at least one, and at most [`MAX_PEPPERS`].
#[derive(Clone)]
pub struct Peppers(Vec<(PepperVersion, SecretSlice<u8>)>);

impl Peppers {
    /// The newest of those given.
    ///
    /// # Errors
    /// [`NoPepper`] of the first that is none; or there is none.
    pub fn new(all: impl IntoIterator<Item = (PepperVersion, SecretSlice<u8>)>) -> Result<Self, NoPepper> {
        let mut all: Vec<_> = all.into_iter().collect();
        if all.iter().any(|(_, pepper)| pepper.expose_secret().len() < PEPPER_LEN) {
            return Err(NoPepper::Short);
        }
        all.sort_by_key(|(version, _)| std::cmp::Reverse(*version));
        all.truncate(MAX_PEPPERS);
        if all.is_empty() { Err(NoPepper::Absent) } else { Ok(Self(all)) }
    }

    /// The number of the newest, with which new hashes are made.
    #[must_use]
    pub fn newest(&self) -> PepperVersion {
        self.0.first().map_or(PepperVersion(0), |(version, _)| *version)
    }

    /// The numbers of all, newest first.
    pub fn versions(&self) -> impl Iterator<Item = PepperVersion> + '_ {
        self.0.iter().map(|(version, _)| *version)
    }

    /// All of them, newest first.
    pub fn iter(&self) -> impl Iterator<Item = (PepperVersion, &SecretSlice<u8>)> {
        self.0.iter().map(|(version, pepper)| (*version, pepper))
    }

    /// Hashes a key under one pepper; `None` when it is not in force.
    #[must_use]
    pub fn mac(&self, version: PepperVersion, key: &Key) -> Option<Mac> {
        let (_, pepper) = self.0.iter().find(|(number, _)| *number == version)?;
        // HMAC takes a key of any length.
        let mut hmac = Hmac::<Sha256>::new_from_slice(pepper.expose_secret()).ok()?;
        for part in key.parts() {
            hmac.update(part);
        }
        Some(Mac(hmac.finalize().into_bytes().into()))
    }
}

impl fmt::Debug for Peppers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.versions()).finish()
    }
}

/// HMAC-SHA256 of key id and secret. Equal in constant time only, so there is no `==`.
#[derive(Clone, Copy)]
pub struct Mac([u8; 32]);

impl Mac {
    /// A MAC that no token has (but for one in 2^256).
    pub const NOTHING: Self = Self([0; 32]);

    /// A stored one; `None` of any other length.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// As it is stored.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether two are the same; takes the same time for any two.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Mac")
    }
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;
    use crate::domain::api_key::token::Seed;

    fn pepper(number: u32, byte: u8) -> (PepperVersion, SecretSlice<u8>) {
        (PepperVersion(number), vec![byte; 32].into())
    }

    fn key(byte: u8) -> Key {
        Key::new(
            &Seed::of(|bytes| {
                bytes.fill(byte);
                Ok::<_, ()>(())
            })
            .unwrap(),
        )
    }

    #[test]
    fn a_mac_is_the_hmac_of_id_and_secret() {
        let peppers = Peppers::new([pepper(1, 3)]).unwrap();
        let key = key(5);
        let token = key.token().expose_secret();
        let mut expected = Hmac::<Sha256>::new_from_slice(&[3; 32]).unwrap();
        expected.update(format!("{}{}", &token[5..17], &token[18..61]).as_bytes());
        let expected: [u8; 32] = expected.finalize().into_bytes().into();
        assert_eq!(peppers.mac(PepperVersion(1), &key).unwrap().as_bytes(), expected);
        // RFC 4231, test case 2: the algorithm is what its name says.
        let mut rfc = Hmac::<Sha256>::new_from_slice(b"Jefe").unwrap();
        rfc.update(b"what do ya want for nothing?");
        assert_eq!(rfc.finalize().into_bytes()[..4], [0x5b, 0xdc, 0xc1, 0x46]);
    }

    #[test]
    fn other_keys_and_other_peppers_have_other_macs() {
        let peppers = Peppers::new([pepper(1, 3), pepper(2, 4)]).unwrap();
        let mac = |version, byte| peppers.mac(PepperVersion(version), &key(byte)).unwrap();
        assert!(mac(1, 5).is(&mac(1, 5)));
        assert!(!mac(1, 5).is(&mac(2, 5)));
        assert!(!mac(1, 5).is(&mac(1, 6)));
        assert!(peppers.mac(PepperVersion(3), &key(5)).is_none());
        assert!(Mac::of(&[1; 31]).is_none() && Mac::of(&[1; 32]).is_some());
    }

    #[test]
    fn every_bit_counts() {
        let mac = Mac([0x5a; 32]);
        assert!(mac.is(&mac));
        for bit in 0..256 {
            let mut other = mac;
            other.0[bit / 8] ^= 1 << (bit % 8);
            assert!(!mac.is(&other), "bit {bit}");
        }
    }

    #[test]
    fn the_two_newest_peppers_are_in_force() {
        let peppers = Peppers::new([pepper(9, 1), pepper(10, 2), pepper(2, 3)]).unwrap();
        assert_eq!(peppers.versions().collect::<Vec<_>>(), [PepperVersion(10), PepperVersion(9)]);
        assert_eq!(peppers.newest(), PepperVersion(10));
        assert_eq!(Peppers::new([]).unwrap_err(), NoPepper::Absent);
        let short = (PepperVersion(1), SecretSlice::from(vec![1; 31]));
        assert_eq!(Peppers::new([short]).unwrap_err(), NoPepper::Short);
        for bad in ["1", "v", "v0", "v01", "v-1", "v1 ", "V1", "v99999999999"] {
            assert_eq!(bad.parse::<PepperVersion>(), Err(NoPepper::Name), "{bad}");
        }
        assert_eq!("v12".parse(), Ok(PepperVersion(12)));
    }

    #[test]
    fn neither_pepper_nor_mac_is_printed() {
        let peppers = Peppers::new([pepper(1, 77)]).unwrap();
        let mac = peppers.mac(PepperVersion(1), &key(5)).unwrap();
        let shown = format!("{peppers:?} {:#?} {mac:?}", peppers.clone());
        assert!(!shown.contains("77") && !shown.contains(&format!("{}", mac.as_bytes()[0])), "{shown}");
    }
}
