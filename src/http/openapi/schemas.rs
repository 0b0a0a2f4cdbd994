//! Schemas of bodies, answers and parameters, from the types that serde reads and writes.
//!
//! Bounds are not written twice: what a field of a body may hold is decided by the CRDs, so a body takes its bounds over
//! from there, field by field. Every object is closed.

use schemars::{
    JsonSchema, SchemaGenerator,
    generate::{Contract, SchemaSettings},
};
use serde_json::{Map, Value, json};

use crate::api_types::quantity::FORM;

/// Keywords that are taken over from a CRD.
const BOUNDS: [&str; 9] = [
    "description",
    "minLength",
    "maxLength",
    "pattern",
    "minimum",
    "maximum",
    "minItems",
    "maxItems",
    "maxProperties",
];

/// The schemas that the document names.
pub struct Schemas {
    taken: SchemaGenerator,
    given: SchemaGenerator,
}

fn generator(contract: Contract, inline: bool) -> SchemaGenerator {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
        settings.meta_schema = None;
        settings.contract = contract;
        settings.inline_subschemas = inline;
    });
    settings.into_generator()
}

impl Schemas {
    /// None yet.
    #[must_use]
    pub fn new() -> Self {
        Self { taken: generator(Contract::Deserialize, false), given: generator(Contract::Serialize, false) }
    }

    /// The schema of a body.
    pub fn taken<T: JsonSchema>(&mut self) -> Value {
        self.taken.subschema_for::<T>().to_value()
    }

    /// The schema of an answer.
    pub fn given<T: JsonSchema>(&mut self) -> Value {
        self.given.subschema_for::<T>().to_value()
    }

    /// The fields of `T` as parameters after `?`.
    pub fn parameters<T: JsonSchema>(&mut self) -> Vec<Value> {
        let mut schema = generator(Contract::Deserialize, true).into_root_schema_for::<T>().to_value();
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

    /// All that were named, with the bounds of the CRDs: `bounded` has schemas of a CRD by the names of ours.
    #[must_use]
    pub fn finish(mut self, bounded: &[(&str, Value)]) -> Map<String, Value> {
        let mut all = self.given.take_definitions(true);
        all.extend(self.taken.take_definitions(true));
        for (name, crd) in bounded {
            bound_named(&mut all, name, crd);
        }
        all.values_mut().for_each(tidy);
        all
    }
}

/// Parameters are there or not, and never null.
fn not_null(schema: &mut Value) {
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
    // Taken out while those that it refers to are bounded.
    let Some(mut schema) = all.remove(name) else { return };
    bound(all, &mut schema, crd);
    all.insert(name.to_owned(), schema);
}

/// Gives `schema` the bounds of `crd`, and so on with what is within it.
fn bound(all: &mut Map<String, Value>, schema: &mut Value, crd: &Value) {
    let Some(ours) = schema.as_object_mut() else { return };
    let named = ours.get("$ref").and_then(Value::as_str).and_then(|path| path.rsplit('/').next());
    if let Some(name) = named.map(str::to_owned) {
        bound_named(all, &name, crd);
    }
    // What is named may be in several places, each with a description of its own.
    let plain = !ours.contains_key("$ref") && !ours.contains_key("anyOf");
    for keyword in BOUNDS.into_iter().filter(|keyword| plain || *keyword == "description") {
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

/// CRDs have their bounds as floating point numbers.
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

/// Closes objects, and says in plain JSON Schema what Kubernetes has words of its own for.
fn tidy(schema: &mut Value) {
    match schema {
        Value::Array(all) => all.iter_mut().for_each(tidy),
        Value::Object(keywords) => {
            if keywords.remove("x-kubernetes-int-or-string").is_some() {
                let text = json!({"type": "string", "maxLength": 32, "pattern": FORM});
                keywords.insert(
                    "anyOf".to_owned(),
                    json!([text, {"type": "integer", "minimum": 1}, {"type": "null"}]),
                );
                keywords.remove("maxLength");
            }
            keywords.retain(|name, value| {
                !(name.starts_with("x-kubernetes-") || name == "default" && value.is_null())
            });
            if keywords
                .get("format")
                .is_some_and(|format| format.as_str().is_some_and(|f| f.starts_with("uint")))
            {
                keywords.remove("format");
            }
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
