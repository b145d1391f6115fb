//! The client's end of a test connection: the protocol core in its client role, on the simulated network.
//!
//! It never acts by itself: the simulation has it [act](Peer::act) in its turn.

use std::collections::VecDeque;

use super::message::TestMessage;
use super::response::TestResponse;
use crate::limits::TEST_BUFFER_BYTES;
use echoring_proto::CloseCode;
use echoring_proto::buffer::{Budget, Lease, Pool};
use echoring_proto::connection::{
    Cause, CloseMode, Closed, Codecs, Compression, Connection, ConnectionConfig, Entropy, Env, MessageKind,
    MessageProgress, OutOfMemory, Piece, Pings, SpanCursor, Step, TransportAction,
};
use echoring_proto::handshake::Dial;
use echoring_proto::limits::{MESSAGE_BYTES_MAX, Nanos};
use echoring_runtime::driver::sim::{ClientId, Heard, Network};

/// Memory that a client may use, which bounds no test.
const MEMORY_BYTES: u64 = 1 << 40;
/// A time that no test reaches: clients have no time-outs of their own.
const NEVER: Nanos = Nanos::MAX / 4;

/// The notices and the received data of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Arrival {
    Message(TestMessage),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
}

/// How a connection begins.
#[derive(Clone, Debug)]
pub(super) enum Opening {
    /// With the handshake of RFC 6455.
    Upgrade(Dial, Option<Compression>),
    /// With these bytes of an HTTP request, whose response is the end.
    Http(Vec<u8>),
}

/// One client.
pub(super) struct Peer {
    wire: ClientId,
    /// `None` for a plain HTTP request.
    connection: Option<Connection>,
    pool: Pool,
    codecs: Codecs,
    config: ConnectionConfig,
    entropy: Entropy,
    /// Encoded bytes that the network has not taken.
    pub(super) unwritten: VecDeque<u8>,
    pub(super) is_reading: bool,
    /// Stops reading once it is open.
    pub(super) stalls_when_open: bool,
    has_ended: bool,
    /// It has stopped reading and writing.
    pub(super) is_over: bool,
    pub(super) has_opened: bool,
    /// The response to the request, and the bytes after it in the same read.
    response: Vec<u8>,
    pub(super) subprotocol: Option<String>,
    pub(super) received: VecDeque<Arrival>,
}

impl Peer {
    pub(super) fn new(network: &Network, opening: Opening, buffer_bytes: Option<usize>, seed: u64) -> Peer {
        let (dial, compression, request) = match opening {
            Opening::Upgrade(dial, compression) => (Some(dial), compression, Vec::new()),
            Opening::Http(request) => (None, None, request),
        };
        let is_websocket = dial.is_some();
        let config = ConnectionConfig {
            max_message: MESSAGE_BYTES_MAX,
            queue_bytes: u32::MAX,
            reads_when_full: true,
            handshake_timeout: NEVER,
            message_progress: MessageProgress::UNLIMITED,
            ping_interval: 0,
            close_timeout: NEVER,
            send_timeout: 0,
            pings_per_second_max: u32::MAX,
            pings: Pings::AnsweredAndShown,
            compression,
            dial,
            ..ConnectionConfig::default()
        };
        let contexts = Lease::new(Budget::new(MEMORY_BYTES), 1 << 20);
        let mut peer = Peer {
            wire: network.connect_with(buffer_bytes.unwrap_or(TEST_BUFFER_BYTES)),
            connection: None,
            pool: Pool::new(Budget::new(MEMORY_BYTES)),
            codecs: Codecs::new(compression, contexts),
            config,
            entropy: Entropy::new(seed),
            unwritten: request.into(),
            is_reading: true,
            stalls_when_open: false,
            has_ended: false,
            is_over: false,
            has_opened: false,
            response: Vec::new(),
            subprotocol: None,
            received: VecDeque::new(),
        };
        if is_websocket {
            let mut env = peer.env(network.now());
            let connection = Connection::client(&mut env, true).expect("memory of a test client");
            peer.connection = Some(connection);
            peer.collect();
        }
        peer
    }

