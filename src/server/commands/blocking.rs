//! Waiting on threads of the program, and never on those of shards. In tests, the shards that run on the thread itself run
//! while it waits.

use std::cell::Cell;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Instant;

use echoring_broker::publications::OnShard;

thread_local! {
    static IS_SHARD: Cell<bool> = const { Cell::new(false) };
}

/// From now on this thread is that of a shard, and must not wait.
pub(crate) fn mark_shard() {
    IS_SHARD.set(true);
}

/// Whether this is the thread of a shard.
pub(crate) fn is_shard() -> bool {
    IS_SHARD.get()
}

/// Whether this thread may wait.
pub(crate) fn check() -> Result<(), OnShard> {
    if is_shard() { Err(OnShard) } else { Ok(()) }
}

#[derive(Debug)]
struct Unpark {
    thread: Thread,
    is_woken: AtomicBool,
}

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.is_woken.store(true, Ordering::Release);
        self.thread.unpark();
    }
}

/// Blocks this thread until `future` is ready, or until a time.
///
/// # Panics
/// In tests, if only this thread could make the future ready, and there is no time to give up.
pub(crate) fn wait_for<F: Future>(future: F, until: Option<Instant>) -> Option<F::Output> {
    let mut future = pin!(future);
    let unpark = Arc::new(Unpark { thread: thread::current(), is_woken: AtomicBool::new(false) });
    let waker = Waker::from(Arc::clone(&unpark));
    let mut cx = Context::from_waker(&waker);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut cx) {
            return Some(output);
        }
        if run_own_shards(|| unpark.is_woken.load(Ordering::Acquire)) {
            if unpark.is_woken.swap(false, Ordering::AcqRel) {
                continue;
            }
            assert!(
                until.is_some(),
                "this call waits for something that the test has not done, such as `resume` of a client or `advance`"
            );
            return None;
        }
        match until {
            None => thread::park(),
            Some(until) => match until.checked_duration_since(Instant::now()) {
                Some(left) if !left.is_zero() => thread::park_timeout(left),
                _ => return None,
            },
        }
    }
}

#[cfg(not(any(test, feature = "testing")))]
#[inline(always)]
fn run_own_shards(_: impl Fn() -> bool) -> bool {
    false
}

/// Called before this thread waits for an answer of shards: those that run on this thread answer now.
pub(crate) fn let_own_shards_answer() {
    run_own_shards(|| true);
}

#[cfg(any(test, feature = "testing"))]
pub(crate) use own_shards::*;

#[cfg(any(test, feature = "testing"))]
mod own_shards {
    use std::cell::RefCell;
    use std::rc::{Rc, Weak};

    use super::{IS_SHARD, is_shard};
    use crate::limits::TEST_RETRIES_MAX;

    /// Shards that a test runs on its own thread.
    pub(crate) trait OwnShards {
        /// Runs them until nothing more happens without time passing.
        fn run_until_quiet(&self);

        /// Lets the time pass after which a shard retries mail that found no room in a mailbox.
        fn retry(&self);
    }

    thread_local! {
        static OWN_SHARDS: RefCell<Vec<Weak<dyn OwnShards>>> = const { RefCell::new(Vec::new()) };
    }

    /// Has these shards run whenever this thread waits.
    pub(crate) fn add_own_shards(shards: &Rc<impl OwnShards + 'static>) {
        let shards: Weak<dyn OwnShards> = Rc::downgrade(shards) as Weak<dyn OwnShards>;
        OWN_SHARDS.with_borrow_mut(|all| {
            all.retain(|shards| shards.strong_count() > 0);
            all.push(shards);
        });
    }

    /// Runs the shards of this thread, unless one of them asks, until they are quiet; then, while somebody waits, until
    /// they have retried mail that found no room. False if there are none.
    pub(crate) fn run_own_shards(has_waited: impl Fn() -> bool) -> bool {
        if is_shard() {
            return false;
        }
        let all: Vec<_> = OWN_SHARDS.with_borrow(|all| all.iter().filter_map(Weak::upgrade).collect());
        all.iter().for_each(|shards| shards.run_until_quiet());
        for _ in 0..TEST_RETRIES_MAX {
            if has_waited() {
                break;
            }
            all.iter().for_each(|shards| shards.retry());
        }
        !all.is_empty()
    }

    /// Runs something as the thread of a shard does.
    pub(crate) fn as_shard<R>(run: impl FnOnce() -> R) -> R {
        let _restored = Restored(IS_SHARD.replace(true));
        run()
    }

    /// Restores the previous state of the thread, also when it unwinds.
    struct Restored(bool);

    impl Drop for Restored {
        fn drop(&mut self) {
            IS_SHARD.set(self.0);
        }
    }
}
