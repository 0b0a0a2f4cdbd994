//! The document as a page for people: HTML that the server writes, without a script and with nothing to load.
//!
//! Whatever the document says is escaped. The style is the only thing that the page's policy lets the browser use, by
//! its hash.

use std::fmt::Write as _;

use k8s_openapi::ByteString;
use serde_json::Value;
use sha2::{Digest, Sha256};

const STYLE: &str = include_str!("page.css");
/// Methods, in the order in which they are shown.
const METHODS: [&str; 5] = ["get", "post", "put", "patch", "delete"];

/// The `Content-Security-Policy`.
pub fn policy() -> String {
    // As Kubernetes writes bytes: base64, in quotes.
    let hash = ByteString(Sha256::digest(STYLE.as_bytes()).to_vec());
    let hash = serde_json::to_string(&hash).unwrap_or_default();
    format!(
        "default-src 'none'; style-src 'sha256-{}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        hash.trim_matches('"')
    )
}

/// The page.
pub fn html(document: &Value) -> String {
    let mut page = Page(String::new());
    let title = format!("{} {}", text(&document["info"]["title"]), text(&document["info"]["version"]));
    page.0 += "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n";
    page.0 += "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n";
    page.element("title", &format!("{title}: REST API"));
    let _ = writeln!(page.0, "<style>{STYLE}</style>\n</head>\n<body>");
    page.0 += "<header>\n";
    page.element("h1", &format!("{title}: REST API"));
    page.prose(&document["info"]["description"]);
    page.0 += "<p><a href=\"/openapi.json\">OpenAPI document</a> · <a href=\"/problems\">problems</a> · <a href=\"/reasons\">reasons</a></p>\n</header>\n";
    page.contents(document);
    page.0 += "<main>\n";
    for (path, method, operation) in operations(document) {
        page.operation(path, method, operation);
    }
    page.0 += "<h2 id=\"schemas\">Schemas</h2>\n";
    for (name, schema) in document["components"]["schemas"].as_object().into_iter().flatten() {
        page.schema(name, schema);
    }
    page.0 += "</main>\n</body>\n</html>\n";
    page.0
}

/// All operations: by group, then by path and method.
pub fn operations(document: &Value) -> Vec<(&str, &str, &Value)> {
    let paths = document["paths"].as_object().into_iter().flatten();
    let mut all: Vec<_> = paths
        .flat_map(|(path, methods)| {
            METHODS.into_iter().filter_map(move |method| Some((path.as_str(), method, methods.get(method)?)))
        })
        .collect();
    all.sort_by_key(|(_, _, operation)| text(&operation["tags"][0]));
    all
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn escaped(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut out, c| {
        match c {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '"' => out += "&quot;",
            '\'' => out += "&#39;",
            other => out.push(other),
        }
        out
    })
}

/// Escaped, with the text between backticks as code.
fn inline(text: &str) -> String {
    let part = |(n, part): (usize, &str)| match n % 2 {
        0 => escaped(part),
        _ => format!("<code>{}</code>", escaped(part)),
    };
    text.split('`').enumerate().map(part).collect()
}

struct Page(String);

impl Page {
    fn element(&mut self, name: &str, text: &str) {
        // Writing to a string has no errors, here and below.
        let _ = writeln!(self.0, "<{name}>{}</{name}>", inline(text));
    }

    fn prose(&mut self, markdown: &Value) {
        for line in text(markdown).lines().filter(|line| !line.is_empty()) {
            self.element("p", line.trim_start_matches("- "));
        }
    }

    fn contents(&mut self, document: &Value) {
        self.0 += "<nav aria-label=\"Contents\">\n";
        let mut group = "";
        for (path, method, operation) in operations(document) {
            let tag = text(&operation["tags"][0]);
            if tag != group {
                self.0 += if group.is_empty() { "" } else { "</ul>\n" };
                self.element("h2", tag);
                self.0 += "<ul>\n";
                group = tag;
            }
            let id = escaped(text(&operation["operationId"]));
            let _ = writeln!(
                self.0,
                "<li><a href=\"#{id}\"><code>{} {}</code></a></li>",
                method.to_uppercase(),
                escaped(path)
            );
        }
        self.0 += "</ul>\n<p><a href=\"#schemas\">Schemas</a></p>\n</nav>\n";
    }

