//! What the schemas admit and what the operator reads are the same: every field of the three CRDs is tried at its
//! bounds and in every spelling on the real API server, and whatever is admitted is read, and written again as it was
//! read.
//!
//! Nothing is stored: all requests are dry runs.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::{AtomicUsize, Ordering},
};

use crofter::{
    api_types::{Job, Scenarios, Tenant, TenantApiKey, crd, quota::QuotaDimension, tenant::TenantUsage},
    domain::{
        api_key::lifecycle,
        resources::{AskError, Resources},
    },
    names,
};
use futures::{StreamExt, stream};
use kube::{Resource, api::Patch, api::PatchParams, api::PostParams, core::Request};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use crate::{common::Verbs, world};

/// Requests at a time.
const AT_ONCE: usize = 8;

const TIMES: [&str; 22] = [
    "9999-12-31T23:59:59Z",
    "9999-12-31T23:59:59.999999999Z",
    "9999-12-31T23:59:59-23:59",
    "9999-12-30T22:00:00Z",
    "9998-12-31T23:59:59Z",
    "0000-01-01T00:00:00Z",
    "0000-01-01T00:00:00+23:59",
    "2030-01-01T00:00:00Z",
    "2030-01-01t00:00:00z",
    "2030-01-01T00:00:00.1Z",
    "2030-01-01T00:00:00.1234567890Z",
    "2030-01-01T00:00:00,5Z",
    "2030-01-01T00:00:00x5Z",
    "2030-01-01T00:00:00+14:00",
    "2030-01-01T00:00:00+25:59",
    "2030-01-01T00:00:00+99:99",
    "2030-01-01T00:00:00-00:00",
    "2030-01-01T23:59:60Z",
    "2030-02-30T00:00:00Z",
    "2030-01-01T00:00:00ZT00:00:00Z",
    "2030-01-01 00:00:00Z",
    "2030-01-01",
];

const QUANTITIES: [&str; 44] = [
    "0",
    "-0",
    "+0",
    "0m",
    "0e9",
    "1",
    "+1",
    "-1",
    "1.",
    ".5",
    "1.5",
    "1m",
    "0.1m",
    "500m",
    "1n",
    "1u",
    "1k",
    "1M",
    "1G",
    "1T",
    "1P",
    "1E",
    "1Ki",
    "16Mi",
    "1Gi",
    "1Ti",
    "1Pi",
    "1Ei",
    "1e3",
    "1E3",
    "1e+3",
    "1e-3",
    "1e-400",
    "1e400",
    "9999999Ei",
    "1.0000000000000000000000000001T",
    "10000000000000000000000000000e-20",
    "000000000000000000000000000016Mi",
    "100k",
    "100001",
    "1Mi",
    "1gi",
    "",
    "many",
];

const TEXTS: [&str; 45] = [
    "",
    "a",
    "A",
    "0",
    "-",
    ".",
    "..",
    "..a",
    "a.",
    ".a",
    "-a",
    "a-",
    "a.b",
    "a..b",
    "a.-b",
    "a/b",
    "a:b",
    "a b",
    " a",
    "a\n",
    "a\u{0}b",
    "ä",
    "_",
    "A_B",
    "1A",
    "a=b",
    "CROFTER_X",
    "NVIDIA_VISIBLE_DEVICES",
    "crofter-key-a",
    "crofter-key-",
    "crofter-key-a..b",
    "/",
    "//",
    "/a",
    "/a/",
    "/a:b",
    "registry.example.com:5000/a/b:c@sha256:0123",
    "1m",
    "1s1h",
    "2562047h",
    "2562048h",
    "9223372036s",
    "00000000000000000000000000001h",
    "30s",
    "AAAA",
];

const NUMBERS: [i64; 12] =
    [i64::MIN, -2_147_483_649, -2, -1, 0, 1, 2, 3600, 2_147_483_647, 2_147_483_648, 9_223_372_036, i64::MAX];

