//! The description of one route: from the module that adds it, and from the arguments of its handler.

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
    http::{
        audit::Audit,
        problem::Code,
        rights::{Needs, Right},
    },
};

/// Refers to a schema, so that the document has its type.
type SchemaRef = fn(&mut Schemas) -> Value;

/// The callers that a route accepts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AllowedCallers {
    /// All callers, without credentials.
    #[default]
    Public,
    /// Administrators.
    Administrator,
    /// Tenants and administrators.
    KeyOrAdministrator,
}

/// One route of the document.
#[derive(Clone)]
pub struct DescribedRoute {
    /// Method, in small letters.
    pub method: &'static str,
    /// Path, as the router has it.
    pub path: String,
    /// Group.
    pub tag: &'static str,
    /// Description.
    pub operation: Operation,
}

/// The description of a route.
#[derive(Clone)]
pub struct Operation {
    id: &'static str,
    summary: &'static str,
    description: &'static str,
    callers: AllowedCallers,
    scope: Option<Scope>,
    rights: &'static [Right],
    parameters: Vec<Value>,
    query: Option<fn(&mut Schemas) -> Vec<Value>>,
    body: Option<SchemaRef>,
    responses: BTreeMap<u16, SuccessResponse>,
    problems: Vec<Code>,
}

/// A response that is not a problem.
#[derive(Clone, Default)]
struct SuccessResponse {
    description: &'static str,
    content: Vec<(&'static str, SchemaRef)>,
    /// The data of events, by their names.
    events: Vec<(&'static str, SchemaRef)>,
    headers: Vec<&'static str>,
    links: Vec<(&'static str, &'static str)>,
}

impl Operation {
    /// An operation with its id, a summary of a few words, and a description of whole sentences in Markdown.
    #[must_use]
    pub fn new(id: &'static str, summary: &'static str, description: &'static str) -> Self {
        Self {
            id,
            summary,
            description,
            callers: AllowedCallers::Public,
            scope: None,
            rights: &[],
            parameters: Vec::new(),
            query: None,
            body: None,
            responses: BTreeMap::new(),
            // Every route has the problems of the middleware.
            problems: vec![Code::Overloaded, Code::TimedOut, Code::Internal],
        }
    }

    /// Names what a caller needs, where the handler's arguments do not.
    #[must_use]
    pub fn needs<N: Needs>(mut self) -> Self {
        (self.scope, self.rights) = (Some(N::SCOPE), N::RIGHTS);
        self.problems([Code::MissingScope])
    }

    /// Adds a response with a JSON body.
    #[must_use]
    pub fn json<T: JsonSchema>(self, status: u16, description: &'static str) -> Self {
        self.content(status, description, "application/json", Schemas::response::<T>)
    }

    /// Adds a response with a text of this media type.
    #[must_use]
    pub fn text(self, status: u16, description: &'static str, media: &'static str) -> Self {
        self.content(status, description, media, |_| json!({"type": "string"}))
    }

    /// Adds one of the server-sent events of a response, and its data. OpenAPI 3.1 does not describe the data of events, so
    /// `x-event-data` refers to its schema by the event's name, and the description says the same in words.
    #[must_use]
    pub fn event<T: JsonSchema>(mut self, status: u16, name: &'static str) -> Self {
        self.responses.entry(status).or_default().events.push((name, Schemas::response::<T>));
        self
    }

    /// Adds a response without a body.
    #[must_use]
    pub fn empty(mut self, status: u16, description: &'static str) -> Self {
        self.responses.entry(status).or_default().description = description;
        self
    }

    fn content(
        mut self,
        status: u16,
        description: &'static str,
        media: &'static str,
        schema: SchemaRef,
    ) -> Self {
        let success = self.responses.entry(status).or_default();
        success.description = description;
        success.content.push((media, schema));
        self
    }

    /// Adds headers to the responses so far, of those that the components of the document describe.
    #[must_use]
    pub fn headers(mut self, names: &[&'static str]) -> Self {
        for success in self.responses.values_mut() {
            success.headers.extend(names);
        }
        self
    }

    /// Links the `id` in a response to the operations that take it in this parameter.
    #[must_use]
    pub fn links(mut self, status: u16, parameter: &'static str, operations: &[&'static str]) -> Self {
        let links = &mut self.responses.entry(status).or_default().links;
        links.extend(operations.iter().map(|id| (*id, parameter)));
        self
    }

    /// Adds problems, besides those of the handler's arguments.
    #[must_use]
    pub fn problems(mut self, codes: impl IntoIterator<Item = Code>) -> Self {
        self.add_problems(codes);
        self
    }

    /// Sets the callers, with the problems of their authentication.
    pub fn called_by(&mut self, callers: AllowedCallers, scope: Option<Scope>) {
        self.callers = callers;
        self.scope = scope.or(self.scope);
        self.add_problems([
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
        self.add_problems(scope.map(|_| Code::MissingScope));
        if callers != AllowedCallers::Administrator {
            let description = "This is the name or the UID of the tenant. The server refuses another tenant than the key's.";
            self.takes_header("X-Tenant-ID", description, &json!({"type": "string", "pattern": HEADER_TEXT}));
        }
    }

    /// Names the rights that a user needs in the namespace of the tenant.
    pub fn needs_rights(&mut self, rights: &'static [Right]) {
        self.rights = rights;
    }

    /// Adds an optional parameter of the query.
    pub fn takes_parameter(&mut self, name: &str, description: &str, schema: &Value) {
        self.parameters.push(json!({
            "name": name, "in": "query", "required": false, "description": description, "schema": schema,
        }));
        self.add_problems([Code::InvalidQuery]);
    }

    /// Adds a parameter of the path.
    pub fn takes_path(&mut self, name: &str, description: &str, schema: &Value) {
        self.parameters.push(json!({
            "name": name, "in": "path", "required": true, "description": description, "schema": schema,
        }));
        self.add_problems([Code::NotFound]);
    }

    /// Adds an optional header.
    pub fn takes_header(&mut self, name: &str, description: &str, schema: &Value) {
        self.parameters
            .push(json!({"name": name, "in": "header", "description": description, "schema": schema}));
        self.add_problems([Code::InvalidHeader]);
    }

    /// Adds the fields of `T` as parameters of the query.
    pub fn takes_query<T: JsonSchema>(&mut self) {
        self.query = Some(Schemas::parameters::<T>);
        self.add_problems([Code::InvalidQuery]);
    }

    /// Adds a body.
    pub fn takes_body<T: JsonSchema>(&mut self) {
        self.body = Some(Schemas::request::<T>);
        self.add_problems([
            Code::MalformedBody,
            Code::InvalidBody,
            Code::BodyTooLarge,
            Code::BodyTooSlow,
            Code::UnsupportedMediaType,
            Code::InvalidHeader,
        ]);
    }

    /// Adds problems.
    pub fn add_problems(&mut self, codes: impl IntoIterator<Item = Code>) {
        for code in codes {
            if !self.problems.contains(&code) {
                self.problems.push(code);
            }
        }
    }

    /// The operation as the document has it.
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
        let rights: Vec<String> = self.rights.iter().map(Right::to_string).collect();
        let token = [json!({"kubernetesToken": rights})];
        match self.callers {
            AllowedCallers::Public => json!([]),
            AllowedCallers::Administrator => token.into(),
            AllowedCallers::KeyOrAdministrator => key.into_iter().chain(token).collect(),
        }
    }

    fn responses(&self, schemas: &mut Schemas) -> Value {
        let mut responses: Map<String, Value> = Map::new();
        for (status, success) in &self.responses {
            let content = success
                .content
                .iter()
                .map(|(media, schema)| ((*media).to_owned(), json!({"schema": schema(schemas)})));
            let mut content: Map<String, Value> = content.collect();
            for (event, data) in &success.events {
                content["text/event-stream"]["x-event-data"][*event] = data(schemas);
            }
            let mut response = response(success.description, &success.headers, content);
            let links: Map<String, Value> = success
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
        for (status, problem) in self.problem_responses() {
            match responses.get_mut(&status) {
                Some(response) => {
                    let more = problem["content"].as_object().cloned().unwrap_or_default();
                    if let Some(content) = response["content"].as_object_mut() {
                        content.extend(more);
                    }
                    response["x-codes"] = problem["x-codes"].clone();
                }
                None => drop(responses.insert(status, problem)),
            }
        }
        responses.into()
    }

    /// The problems by status, each with its codes.
    fn problem_responses(&self) -> BTreeMap<String, Value> {
        let mut by_status: BTreeMap<u16, Vec<Code>> = BTreeMap::new();
        // In the order of the list of codes.
        for code in Code::iter().filter(|code| self.problems.contains(code)) {
            by_status.entry(code.status().as_u16()).or_default().push(code);
        }
        let problem = |(status, codes): (u16, Vec<Code>)| {
            let words: Vec<&str> = codes.iter().map(|code| code.as_str()).collect();
            let headers: &[&str] = match status {
                401 => &["WWW-Authenticate"],
                429 if codes.contains(&Code::RateLimited) => {
                    &["Retry-After", "RateLimit", "RateLimit-Policy"]
                }
                429 | 503 => &["Retry-After"],
                _ => &[],
            };
            let description =
                format!("The server refuses the request. The `code` is `{}`.", words.join("`, `"));
            // One schema for all problems, so that a client has one type. `x-codes` lists the codes of this status.
            let schema = json!({"schema": {"$ref": "#/components/schemas/Problem"}});
            let content = Map::from_iter([("application/problem+json".to_owned(), schema)]);
            let mut response = response(&description, headers, content);
            response["x-codes"] = words.into();
            (status.to_string(), response)
        };
        by_status.into_iter().map(problem).collect()
    }
}

/// The pattern of a header's text.
pub const HEADER_TEXT: &str = "^[!-~]([ -~]*[!-~])?$";

fn response(description: &str, headers: &[&str], content: Map<String, Value>) -> Value {
    let named = |name: &&str| ((*name).to_owned(), json!({"$ref": format!("#/components/headers/{name}")}));
    let headers: Map<String, Value> = ["X-Request-ID"].iter().chain(headers).map(named).collect();
    let mut response = json!({"description": description, "headers": headers});
    if !content.is_empty() {
        response["content"] = content.into();
    }
    response
}

/// An argument of a handler, which describes what it reads of a request and the problems it has.
pub trait Describes {
    /// Adds this to the description of the route.
    fn describe(operation: &mut Operation);
}

macro_rules! undescribed {
    ($($argument:ty),*) => { $(
        impl Describes for $argument {
            fn describe(_: &mut Operation) {}
        }
    )* };
}
undescribed!(HeaderMap, Result<Path<String>, PathRejection>, Audit);

impl<S> Describes for State<S> {
    fn describe(_: &mut Operation) {}
}

/// All arguments of a handler, in axum's own form: `((),)` or `(marker, first, …)`.
pub trait Inputs {
    /// Lets each argument add its description.
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
