//! Subscriptions that the server makes: the program gets a handle of each.
//!
//! Never: keeping the task of the client alive.

use std::sync::Arc;

use tokio::sync::{Notify, mpsc};

use crate::command::Command;
use crate::session::queue::Queue;
use crate::{Refusal, Subscription};

/// The program's callback.
pub(crate) type Offer = Box<dyn FnMut(Subscription) + Send>;

/// Makes handles of server-side subscriptions, and gives them to the program.
pub(crate) struct ServerSide {
    pub(crate) offer: Offer,
    pub(crate) commands: mpsc::WeakSender<Command>,
    pub(crate) wake: Arc<Notify>,
    pub(crate) queue_events: usize,
}

impl ServerSide {
    /// A handle, and its queue. `None` if the client is about to end, because all handles are dropped.
    pub(super) fn subscription(&self, name: &str) -> Option<(Subscription, Arc<Queue>)> {
        let commands = self.commands.upgrade()?;
        let queue = Queue::new(self.queue_events, Arc::clone(&self.wake));
        Some((Subscription::new(name.to_owned(), Arc::clone(&queue), None, commands), queue))
    }

    pub(super) fn offer(&mut self, subscription: Subscription) {
        (self.offer)(subscription);
    }
}

/// Why a subscription ends that the server has not made again on a new connection.
pub(super) fn not_made_again() -> Refusal {
    let code = echoring_wire::centrifuge::UnsubscribeCode::Server;
    Refusal { code: code.code().to_string(), message: code.reason().to_owned(), temporary: false }
}
