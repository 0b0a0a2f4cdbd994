//! The closed list of reasons: the same word in a condition, an Event, a metric label and a response.
//!
//! docs/reasons.md has a section for each, with cause and cure; a test compares the two lists.

/// The page with a section for each reason.
pub const PAGE: &str = include_str!("../../docs/reasons.md");

/// A condition of a job's start, in the order in which they are checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, strum::EnumIter, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum StartCondition {
    /// The namespace is a tenant's, and the tenant runs jobs.
    TenantActive,
    /// The back-off of a retry has passed.
    BackOff,
    /// The hourly window allows another job.
    RateWindow,
    /// The quotas allow the job, and the queue has room for it.
    Quota,
    /// A node has room.
    NodeFit,
    /// The room is not reserved for a larger job.
    Turn,
    /// The API server accepts the pod.
    Pod,
}

/// Why an object is in its state. The text form is the variant's name.
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
    /// All children exist and are as the spec asks.
    Provisioned,
    /// Children are being created or repaired.
    Provisioning,
    /// The tenant accepts and runs jobs.
    Accepting,
    /// `spec.suspended`.
    TenantSuspended,
    /// `spec.expiresAt` has passed.
    TenantExpired,
    /// The tenant is being deleted.
    Terminating,
    /// `spec.plan` names no plan of the table.
    UnknownPlan,
    /// The namespace exists and belongs to another owner.
    NamespaceConflict,
    /// The object, as stored, can't be read or breaks a rule that the schema can't state.
    InvalidObject,
    /// Labelled workers exceed maxWorkers, maxCpuCores or maxGpus.
    WorkersOverQuota,
    /// Labelled workers are all within the quotas.
    WorkersWithinQuota,
    /// A call to the API server failed and will be retried.
    ApiError,
    /// A deletion was requested that `spec.preventDeletion` forbids.
    DeletionPrevented,

    // --- of workers
    /// A node was admitted.
    WorkerAdmitted,
    /// A node is being released: no job starts there.
    WorkerReleasing,
    /// A node was released.
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
    /// No worker has enough free room at the moment.
    WaitingForCapacity,
    /// The room is reserved for a larger job.
    WaitingForTurn,
    /// A retry waits for its back-off.
    BackingOff,
    /// The namespace is not (yet) that of a tenant.
    NotATenantNamespace,

    // --- of rejected jobs
    /// Asks for more than the tenant's quota allows at all.
    ExceedsQuota,
    /// Asks for more than any worker could hold, were it empty. A job that has waited or run before waits.
    DoesNotFit,
    /// Names a scenario that is not in the catalogue.
    UnknownScenario,

    // --- of keys
    /// A version of the key is in its Secret.
    KeyIssued,
    /// A version of the key is being issued.
    KeyIssuing,
    /// The key is accepted.
    KeyAccepted,
    /// A version of the key has replaced another.
    KeyRotated,
    /// `spec.revoked`.
    KeyRevoked,
    /// `spec.expiresAt` of the key has passed.
    KeyExpired,
    /// The key's Secret was deleted, or no longer holds its token.
    SecretDamaged,
    /// A Secret of that name exists and is not the key's.
    SecretConflict,
    /// The Secret of the peppers can't be read or holds no pepper.
    PepperUnusable,

    // --- of jobs that are queued, run or have ended
    /// In the queue, and not assessed yet.
    Queued,
    /// The pod is created.
    Admitted,
    /// The container runs.
    Running,
    /// Exit code 0.
    Succeeded,
    /// Exit code other than 0.
    NonZeroExit,
    /// Killed for using more memory than requested.
    OutOfMemory,
    /// Ran longer than its timeout.
    DeadlineExceeded,
    /// The container did not start in time (an image that can't be pulled, a volume that can't be mounted).
    StartTimeout,
    /// The image's name can't be parsed (a reason of the kubelet).
    InvalidImageName,
    /// A Secret, a ConfigMap or a key of one does not exist a minute after the pod was created (a reason of the kubelet).
    CreateContainerConfigError,
    /// Neither the image nor the job has a command (a reason of the kubelet).
    CreateContainerError,
    /// A claim that the job names does not exist a minute after the pod was created.
    ClaimNotFound,
    /// Evicted or preempted.
    Evicted,
    /// Its node was deleted or is unreachable.
    NodeLost,
    /// Another client deleted the pod.
    PodDeleted,
    /// The API server refuses the pod.
    PodRefused,
    /// Canceled by the user.
    Canceled,
    /// The Job was deleted before it had ended: the last reason in the history.
    JobDeleted,
}

