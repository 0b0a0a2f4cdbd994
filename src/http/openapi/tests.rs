//! Rules for the document and its page.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{page, to_text};
use crate::http::document;

/// Every schema in the document, with its path.
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
    // Step 1: each reference leads to a schema.
    for (at, schema) in &all {
        if let Some(reference) = schema["$ref"].as_str() {
            assert!(document.pointer(&reference[1..]).is_some(), "{at}: {reference}");
        }
    }
    // Step 2: no two operations have one id.
    let ids: Vec<&str> = operations(&document)
        .iter()
        .map(|(_, _, operation)| operation["operationId"].as_str().unwrap())
        .collect();
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len(), "{ids:?}");
    // Step 3: each operation has the parameters of its path, its responses, and links to operations.
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
fn every_object_is_closed_and_every_field_of_a_body_is_bounded() {
    let document = document();
    let named = document["components"]["schemas"].as_object().unwrap();
    let mut all = Vec::new();
    schemas("", &document["components"]["schemas"], &mut all);
    // Step 1: every object is closed.
    for (at, schema) in &all {
        if schema["type"] == "object" && schema.get("properties").is_some() {
            assert_eq!(schema["additionalProperties"], false, "{at}");
        }
    }
    // Step 2: every field of a body is described and bounded.
    let bodies = [
        "JobCreate",
        "Variable",
        "Entry",
        "VariablesFrom",
        "Mount",
        "Resources",
        "KeyCreate",
        "TenantCreate",
    ];
    for body in bodies.into_iter().chain(["TenantChanges", "OwnQuotas"]) {
        let mut fields = Vec::new();
        for (name, field) in named[body]["properties"].as_object().unwrap() {
            assert!(field.get("description").is_some(), "{body}.{name} is not described");
            schemas(&format!("{body}.{name}"), field, &mut fields);
        }
        for (at, schema) in fields {
            let is = |kind: &str| schema["type"] == kind || schema["type"][0] == kind;
            let has = |keyword: &str| schema.get(keyword).is_some();
            let bounded = !is("string") || has("maxLength") || has("enum") || schema["format"] == "date-time";
            assert!(bounded, "{at} may be of any length");
            assert!(!is("integer") || has("minimum"), "{at} may be any number");
            assert!(!is("array") || has("maxItems"), "{at} may have any number of items");
        }
    }
    // Step 3: the bounds are those of the CRD.
    let image = &named["JobCreate"]["properties"]["image"];
    assert_eq!((&image["minLength"], &image["maxLength"]), (&1.into(), &1024.into()));
}

