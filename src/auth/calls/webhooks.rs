//! Webhooks: the server posts events to HTTP services, signed, in order, and again until they are accepted.
//!
//! Shards hand events over without waiting. A webhook has one queue with a bound in bytes, which a shard reserves before the event
//! is on its way. Queues last as long as the process, whatever servers and settings do.
//!
//! Never: a credential or the path of a URL in the log.

mod counters;
mod delivery;
mod event;
mod queue;

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher as _, Hasher as _};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use echoring_proto::AddressKey;
use echoring_proto::random::SplitMix64;
use echoring_topics::Pattern;
use tokio::sync::{mpsc, watch};

use self::delivery::Delivery;
use self::queue::{Origin, Queued, Room, Terms, Waiting};
use crate::calls::http_client::HttpClient;
use crate::calls::signature::SigningSecrets;
use crate::calls::{self, Engine, Running, lock};
use crate::error::LoadError;
use crate::limits::WEBHOOK_BATCH_BYTES_MAX;

pub use self::counters::{WEBHOOKS, WebhookCounters, WebhookReceiver, WebhookReceivers};
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

impl Webhook {
    fn terms(&self) -> Terms {
        Terms { batch: self.batch.max(1) as usize, give_up_after: self.give_up_after }
    }
}

/// The webhooks of a server. All shards share them.
#[derive(Default)]
pub struct Webhooks {
    tables: Vec<Table>,
    kinds: WebhookKinds,
    process: Arc<Process>,
}

opaque!(Webhooks, |it| kinds: it.kinds, tables: it.tables.len());

/// What all webhooks of the process have in common, over all reloads.
#[derive(Default)]
struct Process {
    /// A number of the process, and of its next event.
    run: OnceLock<u64>,
    next: AtomicU64,
    /// When the process has ended.
    end: watch::Sender<Option<Instant>>,
    deliveries: Arc<Running>,
}

struct Table {
    settings: Arc<Webhook>,
    outlet: Arc<Outlet>,
}

/// The way to the queue of a webhook. A reload keeps that of a URL.
struct Outlet {
    events: mpsc::UnboundedSender<Waiting>,
    room: Arc<Room>,
    settings: watch::Sender<Arc<Webhook>>,
    /// Until it has begun.
    delivery: Mutex<Option<Box<Delivery>>>,
}

impl Webhooks {
    /// Checks the settings. `node` is the name of this server, which each request has; empty for none. Starts nothing and sends nothing.
    ///
    /// # Errors
    /// If a URL cannot be used. `setting` of the error is the URL's number.
    pub fn load(webhooks: &[Webhook], node: &str) -> Result<Webhooks, (usize, LoadError)> {
        let node = match node {
            "" => String::new(),
            node => format!("\"node\":{},", serde_json::Value::from(node)),
        };
        let begin: Arc<str> = format!("{{{node}\"events\":[").into();
        let table = |(number, webhook)| Table::new(webhook, &begin).map_err(|error| (number, error));
        let tables = webhooks.iter().enumerate().map(table).collect::<Result<Vec<_>, _>>()?;
        let kinds =
            tables.iter().fold(WebhookKinds::default(), |kinds, table| kinds.union(table.settings.events));
        Ok(Webhooks { tables, kinds, process: Arc::default() })
    }

    /// The same with the queues of `running`, as far as it has the same URLs.
    #[must_use]
    pub fn continuing(&self, running: &Webhooks) -> Webhooks {
        let continued = |table: &Table| {
            let of_url = |other: &&Table| other.settings.url == table.settings.url;
            let outlet = &running.tables.iter().find(of_url).unwrap_or(table).outlet;
            Table { settings: Arc::clone(&table.settings), outlet: Arc::clone(outlet) }
        };
        Webhooks {
            tables: self.tables.iter().map(continued).collect(),
            kinds: self.kinds,
            process: Arc::clone(&running.process),
        }
    }

    /// Has events sent, by these settings from now on.
    ///
    /// # Errors
    /// If the thread for calls cannot be started.
    pub fn start(&self) -> io::Result<()> {
        if self.tables.is_empty() {
            return Ok(());
        }
        let engine = Engine::start()?;
        WEBHOOKS.all().iter().for_each(|(_, counters)| counters.bytes_max.store(0, Relaxed));
        for Table { settings, outlet } in &self.tables {
            outlet.room.set_bytes_max(settings.queue_bytes);
            outlet.room.counters.bytes_max.fetch_add(settings.queue_bytes, Relaxed);
            outlet.settings.send_replace(Arc::clone(settings));
            let delivery = lock(&outlet.delivery).take();
            if let Some(delivery) = delivery {
                let (end, begun) = (self.process.end.subscribe(), self.process.deliveries.begin());
                engine.spawn(move || delivery.run(end, begun));
            }
        }
        Ok(())
    }

