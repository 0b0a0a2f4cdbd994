//! The token of a key: `crft_<key id, 12 base62>_<secret, 43 base62><checksum, 6 base62>`.
//!
//! The prefix lets scanners find a leaked key, the id is public, the secret holds 256 random bits, and the
//! checksum (CRC-32 of all before it) finds a typing error or a guess without any request. The secret
//! is held in types that don't print it and that clear their memory.

use std::fmt;

use secrecy::{ExposeSecret, ExposeSecretMut, SecretBox, SecretSlice, SecretString};

/// The first characters of every key.
pub const PREFIX: &str = "crft_";
/// Characters of a key id.
pub const ID_LEN: usize = 12;
/// Characters of a secret: the least that hold 256 bits in base 62.
pub const SECRET_LEN: usize = 43;
const CHECKSUM_LEN: usize = 6;
/// Characters of a whole key.
pub const TOKEN_LEN: usize = PREFIX.len() + ID_LEN + 1 + SECRET_LEN + CHECKSUM_LEN;

const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// The public part of a key, by which it is found and named.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyId([u8; ID_LEN]);

impl KeyId {
    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        // Only base 62 digits get in.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }

    fn of(digits: &[u8]) -> Option<Self> {
        let id: [u8; ID_LEN] = digits.try_into().ok()?;
        id.iter().all(u8::is_ascii_alphanumeric).then_some(Self(id))
    }
}

impl std::str::FromStr for KeyId {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        Self::of(text.as_bytes()).ok_or(Malformed)
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyId({})", self.as_str())
    }
}

/// A text that is not a token: it has another form, or a wrong checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this is no API key, or it was cut or mistyped")]
pub struct Malformed;

/// Random bytes that a new key is made of.
pub struct Seed(SecretBox<[u8; Self::LEN]>);

impl Seed {
    /// Bytes that it takes: 128 bits for the id, 256 for the secret.
    pub const LEN: usize = 16 + 32;

    /// A seed of the bytes that `fill` gives.
    ///
    /// # Errors
    /// Those of `fill`.
    pub fn of<E>(fill: impl FnOnce(&mut [u8]) -> Result<(), E>) -> Result<Self, E> {
        let mut bytes = SecretBox::new(Box::new([0; Self::LEN]));
        fill(bytes.expose_secret_mut())?;
        Ok(Self(bytes))
    }
}

impl fmt::Debug for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seed")
    }
}

/// A well-formed key. Only [`token`](Self::token) returns the secret; `Debug` does not.
#[derive(Clone)]
pub struct Key {
    id: KeyId,
    token: SecretString,
}

impl Key {
    /// A new key.
    #[must_use]
    pub fn new(seed: &Seed) -> Self {
        let (id, secret) = seed.0.expose_secret().split_at(16);
        let id = KeyId(*digits(id).expose_secret());
        // Of the final length from the start: it is never moved, so no copy stays behind.
        let mut token = String::with_capacity(TOKEN_LEN);
        token.push_str(PREFIX);
        token.push_str(id.as_str());
        token.push('_');
        push(&mut token, &digits::<SECRET_LEN>(secret));
        let checksum = crc32fast::hash(token.as_bytes()).to_be_bytes();
        push(&mut token, &digits::<CHECKSUM_LEN>(&checksum));
        Self { id, token: SecretString::from(token) }
    }