    fn operation(&mut self, path: &str, method: &str, operation: &Value) {
        let id = escaped(text(&operation["operationId"]));
        let _ = writeln!(self.0, "<section id=\"{id}\">");
        let _ = writeln!(self.0, "<h2><code>{} {}</code></h2>", method.to_uppercase(), escaped(path));
        self.prose(&operation["summary"]);
        self.prose(&operation["description"]);
        self.element("p", &format!("Needs {}.", needs(&operation["security"])));
        let parameters: Vec<&Value> = operation["parameters"].as_array().into_iter().flatten().collect();
        if !parameters.is_empty() {
            self.head("Parameters", &["Name", "In", "Form", "Meaning"]);
            for parameter in parameters {
                let name = format!("`{}`", text(&parameter["name"]));
                let form = form(&parameter["schema"]);
                self.row(&[&name, text(&parameter["in"]), &form, text(&parameter["description"])]);
            }
            self.0 += "</tbody>\n</table>\n";
        }
        let body = &operation["requestBody"]["content"]["application/json"]["schema"];
        if !body.is_null() {
            let _ = writeln!(self.0, "<p>Body: {}</p>", link(&form(body)));
        }
        self.head("Answers", &["Status", "Body", "Meaning"]);
        for (status, response) in operation["responses"].as_object().into_iter().flatten() {
            let bodies = response["content"].as_object().into_iter().flatten();
            let bodies: Vec<String> = bodies
                .map(|(media, content)| match media.as_str() {
                    "application/problem+json" => "Problem".to_owned(),
                    "application/json" => form(&content["schema"]),
                    other => other.to_owned(),
                })
                .collect();
            let _ = writeln!(
                self.0,
                "<tr><th scope=\"row\">{}</th><td>{}</td><td>{}</td></tr>",
                escaped(status),
                link(&bodies.join(", ")),
                text(&response["description"]).lines().map(inline).collect::<Vec<_>>().join("<br>"),
            );
        }
        self.0 += "</tbody>\n</table>\n</section>\n";
    }

    fn head(&mut self, caption: &str, columns: &[&str]) {
        let _ = writeln!(self.0, "<table>\n<caption>{caption}</caption>\n<thead><tr>");
        for column in columns {
            let _ = writeln!(self.0, "<th scope=\"col\">{column}</th>");
        }
        self.0 += "</tr></thead>\n<tbody>\n";
    }

    fn row(&mut self, cells: &[&str]) {
        self.0 += "<tr>";
        for (n, cell) in cells.iter().enumerate() {
            let (open, close) = if n == 0 { ("<th scope=\"row\">", "</th>") } else { ("<td>", "</td>") };
            let _ = write!(self.0, "{open}{}{close}", link(cell));
        }
        self.0 += "</tr>\n";
    }

    fn schema(&mut self, name: &str, schema: &Value) {
        let _ = writeln!(self.0, "<section id=\"schema-{}\">", escaped(name));
        self.element("h3", name);
        self.prose(&schema["description"]);
        match schema["properties"].as_object() {
            Some(fields) => {
                self.head("Fields", &["Name", "Form", "Meaning"]);
                let required = schema["required"].as_array();
                for (field, schema) in fields {
                    let is_required = required.is_some_and(|all| all.iter().any(|one| one == field));
                    let shown = format!("`{field}`{}", if is_required { " (required)" } else { "" });
                    self.row(&[&shown, &form(schema), text(&schema["description"])]);
                }
                self.0 += "</tbody>\n</table>\n";
            }
            None => self.element("p", &form(schema)),
        }
        self.0 += "</section>\n";
    }
}

