//! Instruction counts of `Conn`, under valgrind's callgrind, over a transport in memory: without the kernel and without tokio's
//! runtime.
//!
//! `scripts/check-instructions` compares them with `baseline.json`, and updates it with `--update`.
//!
//! Known bias: each count includes the transport, which copies what is read. Each is of 16 messages.

#![allow(missing_docs, reason = "the macros make items, and a bench has no readers of its API")]

mod frames;

use std::cell::Cell;
use std::hint::black_box;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use gungraun::prelude::*;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use echoring_async::{Conn, Error, Opened, Settings};
use echoring_proto::Role;
use frames::{FRAMES, client_frame, client_frames};

/// A transport in memory: what has arrived is read at once, and the next read waits.
struct Wire {
    arrived: Rc<Cell<bool>>,
    bytes: &'static [u8],
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.arrived.take() {
            return Poll::Pending;
        }
        out.put_slice(self.bytes);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(black_box(bytes).len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// An asynchronous echo, and what makes bytes arrive for it.
struct Echoing {
    arrived: Rc<Cell<bool>>,
    echo: Pin<Box<dyn Future<Output = Result<(), Error>>>>,
}

impl Echoing {
    fn new(bytes: &'static [u8]) -> &'static mut Echoing {
        let arrived = Rc::<Cell<bool>>::default();
        let wire = Wire { arrived: Rc::clone(&arrived), bytes };
        // With room for a byte more, as a connection's reads have once they have grown with what the peer sends.
        let settings = Settings::default().read_buffer_bytes((bytes.len() + 1).max(4096));
        let mut conn = Conn::new(wire, &settings, Opened::new(Role::Server));
        let echo = Box::pin(async move {
            loop {
                let message = conn.read().await?;
                conn.feed(message).await?;
            }
        });
        let echoing = Box::leak(Box::new(Echoing { arrived, echo }));
        // Buffers are made with the first messages.
        echoing.receive(FRAMES);
        echoing
    }

    /// As many times, bytes arrive, and are echoed.
    fn receive(&mut self, times: usize) {
        let mut cx = Context::from_waker(Waker::noop());
        for _ in 0..times {
            self.arrived.set(true);
            assert!(self.echo.as_mut().poll(&mut cx).is_pending());
        }
    }
}

fn echoing(payload_bytes: usize) -> &'static mut Echoing {
    Echoing::new(client_frame(payload_bytes))
}

fn echoing_many(payload_bytes: usize) -> &'static mut Echoing {
    Echoing::new(client_frames(payload_bytes))
}

// Messages that a `Conn` echoes one by one: for each, its task is woken and waits again.
#[library_benchmark]
#[benches::of(args = [16, 1024, 65536], setup = echoing)]
fn conn_echo(echoing: &'static mut Echoing) {
    black_box(echoing).receive(FRAMES);
}

// As many that arrive together.
#[library_benchmark]
#[benches::of(args = [16, 1024], setup = echoing_many)]
fn conn_echo_many(echoing: &'static mut Echoing) {
    black_box(echoing).receive(1);
}

library_benchmark_group!(name = conn, benchmarks = [conn_echo, conn_echo_many]);

main!(library_benchmark_groups = conn);
