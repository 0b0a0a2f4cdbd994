//! Fourth step: the cluster is brought in line with the children that a tenant should have.
//!
//! A namespace is only ever taken for the tenant's when it carries the tenant's UID. It is made by `create`, which
//! fails where one exists, and changed under its own UID, so that no race lets a foreign one be adopted.

use std::fmt::Debug;

use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        core::v1::{LimitRange, Namespace, ResourceQuota, ServiceAccount},
        networking::v1::NetworkPolicy,
        rbac::v1::RoleBinding,
    },
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::PostParams,
    core::PartialObjectMeta,
    runtime::reflector::{ObjectRef, Store},
};
use serde::{Serialize, de::DeserializeOwned};
use sha2::{Digest, Sha256};

use super::{
    Context,
    build::{self, Children},
    error::Error,
    reconcile_state::{Fingerprint, Hashes, Key, Versions},
    status::Outcome,
    validate::{Owner, Refusal, Validated},
};
use crate::{
    api_types::{Reason, Tenant},
    kube_ext::{
        CallError,
        apply::{self, delete_exactly},
        call::within_opt,
        within,
    },
    names,
};

/// The children that exist, as the controller's own watches know them.
#[derive(Clone)]
pub(super) struct Known {
    pub(super) namespaces: Store<PartialObjectMeta<Namespace>>,
    pub(super) quotas: Store<ResourceQuota>,
    pub(super) limits: Store<PartialObjectMeta<LimitRange>>,
    pub(super) policies: Store<PartialObjectMeta<NetworkPolicy>>,
    pub(super) accounts: Store<PartialObjectMeta<ServiceAccount>>,
    pub(super) bindings: Store<PartialObjectMeta<RoleBinding>>,
}

impl Known {
    /// The versions of the children, where all of them exist.
    pub(super) fn versions(&self, children: &Children) -> Option<Versions> {
        let Children { namespace, quota, objects, limits, policies, account, bindings } = children;
        let mut versions = Versions::from([
            version_in(&self.namespaces, namespace)?,
            version_in(&self.quotas, quota)?,
            version_in(&self.limits, limits)?,
            version_in(&self.accounts, account)?,
        ]);
        if let Some(objects) = objects {
            versions.extend([version_in(&self.quotas, objects)?]);
        }
        for policy in policies {
            versions.extend([version_in(&self.policies, policy)?]);
        }
        for binding in bindings {
            versions.extend([version_in(&self.bindings, binding)?]);
        }
        Some(versions)
    }
}

/// The hash of each child.
///
/// # Errors
/// Where a child can't be put into JSON.
pub(super) fn hashes(children: &Children) -> Result<Hashes, serde_json::Error> {
    fn one<K: Child + Serialize>(child: &K) -> Result<(Key, Fingerprint), serde_json::Error> {
        let key = (K::kind(&()).into_owned(), child.name_any());
        Ok((key, Sha256::digest(serde_json::to_vec(child)?).into()))
    }
    let Children { namespace, quota, objects, limits, policies, account, bindings } = children;
    let alone = [one(namespace), one(quota), one(limits), one(account)];
    let quotas = objects.iter().map(one);
    alone.into_iter().chain(quotas).chain(policies.iter().map(one)).chain(bindings.iter().map(one)).collect()
}

fn version_in<K: Child, M: Child>(known: &Store<M>, child: &K) -> Option<((String, String), String)> {
    let name = child.name_any();
    let reference = ObjectRef::<M>::new(&name);
    let reference = child.namespace().iter().fold(reference, |reference, space| reference.within(space));
    let version = known.get(&reference)?.version();
    Some(((K::kind(&()).into_owned(), name), version))
}

/// What exists under the name of a tenant's namespace.
#[derive(Debug)]
pub(super) enum Found {
    Absent,
    /// The tenant's own.
    Ours(Namespace),
    /// Being deleted, whether it was the tenant's or not.
    Terminating(Namespace),
    /// Foreign; with a message that says whose.
    Foreign(String),
}

