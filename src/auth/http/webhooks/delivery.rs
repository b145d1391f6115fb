//! The thread that sends the events: one task for each webhook, which has one request at a time.

use std::future::pending;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::SyncSender;
use std::thread;
use std::time::{Duration, Instant};

use echoring_proto::random::SplitMix64;
use tokio::runtime::{Builder, Runtime};
use tokio::select;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinSet, LocalSet};
use tokio::time::{sleep_until, timeout};

use super::counters::WEBHOOKS;
use super::queue::{Load, Next, Outcome, Queue, Queued, Request, Terms};
use crate::http::http_client::HttpClient;
use crate::http::signature::SigningSecrets;
use crate::limits::WEBHOOKS_MAX;

/// An order to the thread.
pub(super) enum Order {
    Deliver(Box<Delivery>),
    /// Send what waits, until then at most, accept nothing more, and answer.
    Finish(Instant, SyncSender<()>),
}

/// The part of the settings of a webhook that can change while its events wait.
#[derive(Clone, Debug)]
pub(super) struct Sending {
    pub(super) secrets: SigningSecrets,
    pub(super) timeout: Duration,
    pub(super) terms: Terms,
}

/// The thread's part of a webhook.
pub(super) struct Delivery {
    /// Its name in the log.
    pub(super) name: Box<str>,
    pub(super) client: HttpClient,
    /// The beginning of the body of each request.
    pub(super) begin: Arc<str>,
    pub(super) events: mpsc::UnboundedReceiver<Queued>,
    pub(super) load: Arc<Load>,
    pub(super) sending: watch::Receiver<Arc<Sending>>,
    pub(super) random: SplitMix64,
}

/// Starts the thread. It ends when the sender is dropped.
pub(super) fn start() -> io::Result<mpsc::UnboundedSender<Order>> {
    let (sender, orders) = mpsc::unbounded_channel();
    // Names are looked up by threads, and a slow lookup must not delay other webhooks.
    let runtime = Builder::new_current_thread().enable_all().max_blocking_threads(WEBHOOKS_MAX).build()?;
    thread::Builder::new().name("webhooks".to_owned()).spawn(move || run(&runtime, orders))?;
    Ok(sender)
}

fn run(runtime: &Runtime, orders: mpsc::UnboundedReceiver<Order>) {
    LocalSet::new().block_on(runtime, deliver_all(orders));
}

async fn deliver_all(mut orders: mpsc::UnboundedReceiver<Order>) {
    let (finishing, _) = watch::channel(None);
    let mut deliveries = JoinSet::new();
    loop {
        select! {
            order = orders.recv() => match order {
                None => return,
                Some(Order::Deliver(delivery)) => {
                    deliveries.spawn_local(delivery.run(finishing.subscribe()));
                }
                Some(Order::Finish(until, done)) => {
                    finishing.send_replace(Some(until));
                    while deliveries.join_next().await.is_some() {}
                    // Fails if nobody waits any more.
                    let _ = done.try_send(());
                }
            },
            Some(_) = deliveries.join_next() => {}
        }
    }
}

impl Delivery {
    /// Sends the events until the last one that can come is settled, or `finishing` says that the time is over.
    async fn run(mut self, mut finishing: watch::Receiver<Option<Instant>>) {
        let mut queue = Queue::default();
        let (mut is_open, mut is_ending) = (true, false);
        loop {
            while let Ok(event) = self.events.try_recv() {
                queue.push(event);
            }
            let (now, end) = (Instant::now(), *finishing.borrow_and_update());
            if end.is_some_and(|end| end <= now) {
                return self.abandon(queue);
            }
            if end.is_some() && !std::mem::replace(&mut is_ending, true) {
                self.events.close();
                queue.hurry();
            }
            let sending = Arc::clone(&self.sending.borrow_and_update());
            let (next, old) = queue.next(now, sending.terms, &self.load, &self.begin);
            if old > 0 {
                let webhook = &*self.name;
                tracing::warn!(webhook, events = old, cause = "expired", "events were not accepted in time");
            }
            let wait_until = match next {
                Next::Send(request) => {
                    let outcome = select! {
                        outcome = self.send(&sending, &request) => outcome,
                        () = over(finishing.clone()) => Outcome::Failed { retry_after: None },
                    };
                    queue.answered(Instant::now(), outcome, &self.load, self.random.next_u64());
                    continue;
                }
                Next::Idle if !is_open => return,
                Next::Idle => end,
                Next::Wait(at) => Some(end.map_or(at, |end| end.min(at))),
            };
            select! {
                event = self.events.recv(), if is_open => match event {
                    Some(event) => queue.push(event),
                    None => is_open = false,
                },
                () = at(wait_until) => {}
                Ok(()) = self.sending.changed() => {}
                Ok(()) = finishing.changed() => {}
            }
        }
    }

    async fn send(&self, sending: &Sending, request: &Request) -> Outcome {
        let failed = Outcome::Failed { retry_after: None };
        let Some(fields) = sending.secrets.sign_now(&request.id, &request.body) else { return failed };
        let answer = timeout(sending.timeout, self.client.notify(&fields, request.body.clone())).await;
        let (outcome, problem) = match answer {
            Ok(Ok((status, retry_after))) => (Outcome::of(status, retry_after), format!("status {status}")),
            Ok(Err(error)) => (failed, error),
            Err(_) => (failed, format!("no answer within {:?}", sending.timeout)),
        };
        let webhook = &*self.name;
        match outcome {
            Outcome::Accepted => {}
            Outcome::Refused => {
                tracing::warn!(webhook, problem, cause = "refused", "events are refused, and given up");
            }
            Outcome::Failed { .. } => {
                WEBHOOKS.failed_requests.fetch_add(1, Relaxed);
                tracing::warn!(webhook, problem, cause = "failed", "events are not accepted, and sent again");
            }
        }
        outcome
    }

    /// There is no time to send what is left.
    fn abandon(mut self, mut queue: Queue) {
        while let Ok(event) = self.events.try_recv() {
            queue.push(event);
        }
        let (webhook, events) = (&*self.name, queue.len());
        queue.abandon(&self.load);
        if events > 0 {
            tracing::warn!(webhook, events, cause = "ended", "events are lost with the process");
        }
    }
}

/// Waits for the time that `finishing` sets.
async fn over(mut finishing: watch::Receiver<Option<Instant>>) {
    let end = finishing.wait_for(Option::is_some).await.ok().and_then(|end| *end);
    at(end).await;
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time.into()).await,
        None => pending().await,
    }
}
