//! Every legal transition of a job's phase is made on a real control plane, and no other.

use std::{collections::BTreeSet, time::Duration};

use crofter::{
    api_types::{Job, JobPhase},
    domain::job_state::{storable, successors},
};
use crofter_test_cluster::wait;
use kube::{
    ResourceExt,
    api::{Patch, PatchParams},
    runtime::watcher,
};
use serde_json::json;
use strum::IntoEnumIterator;

use crate::{
    common::{Verbs, WAIT_TIMEOUT, phase, reason},
    fault_free,
    history::{History, check_jobs, check_pods, of_pods, transitions},
    kubelet::{ended, endless, evicted, past_its_deadline, running, silent, with},
};

const TENANT: &str = "mover";
/// The most that the pause of [`Verbs::next_pause_is_long`] takes.
const LONG_PAUSE: Duration = Duration::from_secs(40);

impl Verbs<'_> {
    /// Has a job wait for 30 to 40 s after its next disruption, as after the fourth. After the first it is 4 s from the
    /// end of the pod: an operator that hears of that end late writes Retrying and Queued at once, and no test sees the
    /// former.
    pub async fn next_pause_is_long(&self, tenant: &str, job: &str) {
        let often = Patch::Merge(json!({"status": {"disruptions": 3}}));
        self.jobs(tenant).patch_status(job, &PatchParams::default(), &often).await.unwrap();
    }
}

/// Jobs whose pod is bound and does not start for a while.
async fn from_assigned(verbs: &Verbs<'_>) {
    for name in ["starts", "ends", "fails", "late", "deleted", "unwanted"] {
        verbs.job(TENANT, &format!("slow-{name}"), silent()).await;
    }
    let assigned =
        async |name: &str| verbs.until_phase(TENANT, &format!("slow-{name}"), JobPhase::Assigned).await;
    verbs.kubelet(&assigned("starts").await, running()).await;
    // A busy kubelet reports a short container only when it has ended.
    verbs.kubelet(&assigned("ends").await, ended(0)).await;
    verbs.kubelet(&assigned("fails").await, ended(3)).await;
    verbs.kubelet(&assigned("late").await, past_its_deadline()).await;
    verbs.delete_pod(TENANT, &assigned("deleted").await).await;
    assigned("unwanted").await;
    verbs.patch_job(TENANT, "slow-unwanted", json!({"spec": {"canceled": true}})).await.unwrap();
}

async fn from_running(verbs: &Verbs<'_>) {
    let late = json!({"timeoutSeconds": 2});
    let again = with(late.clone(), json!({"retryPolicy": "Always", "maxRetries": 1}));
    let more = [
        ("ends", json!({})),
        ("fails", json!({})),
        ("unwanted", json!({})),
        ("late", late),
        ("again", again),
    ];
    for (name, more) in more {
        verbs.job(TENANT, name, with(endless(), more)).await;
    }
    verbs.kubelet(&verbs.until_phase(TENANT, "ends", JobPhase::Running).await, ended(0)).await;
    verbs.kubelet(&verbs.until_phase(TENANT, "fails", JobPhase::Running).await, ended(3)).await;
    verbs.until_phase(TENANT, "unwanted", JobPhase::Running).await;
    verbs.patch_job(TENANT, "unwanted", json!({"spec": {"canceled": true}})).await.unwrap();
}

/// Jobs that never start, and those that are to be tried again and are not.
async fn from_waiting(verbs: &Verbs<'_>) {
    verbs.job(TENANT, "refused", json!({"resources": {"gpus": 4}})).await;
    verbs.tenant("mover-idle", json!({"plan": "basic"})).await;
    verbs.job("mover-idle", "waits", json!({})).await;
    verbs.until_reason("mover-idle", "waits", "NoWorkers").await;
    verbs.patch_job("mover-idle", "waits", json!({"spec": {"canceled": true}})).await.unwrap();

    verbs.job(TENANT, "given-up", endless()).await;
    let running = verbs.until_phase(TENANT, "given-up", JobPhase::Running).await;
    verbs.next_pause_is_long(TENANT, "given-up").await;
    verbs.kubelet(&running, evicted()).await;
    verbs.until_phase(TENANT, "given-up", JobPhase::Retrying).await;
    verbs.patch_job(TENANT, "given-up", json!({"spec": {"canceled": true}})).await.unwrap();

    verbs.tenant("mover-cut", json!({"plan": "basic"})).await;
    verbs.worker("mover-cut-1", "mover-cut", "2").await;
    verbs.job("mover-cut", "used-up", endless()).await;
    let running = verbs.until_phase("mover-cut", "used-up", JobPhase::Running).await;
    verbs.next_pause_is_long("mover-cut", "used-up").await;
    verbs.kubelet(&running, evicted()).await;
    verbs.until_phase("mover-cut", "used-up", JobPhase::Retrying).await;
    // As if the attempt had run for two minutes, of which the plan then allows one.
    let used = Patch::Merge(json!({"status": {"runningMillis": 120_000}}));
    verbs.jobs("mover-cut").patch_status("used-up", &PatchParams::default(), &used).await.unwrap();
    verbs.patch_tenant("mover-cut", json!({"spec": {"quotas": {"jobTimeoutMinutes": 1}}})).await.unwrap();
}

