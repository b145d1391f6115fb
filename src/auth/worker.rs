//! The authentication thread: password checks, requests to the hook, and refreshes of the key set.
//!
//! It runs plain tokio. Questions arrive through a bounded channel, each kind has a bound of its own, and every question is
//! answered. A client whose question cannot be decided is refused.

mod decide;
mod refresh;
mod shares;

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::thread;

use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc;
use tokio::task::{JoinSet, LocalSet};

use crate::limits::{QUESTIONS_WAITING_MAX, UNKNOWN_KEY_WAITING_MAX};
use crate::methods::Shared;
use crate::question::Question;
use decide::Decider;

/// Threads for blocking work: one for password checks, which are made one after another, and one for name lookups.
const BLOCKING_THREADS: usize = 2;

/// Starts the thread. It ends when the sender is dropped and all questions are answered.
pub(crate) fn start(shared: Arc<Shared>) -> io::Result<mpsc::Sender<Question>> {
    let (sender, receiver) = mpsc::channel(QUESTIONS_WAITING_MAX);
    let runtime =
        Builder::new_current_thread().enable_all().max_blocking_threads(BLOCKING_THREADS).build()?;
    thread::Builder::new().name("auth".to_owned()).spawn(move || run(&runtime, shared, receiver))?;
    Ok(sender)
}

fn run(runtime: &Runtime, shared: Arc<Shared>, questions: mpsc::Receiver<Question>) {
    LocalSet::new().block_on(runtime, answer_all(shared, questions));
}

async fn answer_all(shared: Arc<Shared>, mut questions: mpsc::Receiver<Question>) {
    let Some(decider) = Decider::new(Arc::clone(&shared)) else {
        tracing::error!(
            "no random source for authentication: clients that need the hook or a password are refused"
        );
        return;
    };
    let decider = Rc::new(decider);
    let (unknown_keys, waiting) = mpsc::channel(UNKNOWN_KEY_WAITING_MAX);
    let mut tasks = JoinSet::new();
    tasks.spawn_local(refresh::refresh_keys(shared, waiting));
    while let Some(question) = questions.recv().await {
        while tasks.try_join_next().is_some() {}
        if decider.waits_for_keys(&question) {
            // A full channel drops the question, which answers it.
            let _ = unknown_keys.try_send(question);
        } else {
            tasks.spawn_local(Rc::clone(&decider).decide(question));
        }
    }
    // Other settings hold now. Those who asked before are still answered, each within its timeout.
    drop(unknown_keys);
    while tasks.join_next().await.is_some() {}
}
