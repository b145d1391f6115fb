//! An application in the client role whose connections each send one message, and close when its echo has arrived.

use echoring_proto::CloseCode;
use echoring_proto::connection::{Chunk, Closed, MessageKind};
use echoring_proto::handshake::{Refusal, Request, Response, Upgrade};
use echoring_proto::limits::Nanos;
use echoring_runtime::driver::Token;
use echoring_runtime::shard::{Answer, Application, ConnectionContext, Context, Disposition, Kinds, Route};

pub const MESSAGE: &[u8] = b"hello";

/// Dials each route once, all at the same time.
#[derive(Debug)]
pub struct EchoClient {
    routes: Vec<Route>,
    dialled: bool,
    pub connections: Vec<EchoConnection>,
}

/// One connection, and how it ended.
#[derive(Clone, Debug, Default)]
pub struct EchoConnection {
    pub echo: Vec<u8>,
    pub closed: Option<Closed>,
}

impl EchoClient {
    pub fn new(routes: Vec<Route>) -> EchoClient {
        let connections = vec![EchoConnection::default(); routes.len()];
        EchoClient { routes, dialled: false, connections }
    }

    /// Whether all connections have ended.
    pub fn is_over(&self) -> bool {
        self.connections.iter().all(|connection| connection.closed.is_some())
    }
}

impl Kinds for EchoClient {
    /// The index of the connection.
    type Peer = usize;
    type Message = ();
}

impl Application for EchoClient {
    type Kinds = EchoClient;
    type Command = ();
    type Report = ();

    fn report(&self) {}

    fn request(
        &mut self,
        _: &mut Context<'_, EchoClient>,
        _: Token,
        _: &Request<'_>,
        _: Option<&Upgrade<'_>>,
    ) -> Answer<usize> {
        // No request arrives: the shard does not listen.
        Answer::Refuse(Refusal::NOT_FOUND)
    }

    fn opened(&mut self, cx: &mut Context<'_, EchoClient>, token: Token, _: Option<&Response>) {
        assert!(cx.link(token).expect("it is open").send(MessageKind::Text, MESSAGE));
    }

    fn chunk(&mut self, link: &mut ConnectionContext<'_, EchoClient>, chunk: Chunk<'_>) -> Disposition {
        self.connections[*link.peer].echo.extend_from_slice(chunk.payload);
        if chunk.last {
            link.close(CloseCode::NORMAL, "");
        }
        Disposition::Done
    }

    fn closed(&mut self, _: &mut Context<'_, EchoClient>, _: Token, peer: usize, closed: &Closed) {
        let before = self.connections[peer].closed.replace(closed.clone());
        assert_eq!(before, None, "a connection ends once");
    }

    fn tick_ended(&mut self, cx: &mut Context<'_, EchoClient>) {
        if !std::mem::replace(&mut self.dialled, true) {
            for (index, route) in self.routes.iter().enumerate() {
                cx.connect(route, None, true, index).expect("a socket can be made");
            }
        }
    }

    fn deadline(&self) -> Option<Nanos> {
        (!self.dialled).then_some(0)
    }
}
