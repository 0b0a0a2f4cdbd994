//! The closed list of machine reasons: the same word in a condition, an Event, a metric label and an answer.
//!
//! docs/reasons.md has a section for each, with cause and cure; a test compares the two lists.

/// The page with a section for each reason.
const PAGE: &str = include_str!("../../docs/reasons.md");

/// Why something is as it is. The text form is the variant's name.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    strum::Display,
    strum::EnumIter,
    strum::IntoStaticStr,
    strum::EnumString,
)]
pub enum Reason {
    // --- of tenants
    /// All children are there and as they should be.
    Provisioned,
    /// Children are being made or repaired.
    Provisioning,
    /// The tenant accepts and runs jobs.
    Accepting,
    /// `spec.suspended`.
    TenantSuspended,
    /// `spec.expiresAt` has passed.
    TenantExpired,
    /// Deletion is under way.
    Terminating,
    /// `spec.plan` names no plan of the table.
    UnknownPlan,
    /// The namespace exists and is somebody else's.
    NamespaceConflict,
    /// The object, as stored, can't be read or breaks a rule that the schema can't state.
    InvalidObject,
    /// Labelled workers exceed maxWorkers, maxCpuCores or maxGpus.
    WorkersOverQuota,
    /// Labelled workers are all within the quotas.
    WorkersWithinQuota,
    /// A call to the API server failed and will be repeated.
    ApiError,
    /// Deletion of a tenant that must stay.
    DeletionPrevented,

    // --- of workers
    /// A node was admitted.
    WorkerAdmitted,
    /// A node is being given back: nothing new starts there.
    WorkerReleasing,
    /// A node was given back.
    WorkerReleased,
    /// The worker label of a node names no tenant.
    NoSuchTenant,

    // --- of waiting jobs
    /// A quota of the tenant is used up by running jobs.
    WaitingForQuota,
    /// The hourly limit of started jobs is reached.
    RateLimited,
    /// The tenant's queue is full.
    QueueFull,
    /// No admitted worker.
    NoWorkers,
    /// No worker has room at the moment.
    WaitingForCapacity,
    /// Others are first.
    WaitingForTurn,
    /// A retry waits for its back-off.
    BackingOff,
    /// The namespace is not (yet) that of a tenant.
    NotATenantNamespace,

    // --- of jobs refused
    /// Asks for more than the tenant's quota allows at all.
    ExceedsQuota,
    /// Asks for more than any worker could hold, were it empty. A job that has waited or run before waits on with it.
    DoesNotFit,
    /// Names a scenario that is not in the catalogue.
    UnknownScenario,

    // --- of keys
    /// A version of the key is in its Secret.
    KeyIssued,
    /// A version of the key is being made.
    KeyIssuing,
    /// The key is accepted.
    KeyAccepted,
    /// A version of the key has taken the place of another.
    KeyRotated,
    /// `spec.revoked`.
    KeyRevoked,
    /// `spec.expiresAt` of the key has passed.
    KeyExpired,
    /// The key's Secret is gone, or does not hold its text any more.
    SecretDamaged,
    /// A Secret of that name exists and is not the key's.
    SecretConflict,
    /// The Secret of the peppers can't be read or holds no pepper.
    PepperUnusable,

    // --- of jobs on their way and ended
    /// In the queue, not judged yet.
    Queued,
    /// The pod is created.
    Admitted,
    /// The container runs.
    Running,
    /// Exit code 0.
    Succeeded,
    /// Exit code other than 0.
    NonZeroExit,
    /// Killed for using more memory than it asked for.
    OutOfMemory,
    /// Ran longer than its timeout.
    DeadlineExceeded,
    /// The container did not start in time (an image that can't be pulled, a volume that can't be mounted).
    StartTimeout,
    /// The image's name can't be parsed (the kubelet's word).
    InvalidImageName,
    /// A Secret, a ConfigMap or a key of one does not exist a minute after the pod was created (the kubelet's word).
    CreateContainerConfigError,
    /// Neither the image nor the job has a command (the kubelet's word).
    CreateContainerError,
    /// A claim that the job names does not exist a minute after the pod was created.
    ClaimNotFound,
    /// Evicted or preempted.
    Evicted,
    /// Its node is gone or unreachable.
    NodeLost,
    /// The pod was deleted by somebody else.
    PodDeleted,
    /// The pod can't be created as asked.
    PodRefused,
    /// Canceled by the user.
    Canceled,
    /// The Job was deleted before it had ended: its last word in the history.
    JobDeleted,
}

impl Reason {
    /// The CamelCase word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    /// The section of the page about this reason.
    #[must_use]
    pub fn section(self) -> Option<&'static str> {
        let heading = format!("\n## {self}\n");
        let rest = &PAGE[PAGE.find(&heading)? + 1..];
        Some(rest.find("\n## ").map_or(rest, |end| &rest[..=end]))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use strum::IntoEnumIterator;

    use super::*;

    /// What follows a label, up to the end of its paragraph.
    fn paragraph<'a>(section: &'a str, label: &str) -> &'a str {
        let (_, rest) = section.split_once(label).unwrap_or_else(|| panic!("no {label} in {section}"));
        rest.split("\n\n").next().unwrap_or_default()
    }

    #[test]
    fn each_reason_has_its_cause_and_cure_and_no_section_is_without_a_reason() {
        for reason in Reason::iter() {
            let section = reason.section().unwrap_or_else(|| panic!("{reason} has no section"));
            assert_eq!(section.matches("## ").count(), 1, "{section}");
            for label in ["\n**Cause:** ", "\n**Cure:** "] {
                assert!(paragraph(section, label).split_whitespace().count() > 2, "{section}");
            }
        }
        let headings: BTreeSet<&str> = PAGE.lines().filter_map(|line| line.strip_prefix("## ")).collect();
        assert_eq!(headings, Reason::iter().map(Reason::as_str).collect());
    }
}
