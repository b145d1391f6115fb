//! The connection slots of the admin address.
//!
//! Slots are few, so an idle connection must not keep one: if a connection needs a slot, the oldest one whose answer is
//! delayed is closed, or the oldest one without a request. Some slots are reserved for urgent requests, so that a health check always finds one.
//!
//! No I/O here, and no knowledge of requests.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until};

use crate::limits::{ADMIN_CONNECTIONS_MAX, ADMIN_HEAD_TIMEOUT, ADMIN_IDLE_MIN, ADMIN_REQUESTS_MAX};

/// All slots.
#[derive(Debug, Default)]
pub(super) struct ConnectionSlots(Rc<SlotTable>);

#[derive(Debug, Default)]
struct SlotTable {
    /// In the order of their arrival.
    taken: RefCell<VecDeque<Rc<Slot>>>,
    /// Requests in progress, except urgent ones.
    requests: Cell<usize>,
    /// A slot was freed.
    left: Notify,
}

#[derive(Debug)]
struct Slot {
    since: Instant,
    state: Cell<State>,
    evicted: Notify,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// No request has arrived.
    Idle,
    /// An urgent request, or a refusal, is being answered.
    Answering,
    /// A request in progress is being answered.
    Counted,
    /// A refusal is held back.
    Delayed,
}

/// The slot of one connection, until it is dropped.
#[derive(Debug)]
pub(super) struct ConnectionSlot {
    table: Rc<SlotTable>,
    slot: Rc<Slot>,
}

impl ConnectionSlots {
    /// Takes a slot. If none is free, the oldest connection without a request loses its slot, or this waits.
    pub(super) async fn take(&self) -> ConnectionSlot {
        loop {
            if self.0.taken.borrow().len() < ADMIN_CONNECTIONS_MAX {
                let slot =
                    Slot { since: Instant::now(), state: Cell::new(State::Idle), evicted: Notify::new() };
                let slot = Rc::new(slot);
                self.0.taken.borrow_mut().push_back(Rc::clone(&slot));
                return ConnectionSlot { table: Rc::clone(&self.0), slot };
            }
            if let Some(slot) = self.oldest(State::Delayed) {
                slot.evicted.notify_one();
                self.0.remove(&slot);
                continue;
            }
            match self.oldest(State::Idle) {
                Some(slot) => {
                    let evictable_at = slot.since + Duration::from_nanos(ADMIN_IDLE_MIN);
                    if Instant::now() >= evictable_at {
                        slot.evicted.notify_one();
                        self.0.remove(&slot);
                    } else {
                        tokio::select! {
                            () = self.0.left.notified() => {}
                            () = sleep_until(evictable_at) => {}
                        }
                    }
                }
                None => self.0.left.notified().await,
            }
        }
    }

    /// Resolves when no slot is taken. Only while nobody else waits for a slot.
    pub(super) async fn emptied(&self) {
        while !self.0.taken.borrow().is_empty() {
            self.0.left.notified().await;
        }
    }

    /// Resolves when no request is being answered. Only while nobody else waits for a slot.
    pub(super) async fn answered(&self) {
        let is_answering = |slot: &Rc<Slot>| matches!(slot.state.get(), State::Answering | State::Counted);
        while self.0.taken.borrow().iter().any(is_answering) {
            self.0.left.notified().await;
        }
    }

    fn oldest(&self, state: State) -> Option<Rc<Slot>> {
        self.0.taken.borrow().iter().find(|slot| slot.state.get() == state).map(Rc::clone)
    }
}

impl SlotTable {
    fn remove(&self, slot: &Rc<Slot>) {
        self.taken.borrow_mut().retain(|other| !Rc::ptr_eq(other, slot));
    }
}

