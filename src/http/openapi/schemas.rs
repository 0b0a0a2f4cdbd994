//! Schemas of bodies, responses and parameters, from the types that serde reads and writes.
//!
//! Bounds are defined once, in the CRDs: the schema of a body copies its bounds from there, field by field. Every object is
//! closed.
//!
//! The document uses no more of JSON Schema than the generators of clients read: an enumeration is one `enum`, a constant
//! is an `enum` of one, a quantity is a string, integers are signed, an object has `properties` and no condition on them,
//! and `null` is a second type or a second choice. [`tidy`] converts the schemas of serde and schemars into this form; the
//! server still checks the conditions that it removes.

use schemars::{
    JsonSchema, SchemaGenerator,
    generate::{Contract, SchemaSettings},
};
use serde_json::{Map, Value, json};

use crate::api_types::quantity::FORM;

/// Keywords that are copied from a CRD.
const BOUNDS: [&str; 8] =
    ["minLength", "maxLength", "pattern", "minimum", "maximum", "minItems", "maxItems", "maxProperties"];

/// The schemas that the document refers to.
pub struct Schemas {
    requests: SchemaGenerator,
    responses: SchemaGenerator,
}

fn generator(contract: Contract) -> SchemaGenerator {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
        settings.meta_schema = None;
        settings.contract = contract;
    });
    settings.into_generator()
}

impl Schemas {
    /// No schemas.
    #[must_use]
    pub fn new() -> Self {
        Self { requests: generator(Contract::Deserialize), responses: generator(Contract::Serialize) }
    }

    /// The schema of a body.
    pub fn request<T: JsonSchema>(&mut self) -> Value {
        self.requests.subschema_for::<T>().to_value()
    }

    /// The schema of a response.
    pub fn response<T: JsonSchema>(&mut self) -> Value {
        self.responses.subschema_for::<T>().to_value()
    }

    /// The fields of `T` as parameters of the query, which refer to named types as bodies do.
    pub fn parameters<T: JsonSchema>(&mut self) -> Vec<Value> {
        let mut schema = T::json_schema(&mut self.requests).to_value();
        tidy(&mut schema);
        let required = schema["required"].clone();
        let is_required =
            |name: &str| required.as_array().is_some_and(|all| all.iter().any(|one| one == name));
        let fields = schema["properties"].as_object().cloned().unwrap_or_default();
        fields
            .into_iter()
            .map(|(name, mut schema)| {
                let description = schema.as_object_mut().and_then(|schema| schema.remove("description"));
                not_null(&mut schema);
                let required = is_required(&name);
                json!({
                    "name": name, "in": "query", "required": required, "schema": schema,
                    "description": description.unwrap_or_default(),
                })
            })
            .collect()
    }

    /// All schemas, with the bounds of the CRDs: `bounded` has schemas of CRDs by the names of ours.
    #[must_use]
    pub fn finish(mut self, bounded: &[(&str, Value)]) -> Map<String, Value> {
        let mut all = self.responses.take_definitions(true);
        all.extend(self.requests.take_definitions(true));
        for (name, crd) in bounded {
            bound_named(&mut all, name, crd);
        }
        all.values_mut().for_each(tidy);
        all
    }
}

/// Removes null from the schema of a parameter, which is present or absent.
pub fn not_null(schema: &mut Value) {
    if let Some(types) = schema["type"].as_array() {
        let rest: Vec<Value> = types.iter().filter(|one| **one != "null").cloned().collect();
        schema["type"] = if let [one] = &rest[..] { one.clone() } else { rest.into() };
    }
    if let Some(words) = schema["enum"].as_array_mut() {
        words.retain(|word| !word.is_null());
    }
    let choices = schema["anyOf"].as_array().cloned().unwrap_or_default();
    let rest: Vec<&Value> = choices.iter().filter(|one| one["type"] != "null").collect();
    if let ([Value::Object(only)], Some(schema)) = (&rest[..], schema.as_object_mut()) {
        schema.remove("anyOf");
        schema.extend(only.clone());
    }
    if let Some(schema) = schema.as_object_mut() {
        schema.retain(|name, value| !value.is_null() || name == "const");
    }
}

fn bound_named(all: &mut Map<String, Value>, name: &str, crd: &Value) {
    // Removed while the schemas that it refers to get their bounds.
    let Some(mut schema) = all.remove(name) else { return };
    bound(all, &mut schema, crd);
    all.insert(name.to_owned(), schema);
}

