//! A takeover whose open connections move: while they do, their clients publish, subscribe, come and go, and nobody notices it. Whoever
//! cannot move stays, and if the successor is lost, connections end, and what was received until then is right.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;
use std::sync::mpsc::{self, Receiver, TryRecvError};

use echoring_async::limits::DRAIN_TIMEOUT;
use echoring_broker::broadcast::Ids;
use echoring_proto::buffer::Budget;
use echoring_proto::connection::{Compression, ConnectionConfig, Entropy};
use echoring_proto::limits::{Nanos, SECOND};
use echoring_runtime::driver::sim::Random;
use echoring_runtime::shard::{ControlMessage, DrainPlan, Entrance, Goodbye};
use echoring_runtime::stats::Snapshot;
use echoring_server::{BroadcastSettings, Service};
use echoring_topics::HubReport;
use echoring_topics::limits::REMEMBERED_AGE;
use miniz_oxide::deflate::core::{
    CompressorOxide, TDEFLFlush, TDEFLStatus, compress, create_comp_flags_from_zip_params,
};
use serde_json::json;

use super::broadcast::OFFERS;
use super::centrifuge::{self, Log};
use super::client::{self, Client, Item, Leave, MessageKind};
use super::handover::placement;
use super::hub::{self, Model};
use super::rehearsal::Rehearsal;
use super::rehearsal::Shards;
use super::service::with_broadcast;
use super::sessions::{notices, text};
use super::topics::MESSAGE_BYTES_MAX;
use super::transfer::Transfer;
use super::world::{Memory, World, config};
use super::{broadcast_settings, for_each_seed};

/// The topic of Centrifuge's clients.
const FLEETING: &str = "fleeting";
/// Time after which nothing is known of topics that nobody uses.
const FORGOTTEN_AFTER: Nanos = REMEMBERED_AGE + 120 * SECOND;
/// Orders after which all connections have moved: each of the later ones is refused half as many.
const ORDERS_MAX: usize = 40;
/// Bytes of echoed messages at most.
const ECHO_BYTES_MAX: usize = 8_000;

/// Two processes, of which the first has the clients.
fn world(seed: u64, processes: [usize; 2], presence: bool) -> Rc<World<Service>> {
    let compression = Compression::default().threshold_bytes(100);
    let config =
        ConnectionConfig { max_message: MESSAGE_BYTES_MAX, compression: Some(compression), ..config() };
    let topics = [0, 1].map(|_| Budget::new(100));
    let mailbox_bytes = 2 * MESSAGE_BYTES_MAX as usize + 2_048;
    World::of_processes(seed, &processes, config, mailbox_bytes, false, Memory::random(seed), move |shard| {
        let process = usize::from(shard >= processes[0]);
        let rules = hub::rules(presence);
        let settings = BroadcastSettings {
            seed: seed ^ (shard as u64) << 8,
            placement: placement(seed, process),
            first_number: if process == 0 { 0 } else { processes[0] as u8 },
            ids: Ids::new(Some(1), &mut Entropy::new(seed ^ process as u64)),
            digest_seed: seed,
            ..broadcast_settings(rules, &topics[process], MESSAGE_BYTES_MAX, seed, shard)
        };
        with_broadcast(settings)
    })
}

/// A client whose messages come back.
struct Echo {
    client: usize,
    sent: Vec<(MessageKind, Vec<u8>)>,
    /// Its messages may refer to earlier ones.
    deflate: Option<Box<CompressorOxide>>,
}

impl Echo {
    fn open(world: &World<Service>, random: &mut Random) -> Echo {
        let offer = OFFERS[random.below(OFFERS.len())];
        let client = world.add_offering("/echo", offer);
        world.clients.borrow_mut()[client].decoder.takes_context_over = true;
        Echo { client, sent: Vec::new(), deflate: None }
    }

    /// Sends a message, compressed or not, and sometimes only the first part of it now.
    fn send(&mut self, world: &World<Service>, random: &mut Random) {
        let kind = if random.chance(500) { MessageKind::Text } else { MessageKind::Binary };
        let payload = client::payload(random, kind, ECHO_BYTES_MAX);
        let mut script = Vec::new();
        let mut clients = world.clients.borrow_mut();
        let Client { decoder, script: unsent, .. } = &mut clients[self.client];
        match decoder.window_bits {
            Some(_) if !payload.is_empty() && random.chance(600) => {
                if !decoder.client_takes_context_over {
                    self.deflate = None;
                }
                let payload = self.compressed(&payload);
                let opcode = if kind == MessageKind::Text { 1 } else { 2 };
                client::frame(random, true, 0x40 | opcode, &payload, &mut script);
            }
            _ => client::message(random, kind, &payload, &mut script, |_, _| {}),
        }
        unsent.extend(script);
        self.sent.push((kind, payload));
    }

