//! The parts of a connection: its stream, borrowed or taken out, and its halves, put together again.

use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, MutexGuard};

use bytes::Bytes;

use super::Conn;
use super::core::{Core, Transport};
use super::reader::Reader;
use super::writer::Writer;

/// The stream of a connection, for a look at it: its addresses, its TLS session, its socket options.
///
/// Other tasks cannot read or write the connection as long as this exists, and a second one waits for the first: drop it
/// before anything else is done.
///
/// ```
/// use echoring::Conn;
/// use tokio::net::TcpStream;
///
/// fn without_delay(conn: &Conn<TcpStream>) -> std::io::Result<()> {
///     conn.get_ref().set_nodelay(true)
/// }
/// ```
pub struct StreamRef<'a, S>(MutexGuard<'a, Core<S>>);

impl<S> Deref for StreamRef<'_, S> {
    type Target = S;

    fn deref(&self) -> &S {
        self.0.stream.as_ref().unwrap_or_else(|| unreachable!("it is taken with the last handle"))
    }
}

impl<S: fmt::Debug> fmt::Debug for StreamRef<'_, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("StreamRef").field(&**self).finish()
    }
}

/// The halves of two different connections.
///
/// ```
/// use echoring::{Conn, ReuniteError};
/// use tokio::net::TcpStream;
///
/// fn mix(one: Conn<TcpStream>, other: Conn<TcpStream>) {
///     let ((reader, _), (_, writer)) = (one.split(), other.split());
///     if let Err(ReuniteError(reader, writer)) = reader.reunite(writer) {
///         println!("{:?} and {:?} are two connections", reader.peer_addr(), writer.peer_addr());
///     }
/// }
/// ```
pub struct ReuniteError<S>(pub Reader<S>, pub Writer<S>);

impl<S> fmt::Debug for ReuniteError<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match f.alternate() {
            true => f.debug_tuple("ReuniteError").field(&self.0).field(&self.1).finish(),
            false => echoring_proto::error_debug::write(f, self, None),
        }
    }
}

impl<S> fmt::Display for ReuniteError<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the reader and the writer belong to different connections")
    }
}

impl<S> std::error::Error for ReuniteError<S> {}

impl<S: Transport> Conn<S> {
    /// The stream, for a look at it.
    ///
    /// ```
    /// # async fn example(conn: echoring::Conn<tokio::net::TcpStream>) -> std::io::Result<()> {
    /// println!("time to live: {}", conn.get_ref().ttl()?);
    /// # Ok(())
    /// # }
    /// ```
    pub fn get_ref(&self) -> StreamRef<'_, S> {
        self.reader.get_ref()
    }

    /// Takes the connection apart: the stream, and the received bytes that were not parsed. Frames that wait to be
    /// sent, and the beginning of a message that was received in part, are lost.
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// # use echoring::{Conn, Opened, Role, Settings};
    /// # let (ours, theirs) = tokio::io::duplex(4096);
    /// # let server = Conn::new(ours, &Settings::default(), Opened::new(Role::Server));
    /// let (stream, unread) = server.into_inner().expect("no `Control` is used at the moment");
    /// assert!(unread.is_empty());
    /// # drop((stream, theirs)); });
    /// ```
    ///
    /// # Errors
    /// The connection, if a [`Control`](super::Control) of it is used at this moment.
    pub fn into_inner(self) -> Result<(S, Bytes), Conn<S>> {
        let Conn { reader: Reader { shared, handlers, told }, writer } = self;
        drop(writer);
        match shared.into_core() {
            Ok(core) => Ok(core.into_stream()),
            Err(shared) => {
                let writer = Writer::new(Arc::clone(&shared));
                Err(Conn { reader: Reader { shared, handlers, told }, writer })
            }
        }
    }
}

impl<S: Transport> Reader<S> {
    /// The stream, for a look at it.
    pub fn get_ref(&self) -> StreamRef<'_, S> {
        StreamRef(self.shared.lock())
    }

    /// Puts the halves of a connection together again.
    ///
    /// ```
    /// # use echoring::{Conn, Opened, Role, Settings};
    /// # let conn = Conn::new(tokio::io::duplex(64).0, &Settings::default(), Opened::new(Role::Server));
    /// let (reader, writer) = conn.split();
    /// let conn = reader.reunite(writer).expect("the halves of one connection");
    /// # drop(conn);
    /// ```
    ///
    /// # Errors
    /// Both halves, if they are of different connections.
    pub fn reunite(self, writer: Writer<S>) -> Result<Conn<S>, ReuniteError<S>> {
        match Arc::ptr_eq(&self.shared, &writer.shared) {
            true => Ok(Conn { reader: self, writer }),
            false => Err(ReuniteError(self, writer)),
        }
    }
}

impl<S: Transport> Writer<S> {
    /// The stream, for a look at it.
    pub fn get_ref(&self) -> StreamRef<'_, S> {
        StreamRef(self.shared.lock())
    }
}
