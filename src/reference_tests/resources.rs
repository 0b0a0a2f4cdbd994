//! The page of the custom resources, from the CRDs as they are installed.

use serde_json::Value;

use super::{
    markdown::Page,
    schema::{fields, rules},
};
use crate::api_types::crd;

pub fn page() -> String {
    let mut page = Page::new("Custom resources");
    page.paragraph(
        "Each field is listed by its path, with its type and bounds; `[]` is each item of a list, and `<name>` each name of a \
         map. A rule is the message with which the API server refuses what breaks it. [Tenants](../tenants.md), \
         [jobs](../jobs.md) and [API keys](../api-keys.md) say what the fields are for.",
    );
    for (_, crd) in crd::all() {
        resource(&mut page, &serde_json::to_value(crd).unwrap());
    }
    page.finish()
}

fn resource(page: &mut Page, crd: &Value) {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let version = &crd["spec"]["versions"][0];
    let schema = &version["schema"]["openAPIV3Schema"];
    let names = &crd["spec"]["names"];
    page.heading(2, &text(&names["kind"]));
    page.description(&text(&schema["description"]));
    let group = text(&crd["spec"]["group"]);
    page.item(0, &format!("`apiVersion`: `{group}/{}`", text(&version["name"])));
    page.item(0, &format!("Scope: {}", text(&crd["spec"]["scope"])));
    let list = |values: &Value, key: &str| {
        let one = |value: &Value| format!("`{}`", text(if key.is_empty() { value } else { &value[key] }));
        values.as_array().into_iter().flatten().map(one).collect::<Vec<_>>().join(", ")
    };
    let (short, category) = (list(&names["shortNames"], ""), list(&names["categories"], ""));
    let name = format!("`{}.{group}`", text(&names["plural"]));
    page.item(0, &format!("Name for kubectl: {name}, short {short}, in the category {category}"));
    let selectable = list(&version["selectableFields"], "jsonPath");
    if !selectable.is_empty() {
        page.item(0, &format!("Field selectors: {selectable}"));
    }
    for rule in rules(schema) {
        page.described(0, "Rule", &rule);
    }
    for part in ["spec", "status"] {
        let schema = &schema["properties"][part];
        page.heading(3, if part == "spec" { "Spec" } else { "Status" });
        fields(page, schema, &format!("{part}."));
        for rule in rules(schema) {
            page.described(0, "Rule", &rule);
        }
    }
    page.heading(3, "Columns");
    for column in version["additionalPrinterColumns"].as_array().into_iter().flatten() {
        let is_wide = column["priority"].as_i64().unwrap_or_default() > 0;
        let wide = if is_wide { ", with `--output=wide`" } else { "" };
        page.item(0, &format!("{}: `{}`{wide}", text(&column["name"]), text(&column["jsonPath"])));
    }
}
