//! What texts may be, as regular expressions of the schemas: what no pod can have is refused at submit, not when the
//! pod is made or, worse, by a kubelet that tries it again for ever.
//!
//! They are read by Go's `regexp` (the API server), by JavaScript and Python (clients of the REST API) alike.

/// A name that is a DNS label: volumes, pools, scenarios.
pub const LABEL: &str = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$";

/// A name that is a DNS subdomain: Secrets, ConfigMaps, claims.
pub const SUBDOMAIN: &str = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";

/// The name of a Secret that holds an API key: a subdomain that begins as [`crate::names::KEY_SECRET_PREFIX`] says.
pub const KEY_SECRET: &str = "^crofter-key-[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";

/// The key of an entry of a Secret or ConfigMap: neither `.` nor anything that begins with `..`.
pub const ENTRY: &str = "^([-_a-zA-Z0-9]|[.][-_a-zA-Z0-9])[-._a-zA-Z0-9]*$";

/// The name of an environment variable, as Kubernetes has always taken it.
pub const VARIABLE: &str = "^([-_a-zA-Z]|[.][-_a-zA-Z0-9])[-._a-zA-Z0-9]*$";

/// An image: the characters that a reference may have. Whether it names an image is for the kubelet to say.
pub const IMAGE: &str = r"^[A-Za-z0-9\[][A-Za-z0-9._:/@+\[\]-]*$";

/// A text that can be handed to a process: those end at a NUL.
pub const NO_NUL: &str = "^[^\\x00]*$";

/// An absolute path.
pub const ABSOLUTE_PATH: &str = "^/[^\\x00]*$";

/// An absolute path at which a volume can be mounted: not the root, and without the colon that separates paths.
pub const MOUNT_PATH: &str = "^/+[^/:\\x00][^:\\x00]*$";
