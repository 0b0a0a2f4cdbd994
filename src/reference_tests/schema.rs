//! The fields of a JSON schema, each with its path, form, description and rules.

use serde_json::Value;

use super::markdown::Page;
use crate::http::openapi::{form, not_null};

/// Each field below `schema`: those of objects within it follow their own, by their whole paths.
pub fn fields(page: &mut Page, schema: &Value, path: &str) {
    let required = schema["required"].as_array();
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let mut field = field.clone();
        not_null(&mut field);
        let path = format!("{path}{name}");
        let is_required = required.is_some_and(|all| all.iter().any(|one| one == name));
        let required = if is_required { ", required" } else { "" };
        let head = format!("`{path}` ({}{required})", form(&field));
        page.described(0, &head, field["description"].as_str().unwrap_or_default());
        within(page, &field, &path);
    }
}

fn within(page: &mut Page, schema: &Value, path: &str) {
    if let (Some(pattern), None) = (schema["pattern"].as_str(), schema["format"].as_str()) {
        page.item(1, &format!("Pattern: `{pattern}`"));
    }
    for rule in rules(schema) {
        page.described(1, "Rule", &rule);
    }
    fields(page, schema, &format!("{path}."));
    for (inner, step) in [("items", "[]"), ("additionalProperties", ".<name>")] {
        if schema[inner].is_object() {
            within(page, &schema[inner], &format!("{path}{step}"));
        }
    }
}

/// What the API server says where a rule is broken; what depends on the object is `…`.
pub fn rules(schema: &Value) -> Vec<String> {
    let rules = schema["x-kubernetes-validations"].as_array().into_iter().flatten();
    rules
        .map(|rule| match (rule["message"].as_str(), rule["messageExpression"].as_str()) {
            (Some(message), _) => message.to_owned(),
            (None, Some(expression)) => sentence(expression),
            (None, None) => panic!("a rule without a message: {rule}"),
        })
        .collect()
}

/// The literals of a CEL expression that makes a text, with `…` for what is between them.
fn sentence(expression: &str) -> String {
    let (mut sentence, mut code) = (String::new(), String::new());
    let mut rest = expression;
    while let Some(begin) = rest.find(['\'', '"']) {
        let quote = &rest[begin..=begin];
        let (literal, after) = rest[begin + 1..].split_once(quote).unwrap();
        code += &rest[..begin];
        if code.contains(char::is_alphanumeric) {
            sentence.push('…');
        }
        code.clear();
        if after.starts_with(".format(") {
            return literal.replace("%s", "…").replace("%d", "…");
        }
        sentence += literal;
        rest = after;
    }
    if rest.contains(char::is_alphanumeric) { sentence + "…" } else { sentence }
}

#[test]
fn an_expression_is_its_sentence() {
    for (expression, expected) in [
        ("'`' + string(self) + '` is not allowed'", "`…` is not allowed"),
        ("\"can't go from \" + oldSelf + \" to \" + self", "can't go from … to …"),
        ("'%d bytes'.format([self.map(x, 'a')])", "… bytes"),
    ] {
        assert_eq!(sentence(expression), expected);
    }
}
