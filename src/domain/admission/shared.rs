//! What the queues of all tenants share.

use super::{
    agenda::Agenda, ids::JobIdx, inventory::Inventory, job_entry::JobEntry, reason_updates::ReasonUpdates,
};
use crate::clock::ClockReading;
use slotmap::SlotMap;

/// What the queues of all tenants share.
#[derive(Clone, Debug, Default)]
pub(super) struct Shared {
    pub(super) now: ClockReading,
    pub(super) jobs: SlotMap<JobIdx, JobEntry>,
    pub(super) inventory: Inventory,
    pub(super) agenda: Agenda,
    pub(super) reason_updates: ReasonUpdates,
    /// How many classes were assessed so far.
    #[cfg(test)]
    pub(super) assessed: usize,
}