/// Escaped, with the names of schemas as links to them.
fn link(text: &str) -> String {
    let word = |word: &str| {
        let name = word.trim_end_matches(',');
        match name.strip_prefix('@') {
            Some(name) => {
                format!("<a href=\"#schema-{0}\">{0}</a>{1}", escaped(name), &word[name.len() + 1..])
            }
            None => word.to_owned(),
        }
    };
    // Escaping leaves blanks and @ as they are.
    inline(text).split(' ').map(word).collect::<Vec<_>>().join(" ")
}

/// The credentials that an operation needs, in words.
pub fn needs(security: &Value) -> String {
    let ways = security.as_array().into_iter().flatten().filter_map(Value::as_object).flatten();
    let ways: Vec<_> = ways.collect();
    let is_of_tenants = ways.iter().any(|(way, _)| *way == "apiKey");
    let words = ways.into_iter().filter_map(|(way, rights)| {
        let rights = rights.as_array().into_iter().flatten().filter_map(Value::as_str);
        let rights = rights.map(|right| format!("`{right}`")).collect::<Vec<_>>().join(" and ");
        match (way.as_str(), rights.is_empty()) {
            ("apiKey", false) => Some(format!("an API key with the scope {rights}")),
            ("apiKey", true) => Some("an API key".to_owned()),
            ("kubernetesToken", false) => Some(format!("a Kubernetes token of a user who may {rights}")),
            ("kubernetesToken", true) if is_of_tenants => Some("a Kubernetes token".to_owned()),
            ("kubernetesToken", true) => Some("an administrator's Kubernetes token".to_owned()),
            _ => None,
        }
    });
    let ways: Vec<String> = words.collect();
    if ways.is_empty() { "nothing".to_owned() } else { ways.join(", or ") }
}

/// A schema in a few words; `@Name` is another one.
pub fn form(schema: &Value) -> String {
    let mut form = kind(schema);
    let format = text(&schema["format"]);
    if !format.is_empty() && !["int", "uint"].iter().any(|whole| format.starts_with(whole)) {
        let _ = write!(form, ", {format}");
    }
    for (least, most, unit) in [
        ("minimum", "maximum", ""),
        ("minLength", "maxLength", " character"),
        ("minItems", "maxItems", " item"),
        ("minProperties", "maxProperties", " name"),
    ] {
        // CRDs have bounds as floating point numbers.
        let bound = |name: &str| {
            let whole = schema[name].as_i64().map(|number| number.to_string());
            whole.or_else(|| Some(schema[name].as_f64()?.to_string()))
        };
        let said = match (bound(least), bound(most)) {
            (Some(least), Some(most)) => format!("{least} to {most}"),
            (Some(least), None) => format!("at least {least}"),
            (None, Some(most)) => format!("at most {most}"),
            (None, None) => continue,
        };
        let plural = if unit.is_empty() || said.ends_with(" 1") { "" } else { "s" };
        let _ = write!(form, ", {said}{unit}{plural}");
    }
    // A default of an object is made of those of its fields.
    match schema.get("default") {
        None | Some(Value::Null | Value::Object(_) | Value::Array(_)) => (),
        Some(Value::String(word)) if !word.is_empty() => drop(write!(form, ", by default `{word}`")),
        Some(other) => drop(write!(form, ", by default {other}")),
    }
    form
}

