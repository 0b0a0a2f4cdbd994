//! Kubernetes quantities (`500m`, `2`, `1.5Gi`, `100M`) as exact integers.
//!
//! Quotas, the ledger and the meter count in integers; a float would lose a milli-core here and a byte there. What
//! does not fit the unit is rounded up, as the API server does, so that a request is never counted too small.

use std::{borrow::Cow, fmt};

use kube::core::{Message, Rule};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, de};

/// A quantity as a user wrote it. Serialises to the text; reads a text or a whole number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Quantity(pub(crate) String);

/// Why a text is no quantity.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum QuantityError {
    /// Not of the form of a Kubernetes quantity.
    #[error("`{0}` is no quantity: write a number with an optional unit, such as 500m, 2, 1.5Gi or 100M")]
    Form(String),
    /// Below zero.
    #[error("`{0}` is negative: a request is 0 or more")]
    Negative(String),
    /// More than the counter can hold.
    #[error("`{0}` is too large: the most that can be counted is 9.2E in the smallest unit")]
    TooLarge(String),
    /// Not in the [`Range`] of its field.
    #[error("`{text}` is not allowed: give {least} to {most}")]
    OutOfRange {
        /// The text as written.
        text: String,
        /// The least of the range.
        least: &'static str,
        /// The most of the range.
        most: &'static str,
    },
}

/// What a job may ask for of one resource. The CRD and the catalogue of scenarios refuse what is outside.
///
/// Zero is outside of every range: a limit of zero is no limit to a kubelet. What is above could not be counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// The smallest quantity allowed.
    pub least: &'static str,
    /// The largest quantity allowed.
    pub most: &'static str,
}

/// CPU of a job: the unit in which Kubernetes counts is the least.
pub const CPU: Range = Range { least: "1m", most: "100k" };
/// Memory of a job. With less than this, container runtimes fail to start the first process.
pub const MEMORY: Range = Range { least: "16Mi", most: "1Pi" };
/// Space on a node's disk, of a job and of a scratch volume.
pub const DISK: Range = Range { least: "1Mi", most: "1Pi" };

/// The finest fraction that Kubernetes keeps: ranges are compared in it.
const NANO: u128 = 1_000_000_000;

/// The form of a quantity that a job may give, as a regular expression: what Kubernetes reads, without a minus sign and
/// with exponents of two digits, which it can compare without effort.
pub const FORM: &str =
    r"^[+]?([0-9]+[.]?[0-9]*|[.][0-9]+)(n|u|m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei|[eE][+-]?[0-9]{1,2})?$";

impl Range {
    /// The range as a rule of a CRD, for a field of this type.
    #[must_use]
    pub fn rule(&self) -> Rule {
        let Self { least, most } = self;
        let written = as_quantity("self");
        let rule = format!(
            "(type(self) == int || self.matches('{FORM}')) && {written}.compareTo(quantity('{least}')) >= 0 \
             && {written}.compareTo(quantity('{most}')) <= 0"
        );
        let message =
            format!("'`' + string(self) + '` is not allowed: give {least} to {most}, with an optional unit'");
        Rule::new(rule).message(Message::Expression(message))
    }

    /// The quantity, or the least of the range where it is below: for what was stored without the rule. A text that is no
    /// quantity stays as it is.
    #[must_use]
    pub fn at_least(&self, quantity: &Quantity) -> Quantity {
        let below = scaled(&quantity.0, NANO)
            .is_ok_and(|value| scaled(self.least, NANO).is_ok_and(|least| value < least));
        if below { self.least.into() } else { quantity.clone() }
    }

    /// Checks a quantity as the CRD's rule does.
    ///
    /// # Errors
    /// [`QuantityError`], with the range where the quantity is outside.
    pub fn check(&self, quantity: &Quantity) -> Result<(), QuantityError> {
        let Self { least, most } = *self;
        let within = scaled(least, NANO)?..=scaled(most, NANO)?;
        match scaled(&quantity.0, NANO) {
            Ok(value) if within.contains(&value) => Ok(()),
            Err(error @ QuantityError::Form(_)) => Err(error),
            _ => Err(QuantityError::OutOfRange { text: quantity.0.clone(), least, most }),
        }
    }
}

/// The CEL expression that reads the quantity at `path`.
pub(super) fn as_quantity(path: &str) -> String {
    format!("(type({path}) == int ? quantity(string({path})) : quantity({path}))")
}

impl Quantity {
    /// In thousandths of the unit (milli-cores for CPU), rounded up.
    ///
    /// # Errors
    /// [`QuantityError`] when the text is no quantity, negative or too large.
    pub fn milli(&self) -> Result<u64, QuantityError> {
        self.counted(1000)
    }

