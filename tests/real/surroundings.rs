//! What a job's container finds around it.

use crofter::api_types::JobPhase;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::{ResourceExt, api::ListParams};
use serde_json::json;

use crate::{
    NODE_LOCK, WORKERS,
    common::{Verbs, namespace},
    script_with, world,
};

const INSPECT: &str = r#"
echo "user $(id -u)"
echo "job $CROFTER_JOB attempt $CROFTER_ATTEMPT of $CROFTER_TENANT, ${#CROFTER_JOB_UID}"
echo "parameter $CROFTER_PARAM_FRAME_COUNT in $CROFTER_PARAMETERS"
echo "variables $GREETING $PASSWORD $whole"
test -e /var/run/secrets && echo "a token" || echo "no token"
echo kept >/scratch/file && cat /scratch/file
echo "arguments $*"
pwd
"#;

async fn secret(verbs: &Verbs<'_>, tenant: &str) {
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "database"},
        "stringData": {"whole": format!("all-of-{tenant}"), "password": format!("word-of-{tenant}")},
    });
    verbs.create(&verbs.within::<Secret>(&namespace(tenant)), &secret).await.unwrap();
}

#[tokio::test]
async fn a_job_finds_its_own_world_on_its_tenants_node() {
    let Some(world) = world() else { return };
    let _shared = NODE_LOCK.read().await;
    let verbs = world.verbs().await;
    let more = json!({
        "args": ["zero", "one", "two"],
        "env": [
            {"name": "GREETING", "value": "hello"},
            {"name": "PASSWORD", "secretKeyRef": {"name": "database", "key": "password"}},
        ],
        "envFrom": [{"secret": "database"}],
        "parameters": {"frame-count": "24"},
        "volumes": [{"name": "scratch", "mountPath": "/scratch", "scratch": "16Mi"}],
        "workingDir": "/tmp",
        "resources": {"cpu": "150m", "memory": "48Mi", "ephemeralStorage": "64Mi", "bandwidthMbps": 10},
    });
    for (tenant, _) in WORKERS {
        secret(&verbs, tenant).await;
        verbs.job(tenant, "inspect", script_with(INSPECT, more.clone())).await;
    }
    for (tenant, node) in WORKERS {
        let job = verbs.until_phase(tenant, "inspect", JobPhase::Completed).await;
        let status = job.status.unwrap();
        assert_eq!(
            (status.node.as_deref(), status.exit_code, status.attempts.len()),
            (Some(node), Some(0), 1),
            "{tenant}"
        );
        let record = &status.attempts[0];
        assert_eq!((record.cpu_millicores, record.memory_bytes), (150, 48 << 20));
        assert_eq!((record.gpus, record.bandwidth_mbps), (0, 10));
        assert!(record.started_at.as_ref().unwrap().0 <= record.finished_at.0);
        let expected = format!(
            "user 65532\njob inspect attempt 1 of {tenant}, 36\nparameter 24 in {{\"frame-count\":\"24\"}}\n\
             variables hello word-of-{tenant} all-of-{tenant}\nno token\nkept\narguments one two\n/tmp\n"
        );
        assert_eq!(verbs.log(tenant, "inspect").await.unwrap(), expected);
        // Whatever else the tests run for this tenant.
        let pods = verbs.within::<Pod>(&namespace(tenant)).list(&ListParams::default()).await.unwrap();
        let elsewhere = pods.items.iter().filter(|pod| {
            pod.spec.as_ref().and_then(|s| s.node_name.as_deref()).is_some_and(|name| name != node)
        });
        assert_eq!(elsewhere.map(ResourceExt::name_any).collect::<Vec<_>>(), Vec::<String>::new());
    }
}