/// Gives `schema`, and the schemas within it, the bounds of `crd`.
fn bound(all: &mut Map<String, Value>, schema: &mut Value, crd: &Value) {
    let Some(ours) = schema.as_object_mut() else { return };
    let named = ours.get("$ref").and_then(Value::as_str).and_then(|path| path.rsplit('/').next());
    if let Some(name) = named.map(str::to_owned) {
        bound_named(all, &name, crd);
    }
    let plain = !ours.contains_key("$ref") && !ours.contains_key("anyOf");
    for keyword in BOUNDS.into_iter().filter(|_| plain) {
        if let Some(value) = crd.get(keyword).filter(|_| !ours.contains_key(keyword)) {
            ours.insert(keyword.to_owned(), whole(value));
        }
    }
    for (name, field) in ours.get_mut("properties").and_then(Value::as_object_mut).into_iter().flatten() {
        if let Some(crd) = crd["properties"].get(camel(name)) {
            bound(all, field, crd);
        }
    }
    for inner in ["items", "additionalProperties"] {
        if let (Some(ours), Some(crd)) = (ours.get_mut(inner), crd.get(inner)) {
            bound(all, ours, crd);
        }
    }
    let choices = ours.get_mut("anyOf").and_then(Value::as_array_mut);
    for choice in choices.into_iter().flatten().filter(|choice| choice.get("$ref").is_some()) {
        if let Some(name) = choice["$ref"].as_str().and_then(|path| path.rsplit('/').next()) {
            bound_named(all, name, crd);
        }
    }
}

/// A bound as a whole number; CRDs have floating point numbers.
fn whole(value: &Value) -> Value {
    let number = value.as_f64().filter(|number| number.fract() == 0.0);
    let whole = number.and_then(|number| format!("{number:.0}").parse::<i64>().ok());
    whole.map_or_else(|| value.clone(), Value::from)
}

fn camel(snake: &str) -> String {
    let mut words = snake.split('_');
    let first = words.next().unwrap_or_default().to_owned();
    words.fold(first, |name, word| {
        let (head, tail) = word.split_at(word.len().min(1));
        name + &head.to_ascii_uppercase() + tail
    })
}

/// Closes objects, and converts the rest into the form that the module describes.
fn tidy(schema: &mut Value) {
    match schema {
        Value::Array(all) => all.iter_mut().for_each(tidy),
        Value::Object(keywords) => {
            if keywords.remove("x-kubernetes-int-or-string").is_some() {
                // The server reads a whole number too. A schema that said so would be a separate type to each generator.
                keywords.insert("type".to_owned(), json!(["string", "null"]));
                keywords.insert("format".to_owned(), "quantity".into());
                keywords.insert("maxLength".to_owned(), 32.into());
                keywords.insert("pattern".to_owned(), FORM.into());
            }
            keywords.retain(|name, value| {
                let is_empty = value.is_null() || *value == json!([]) || *value == json!({});
                !(name.starts_with("x-kubernetes-") || name == "default" && is_empty)
            });
            if keywords.get("format").and_then(Value::as_str).is_some_and(|format| format.starts_with("uint"))
            {
                keywords.insert("format".to_owned(), "int64".into());
            }
            if let Some(word) = keywords.remove("const") {
                keywords.insert("enum".to_owned(), json!([word]));
            }
            enumerate(keywords);
            discriminate(keywords);
            if keywords.get("type").is_some_and(|kind| kind == "object")
                && keywords.contains_key("properties")
            {
                keywords.entry("additionalProperties").or_insert(Value::Bool(false));
            }
            keywords.values_mut().for_each(tidy);
        }
        _ => (),
    }
}

/// Makes the choices of a discriminator exclusive, and each a reference alone.
fn discriminate(keywords: &mut Map<String, Value>) {
    if !keywords.contains_key("discriminator") {
        return;
    }
    if let Some(Value::Array(mut choices)) = keywords.remove("anyOf") {
        for choice in choices.iter_mut().filter_map(Value::as_object_mut) {
            choice.retain(|name, _| name == "$ref");
        }
        keywords.insert("oneOf".to_owned(), choices.into());
    }
}

/// Makes one `enum` of what schemars generates as a choice of described constants. The descriptions become a list.
fn enumerate(keywords: &mut Map<String, Value>) {
    let Some(choices) = keywords.get("oneOf").and_then(Value::as_array) else { return };
    let words: Option<Vec<&str>> = choices.iter().map(|choice| choice["const"].as_str()).collect();
    let Some(words) = words else { return };
    let meaning = |(word, choice): (&&str, &Value)| {
        let meaning = choice["description"].as_str()?;
        Some(format!("- `{word}`: {meaning}"))
    };
    let meanings: Vec<String> = words.iter().zip(choices).filter_map(meaning).collect();
    let enumeration = json!(words);
    let described = keywords.get("description").and_then(Value::as_str).into_iter().map(str::to_owned);
    let description = described.chain(meanings).collect::<Vec<_>>().join("\n");
    keywords.remove("oneOf");
    keywords.insert("type".to_owned(), "string".into());
    keywords.insert("enum".to_owned(), enumeration);
    keywords.insert("description".to_owned(), description.into());
}
