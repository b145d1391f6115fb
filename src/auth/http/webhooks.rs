//! Webhooks: the server posts events to HTTP services, signed, in order, and again until they are accepted.
//!
//! Shards hand events over without waiting. A webhook has one queue with a bound in bytes, which a shard reserves before the event
//! is on its way. One thread of the process sends them; it lasts as long as the process, whatever servers and settings do.
//!
//! Never: a credential or the path of a URL in the log.

mod counters;
mod delivery;
mod event;
mod queue;

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use echoring_proto::random::SplitMix64;
use echoring_topics::Pattern;
use tokio::sync::{mpsc, watch};

use self::delivery::{Delivery, Order, Sending};
use self::queue::{Load, Queued, Terms};
use super::http_client::{Endpoint, HttpClient};
use super::signature::SigningSecrets;
use crate::error::LoadError;
use crate::limits::WEBHOOK_BATCH_BYTES_MAX;

pub use self::counters::{WEBHOOKS, WebhookCounters};
pub use self::event::{WebhookConnection, WebhookEvent, WebhookKind, WebhookKinds, WebhookMember};

/// The settings of a webhook.
#[derive(Clone, Debug)]
pub struct Webhook {
    /// Where events are posted, `http://` or `https://`. No other webhook of the server has the same.
    pub url: String,
    /// The secrets that sign the requests.
    pub secrets: SigningSecrets,
    /// The events.
    pub events: WebhookKinds,
    /// Only events about these topics; `None` for all.
    pub topics: Option<Pattern>,
    /// Only connections with these paths; `None` for all.
    pub path: Option<Pattern>,
    /// Maximum bytes of the events that wait.
    pub queue_bytes: u64,
    /// Maximum events of a request.
    pub batch: u32,
    /// Maximum time for the answer to a request.
    pub timeout: Duration,
    /// The age at which an event is given up.
    pub give_up_after: Duration,
}

/// The webhooks of a server. All shards share them.
#[derive(Default)]
pub struct Webhooks {
    tables: Vec<Table>,
    kinds: WebhookKinds,
    process: Arc<Process>,
}

impl fmt::Debug for Webhooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Webhooks").field("kinds", &self.kinds).field("tables", &self.tables.len()).finish()
    }
}

/// What all webhooks of the process have in common, over all reloads.
#[derive(Default)]
struct Process {
    /// A number of the process, and of its next event.
    run: OnceLock<u64>,
    next: AtomicU64,
    thread: OnceLock<mpsc::UnboundedSender<Order>>,
}

struct Table {
    events: WebhookKinds,
    topics: Option<Pattern>,
    path: Option<Pattern>,
    queue_bytes: u64,
    sending: Arc<Sending>,
    outlet: Arc<Outlet>,
}

/// The way to the queue of a webhook. A reload keeps that of a URL.
struct Outlet {
    url: String,
    events: mpsc::UnboundedSender<Queued>,
    load: Arc<Load>,
    sending: watch::Sender<Arc<Sending>>,
    /// The thread's part, until the thread has it.
    delivery: Mutex<Option<Box<Delivery>>>,
}

impl Webhooks {
    /// Checks the settings. `node` is the name of this node in its cluster. Starts nothing and sends nothing.
    ///
    /// # Errors
    /// If a URL cannot be used. `setting` of the error is the URL's number.
    pub fn load(webhooks: &[Webhook], node: Option<&str>) -> Result<Webhooks, (usize, LoadError)> {
        let node =
            node.map(|node| format!("\"node\":{},", serde_json::Value::from(node))).unwrap_or_default();
        let begin: Arc<str> = format!("{{{node}\"events\":[").into();
        let table = |(number, webhook)| Table::new(webhook, &begin).map_err(|error| (number, error));
        let tables = webhooks.iter().enumerate().map(table).collect::<Result<Vec<_>, _>>()?;
        let kinds = tables.iter().fold(WebhookKinds::default(), |kinds, table| kinds.union(table.events));
        Ok(Webhooks { tables, kinds, process: Arc::default() })
    }

    /// The same with the queues of `running`, as far as it has the same URLs.
    #[must_use]
    pub fn continuing(&self, running: &Webhooks) -> Webhooks {
        let continued = |table: &Table| {
            let of_url = |other: &&Table| other.outlet.url == table.outlet.url;
            let outlet = running.tables.iter().find(of_url).map_or(&table.outlet, |other| &other.outlet);
            Table {
                outlet: Arc::clone(outlet),
                topics: table.topics.clone(),
                path: table.path.clone(),
                sending: Arc::clone(&table.sending),
                ..*table
            }
        };
        Webhooks {
            tables: self.tables.iter().map(continued).collect(),
            kinds: self.kinds,
            process: Arc::clone(&running.process),
        }
    }

