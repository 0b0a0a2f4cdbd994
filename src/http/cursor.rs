//! Cursors of lists by time: where a page ended, with a checksum over what the list is of and its filters.
//!
//! A cursor grants nothing: a list has only what its caller may read, wherever it begins. The checksum prevents the use of a cursor
//! in another list, which would then have gaps.

use jiff::Timestamp;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::{
    hex::hex,
    http::{
        jobs_index::ListPosition,
        problem::{Code, Problem},
    },
};

/// Bytes of the checksum.
const CHECKSUM_BYTES: usize = 8;

fn checksum(list: &str, position: &[u8]) -> Vec<u8> {
    let mut hasher = Sha256::new();
    hasher.update(list.as_bytes());
    hasher.update([0]);
    hasher.update(position);
    hasher.finalize()[..CHECKSUM_BYTES].to_vec()
}

/// The cursor of a position in a list. `list` names what it is of, such as the tenant, and the filters.
#[must_use]
pub fn write(list: &str, (created, uid): ListPosition) -> String {
    let mut bytes = created.as_microsecond().to_be_bytes().to_vec();
    bytes.extend(uid.as_bytes());
    let checksum = checksum(list, &bytes);
    bytes.extend(checksum);
    hex(&bytes)
}

/// The position of a cursor.
///
/// # Errors
/// `invalid_cursor`.
pub fn read(list: &str, cursor: &str) -> Result<ListPosition, Problem> {
    position(list, cursor)
        .ok_or_else(|| Problem::new(Code::InvalidCursor, "this cursor does not belong to this list"))
}

fn position(list: &str, cursor: &str) -> Option<ListPosition> {
    let digits = cursor.as_bytes();
    if digits.len() != 2 * (8 + 16 + CHECKSUM_BYTES)
        || !digits.iter().all(|d| matches!(d, b'0'..=b'9' | b'a'..=b'f'))
    {
        return None;
    }
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    let bytes: Vec<u8> = digits.chunks(2).map(byte).collect::<Option<_>>()?;
    let (encoded, given) = bytes.split_at(8 + 16);
    if checksum(list, encoded) != given {
        return None;
    }
    let (micros, uid) = encoded.split_at(8);
    let created = Timestamp::from_microsecond(i64::from_be_bytes(micros.try_into().ok()?)).ok()?;
    Some((created, Uuid::from_slice(uid).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_has_its_position_and_no_other_text_is_accepted() {
        let at = (Timestamp::from_second(1_900_000_000).unwrap(), Uuid::from_bytes([7; 16]));
        let cursor = write("t|queued|", at);
        assert_eq!(read("t|queued|", &cursor).unwrap(), at);
        for (list, forged) in [
            ("t||", cursor.clone()),
            ("u|queued|", cursor.clone()),
            ("t|queued|", cursor.to_uppercase()),
            ("t|queued|", cursor[2..].to_owned()),
            ("t|queued|", String::new()),
            ("t|queued|", "é".repeat(32)),
        ] {
            assert_eq!(read(list, &forged).unwrap_err().code, Code::InvalidCursor, "{forged}");
        }
        for at in 0..cursor.len() {
            let mut forged = cursor.clone().into_bytes();
            forged[at] = if forged[at] == b'0' { b'1' } else { b'0' };
            assert!(read("t|queued|", std::str::from_utf8(&forged).unwrap()).is_err(), "digit {at}");
        }
    }

    proptest::proptest! {
        #[test]
        fn fuzz_any_text_is_a_cursor_that_was_written_or_none(
            text in crate::fuzz::text(),
            bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..40),
        ) {
            for text in [text, hex(&bytes)] {
                if let Ok(at) = read("t||", &text) {
                    assert_eq!(write("t||", at), text);
                }
            }
        }
    }
}
