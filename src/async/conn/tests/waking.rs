//! Who is woken: the task that waits alone, or all that do.

use std::future::Future as _;
use std::sync::Mutex;
use std::task::{Wake, Waker};

use proptest::prelude::*;

use super::*;
use crate::conn::core::stream_of;
use crate::conn::waiters::{READER, WRITER};

/// A transport that is never ready, until its test says so. Of the tasks that polled a direction, it wakes the last one, as
/// tokio's do.
#[derive(Clone, Default)]
struct Silent(Arc<Mutex<[Option<Waker>; 2]>>);

impl Silent {
    fn wait(&self, direction: usize, cx: &mut Context<'_>) {
        self.0.lock().expect("no panic")[direction] = Some(cx.waker().clone());
    }

    /// An event in a direction.
    fn wake(&self, direction: usize) {
        let waker = self.0.lock().expect("no panic")[direction].take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl AsyncRead for Silent {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.wait(0, cx);
        Poll::Pending
    }
}

impl AsyncWrite for Silent {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
        self.wait(1, cx);
        Poll::Pending
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Counts how often a task was woken.
#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Woken>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// A task of the model: a waiter of the connection that waits for directions of the transport.
struct Task {
    woken: Arc<Woken>,
    waker: Waker,
    seen: usize,
    /// The directions that it waits for, unless it was woken since.
    waits_for: [bool; 2],
}

impl Task {
    fn new() -> Task {
        let woken = Arc::<Woken>::default();
        let waker = Waker::from(Arc::clone(&woken));
        Task { woken, waker, seen: 0, waits_for: [false; 2] }
    }

    /// Whether it was woken since this was last asked.
    fn was_woken(&mut self) -> bool {
        let before = std::mem::replace(&mut self.seen, self.woken.0.load(Ordering::Relaxed));
        self.seen > before
    }
}

/// A step of the model.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// A task polls directions of the transport, and is then ready or not.
    Poll { task: usize, directions: [bool; 2], ready: bool },
    /// Something happens in a direction.
    Event(usize),
    /// Another handle changes the connection.
    Change,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let poll = (0..4_usize, any::<[bool; 2]>(), any::<bool>())
        .prop_map(|(task, directions, ready)| Step::Poll { task, directions, ready });
    let step = prop_oneof![6 => poll, 3 => (0..2_usize).prop_map(Step::Event), 1 => Just(Step::Change)];
    prop::collection::vec(step, 1..60)
}

proptest! {
    /// The reader, the writer and two guests poll in any order, each in a task of its own.
    #[test]
    fn an_event_wakes_every_task_that_waits_for_it(steps in steps()) {
        let transport = Silent::default();
        let conn = conn(transport.clone(), Role::Server, &Settings::default());
        let shared = &conn.reader.shared;
        let guests = [shared.enter(), shared.enter()];
        let places = [READER, WRITER, guests[0].place, guests[1].place];
        let mut tasks = [(); 4].map(|()| Task::new());
        for step in steps {
            match step {
                Step::Poll { task, directions, ready } => {
                    let cx = &mut Context::from_waker(&tasks[task].waker);
                    let polled = shared.poll(places[task], true, cx, |core, cx| {
                        let stream = Pin::new(stream_of(&mut core.stream));
                        if directions[0] {
                            let _ = stream.poll_read(cx, &mut ReadBuf::new(&mut [0]));
                        }
                        if directions[1] {
                            let _ = Pin::new(stream_of(&mut core.stream)).poll_write(cx, &[0]);
                        }
                        if ready { Poll::Ready(()) } else { Poll::Pending }
                    });
                    prop_assert_eq!(polled.is_ready(), ready);
                    tasks[task].waits_for = if ready { [false; 2] } else { directions };
                }
                Step::Event(direction) => transport.wake(direction),
                Step::Change => shared.update(|core| core.changed = true),
            }
            for (at, task) in tasks.iter_mut().enumerate() {
                let woken = task.was_woken();
                if let Step::Event(direction) = step {
                    prop_assert!(woken || !task.waits_for[direction], "task {at} waits in vain");
                }
                if woken {
                    // It polls again some time.
                    task.waits_for = [false; 2];
                }
            }
        }
    }
}

#[tokio::test]
async fn a_task_that_waits_alone_is_woken_by_the_transport_itself() {
    let transport = Silent::default();
    let mut server = conn(transport.clone(), Role::Server, &Settings::default());
    let task = Task::new();
    let mut cx = Context::from_waker(&task.waker);
    assert!(server.reader.poll_read_message(&mut cx).is_pending());
    let registered = transport.0.lock().expect("no panic")[0].clone().expect("a waker");
    assert!(registered.will_wake(&task.waker));
    // The writer is in the same task.
    assert!(Pin::new(&mut server).poll_flush(&mut cx).is_ready());
    assert!(server.reader.poll_read_message(&mut cx).is_pending());
    assert!(transport.0.lock().expect("no panic")[0].as_ref().expect("a waker").will_wake(&task.waker));
}

#[tokio::test]
async fn a_guest_that_is_dropped_is_not_woken_and_its_waker_is_not_kept() {
    let transport = Silent::default();
    let server = conn(transport.clone(), Role::Server, &Settings::default());
    let control = server.control();
    let (mut reader, _writer) = server.split();
    let (reads, pings) = (Task::new(), Task::new());
    let mut ping = Box::pin(async move { control.ping(b"are you there?").await });
    assert!(ping.as_mut().poll(&mut Context::from_waker(&pings.waker)).is_pending());
    assert!(reader.poll_read_message(&mut Context::from_waker(&reads.waker)).is_pending());
    drop(ping);
    transport.wake(1);
    transport.wake(0);
    let Task { woken, waker, .. } = pings;
    drop((waker, transport));
    assert_eq!((woken.0.load(Ordering::Relaxed), Arc::strong_count(&woken)), (0, 1));
    assert!(reads.woken.0.load(Ordering::Relaxed) > 0);
}
