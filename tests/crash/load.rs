//! A thousand short jobs of three tenants, and the operator killed again and again: no quota and no node is exceeded at
//! any revision, and in the end the usage in Tenant status is the usage of the pods.

use std::{collections::HashMap, time::Duration};

use crofter::{
    api_types::JobPhase,
    domain::{
        attempt::{self, Observed},
        pod_requests,
        resources::Resources,
    },
};
use crofter_test_cluster::{NodeSpec, wait};
use futures::{StreamExt, stream};
use k8s_openapi::api::core::v1::Pod;
use kube::{ResourceExt, api::ListParams};
use serde_json::json;

use crate::{
    OPERATOR_FAULTS,
    common::{Verbs, phase},
    history::{Seen, of_pods},
};

/// Jobs in all.
const JOBS: usize = 1000;
/// How often the operator is killed while they run.
const KILLED: usize = 8;
/// A thousand jobs take longer than anything else here.
const LONG: Duration = Duration::from_secs(240);
/// What each tenant may have at once.
const MAX_JOBS: usize = 12;
const MAX_CORES: u64 = 4;
const NODE_CORES: u64 = 2;
const TENANTS: [&str; 3] = ["churn-own", "churn-left", "churn-right"];

async fn world_of_three(verbs: &Verbs<'_>) {
    let quotas = json!({"maxJobs": MAX_JOBS, "maxCpuCores": MAX_CORES});
    for name in TENANTS {
        let pools = if name == "churn-own" { json!([]) } else { json!(["churn"]) };
        verbs.tenant(name, json!({"plan": "enterprise", "quotas": quotas, "sharedPools": pools})).await;
    }
    for n in 1..=2 {
        verbs.worker(&format!("churn-own-{n}"), "churn-own", &NODE_CORES.to_string()).await;
        let name = format!("churn-pool-{n}");
        let label = "crofter.node-restriction.kubernetes.io/pool";
        let node = NodeSpec::new(&name).label(label, "churn").capacity(NODE_CORES.to_string(), "32Gi");
        verbs.world.cluster.add_node(&node).await.unwrap();
        verbs.until_admitted(&name, Some("pool.churn")).await;
    }
}

/// Submits all jobs, sixteen at a time.
async fn submit(verbs: &Verbs<'_>) {
    let one = |n: usize| async move {
        let spec = json!({
            "resources": {"cpu": format!("{}m", 100 + 100 * (n % 7)), "memory": "64Mi"},
            "parameters": {"run-seconds": format!("0.{}", 1 + n % 4)},
        });
        verbs.job(TENANTS[n % 3], &format!("job-{n}"), spec).await;
    };
    stream::iter(0..JOBS).for_each_concurrent(16, one).await;
}

async fn completed(verbs: &Verbs<'_>) -> usize {
    let mut count = 0;
    for tenant in TENANTS {
        let jobs = verbs.jobs(tenant).list(&ListParams::default()).await.unwrap().items;
        count += jobs.iter().filter(|job| phase(job) == JobPhase::Completed).count();
    }
    count
}

/// What may run of each tenant and on each node, checked at every version of every pod.
#[derive(Default)]
struct Books {
    pods: HashMap<String, (String, Option<String>, Resources)>,
    most_jobs: usize,
}

impl Books {
    fn take(&mut self, seen: &Seen<Pod>) {
        let pod = seen.object();
        let (uid, tenant) = (pod.uid().unwrap(), pod.namespace().unwrap());
        if matches!(seen, Seen::Deleted(_)) || matches!(attempt::observe(pod), Observed::Ended(_)) {
            self.pods.remove(&uid);
            return;
        }
        let node = attempt::node(pod).map(str::to_owned);
        self.pods.insert(uid, (tenant.clone(), node.clone(), pod_requests::of_pod(pod, "nvidia.com/gpu")));
        let cpu = |with: &dyn Fn(&str, Option<&str>) -> bool| {
            let all = self.pods.values().filter(|(tenant, node, _)| with(tenant, node.as_deref()));
            all.fold((0, 0), |sum, (_, _, asked)| (sum.0 + 1, sum.1 + asked.cpu_milli))
        };
        let (jobs, cores) = cpu(&|of, _| of == tenant);
        assert!(jobs <= MAX_JOBS, "{tenant} runs {jobs} jobs at {:?}", pod.resource_version());
        assert!(cores <= MAX_CORES * 1000, "{tenant} holds {cores} m of CPU at {:?}", pod.resource_version());
        self.most_jobs = self.most_jobs.max(jobs);
        if let Some(node) = node {
            let (_, used) = cpu(&|_, on| on == Some(&node));
            assert!(used <= NODE_CORES * 1000, "{node} holds {used} m of CPU");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_jobs_are_never_over_any_quota_and_nothing_leaks() {
    let (world, _exclusive) = OPERATOR_FAULTS.take().await;
    let verbs = world.verbs().await;
    let pods = of_pods(verbs.all()).await;
    world.start_operator();
    world_of_three(&verbs).await;
    submit(&verbs).await;
    for kill in 1..=KILLED {
        let goal = JOBS * kill / (KILLED + 2);
        wait::until(LONG, &format!("{goal} jobs to complete"), || async {
            let done = completed(&verbs).await;
            if done >= goal { Ok(()) } else { Err(done) }
        })
        .await
        .unwrap();
        world.kill_operator();
        world.start_operator();
    }
    wait::until(LONG, "all jobs to complete", || async {
        let done = completed(&verbs).await;
        if done == JOBS { Ok(()) } else { Err(done) }
    })
    .await
    .unwrap();

    let mut books = Books::default();
    let of_ours = |seen: &&Seen<Pod>| {
        let namespace = seen.object().namespace().unwrap_or_default();
        TENANTS.iter().any(|tenant| namespace == crate::common::namespace(tenant))
    };
    let events = pods.whole();
    events.iter().filter(of_ours).for_each(|seen| books.take(seen));
    assert!(books.pods.is_empty(), "nothing runs any more");
    assert!(books.most_jobs > MAX_JOBS / 2, "they ran concurrently, not one by one");
    for (n, tenant) in TENANTS.into_iter().enumerate() {
        let jobs = i64::try_from((JOBS - n).div_ceil(3)).unwrap();
        // Usage is written every 15 s at most.
        let books = verbs.until_tenant(tenant, "books that say what is", |tenant| {
            let usage = tenant.status.as_ref().and_then(|status| status.usage.clone()).unwrap_or_default();
            (usage.queued_jobs, usage.active_jobs, usage.cpu_millicores, usage.ended.completed)
                == (0, 0, 0, jobs)
                && usage.jobs_this_hour == jobs
        });
        books.await;
    }
}
