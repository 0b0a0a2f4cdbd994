//! JSON as it is written: fields come as an object, and a word as a text.
//!
//! A number that is written `2.0` is the whole number 2, as in JSON Schema. serde also takes a list for the fields in their order, and `{"live": null}` for the word `live`, at any depth. What the
//! API describes has neither, and a list keeps its meaning only until a field is added.

use serde::de::{
    Deserializer, Error as _, IntoDeserializer, Unexpected, Visitor,
    value::{MapDeserializer, SeqDeserializer},
};
use serde_json::{Error, Value};

/// A value that is read so.
pub struct Objects(pub Value);

/// A whole number that is exact as a floating point number.
fn whole(number: f64) -> Option<i64> {
    const EXACT: f64 = 9_007_199_254_740_991.0;
    let is_whole = number.fract() == 0.0 && number.abs() <= EXACT;
    #[expect(clippy::cast_possible_truncation, reason = "it is whole and within what is exact")]
    is_whole.then_some(number as i64)
}

fn unexpected(value: &Value) -> Unexpected<'_> {
    match value {
        Value::Null => Unexpected::Other("null"),
        Value::Bool(it) => Unexpected::Bool(*it),
        Value::Number(_) => Unexpected::Other("number"),
        Value::String(it) => Unexpected::Str(it),
        Value::Array(_) => Unexpected::Seq,
        Value::Object(_) => Unexpected::Map,
    }
}

impl IntoDeserializer<'_, Error> for Objects {
    type Deserializer = Self;
    fn into_deserializer(self) -> Self {
        self
    }
}

impl<'de> Deserializer<'de> for Objects {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0 {
            Value::Array(items) => visitor.visit_seq(SeqDeserializer::new(items.into_iter().map(Objects))),
            Value::Object(fields) => {
                let fields = fields.into_iter().map(|(name, value)| (name, Objects(value)));
                visitor.visit_map(MapDeserializer::new(fields))
            }
            Value::Number(number) => match number.as_f64().filter(|_| number.is_f64()).and_then(whole) {
                Some(whole) => visitor.visit_i64(whole),
                None => number.deserialize_any(visitor),
            },
            plain => plain.deserialize_any(visitor),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.0.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        if self.0.is_object() {
            return self.deserialize_any(visitor);
        }
        Err(Error::invalid_type(unexpected(&self.0), &"an object"))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match self.0 {
            Value::String(word) => visitor.visit_enum(word.into_deserializer()),
            other => Err(Error::invalid_type(unexpected(&other), &"a word")),
        }
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf
        unit unit_struct seq tuple tuple_struct map identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;
    use serde_json::json;

    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum Word {
        Live,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(transparent)]
    struct Wrapped(String);

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Inner {
        a: i64,
        word: Option<Word>,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Outer {
        one: Option<Inner>,
        #[serde(default)]
        many: Vec<Inner>,
        #[serde(default)]
        named: BTreeMap<String, Wrapped>,
    }

    fn read(value: Value) -> Result<Outer, String> {
        Outer::deserialize(Objects(value)).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_written_as_described_is_read() {
        let inner = |a| Inner { a, word: Some(Word::Live) };
        let body = json!({
            "one": {"a": -1, "word": "live"}, "many": [{"a": 2, "word": "live"}], "named": {"x": "y"},
        });
        let named = BTreeMap::from([("x".to_owned(), Wrapped("y".to_owned()))]);
        assert_eq!(read(body), Ok(Outer { one: Some(inner(-1)), many: vec![inner(2)], named }));
        assert_eq!(read(json!({"one": null})).unwrap().one, None);
        assert_eq!(read(json!({"one": {"a": 2.0}})).unwrap().one.unwrap().a, 2);
        assert_eq!(read(json!({"one": {"a": -2e3}})).unwrap().one.unwrap().a, -2000);
    }

    #[test]
    fn no_list_stands_for_fields_and_no_object_for_a_word_however_deep() {
        for (body, words) in [
            (json!([null]), "expected an object"),
            (json!({"one": [1, "live"]}), "expected an object"),
            (json!({"many": [[1, "live"]]}), "expected an object"),
            (json!({"many": {"a": 1}}), "expected a sequence"),
            (json!({"named": []}), "expected a map"),
            (json!({"named": {"x": {"y": 1}}}), "expected a string"),
            (json!({"one": {"a": 1, "word": {"live": null}}}), "expected a word"),
            (json!({"one": {"a": 1.5}}), "expected i64"),
            (json!({"one": {"a": 1e300}}), "expected i64"),
            (json!({"one": {"a": 1, "b": 1}}), "unknown field `b`"),
            (json!({"one": {"word": "live"}}), "missing field `a`"),
            (json!({"one": {"a": 1, "word": "dead"}}), "unknown variant `dead`"),
        ] {
            let said = read(body.clone()).unwrap_err();
            assert!(said.contains(words), "{body}: {said}");
        }
    }
}