/// The type of a schema, without its bounds.
fn kind(schema: &Value) -> String {
    if let Some(name) = text(&schema["$ref"]).rsplit('/').next().filter(|name| !name.is_empty()) {
        return format!("@{name}");
    }
    for several in ["anyOf", "oneOf"] {
        let choices: Vec<&Value> = schema[several].as_array().into_iter().flatten().collect();
        let choices = choices.into_iter().filter(|one| one.get("required").is_none());
        let choices: Vec<String> = choices.map(form).collect();
        if !choices.is_empty() {
            return choices.join(" or ");
        }
    }
    let words: Vec<&str> =
        schema["enum"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if !words.is_empty() {
        return words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ");
    }
    if let Some(word) = schema["const"].as_str() {
        return format!("`{word}`");
    }
    let types: Vec<&str> = match &schema["type"] {
        Value::String(one) => vec![one],
        Value::Array(all) => all.iter().filter_map(Value::as_str).collect(),
        _ if schema["x-kubernetes-int-or-string"] == true => vec!["integer", "string"],
        _ => vec!["anything"],
    };
    let types = types.join(" or ");
    let inner =
        ["items", "additionalProperties"].map(|inner| &schema[inner]).into_iter().find(|one| one.is_object());
    inner.map_or_else(|| types.clone(), |inner| format!("{types} of {}", form(inner)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn whatever_the_document_says_is_text_on_the_page() {
        let evil = "<script>alert('x')</script>";
        let page = html(&json!({
            "info": {"title": evil, "version": evil, "description": evil},
            "paths": {evil: {"get": {
                "operationId": evil, "summary": evil, "tags": [evil],
                "parameters": [{"name": evil, "in": evil, "description": evil, "schema": {"enum": [evil]}}],
                "responses": {evil: {"description": evil, "content": {"application/json": {"schema": {"type": evil}}}}},
            }}},
            "components": {"schemas": {evil: {"description": evil, "properties": {evil: {"const": evil}}}}},
        }));
        assert!(!page.contains("<script") && page.matches("&lt;script&gt;").count() > 12, "{page}");
    }

    #[test]
    fn a_schema_is_said_in_a_few_words() {
        for (schema, words) in [
            (
                json!({"type": "integer", "minimum": 1, "maximum": 500, "default": 50}),
                "integer, 1 to 500, by default 50",
            ),
            (json!({"anyOf": [{"$ref": "#/components/schemas/A"}, {"type": "null"}]}), "@A or null"),
            (
                json!({"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 3}),
                "array of `a`, `b`, at most 3 items",
            ),
            (json!({"type": ["string", "null"], "format": "date-time"}), "string or null, date-time"),
            (json!({"$ref": "#/components/schemas/A", "default": "b"}), "@A, by default `b`"),
            (
                json!({"type": "object", "additionalProperties": {"type": "number", "maximum": 9.0}}),
                "object of number, at most 9",
            ),
            (
                json!({"type": "string", "minLength": 1, "default": ""}),
                "string, at least 1 character, by default \"\"",
            ),
        ] {
            assert_eq!(form(&schema), words);
        }
        assert_eq!(link("@A, or @B"), "<a href=\"#schema-A\">A</a>, or <a href=\"#schema-B\">B</a>");
    }

    #[test]
    fn credentials_are_said_with_their_scopes_and_rights() {
        for (security, words) in [
            (json!([]), "nothing"),
            (
                json!([{"apiKey": []}, {"apiKeyHeader": []}, {"kubernetesToken": []}]),
                "an API key, or a Kubernetes token",
            ),
            (
                json!([{"apiKey": ["jobs:read"]}, {"kubernetesToken": ["get jobs", "get pods/log"]}]),
                "an API key with the scope `jobs:read`, or a Kubernetes token of a user who may `get jobs` and `get pods/log`",
            ),
            (json!([{"kubernetesToken": []}]), "an administrator's Kubernetes token"),
        ] {
            assert_eq!(needs(&security), words);
        }
    }

    #[test]
    fn the_policy_has_the_hash_of_the_style_as_the_browser_makes_it() {
        let policy = policy();
        let hash = policy.split("'sha256-").nth(1).unwrap().split('\'').next().unwrap();
        assert_eq!((hash.len(), &hash[43..]), (44, "="), "{policy}");
        assert!(policy.starts_with("default-src 'none';") && !policy.contains("unsafe"), "{policy}");
    }
}
