//! [`Migrate`]: handlers whose connections move to another shard or to another process. The state of the handler goes with its
//! connection as bytes.

use std::any::{Any, TypeId};
use std::fmt;
use std::sync::Arc;

use crate::handlers::failure::Result;
use crate::handlers::handler::Handler;
use crate::handlers::remote::Remote;
use crate::limits::MIGRATE_STATE_BYTES_MAX;
use crate::routes::states::{Requirements, ShardStates};
use echoring_auth::{Backend, Identity, Source};
use echoring_broker::gate::Gate;
use echoring_runtime::driver::Token;

/// A [`Handler`] whose connections can move: to another shard, where they balance the load, and in a takeover to the new process. The
/// client notices nothing of it. [`Route::migrates`](crate::Route::migrates) allows it for a route; the connections of other handlers
/// stay where they are until they are closed.
///
/// The connection moves with all that the server knows of it: its subscriptions with their positions, the
/// [timer](Remote::wake_at), what is [reserved](Remote::reserve), the messages of [`Remote::publish_on_close`], whether it is
/// [not read](Remote::set_backpressured). The handler itself moves as the bytes of [`freeze`](Migrate::freeze), and goes on as the value of
/// [`thaw`](Migrate::thaw). [`Handler::close`] is not called where it was, nor [`Handler::open`] where it goes on.
///
/// A connection moves when nothing is on its way: all messages to it are sent, the results of its publications are told, and it is
/// not within an echo of [chunks](Handler::chunk). Its [`RemoteSender`](crate::RemoteSender)s do not move. Therefore it stays on its shard
/// as long as one of them exists. In a takeover it moves once they have nothing to send, and they are closed.
///
/// ```
/// use echoring::server::{Disposition, Handler, Message, Migrate, Remote, Result, Route, ThawContext};
///
/// /// Counts the messages of its connection.
/// struct Counter(u64);
///
/// impl Handler for Counter {
///     fn message(&mut self, remote: &mut Remote<'_>, _: Message<'_>) -> Result<Disposition> {
///         self.0 += 1;
///         remote.send_text(&self.0.to_string())?;
///         Ok(Disposition::Done)
///     }
/// }
///
/// impl Migrate for Counter {
///     fn freeze(&self) -> Option<Vec<u8>> {
///         Some(self.0.to_le_bytes().to_vec())
///     }
///
///     fn thaw(state: &[u8], _: &ThawContext<'_>) -> Option<Counter> {
///         Some(Counter(u64::from_le_bytes(state.try_into().ok()?)))
///     }
/// }
///
/// let route = Route::new("/count", || Counter(0)).migrates::<Counter>();
/// ```
pub trait Migrate: Handler + Sized {
    /// The state of the handler, at most [`MIGRATE_STATE_BYTES_MAX`] bytes. It does not change the handler, which goes on as it was if its
    /// connection stays after all. `None`: it cannot move now. It is then asked again, unless the move is over before. A handler whose state
    /// is too long, or that panics, is not asked again: its connection stays.
    fn freeze(&self) -> Option<Vec<u8>>;

    /// The handler with this state. `None` for a state that it does not know, such as that of another version of the program: the
    /// connection is closed with 1012 (service restart).
    ///
    /// The program that has made the state may be an older or a newer one. A state that begins with a version number can say so.
    fn thaw(state: &[u8], here: &ThawContext<'_>) -> Option<Self>;

    /// The connection goes on here. The first call of the handler, for what does not move: its place in a state of the shard, and new
    /// [senders](Remote::sender).
    ///
    /// # Errors
    /// Closes the connection, see [`Handler`].
    fn thawed(&mut self, remote: &mut Remote<'_>) -> Result {
        let _ = remote;
        Ok(())
    }

    /// Names the states that [`thaw`](Migrate::thaw) needs, so that a missing one is an error at the start of the server.
    fn requires(required: &mut Requirements) {
        let _ = required;
    }
}

/// The states and the client that a handler has on the shard where its connection goes on.
///
/// ```
/// use echoring::server::ThawContext;
///
/// struct Greeting(String);
///
/// /// For [`Migrate::thaw`](echoring::server::Migrate::thaw): only the name of the client has moved, the words are those of here.
/// fn greeting(here: &ThawContext<'_>) -> Option<String> {
///     let Greeting(words) = here.state()?;
///     Some(format!("{words}, {}", here.client()?.subject()))
/// }
/// ```
pub struct ThawContext<'a> {
    pub(crate) states: &'a ShardStates,
    pub(crate) gate: &'a Gate,
    pub(crate) token: Token,
    pub(crate) source: Source,
    /// That of the route.
    pub(crate) backend: Option<&'a Arc<Backend>>,
}

impl fmt::Debug for ThawContext<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ThawContext").field("client", &self.client()).finish_non_exhaustive()
    }
}

impl<'a> ThawContext<'a> {
    /// The authenticated client, which has moved with its connection; `None` for one without credentials.
    pub fn client(&self) -> Option<&'a Identity> {
        self.gate.client(self.token)
    }

    /// The state of this type from [`Builder::state`](crate::Builder::state).
    pub fn state<T: 'static>(&self) -> Option<&'a T> {
        self.states.of_server()
    }

    /// The state of this type from [`Builder::shard_state`](crate::Builder::shard_state).
    pub fn shard_state<T: 'static>(&self) -> Option<&'a T> {
        self.states.of_shard()
    }
}

type Freeze = fn(&dyn Handler) -> Option<Vec<u8>>;
type Thaw = fn(&[u8], &ThawContext<'_>) -> Option<Box<dyn Handler>>;

/// A state exceeds [`MIGRATE_STATE_BYTES_MAX`].
#[derive(Debug)]
pub(crate) struct TooLong;

/// The functions of a type that implements [`Migrate`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Migration {
    /// The type.
    pub(crate) handler: TypeId,
    freeze: Freeze,
    pub(crate) thaw: Thaw,
    pub(crate) thawed: fn(&mut dyn Handler, &mut Remote<'_>) -> Result,
}

impl Migration {
    pub(crate) fn of<H: Migrate + 'static>() -> Migration {
        Migration {
            handler: TypeId::of::<H>(),
            freeze: |handler| (handler as &dyn Any).downcast_ref::<H>()?.freeze(),
            thaw: |state, here| H::thaw(state, here).map(|handler| Box::new(handler) as Box<dyn Handler>),
            thawed: |handler, remote| match (handler as &mut dyn Any).downcast_mut::<H>() {
                Some(handler) => handler.thawed(remote),
                None => Ok(()),
            },
        }
    }

    /// The state of a handler; `None` if it cannot move now.
    ///
    /// # Errors
    /// Its state is too long.
    pub(crate) fn freeze(&self, handler: &dyn Handler) -> Result<Option<Vec<u8>>, TooLong> {
        match (self.freeze)(handler) {
            Some(state) if state.len() > MIGRATE_STATE_BYTES_MAX => {
                tracing::warn!(
                    bytes = state.len(),
                    bytes_max = MIGRATE_STATE_BYTES_MAX,
                    "the state of a handler is too long; its connection does not move"
                );
                Err(TooLong)
            }
            state => Ok(state),
        }
    }
}
