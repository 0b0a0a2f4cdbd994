//! Kubernetes quantities (`500m`, `2`, `1.5Gi`, `100M`) as exact integers.
//!
//! Quotas, the ledger and the meter count in integers; a float would lose a milli-core here and a byte there. What
//! does not fit the unit is rounded up, as the API server does, so that a request is never counted too small.

use std::{borrow::Cow, fmt};

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
}

impl Quantity {
    /// In thousandths of the unit (milli-cores for CPU), rounded up.
    ///
    /// # Errors
    /// [`QuantityError`] when the text is no quantity, negative or too large.
    pub fn milli(&self) -> Result<u64, QuantityError> {
        scaled(&self.0, 1000)
    }

    /// In whole units (bytes for memory), rounded up.
    ///
    /// # Errors
    /// [`QuantityError`] when the text is no quantity, negative or too large.
    pub fn units(&self) -> Result<u64, QuantityError> {
        scaled(&self.0, 1)
    }
}

impl From<&str> for Quantity {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

/// Numerator and denominator of a quantity's suffix.
fn suffix(text: &str) -> Option<(u128, u128)> {
    const KI: u128 = 1024;
    const K: u128 = 1000;
    Some(match text {
        "n" => (1, K.pow(3)),
        "u" => (1, K.pow(2)),
        "m" => (1, K),
        "" => (1, 1),
        "k" => (K, 1),
        "M" => (K.pow(2), 1),
        "G" => (K.pow(3), 1),
        "T" => (K.pow(4), 1),
        "P" => (K.pow(5), 1),
        "E" => (K.pow(6), 1),
        "Ki" => (KI, 1),
        "Mi" => (KI.pow(2), 1),
        "Gi" => (KI.pow(3), 1),
        "Ti" => (KI.pow(4), 1),
        "Pi" => (KI.pow(5), 1),
        "Ei" => (KI.pow(6), 1),
        exponent => {
            let digits = exponent.strip_prefix(['e', 'E'])?;
            let power: i32 = digits.parse().ok()?;
            let size = 10_u128.checked_pow(power.unsigned_abs())?;
            if power < 0 { (1, size) } else { (size, 1) }
        }
    })
}

/// `text` times `scale`, rounded up.
fn scaled(text: &str, scale: u128) -> Result<u64, QuantityError> {
    let form = || QuantityError::Form(text.to_owned());
    let large = || QuantityError::TooLarge(text.to_owned());
    let (negative, unsigned) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let end = unsigned.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(unsigned.len());
    let (number, unit) = unsigned.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return Err(form());
    }
    let (numerator, denominator) = suffix(unit).ok_or_else(form)?;
    let digits: u128 = format!("{whole}{fraction}").parse().map_err(|_| large())?;
    if negative && digits > 0 {
        return Err(QuantityError::Negative(text.to_owned()));
    }
    let decimals =
        u32::try_from(fraction.len()).ok().and_then(|n| 10_u128.checked_pow(n)).ok_or_else(large)?;
    let top = digits.checked_mul(numerator).and_then(|n| n.checked_mul(scale)).ok_or_else(large)?;
    let bottom = decimals.checked_mul(denominator).ok_or_else(large)?;
    let value = top.div_ceil(bottom);
    u64::try_from(value).ok().filter(|v| i64::try_from(*v).is_ok()).ok_or_else(large)
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
        json_schema!({
            "x-kubernetes-int-or-string": true,
            "maxLength": 32,
            "x-kubernetes-validations": [{
                "rule": "type(self) == int ? self >= 0 : isQuantity(self) && quantity(self).compareTo(quantity('0')) >= 0",
                "message": "must be a quantity of 0 or more, such as 500m, 2, 1.5Gi or 100M",
            }],
        })
    }
}

#[cfg(test)]
mod tests {
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
    }

    #[test]
    fn a_whole_number_is_a_quantity() {
        let read: Quantity = serde_json::from_str("2").unwrap();
        assert_eq!(read, Quantity::from("2"));
    }
}
