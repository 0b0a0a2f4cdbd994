//! `GET /plans`.

use axum::{Json, extract::State};
use schemars::JsonSchema;
use serde::Serialize;

use crate::{
    api_types::plan::Plan,
    http::{App, auth::Caller, openapi::Operation, tenants::AllQuotas},
};

/// A plan has the quotas and the weight of its tenants.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Plan")]
pub struct PlanView {
    /// This is the name of the plan.
    name: String,
    /// This is the weight of the plan's tenants in the fair share.
    weight: i64,
    /// These are the quotas of tenants that have no quotas of their own.
    quotas: AllQuotas,
}

/// These are all plans.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Plans")]
pub struct PlansView {
    /// These are the plans, by name.
    plans: Vec<PlanView>,
    /// This is always null, because there is one page.
    next_cursor: Option<String>,
}

/// The description of the route.
pub fn operation() -> Operation {
    Operation::new("listPlans", "List all plans", "Lists the plans that tenants can have, by name.")
        .json::<PlansView>(200, "These are all plans.")
}

/// Lists the plans in force, for every authenticated caller.
pub async fn list(State(app): State<App>, _: Caller) -> Json<PlansView> {
    let view = |(name, plan): (&str, &Plan)| PlanView {
        name: name.to_owned(),
        weight: plan.weight.into(),
        quotas: plan.quotas.clone().into(),
    };
    let plans = app.plans.borrow().all().map(view).collect();
    Json(PlansView { plans, next_cursor: None })
}
