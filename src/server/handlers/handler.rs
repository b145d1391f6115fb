//! [`Handler`]: the code of a program for the connections of its routes, one value per connection.
//!
//! A handler accesses its own connection through a [`Remote`], others through their
//! [`RemoteSender`](crate::RemoteSender)s and topics.

use std::any::Any;
use std::net::SocketAddr;

use crate::handlers::drain_notice::{DrainAction, DrainNotice};
use crate::handlers::failure::Result;
use crate::handlers::message::Message;
use crate::handlers::remote::Remote;
use crate::handlers::subscription::{PublishOutcome, SubscriptionEvent};
use echoring_proto::connection::{Chunk, Closed};
use echoring_runtime::shard::Disposition;

/// The code of one connection, on the thread of the shard that owns the connection.
///
/// All calls for a connection are sequential and on one thread, so a handler need not be `Send`; state that several
/// handlers share must be. A call must not block, because all connections of the shard wait for it. Messages are
/// borrowed: a handler that keeps none of them allocates nothing per message.
///
/// An error of a call closes its connection only: with the code of a [`Failure`](crate::Failure), otherwise with 1011. A panic closes
/// with 1011 too, and is logged and counted. After an error only [`close`](Handler::close) is still called; after a panic the
/// handler is dropped, and nothing is. Its [`Remote::publish_on_close`] messages are published in any case.
///
/// A refusal by a topic because the server drains is no such error: [`draining`](Handler::draining) is called, unless
/// it has been, and the connection is closed as the drain closes all, behind the messages of its topics.
///
/// ```
/// use echoring::server::{Disposition, Handler, Message, Remote, Result};
///
/// /// Answers numbers with their doubles, and echoes everything else.
/// struct Doubler;
///
/// impl Handler for Doubler {
///     fn message(&mut self, remote: &mut Remote<'_>, message: Message<'_>) -> Result<Disposition> {
///         match message.text().and_then(|text| text.trim().parse::<i32>().ok()) {
///             Some(number) => {
///                 remote.send_text(&format!("{}", 2 * i64::from(number)))?;
///                 Ok(Disposition::Done)
///             }
///             None => Ok(Disposition::Echo),
///         }
///     }
/// }
/// ```
pub trait Handler: Any {
    /// The 101 is queued. Messages that are sent here follow it.
    ///
    /// # Errors
    /// Closes the connection, see the trait.
    fn open(&mut self, remote: &mut Remote<'_>) -> Result {
        let _ = remote;
        Ok(())
    }

    /// A whole message. [`Disposition::Echo`] sends it back without a copy.
    ///
    /// # Errors
    /// Closes the connection, see the trait.
    fn message(&mut self, remote: &mut Remote<'_>, message: Message<'_>) -> Result<Disposition> {
        let _ = (remote, message);
        Ok(Disposition::Done)
    }

    /// Whether messages are passed in [chunks](Handler::chunk) as they arrive instead of whole, for messages that are
    /// too long to buffer. Called once, before [`open`](Handler::open).
    fn is_streaming(&self) -> bool {
        false
    }

    /// Whether to look up the address of the peer, which costs a system call or two. Called once, like
    /// [`is_streaming`](Handler::is_streaming).
    fn wants_address(&self) -> bool {
        false
    }

    /// The address of the peer, if [`wants_address`](Handler::wants_address) asked for it. The call follows
    /// [`open`](Handler::open) by some ticks, so messages may come first. `None` if there is no address, as on a Unix
    /// socket. Behind a proxy it is the address of the proxy.
    ///
    /// # Errors
    /// Closes the connection, see the trait.
    fn addressed(&mut self, remote: &mut Remote<'_>, address: Option<SocketAddr>) -> Result {
        let _ = (remote, address);
        Ok(())
    }

    /// A chunk of a message, if [`is_streaming`](Handler::is_streaming) returned true. [`Disposition::Echo`] sends it
    /// back as a fragment.
    ///
    /// The echoed chunks of a message are one message, and nothing else is sent until it is complete (RFC 6455, 5.4): messages of
    /// topics and of senders wait, and sends of the handler are refused with [`Busy`](crate::Busy). Waiting messages go
    /// before the peer's next message. The first chunk must be echoed if any is; otherwise the connection is closed
    /// with 1011. If the last chunk is not echoed, an empty fragment ends the message.
    ///
    /// # Errors
    /// Closes the connection, see the trait.
    fn chunk(&mut self, remote: &mut Remote<'_>, chunk: &Chunk<'_>) -> Result<Disposition> {
        let _ = (remote, chunk);
        Ok(Disposition::Done)
    }