/// Reads the namespace from the API server, not from a cache.
pub(super) async fn find_namespace(client: &Client, owner: &Owner) -> Result<Found, Error> {
    let api: Api<Namespace> = Api::all(client.clone());
    let name = &owner.namespace;
    let found = within_opt(format!("failed to read Namespace {name}"), api.get(name)).await;
    let found = found.map_err(|source| Error::ReadNamespace { namespace: name.clone(), source })?;
    let Some(found) = found else { return Ok(Found::Absent) };
    if found.metadata.deletion_timestamp.is_some() {
        return Ok(Found::Terminating(found));
    }
    let labels = found.labels();
    Ok(match labels.get(names::LABEL_TENANT_UID) {
        Some(uid) if *uid == owner.uid => Found::Ours(found),
        Some(uid) => {
            let other = labels.get(names::LABEL_TENANT).map_or("unknown", String::as_str);
            Found::Foreign(format!(
                "namespace {name} belongs to another tenant ({other}, UID {uid}) and is not touched: delete it, or \
                 give this tenant another name"
            ))
        }
        None => Found::Foreign(format!(
            "namespace {name} exists and is no tenant's, so it is not touched: delete it, or give this tenant another \
             name"
        )),
    })
}

/// Applies the children of a tenant, unless just these were applied last and no other client has changed one.
pub(super) async fn apply(
    tenant: &Tenant,
    valid: &Validated,
    fingerprint: Fingerprint,
    context: &Context,
) -> Result<Outcome, Error> {
    let owner = &valid.owner;
    let provisioned =
        Outcome::Provisioned { namespace: owner.namespace.clone(), quotas: valid.quotas.clone() };
    if let Some(kept) = tenant.status.as_ref().and_then(|status| status.applied.as_deref()) {
        context.state.resume(&owner.name, &fingerprint, kept, || {
            let children = build::build(valid);
            Some((context.known.versions(&children)?, hashes(&children).ok()?))
        });
    }
    if context.state.is_applied(&owner.name, &fingerprint) {
        return Ok(provisioned);
    }
    let found = match find_namespace(&context.dependencies.client, owner).await? {
        Found::Absent => None,
        Found::Ours(namespace) => Some(namespace),
        Found::Terminating(_) => {
            let message = format!("waiting for the earlier namespace {} to be deleted", owner.namespace);
            return Ok(Outcome::Working { reason: Reason::Provisioning, message });
        }
        Found::Foreign(message) => {
            return Ok(Outcome::Stalled(Refusal { reason: Reason::NamespaceConflict, message }));
        }
    };
    apply_all(context, owner, found.as_ref(), build::build(valid)).await?;
    tracing::info!(tenant = owner.name, namespace = owner.namespace, "children applied");
    context.state.applied(&owner.name, fingerprint);
    Ok(provisioned)
}

/// Applies the children that differ from what was applied last, to the namespace as it was found (`None`: it is to be
/// made), and deletes those that are not wanted.
async fn apply_all(
    context: &Context,
    owner: &Owner,
    found: Option<&Namespace>,
    children: Children,
) -> Result<(), Error> {
    let serialise = |source| Error::SerialiseChildren { tenant: owner.name.clone(), source };
    let wanted = hashes(&children).map_err(serialise)?;
    let Children { mut namespace, quota, objects, limits, policies, account, bindings } = children;
    let Known { quotas, limits: ranges, policies: networks, accounts, bindings: grants, .. } = &context.known;
    if found.is_none() {
        context.state.forget_children(&owner.name);
    }
    context.state.applying(&owner.name, &wanted);
    let namespaces: Api<Namespace> = Api::all(context.dependencies.client.clone());
    let uid = match found {
        Some(found) => found.uid(),
        None => {
            let what = format!("failed to create Namespace {}", owner.namespace);
            let created = within(what, namespaces.create(&PostParams::default(), &namespace)).await;
            let failed = |source| Error::CreateNamespace { namespace: owner.namespace.clone(), source };
            created.map_err(failed)?.uid()
        }
    };
    // With the UID the API server refuses when another namespace has taken the name meanwhile.
    namespace.metadata.uid = uid;
    apply_one(context, &namespaces, owner, &namespace)
        .await
        .map_err(|source| not_applied(&namespace, source))?;
    let wanted: Vec<_> = [quota].into_iter().chain(objects).collect();
    apply_kind(context, quotas, owner, &wanted).await?;
    apply_kind(context, ranges, owner, &[limits]).await?;
    apply_kind(context, networks, owner, &policies).await?;
    apply_kind(context, accounts, owner, &[account]).await?;
    apply_kind(context, grants, owner, &bindings).await
}

