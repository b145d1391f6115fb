//! Turns of requests to a service: so many at a time, and those that wait take them in the order of their sources.
//!
//! A [`Load`] says how many turns a source may have, so that slow requests of one leave turns for the others, and
//! however many requests of one source wait, the first of another waits for no more than one of each.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};

use tokio::sync::oneshot;

use super::load::{Counted, Load, Source};
use super::lock;

/// The turns of the requests to a service.
#[derive(Debug)]
pub(crate) struct Turns {
    taken: Arc<Load>,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    requests: BTreeMap<Source, VecDeque<oneshot::Sender<Turn>>>,
    /// Their sources, the next one first.
    order: VecDeque<Source>,
}

/// A turn, until it is dropped.
#[derive(Debug)]
pub(crate) struct Turn(Option<(Arc<Turns>, Counted)>);

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some((turns, counted)) = self.0.take() {
            drop(counted);
            turns.give();
        }
    }
}

impl Turns {
    pub(crate) fn of_at_most(most: usize) -> Arc<Turns> {
        Arc::new(Turns { taken: Load::of_at_most(most, usize::MAX), waiting: Mutex::default() })
    }

    /// The turns that are taken.
    pub(crate) fn taken(&self) -> usize {
        self.taken.count()
    }

    /// Waits for a turn of a source.
    pub(crate) async fn take(self: &Arc<Turns>, source: &Source) -> Turn {
        let (turn, given) = oneshot::channel();
        {
            let Waiting { requests, order } = &mut *lock(&self.waiting);
            let of_source = requests.entry(source.clone()).or_insert_with(|| {
                order.push_back(source.clone());
                VecDeque::new()
            });
            // A caller that has given up needs no turn. Mostly such callers have waited longest.
            while of_source.front().is_some_and(|first| first.is_closed()) {
                of_source.pop_front();
            }
            of_source.push_back(turn);
        }
        self.give();
        // Turns are given as long as somebody waits.
        given.await.unwrap_or(Turn(None))
    }

    /// Gives the free turns to those that wait.
    fn give(self: &Arc<Turns>) {
        while let Some((request, counted)) = self.next() {
            if let Err(mut unwanted) = request.send(Turn(Some((Arc::clone(self), counted)))) {
                // Nobody waits for it any more. The next one gets it here.
                unwanted.0 = None;
            }
        }
    }

    /// Who gets the next turn.
    fn next(&self) -> Option<(oneshot::Sender<Turn>, Counted)> {
        let Waiting { requests, order } = &mut *lock(&self.waiting);
        for _ in 0..order.len() {
            if self.taken.is_full() {
                return None;
            }
            let source = order.pop_front()?;
            let of_source = requests.get_mut(&source)?;
            let next = self.taken.take(source.clone(), 0).ok().and_then(|counted| {
                // Requests are there as long as their source is.
                Some((of_source.pop_front()?, counted))
            });
            if of_source.is_empty() {
                requests.remove(&source);
            } else {
                order.push_back(source);
            }
            if next.is_some() {
                return next;
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use tokio::task::{JoinSet, LocalSet, yield_now};

    use super::*;

    fn source(number: usize) -> Source {
        Source::Name(number.to_string().into())
    }

    /// Runs a test on one thread.
    fn run(test: impl Future<Output = ()>) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        LocalSet::new().block_on(&runtime, test);
    }

    #[test]
    fn slow_requests_of_one_source_leave_turns_to_others() {
        run(async {
            let turns = Turns::of_at_most(8);
            let mut waiting = JoinSet::new();
            for _ in 0..100 {
                let turns = Arc::clone(&turns);
                waiting.spawn_local(async move { turns.take(&source(0)).await });
            }
            let mut kept = Vec::new();
            for _ in 0..6 {
                kept.push(waiting.join_next().await.expect("a task").expect("a turn"));
            }
            kept.push(turns.take(&source(1)).await);
            kept.push(turns.take(&source(2)).await);
            assert!(waiting.try_join_next().is_none(), "three quarters");
            waiting.shutdown().await;
            kept.clear();
            assert!(lock(&turns.waiting).requests.is_empty() && turns.taken() == 0);
        });
    }

    #[test]
    fn sources_take_turns() {
        run(async {
            let turns = Turns::of_at_most(1);
            let first = turns.take(&source(9)).await;
            let order = Rc::new(RefCell::new(Vec::new()));
            let mut waiting = JoinSet::new();
            for number in [0, 0, 0, 0, 1, 1, 2] {
                let (turns, order) = (Arc::clone(&turns), Rc::clone(&order));
                waiting.spawn_local(async move {
                    let _turn = turns.take(&source(number)).await;
                    order.borrow_mut().push(number);
                });
                yield_now().await;
            }
            drop(first);
            waiting.join_all().await;
            assert_eq!(*order.borrow(), [0, 1, 2, 0, 1, 0, 0]);
            assert!(lock(&turns.waiting).requests.is_empty() && lock(&turns.waiting).order.is_empty());
        });
    }

    #[test]
    fn who_gives_up_keeps_nobody_from_a_turn() {
        run(async {
            let turns = Turns::of_at_most(1);
            let first = turns.take(&source(0)).await;
            let mut waiting = JoinSet::new();
            for number in 0..4 {
                let turns = Arc::clone(&turns);
                waiting.spawn_local(async move { drop(turns.take(&source(number % 2)).await) });
                yield_now().await;
            }
            waiting.shutdown().await;
            drop(first);
            drop(turns.take(&source(1)).await);
            let waiting = lock(&turns.waiting);
            assert!(
                turns.taken() == 0 && waiting.requests.is_empty() && waiting.order.is_empty(),
                "{waiting:?}"
            );
        });
    }
}
