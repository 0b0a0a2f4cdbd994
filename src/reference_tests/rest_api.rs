//! The page of the REST API, from the document that the server itself answers with.
//!
//! What many routes have is said once: parameters, codes and headers.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::markdown::Page;
use crate::http::{
    self,
    openapi::{form, needs, operations},
};

/// A parameter of more routes than these is described once, unless it is a part of the path.
const MANY: usize = 5;

pub fn page() -> String {
    let document = http::document();
    let all = operations(&document);
    let common = Common::of(&all);
    let mut page = Page::new("Routes of the REST API");
    page.paragraph(
        "[The REST API](../rest-api.md) says how its clients authenticate, and how lists, logs and events work; \
         [openapi.json](../openapi.json) is this page for programs. [Problems](../problems.md) describes each code.",
    );
    common.write(&mut page, &document);
    for tag in document["tags"].as_array().into_iter().flatten() {
        page.heading(2, &format!("Routes: {}", text(&tag["name"])));
        page.description(text(&tag["description"]));
        for (path, method, operation) in
            all.iter().filter(|(_, _, operation)| operation["tags"][0] == tag["name"])
        {
            page.heading(3, &format!("`{} {path}`", method.to_uppercase()));
            common.operation(&mut page, operation);
        }
    }
    page.heading(2, "Schemas");
    for (name, schema) in document["components"]["schemas"].as_object().into_iter().flatten() {
        page.heading(3, name);
        described_schema(&mut page, name, schema);
    }
    page.finish()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn code(text: &str) -> String {
    format!("`{text}`")
}

/// The form of a schema, with links to the sections of others.
fn linked(schema: &Value) -> String {
    let word = |word: &str| match word.strip_prefix('@') {
        Some(rest) => {
            let name = rest.trim_end_matches(',');
            format!("[{name}](#{}){}", name.to_lowercase(), &rest[name.len()..])
        }
        None => word.to_owned(),
    };
    form(schema).split(' ').map(word).collect::<Vec<_>>().join(" ")
}

/// The codes of problems that an operation returns, by status.
fn codes(operation: &Value) -> BTreeMap<&str, BTreeSet<&str>> {
    let responses = operation["responses"].as_object().into_iter().flatten();
    responses
        .filter_map(|(status, response)| {
            let codes = response["x-codes"].as_array()?;
            Some((status.as_str(), codes.iter().map(text).collect()))
        })
        .collect()
}

/// What many routes have.
struct Common<'a> {
    /// Codes of all routes.
    always: BTreeSet<&'a str>,
    /// Codes of all routes with credentials.
    with_credentials: BTreeSet<&'a str>,
    parameters: Vec<&'a Value>,
}