    /// In whole units (bytes for memory), rounded up.
    ///
    /// # Errors
    /// [`QuantityError`] when the text is no quantity, negative or too large.
    pub fn units(&self) -> Result<u64, QuantityError> {
        self.counted(1)
    }

    fn counted(&self, scale: u128) -> Result<u64, QuantityError> {
        let value = i64::try_from(scaled(&self.0, scale)?).ok().and_then(|value| u64::try_from(value).ok());
        value.ok_or_else(|| QuantityError::TooLarge(self.0.clone()))
    }
}

impl From<&str> for Quantity {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

/// What a suffix multiplies a number by.
enum Unit {
    Times(u128),
    /// A power of ten.
    Ten(i64),
}

fn unit(suffix: &str) -> Option<Unit> {
    let kibi = |power: u32| Some(Unit::Times(1024_u128.pow(power)));
    match suffix {
        "n" => Some(Unit::Ten(-9)),
        "u" => Some(Unit::Ten(-6)),
        "m" => Some(Unit::Ten(-3)),
        "" => Some(Unit::Ten(0)),
        "k" => Some(Unit::Ten(3)),
        "M" => Some(Unit::Ten(6)),
        "G" => Some(Unit::Ten(9)),
        "T" => Some(Unit::Ten(12)),
        "P" => Some(Unit::Ten(15)),
        "E" => Some(Unit::Ten(18)),
        "Ki" => kibi(1),
        "Mi" => kibi(2),
        "Gi" => kibi(3),
        "Ti" => kibi(4),
        "Pi" => kibi(5),
        "Ei" => kibi(6),
        exponent => exponent.strip_prefix(['e', 'E'])?.parse().ok().map(Unit::Ten),
    }
}

/// `text` times `scale`, rounded up. Exact, however many digits there are.
fn scaled(text: &str, scale: u128) -> Result<u128, QuantityError> {
    let form = || QuantityError::Form(text.to_owned());
    let large = || QuantityError::TooLarge(text.to_owned());
    let (negative, unsigned) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let end = unsigned.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(unsigned.len());
    let (number, suffix) = unsigned.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return Err(form());
    }
    let (factor, power) = match unit(suffix).ok_or_else(form)? {
        Unit::Times(factor) => (factor * scale, 0),
        Unit::Ten(power) => (scale, power),
    };
    let digits: Vec<u8> = whole.bytes().chain(fraction.bytes()).map(|digit| digit - b'0').collect();
    let Some(first) = digits.iter().position(|digit| *digit > 0) else { return Ok(0) };
    if negative {
        return Err(QuantityError::Negative(text.to_owned()));
    }
    // The decimal point is before the digit of this index, or that many zeros before the first or after the last.
    let length = |digits: usize| i64::try_from(digits).unwrap_or(i64::MAX);
    let point = length(whole.len()).saturating_add(power);
    let count = length(digits.len());
    if point.saturating_sub(length(first)) > 39 {
        return Err(large());
    }
    // Before the point from the left, and behind it from the right: both stay small.
    let before = usize::try_from(point.clamp(0, count)).unwrap_or(0);
    let zeros = u32::try_from(point.saturating_sub(count).max(0)).unwrap_or(u32::MAX);
    let (left, right) = digits.split_at(before);
    let integer =
        left.iter().try_fold(0_u128, |sum, digit| sum.checked_mul(10)?.checked_add(u128::from(*digit)));
    let integer = integer.and_then(|integer| integer.checked_mul(10_u128.checked_pow(zeros)?));
    let integer = integer.and_then(|integer| integer.checked_mul(factor)).ok_or_else(large)?;
    let (mut part, mut rest) = (0, false);
    for digit in right.iter().rev() {
        let sum = part + u128::from(*digit) * factor;
        rest |= sum % 10 != 0;
        part = sum / 10;
    }
    for _ in 0..point.saturating_neg().clamp(0, 40) {
        rest |= part % 10 != 0;
        part /= 10;
    }
    integer.checked_add(part + u128::from(rest)).ok_or_else(large)
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Quantity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextOrNumber;
        impl de::Visitor<'_> for TextOrNumber {
            type Value = Quantity;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a quantity: a text such as \"500m\" or a whole number")
            }
            fn visit_str<E: de::Error>(self, v: &str) -> Result<Quantity, E> {
                Ok(Quantity(v.to_owned()))
            }
            fn visit_u64<E: de::Error>(self, v: u64) -> Result<Quantity, E> {
                Ok(Quantity(v.to_string()))
            }
            fn visit_i64<E: de::Error>(self, v: i64) -> Result<Quantity, E> {
                Ok(Quantity(v.to_string()))
            }
        }
        deserializer.deserialize_any(TextOrNumber)
    }
}

