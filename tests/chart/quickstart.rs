//! docs/quickstart.md on a bare cluster of real nodes, as a new user types it.

use crofter_test_cluster::real;

use super::{
    page,
    site::{Site, WORKER},
};

#[tokio::test]
async fn the_quickstart_goes_from_an_empty_cluster_to_the_log_of_a_job() {
    if !real::available_to_tests() {
        return;
    }
    let site = Site::prepare().await;
    let words = [
        ("registry.example.com", site.release.path.as_str()),
        ("worker-1", WORKER),
        ("docker.io/library/busybox:1.37", "crofter.test/busybox:1"),
    ];
    let steps = page::steps("quickstart.md", &words);
    assert_eq!(steps.len(), 6, "five commands and a view");
    for step in steps {
        let printed = site.wait_for_pods(&step.commands).await;
        let expected = step
            .expected
            .unwrap_or_else(|| panic!("the page does not say what this prints:\n{}", step.commands));
        page::compare(&expected, &printed).unwrap_or_else(|error| panic!("{}\n{error}", step.commands));
    }
}