    fn compressed(&mut self, payload: &[u8]) -> Vec<u8> {
        // Raw, with the smallest window of all offers.
        let flags = create_comp_flags_from_zip_params(6, -9, 0);
        let deflate = self.deflate.get_or_insert_with(|| Box::new(CompressorOxide::new(flags)));
        let mut out = vec![0; 2 * payload.len() + 200];
        let (status, read, written) = compress(deflate, payload, &mut out, TDEFLFlush::Sync);
        assert_eq!((status, read), (TDEFLStatus::Okay, payload.len()));
        out.truncate(written);
        assert!(out.ends_with(&[0, 0, 0xff, 0xff]));
        out.truncate(written - 4);
        out
    }

    /// Everything that came back is what was sent, and all of it unless the connection has ended.
    fn check(&self, client: &Client) {
        let came = client.heard.iter().filter_map(|item| match item {
            Item::Message(kind, payload) => Some((*kind, payload)),
            Item::Close(_) => None,
            other => panic!("{other:.40?} of an echo"),
        });
        let mut count = 0;
        for ((kind, payload), (sent_kind, sent)) in came.zip(&self.sent) {
            assert!((kind, payload) == (*sent_kind, sent), "message {count} came back changed");
            count += 1;
        }
        assert!(client.end.is_some() || count == self.sent.len(), "{count} of {} came back", self.sent.len());
    }
}

/// Clients of Centrifuge's protocol on one topic, of which the first publishes.
#[derive(Default)]
struct Channel {
    clients: Vec<usize>,
    published: u64,
}

impl Channel {
    fn come(&mut self, world: &World<Service>, random: &mut Random) {
        let client = world.add(centrifuge::PATH);
        centrifuge::say(world, random, client, &json!({"id": 1, "connect": {}}));
        centrifuge::say(world, random, client, &json!({"id": 2, "subscribe": {"channel": FLEETING}}));
        self.clients.push(client);
    }

    fn publish(&mut self, world: &World<Service>, random: &mut Random) {
        self.published += 1;
        let pad = "x".repeat(random.below(300));
        let publish = json!({"channel": FLEETING, "data": {"number": self.published, "pad": pad}});
        let command = json!({"id": 10 + self.published, "publish": publish});
        centrifuge::say(world, random, self.clients[0], &command);
    }

    fn check(&self, clients: &[Client]) {
        let mut log = Log::new();
        for client in &self.clients {
            let progress = centrifuge::check(&clients[*client], &mut log, false);
            let has_ended = clients[*client].end.is_some();
            assert!(
                has_ended || progress.reached == Some(self.published),
                "{progress:?} of {}",
                self.published
            );
            assert!(!progress.ended);
        }
        for (offset, data) in &log {
            assert_eq!(data["number"].as_u64(), Some(*offset), "one publisher's messages stay in order");
        }
    }
}

/// What the control threads of the two processes do.
struct Control {
    shards: [Shards; 2],
    entrances: Vec<Entrance>,
    handover: Rehearsal,
    random: Random,
    /// The shards of the second process that are asked to listen.
    listening: Option<Receiver<io::Result<()>>>,
    transfer: Option<Transfer>,
    /// Nothing is passed on any more.
    is_over: bool,
}

impl Control {
    /// Takes some steps. Everyone may sleep until something is sent, so that it goes as far as the answers allow.
    fn advance(&mut self, world: &World<Service>) {
        for _ in 0..8 {
            self.handover.advance(self.random.between(1, 20));
        }
        if !self.handover.is_linked() || self.is_over {
            return;
        }
        match (&mut self.transfer, &self.listening) {
            (Some(transfer), _) => transfer.advance(),
            (None, None) => self.listening = Some(self.listen(world)),
            (None, Some(listening)) => {
                if matches!(listening.try_recv(), Err(TryRecvError::Disconnected)) {
                    self.transfer = Some(self.begin_to_move(world));
                }
            }
        }
    }

    /// The topics have moved: the second process listens.
    fn listen(&self, world: &World<Service>) -> Receiver<io::Result<()>> {
        let (reply, listening) = mpsc::sync_channel(self.shards[1].len());
        for shard in &self.shards[1] {
            let sockets = vec![world.network.listener().expect("a descriptor")];
            shard.send(ControlMessage::Listen(sockets, reply.clone()));
        }
        listening
    }