    /// Parses a token. Its form and checksum must be right, which does not mean that the key exists.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn parse(token: &str) -> Result<Self, Malformed> {
        let rest =
            token.strip_prefix(PREFIX).filter(|_| token.len() == TOKEN_LEN).ok_or(Malformed)?.as_bytes();
        let (id, rest) = rest.split_at(ID_LEN);
        let (dash, rest) = rest.split_at(1);
        let well_formed = dash == b"_" && rest.iter().all(u8::is_ascii_alphanumeric);
        let id = KeyId::of(id).filter(|_| well_formed).ok_or(Malformed)?;
        let (signed, checksum) = token.split_at(TOKEN_LEN - CHECKSUM_LEN);
        if value(checksum.as_bytes()) != u64::from(crc32fast::hash(signed.as_bytes())) {
            return Err(Malformed);
        }
        Ok(Self { id, token: SecretString::from(token) })
    }

    /// The public part.
    #[must_use]
    pub fn id(&self) -> KeyId {
        self.id
    }

    /// The whole token, secret included, which belongs only into the Secret that its owner reads.
    #[must_use]
    pub fn token(&self) -> &SecretString {
        &self.token
    }

    /// What is authenticated: key id and secret, both of fixed length.
    pub(super) fn parts(&self) -> [&[u8]; 2] {
        let token = self.token.expose_secret().as_bytes();
        let id = &token[PREFIX.len()..PREFIX.len() + ID_LEN];
        let secret = &token[PREFIX.len() + ID_LEN + 1..TOKEN_LEN - CHECKSUM_LEN];
        [id, secret]
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").field("id", &self.id).finish_non_exhaustive()
    }
}

/// The last `N` base 62 digits of a number given as big-endian bytes. Of as many bytes as the digits have room for,
/// nothing is lost; of more, the digits are as good as evenly distributed.
fn digits<const N: usize>(number: &[u8]) -> SecretBox<[u8; N]> {
    let mut number = SecretSlice::from(number.to_vec());
    let number = number.expose_secret_mut();
    let mut all = SecretBox::new(Box::new([0; N]));
    for digit in all.expose_secret_mut().iter_mut().rev() {
        let mut rest = 0;
        for byte in number.iter_mut() {
            let part = rest << 8 | u32::from(*byte);
            // Less than 256, since `rest` is less than 62.
            *byte = u8::try_from(part / 62).unwrap_or(u8::MAX);
            rest = part % 62;
        }
        *digit = DIGITS[rest as usize];
    }
    all
}

fn push<const N: usize>(token: &mut String, digits: &SecretBox<[u8; N]>) {
    token.extend(digits.expose_secret().iter().map(|digit| char::from(*digit)));
}

