//! Text that Postgres can hold: all of Unicode but NUL.
//!
//! Kubernetes accepts a NUL in any string (`"\u0000"`), and one of them would make Postgres refuse a whole batch.

use serde_json::Value;

/// `text` with each NUL as U+FFFD, the replacement character.
pub(super) fn text(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

/// [`text`] of what may be absent.
pub(super) fn optional(text_or_none: Option<&String>) -> Option<String> {
    text_or_none.map(|t| text(t))
}

/// `value` with each NUL in its strings and keys as U+FFFD.
pub(super) fn json(value: &Value) -> Value {
    match value {
        Value::String(string) => Value::String(text(string)),
        Value::Array(items) => Value::Array(items.iter().map(json).collect()),
        Value::Object(fields) => Value::Object(fields.iter().map(|(k, v)| (text(k), json(v))).collect()),
        Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nuls_are_replaced_at_each_position() {
        let value = serde_json::json!({"a\0": ["x\0y", {"b": "\0"}], "n": 1, "t": true, "z": null});
        let expected =
            serde_json::json!({"a\u{fffd}": ["x\u{fffd}y", {"b": "\u{fffd}"}], "n": 1, "t": true, "z": null});
        assert_eq!(json(&value), expected);
        assert_eq!(text("déjà"), "déjà");
    }
}
