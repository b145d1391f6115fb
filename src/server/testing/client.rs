//! [`TestClient`]: a client of a test server.

use std::fmt;
use std::rc::Rc;

use super::message::TestMessage;
use super::peer::{Arrival, Peer};
use super::response::TestResponse;
use super::simulated::Simulated;
use echoring_proto::CloseCode;
use echoring_proto::connection::{Closed, MessageKind};
use echoring_proto::limits::CONTROL_PAYLOAD_BYTES_MAX;

/// A client of a [`TestServer`](super::TestServer): the real protocol in its client role, on a simulated network.
///
/// Its sent bytes are in flight until the server runs. Everything that reads the client's received messages, such as
/// [`take_texts`](TestClient::take_texts), first runs the server until nothing more happens without time passing. A
/// client answers pings by itself, and has no time-outs. Dropping it closes the connection without a Close frame.
///
/// ```
/// use echoring::server::{Disposition, Handler, Message, Remote, Result, Server};
/// use echoring::testing::TestServer;
///
/// struct Echo;
///
/// impl Handler for Echo {
///     fn message(&mut self, _: &mut Remote<'_>, _: Message<'_>) -> Result<Disposition> {
///         Ok(Disposition::Echo)
///     }
/// }
///
/// let server = TestServer::new(Server::builder().handle("/echo", || Echo));
/// let client = server.connect("/echo")?;
/// client.send_text("hello");
/// assert_eq!(client.take_texts(), ["hello"]);
/// # Ok::<(), echoring::testing::TestResponse>(())
/// ```
pub struct TestClient {
    simulated: Rc<Simulated>,
    number: usize,
}

impl fmt::Debug for TestClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TestClient").field("number", &self.number).finish_non_exhaustive()
    }
}

impl TestClient {
    /// The client of this number, if its connection was opened.
    pub(super) fn opened(simulated: &Rc<Simulated>, number: usize) -> Result<TestClient, TestResponse> {
        let client = TestClient { simulated: Rc::clone(simulated), number };
        let refused = client.with(|peer| (!peer.has_opened).then(|| peer.response()));
        refused.map_or(Ok(client), Err)
    }

    fn with<R>(&self, call: impl FnOnce(&mut Peer) -> R) -> R {
        self.simulated.with_client(self.number, |peer, _| call(peer))
    }

    /// Runs the server, then calls.
    fn after_run<R>(&self, call: impl FnOnce(&mut Peer) -> R) -> R {
        self.simulated.run();
        self.with(call)
    }

    // ---- sending ----

    /// Sends a text message. Returns false, and sends nothing, if the connection is not open.
    pub fn send_text(&self, text: &str) -> bool {
        self.send(MessageKind::Text, text.as_bytes())
    }

    /// Sends a binary message. Returns false, and sends nothing, if the connection is not open.
    pub fn send_binary(&self, payload: &[u8]) -> bool {
        self.send(MessageKind::Binary, payload)
    }

    fn send(&self, kind: MessageKind, payload: &[u8]) -> bool {
        let is_sent = self.simulated.with_client(self.number, |peer, network| {
            peer.send(network, |connection, env| connection.send(kind, payload, env))
        });
        if is_sent {
            self.simulated.note_sent(self.number, kind, payload);
        }
        is_sent
    }

    /// Sends part of a message as one frame, uncompressed (RFC 6455, 5.4): the `first` one has the kind, and the `last` one ends the
    /// message. Handlers that [stream](crate::Handler::is_streaming) get each as it arrives. Returns false, and sends nothing, if
    /// the connection is not open.
    pub fn send_fragment(&self, kind: MessageKind, first: bool, last: bool, payload: &[u8]) -> bool {
        self.simulated.with_client(self.number, |peer, network| {
            peer.send(network, |connection, env| connection.send_fragment(kind, first, last, payload, env))
        })
    }

    /// Sends a ping with the first 125 bytes of `payload`. Its pong is in [`take_pongs`](TestClient::take_pongs). Returns false, and
    /// sends nothing, if the connection is not open.
    pub fn ping(&self, payload: &[u8]) -> bool {
        let payload = &payload[..payload.len().min(CONTROL_PAYLOAD_BYTES_MAX)];
        self.simulated
            .with_client(self.number, |peer, network| peer.send(network, |c, env| c.ping(payload, env)))
    }