    /// A ping, which has been answered (RFC 6455, 5.5.2).
    ///
    /// # Errors
    /// Closes the connection, see the trait.
    fn ping(&mut self, remote: &mut Remote<'_>, payload: &[u8]) -> Result {
        let _ = (remote, payload);
        Ok(())
    }

    /// A pong, solicited or not (RFC 6455, 5.5.3).
    ///
    /// # Errors
    /// Closes the connection, see the trait.
    fn pong(&mut self, remote: &mut Remote<'_>, payload: &[u8]) -> Result {
        let _ = (remote, payload);
        Ok(())
    }

    /// The connection is writable again, after a send was refused with [`Busy`](crate::Busy) or after the peer had stopped reading.
    ///
    /// # Errors
    /// Closes the connection, see the trait.
    fn writable(&mut self, remote: &mut Remote<'_>) -> Result {
        let _ = remote;
        Ok(())
    }

    /// The timer of [`Remote::wake_at`] has expired. It does not repeat.
    ///
    /// # Errors
    /// Closes the connection, see the trait.
    fn timer(&mut self, remote: &mut Remote<'_>) -> Result {
        let _ = remote;
        Ok(())
    }

    /// Something has happened to a subscription of the connection, see [`Remote::subscribe`]. The messages of the topic go
    /// straight to the peer. By default the connection is closed if messages are missing, so that no peer misses any without
    /// knowing, see [`SubscriptionEvent::or_close`].
    ///
    /// # Errors
    /// Closes the connection, see the trait.
    fn subscription(&mut self, remote: &mut Remote<'_>, event: &SubscriptionEvent<'_>) -> Result {
        let _ = remote;
        event.or_close()
    }

    /// A message that the handler has published was refused by its topic's owner, or was published with an id and has a result.
    /// By default a refusal closes the connection, see [`PublishOutcome::or_close`].
    ///
    /// # Errors
    /// Closes the connection, see the trait.
    fn published(&mut self, remote: &mut Remote<'_>, outcome: &PublishOutcome<'_>) -> Result {
        let _ = remote;
        outcome.or_close()
    }

    /// The server is about to close the connection, because it drains: it ends, or a successor has taken over. Called once; in a
    /// paced drain, when it is the connection's turn. A shard notifies 64 handlers in each tick. The handler may send a
    /// last message, such as where to connect instead.
    ///
    /// With [`DrainAction::Close`], the default, the server closes the connection behind the queued messages. With
    /// [`DrainAction::Wait`] the handler closes it by itself, in later calls, until [`DrainNotice::deadline`]; a
    /// [timer](Remote::wake_at) may remind it. In a drain at once the deadline is two seconds, or a quarter of the time if that is
    /// less, before the connections that are left are cut; in a paced one it is at most six seconds away.
    ///
    /// Messages that were acknowledged before the drain still arrive, and are sent to subscribers before they are closed.
    /// Publications and new subscriptions are refused from now on, unless the drain is paced. A handler that has answered `Wait`, and
    /// returns such a refusal as its error, leaves the connection to the server: it is closed behind the messages of its topics. Not called
    /// if the server is stopped without a drain.
    ///
    /// # Errors
    /// Closes the connection, see the trait.
    ///
    /// ```
    /// use echoring::server::{DrainAction, DrainNotice, Handler, Remote, Result};
    ///
    /// struct Player;
    ///
    /// impl Handler for Player {
    ///     fn draining(&mut self, remote: &mut Remote<'_>, _: &DrainNotice) -> Result<DrainAction> {
    ///         remote.send_text("reconnect to wss://game-2.example/")?;
    ///         Ok(DrainAction::Close)
    ///     }
    /// }
    /// ```
    fn draining(&mut self, remote: &mut Remote<'_>, notice: &DrainNotice) -> Result<DrainAction> {
        let _ = (remote, notice);
        Ok(DrainAction::Close)
    }

    /// The connection is closed, for any reason: also after a call returned an error, such as for a slow consumer. Not called
    /// after a panic, nor if the server is stopped without a drain; the handler is dropped in any case. To notify
    /// others, set [`Remote::publish_on_close`] before.
    fn close(&mut self, closed: &Closed) {
        let _ = closed;
    }
}