/// Deletes all children but the namespace.
pub(super) async fn remove_all(context: &Context, owner: &Owner) -> Result<(), Error> {
    let Known { quotas, limits, policies, accounts, bindings, .. } = &context.known;
    remove_others::<RoleBinding, _>(context, bindings, owner, &[]).await?;
    remove_others::<ServiceAccount, _>(context, accounts, owner, &[]).await?;
    remove_others::<NetworkPolicy, _>(context, policies, owner, &[]).await?;
    remove_others::<LimitRange, _>(context, limits, owner, &[]).await?;
    remove_others::<ResourceQuota, _>(context, quotas, owner, &[]).await
}

/// Applies one child, unless it is as it was applied last, and records its version, by which the watch's event of it is
/// known for our own write.
async fn apply_one<K>(context: &Context, api: &Api<K>, owner: &Owner, child: &K) -> Result<(), CallError>
where
    K: Child + Serialize + DeserializeOwned,
{
    if context.state.is_recorded(&owner.name, &K::kind(&()), &child.name_any()) {
        return Ok(());
    }
    let applied = apply::apply(api, child).await?;
    context.state.recorded(&owner.name, &K::kind(&()), &child.name_any(), applied.version());
    Ok(())
}

/// Applies the desired objects of one kind, and deletes those of ours that are not desired.
async fn apply_kind<K, M>(
    context: &Context,
    known: &Store<M>,
    owner: &Owner,
    desired: &[K],
) -> Result<(), Error>
where
    K: Child<Scope = NamespaceResourceScope> + Serialize + DeserializeOwned,
    M: Child,
{
    let api: Api<K> = Api::namespaced(context.dependencies.client.clone(), &owner.namespace);
    for child in desired {
        match apply_one(context, &api, owner, child).await {
            Ok(()) => (),
            // What can't be changed in place (the role of a RoleBinding) is made again, by the next reconcile.
            Err(error) if error.code() == Some(422) => {
                let reference = ObjectRef::<M>::new(&child.name_any()).within(&owner.namespace);
                if let Some(uid) = known.get(&reference).and_then(|found| found.uid()) {
                    tracing::warn!(%error, "a child can't be brought in line and is replaced");
                    delete(&api, &child.name_any(), &uid).await?;
                }
                return Err(not_applied(child, error));
            }
            Err(error) => return Err(not_applied(child, error)),
        }
    }
    remove_others::<K, M>(context, known, owner, desired).await
}

async fn remove_others<K, M>(
    context: &Context,
    known: &Store<M>,
    owner: &Owner,
    desired: &[K],
) -> Result<(), Error>
where
    K: Child<Scope = NamespaceResourceScope> + DeserializeOwned,
    M: Child,
{
    let api: Api<K> = Api::namespaced(context.dependencies.client.clone(), &owner.namespace);
    let ours = known.state().into_iter().filter(|child| child.namespace().as_ref() == Some(&owner.namespace));
    for child in ours.filter(|child| desired.iter().all(|wanted| wanted.name_any() != child.name_any())) {
        let name = child.name_any();
        tracing::info!(kind = %K::kind(&()), name, namespace = owner.namespace, "deleting what is not wanted any more");
        delete(&api, &name, &child.uid().unwrap_or_default()).await?;
    }
    Ok(())
}

pub(super) async fn delete<K: Child + DeserializeOwned>(
    api: &Api<K>,
    name: &str,
    uid: &str,
) -> Result<(), Error> {
    let deleted = delete_exactly(api, name, uid, None).await;
    let (kind, name) = (K::kind(&()).into_owned(), name.to_owned());
    deleted.map_err(|source| Error::DeleteChild { kind, name, source })
}

fn not_applied<K: Child>(child: &K, source: CallError) -> Error {
    Error::ApplyChild { kind: K::kind(&()).into_owned(), name: child.name_any(), source }
}

/// A kind that tenants own, as a whole or as its metadata.
pub(super) trait Child: Resource<DynamicType = ()> + Clone + Debug + Send + Sync + 'static {
    /// Differs between two states that differ in what we write.
    fn version(&self) -> String {
        self.resource_version().unwrap_or_default()
    }
}

impl Child for Namespace {}
impl Child for LimitRange {}
impl Child for NetworkPolicy {}
impl Child for ServiceAccount {}
impl Child for RoleBinding {}
impl<K: Child> Child for PartialObjectMeta<K> {}

impl Child for ResourceQuota {
    /// Its status, and with it the resource version, changes with every pod.
    fn version(&self) -> String {
        format!("{:?} {:?}", self.labels(), self.spec)
    }
}
