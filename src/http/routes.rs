//! A router whose every route says what it takes and answers.
//!
//! A handler can only be added with an [`Operation`], to which the handler's own arguments add what they take and refuse
//! (the scope, parameters, the body). So the document in `docs/openapi.json` has every route, and no other.

use axum::{
    Router,
    handler::Handler,
    routing::{MethodFilter, on},
};

use super::{
    App,
    openapi::{Inputs, Operation},
};

/// Routes, and what is said of them.
pub struct Routes {
    /// What the document groups them under.
    tag: &'static str,
    router: Router<App>,
    described: Vec<Described>,
}

/// One route of the document.
#[derive(Clone)]
pub struct Described {
    /// Method, in small letters.
    pub method: &'static str,
    /// Path, as the router has it.
    pub path: String,
    /// Group.
    pub tag: &'static str,
    /// The rest.
    pub operation: Operation,
}

macro_rules! methods {
    ($($name:ident $filter:ident),*) => { $(
        #[doc = concat!("Adds a `", stringify!($filter), "`.")]
        #[must_use]
        pub fn $name<H, T>(self, path: &str, handler: H, operation: Operation) -> Self
        where
            H: Handler<T, App>,
            T: Inputs + 'static,
        {
            self.on(MethodFilter::$filter, stringify!($name), path, handler, operation)
        }
    )* };
}

impl Routes {
    /// None, of this group.
    #[must_use]
    pub fn new(tag: &'static str) -> Self {
        Self { tag, router: Router::new(), described: Vec::new() }
    }

    methods!(get GET, post POST, put PUT, patch PATCH, delete DELETE);

    fn on<H, T>(
        mut self,
        filter: MethodFilter,
        method: &'static str,
        path: &str,
        handler: H,
        mut operation: Operation,
    ) -> Self
    where
        H: Handler<T, App>,
        T: Inputs + 'static,
    {
        T::describe(&mut operation);
        self.router = self.router.route(path, on(filter, handler));
        self.described.push(Described { method, path: path.to_owned(), tag: self.tag, operation });
        self
    }

    /// With others, which keep their group.
    #[must_use]
    pub fn merge(mut self, other: Self) -> Self {
        self.router = self.router.merge(other.router);
        self.described.extend(other.described);
        self
    }

    /// With others, all of them under a prefix and, for clients of old, without it. The document has each once: the others
    /// under the prefix, and those that are here already without it.
    #[must_use]
    pub fn nest(mut self, prefix: &str, other: Self) -> Self {
        let all = self.router.merge(other.router);
        self.router = all.clone().nest(prefix, all);
        let prefixed = other.described.into_iter();
        self.described.extend(prefixed.map(|one| Described { path: format!("{prefix}{}", one.path), ..one }));
        self
    }

    /// What is said of them.
    #[must_use]
    pub fn described(&self) -> &[Described] {
        &self.described
    }

    /// The router.
    pub fn into_router(self) -> Router<App> {
        self.router
    }
}
