//! Times as users write them: every text that the schema admits is a time.
//!
//! The year 9999 is how people write "never", and its last two days are beyond what [`Timestamp`] holds. Such a time is
//! read as the last one that it holds, so that an object with it is not an object that can't be read.

use jiff::{Timestamp, civil, fmt::temporal::Pieces, tz::Offset};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde::{Deserialize, Deserializer, de::Error};

/// The texts that a field of a spec takes, in addition to being a `date-time`. Kubernetes checks that format loosely: it takes
/// any offset, any number of digits, and whatever follows a second `t`.
pub const FORM: &str = "^[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}([.][0-9]{1,9})?([Zz]|[+-]([01][0-9]|2[0-3]):[0-5][0-9])$";

/// The same of a field of a status, which Crofter alone writes: UTC, and no year that a [`Timestamp`] does not hold whole.
pub const FORM_IN_STATUS: &str = "^([0-8][0-9]{3}|9[0-8][0-9]{2}|99[0-8][0-9]|999[0-8])-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}([.][0-9]{1,9})?Z$";

/// Reads a time, and one out of bounds as the bound that it is beyond.
///
/// # Errors
/// A text that is no time with an offset.
pub fn parse(text: &str) -> Result<Timestamp, jiff::Error> {
    let time = match text.parse() {
        Ok(time) => time,
        Err(error) => beyond(text).ok_or(error)?,
    };
    // What is written has four digits of a year.
    Ok(time.max(first()))
}

/// The last time that exists, for a text that means a later one.
fn beyond(text: &str) -> Option<Timestamp> {
    let pieces = Pieces::parse(text).ok()?;
    let written = pieces.date().to_datetime(pieces.time()?);
    (pieces.to_numeric_offset().is_some() && written.year() == 9999).then_some(Timestamp::MAX)
}

/// The beginning of the year 0.
fn first() -> Timestamp {
    Offset::UTC.to_timestamp(civil::date(0, 1, 1).at(0, 0, 0, 0)).unwrap_or(Timestamp::MIN)
}

/// Reads the time of a spec's field.
///
/// # Errors
/// The deserialiser's own, or that of [`parse`].
pub fn time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Time>, D::Error> {
    timestamp(deserializer).map(|time| time.map(Time))
}

/// Reads the time of a field of the REST API.
///
/// # Errors
/// As [`time`].
pub fn timestamp<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Timestamp>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?;
    text.map(|text| parse(&text)).transpose().map_err(D::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_is_read_as_the_last_time() {
        for text in [
            "9999-12-31T23:59:59Z",
            "9999-12-30T22:00:01Z",
            "9999-12-31t23:59:59.999999999z",
            "9999-12-31T00:00:00-23:59",
            "9999-12-31T23:59:59+23:59",
        ] {
            assert_eq!(parse(text).unwrap(), Timestamp::MAX, "{text}");
        }
        assert_eq!(parse("9999-12-30T22:00:00Z").unwrap().to_string(), "9999-12-30T22:00:00Z");
    }

    #[test]
    fn the_first_time_is_the_year_zero() {
        assert_eq!(parse("0000-01-01T00:00:00+23:59").unwrap().to_string(), "0000-01-01T00:00:00Z");
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in [
            "",
            "9999-12-31",
            "9999-12-31T23:59:59",
            "9999-13-31T23:59:59Z",
            "tomorrow",
            "9999-12-31T23:59:59Zt",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