    /// Sends the events that wait, accepts no more, and waits for that for at most `timeout`. What is left is lost.
    pub fn finish(&self, timeout: Duration) {
        let until = Instant::now() + timeout;
        self.process.end.send_replace(Some(until));
        // The remaining time is for counting and logging the events that are lost.
        self.process.deliveries.finish(until + timeout / 4);
    }

    /// Maximum bytes of the queues, and of the requests that are under way.
    pub fn memory_bytes(&self) -> u64 {
        // A request is made of events that are still in the queue, and may be copied to be sent.
        let of_table = |table: &Table| table.settings.queue_bytes + 2 * WEBHOOK_BATCH_BYTES_MAX as u64;
        self.tables.iter().map(of_table).sum()
    }

    /// The kinds of events that a webhook wants.
    pub fn kinds(&self) -> WebhookKinds {
        self.kinds
    }

    /// An event has happened, of a connection to a client of this address. Waits for nothing but a lock that is held for moments.
    pub fn tell(&self, event: &WebhookEvent<'_>, address: Option<AddressKey>) {
        let mut written: Option<(Queued, Origin)> = None;
        for table in self.tables.iter().filter(|table| table.wants(event)) {
            let write = || (self.process.write(event), event.origin(address));
            let (queued, origin) = written.get_or_insert_with(write);
            // Without a receiver, the process has ended.
            if let Some(waiting) = table.outlet.room.reserve(queued.clone(), origin)
                && let Err(mpsc::error::SendError(waiting)) = table.outlet.events.send(waiting)
            {
                table.outlet.room.abandon(&waiting);
            }
        }
    }

    /// Events of this kind happened, and were too many to be told.
    pub fn note_lost(&self, kind: WebhookKind, events: u64) {
        let wanting = self.tables.iter().filter(|table| table.settings.events.has(kind));
        wanting.for_each(|table| table.outlet.room.note_lost(events));
    }
}

impl Process {
    fn write(&self, event: &WebhookEvent<'_>) -> Queued {
        // Events may be told before the start, and have ids of their own then, too.
        let run = self.run.get_or_init(|| RandomState::new().build_hasher().finish());
        let number = self.next.fetch_add(1, Relaxed);
        let id = format!("{run:016x}-{number}");
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let json = event.to_json(&id, now.as_millis() as u64).into();
        Queued { id: id.into(), json, since: Instant::now() }
    }
}

impl Table {
    fn new(webhook: &Webhook, begin: &Arc<str>) -> Result<Table, LoadError> {
        let (setting, Webhook { url, queue_bytes, .. }) = ("webhooks.url", webhook);
        let client = HttpClient::parse(setting, url, calls::WEBHOOKS.answer_bytes_max)?;
        let random = getrandom::u64().map_err(|error| LoadError::new(setting, error.to_string()))?;
        let room = Arc::new(Room::of_at_most(*queue_bytes, WEBHOOKS.of(client.authority())));
        let settings = Arc::new(webhook.clone());
        let (events_in, events_out) = mpsc::unbounded_channel();
        let (settings_in, settings_out) = watch::channel(Arc::clone(&settings));
        let delivery = Box::new(Delivery {
            name: client.authority().into(),
            client,
            begin: Arc::clone(begin),
            events: events_out,
            room: Arc::clone(&room),
            settings: settings_out,
            random: SplitMix64::new(random),
        });
        let delivery = Mutex::new(Some(delivery));
        let outlet = Arc::new(Outlet { events: events_in, room, settings: settings_in, delivery });
        Ok(Table { settings, outlet })
    }

    fn wants(&self, event: &WebhookEvent<'_>) -> bool {
        let fits = |pattern: &Option<Pattern>, name: Option<&str>| match (pattern, name) {
            (Some(pattern), Some(name)) => pattern.fits(name),
            _ => true,
        };
        let Webhook { events, topics, path, .. } = &*self.settings;
        events.has(event.kind()) && fits(topics, event.topic()) && fits(path, event.path())
    }
}

#[cfg(test)]
mod tests;
