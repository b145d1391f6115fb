//! The places of connections to the admin address.
//!
//! They are few, so that whoever has one does not keep it for nothing: a connection that sent no request yet has to leave
//! when others come, the oldest first. Some places are never for requests that may take long, so that a check of health
//! finds one.
//!
//! Never: the runtime, a socket, or what a request asks for.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until};

use crate::limits::{ADMIN_CONNECTIONS_MAX, ADMIN_HEAD_TIMEOUT, ADMIN_IDLE_MIN, ADMIN_REQUESTS_MAX};

/// All places.
#[derive(Debug, Default)]
pub(super) struct Places(Rc<Room>);

#[derive(Debug, Default)]
struct Room {
    /// In the order of their coming.
    taken: RefCell<VecDeque<Rc<Seat>>>,
    /// Requests under way, without those that are urgent.
    requests: Cell<usize>,
    /// A place became free.
    left: Notify,
}

#[derive(Debug)]
struct Seat {
    since: Instant,
    state: Cell<State>,
    evicted: Notify,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Its request has not come.
    Idle,
    /// It waits for the answer to an urgent request, or a refusal.
    Answering,
    /// The same, and counts among the requests under way.
    Counted,
}

/// One connection's place, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    room: Rc<Room>,
    seat: Rc<Seat>,
}

impl Places {
    /// Takes a place. Where none is free, the oldest connection without a request loses its own, or this waits.
    pub(super) async fn take(&self) -> Place {
        loop {
            if self.0.taken.borrow().len() < ADMIN_CONNECTIONS_MAX {
                let seat =
                    Seat { since: Instant::now(), state: Cell::new(State::Idle), evicted: Notify::new() };
                let seat = Rc::new(seat);
                self.0.taken.borrow_mut().push_back(Rc::clone(&seat));
                return Place { room: Rc::clone(&self.0), seat };
            }
            match self.oldest_idle() {
                Some(seat) => {
                    let evictable_at = seat.since + Duration::from_nanos(ADMIN_IDLE_MIN);
                    if Instant::now() >= evictable_at {
                        seat.evicted.notify_one();
                        self.0.remove(&seat);
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

    fn oldest_idle(&self) -> Option<Rc<Seat>> {
        self.0.taken.borrow().iter().find(|seat| seat.state.get() == State::Idle).map(Rc::clone)
    }
}

impl Room {
    fn remove(&self, seat: &Rc<Seat>) {
        self.taken.borrow_mut().retain(|other| !Rc::ptr_eq(other, seat));
    }
}

impl Place {
    /// The request has come. False when too many others are under way; an urgent one does not count.
    pub(super) fn begin(&self, is_urgent: bool) -> bool {
        let counts = !is_urgent && self.room.requests.get() < ADMIN_REQUESTS_MAX;
        if counts {
            self.room.requests.set(self.room.requests.get() + 1);
        }
        self.seat.state.set(if counts { State::Counted } else { State::Answering });
        counts || is_urgent
    }

    /// Resolves when the place is lost: another connection needs it, or the request did not come in time.
    pub(super) async fn lost(&self) -> &'static str {
        let late = async {
            sleep(Duration::from_nanos(ADMIN_HEAD_TIMEOUT)).await;
            if self.seat.state.get() != State::Idle {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = self.seat.evicted.notified() => "others came while it sent no request",
            () = late => "its request did not come in time",
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.seat.state.get() == State::Counted {
            self.room.requests.set(self.room.requests.get() - 1);
        }
        self.room.remove(&self.seat);
        self.room.left.notify_one();
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
            let places = Places::default();
            let mut taken = Vec::new();
            for _ in 0..ADMIN_CONNECTIONS_MAX {
                taken.push(places.take().await);
            }
            assert!(taken[0].begin(true));
            let came = Instant::now();
            let _newcomer = places.take().await;
            assert_eq!(came.elapsed(), Duration::from_nanos(ADMIN_IDLE_MIN), "nobody is evicted at once");
            taken[1].seat.evicted.notified().await;
            for kept in taken.iter().enumerate().filter(|(at, _)| *at != 1).map(|(_, place)| place) {
                let lost = kept.seat.evicted.notified();
                assert!(tokio::time::timeout(Duration::ZERO, lost).await.is_err());
            }
        });
    }

    #[test]
    fn requests_that_may_take_long_leave_places_for_checks_of_health() {
        run(async {
            let places = Places::default();
            let mut taken = Vec::new();
            for _ in 0..ADMIN_REQUESTS_MAX {
                let place = places.take().await;
                assert!(place.begin(false));
                taken.push(place);
            }
            let place = places.take().await;
            assert!(!place.begin(false), "one too many");
            drop(place);
            let place = places.take().await;
            assert!(place.begin(true), "a check of health");
            taken.pop();
            assert!(places.take().await.begin(false), "another one ended");
        });
    }

    #[test]
    fn a_place_is_lost_when_no_request_comes_and_kept_when_one_does() {
        run(async {
            let places = Places::default();
            let (silent, asking) = (places.take().await, places.take().await);
            assert!(asking.begin(false));
            let head = Duration::from_nanos(ADMIN_HEAD_TIMEOUT);
            assert!(tokio::time::timeout(10 * head, asking.lost()).await.is_err());
            assert!(tokio::time::timeout(2 * head, silent.lost()).await.is_ok());
        });
    }
}