    /// Starts the thread, if there are webhooks and it does not run yet. Its requests are made by these settings from now on.
    ///
    /// # Errors
    /// If the thread cannot be started, or there is no randomness.
    pub fn start(&self) -> io::Result<()> {
        if self.tables.is_empty() {
            return Ok(());
        }
        let Process { run, thread, .. } = &*self.process;
        if thread.get().is_none() {
            let random = getrandom::u64().map_err(io::Error::other)?;
            // Only one thread starts it.
            let _ = (run.set(random), thread.set(delivery::start()?));
        }
        for Table { outlet, queue_bytes, sending, .. } in &self.tables {
            outlet.load.bytes_max.store(*queue_bytes, Relaxed);
            outlet.sending.send_replace(Arc::clone(sending));
            let delivery = outlet.delivery.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let (Some(delivery), Some(thread)) = (delivery, thread.get()) {
                // It ends with the process.
                let _ = thread.send(Order::Deliver(delivery));
            }
        }
        Ok(())
    }

    /// Sends the events that wait, accepts no more, and waits for that for at most `timeout`. What is left is lost.
    pub fn finish(&self, timeout: Duration) {
        let (done, finished) = sync_channel(1);
        let Some(thread) = self.process.thread.get() else { return };
        let until = Instant::now() + timeout;
        if thread.send(Order::Finish(until, done)).is_ok() {
            // The thread counts and logs what is left by itself, which takes no time.
            let _ = finished.recv_timeout(timeout + timeout / 4);
        }
    }

    /// Maximum bytes of the queues, and of the requests that are under way.
    pub fn memory_bytes(&self) -> u64 {
        // A request is made of events that are still in the queue, and may be copied to be sent.
        let of_table = |table: &Table| table.queue_bytes + 2 * WEBHOOK_BATCH_BYTES_MAX as u64;
        self.tables.iter().map(of_table).sum()
    }

    /// The kinds of events that a webhook wants.
    pub fn kinds(&self) -> WebhookKinds {
        self.kinds
    }

    /// An event has happened. Never blocks.
    pub fn tell(&self, event: &WebhookEvent<'_>) {
        let mut written: Option<Queued> = None;
        for table in self.tables.iter().filter(|table| table.wants(event)) {
            let queued = written.get_or_insert_with(|| self.process.write(event)).clone();
            // Without a receiver, the process has ended.
            if table.outlet.load.reserve(&queued)
                && let Err(mpsc::error::SendError(queued)) = table.outlet.events.send(queued)
            {
                table.outlet.load.abandon(&queued);
            }
        }
    }

    /// Events of this kind happened, and were too many to be told.
    pub fn note_lost(&self, kind: WebhookKind, events: u64) {
        let wanting = self.tables.iter().filter(|table| table.events.has(kind));
        wanting.for_each(|table| table.outlet.load.note_lost(events));
    }
}

impl Process {
    fn write(&self, event: &WebhookEvent<'_>) -> Queued {
        let (run, number) = (self.run.get().copied().unwrap_or_default(), self.next.fetch_add(1, Relaxed));
        let id = format!("{run:016x}-{number}");
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let json = event.to_json(&id, now.as_millis() as u64).into();
        Queued { id: id.into(), json, since: Instant::now() }
    }
}

impl Table {
    fn new(webhook: &Webhook, begin: &Arc<str>) -> Result<Table, LoadError> {
        let Webhook { url, secrets, events, topics, path, queue_bytes, batch, timeout, give_up_after } =
            webhook.clone();
        let client = HttpClient::new(Endpoint::parse("webhooks.url", &url)?);
        let terms = Terms { batch: batch.max(1) as usize, give_up_after };
        let sending = Arc::new(Sending { secrets, timeout, terms });
        let random = getrandom::u64().map_err(|error| LoadError::new("webhooks.url", error.to_string()))?;
        let load = Arc::new(Load::of_at_most(queue_bytes));
        let (events_in, events_out) = mpsc::unbounded_channel();
        let (sending_in, sending_out) = watch::channel(Arc::clone(&sending));
        let delivery = Box::new(Delivery {
            name: client.authority().into(),
            client,
            begin: Arc::clone(begin),
            events: events_out,
            load: Arc::clone(&load),
            sending: sending_out,
            random: SplitMix64::new(random),
        });
        let delivery = Mutex::new(Some(delivery));
        let outlet = Arc::new(Outlet { url, events: events_in, load, sending: sending_in, delivery });
        Ok(Table { events, topics, path, queue_bytes, sending, outlet })
    }

    fn wants(&self, event: &WebhookEvent<'_>) -> bool {
        let fits = |pattern: &Option<Pattern>, name: Option<&str>| match (pattern, name) {
            (Some(pattern), Some(name)) => pattern.fits(name),
            _ => true,
        };
        self.events.has(event.kind()) && fits(&self.topics, event.topic()) && fits(&self.path, event.path())
    }
}

#[cfg(test)]
mod tests;