    /// Sends bytes as they are, such as a frame that breaks the protocol.
    pub fn send_raw(&self, bytes: &[u8]) {
        self.with(|peer| peer.unwritten.extend(bytes));
    }

    /// Bytes that the server does not take for now, because it has paused reading and the buffers between are full.
    pub fn unsent_bytes(&self) -> usize {
        self.after_run(|peer| peer.unwritten.len())
    }

    // ---- receiving ----

    /// Takes the messages that were received and not taken yet.
    pub fn take_messages(&self) -> Vec<TestMessage> {
        self.after_run(|peer| peer.take(as_message))
    }

    /// Takes the received messages that were not taken yet, all of which are text.
    ///
    /// # Panics
    /// If one is binary.
    pub fn take_texts(&self) -> Vec<String> {
        let text = |message| match message {
            TestMessage::Text(text) => text,
            TestMessage::Binary(payload) => panic!("a binary message of {} bytes", payload.len()),
        };
        self.take_messages().into_iter().map(text).collect()
    }

    /// Takes the first message that was received and not taken yet.
    pub fn next_message(&self) -> Option<TestMessage> {
        self.after_run(|peer| peer.take_first(as_message))
    }

    /// Takes the payloads of the pings that were received, and answered.
    pub fn take_pings(&self) -> Vec<Vec<u8>> {
        self.after_run(|peer| {
            peer.take(|received| match received {
                Arrival::Ping(payload) => Some(payload.clone()),
                _ => None,
            })
        })
    }

    /// Takes the payloads of the pongs that were received.
    pub fn take_pongs(&self) -> Vec<Vec<u8>> {
        self.after_run(|peer| {
            peer.take(|received| match received {
                Arrival::Pong(payload) => Some(payload.clone()),
                _ => None,
            })
        })
    }

    /// Stops reading, as a peer that is too slow or has vanished. Sends of the server fill the
    /// [buffers](super::TestRequest::buffer_bytes), and then its queue. Pings are not answered.
    pub fn stall(&self) {
        self.with(|peer| peer.is_reading = false);
    }

    /// Reads again.
    pub fn resume(&self) {
        self.with(|peer| peer.is_reading = true);
    }

    // ---- the handshake and the end ----

    /// The subprotocol that the server has chosen.
    pub fn subprotocol(&self) -> Option<String> {
        self.with(|peer| peer.subprotocol.clone())
    }

    /// The value of a field of the 101.
    pub fn header(&self, name: &str) -> Option<String> {
        self.with(|peer| peer.response().header(name).map(str::to_owned))
    }

    /// Starts the closing handshake, behind all sent messages. [`CloseCode::NO_STATUS`] sends an empty Close frame.
    pub fn close(&self, code: CloseCode, reason: &str) {
        self.simulated.with_client(self.number, |peer, network| peer.close(network, code, reason));
    }

    /// Closes the connection without a Close frame, as the kernel does for a program that is killed: with FIN, or with a reset if
    /// something was received and not read. Bytes in flight are dropped.
    pub fn disconnect(&self) {
        self.simulated.with_client(self.number, |peer, network| peer.disconnect(network));
    }

    /// Whether messages may be sent: neither side has begun to close.
    pub fn is_open(&self) -> bool {
        self.after_run(|peer| peer.is_open())
    }

    /// How the connection ended, as the client sees it; `None` while it has not. The close code and the reason of the server are
    /// in [`Closed::peer_close`]; without a Close frame the code is 1006.
    pub fn closed(&self) -> Option<Closed> {
        self.after_run(|peer| peer.closed().cloned())
    }
}

impl Drop for TestClient {
    fn drop(&mut self) {
        self.disconnect();
    }
}

fn as_message(received: &Arrival) -> Option<TestMessage> {
    match received {
        Arrival::Message(message) => Some(message.clone()),
        _ => None,
    }
}
