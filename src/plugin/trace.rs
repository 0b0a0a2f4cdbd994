//! `trace tenant/NAME` and `trace job/NAME`: the tree of what it owns. A part that may not be read is a leaf that says so.

use std::{collections::BTreeMap, fmt::Debug};

use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        core::v1::{LimitRange, Node, Pod, ResourceQuota, ServiceAccount},
        networking::v1::NetworkPolicy,
        rbac::v1::RoleBinding,
    },
};
use kube::{Api, Client, Resource, ResourceExt, api::ListParams};
use serde::{Serialize, de::DeserializeOwned};

use super::{
    Context, Session,
    output::{Format, structured},
    table::clean,
};
use crate::{
    api_types::{Job, TenantApiKey},
    client::{Error, Kind, Result, Scope, Transport},
    domain::worker::{admitted, label},
    kube_ext::within,
    names,
};

/// Jobs that are shown; of more, the number.
const MAX_JOBS: usize = 100;

/// The flags of the verb.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// tenant/NAME, or job/NAME of the tenant
    #[arg(value_name = "KIND/NAME")]
    object: String,
}

/// An object and what it owns.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Tree {
    object: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    note: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    owns: Vec<Tree>,
}

impl Tree {
    fn leaf(object: impl Into<String>, note: impl Into<String>) -> Self {
        Self { object: object.into(), note: note.into(), owns: Vec::new() }
    }
}

pub async fn run(context: &Context, args: Args) -> Result<()> {
    let Session { transport, scope } = context.session().await?;
    let client = transport.cluster().ok_or_else(|| Error::needs_cluster("trace what it owns"))?.client();
    let tree = match args.object.split_once('/') {
        Some(("tenant", name)) => tenant(&client, transport.as_ref(), name, context).await?,
        Some(("job", name)) => {
            let job = transport.job(&scope, name).await?;
            job_tree(&client, &job.namespace.unwrap_or_default(), &job.name).await?
        }
        _ => {
            let message = format!("failed to trace {}: give tenant/NAME or job/NAME", args.object);
            return Err(Error::usage(message).next("trace --help"));
        }
    };
    let text = match structured(context.format(), &tree)? {
        Some(text) => text,
        None if context.format() == Format::Name => flat(&tree),
        None => rendered(&tree),
    };
    context.terminal.print(&text)
}

fn flat(tree: &Tree) -> String {
    let own = format!("{}\n", clean(&tree.object));
    tree.owns.iter().fold(own, |text, child| text + &flat(child))
}

/// The tree, drawn with lines.
fn rendered(tree: &Tree) -> String {
    fn line(tree: &Tree) -> String {
        let note = if tree.note.is_empty() { String::new() } else { format!(" ({})", clean(&tree.note)) };
        format!("{}{note}\n", clean(&tree.object))
    }
    fn draw(tree: &Tree, indent: &str, text: &mut String) {
        for (at, child) in tree.owns.iter().enumerate() {
            let is_last = at + 1 == tree.owns.len();
            let (branch, below) = if is_last { ("└─ ", "   ") } else { ("├─ ", "│  ") };
            *text += &format!("{indent}{branch}{}", line(child));
            draw(child, &format!("{indent}{below}"), text);
        }
    }
    let mut text = line(tree);
    draw(tree, "", &mut text);
    text
}

/// All objects of a kind in a namespace, or why they can't be read.
async fn list<K>(client: &Client, namespace: &str, labels: &str) -> std::result::Result<Vec<K>, Tree>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
{
    let api: Api<K> = Api::namespaced(client.clone(), namespace);
    let listed = within("", api.list(&ListParams::default().labels(labels))).await;
    let plural = K::plural(&());
    listed
        .map(|list| list.items)
        .map_err(|error| Tree::leaf(plural.to_string(), format!("not read: {}", error.cause())))
}

/// The objects of a kind that Crofter has created for a tenant.
async fn children<K>(client: &Client, namespace: &str, tenant: &str) -> Vec<Tree>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
{
    let ours = format!("{}={},{}={tenant}", names::LABEL_MANAGED_BY, names::MANAGER, names::LABEL_TENANT);
    let kind = K::kind(&()).to_lowercase();
    match list::<K>(client, namespace, &ours).await {
        Ok(found) => {
            found.iter().map(|object| Tree::leaf(format!("{kind}/{}", object.name_any()), "")).collect()
        }
        Err(leaf) => vec![leaf],
    }
}

async fn tenant(client: &Client, transport: &dyn Transport, name: &str, context: &Context) -> Result<Tree> {
    let found = transport.tenant(&Scope::Tenant(name.to_owned())).await?;
    let prefix = &context.global.connection.namespace_prefix;
    let namespace = found.namespace.clone().unwrap_or_else(|| names::namespace(prefix, name));
    let (quotas, limits, policies, accounts, bindings, keys, jobs, nodes) = tokio::join!(
        children::<ResourceQuota>(client, &namespace, name),
        children::<LimitRange>(client, &namespace, name),
        children::<NetworkPolicy>(client, &namespace, name),
        children::<ServiceAccount>(client, &namespace, name),
        children::<RoleBinding>(client, &namespace, name),
        keys(client, &namespace),
        jobs(client, &namespace),
        nodes(client, name),
    );
    let within = [quotas, limits, policies, accounts, bindings, keys, jobs].concat();
    let space = Tree { owns: within, ..Tree::leaf(format!("namespace/{namespace}"), "") };
    let owns = [vec![space], nodes].concat();
    Ok(Tree { owns, ..Tree::leaf(format!("tenant/{name}"), found.status.unwrap_or_default()) })
}

