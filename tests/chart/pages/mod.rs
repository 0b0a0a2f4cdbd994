//! The pages of the documentation, typed as their readers type them, and what is printed compared with what they say.
//!
//! One cluster for the pages that need the control plane and simulated nodes, one for those that need containers that run. A
//! page is typed in its order; between two pages of a cluster the tenants of the one are deleted. `CROFTER_TEST_PAGE=jobs` types
//! the pages whose paths contain that alone.

mod coverage;
mod list;
mod reading;
mod real;
mod run;
mod session;
mod simulated;

use self::{
    list::{List, Page},
    run::Stage,
};

/// Leaves a cluster to the next page as it was: without tenants, but for the protected one, and without workers.
const CLEAN_UP: &str = r#"rm -rf .config
for tenant in $(kubectl get tenants --output name | grep -v /default$ || true); do
  kubectl patch "$tenant" --type merge --patch '{"spec": {"preventDeletion": false}}'
  kubectl delete "$tenant"
done
kubectl label nodes --all crofter.node-restriction.kubernetes.io/tenant- crofter.node-restriction.kubernetes.io/pool-
"#;

/// Types pages of a list one after the other. All that is wrong is in one message.
async fn type_pages(stage: &Stage<'_>, list: &List, pages: &[Page]) {
    let only = std::env::var("CROFTER_TEST_PAGE").unwrap_or_default();
    let mut wrong = Vec::new();
    for page in pages.iter().filter(|page| page.path.contains(&only)) {
        let begun = tokio::time::Instant::now();
        if let Err(error) = stage.run(page, &list.given(page)).await {
            wrong.push(error);
        }
        if let Err(error) = stage.type_in(CLEAN_UP).await {
            wrong.push(format!("after {}: {error}", page.path));
        }
        eprintln!("{}: {:.0?}", page.path, begun.elapsed());
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}