impl ConnectionSlot {
    /// The request has arrived. False if too many others are in progress; an urgent one is not counted.
    pub(super) fn begin(&self, is_urgent: bool) -> bool {
        let counts = !is_urgent && self.table.requests.get() < ADMIN_REQUESTS_MAX;
        if counts {
            self.table.requests.set(self.table.requests.get() + 1);
        }
        self.slot.state.set(if counts { State::Counted } else { State::Answering });
        counts || is_urgent
    }

    /// The answer is held back: from now on the request is not in progress, and the first to lose its slot.
    pub(super) fn delay(&self) {
        self.end_request();
        self.slot.state.set(State::Delayed);
        // Who waits for a slot can have this one.
        self.table.left.notify_one();
    }

    fn end_request(&self) {
        if self.slot.state.get() == State::Counted {
            self.table.requests.set(self.table.requests.get() - 1);
        }
    }

    /// Resolves when the slot is lost: another connection needs it, or the request is late.
    pub(super) async fn lost(&self) -> &'static str {
        let late = async {
            sleep(Duration::from_nanos(ADMIN_HEAD_TIMEOUT)).await;
            if self.slot.state.get() != State::Idle {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = self.slot.evicted.notified() => "evicted for another connection",
            () = late => "the request head timed out",
        }
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        self.end_request();
        self.table.remove(&self.slot);
        self.table.left.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(test: impl Future<Output = ()>) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime");
        runtime.block_on(test);
    }

    #[test]
    fn the_oldest_without_a_request_makes_room() {
        run(async {
            let slots = ConnectionSlots::default();
            let mut taken = Vec::new();
            for _ in 0..ADMIN_CONNECTIONS_MAX {
                taken.push(slots.take().await);
            }
            assert!(taken[0].begin(true));
            let came = Instant::now();
            let _newcomer = slots.take().await;
            assert_eq!(came.elapsed(), Duration::from_nanos(ADMIN_IDLE_MIN), "nobody is evicted at once");
            taken[1].slot.evicted.notified().await;
            for kept in taken.iter().enumerate().filter(|(at, _)| *at != 1).map(|(_, slot)| slot) {
                let lost = kept.slot.evicted.notified();
                assert!(tokio::time::timeout(Duration::ZERO, lost).await.is_err());
            }
        });
    }

    #[test]
    fn delayed_answers_hold_up_nobody() {
        run(async {
            let slots = ConnectionSlots::default();
            let mut delayed = Vec::new();
            for _ in 0..ADMIN_CONNECTIONS_MAX {
                let slot = slots.take().await;
                assert!(slot.begin(false), "the delayed ones are not in progress");
                slot.delay();
                delayed.push(slot);
            }
            let came = Instant::now();
            let newcomer = slots.take().await;
            assert!(newcomer.begin(false));
            assert_eq!(came.elapsed(), Duration::ZERO, "at once");
            assert_eq!(delayed[0].lost().await, "evicted for another connection", "the oldest");
        });
    }

    #[test]
    fn requests_that_may_take_long_leave_places_for_checks_of_health() {
        run(async {
            let slots = ConnectionSlots::default();
            let mut taken = Vec::new();
            for _ in 0..ADMIN_REQUESTS_MAX {
                let slot = slots.take().await;
                assert!(slot.begin(false));
                taken.push(slot);
            }
            let slot = slots.take().await;
            assert!(!slot.begin(false), "one too many");
            drop(slot);
            let slot = slots.take().await;
            assert!(slot.begin(true), "a check of health");
            taken.pop();
            assert!(slots.take().await.begin(false), "another one ended");
        });
    }

    #[test]
    fn a_place_is_lost_when_no_request_comes_and_kept_when_one_does() {
        run(async {
            let slots = ConnectionSlots::default();
            let (silent, asking) = (slots.take().await, slots.take().await);
            assert!(asking.begin(false));
            let head = Duration::from_nanos(ADMIN_HEAD_TIMEOUT);
            assert!(tokio::time::timeout(10 * head, asking.lost()).await.is_err());
            assert!(tokio::time::timeout(2 * head, silent.lost()).await.is_ok());
        });
    }
}
