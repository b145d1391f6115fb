//! The connection slots of the admin address.
//!
//! A connection keeps its slot between requests. Slots are few, so an idle connection must not keep one that is needed: if a
//! connection needs a slot, the oldest one whose answer is delayed is closed, or the one that has waited longest for a request. Some slots
//! are reserved for urgent requests, so that a health check always finds one.
//!
//! ```text
//! New ──request──► Answering ──► Sending ──sent──► Kept ──request──► Answering …
//!                      ├──► Streaming
//!                      └──► Delayed ──►┘    └──► Discarding
//! ```
//!
//! No I/O here, and no knowledge of requests.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use crate::limits::{
    ADMIN_CONNECTIONS_MAX, ADMIN_HEAD_TIMEOUT, ADMIN_IDLE_MIN, ADMIN_KEPT_TIMEOUT, ADMIN_LINGER,
    ADMIN_REQUESTS_MAX, ADMIN_STREAM_TIMEOUT, ADMIN_TIMEOUT,
};
use echoring_proto::limits::Nanos;

/// All slots.
#[derive(Debug, Default)]
pub(crate) struct ConnectionSlots(Rc<SlotTable>);

#[derive(Debug, Default)]
struct SlotTable {
    /// In the order of their arrival.
    taken: RefCell<VecDeque<Rc<Slot>>>,
    /// Requests in progress, except urgent ones.
    requests: Cell<usize>,
    /// A slot was freed, or may be taken.
    left: Notify,
    /// No connection is kept for further requests.
    is_closing: Cell<bool>,
}

#[derive(Debug)]
struct Slot {
    /// When its state began, or its request.
    since: Cell<Instant>,
    state: Cell<SlotState>,
    changed: Notify,
    evicted: Notify,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SlotState {
    /// No request has arrived.
    New,
    /// A request is being answered. An urgent one does not count as in progress, nor does a refusal.
    Answering { counts: bool },
    /// A refusal is held back.
    Delayed,
    /// The answer is being sent.
    Sending { counts: bool },
    /// An answer is being sent that takes minutes. It does not count as a request in progress.
    Streaming,
    /// An answer was sent, and another request may come.
    Kept,
    /// The last answer was sent, and the rest of the request is discarded, so that the peer sees the answer.
    Discarding,
}

impl SlotState {
    /// Whether no request is being answered, so that the slot may be lost to another connection.
    fn is_idle(self) -> bool {
        matches!(self, SlotState::New | SlotState::Kept | SlotState::Discarding)
    }