    /// The first process listens no more, and its connections move.
    fn begin_to_move(&mut self, world: &World<Service>) -> Transfer {
        let first = self.shards[0].clone();
        let (stopped, _) = mpsc::sync_channel(first.len());
        for shard in &first {
            shard.send(ControlMessage::StopListening(stopped.clone()));
        }
        let random = Random::new(self.random.next_u64());
        Transfer::begin(first, world.exits(0), self.entrances.clone(), random)
    }
}

struct Takeover {
    model: Model,
    seed: u64,
    control: Rc<RefCell<Option<Control>>>,
    echoes: Vec<Echo>,
    channel: Channel,
}

impl Takeover {
    fn new(seed: u64) -> Takeover {
        let mut random = Random::new(seed);
        let processes = [random.between(1, 3), random.between(1, 3)];
        let world = world(seed, processes, random.chance(500));
        let (sessions, raws) = (random.between(1, 4), random.below(3));
        let model = Model::on(world, random, sessions, raws, &OFFERS);
        let mut takeover =
            Takeover { model, seed, control: Rc::default(), echoes: Vec::new(), channel: Channel::default() };
        let Takeover { model, echoes, channel, .. } = &mut takeover;
        for _ in 0..model.random.below(4) {
            echoes.push(Echo::open(&model.world, &mut model.random));
        }
        for _ in 0..model.random.below(3) {
            channel.come(&model.world, &mut model.random);
        }
        takeover.open();
        takeover
    }

    /// Runs until all clients are connected.
    fn open(&mut self) {
        let Takeover { model, channel, .. } = self;
        model.world.clients.borrow_mut().iter_mut().for_each(|client| {
            client.eagerness = client.eagerness.max(250);
            client.sip_bytes = client.sip_bytes.max(600);
        });
        let of_channel = channel.clients.clone();
        model.world.run(move |clients| {
            clients.iter().all(|client| client.decoder.opened)
                && of_channel.iter().all(|client| clients[*client].heard.len() >= 2)
        });
        model.others.subscriptions = channel.clients.len() as u64;
    }

    fn begin(&self) {
        let world = &self.model.world;
        let shards = [0, 1].map(|process| world.remotes_of(process));
        let [first, second] = shards.clone();
        let control = Control {
            shards,
            entrances: world.entrances(1),
            handover: Rehearsal::begin(first, second, placement(self.seed, 1), MESSAGE_BYTES_MAX, 1),
            random: Random::new(self.seed ^ 0xfeed),
            listening: None,
            transfer: None,
            is_over: false,
        };
        *self.control.borrow_mut() = Some(control);
        let (control, world) = (Rc::clone(&self.control), Rc::downgrade(&self.model.world));
        self.model.world.set_beside(move || {
            let Some(world) = world.upgrade() else { return };
            if let Some(control) = control.borrow_mut().as_mut() {
                control.advance(&world);
            }
        });
    }

    /// Clients do something.
    fn act(&mut self) {
        let Takeover { model, echoes, channel, .. } = self;
        for _ in 0..model.random.between(1, 10) {
            match model.random.below(10) {
                0 | 1 if !echoes.is_empty() => {
                    let echo = model.random.below(echoes.len());
                    echoes[echo].send(&model.world, &mut model.random);
                }
                2 if !channel.clients.is_empty() => channel.publish(&model.world, &mut model.random),
                _ => model.act(),
            }
        }
        model.others.accepted = channel.published;
    }

    /// Runs everything until clients have received something.
    fn go_on(&mut self) {
        let world = &self.model.world;
        let count = |clients: &[Client]| clients.iter().map(|client| client.heard.len()).sum::<usize>();
        let (before, more) = (count(&world.clients.borrow()), self.model.random.below(10));
        world.run_or_quiet(move |clients| count(clients) > before + more);
    }

    /// Runs everything until all connections have moved.
    fn move_all(&mut self) {
        self.model.rest();
        for _ in 0..ORDERS_MAX {
            let control = Rc::clone(&self.control);
            self.model.world.run(move |_| {
                let control = control.borrow();
                let transfer = control.as_ref().and_then(|control| control.transfer.as_ref());
                transfer.is_some_and(Transfer::is_over)
            });
            if self.model.world.connections_of(0) == 0 {
                return;
            }
            // Some were refused, or owed something all the time.
            if let Some(Control { transfer: Some(transfer), .. }) = self.control.borrow_mut().as_mut() {
                transfer.order_again();
            }
        }
        panic!("{} connections do not move", self.model.world.connections_of(0));
    }