    fn env(&mut self, now: Nanos) -> Env<'_> {
        let Peer { pool, codecs, config, entropy, .. } = self;
        Env { pool, codecs, config, now, entropy }
    }

    /// Calls `update` with the state machine, and keeps the output that it queues.
    fn with<R>(
        &mut self,
        network: &Network,
        update: impl FnOnce(&mut Connection, &mut Env<'_>) -> R,
    ) -> Option<R> {
        let Peer { connection, pool, codecs, config, entropy, .. } = self;
        let mut env = Env { pool, codecs, config, now: network.now(), entropy };
        let result = update(connection.as_mut()?, &mut env);
        self.collect();
        Some(result)
    }

    fn collect(&mut self) {
        let Peer { connection: Some(connection), pool, unwritten, .. } = self else { return };
        while let Some(buffer) = connection.pop() {
            unwritten.extend(buffer.as_slice());
            pool.put(buffer);
        }
    }

    // ---- what a test does ----

    /// Queues something. False if the connection is not open.
    pub(super) fn send(
        &mut self,
        network: &Network,
        send: impl FnOnce(&mut Connection, &mut Env<'_>) -> Result<(), OutOfMemory>,
    ) -> bool {
        let sent = self.with(network, |connection, env| {
            connection.is_open().then(|| send(connection, env).expect("memory of a test client"))
        });
        !self.is_over && sent.flatten().is_some()
    }

    pub(super) fn close(&mut self, network: &Network, code: CloseCode, reason: &str) {
        self.with(network, |connection, env| connection.close(code, reason, CloseMode::Graceful, env));
    }

    /// Closes the transport as the kernel does for a program that is killed.
    pub(super) fn disconnect(&mut self, network: &Network) {
        self.with(network, |connection, _| connection.abort(Cause::Local));
        self.leave(network);
    }

    // ---- what a test sees ----

    pub(super) fn is_open(&self) -> bool {
        self.has_opened && self.connection.as_ref().is_some_and(Connection::is_open)
    }

    /// Whether a request was answered, or will not be.
    pub(super) fn is_answered(&self) -> bool {
        self.has_opened || self.is_over
    }

    /// How the connection ended, once it has.
    pub(super) fn closed(&self) -> Option<&Closed> {
        self.connection.as_ref().filter(|_| self.is_over)?.closed()
    }

    pub(super) fn response(&self) -> TestResponse {
        TestResponse::parse(&self.response)
    }

    /// Takes the items for which `take` returns a value, in order.
    pub(super) fn take<R>(&mut self, take: impl Fn(&Arrival) -> Option<R>) -> Vec<R> {
        let mut taken = Vec::new();
        self.received.retain(|received| match take(received) {
            Some(wanted) => {
                taken.push(wanted);
                false
            }
            None => true,
        });
        taken
    }

    /// Takes the first item for which `take` returns a value.
    pub(super) fn take_first<R>(&mut self, take: impl Fn(&Arrival) -> Option<R>) -> Option<R> {
        let (at, wanted) =
            self.received.iter().enumerate().find_map(|(at, received)| Some((at, take(received)?)))?;
        self.received.remove(at);
        Some(wanted)
    }

    // ---- its turns ----

    pub(super) fn can_act(&self, network: &Network) -> bool {
        !self.is_over
            && (self.can_write(network) || self.pending_action().is_some() || self.can_read(network))
    }

    fn can_write(&self, network: &Network) -> bool {
        !self.unwritten.is_empty() && (network.client_room(self.wire) > 0 || network.is_broken(self.wire))
    }

    fn can_read(&self, network: &Network) -> bool {
        match network.client_news(self.wire) {
            Heard::Nothing => false,
            Heard::Bytes => self.is_reading,
            // Nothing more is learnt from it.
            Heard::End => self.is_reading && !self.has_ended,
            Heard::Reset => true,
        }
    }

    fn pending_action(&self) -> Option<TransportAction> {
        let action = self.connection.as_ref()?.transport_action()?;
        if !self.has_opened && !self.has_ended && action == TransportAction::Close {
            // The body of a refusal may be on its way.
            return None;
        }
        (self.unwritten.is_empty() || action == TransportAction::Abort).then_some(action)
    }

    /// Writes as much as the network accepts, and reads everything available. Returns how much was received before.
    pub(super) fn act(&mut self, network: &Network) -> usize {
        let before = self.received.len();
        if self.can_write(network) {
            let count = network.client_write(self.wire, self.unwritten.make_contiguous());
            self.unwritten.drain(..count);
            if network.is_broken(self.wire) {
                // The reset that answers it is read next.
                self.unwritten.clear();
            }
        }
        if self.can_read(network) {
            let mut bytes = Vec::new();
            match network.client_read(self.wire, usize::MAX, &mut bytes) {
                Heard::Nothing => {}
                Heard::Bytes => self.receive(network, bytes),
                Heard::End => self.end(network),
                Heard::Reset => {
                    self.with(network, |connection, _| {
                        connection.failed(std::io::ErrorKind::ConnectionReset);
                    });
                    self.leave(network);
                }
            }
        }
        self.act_on_transport(network);
        before
    }

    fn end(&mut self, network: &Network) {
        self.has_ended = true;
        match &self.connection {
            Some(_) => {
                self.with(network, |connection, env| connection.ended(env.now));
            }
            None => self.leave(network),
        }
    }

    fn act_on_transport(&mut self, network: &Network) {
        while let Some(action) = self.pending_action().filter(|_| !self.is_over) {
            if let Some(connection) = &mut self.connection {
                connection.take_transport_action();
            }
            match action {
                TransportAction::Shutdown => network.client_fin(self.wire),
                TransportAction::Close => self.leave(network),
                TransportAction::Abort => {
                    network.client_reset(self.wire);
                    self.is_over = true;
                }
            }
        }
    }

    fn leave(&mut self, network: &Network) {
        if !std::mem::replace(&mut self.is_over, true) {
            self.unwritten.clear();
            network.client_close(self.wire);
        }
    }

    fn receive(&mut self, network: &Network, bytes: Vec<u8>) {
        if !self.has_opened {
            self.response.extend_from_slice(&bytes);
        }
        let mut span = Some(bytes);
        while let Some(mut bytes) = span.take() {
            self.read_span(network, &mut bytes);
            let deferred = self.with(network, |connection, env| {
                let buffer = connection.take_deferred(env.config)?;
                let bytes = buffer.as_slice().to_vec();
                env.pool.put(buffer);
                Some(bytes)
            });
            span = deferred.flatten();
        }
    }

    fn read_span(&mut self, network: &Network, bytes: &mut [u8]) {
        let mut cursor = SpanCursor::new();
        self.with(network, |connection, env| connection.begin_span(env.now));
        loop {
            let step = self.with(network, |connection, env| connection.poll(&mut cursor, bytes, env));
            match step {
                None | Some(Step::Idle) => break,
                Some(Step::Opened(response)) => {
                    self.has_opened = true;
                    self.is_reading &= !self.stalls_when_open;
                    self.subprotocol = response.subprotocol;
                }
                Some(Step::Chunk(flags, piece)) => {
                    let payload = self.payload(piece, bytes);
                    let message = match flags.kind {
                        MessageKind::Text => {
                            TestMessage::Text(String::from_utf8(payload).expect("the core has validated it"))
                        }
                        MessageKind::Binary => TestMessage::Binary(payload),
                    };
                    self.received.push_back(Arrival::Message(message));
                }
                Some(Step::Ping(piece)) => {
                    let payload = self.payload(piece, bytes);
                    self.received.push_back(Arrival::Ping(payload));
                }
                Some(Step::Pong(piece)) => {
                    let payload = self.payload(piece, bytes);
                    self.received.push_back(Arrival::Pong(payload));
                }
                Some(Step::Head(_) | Step::Refused(_)) => unreachable!("steps of the server's role"),
            }
        }
        self.with(network, |connection, env| {
            connection.end_span(&cursor, bytes, env).expect("memory of a test client");
        });
    }

    fn payload(&mut self, piece: Piece, bytes: &[u8]) -> Vec<u8> {
        match piece {
            Piece::InSpan(at) => bytes[at].to_vec(),
            Piece::Buffered(buffer) => {
                let payload = buffer.as_slice().to_vec();
                self.pool.put(buffer);
                payload
            }
        }
    }
}