impl Reason {
    /// The CamelCase word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    /// The condition of a start that is not met where a job waits for this reason, or is rejected rather than wait. `None`
    /// for the reasons of other states and of other objects.
    ///
    /// Whatever treats waiting jobs by reason reads this: the checks of `/why`, the codes of the REST API, and the tests of
    /// the documents.
    #[must_use]
    pub fn unmet(self) -> Option<StartCondition> {
        match self {
            Self::TenantSuspended
            | Self::TenantExpired
            | Self::Terminating
            | Self::UnknownPlan
            | Self::NotATenantNamespace => Some(StartCondition::TenantActive),
            Self::BackingOff => Some(StartCondition::BackOff),
            Self::RateLimited => Some(StartCondition::RateWindow),
            Self::WaitingForQuota | Self::QueueFull => Some(StartCondition::Quota),
            Self::NoWorkers | Self::WaitingForCapacity | Self::DoesNotFit => Some(StartCondition::NodeFit),
            Self::WaitingForTurn => Some(StartCondition::Turn),
            Self::PodRefused => Some(StartCondition::Pod),
            // Of other objects.
            Self::Provisioned
            | Self::Provisioning
            | Self::Accepting
            | Self::NamespaceConflict
            | Self::InvalidObject
            | Self::WorkersOverQuota
            | Self::WorkersWithinQuota
            | Self::ApiError
            | Self::DeletionPrevented
            | Self::WorkerAdmitted
            | Self::WorkerReleasing
            | Self::WorkerReleased
            | Self::NoSuchTenant
            | Self::KeyIssued
            | Self::KeyIssuing
            | Self::KeyAccepted
            | Self::KeyRotated
            | Self::KeyRevoked
            | Self::KeyExpired
            | Self::SecretDamaged
            | Self::SecretConflict
            | Self::PepperUnusable => None,
            // Of jobs that do not wait, were not assessed yet, or can never start.
            Self::ExceedsQuota
            | Self::UnknownScenario
            | Self::Queued
            | Self::Admitted
            | Self::Running
            | Self::Succeeded
            | Self::NonZeroExit
            | Self::OutOfMemory
            | Self::DeadlineExceeded
            | Self::StartTimeout
            | Self::InvalidImageName
            | Self::CreateContainerConfigError
            | Self::CreateContainerError
            | Self::ClaimNotFound
            | Self::Evicted
            | Self::NodeLost
            | Self::PodDeleted
            | Self::Canceled
            | Self::JobDeleted => None,
        }
    }

    /// The path of the REST API that serves [`section`](Self::section).
    #[must_use]
    pub fn path(self) -> String {
        format!("/reasons/{self}")
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

    #[test]
    fn the_pages_about_waiting_jobs_have_a_line_for_each_reason_to_wait() {
        let (scheduling, troubleshooting) =
            (include_str!("../../docs/scheduling.md"), include_str!("../../docs/troubleshooting.md"));
        for reason in Reason::iter().filter(|reason| reason.unmet().is_some()) {
            let link = format!("[`{reason}`](reasons.md#{})", reason.as_str().to_lowercase());
            assert!(scheduling.contains(&link), "docs/scheduling.md lacks {link}");
            assert!(
                troubleshooting.contains(&format!("| {link} | ")),
                "docs/troubleshooting.md lacks {link}"
            );
        }
    }
}
