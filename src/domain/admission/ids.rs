//! Typed handles, and the arenas that they index.
//!
//! A handle is an index that the compiler keeps apart from those of other arenas. The index of a removed item is used
//! again: where a handle may outlive its item, [`Arena::get`] and a check of what it finds come first.

use std::{
    marker::PhantomData,
    ops::{Index, IndexMut},
};

use slab::Slab;

/// An index into an [`Arena`].
pub trait Handle: Copy {
    /// The handle of an index.
    fn new(index: usize) -> Self;
    /// Its index.
    fn index(self) -> usize;
}

macro_rules! handles {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => { $(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(usize);

        impl Handle for $name {
            fn new(index: usize) -> Self {
                Self(index)
            }

            fn index(self) -> usize {
                self.0
            }
        }
    )* };
}

handles! {
    /// A namespace that is or may be a tenant's.
    TenantId,
    /// A class of jobs of one tenant.
    ClassId,
    /// A job.
    JobIdx,
    /// A worker group: a tenant's own nodes, or a shared pool.
    PoolId,
    /// A node.
    NodeId,
    /// A tenant among those that may use a pool.
    MemberId,
    /// A class among those that wait for room in a pool.
    BlockedId,
}

/// Items by handle. Handles of removed items are used again.
#[derive(Debug)]
pub struct Arena<H, T> {
    items: Slab<T>,
    handle: PhantomData<H>,
}

impl<H, T> Default for Arena<H, T> {
    fn default() -> Self {
        Self { items: Slab::new(), handle: PhantomData }
    }
}

impl<H: Handle, T> Arena<H, T> {
    pub fn insert(&mut self, item: T) -> H {
        H::new(self.items.insert(item))
    }

    /// Inserts what is made of the handle that it gets.
    pub fn insert_with(&mut self, item: impl FnOnce(H) -> T) -> H {
        let entry = self.items.vacant_entry();
        let handle = H::new(entry.key());
        entry.insert(item(handle));
        handle
    }

    pub fn remove(&mut self, handle: H) -> T {
        self.items.remove(handle.index())
    }

    pub fn get(&self, handle: H) -> Option<&T> {
        self.items.get(handle.index())
    }

    pub fn get_mut(&mut self, handle: H) -> Option<&mut T> {
        self.items.get_mut(handle.index())
    }

    pub fn iter(&self) -> impl Iterator<Item = (H, &T)> {
        self.items.iter().map(|(index, item)| (H::new(index), item))
    }

    pub fn values(&self) -> impl Iterator<Item = &T> {
        self.items.iter().map(|(_, item)| item)
    }

    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.items.iter_mut().map(|(_, item)| item)
    }

    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }
}

impl<H: Handle, T> Index<H> for Arena<H, T> {
    type Output = T;

    fn index(&self, handle: H) -> &T {
        &self.items[handle.index()]
    }
}

impl<H: Handle, T> IndexMut<H> for Arena<H, T> {
    fn index_mut(&mut self, handle: H) -> &mut T {
        &mut self.items[handle.index()]
    }
}