/// Name, end and reason of every job; those of which only the move away from Assigned was wanted are canceled.
async fn all_end(verbs: &Verbs<'_>, jobs: &History<Job>) {
    for (name, phase) in [("starts", JobPhase::Running), ("deleted", JobPhase::Assigned)] {
        let name = format!("slow-{name}");
        let there =
            |job: &Job| crate::common::phase(job) == phase && (name != "slow-deleted" || attempt(job) == 2);
        verbs.until_job(TENANT, &name, "to have moved", there).await;
        verbs.patch_job(TENANT, &name, json!({"spec": {"canceled": true}})).await.unwrap();
    }
    wait::until(LONG_PAUSE + WAIT_TIMEOUT, "the long pause to be over", async || {
        let job = verbs.jobs("mover-cut").get("used-up").await.map_err(|error| error.to_string())?;
        if phase(&job) == JobPhase::Retrying { Err(format!("{:?}", job.status)) } else { Ok(()) }
    })
    .await
    .unwrap();
    for (tenant, name, phase, why) in [
        (TENANT, "slow-starts", JobPhase::Canceled, "Canceled"),
        (TENANT, "slow-ends", JobPhase::Completed, "Succeeded"),
        (TENANT, "slow-fails", JobPhase::Failed, "NonZeroExit"),
        (TENANT, "slow-late", JobPhase::TimedOut, "DeadlineExceeded"),
        (TENANT, "slow-deleted", JobPhase::Canceled, "Canceled"),
        (TENANT, "slow-unwanted", JobPhase::Canceled, "Canceled"),
        (TENANT, "ends", JobPhase::Completed, "Succeeded"),
        (TENANT, "fails", JobPhase::Failed, "NonZeroExit"),
        (TENANT, "late", JobPhase::TimedOut, "DeadlineExceeded"),
        (TENANT, "again", JobPhase::TimedOut, "DeadlineExceeded"),
        (TENANT, "unwanted", JobPhase::Canceled, "Canceled"),
        (TENANT, "refused", JobPhase::Rejected, "ExceedsQuota"),
        (TENANT, "given-up", JobPhase::Canceled, "Canceled"),
        ("mover-idle", "waits", JobPhase::Canceled, "Canceled"),
        ("mover-cut", "used-up", JobPhase::Failed, "DeadlineExceeded"),
    ] {
        let job = verbs.until_phase(tenant, name, phase).await;
        assert_eq!(reason(&job), why, "{tenant}/{name}");
        jobs.reaches(&job).await;
    }
}

fn attempt(job: &Job) -> i32 {
    job.status.as_ref().map_or(0, |status| status.attempt)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_legal_move_is_made_and_no_other() {
    let verbs = fault_free().verbs().await;
    let jobs = History::<Job>::start(verbs.all(), watcher::Config::default()).await;
    let pods = of_pods(verbs.all()).await;
    verbs.tenant(TENANT, json!({"plan": "basic"})).await;
    verbs.worker(&format!("{TENANT}-1"), TENANT, "8").await;
    futures::join!(from_assigned(&verbs), from_running(&verbs), from_waiting(&verbs));
    all_end(&verbs, &jobs).await;

    let ours = |namespace: Option<String>| namespace.is_some_and(|n| n.starts_with("tenant-mover"));
    let jobs: Vec<_> = jobs.whole().into_iter().filter(|seen| ours(seen.object().namespace())).collect();
    check_jobs(&jobs);
    check_pods(&pods.whole().into_iter().filter(|seen| ours(seen.object().namespace())).collect::<Vec<_>>());
    let seen: BTreeSet<_> = transitions(&jobs).into_iter().map(|(from, to, _)| (from, to)).collect();
    for (from, to) in &seen {
        assert!(storable(*from).contains(to), "{from} > {to} was written");
    }
    let legal = JobPhase::iter().flat_map(|from| successors(from).iter().map(move |to| (from, *to)));
    let unseen: Vec<_> = legal.filter(|step| !seen.contains(step)).collect();
    // A job that ran too long and is retried is stored as Retrying at once: TimedOut, once stored, is an end. The
    // reason shows that the job timed out.
    assert_eq!(unseen, [(JobPhase::TimedOut, JobPhase::Retrying)]);
    let by_timeout = |(from, to, job): &(JobPhase, JobPhase, Job)| {
        (*from, *to, reason(job)) == (JobPhase::Running, JobPhase::Retrying, "DeadlineExceeded")
    };
    assert!(transitions(&jobs).iter().any(by_timeout));
}