#[test]
fn the_document_keeps_to_the_schemas_that_generators_of_clients_read() {
    let document = document();
    let named = document["components"]["schemas"].as_object().unwrap();
    let mut all = Vec::new();
    objects("", &document, &mut all);
    let schemas = all.iter().filter(|(at, _)| at.contains("schema"));
    let mut enumerations = BTreeSet::new();
    // Step 1: the keywords of each schema.
    for (at, schema) in schemas {
        for keyword in ["const", "not", "allOf", "if", "x-kubernetes-int-or-string"] {
            assert!(schema.get(keyword).is_none() || at.ends_with("/properties"), "{at}: {keyword}");
        }
        let choices = |keyword: &str| schema[keyword].as_array();
        let is_object = schema["properties"].is_object();
        assert!(!is_object || choices("anyOf").or(choices("oneOf")).is_none(), "{at}: a condition on fields");
        if let Some(choices) = choices("anyOf") {
            let of = |one: &Value| one["$ref"].is_string() || *one == json!({"type": "null"});
            assert!(choices.len() == 2 && choices.iter().all(of), "{at}: {choices:?}");
        }
        if let Some(choices) = choices("oneOf") {
            let mapped = schema["discriminator"]["mapping"].as_object().unwrap();
            let refers = |one: &Value| mapped.values().any(|name| *one == json!({"$ref": name}));
            assert!(choices.len() == mapped.len() && choices.iter().all(refers), "{at}: {choices:?}");
        }
        if let Some(types) = schema["type"].as_array() {
            assert!(types.len() == 2 && types[1] == "null" && types[0] != "null", "{at}: {types:?}");
        }
        assert!(schema["type"] != "null" || at.ends_with("/anyOf"), "{at}");
        assert!(!schema["format"].as_str().is_some_and(|format| format.starts_with("uint")), "{at}");
        if let Some(words) = schema["enum"].as_array() {
            assert!(words.iter().all(Value::is_string), "{at}: {words:?}");
            // Two types of the same words are two types that do not fit each other.
            assert!(
                words.len() == 1 || enumerations.insert(json!(words).to_string()),
                "{at}: {words:?} once more"
            );
            // Those of a field have the names of its object and of the field before them.
            let is_named = at.matches('/').count() == 3;
            for word in words.iter().filter_map(Value::as_str).filter(|_| is_named) {
                let constant = camel(word);
                assert!(
                    !named.contains_key(&constant),
                    "{at}: {word} is the constant {constant}, a type too"
                );
            }
        }
    }
    // Step 2: no schema has a name that generators use themselves.
    let schemes = document["components"]["securitySchemes"].as_object().unwrap();
    for name in named.keys() {
        // Go's constructors, and what generators name after operations.
        let operation = operations(&document).into_iter().any(|(_, _, it)| {
            let id = camel(it["operationId"].as_str().unwrap());
            ["Request", "Response", "Params", "Data", "Error"].iter().any(|end| *name == format!("{id}{end}"))
        });
        assert!(!name.starts_with("New") && !operation, "{name} is a name of the generators' own");
        assert!(
            !schemes.keys().any(|scheme| camel(scheme) == *name),
            "{name} is a scheme of credentials too"
        );
    }
    // Step 3: every problem has one type.
    for (path, method, operation) in operations(&document) {
        for (status, response) in operation["responses"].as_object().unwrap() {
            let problem = &response["content"]["application/problem+json"]["schema"];
            assert!(
                problem.is_null() || *problem == json!({"$ref": "#/components/schemas/Problem"}),
                "{method} {path} {status}"
            );
            assert_eq!(problem.is_null(), response["x-codes"].is_null(), "{method} {path} {status}");
        }
    }
}

/// Every object in a document, with its path.
fn objects(at: &str, value: &Value, out: &mut Vec<(String, Value)>) {
    match value {
        Value::Array(all) => all.iter().for_each(|one| objects(at, one, out)),
        Value::Object(fields) => {
            out.push((at.to_owned(), value.clone()));
            fields.iter().for_each(|(name, value)| objects(&format!("{at}/{name}"), value, out));
        }
        _ => (),
    }
}

/// A word as generators write the names of types and constants.
fn camel(word: &str) -> String {
    let parts = word.split(|c: char| !c.is_ascii_alphanumeric()).filter(|part| !part.is_empty());
    parts.map(|part| part[..1].to_ascii_uppercase() + &part[1..]).collect()
}

/// The words of a text, in small letters.
fn words(text: &str) -> Vec<String> {
    let words = text.split(|c: char| !(c.is_alphabetic() || c == '\''));
    words.filter(|word| !word.is_empty()).map(str::to_lowercase).collect()
}

/// Words and phrases that no text of the document has: they have no precise meaning, or no reader can look them up.
const BANNED: &str =
    "told, tell, news, nobody, somebody, anybody, let go, goes on, beside, anew, seed, his, him";

/// What is wrong with a text of the document, by the rules for all texts; `None` where nothing is.
fn flaw(text: &str) -> Option<String> {
    let words = words(text);
    if words.len() < 3 {
        return Some(format!("fewer than three words: {text}"));
    }
    let plain = format!(" {} ", words.join(" "));
    let banned = BANNED.split(", ").find(|banned| plain.contains(&format!(" {banned} ")))?;
    Some(format!("`{banned}` is banned: {text}"))
}

/// Whether a sentence has one of the verbs that descriptions use.
fn has_verb(sentence: &str) -> bool {
    const VERBS: &str = "is are was were has have had may can must can't does do say says means names sets returns \
        lists creates cancels ends deletes makes manages manage describes describe releases assigns sends send \
        authenticates needs waits begins counts submit replace replaces allow explains identifies exists carries lacks \
        continues came took lives goes runs accepts refuses keeps changes";
    let words = words(sentence);
    VERBS.split_whitespace().any(|verb| words.iter().any(|word| word == verb))
}

