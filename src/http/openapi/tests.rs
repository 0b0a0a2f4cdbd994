//! What holds of the document and of its page.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{page, to_text};
use crate::http::document;

/// Every schema in the document, with its place.
fn schemas(at: &str, value: &Value, out: &mut Vec<(String, Value)>) {
    match value {
        Value::Array(all) => all.iter().for_each(|one| schemas(at, one, out)),
        Value::Object(fields) => {
            if fields.contains_key("type") || fields.contains_key("$ref") {
                out.push((at.to_owned(), value.clone()));
            }
            fields.iter().for_each(|(name, value)| schemas(&format!("{at}/{name}"), value, out));
        }
        _ => (),
    }
}

fn operations(document: &Value) -> Vec<(&str, &str, &Value)> {
    let paths = document["paths"].as_object().unwrap();
    paths
        .iter()
        .flat_map(|(path, methods)| {
            methods.as_object().unwrap().iter().map(move |(method, it)| (path.as_str(), method.as_str(), it))
        })
        .collect()
}

#[test]
fn the_checked_in_document_is_this() {
    let path = format!("{}/docs/openapi.json", env!("CARGO_MANIFEST_DIR"));
    let checked_in = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        checked_in == to_text(&document()).unwrap(),
        "docs/openapi.json is not what the routes say: run `make openapi`"
    );
}

#[test]
fn the_document_holds_together() {
    let document = document();
    let mut all = Vec::new();
    schemas("", &document, &mut all);
    assert!(all.len() > 300, "{}", all.len());
    for (at, schema) in &all {
        if let Some(reference) = schema["$ref"].as_str() {
            assert!(document.pointer(&reference[1..]).is_some(), "{at}: {reference}");
        }
    }
    let ids: Vec<&str> = operations(&document)
        .iter()
        .map(|(_, _, operation)| operation["operationId"].as_str().unwrap())
        .collect();
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len(), "{ids:?}");
    for (path, method, operation) in operations(&document) {
        let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
        let named: BTreeSet<&str> = parameters
            .iter()
            .filter(|parameter| parameter["in"] == "path")
            .map(|parameter| parameter["name"].as_str().unwrap())
            .collect();
        let wanted: BTreeSet<&str> =
            path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}')).collect();
        assert_eq!(named, wanted, "{method} {path}");
        let responses = operation["responses"].as_object().unwrap();
        assert!(responses.keys().any(|status| status.starts_with('2')), "{method} {path}");
        assert!(responses.contains_key("500"), "{method} {path}");
        for link in responses.values().filter_map(|response| response["links"].as_object()).flatten() {
            assert!(ids.contains(&link.1["operationId"].as_str().unwrap()), "{method} {path}: {link:?}");
        }
        let open = operation["security"].as_array().unwrap().is_empty();
        assert_eq!(open, !responses.contains_key("401"), "{method} {path}");
    }
}

#[test]
fn every_object_is_closed_and_whatever_a_body_holds_is_bounded() {
    let document = document();
    let named = document["components"]["schemas"].as_object().unwrap();
    let mut all = Vec::new();
    schemas("", &document["components"]["schemas"], &mut all);
    for (at, schema) in &all {
        if schema["type"] == "object" && schema.get("properties").is_some() {
            assert_eq!(schema["additionalProperties"], false, "{at}");
        }
    }
    let bodies =
        ["NewJob", "Variable", "Entry", "VariablesFrom", "Mount", "Resources", "NewKey", "NewTenant"];
    for body in bodies.into_iter().chain(["TenantChanges", "OwnQuotas"]) {
        let mut fields = Vec::new();
        for (name, field) in named[body]["properties"].as_object().unwrap() {
            assert!(field.get("description").is_some(), "{body}.{name} is not described");
            schemas(&format!("{body}.{name}"), field, &mut fields);
        }
        for (at, schema) in fields {
            let is = |kind: &str| schema["type"] == kind || schema["type"][0] == kind;
            let has = |keyword: &str| schema.get(keyword).is_some();
            let bounded =
                !is("string") || has("maxLength") || has("const") || schema["format"] == "date-time";
            assert!(bounded, "{at} may be of any length");
            assert!(!is("integer") || has("minimum"), "{at} may be any number");
            assert!(!is("array") || has("maxItems"), "{at} may have any number of items");
        }
    }
    let image = &named["NewJob"]["properties"]["image"];
    assert_eq!((&image["minLength"], &image["maxLength"]), (&1.into(), &1024.into()));
}

#[test]
fn the_page_has_every_route_and_loads_nothing() {
    let document = document();
    let page = page::html(&document);
    for (path, method, operation) in operations(&document) {
        assert!(page.contains(&format!("<h2><code>{} {path}</code></h2>", method.to_uppercase())), "{path}");
        let id = operation["operationId"].as_str().unwrap();
        assert!(
            page.contains(&format!("<section id=\"{id}\">")) && page.contains(&format!("href=\"#{id}\""))
        );
    }
    for name in document["components"]["schemas"].as_object().unwrap().keys() {
        assert!(page.contains(&format!("id=\"schema-{name}\"")), "{name}");
    }
    for foreign in
        ["<script", "<link", "<img", "<iframe", "@import", "url(", "src=", "://", "href=\"//", " style="]
    {
        assert!(!page.contains(foreign), "{foreign}");
    }
    let targets = page.split("href=\"").skip(1).map(|rest| rest.split('"').next().unwrap());
    for target in targets {
        match target.strip_prefix('#') {
            Some(id) => assert!(page.contains(&format!("id=\"{id}\"")), "{target}"),
            None => assert!(document["paths"].get(target).is_some(), "{target}"),
        }
    }
}