/// What is tried in place of a value with this schema.
fn candidates(schema: &Value) -> Vec<Value> {
    let mut all = vec![Value::Null];
    let texts = |texts: &[&str]| texts.iter().map(|text| json!(text)).collect::<Vec<_>>();
    if schema["format"] == "date-time" {
        all.extend(texts(&TIMES));
    } else if schema["x-kubernetes-int-or-string"] == true {
        all.extend(texts(&QUANTITIES));
        all.extend([-1, 0, 1, 100_000, 16_777_216, i64::MAX].map(Value::from));
        all.extend([json!(1.0), json!(0.5), json!(true)]);
    } else {
        match schema["type"].as_str().unwrap() {
            "string" => {
                all.extend(texts(&TEXTS));
                all.extend(schema["enum"].as_array().into_iter().flatten().cloned());
                for length in [&schema["minLength"], &schema["maxLength"]] {
                    let length = length.as_u64().and_then(|n| usize::try_from(n).ok()).unwrap_or(1);
                    for text in [
                        "a".repeat(length),
                        "a".repeat(length + 1),
                        "ä".repeat(length),
                        "/".to_owned() + &"a".repeat(length - length.min(1)),
                    ] {
                        all.push(json!(text));
                    }
                }
            }
            "integer" => {
                let bounds = [&schema["minimum"], &schema["maximum"]].map(|bound| bound.as_f64());
                let bounds = bounds.into_iter().flatten().flat_map(|bound| [bound - 1.0, bound, bound + 1.0]);
                all.extend(bounds.map(Value::from));
                all.extend(NUMBERS.map(Value::from));
                all.extend([json!(1e30), json!(0.5), json!("1")]);
            }
            "boolean" => all.extend([json!(true), json!(false), json!("true")]),
            "array" => all.push(json!([])),
            "object" => all.push(json!({})),
            other => panic!("a field of type {other}"),
        }
    }
    all
}

/// The JSON pointer of every part of a value, with its schema. `seen` gets the path of each within the schema.
fn places(
    schema: &Value,
    value: &Value,
    at: &str,
    path: &str,
    seen: &mut BTreeSet<String>,
    all: &mut Vec<(String, Value)>,
) {
    seen.insert(path.to_owned());
    all.push((at.to_owned(), schema.clone()));
    for (name, inner) in value.as_object().into_iter().flatten() {
        let property = &schema["properties"][name];
        let inner_schema = if property.is_null() { &schema["additionalProperties"] } else { property };
        places(inner_schema, inner, &format!("{at}/{name}"), &format!("{path}.{name}"), seen, all);
    }
    for (index, inner) in value.as_array().into_iter().flatten().enumerate() {
        places(&schema["items"], inner, &format!("{at}/{index}"), path, seen, all);
    }
}

/// Every quota.
fn quotas() -> Value {
    QuotaDimension::all().map(|dimension| (dimension.field(), json!(1))).collect()
}

/// The path of every field of a schema.
fn fields(schema: &Value, path: &str, all: &mut BTreeSet<String>) {
    all.insert(path.to_owned());
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        fields(property, &format!("{path}.{name}"), all);
    }
    if schema["items"].is_object() {
        fields(&schema["items"], path, all);
    }
}

fn schema(kind: &str, part: &str) -> Value {
    let crds = crd::all();
    let (_, found) = crds.iter().find(|(_, crd)| crd.spec.names.kind == kind).unwrap();
    json!(found)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"][part].clone()
}

/// The variants of a whole `part` in which one part has another value, each with the pointer of that part.
fn variants(kind: &str, part: &str, whole: &Value) -> Vec<(String, Value)> {
    let schema = schema(kind, part);
    let (mut seen, mut all, mut places_of) = (BTreeSet::new(), BTreeSet::new(), Vec::new());
    places(&schema, whole, "", part, &mut seen, &mut places_of);
    fields(&schema, part, &mut all);
    assert_eq!(all.difference(&seen).collect::<Vec<_>>(), [""; 0], "fields of {kind} that are not tried");
    let variant = |(at, schema): &(String, Value)| {
        candidates(schema)
            .into_iter()
            .map(|value| {
                let mut changed = whole.clone();
                *changed.pointer_mut(at).unwrap() = value.clone();
                let shown: String = value.to_string().chars().take(60).collect();
                (format!("{kind} {part}{at}: {shown}"), changed)
            })
            .collect::<Vec<_>>()
    };
    places_of.iter().filter(|(at, _)| !at.is_empty()).flat_map(variant).collect()
}

