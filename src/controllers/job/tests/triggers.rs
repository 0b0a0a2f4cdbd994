//! What makes the controller reconcile a job, and what it waits for before the first reconcile.

use super::*;

#[tokio::test(start_paused = true)]
async fn nothing_is_done_before_the_pods_are_known() {
    // Given: a job that retries, and a cache of pods that is not whole.
    let mut bench = bench(None);
    bench.job(json!({}), json!({}), json!({"phase": "Retrying", "attempt": 1}));
    let (pods, mut unknown) = kube::runtime::reflector::store();
    let (jobs, mut job_writer) = mock::cache();
    put(&mut job_writer, bench.fake.get(JOB));
    let job = jobs.state().remove(0);
    (bench.context.jobs, bench.context.pods) = (jobs, pods);
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let (invalid, writer) = invalid_ext::cache();
    bench.context.invalid = invalid;
    let (sender, all) = tokio::sync::mpsc::channel(1);
    sender.send(Change::Applied(job)).await.unwrap();
    // When: the controller runs.
    let running = tokio::spawn(run(
        Arc::new(bench.context),
        Changes { all, invalid: writer },
        stream::pending(),
        stream::pending(),
        stream::pending(),
        async { drop(stopped.await) },
    ));
    // Then: the job is reconciled only once the cache is whole.
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(outline(&bench.fake.calls()), [""; 0], "its first pod may still run");
    mock::drop_all(&mut unknown);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(outline(&bench.fake.calls()), [STATUS]);
    stop.send(()).unwrap();
    running.await.unwrap();
}

#[tokio::test]
async fn changed_tenants_concern_their_jobs_that_have_not_ended() {
    // Given: jobs of two tenants, one of which has ended.
    let (jobs, mut writer) = mock::cache::<Job>();
    for (name, namespace, phase) in [
        ("runs", "tenant-acme", "Running"),
        ("done", "tenant-acme", "Failed"),
        ("other", "tenant-b", "Queued"),
    ] {
        let metadata = json!({"name": name, "namespace": namespace});
        put(&mut writer, json!({"metadata": metadata, "spec": {"image": "i"}, "status": {"phase": phase}}));
    }
    let (tenants, mut tenant_writer) = mock::cache::<Tenant>();
    put(&mut tenant_writer, json!({"metadata": {"name": "acme"}, "spec": {}}));
    // When: a tenant changes its usage, its spec and its phase, and is deleted.
    let tenant = |generation: i64, phase: &str, active: i64| -> Arc<Tenant> {
        let status = json!({"phase": phase, "namespace": "tenant-acme", "usage": {"activeJobs": active}});
        let metadata = json!({"name": "acme", "uid": "t1", "generation": generation});
        Arc::new(serde_json::from_value(json!({"metadata": metadata, "spec": {}, "status": status})).unwrap())
    };
    let changes =
        [tenant(1, "Active", 0), tenant(1, "Active", 3), tenant(2, "Active", 3), tenant(2, "Suspended", 3)];
    let last = tenant(2, "Suspended", 3);
    let one_by_one = stream::iter(changes.clone()).then(async |tenant| {
        tokio::task::yield_now().await;
        tenant
    });
    let deleted = stream::once(async move {
        tokio::task::yield_now().await;
        mock::drop_all(&mut tenant_writer);
        last
    });
    // Then: its job is requeued, once for changes that come together, and not for usage.
    let names = |changes: BoxStream<'static, Arc<Tenant>>| {
        of_changed_tenants(changes, tenants.clone(), jobs.clone()).map(|job| job.name).collect::<Vec<_>>()
    };
    assert_eq!(names(stream::iter(changes).boxed()).await, ["runs"], "all jobs are searched once for them");
    assert_eq!(
        names(one_by_one.chain(deleted).boxed()).await,
        ["runs"; 4],
        "when it is deleted, too, and not for usage alone"
    );
}
