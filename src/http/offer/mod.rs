//! What the administrators of the cluster offer: scenarios and plans, to every caller; and the shared pools, to
//! administrators.

mod plans;
mod pools;
mod scenarios;

use super::routes::Routes;

/// The routes.
pub fn routes() -> Routes {
    Routes::new("Offer")
        .get("/scenarios", scenarios::list, scenarios::operation())
        .get("/plans", plans::list, plans::operation())
        .get("/pools", pools::list, pools::operation())
}
