//! Decisions that wait: password checks, requests to the hook, and refreshes of the key set.
//!
//! Each kind has a bound of its own, and every question is answered. A client whose question cannot be decided is refused.

mod decide;
mod failures;
mod refresh;

use std::io;
use std::sync::{Arc, OnceLock};

use tokio::sync::mpsc;

use crate::calls::load::{Counted, Load};
use crate::calls::{Engine, Inlet, KEY_SETS};
use crate::credentials::presented::Credentials;
use crate::limits::QUESTIONS_WAITING_MAX;
use crate::methods::Shared;
use crate::question::{Denied, Question};
use crate::tokens::jwt;
use decide::Decider;

/// The ways of questions to their decisions, once they are started. Other settings have others: who has asked before is still answered.
#[derive(Debug)]
pub(crate) struct Worker {
    questions: Inlet<Question>,
    /// Those that wait for a refresh of the key set.
    unknown_keys: OnceLock<mpsc::Sender<(Question, Counted)>>,
    unknown_load: Arc<Load>,
}

impl Default for Worker {
    fn default() -> Worker {
        let unknown_load = Load::of_at_most(KEY_SETS.waiting_max, KEY_SETS.waiting_bytes_max);
        Worker { questions: Inlet::default(), unknown_keys: OnceLock::new(), unknown_load }
    }
}

impl Worker {
    /// Has questions answered from now on.
    pub(crate) fn start(&self, shared: &Arc<Shared>) -> io::Result<()> {
        if self.unknown_keys.get().is_some() {
            return Ok(());
        }
        let engine = Engine::start()?;
        let Some(decider) = Decider::new(Arc::clone(shared)).map(Arc::new) else {
            tracing::error!(
                "no random source for authentication: clients that need the hook or a password are refused"
            );
            return Ok(());
        };
        self.questions.start(QUESTIONS_WAITING_MAX, move |question| Arc::clone(&decider).decide(question))?;
        let (unknown_keys, waiting) = mpsc::channel(KEY_SETS.waiting_max);
        let shared = Arc::clone(shared);
        engine.spawn(move || refresh::refresh_keys(shared, waiting));
        // Only one thread starts it.
        let _ = self.unknown_keys.set(unknown_keys);
        Ok(())
    }

    /// Asks a question. One for which there is no room is dropped, which answers it.
    pub(crate) fn ask(&self, question: Question, shared: &Shared) {
        let waits_for_keys = match &question.credentials {
            Credentials::Token(token) => shared.jwt.is_some() && jwt::is_jwt(token),
            Credentials::Password { .. } => false,
        };
        if !waits_for_keys {
            if let Err(question) = self.questions.send(question) {
                question.reply.give(Err(Denied::Busy));
            }
        } else if let Some(unknown_keys) = self.unknown_keys.get()
            && let Ok(counted) = self.unknown_load.take(question.source(), 0)
        {
            let _ = unknown_keys.try_send((question, counted));
        }
    }
}
