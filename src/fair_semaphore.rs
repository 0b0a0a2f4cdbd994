//! Permits that are granted to tenants by round robin. A tenant that asks for many at once waits for its own, and other
//! tenants are served in between: with `n` waiting tenants each gets one of `n` permits that become free.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::oneshot;
use uuid::Uuid;

/// Grants the permits. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct FairSemaphore(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    free: u32,
    /// Tenants of which a client waits, in the order in which they are served. Each is in it once.
    order: VecDeque<Uuid>,
    /// The waiters of each tenant, the first one in front. No queue is empty.
    waiting: HashMap<Uuid, VecDeque<oneshot::Sender<Permit>>>,
}

/// A permit, until it is dropped.
#[derive(Debug)]
pub struct Permit(FairSemaphore);

impl FairSemaphore {
    /// A semaphore with this number of permits, all of them free.
    pub fn new(permits: u32) -> Self {
        let state = State { free: permits, order: VecDeque::new(), waiting: HashMap::new() };
        Self(Arc::new(Mutex::new(state)))
    }

    /// The next permit for this tenant. Cancel safe.
    pub async fn acquire(&self, tenant: Uuid) -> Permit {
        loop {
            let next = {
                let mut state = self.state();
                if state.free > 0 {
                    state.free -= 1;
                    return Permit(self.clone());
                }
                state.wait(tenant)
            };
            // A waiter leaves the queue only with a permit.
            if let Ok(permit) = next.await {
                return permit;
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn wait(&mut self, tenant: Uuid) -> oneshot::Receiver<Permit> {
        let (sender, receiver) = oneshot::channel();
        let of_tenant = self.waiting.entry(tenant).or_default();
        if of_tenant.is_empty() {
            self.order.push_back(tenant);
        }
        of_tenant.push_back(sender);
        receiver
    }

    /// The next waiter in the round robin, without those that were dropped.
    fn next(&mut self) -> Option<oneshot::Sender<Permit>> {
        while let Some(tenant) = self.order.pop_front() {
            let Some(of_tenant) = self.waiting.get_mut(&tenant) else { continue };
            let next = std::iter::from_fn(|| of_tenant.pop_front()).find(|sender| !sender.is_closed());
            if of_tenant.is_empty() {
                self.waiting.remove(&tenant);
            } else {
                self.order.push_back(tenant);
            }
            if next.is_some() {
                return next;
            }
        }
        self.free += 1;
        None
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let next = self.0.state().next();
        if let Some(next) = next {
            // A waiter that is dropped at this moment drops the permit, which grants it to the next one.
            drop(next.send(Self(self.0.clone())));
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt, future::BoxFuture};

    use super::*;

    fn tenant(number: u128) -> Uuid {
        Uuid::from_u128(number)
    }

    /// A waiter, which is queued from now on.
    fn asks(permits: &FairSemaphore, number: u128) -> BoxFuture<'static, Permit> {
        let permits = permits.clone();
        let mut asking = async move { permits.acquire(tenant(number)).await }.boxed();
        assert!((&mut asking).now_or_never().is_none(), "there is no free permit");
        asking
    }

    fn gets(asking: &mut BoxFuture<'static, Permit>) -> Option<Permit> {
        asking.now_or_never()
    }

    #[tokio::test]
    async fn a_tenant_that_asks_for_many_is_not_served_before_one_that_asks_for_one() {
        let permits = FairSemaphore::new(1);
        let held = permits.acquire(tenant(1)).await;
        let mut many: Vec<_> = (0..100).map(|_| asks(&permits, 1)).collect();
        let mut one = asks(&permits, 2);
        drop(held);
        let first = gets(&mut many[0]).unwrap();
        assert!(gets(&mut one).is_none());
        drop(first);
        let second = gets(&mut one).expect("tenant 2 is second in the round robin");
        assert!(gets(&mut many[1]).is_none());
        drop(second);
        assert!(gets(&mut many[1]).is_some());
    }

    #[tokio::test]
    async fn a_dropped_waiter_leaves_the_permits_of_the_others() {
        let permits = FairSemaphore::new(2);
        let held = (permits.acquire(tenant(1)).await, permits.acquire(tenant(1)).await);
        let (dropped, granted, mut waiting) = (asks(&permits, 2), asks(&permits, 3), asks(&permits, 4));
        drop(dropped);
        drop(held.0);
        // This waiter was granted a permit and is dropped before it takes it.
        drop(granted);
        let permit = gets(&mut waiting).expect("the permit that the other waiter did not take");
        drop((permit, held.1));
        let state = permits.state();
        assert_eq!((state.free, state.order.len(), state.waiting.len()), (2, 0, 0));
    }
}