    /// Nobody was closed, nothing is missing, and the accounts of the two processes agree.
    fn check(&self) {
        let clients = self.model.world.clients.borrow();
        self.echoes.iter().for_each(|echo| echo.check(&clients[echo.client]));
        self.channel.check(&clients);
        for other in self.echoes.iter().map(|echo| echo.client).chain(self.channel.clients.iter().copied()) {
            assert!(
                clients[other].end.is_none() && !clients[other].decoder.closed,
                "client {other} is closed"
            );
        }
        drop(clients);
        self.model.check();
        self.check_presence();
    }

    /// Nobody was told that a client that has moved had joined or left.
    fn check_presence(&self) {
        let clients = self.model.world.clients.borrow();
        // By topic and client: subscriptions, and the events that others were told.
        let mut began: BTreeMap<(String, String), usize> = BTreeMap::new();
        // One that has ended may not have received an answer.
        let there = self.model.sessions.iter().filter(|session| clients[session.client].end.is_none());
        for session in there {
            for notice in notices(&clients[session.client]).0 {
                if text(&notice, "type") == "subscribed" && notice.get("client").is_some() {
                    let of = (text(&notice, "topic").to_owned(), text(&notice, "client").to_owned());
                    *began.entry(of).or_default() += 1;
                }
            }
        }
        for session in &self.model.sessions {
            let mut told: BTreeMap<(String, String, String), usize> = BTreeMap::new();
            for notice in notices(&clients[session.client]).0 {
                let is_event = text(&notice, "type") == "presence" && text(&notice, "event") != "stale";
                if is_event {
                    let [topic, client, event] =
                        ["topic", "client", "event"].map(|field| text(&notice, field));
                    *told.entry((topic.to_owned(), client.to_owned(), event.to_owned())).or_default() += 1;
                }
            }
            for ((topic, client, event), count) in told {
                let times = began.get(&(topic.clone(), client.clone())).copied();
                if let Some(times) = times {
                    assert!(
                        count <= times,
                        "{count} times {event} of {client} in {topic}, which came {times} times"
                    );
                }
            }
        }
    }

    fn check_moves(&self) {
        let world = &self.model.world;
        let mut control = self.control.borrow_mut();
        let transfer = control.as_mut().and_then(|control| control.transfer.take()).expect("it has begun");
        let (moved, refused) = (transfer.moved, transfer.refused);
        transfer.end();
        control.as_mut().expect("it has begun").is_over = true;
        drop(control);
        let sums = [0, 1].map(|process| {
            let snapshots = world.snapshots_of(process);
            let sum = |of: fn(&Snapshot<HubReport>) -> u64| snapshots.iter().map(of).sum::<u64>();
            let counters = [
                sum(|of| of.counters.moved_in),
                sum(|of| of.counters.moved_out),
                sum(|of| of.counters.moves_refused),
            ];
            (sum(|of| of.connections), counters)
        });
        let [(left, [back, out, _]), (there, [taken, out_again, turned_away])] = sums;
        assert_eq!((left, taken, out_again), (0, moved, 0));
        assert_eq!((out, back), (moved + refused, refused));
        assert!(turned_away <= refused);
        let open = world.clients.borrow().iter().filter(|client| client.end.is_none()).count();
        assert_eq!(there, open as u64, "all are at the successor");
    }

    /// The first process ends.
    fn end_first(&mut self) {
        let world = &self.model.world;
        for shard in world.remotes_of(0) {
            shard.send(ControlMessage::Drain(DrainPlan {
                goodbye: Goodbye::RESTART,
                ..DrainPlan::at_once(DRAIN_TIMEOUT)
            }));
        }
        let weak = Rc::downgrade(world);
        world.run(move |_| weak.upgrade().is_none_or(|world| world.has_ended(0)));
        let control = self.control.borrow_mut().take().expect("it has begun");
        control.handover.forget_predecessor();
    }
}

