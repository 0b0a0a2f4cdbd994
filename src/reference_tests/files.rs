//! The page of the files that administrators and users write, from the types that read them.

use schemars::{JsonSchema, generate::SchemaSettings};

use super::{markdown::Page, schema::fields};
use crate::{
    api_types::{Plans, Scenarios},
    client::profile::Profiles,
    simulator::cluster::ClusterFile,
};

pub fn page() -> String {
    let mut page = Page::new("Files");
    page.paragraph(
        "These are the fields of each YAML file that Crofter reads. `[]` is each item of a list, and `<name>` each name of a map.",
    );
    file::<Plans>(
        &mut page,
        "The plan table",
        "The file of `--plans` ([tenants](../tenants.md#quotas)). The chart has the table in its value `plans`.",
    );
    file::<Scenarios>(
        &mut page,
        "The catalogue of scenarios",
        "The file of `--scenarios` ([scenarios](../scenarios.md)). A field has the bounds of the field of that name in the \
         spec of a [Job](resources.md#job). The chart has the catalogue in its value `scenarios`.",
    );
    file::<ClusterFile>(
        &mut page,
        "The cluster of a simulation",
        "The file of `crofter simulate --cluster` ([trying a plan table](../simulate.md)).",
    );
    file::<Profiles>(
        &mut page,
        "The profiles of kubectl crofter",
        "The file that `login` writes ([which server, and as whom](../kubectl-crofter.md#which-server-and-as-whom)).",
    );
    page.finish()
}

fn file<T: JsonSchema>(page: &mut Page, title: &str, about: &str) {
    let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    page.heading(2, title);
    page.paragraph(about);
    fields(page, &settings.into_generator().into_root_schema_for::<T>().to_value(), "");
}