async fn keys(client: &Client, namespace: &str) -> Vec<Tree> {
    let found = match list::<TenantApiKey>(client, namespace, "").await {
        Ok(found) => found,
        Err(leaf) => return vec![leaf],
    };
    let key = |key: &TenantApiKey| {
        let secret = Tree::leaf(format!("secret/{}", key.secret_name()), "its token");
        let note = if key.spec.revoked { "revoked" } else { "" };
        Tree { owns: vec![secret], ..Tree::leaf(format!("tenantapikey/{}", key.name_any()), note) }
    };
    found.iter().map(key).collect()
}

async fn jobs(client: &Client, namespace: &str) -> Vec<Tree> {
    let (found, pods) = tokio::join!(
        list::<Job>(client, namespace, ""),
        list::<Pod>(client, namespace, names::LABEL_JOB_UID)
    );
    let mut found = match found {
        Ok(found) => found,
        Err(leaf) => return vec![leaf],
    };
    let (pods, unread) = match pods {
        Ok(pods) => (pods, None),
        Err(leaf) => (Vec::new(), Some(leaf)),
    };
    let mut of_job: BTreeMap<String, Vec<Tree>> = BTreeMap::new();
    for pod in &pods {
        let uid = pod.labels().get(names::LABEL_JOB_UID).cloned().unwrap_or_default();
        of_job.entry(uid).or_default().push(pod_leaf(pod));
    }
    // Those that own something first.
    found.sort_by_key(|job| (!of_job.contains_key(&job.uid().unwrap_or_default()), job.name_any()));
    let more = found.len().saturating_sub(MAX_JOBS);
    let shown = found.iter().take(MAX_JOBS).map(|job| {
        let pods = of_job.remove(&job.uid().unwrap_or_default()).unwrap_or_default();
        Tree { owns: pods, ..job_leaf(job) }
    });
    let mut trees: Vec<Tree> = shown.collect();
    trees.extend(unread);
    if more > 0 {
        trees.push(Tree::leaf("jobs", format!("and {more} more")));
    }
    trees
}

fn job_leaf(job: &Job) -> Tree {
    let status = job.status.clone().unwrap_or_default();
    let reason = status.reason.map(|reason| format!(", {reason}")).unwrap_or_default();
    Tree::leaf(format!("job/{}", job.name_any()), format!("{}{reason}", status.phase))
}

fn pod_leaf(pod: &Pod) -> Tree {
    let phase = pod.status.as_ref().and_then(|status| status.phase.clone()).unwrap_or_default();
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_ref());
    let node = node.map(|node| format!(" on {node}")).unwrap_or_default();
    let held = pod.finalizers().iter().any(|finalizer| finalizer == names::FINALIZER_ACCOUNTED);
    let held = if held { ", not charged yet" } else { "" };
    Tree::leaf(format!("pod/{}", pod.name_any()), format!("{phase}{node}{held}"))
}

async fn nodes(client: &Client, tenant: &str) -> Vec<Tree> {
    let api: Api<Node> = Api::all(client.clone());
    let labelled = ListParams::default().labels(&format!("{}={tenant}", names::NODE_TENANT));
    match within("", api.list(&labelled)).await {
        Ok(found) => {
            let leaf = |node: &Node| {
                let note = if admitted(node) == Some(tenant) { "admitted" } else { "not admitted" };
                let other = label(node, names::NODE_ADMITTED).filter(|group| *group != tenant);
                let note = other.map_or(note.to_owned(), |group| format!("{note}, still of {group}"));
                Tree::leaf(format!("node/{}", node.name_any()), note)
            };
            found.items.iter().map(leaf).collect()
        }
        Err(error) => vec![Tree::leaf("nodes", format!("not read: {}", error.cause()))],
    }
}

async fn job_tree(client: &Client, namespace: &str, name: &str) -> Result<Tree> {
    let api: Api<Job> = Api::namespaced(client.clone(), namespace);
    let job = within("", api.get(name)).await.map_err(|error| {
        Error::new(Kind::NotFound, format!("failed to trace the job {name}: {}", error.cause())).next("jobs")
    })?;
    let uid = job.uid().unwrap_or_default();
    let pods = match list::<Pod>(client, namespace, &format!("{}={uid}", names::LABEL_JOB_UID)).await {
        Ok(pods) => pods,
        Err(leaf) => return Ok(Tree { owns: vec![leaf], ..job_leaf(&job) }),
    };
    let status = job.status.clone().unwrap_or_default();
    let has_pod = |name: &str| pods.iter().any(|pod| pod.name_any() == name);
    let ended = status.attempts.iter().filter(|attempt| !has_pod(&attempt.pod)).map(|attempt| {
        let code = attempt.exit_code.map(|code| format!(", exit code {code}")).unwrap_or_default();
        Tree::leaf(
            format!("attempt/{}", attempt.attempt),
            format!("{}{code}; its pod is deleted", attempt.reason),
        )
    });
    let owns = ended.chain(pods.iter().map(pod_leaf)).collect();
    Ok(Tree { owns, ..job_leaf(&job) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_drawn_with_lines_and_is_flat_by_name() {
        let job = Tree {
            owns: vec![Tree::leaf("pod/render-1", "Running on w1")],
            ..Tree::leaf("job/render", "Running\u{1b}[2J")
        };
        let space = Tree {
            owns: vec![Tree::leaf("resourcequota/crofter", ""), job],
            ..Tree::leaf("namespace/tenant-a", "")
        };
        let tree =
            Tree { owns: vec![space, Tree::leaf("node/w1", "admitted")], ..Tree::leaf("tenant/a", "active") };
        insta::assert_snapshot!(rendered(&tree));
        assert_eq!(flat(&tree).lines().last(), Some("node/w1"));
    }
}