    /// Whether the peer may not have an answer yet.
    fn is_answering(self) -> bool {
        matches!(self, SlotState::Answering { .. } | SlotState::Sending { .. } | SlotState::Discarding)
    }
}

/// The slot of one connection, until it is dropped.
#[derive(Debug)]
pub(crate) struct ConnectionSlot {
    table: Rc<SlotTable>,
    slot: Rc<Slot>,
}

impl ConnectionSlots {
    /// Takes a slot. If none is free, the connection that has waited longest for a request loses its slot, or this waits.
    pub(crate) async fn take(&self) -> ConnectionSlot {
        loop {
            if self.0.taken.borrow().len() < ADMIN_CONNECTIONS_MAX {
                let slot = Rc::new(Slot {
                    since: Cell::new(Instant::now()),
                    state: Cell::new(SlotState::New),
                    changed: Notify::new(),
                    evicted: Notify::new(),
                });
                self.0.taken.borrow_mut().push_back(Rc::clone(&slot));
                return ConnectionSlot { table: Rc::clone(&self.0), slot };
            }
            if let Some(slot) = self.oldest(|state| state == SlotState::Delayed) {
                slot.evicted.notify_one();
                self.0.remove(&slot);
                continue;
            }
            match self.oldest(SlotState::is_idle) {
                Some(slot) => {
                    let evictable_at = slot.since.get() + Duration::from_nanos(ADMIN_IDLE_MIN);
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

    /// Resolves when no slot is taken. Only while no other connection waits for a slot.
    pub(crate) async fn emptied(&self) {
        while !self.0.taken.borrow().is_empty() {
            self.0.left.notified().await;
        }
    }

    /// Resolves when no request is being answered, and none is discarded. Only while no other connection waits for a
    /// slot.
    pub(crate) async fn answered(&self) {
        while self.0.taken.borrow().iter().any(|slot| slot.state.get().is_answering()) {
            self.0.left.notified().await;
        }
    }

    /// From now on connections end after their next answer, and soon without one; or are kept again.
    pub(crate) fn set_closing(&self, is_closing: bool) {
        self.0.is_closing.set(is_closing);
        self.0.taken.borrow().iter().for_each(|slot| slot.changed.notify_one());
    }

    fn oldest(&self, is_wanted: impl Fn(SlotState) -> bool) -> Option<Rc<Slot>> {
        let taken = self.0.taken.borrow();
        let wanted = taken.iter().filter(|slot| is_wanted(slot.state.get()));
        wanted.min_by_key(|slot| slot.since.get()).map(Rc::clone)
    }
}

impl SlotTable {
    fn remove(&self, slot: &Rc<Slot>) {
        self.taken.borrow_mut().retain(|other| !Rc::ptr_eq(other, slot));
    }
}

impl ConnectionSlot {
    /// A request has arrived. False if too many others are in progress; an urgent one is not counted.
    pub(crate) fn begin(&self, is_urgent: bool) -> bool {
        // A pipelined one may come before its predecessor's answer was sent.
        self.end_request();
        let counts = !is_urgent && self.table.requests.get() < ADMIN_REQUESTS_MAX;
        if counts {
            self.table.requests.set(self.table.requests.get() + 1);
        }
        self.enter(SlotState::Answering { counts });
        self.slot.since.set(Instant::now());
        counts || is_urgent
    }

    /// The answer is held back: from now on the request is not in progress, and the first to lose its slot.
    pub(crate) fn delay(&self) {
        self.end_request();
        self.enter(SlotState::Delayed);
        // Who waits for a slot can have this one.
        self.table.left.notify_one();
    }

    /// The answer is ready, and is sent now. Returns whether the connection is kept for further requests.
    pub(crate) fn sending(&self) -> bool {
        let counts = matches!(self.slot.state.get(), SlotState::Answering { counts: true });
        self.enter(SlotState::Sending { counts });
        !self.table.is_closing.get()
    }

    /// The answer is sent as it comes, and the connection ends with it. Returns that it is not kept.
    pub(crate) fn streaming(&self) -> bool {
        self.end_request();
        self.slot.since.set(Instant::now());
        self.enter(SlotState::Streaming);
        // Another request may begin.
        self.table.left.notify_one();
        false
    }

    /// All that was to be sent has been sent.
    pub(crate) fn sent(&self) {
        if matches!(self.slot.state.get(), SlotState::Sending { .. }) {
            self.end_request();
            self.slot.since.set(Instant::now());
            self.enter(SlotState::Kept);
            // Who waits for a slot can have this one.
            self.table.left.notify_one();
        }
    }

    /// Further bytes of the peer are discarded. No further request comes.
    pub(crate) fn discarding(&self) {
        self.end_request();
        self.slot.since.set(Instant::now());
        self.enter(SlotState::Discarding);
        // Who waits for a slot can have this one.
        self.table.left.notify_one();
    }

    fn enter(&self, state: SlotState) {
        self.slot.state.set(state);
        self.slot.changed.notify_one();
    }

    fn end_request(&self) {
        if let SlotState::Answering { counts: true } | SlotState::Sending { counts: true } =
            self.slot.state.get()
        {
            self.table.requests.set(self.table.requests.get() - 1);
        }
    }

    /// Resolves when the slot is lost: another connection needs it, or the request or its answer is late.
    pub(crate) async fn lost(&self) -> &'static str {
        loop {
            let (time, cause) = self.time_left();
            tokio::select! {
                () = self.slot.evicted.notified() => return "evicted for another connection",
                () = self.slot.changed.notified() => {}
                () = sleep_until(self.slot.since.get() + Duration::from_nanos(time)) => return cause,
            }
        }
    }

    /// The maximum time in its state, or for its request, and the result when it is over.
    fn time_left(&self) -> (Nanos, &'static str) {
        match self.slot.state.get() {
            SlotState::New => (ADMIN_HEAD_TIMEOUT, "the request head timed out"),
            // Who has just been answered may have sent another request.
            SlotState::Kept if self.table.is_closing.get() => (ADMIN_LINGER, "no connection is kept"),
            SlotState::Streaming if self.table.is_closing.get() => {
                (ADMIN_LINGER, "nothing is followed any more")
            }
            SlotState::Streaming => (ADMIN_STREAM_TIMEOUT, "it took too long"),
            SlotState::Kept => (ADMIN_KEPT_TIMEOUT, "no further request came"),
            SlotState::Discarding => (ADMIN_LINGER, "its peer still sends"),
            SlotState::Answering { .. } | SlotState::Delayed | SlotState::Sending { .. } => {
                (ADMIN_TIMEOUT, "the request took too long")
            }
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
            let [head, answer, kept] =
                [ADMIN_HEAD_TIMEOUT, ADMIN_TIMEOUT, ADMIN_KEPT_TIMEOUT].map(Duration::from_nanos);
            let began = Instant::now();
            assert_eq!(silent.lost().await, "the request head timed out");
            assert_eq!(began.elapsed(), head);
            // The answer is sent in time, and no further request comes.
            assert!(asking.sending());
            tokio::time::sleep_until(began + answer - Duration::from_millis(1)).await;
            asking.sent();
            let since = Instant::now();
            assert_eq!(asking.lost().await, "no further request came");
            assert_eq!(since.elapsed(), kept);
            // The answer is not taken.
            assert!(asking.begin(false) && asking.sending());
            let since = Instant::now();
            assert_eq!(asking.lost().await, "the request took too long");
            assert_eq!(since.elapsed(), answer);
        });
    }

    #[test]
    fn a_request_is_in_progress_until_its_answer_was_sent() {
        run(async {
            let slots = ConnectionSlots::default();
            let slot = slots.take().await;
            assert_eq!(slot.table.requests.get(), 0);
            assert!(slot.begin(false));
            // A pipelined request comes before the answer was sent.
            assert!(slot.sending() && slot.begin(false));
            slot.sent();
            assert_eq!(slot.table.requests.get(), 1);
            assert!(slot.sending());
            assert_eq!(slot.table.requests.get(), 1);
            slot.sent();
            assert_eq!(slot.table.requests.get(), 0);
            assert!(slot.begin(true) && slot.sending());
            slot.sent();
            assert_eq!(slot.table.requests.get(), 0);
        });
    }

    #[test]
    fn a_request_whose_rest_is_discarded_is_waited_for_and_makes_room() {
        run(async {
            let slots = ConnectionSlots::default();
            let slot = slots.take().await;
            assert!(slot.begin(false) && slot.sending());
            slot.sent();
            slot.discarding();
            assert_eq!(slot.table.requests.get(), 0);
            let answered = tokio::time::timeout(Duration::from_millis(1), slots.answered());
            assert!(answered.await.is_err(), "its peer may not have the answer");
            let mut taken = Vec::new();
            for _ in 0..ADMIN_CONNECTIONS_MAX {
                let slot = slots.take().await;
                assert!(slot.begin(true));
                taken.push(slot);
            }
            assert_eq!(slot.lost().await, "evicted for another connection");
            drop((slot, taken));
            slots.answered().await;
        });
    }

    #[test]
    fn no_connection_is_kept_while_the_server_leaves_its_address() {
        run(async {
            let slots = ConnectionSlots::default();
            let (idle, asking) = (slots.take().await, slots.take().await);
            assert!(idle.begin(true) && idle.sending());
            idle.sent();
            assert!(asking.begin(false));
            slots.set_closing(true);
            assert!(!asking.sending(), "it closes behind the answer");
            let since = Instant::now();
            assert_eq!(idle.lost().await, "no connection is kept");
            assert_eq!(since.elapsed(), Duration::from_nanos(ADMIN_LINGER));
        });
    }
}