impl JsonSchema for Quantity {
    fn schema_name() -> Cow<'static, str> {
        "Quantity".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        // What it may be depends on the field: see [`Range::rule`].
        json_schema!({"x-kubernetes-int-or-string": true, "maxLength": 32})
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_every_form_exactly() {
        let milli = |t: &str| Quantity::from(t).milli();
        let units = |t: &str| Quantity::from(t).units();
        assert_eq!(milli("500m"), Ok(500));
        assert_eq!(milli("2"), Ok(2000));
        assert_eq!(milli("0.1"), Ok(100));
        assert_eq!(milli("1n"), Ok(1), "rounded up");
        assert_eq!(units("1.5Gi"), Ok(1_610_612_736));
        assert_eq!(units("100M"), Ok(100_000_000));
        assert_eq!(units("1e3"), Ok(1000));
        assert_eq!(units("1E"), Ok(1_000_000_000_000_000_000));
        assert_eq!(units("12E2"), Ok(1200));
        assert_eq!(units("-0"), Ok(0));
    }

    #[test]
    fn refuses_with_the_text_in_the_message() {
        for bad in ["", ".", "1.2.3", "abc", "1 Gi", "1gi", "0x10", "Gi", "1e", "--1", "１"] {
            assert_eq!(Quantity::from(bad).milli(), Err(QuantityError::Form(bad.to_owned())), "{bad}");
        }
        assert!(matches!(Quantity::from("-5").units(), Err(QuantityError::Negative(_))));
        assert!(matches!(Quantity::from("9999999Ei").milli(), Err(QuantityError::TooLarge(_))));
        assert!(matches!(Quantity::from("1e30").units(), Err(QuantityError::TooLarge(_))));
        assert!(matches!(Quantity::from("1e999999999999").units(), Err(QuantityError::TooLarge(_))));
    }

    #[test]
    fn many_digits_and_large_exponents_are_read_exactly() {
        let units = |t: &str| Quantity::from(t).units();
        assert_eq!(units("1.0000000000000000000000000001Ti"), Ok((1 << 40) + 1), "rounded up");
        assert_eq!(units("1.0000000000000000000000000000Ti"), Ok(1 << 40));
        assert_eq!(units("10000000000000000000000000000e-27"), Ok(10));
        assert_eq!(units(".000000000000000000000000001e27"), Ok(1));
        assert_eq!(units(".12e1"), Ok(2));
        assert_eq!(units("00000000000000000000000000000001"), Ok(1));
        assert_eq!(units("0e99"), Ok(0));
        assert_eq!(units("1e-400"), Ok(1));
        assert_eq!(Quantity::from("5.").milli(), Ok(5000));
    }

    #[test]
    fn a_range_has_its_bounds_and_no_zero() {
        for (range, least, below) in
            [(CPU, "1m", "0.999999m"), (MEMORY, "16Mi", "16777215"), (DISK, "1Mi", "512m")]
        {
            assert_eq!(range.check(&least.into()), Ok(()));
            assert_eq!(range.check(&range.most.into()), Ok(()));
            for text in ["0", "0e99", "1e-400", below, "-1", "1e20", "9999999Ei"] {
                let error = range.check(&text.into()).unwrap_err().to_string();
                let wanted = format!("`{text}` is not allowed: give {} to {}", range.least, range.most);
                assert_eq!(error, wanted);
            }
        }
    }

    proptest! {
        #[test]
        fn every_text_of_the_form_is_read_as_it_is_written(
            (whole, fraction) in ("[0-9]{1,14}", "[0-9]{0,12}"), factor in 0_usize..9,
        ) {
            let (unit, times) = [
                ("", 1), ("k", 1000), ("M", 1_000_000), ("Ki", 1 << 10), ("Mi", 1 << 20), ("Gi", 1 << 30),
                ("e1", 10), ("E+2", 100), ("e3", 1000),
            ][factor];
            let ten = 10_u128.pow(u32::try_from(fraction.len()).unwrap());
            let digits: u128 = format!("{whole}{fraction}").parse().unwrap();
            let expected = (digits * times).div_ceil(ten);
            prop_assert_eq!(scaled(&format!("{whole}.{fraction}{unit}"), 1), Ok(expected));
        }
    }

    #[test]
    fn a_whole_number_is_a_quantity() {
        let read: Quantity = serde_json::from_str("2").unwrap();
        assert_eq!(read, Quantity::from("2"));
    }
}
