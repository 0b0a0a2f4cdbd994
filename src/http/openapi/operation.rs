//! What is said of one route: by whoever adds it, and by the arguments of its handler.

use std::collections::BTreeMap;

use axum::{
    extract::{Path, State, rejection::PathRejection},
    http::HeaderMap,
};
use schemars::JsonSchema;
use serde_json::{Map, Value, json};
use strum::IntoEnumIterator;

use super::schemas::Schemas;
use crate::{
    api_types::api_key::Scope,
    http::{audit::Audit, problem::Code},
};

/// Names a schema, so that its type is in the document.
type Named = fn(&mut Schemas) -> Value;

/// Who may call a route.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Who {
    /// Everybody, without credentials.
    #[default]
    Anybody,
    /// Keys of tenants.
    Key,
    /// Administrators.
    Administrator,
    /// Both.
    Both,
}

/// What is said of a route.
#[derive(Clone)]
pub struct Operation {
    id: &'static str,
    summary: &'static str,
    description: &'static str,
    who: Who,
    scope: Option<Scope>,
    parameters: Vec<Value>,
    query: Option<fn(&mut Schemas) -> Vec<Value>>,
    body: Option<Named>,
    answers: BTreeMap<u16, Answer>,
    refuses: Vec<Code>,
}

/// An answer that is no refusal.
#[derive(Clone, Default)]
struct Answer {
    description: &'static str,
    content: Vec<(&'static str, Named)>,
    /// The data of events, by their names.
    events: Vec<(&'static str, Named)>,
    headers: Vec<&'static str>,
    links: Vec<(&'static str, &'static str)>,
}

impl Operation {
    /// One of this id, with a few words and with whole sentences, in Markdown.
    #[must_use]
    pub fn new(id: &'static str, summary: &'static str, description: &'static str) -> Self {
        Self {
            id,
            summary,
            description,
            who: Who::Anybody,
            scope: None,
            parameters: Vec::new(),
            query: None,
            body: None,
            answers: BTreeMap::new(),
            // The frame's, which every route has.
            refuses: vec![Code::Overloaded, Code::TimedOut, Code::Internal],
        }
    }

    /// The scope that a key needs, where the handler's arguments do not say it.
    #[must_use]
    pub fn scope(mut self, scope: Scope) -> Self {
        self.scope = Some(scope);
        self.refuses([Code::MissingScope])
    }

    /// Answers so, with a body of JSON.
    #[must_use]
    pub fn json<T: JsonSchema>(self, status: u16, description: &'static str) -> Self {
        self.content(status, description, "application/json", Schemas::given::<T>)
    }

    /// Answers so, with a text of this media type.
    #[must_use]
    pub fn text(self, status: u16, description: &'static str, media: &'static str) -> Self {
        self.content(status, description, media, |_| json!({"type": "string"}))
    }

    /// One of the server-sent events of an answer, and its data. OpenAPI 3.1 has no word for the data of events, so
    /// `x-event-data` refers to its schema by the event's name, and the description says the same in words.
    #[must_use]
    pub fn event<T: JsonSchema>(mut self, status: u16, name: &'static str) -> Self {
        self.answers.entry(status).or_default().events.push((name, Schemas::given::<T>));
        self
    }

    /// Answers so, without a body.
    #[must_use]
    pub fn nothing(mut self, status: u16, description: &'static str) -> Self {
        self.answers.entry(status).or_default().description = description;
        self
    }

    fn content(mut self, status: u16, description: &'static str, media: &'static str, schema: Named) -> Self {
        let answer = self.answers.entry(status).or_default();
        answer.description = description;
        answer.content.push((media, schema));
        self
    }

    /// The answers so far have these headers, of those that `super::headers` knows.
    #[must_use]
    pub fn headers(mut self, names: &[&'static str]) -> Self {
        for answer in self.answers.values_mut() {
            answer.headers.extend(names);
        }
        self
    }

    /// What may be done next with the `id` in an answer: operations that take it in this parameter.
    #[must_use]
    pub fn links(mut self, status: u16, parameter: &'static str, operations: &[&'static str]) -> Self {
        let links = &mut self.answers.entry(status).or_default().links;
        links.extend(operations.iter().map(|id| (*id, parameter)));
        self
    }

    /// Refuses with these codes, beside those that the handler's arguments have.
    #[must_use]
    pub fn refuses(mut self, codes: impl IntoIterator<Item = Code>) -> Self {
        self.may_refuse(codes);
        self
    }

    /// Says who may call it, with the refusals that go with it.
    pub fn called_by(&mut self, who: Who, scope: Option<Scope>) {
        self.who = who;
        self.scope = scope.or(self.scope);
        self.may_refuse([
            Code::InvalidHeader,
            Code::MissingCredentials,
            Code::InvalidKey,
            Code::InvalidToken,
            Code::TooManyFailures,
            Code::TenantMismatch,
            Code::TenantInactive,
            Code::KeysUnavailable,
            Code::ClusterUnavailable,
        ]);
        self.may_refuse(scope.map(|_| Code::MissingScope));
        if who != Who::Administrator {
            let description =
                "The name or UID of the key's tenant, which a client may send to have it checked.";
            self.takes_header("X-Tenant-ID", description, &json!({"type": "string", "pattern": READABLE}));
        }
    }

    /// Takes an id in its path.
    pub fn takes_path(&mut self, name: &str, description: &str, schema: &Value) {
        self.parameters.push(json!({
            "name": name, "in": "path", "required": true, "description": description, "schema": schema,
        }));
        self.may_refuse([Code::NotFound]);
    }

    /// Takes a header, which need not be there.
    pub fn takes_header(&mut self, name: &str, description: &str, schema: &Value) {
        self.parameters
            .push(json!({"name": name, "in": "header", "description": description, "schema": schema}));
        self.may_refuse([Code::InvalidHeader]);
    }

    /// Takes the fields of `T` after `?`.
    pub fn takes_query<T: JsonSchema>(&mut self) {
        self.query = Some(Schemas::parameters::<T>);
        self.may_refuse([Code::InvalidQuery]);
    }

    /// Takes a body.
    pub fn takes_body<T: JsonSchema>(&mut self) {
        self.body = Some(Schemas::taken::<T>);
        self.may_refuse([
            Code::MalformedBody,
            Code::InvalidBody,
            Code::BodyTooLarge,
            Code::BodyTooSlow,
            Code::UnsupportedMediaType,
            Code::InvalidHeader,
        ]);
    }

    /// May refuse with these codes.
    pub fn may_refuse(&mut self, codes: impl IntoIterator<Item = Code>) {
        for code in codes {
            if !self.refuses.contains(&code) {
                self.refuses.push(code);
            }
        }
    }

    /// The operation as it stands in the document.
    pub(super) fn object(&self, tag: &str, schemas: &mut Schemas) -> Value {
        let mut parameters = self.parameters.clone();
        parameters.extend(self.query.map(|query| query(schemas)).unwrap_or_default());
        let mut object = json!({
            "operationId": self.id,
            "summary": self.summary,
            "description": self.description,
            "tags": [tag],
            "security": self.security(),
            "responses": self.responses(schemas),
        });
        if !parameters.is_empty() {
            object["parameters"] = parameters.into();
        }
        if let Some(body) = self.body {
            let content = json!({"application/json": {"schema": body(schemas)}});
            object["requestBody"] = json!({"required": true, "content": content});
        }
        object
    }

    fn security(&self) -> Value {
        let roles: Vec<Scope> = self.scope.into_iter().collect();
        let key = [json!({"apiKey": roles}), json!({"apiKeyHeader": roles})];
        let token = [json!({"kubernetesToken": []})];
        match self.who {
            Who::Anybody => json!([]),
            Who::Key => key.into(),
            Who::Administrator => token.into(),
            Who::Both => key.into_iter().chain(token).collect(),
        }
    }

    fn responses(&self, schemas: &mut Schemas) -> Value {
        let mut responses: Map<String, Value> = Map::new();
        for (status, answer) in &self.answers {
            let content = answer
                .content
                .iter()
                .map(|(media, schema)| ((*media).to_owned(), json!({"schema": schema(schemas)})));
            let mut content: Map<String, Value> = content.collect();
            for (event, data) in &answer.events {
                content["text/event-stream"]["x-event-data"][*event] = data(schemas);
            }
            let mut response = response(answer.description, &answer.headers, content);
            let links: Map<String, Value> = answer
                .links
                .iter()
                .map(|(operation, parameter)| {
                    let parameters = json!({*parameter: "$response.body#/id"});
                    ((*operation).to_owned(), json!({"operationId": operation, "parameters": parameters}))
                })
                .collect();
            if !links.is_empty() {
                response["links"] = links.into();
            }
            responses.insert(status.to_string(), response);
        }
        for (status, refusal) in self.refusals() {
            match responses.get_mut(&status) {
                Some(response) => {
                    let more = refusal["content"].as_object().cloned().unwrap_or_default();
                    if let Some(content) = response["content"].as_object_mut() {
                        content.extend(more);
                    }
                    response["x-codes"] = refusal["x-codes"].clone();
                }
                None => drop(responses.insert(status, refusal)),
            }
        }
        responses.into()
    }

    /// The refusals by status, each with its codes.
    fn refusals(&self) -> BTreeMap<String, Value> {
        let mut by_status: BTreeMap<u16, Vec<Code>> = BTreeMap::new();
        // In the order of the list of codes.
        for code in Code::iter().filter(|code| self.refuses.contains(code)) {
            by_status.entry(code.status().as_u16()).or_default().push(code);
        }
        let refusal = |(status, codes): (u16, Vec<Code>)| {
            let words: Vec<&str> = codes.iter().map(|code| code.as_str()).collect();
            let headers: &[&str] = match status {
                401 => &["WWW-Authenticate"],
                429 if codes.contains(&Code::RateLimited) => {
                    &["Retry-After", "RateLimit", "RateLimit-Policy"]
                }
                429 | 503 => &["Retry-After"],
                _ => &[],
            };
            let description = format!("The request is refused; `code` is `{}`.", words.join("`, `"));
            // One schema for all of them, which is one type to a client. The codes of this status are said apart.
            let schema = json!({"schema": {"$ref": "#/components/schemas/Problem"}});
            let content = Map::from_iter([("application/problem+json".to_owned(), schema)]);
            let mut response = response(&description, headers, content);
            response["x-codes"] = words.into();
            (status.to_string(), response)
        };
        by_status.into_iter().map(refusal).collect()
    }
}

/// A header's text.
pub const READABLE: &str = "^[!-~]([ -~]*[!-~])?$";

fn response(description: &str, headers: &[&str], content: Map<String, Value>) -> Value {
    let named = |name: &&str| ((*name).to_owned(), json!({"$ref": format!("#/components/headers/{name}")}));
    let headers: Map<String, Value> = ["X-Request-ID"].iter().chain(headers).map(named).collect();
    let mut response = json!({"description": description, "headers": headers});
    if !content.is_empty() {
        response["content"] = content.into();
    }
    response
}

/// An argument of a handler, which says what it takes of a request and what it refuses.
pub trait Describes {
    /// Adds that to what is said of the route.
    fn describe(operation: &mut Operation);
}

macro_rules! silent {
    ($($argument:ty),*) => { $(
        impl Describes for $argument {
            fn describe(_: &mut Operation) {}
        }
    )* };
}
silent!(HeaderMap, Result<Path<String>, PathRejection>, Audit);

impl<S> Describes for State<S> {
    fn describe(_: &mut Operation) {}
}

/// All arguments of a handler, in axum's own form: `((),)` or `(marker, first, …)`.
pub trait Inputs {
    /// Lets each add what it has to say.
    fn describe(operation: &mut Operation);
}

impl Inputs for ((),) {
    fn describe(_: &mut Operation) {}
}

macro_rules! inputs {
    ($($argument:ident)*) => {
        impl<M, $($argument: Describes),*> Inputs for (M, $($argument,)*) {
            fn describe(operation: &mut Operation) {
                $($argument::describe(operation);)*
            }
        }
    };
}
inputs!(A);
inputs!(A B);
inputs!(A B C);
inputs!(A B C D);
inputs!(A B C D E);
inputs!(A B C D E F);