fn takes_over(seed: u64) {
    let mut takeover = Takeover::new(seed);
    let troubles = takeover.model.random.chance(500);
    let begins_at = takeover.model.random.between(0, 2);
    for phase in 0..takeover.model.random.between(3, 9) {
        if phase == begins_at {
            takeover.begin();
        }
        takeover.act();
        if troubles && takeover.model.random.chance(400) {
            takeover.model.trouble();
        }
        if takeover.model.random.chance(200) {
            takeover.model.come();
        }
        match takeover.model.random.below(4) {
            0 => takeover.model.settle(),
            _ => takeover.go_on(),
        }
    }
    takeover.move_all();
    takeover.model.rest();
    takeover.check();
    takeover.check_moves();
    if takeover.model.random.chance(500) {
        takeover.model.world.pass(FORGOTTEN_AFTER);
        assert_eq!(takeover.model.world.charged_of(0), 0, "all memory of the first process is free again");
    }
    takeover.end_first();
    takeover.model.rest();
    takeover.check();
    takeover.act();
    takeover.model.rest();
    takeover.check();
    let world = Rc::clone(&takeover.model.world);
    let leaves = takeover.model.random.chance(500);
    if leaves {
        world.clients.borrow_mut().iter_mut().for_each(|client| client.leave = Leave::Fin);
        world.run(|clients| clients.iter().all(|client| client.end.is_some()));
        world.pass(FORGOTTEN_AFTER);
        assert_eq!(world.charged_of(1), 0, "all memory of the second process is free again");
    }
    world.drain();
    for client in world.clients.borrow().iter().filter(|_| !leaves) {
        assert!(client.end.is_some());
        let is_told = matches!(client.heard.last(), Some(Item::Close(_)));
        assert!(is_told || client.leave != Leave::Told, "a goodbye: {:?}", client.end);
    }
}

/// Whatever the interleaving, nobody notices that a connection moves to a successor.
#[test]
fn nobody_notices_a_takeover_whose_connections_move() {
    for_each_seed("nobody_notices_a_takeover_whose_connections_move", takes_over);
}

/// The successor is lost while connections move. All connections end, and what was received until then is right.
fn is_lost(seed: u64) {
    let mut takeover = Takeover::new(seed);
    takeover.begin();
    for _ in 0..takeover.model.random.between(0, 6) {
        takeover.act();
        takeover.go_on();
    }
    takeover.act();
    let control = Rc::clone(&takeover.control);
    let steps = RefCell::new(takeover.model.random.below(3_000));
    takeover.model.world.run_or_quiet(move |_| {
        let is_linked = control.borrow().as_ref().is_some_and(|control| control.transfer.is_some());
        let mut steps = steps.borrow_mut();
        *steps = steps.saturating_sub(usize::from(is_linked));
        *steps == 0 && is_linked
    });
    let world = Rc::clone(&takeover.model.world);
    let Control { handover, transfer, .. } = takeover.control.borrow_mut().take().expect("it has begun");
    world.lose_last_process();
    let Some(transfer) = transfer else { return };
    transfer.lose();
    handover.lose_successor();
    for shard in world.remotes_of(0) {
        shard.send(ControlMessage::Drain(DrainPlan {
            goodbye: Goodbye::RESTART,
            ..DrainPlan::at_once(DRAIN_TIMEOUT)
        }));
    }
    world.clients.borrow_mut().iter_mut().for_each(Client::hurry);
    world.end_drain();
    let clients = world.clients.borrow();
    for client in clients.iter() {
        assert!(client.end.is_some(), "nobody hangs");
    }
    takeover.echoes.iter().for_each(|echo| echo.check(&clients[echo.client]));
    check_positions(&takeover, &clients);
    assert_eq!(world.connections(), 0);
}

/// Messages are the same for all who received them, and each session received them one after another.
fn check_positions(takeover: &Takeover, clients: &[Client]) {
    let mut known: BTreeMap<(String, u64), serde_json::Value> = BTreeMap::new();
    for session in &takeover.model.sessions {
        let mut next: BTreeMap<String, u64> = BTreeMap::new();
        for notice in notices(&clients[session.client]).0 {
            let offset = notice.get("offset").and_then(serde_json::Value::as_u64);
            let Some(topic) = notice.get("topic").and_then(|topic| topic.as_str()).map(str::to_owned) else {
                continue;
            };
            match (text(&notice, "type"), offset) {
                ("subscribed", Some(offset)) => drop(next.insert(topic, offset + 1)),
                ("gap", _) => drop(next.insert(topic, notice["to"].as_u64().expect("an offset") + 1)),
                ("message", Some(offset)) => {
                    let skipped = notice.get("skipped").and_then(serde_json::Value::as_u64).unwrap_or(0);
                    let next = next.get_mut(&topic).expect("subscribed");
                    assert_eq!(offset, *next + skipped, "nothing is left out or repeated: {notice}");
                    *next = offset + 1;
                    let mut body = ["data", "text", "base64"]
                        .map(|field| notice.get(field).cloned())
                        .into_iter()
                        .flatten();
                    let body = body.next().expect("a body");
                    let before = known.entry((topic, offset)).or_insert_with(|| body.clone());
                    assert_eq!(*before, body, "one order for all");
                }
                _ => {}
            }
        }
    }
}

#[test]
fn everybody_hears_of_a_successor_that_is_lost_while_connections_move() {
    for_each_seed("everybody_hears_of_a_successor_that_is_lost_while_connections_move", is_lost);
}
