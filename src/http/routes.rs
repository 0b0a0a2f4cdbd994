//! A router whose every route is described.
//!
//! A handler is added with an [`Operation`], to which the handler's own arguments add their parameters, body, scope and
//! problems. So the document in `docs/openapi.json` has every route, and no other.

use axum::{
    Router,
    handler::Handler,
    routing::{MethodFilter, on},
};

use super::{
    App,
    openapi::{DescribedRoute, Inputs, Operation},
};

/// Routes and their descriptions.
pub struct Routes {
    /// The group of the routes in the document.
    tag: &'static str,
    router: Router<App>,
    described: Vec<DescribedRoute>,
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
    /// No routes, in this group.
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
        self.described.push(DescribedRoute { method, path: path.to_owned(), tag: self.tag, operation });
        self
    }

    /// Adds other routes, which keep their group.
    #[must_use]
    pub fn merge(mut self, other: Self) -> Self {
        self.router = self.router.merge(other.router);
        self.described.extend(other.described);
        self
    }

    /// Adds other routes, and serves all routes both under a prefix and, for backwards compatibility, without it. The document
    /// has each route once: the others under the prefix, and the present ones without it.
    #[must_use]
    pub fn nest(mut self, prefix: &str, other: Self) -> Self {
        let all = self.router.merge(other.router);
        self.router = all.clone().nest(prefix, all);
        let prefixed = other.described.into_iter();
        self.described
            .extend(prefixed.map(|one| DescribedRoute { path: format!("{prefix}{}", one.path), ..one }));
        self
    }

    /// The descriptions.
    #[must_use]
    pub fn described(&self) -> &[DescribedRoute] {
        &self.described
    }

    /// The router.
    pub fn into_router(self) -> Router<App> {
        self.router
    }
}