/// Whether a summary begins with the verb of an operation, in the imperative.
fn is_imperative(summary: &str) -> bool {
    const VERBS: [&str; 16] = [
        "Assign", "Cancel", "Check", "Create", "Delete", "Describe", "Explain", "List", "Read", "Release",
        "Replace", "Rotate", "Show", "Submit", "Update", "Watch",
    ];
    VERBS.iter().any(|verb| summary.split(' ').next() == Some(verb))
}

#[test]
fn the_rules_for_texts_refuse_what_says_nothing() {
    for bad in
        ["It does.", "It.", "All of it.", "His name.", "The seed's statistics of a tenant.", "Jobs waiting."]
    {
        assert!(flaw(bad).is_some() || !has_verb(bad), "{bad}");
    }
    for bad in ["What a client is told.", "A stream that goes on for ever.", "Nobody may read this."] {
        assert!(flaw(bad).is_some(), "{bad}");
    }
    assert!(!is_imperative("Tenants by name") && !has_verb("The name of the tenant."));
}

#[test]
fn every_operation_is_described_and_every_description_is_a_sentence() {
    let document = document();
    let mut all = Vec::new();
    objects("", &document, &mut all);
    let described = all.iter().filter(|(at, _)| !at.ends_with("/properties"));
    let texts: Vec<(&String, &str)> =
        described.filter_map(|(at, it)| Some((at, it["description"].as_str()?))).collect();
    assert!(texts.len() > 400, "{}", texts.len());
    // Step 1: each description is made of sentences.
    for (at, text) in texts {
        assert_eq!(flaw(text), None, "{at}");
        for sentence in text.replace(".\n", ".\u{0}").replace('\n', " ").split('\u{0}') {
            assert!(sentence.ends_with('.'), "{at}: no full stop: {sentence}");
            assert!(has_verb(sentence), "{at}: no verb: {sentence}");
        }
    }
    // Step 2: each operation has a tag, a summary and a description.
    let tags: Vec<&Value> = document["tags"].as_array().unwrap().iter().map(|tag| &tag["name"]).collect();
    for (path, method, operation) in operations(&document) {
        assert!(tags.contains(&&operation["tags"][0]), "{method} {path}");
        let summary = operation["summary"].as_str().unwrap();
        assert_eq!(flaw(summary), None, "{method} {path}");
        assert!(is_imperative(summary) && !summary.ends_with('.'), "{method} {path}: {summary}");
        assert!(operation["description"].is_string(), "{method} {path}");
    }
    let named = document["components"]["schemas"].as_object().unwrap();
    // Step 3: each schema and each field has a description.
    for (name, schema) in named {
        assert!(schema["description"].is_string(), "{name} is not described");
        for (field, schema) in schema["properties"].as_object().into_iter().flatten() {
            assert!(schema["description"].is_string() || schema["$ref"].is_string(), "{name}.{field}");
        }
    }
}

#[test]
fn the_document_has_each_header_code_and_event() {
    let document = document();
    let codes = |path: &str, method: &str, status: &str| {
        document["paths"][path][method]["responses"][status]["x-codes"].clone()
    };
    assert_eq!(codes("/v1/jobs/{id}/logs", "get", "410"), json!(["log_gone"]));
    assert_eq!(codes("/v1/jobs/{id}/logs", "get", "409"), json!(["not_started"]));
    for (path, method, operation) in operations(&document) {
        let has_body = operation.get("requestBody").is_some();
        assert_eq!(codes(path, method, "408") == json!(["body_too_slow"]), has_body, "{method} {path}");
    }
    let follow = &document["paths"]["/v1/jobs/{id}/events"]["get"];
    let headers: Vec<&Value> =
        follow["parameters"].as_array().unwrap().iter().map(|parameter| &parameter["name"]).collect();
    assert!(headers.contains(&&json!("Last-Event-ID")), "{headers:?}");
    let data = &follow["responses"]["200"]["content"]["text/event-stream"]["x-event-data"];
    for (event, schema) in [("status", "Job"), ("deleted", "DeletedJob")] {
        assert_eq!(data[event], json!({"$ref": format!("#/components/schemas/{schema}")}));
    }
}