/// The number of base 62 digits; none that a checksum has where there are others.
fn value(digits: &[u8]) -> u64 {
    let digit = |digit: &u8| DIGITS.binary_search(digit).ok().and_then(|value| u64::try_from(value).ok());
    digits.iter().try_fold(0, |sum: u64, next| Some(sum * 62 + digit(next)?)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    fn seed(bytes: &[u8; Seed::LEN]) -> Seed {
        Seed::of(|fill| {
            fill.copy_from_slice(bytes);
            Ok::<_, ()>(())
        })
        .unwrap()
    }

    #[test]
    fn the_form_is_as_documented() {
        let zero = Key::new(&seed(&[0; Seed::LEN]));
        let token = zero.token().expose_secret();
        let checksum = &token[TOKEN_LEN - 6..];
        assert_eq!(*token, format!("crft_{}_{}{checksum}", "0".repeat(12), "0".repeat(43)));
        assert_eq!(
            value(checksum.as_bytes()),
            u64::from(crc32fast::hash(&token.as_bytes()[..TOKEN_LEN - 6]))
        );
        // 2^128 - 1 mod 62^12, 2^256 - 1 in base 62, and zlib's crc32, computed elsewhere.
        let full = Key::new(&seed(&[0xff; Seed::LEN]));
        assert_eq!(
            full.token().expose_secret(),
            "crft_lk9n8mt7Fhc7_yhjskwdA6OZ1AL1YmHWZWm8LLG7HjnuCA2j5rOw8Xp14TK5Pl"
        );
        assert_eq!(full.token().expose_secret().len(), 67);
    }

    #[test]
    fn the_checksum_is_the_one_of_zip_and_png() {
        // The check value of CRC-32/ISO-HDLC.
        assert_eq!(crc32fast::hash(b"123456789"), 0xcbf4_3926);
    }

    #[test]
    fn what_is_no_key_is_refused() {
        let key = Key::new(&seed(&[7; Seed::LEN]));
        let token = key.token().expose_secret();
        let spaced = format!("{token} ");
        let upper = token.to_uppercase();
        let wide = token.replace(&token[20..22], "é");
        for bad in ["", "crft_", "Bearer x", &token[..66], &spaced, &upper, &wide, &"crft_".repeat(14)] {
            assert_eq!(Key::parse(bad).unwrap_err(), Malformed, "{bad}");
        }
        assert_eq!("0123456789a".parse::<KeyId>(), Err(Malformed));
        assert_eq!("0123456789-a".parse::<KeyId>(), Err(Malformed));
        assert_eq!("0123456789ab".parse::<KeyId>().unwrap().to_string(), "0123456789ab");
    }

    #[test]
    fn only_the_token_itself_prints_the_secret() {
        let key = Key::new(&seed(&[9; Seed::LEN]));
        let secret = &key.token().expose_secret()[18..];
        let shown = format!("{key:?} {:#?} {} {:?}", key, key.id(), seed(&[9; Seed::LEN]));
        assert!(shown.contains(key.id().as_str()) && !shown.contains(&secret[..8]), "{shown}");
        assert!(!shown.contains("9, 9"), "{shown}");
    }

    proptest! {
        #[test]
        fn fuzz_any_text_is_a_key_or_none(text in crate::fuzz::text(), flips in prop::collection::vec((0_usize..80, any::<u8>()), 0..3)) {
            let mut token = Key::new(&seed(&[5; 48])).token().expose_secret().as_bytes().to_vec();
            for (at, byte) in flips {
                let at = at % token.len();
                token[at] = byte;
            }
            for text in [text, String::from_utf8_lossy(&token).into_owned()] {
                if let Ok(key) = Key::parse(&text) {
                    prop_assert_eq!(key.token().expose_secret(), &text, "only the text that a key is written as is read");
                }
            }
        }

        #[test]
        fn a_new_key_is_read_back(bytes in any::<[u8; 48]>()) {
            let key = Key::new(&seed(&bytes));
            let token = key.token().expose_secret();
            let read = Key::parse(token).unwrap();
            prop_assert_eq!(read.id(), key.id());
            prop_assert_eq!(read.parts(), key.parts());
            prop_assert_eq!(read.id().to_string(), &token[5..17]);
        }

        #[test]
        fn secrets_differ_when_one_bit_does(bytes in any::<[u8; 48]>(), bit in 0_usize..256) {
            let mut other = bytes;
            other[16 + bit / 8] ^= 1 << (bit % 8);
            let (one, other) = (Key::new(&seed(&bytes)), Key::new(&seed(&other)));
            prop_assert_eq!(one.id(), other.id());
            prop_assert_ne!(one.parts(), other.parts());
        }

        #[test]
        fn a_wrong_character_is_found(bytes in any::<[u8; 48]>(), at in 0_usize..TOKEN_LEN, with in "[0-9A-Za-z_]") {
            let mut token = Key::new(&seed(&bytes)).token().expose_secret().to_owned();
            prop_assume!(token[at..=at] != with);
            token.replace_range(at..=at, &with);
            prop_assert!(Key::parse(&token).is_err(), "{}", token);
        }

        #[test]
        fn any_text_is_parsed_without_a_panic(token in "\\PC{0,80}|crft_[0-9A-Za-z_é]{50,70}") {
            drop(Key::parse(&token));
        }
    }

    #[test]
    fn ids_are_spread_over_all_digits() {
        let ids = (0_u8..=255).map(|n| Key::new(&seed(&[n.wrapping_mul(97); Seed::LEN])).id());
        let seen: HashSet<u8> = ids.flat_map(|id| id.0).collect();
        assert_eq!(seen.len(), 62);
    }
}