impl<'a> Common<'a> {
    fn of(all: &[(&'a str, &'a str, &'a Value)]) -> Self {
        let shared = |is_one: &dyn Fn(&Value) -> bool| {
            let each = all.iter().filter(|(_, _, operation)| is_one(operation));
            let sets = each.map(|(_, _, operation)| codes(operation).into_values().flatten().collect());
            sets.reduce(|all: BTreeSet<&str>, one: BTreeSet<&str>| &all & &one).unwrap_or_default()
        };
        let always = shared(&|_| true);
        let with_credentials = &shared(&takes_credentials) - &always;
        let mut parameters: Vec<(&Value, usize)> = Vec::new();
        for parameter in all.iter().flat_map(|(_, _, one)| one["parameters"].as_array().into_iter().flatten())
        {
            match parameters.iter_mut().find(|(known, _)| *known == parameter) {
                Some((_, count)) => *count += 1,
                None => parameters.push((parameter, 1)),
            }
        }
        let many = parameters.into_iter().filter(|(one, count)| *count > MANY && one["in"] != "path");
        Self { always, with_credentials, parameters: many.map(|(parameter, _)| parameter).collect() }
    }

    fn write(&self, page: &mut Page, document: &Value) {
        let list = |codes: &BTreeSet<&str>| codes.iter().map(|one| code(one)).collect::<Vec<_>>().join(", ");
        page.heading(2, "What many routes have");
        page.item(0, &format!("Codes of every route: {}", list(&self.always)));
        page.item(0, &format!("Codes of every route with credentials: {}", list(&self.with_credentials)));
        for parameter in &self.parameters {
            described_parameter(page, parameter);
        }
        for (name, header) in document["components"]["headers"].as_object().into_iter().flatten() {
            page.described(0, &format!("{} (header of responses)", code(name)), text(&header["description"]));
        }
    }

    fn operation(&self, page: &mut Page, operation: &Value) {
        page.description(text(&operation["description"]));
        page.item(0, &format!("Needs {}", needs(&operation["security"])));
        let parameters = operation["parameters"].as_array().into_iter().flatten();
        let (common, own): (Vec<&Value>, Vec<&Value>) =
            parameters.partition(|one| self.parameters.contains(one));
        if !common.is_empty() {
            let names: Vec<String> = common.iter().map(|one| code(text(&one["name"]))).collect();
            page.item(0, &format!("Takes {}", names.join(", ")));
        }
        for parameter in own {
            described_parameter(page, parameter);
        }
        let body = &operation["requestBody"]["content"]["application/json"]["schema"];
        if !body.is_null() {
            page.item(0, &format!("Body: {}", linked(body)));
        }
        for (status, response) in operation["responses"].as_object().into_iter().flatten() {
            if response["x-codes"].is_null() {
                success(page, status, response);
            }
        }
        for (status, codes) in codes(operation) {
            let own = codes
                .iter()
                .filter(|one| !self.always.contains(*one) && !self.with_credentials.contains(*one));
            let own: Vec<String> = own.map(|one| code(one)).collect();
            if !own.is_empty() {
                page.item(0, &format!("{status}: {}", own.join(", ")));
            }
        }
    }
}

fn takes_credentials(operation: &Value) -> bool {
    operation["security"].as_array().is_some_and(|ways| !ways.is_empty())
}

fn success(page: &mut Page, status: &str, response: &Value) {
    let contents = response["content"].as_object().into_iter().flatten();
    let bodies: Vec<String> = contents
        .map(|(media, content)| match media.as_str() {
            "application/json" => linked(&content["schema"]),
            other => code(other),
        })
        .collect();
    let headers = response["headers"].as_object().into_iter().flatten();
    let headers: Vec<String> =
        headers.map(|(name, _)| name).filter(|name| *name != "X-Request-ID").map(|name| code(name)).collect();
    let with = if headers.is_empty() { String::new() } else { format!(", with {}", headers.join(", ")) };
    let body = if bodies.is_empty() { String::new() } else { format!(" {}", bodies.join(", ")) };
    page.described(0, &format!("{status}{body}{with}"), text(&response["description"]));
}

fn described_parameter(page: &mut Page, parameter: &Value) {
    let required = if parameter["required"] == true { ", required" } else { "" };
    let head = format!(
        "{} ({}: {}{required})",
        code(text(&parameter["name"])),
        text(&parameter["in"]),
        linked(&parameter["schema"])
    );
    page.described(0, &head, text(&parameter["description"]));
}

fn described_schema(page: &mut Page, name: &str, schema: &Value) {
    if name == "ProblemCode" {
        page.paragraph("A text: one of the codes of [problems](../problems.md).");
        return;
    }
    let description = text(&schema["description"]);
    page.description(description);
    match schema["properties"].as_object() {
        Some(fields) => {
            let required = schema["required"].as_array();
            for (field, schema) in fields {
                let is_required = required.is_some_and(|all| all.iter().any(|one| one == field));
                let required = if is_required { ", required" } else { "" };
                let head = format!("{} ({}{required})", code(field), linked(schema));
                page.described(0, &head, text(&schema["description"]));
            }
        }
        // The values of an enumeration are items of its description, where they have one.
        None if description.contains("\n- ") => (),
        None => page.paragraph(&format!("Form: {}.", linked(schema))),
    }
}

#[test]
fn a_form_leads_to_the_schemas_in_it() {
    let schema = serde_json::json!({"anyOf": [{"$ref": "#/components/schemas/A"}, {"type": "null"}]});
    assert_eq!(linked(&schema), "[A](#a) or null");
}
