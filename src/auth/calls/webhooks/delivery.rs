//! The delivery of a webhook's events: one request at a time.

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use echoring_proto::random::SplitMix64;
use tokio::select;
use tokio::sync::{mpsc, watch};
use tokio::time::sleep_until;

use super::Webhook;
use super::counters::Loss;
use super::queue::{Next, Outcome, Queue, Request, Room, Waiting};
use crate::calls::http_client::HttpClient;
use crate::calls::{Begun, within};

/// The part of a webhook on the thread for calls.
pub(super) struct Delivery {
    /// Its name in the log.
    pub(super) name: Box<str>,
    pub(super) client: HttpClient,
    /// The beginning of the body of each request.
    pub(super) begin: Arc<str>,
    pub(super) events: mpsc::UnboundedReceiver<Waiting>,
    pub(super) room: Arc<Room>,
    pub(super) settings: watch::Receiver<Arc<Webhook>>,
    pub(super) random: SplitMix64,
}

impl Delivery {
    /// Sends the events until the last one that can come is settled, or the time of the `end` is over. It ends with all webhooks, too.
    pub(super) async fn run(mut self: Box<Self>, mut end: watch::Receiver<Option<Instant>>, _begun: Begun) {
        let mut queue = Queue::default();
        let (mut is_open, mut is_ending) = (true, false);
        loop {
            while let Ok(event) = self.events.try_recv() {
                queue.push(event);
            }
            if end.has_changed().is_err() {
                return;
            }
            let (now, end_at) = (Instant::now(), *end.borrow_and_update());
            if end_at.is_some_and(|end_at| end_at <= now) {
                return self.abandon(queue);
            }
            if end_at.is_some() && !std::mem::replace(&mut is_ending, true) {
                self.events.close();
                queue.hurry();
            }
            let settings = Arc::clone(&self.settings.borrow_and_update());
            let (next, old) = queue.next(now, settings.terms(), &self.room, &self.begin);
            if old > 0 {
                let webhook = &*self.name;
                tracing::warn!(
                    webhook,
                    events = old,
                    cause = Loss::Expired.word(),
                    "events were not accepted in time"
                );
            }
            let wait_until = match next {
                Next::Send(request) => {
                    let outcome = select! {
                        outcome = self.send(&settings, &request) => outcome,
                        () = over(end.clone()) => Outcome::Failed { retry_after: None },
                    };
                    queue.answered(Instant::now(), outcome, &self.room, self.random.next_u64());
                    continue;
                }
                Next::Idle if !is_open => return,
                Next::Idle => end_at,
                Next::Wait(at) => Some(end_at.map_or(at, |end_at| end_at.min(at))),
            };
            select! {
                event = self.events.recv(), if is_open => match event {
                    Some(event) => queue.push(event),
                    None => is_open = false,
                },
                () = at(wait_until) => {}
                Ok(()) = self.settings.changed() => {}
                _ = end.changed() => {}
            }
        }
    }

    async fn send(&self, settings: &Webhook, request: &Request) -> Outcome {
        let answered =
            async { self.client.send(settings.secrets.post(&request.id, request.body.clone())?).await };
        let (outcome, problem) = match within(settings.timeout, answered).await {
            Ok((head, _)) => {
                (Outcome::of(head.status(), head.retry_after()), format!("status {}", head.status()))
            }
            Err(error) => (Outcome::Failed { retry_after: None }, error.problem),
        };
        let webhook = &*self.name;
        match outcome {
            Outcome::Accepted => {}
            Outcome::Refused => {
                tracing::warn!(
                    webhook,
                    problem,
                    cause = Loss::Refused.word(),
                    "events are refused, and given up"
                );
            }
            Outcome::Failed { .. } => {
                self.room.counters.failed_requests.fetch_add(1, Relaxed);
                tracing::warn!(webhook, problem, cause = "failed", "events are not accepted, and sent again");
            }
        }
        outcome
    }

    /// There is no time to send what is left.
    fn abandon(mut self: Box<Self>, mut queue: Queue) {
        while let Ok(event) = self.events.try_recv() {
            queue.push(event);
        }
        let (webhook, events) = (&*self.name, queue.len());
        queue.abandon(&self.room);
        if events > 0 {
            tracing::warn!(webhook, events, cause = Loss::Ended.word(), "events are lost with the process");
        }
    }
}

/// Waits for the time that `end` sets.
async fn over(mut end: watch::Receiver<Option<Instant>>) {
    let end_at = end.wait_for(Option::is_some).await.ok().and_then(|end| *end);
    at(end_at).await;
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time.into()).await,
        None => pending().await,
    }
}
