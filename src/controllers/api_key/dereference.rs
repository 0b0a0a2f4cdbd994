//! First step: the tenant of a key, the keys that it comes from, and the peppers, as the caches have them.

use std::sync::Arc;

use jiff::Timestamp;
use kube::{ResourceExt, runtime::reflector::ObjectRef};

use super::{Context, Dependencies, error::Error, validate::Refusal};
use crate::{
    api_types::{Reason, Tenant, TenantApiKey, api_key::TenantApiKeyStatus},
    domain::api_key::{self, Lineage},
    keys::pepper,
    names,
};

/// All but the key itself that a reconcile starts from.
pub(super) struct Dereferenced {
    /// The tenant of the key's namespace, if the namespace belongs to one.
    pub(super) tenant: Option<Arc<Tenant>>,
    /// The keys with which the key ends.
    pub(super) lineage: Lineage,
    /// The status as stored; empty where there is none.
    pub(super) status: TenantApiKeyStatus,
    pub(super) now: Timestamp,
}

/// Reads what belongs to a key. No call is made.
pub(super) fn dereference(key: &TenantApiKey, context: &Context) -> Dereferenced {
    Dereferenced {
        tenant: tenant(key, context),
        lineage: Lineage::of(key, |name| {
            let reference = ObjectRef::new(name).within(&key.namespace().unwrap_or_default());
            context.dependencies.keys.get(&reference)
        }),
        status: key.status.clone().unwrap_or_default(),
        now: context.dependencies.clock.now(),
    }
}

fn tenant(key: &TenantApiKey, context: &Context) -> Option<Arc<Tenant>> {
    let Dependencies { tenants, settings, .. } = &context.dependencies;
    let namespace = key.namespace()?;
    let tenant = tenants.get(&ObjectRef::new(namespace.strip_prefix(&settings.namespace_prefix)?))?;
    // The tenant controller writes the namespace only once it carries the tenant's UID.
    (tenant.status.as_ref()?.namespace.as_ref() == Some(&namespace)).then_some(tenant)
}

/// The peppers as far as they are known.
pub(super) enum Peppers {
    InForce(Arc<api_key::Peppers>),
    /// They are not known yet.
    Pending,
    Unusable(Refusal),
}

/// The peppers in force. The first key has the pepper created.
pub(super) async fn peppers(key: &TenantApiKey, context: &Context) -> Result<Peppers, Error> {
    let Dependencies { client, namespace, random, peppers, .. } = &context.dependencies;
    let known = peppers.borrow().clone();
    Ok(match known {
        pepper::State::InForce(peppers) => Peppers::InForce(peppers),
        pepper::State::Pending => Peppers::Pending,
        pepper::State::Absent => {
            tracing::info!(key = key.name_any(), "the first key: a pepper is made");
            let created = pepper::create(client, namespace, random).await;
            created.map_err(|source| Error::CreatePepper { source })?;
            Peppers::Pending
        }
        pepper::State::Unusable(why) => {
            let message = format!("Secret {} in {namespace}: {why}", names::PEPPER_SECRET);
            Peppers::Unusable(Refusal { reason: Reason::PepperUnusable, message })
        }
    })
}
