//! Cargo.toml, the chart, the CRDs and the document of the REST API have one version.

use std::{fs, path::Path};

use serde_json::Value;

const VERSION: &str = env!("CARGO_PKG_VERSION");

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

fn yaml(path: &str) -> Value {
    serde_saphyr::from_str(&read(path)).unwrap()
}

#[test]
fn all_that_is_released_has_one_version() {
    let chart = yaml("charts/crofter/Chart.yaml");
    assert_eq!((&chart["version"], &chart["appVersion"]), (&VERSION.into(), &VERSION.into()), "Chart.yaml");
    for dir in ["crds", "charts/crofter/files/crds"] {
        for kind in ["tenants", "tenantapikeys", "jobs"] {
            let crd = yaml(&format!("{dir}/{kind}.yaml"));
            let label = &crd["metadata"]["labels"]["app.kubernetes.io/version"];
            assert_eq!(*label, VERSION, "{dir}/{kind}.yaml: run `make crds`");
        }
    }
    let document: Value = serde_json::from_str(&read("docs/openapi.json")).unwrap();
    assert_eq!(document["info"]["version"], VERSION, "docs/openapi.json: run `make openapi`");
}
