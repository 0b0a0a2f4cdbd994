//! JSON of request bodies, read more strictly than serde does.
//!
//! [`StrictValue`] refuses what two readers of one text may understand differently, and what Postgres can't store.
//! [`StrictDeserializer`] then reads fields from objects only and a word from a text only. serde would also take a list
//! for the fields in their order, and `{"live": null}` for the word `live`, at any depth; the API describes neither, and a
//! list would keep its meaning only until a field is added. As in JSON Schema, `2.0` is the whole number 2.

use std::fmt;

use serde::{
    Deserialize,
    de::{
        self, DeserializeSeed, Deserializer, Error as _, IntoDeserializer, MapAccess, SeqAccess, Unexpected,
        Visitor,
        value::{MapDeserializer, SeqDeserializer},
    },
};
use serde_json::{Error, Map, Number, Value};

/// Most levels of objects and lists.
const MAX_DEPTH: u8 = 32;

/// A JSON value, read strictly: no object has a name twice, no text has a NUL character, no value is nested deeper than
/// `MAX_DEPTH` levels, and no number is out of range.
pub struct StrictValue(pub Value);

impl<'de> Deserialize<'de> for StrictValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Level(MAX_DEPTH).deserialize(deserializer).map(Self)
    }
}

/// How many more levels of objects and lists are accepted.
#[derive(Clone, Copy)]
struct Level(u8);

impl Level {
    fn below<E: de::Error>(self) -> Result<Self, E> {
        let left = self.0.checked_sub(1);
        left.map(Self).ok_or_else(|| E::custom(format_args!("nested deeper than {MAX_DEPTH} levels")))
    }
}

fn text<E: de::Error>(text: &str) -> Result<String, E> {
    if text.contains('\0') { Err(E::custom("a text has a NUL character")) } else { Ok(text.to_owned()) }
}

impl<'de> DeserializeSeed<'de> for Level {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Level {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_bool<E>(self, v: bool) -> Result<Value, E> {
        Ok(Value::Bool(v))
    }
    fn visit_i64<E>(self, v: i64) -> Result<Value, E> {
        Ok(v.into())
    }
    fn visit_u64<E>(self, v: u64) -> Result<Value, E> {
        Ok(v.into())
    }
    fn visit_f64<E: de::Error>(self, v: f64) -> Result<Value, E> {
        Number::from_f64(v).map(Value::Number).ok_or_else(|| E::custom("a number is out of range"))
    }
    fn visit_str<E: de::Error>(self, v: &str) -> Result<Value, E> {
        text(v).map(Value::String)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let below = self.below()?;
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(below)? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Value, A::Error> {
        let below = self.below()?;
        let mut object = Map::new();
        while let Some(name) = fields.next_key::<String>()? {
            let name = text::<A::Error>(&name)?;
            let value = fields.next_value_seed(below)?;
            if object.insert(name.clone(), value).is_some() {
                return Err(de::Error::custom(format_args!("the field {name:?} is given twice")));
            }
        }
        Ok(Value::Object(object))
    }
}

/// Deserialises a value as the API describes it: fields come from an object, and an enumeration from a text.
pub struct StrictDeserializer(pub Value);

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

impl IntoDeserializer<'_, Error> for StrictDeserializer {
    type Deserializer = Self;
    fn into_deserializer(self) -> Self {
        self
    }
}

impl<'de> Deserializer<'de> for StrictDeserializer {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0 {
            Value::Array(items) => {
                visitor.visit_seq(SeqDeserializer::new(items.into_iter().map(StrictDeserializer)))
            }
            Value::Object(fields) => {
                let fields = fields.into_iter().map(|(name, value)| (name, StrictDeserializer(value)));
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
        Outer::deserialize(StrictDeserializer(value)).map_err(|error| error.to_string())
    }

    #[test]
    fn a_value_of_the_described_form_is_read() {
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
    fn a_list_is_never_read_as_fields_nor_an_object_as_a_word_however_deep() {
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