#[test]
fn the_commands_that_the_docs_generate_clients_with_are_those_that_are_tested() {
    let read =
        |path: &str| std::fs::read_to_string(format!("{}/{path}", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let (page, script) = (read("docs/rest-api.md"), read("scripts/clients"));
    let section = page.split("## Generated clients\n").nth(1).unwrap().split("\n## ").next().unwrap();
    let commands: Vec<&str> = section
        .lines()
        .filter(|line| line.contains("openapi.json --") || line.ends_with(" openapi.json"))
        .collect();
    assert_eq!(commands.len(), 4, "{section}");
    for command in commands {
        assert!(script.contains(command), "scripts/clients does not run `{command}`");
    }
    for (file, before, name) in [
        ("python/requirements.txt", "openapi-python-client==", "openapi-python-client"),
        ("typescript/package.json", "\"@hey-api/openapi-ts\": \"", "@hey-api/openapi-ts"),
        ("go/go.mod", "github.com/oapi-codegen/oapi-codegen/v2 v", "oapi-codegen"),
        ("go/go.mod", "github.com/ogen-go/ogen v", "ogen"),
    ] {
        let pins = read(&format!("tests/clients/{file}"));
        let pinned = pins.split(before).nth(1).unwrap().split([' ', '"', '\n']).next().unwrap();
        assert!(section.contains(&format!("{name} {pinned}")), "{name} {pinned} is what is tested");
    }
}

/// A route that is added is on the page about the REST API, and in the cluster tests that try each route with every kind of
/// key, with the ids of another tenant's objects and, where it is one of a tenant, with the tokens of users.
#[test]
fn every_route_is_documented_and_tried_with_every_kind_of_key() {
    let read =
        |path: &str| std::fs::read_to_string(format!("{}/{path}", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let page = read("docs/rest-api.md");
    let (with_keys, foreign) = (read("tests/e2e/api/routes.rs"), read("tests/e2e/api/foreign.rs"));
    let with_tokens = read("tests/e2e/api/people.rs");
    for (path, method, operation) in operations(&document()) {
        let (method, path) = (method.to_uppercase(), path.strip_prefix("/v1").unwrap_or(path));
        let path = path.replace("/tenants/{id}", "/tenants/{tenant}");
        let is_on_page = |name: &str| ['`', '?'].iter().any(|end| page.contains(&format!("`{name}{end}")));
        assert!(is_on_page(&format!("{method} {path}")) || is_on_page(&path), "rest-api.md: {method} {path}");
        let security = operation["security"].as_array().unwrap();
        if security.iter().any(|one| one.get("apiKey").is_some()) {
            let path = path.replace("/jobs/{id}", "/jobs/{job}").replace("/keys/{id}", "/keys/{key}");
            let is_in = |tests: &str, path: &str| tests.contains(&format!("\"{method}\", \"{path}\""));
            let is_tried = is_in(&with_keys, &path) || is_in(&with_keys, &path.replace("{job}", "{ended}"));
            assert!(is_tried, "tests/e2e/api/routes.rs: {method} {path}");
            let has_rights =
                |one: &Value| one["kubernetesToken"].as_array().is_some_and(|all| !all.is_empty());
            // Whatever would end the job or the key of the test is tried with an id of nothing.
            let ids = ["{job}", "{ended}", "{absent}"].map(|id| path.replace("{job}", id));
            let mut ids = ids.into_iter().chain([path.replace("{key}", "{absent}")]);
            assert!(
                !security.iter().any(has_rights) || ids.any(|path| is_in(&with_tokens, &path)),
                "tests/e2e/api/people.rs: {method} {path}"
            );
            assert!(
                !path.contains('{') || is_in(&foreign, &path),
                "tests/e2e/api/foreign.rs: {method} {path}"
            );
        }
    }
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