/// A create, without effect: the object as it would be stored, or `None` where it is refused.
async fn admitted<K>(verbs: &Verbs<'_>, url: &str, spec: &Value) -> Option<String>
where
    K: Resource<DynamicType = ()>,
{
    let object = json!({
        "apiVersion": K::api_version(&()), "kind": K::kind(&()), "metadata": {"name": "tried"}, "spec": spec,
    });
    let params = PostParams { dry_run: true, field_manager: None };
    let request = Request::new(url).create(&params, serde_json::to_vec(&object).unwrap()).unwrap();
    text(verbs, request).await
}

async fn text(verbs: &Verbs<'_>, request: http::Request<Vec<u8>>) -> Option<String> {
    match verbs.client.request_text(request).await {
        Ok(text) => Some(text),
        Err(kube::Error::Api(status)) if matches!(status.code, 400 | 422) => None,
        Err(other) => panic!("no answer: {other}"),
    }
}

/// Tries each variant of a spec; `check` finds what is wrong with one that was read.
async fn specs_are_read<K>(whole: Value, url: &str, check: impl Fn(&K) -> Result<(), String> + Sync)
where
    K: Resource<DynamicType = ()> + DeserializeOwned + Serialize,
{
    let verbs = world().verbs().await;
    let kind = K::kind(&()).into_owned();
    assert!(admitted::<K>(&verbs, url, &whole).await.is_some(), "the whole {kind} is admitted");
    a_null_is_an_absent_field::<K>(&verbs, url, &whole).await;
    let refused = AtomicUsize::new(0);
    let one = async |(what, spec): (String, Value)| {
        let Some(stored) = admitted::<K>(&verbs, url, &spec).await else {
            refused.fetch_add(1, Ordering::Relaxed);
            return None;
        };
        let read: K = match serde_json::from_str(&stored) {
            Ok(read) => read,
            Err(error) => return Some(format!("{what} is admitted and can't be read: {error}")),
        };
        if let Err(wrong) = check(&read) {
            return Some(format!("{what} is admitted: {wrong}"));
        }
        let written = json!(read)["spec"].clone();
        let again = admitted::<K>(&verbs, url, &written).await;
        again.is_none().then(|| format!("{what} is read and written as {written}, which is refused"))
    };
    let all = variants(&kind, "spec", &whole);
    let count = all.len();
    let wrong: Vec<Option<String>> = stream::iter(all).map(one).buffer_unordered(AT_ONCE).collect().await;
    assert_eq!(wrong.into_iter().flatten().collect::<Vec<_>>(), [""; 0]);
    let refused = refused.into_inner();
    assert!(refused > count / 10 && refused < count, "{refused} of {count} {kind}s were refused");
}

#[tokio::test]
async fn every_tenant_that_the_schema_admits_is_read() {
    let whole = json!({
        "displayName": "Acme", "plan": "free", "suspended": false, "suspendPolicy": "Hold",
        "expiresAt": "2030-01-01T00:00:00Z",
        "quotas": quotas(),
        "sharedPools": ["gpu"],
        "access": [
            {"kind": "User", "name": "ann", "role": "admin"},
            {"kind": "ServiceAccount", "name": "ci", "namespace": "build", "role": "viewer"},
        ],
        "networkIsolation": "Isolated", "podSecurity": "Restricted", "elastic": false, "deletionPolicy": "Delete",
        "preventDeletion": false, "metadata": {"contact": "ann"},
    });
    let url = "/apis/crofter.io/v1alpha1/tenants";
    specs_are_read::<Tenant>(whole, url, |_| Ok(())).await;
}

#[tokio::test]
async fn every_job_that_the_schema_admits_is_read() {
    // Given a job with every field.
    let whole = json!({
        "image": "registry/render:1", "command": ["/render"], "args": ["--fast"], "workingDir": "/work",
        "env": [
            {"name": "A", "value": "1"},
            {"name": "B", "secretKeyRef": {"name": "s", "key": "k"}},
            {"name": "C", "configMapKeyRef": {"name": "c", "key": "k"}},
        ],
        "envFrom": [{"secret": "s"}, {"configMap": "c"}], "parameters": {"frame-no": "7"}, "scenario": "train",
        "resources": {"cpu": "1500m", "memory": "1Gi", "gpus": 1, "ephemeralStorage": "2Gi", "bandwidthMbps": 10},
        "runAsUser": 1000,
        "volumes": [
            {"name": "out", "mountPath": "/out", "claim": "results", "readOnly": true},
            {"name": "tmp", "mountPath": "/tmp", "scratch": "1Gi"},
        ],
        "imagePullSecrets": ["pull"], "queue": "live", "priority": "high", "timeoutSeconds": 60, "maxRetries": 1,
        "retryPolicy": "Always", "pool": "gpu", "onQuota": "Reject", "ttlSecondsAfterFinished": 60, "canceled": false,
    });
    // Each variant that the schema admits is read, and asks for resources.
    let catalogue = Scenarios::from_yaml("scenarios: {train: {image: i}}").unwrap();
    let url = "/apis/crofter.io/v1alpha1/namespaces/default/jobs";
    specs_are_read::<Job>(whole, url, |job| match Resources::of_job(&job.spec, &catalogue) {
        Ok(asked) if asked.cpu_milli == 0 || asked.memory_bytes < 16 << 20 => {
            Err(format!("it asks for {asked:?}"))
        }
        Ok(_) | Err(AskError::Scenario(_)) => Ok(()),
        Err(error) => Err(error.to_string()),
    })
    .await;
}

/// To every rule a null is an absent field.
async fn a_null_is_an_absent_field<K>(verbs: &Verbs<'_>, url: &str, whole: &Value)
where
    K: Resource<DynamicType = ()>,
{
    let stored = async |spec: &Value| {
        let text = admitted::<K>(verbs, url, spec).await?;
        Some(serde_json::from_str::<Value>(&text).unwrap()["spec"].clone())
    };
    let (kind, mut all) = (K::kind(&()), Vec::new());
    places(&schema(&kind, "spec"), whole, "", "spec", &mut BTreeSet::new(), &mut all);
    for (at, _) in all {
        let Some((parent, name)) = at.rsplit_once('/') else { continue };
        let (mut null, mut absent) = (whole.clone(), whole.clone());
        *null.pointer_mut(&at).unwrap() = Value::Null;
        let Some(object) = absent.pointer_mut(parent).unwrap().as_object_mut() else { continue };
        object.remove(name);
        assert_eq!(stored(&null).await, stored(&absent).await, "{kind} spec{at}");
    }
}

#[tokio::test]
async fn every_key_that_the_schema_admits_is_read() {
    let whole = json!({
        "displayName": "ci", "scopes": ["jobs:read", "jobs:write", "keys:read", "keys:write", "tenant:read"],
        "expiresAt": "2030-01-01T00:00:00Z", "rotateEvery": "720h", "overlapSeconds": 60, "revoked": false,
        "secretName": "crofter-key-ci",
    });
    let url = "/apis/crofter.io/v1alpha1/namespaces/default/tenantapikeys";
    specs_are_read::<TenantApiKey>(whole, url, |key| {
        let secret = key.secret_name();
        if !names::is_key_secret(&secret) || secret.len() > 253 {
            return Err(format!("its Secret would be {secret}"));
        }
        match key.spec.rotate_every.as_deref() {
            Some(text) if lifecycle::period(text).is_none() => {
                Err(format!("rotateEvery {text} is no period"))
            }
            _ => Ok(()),
        }
    })
    .await;
}

/// Statuses, which the operator alone writes: what one could be is read all the same.
async fn statuses_are_read<K>(object: Value, url: &str, status: Value)
where
    K: Resource<DynamicType = ()> + DeserializeOwned,
{
    let verbs = world().verbs().await;
    let kind = K::kind(&()).into_owned();
    let create =
        Request::new(url).create(&PostParams::default(), serde_json::to_vec(&object).unwrap()).unwrap();
    text(&verbs, create).await.expect("the object is admitted");
    let name = object["metadata"]["name"].as_str().unwrap();
    let write = async |status: &Value| {
        let params = PatchParams { dry_run: true, ..PatchParams::default() };
        let patch = Patch::Merge(json!({"status": status}));
        text(&verbs, Request::new(url).patch_subresource("status", name, &params, &patch).unwrap()).await
    };
    assert!(write(&status).await.is_some(), "the whole status of {kind} is admitted");
    let one = async |(what, status): (String, Value)| {
        let stored = write(&status).await?;
        let read = serde_json::from_str::<K>(&stored);
        read.err().map(|error| format!("{what} is admitted and can't be read: {error}"))
    };
    let all = variants(&kind, "status", &status);
    let wrong: Vec<Option<String>> = stream::iter(all).map(one).buffer_unordered(AT_ONCE).collect().await;
    assert_eq!(wrong.into_iter().flatten().collect::<Vec<_>>(), [""; 0]);
}

fn conditions() -> Value {
    json!([{
        "type": "Ready", "status": "True", "reason": "Fine", "message": "fine", "observedGeneration": 1,
        "lastTransitionTime": "2030-01-01T00:00:00Z",
    }])
}

fn paused(kind: &str, name: &str, spec: Value) -> Value {
    json!({
        "apiVersion": "crofter.io/v1alpha1", "kind": kind, "spec": spec,
        "metadata": {"name": name, "annotations": BTreeMap::from([(names::ANNOTATION_PAUSED, "true")])},
    })
}

#[tokio::test]
async fn every_status_that_the_schemas_admit_is_read() {
    let time = "2030-01-01T00:00:00Z";
    // Tenants.
    let mut usage = json!(TenantUsage::default());
    usage["jobsHourResetAt"] = json!(time);
    let tenant = json!({
        "observedGeneration": 1, "phase": "Active", "namespace": "tenant-x", "effectiveQuotas": quotas(), "applied": "x",
        "usage": usage,
        "jobWindow": {"resetsAt": time, "notBefore": time, "settled": 1, "settling": ["u"]},
        "summary": {"jobs": "1", "cpu": "1", "memory": "1", "gpus": "1", "workers": "1", "jobsThisHour": "1"},
        "conditions": conditions(),
    });
    let base = "/apis/crofter.io/v1alpha1";
    let object = paused("Tenant", "status-tried", json!({}));
    statuses_are_read::<Tenant>(object, &format!("{base}/tenants"), tenant).await;

    // Jobs.
    let job = json!({
        "observedGeneration": 1, "phase": "Running", "reason": "Running", "message": "runs", "attempt": 1, "retries": 0,
        "chargedRetries": 1, "disruptions": 0,
        "pod": "p", "node": "n", "workerGroup": "g", "assignedAt": time, "startedAt": time, "finishedAt": time,
        "notBefore": time, "exitCode": 1, "runningMillis": 1,
        "attempts": [{
            "attempt": 1, "pod": "p", "node": "n", "startedAt": time, "finishedAt": time, "reason": "x", "exitCode": 1,
            "cpuMillicores": 1, "memoryBytes": 1, "gpus": 1, "bandwidthMbps": 1,
        }],
        "conditions": conditions(),
    });
    let object = paused("Job", "status-tried", json!({"image": "i"}));
    statuses_are_read::<Job>(object, &format!("{base}/namespaces/default/jobs"), job).await;

    // API keys.
    let key = json!({
        "observedGeneration": 1, "keyId": "abcdefghijkl", "lastRotateRequest": "now", "conditions": conditions(),
        "versions": [{
            "keyId": "abcdefghijkl", "macs": [{"pepper": 1, "mac": "AAAA"}], "createdAt": time, "validUntil": time,
        }],
    });
    let object = paused("TenantApiKey", "status-tried", json!({}));
    statuses_are_read::<TenantApiKey>(object, &format!("{base}/namespaces/default/tenantapikeys"), key).await;
}
