//! The table has every quota of a plan, and whatever lists quotas has every row of the table.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::*;
use crate::api_types::{Plans, plan::Quotas};

fn fields(of: &Value) -> BTreeSet<String> {
    of.as_object().unwrap().keys().cloned().collect()
}

fn of_table() -> BTreeSet<String> {
    QuotaDimension::all().map(|dimension| dimension.field().to_owned()).collect()
}

#[test]
fn the_table_has_every_quota_of_a_plan_and_of_a_tenant() {
    let mut plan = json!(EffectiveQuotas::default());
    assert_eq!(fields(&plan), of_table());
    for (n, dimension) in QuotaDimension::all().enumerate() {
        let number = 10 + i64::try_from(n).unwrap();
        plan[dimension.field()] = json!(number);
        let own: Quotas = serde_json::from_value(json!({dimension.field(): number})).unwrap();
        let quotas = Plans::built_in().unwrap().get("free").unwrap().effective(&own);
        assert_eq!(dimension.quota(&quotas), number, "{dimension:?}");
    }
    let quotas: EffectiveQuotas = serde_json::from_value(plan).unwrap();
    let numbers: Vec<i64> = QuotaDimension::all().map(|dimension| dimension.quota(&quotas)).collect();
    assert!(numbers.iter().copied().eq((10..).take(numbers.len())), "{numbers:?}");
}

#[test]
fn chart_plans_rest_and_documents_have_every_quota() {
    let values: Value =
        serde_json::from_str(include_str!("../../../charts/crofter/values.schema.json")).unwrap();
    let openapi: Value = serde_json::from_str(include_str!("../../../docs/openapi.json")).unwrap();
    let quotas = &openapi["components"]["schemas"]["Quotas"]["properties"];
    for field in of_table() {
        assert!(values.to_string().contains(&format!("\"{field}\"")), "values.schema.json lacks {field}");
        assert!(
            include_str!("../plans.yaml").contains(&format!("    {field}: ")),
            "plans.yaml lacks {field}"
        );
    }
    for dimension in QuotaDimension::all() {
        let name = dimension.rest_name();
        assert!(quotas[&name].is_object(), "the REST API lacks {name}");
    }
    assert_eq!(fields(quotas).len(), of_table().len());
}

#[test]
fn the_page_of_tenants_has_a_row_for_each_quota_with_the_numbers_of_the_built_in_plans() {
    let (page, plans) = (include_str!("../../../docs/tenants.md"), Plans::built_in().unwrap());
    for dimension in QuotaDimension::all() {
        let numbers = ["free", "basic", "pro", "enterprise"]
            .map(|plan| dimension.quota(&plans.get(plan).unwrap().quotas).to_string())
            .join(" | ");
        let row = format!("| `{}` | {} | {numbers} |\n", dimension.field(), dimension.noun());
        assert!(page.contains(&row), "docs/tenants.md lacks the row {row}");
    }
}

#[test]
fn a_dimension_is_used_up_at_its_limit_in_its_own_unit() {
    let quotas: EffectiveQuotas =
        QuotaDimension::all().fold(EffectiveQuotas::unlimited(), |quotas, dimension| {
            let mut fields = json!(quotas);
            fields[dimension.field()] = json!(2);
            serde_json::from_value(fields).unwrap()
        });
    let usage = |cpu_millicores, memory_bytes, storage_bytes, gpus| TenantUsage {
        cpu_millicores,
        memory_bytes,
        storage_bytes,
        gpus,
        ..TenantUsage::default()
    };
    let used_up = |usage: &TenantUsage, quotas: &EffectiveQuotas| -> Vec<&str> {
        QuotaDimension::all()
            .filter(|dimension| dimension.is_used_up(usage, quotas))
            .map(QuotaDimension::field)
            .collect()
    };
    assert_eq!(used_up(&usage(1999, 1_999_999_999, 2_000_000_000, 2), &quotas), ["maxGpus", "maxStorageGb"]);
    assert_eq!(used_up(&usage(2000, 2_000_000_000, 0, 0), &quotas), ["maxCpuCores", "maxMemoryGb"]);
    assert_eq!(used_up(&usage(9000, i64::MAX, i64::MAX, 9), &EffectiveQuotas::unlimited()), [""; 0]);
}
