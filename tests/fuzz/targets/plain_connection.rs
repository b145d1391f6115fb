//! A connection from bytes, and then bytes of its peer. Arbitrary bytes are refused, or become a connection that keeps to its bounds and
//! returns its memory.
//!
//! Input: a byte of options, the length of the bytes of the connection, those, and bytes of the peer.

use echoring_proto::buffer::{Budget, Lease, Pool};
use echoring_proto::connection::{
    Codecs, Connection, ConnectionConfig, Entropy, Env, Piece, SpanCursor, Step, TransportAction,
};
use echoring_proto::limits::SECOND;

use super::connection::compression;
use super::cursor::Cursor;

/// Memory of the connection, and of what it may read and queue.
const BUDGET_BYTES: u64 = 4 << 20;

pub fn run(data: &[u8]) {
    let mut cursor = Cursor::new(data);
    let options = cursor.byte();
    let connection_bytes = usize::from(cursor.u16());
    let (mut bytes, received) = (cursor.take(connection_bytes), cursor.rest());
    let config = ConnectionConfig {
        max_message: [1 << 16, 300][usize::from(options & 1)],
        compression: (options & 2 != 0).then(|| compression(options)),
        ..ConnectionConfig::default()
    };
    let (mut pool, mut entropy) = (Pool::new(Budget::new(BUDGET_BYTES)), Entropy::new(7));
    let mut codecs = Codecs::new(config.compression, Lease::new(Budget::new(BUDGET_BYTES), 1 << 10));
    let now = 100 * SECOND;
    let mut env = Env { pool: &mut pool, codecs: &mut codecs, config: &config, now, entropy: &mut entropy };
    if let Ok(mut connection) = Connection::take(&mut bytes, &mut env) {
        for span in received.chunks(1 + usize::from(options >> 2)) {
            receive(&mut connection, span, &mut env);
        }
        let mut is_aborted = false;
        for _ in 0..3 {
            env.now += 100 * SECOND;
            connection.handle_timeout(&mut env);
            is_aborted |= send(&mut connection, &mut env) == Some(TransportAction::Abort);
        }
        let queued = connection.queued_bytes();
        assert!(queued == 0 || is_aborted, "{queued} bytes stay");
        connection.release(env.pool, env.codecs);
    }
    // The first call resets the demand, the second frees unused buffers.
    pool.trim();
    pool.trim();
    assert_eq!(pool.used_bytes(), 0, "a connection that is over holds memory");
}

fn receive(connection: &mut Connection, span: &[u8], env: &mut Env<'_>) {
    let mut bytes = span.to_vec();
    let mut cursor = SpanCursor::new();
    connection.begin_span(env.now);
    loop {
        let piece = match connection.poll(&mut cursor, &mut bytes, env) {
            Step::Idle => break,
            Step::Chunk(flags, piece) if connection.is_open() => {
                if connection.echo(&mut cursor, &mut bytes, flags, piece, env).is_err() {
                    return;
                }
                continue;
            }
            Step::Chunk(_, piece) | Step::Ping(piece) | Step::Pong(piece) => piece,
            Step::Head(head) => Piece::Buffered(head),
            Step::Refused(_) | Step::Opened(_) => continue,
        };
        if let Piece::Buffered(buffer) = piece {
            env.pool.put(buffer);
        }
    }
    if let Ok(Some(_)) = connection.end_span(&cursor, &bytes, env) {
        // Not from the span: it may be short of memory then, like an end of the queue.
        let _ = connection.copy_replies(&cursor, &bytes, env);
    }
    send(connection, env);
    if let Some(deferred) = connection.take_deferred(env.config) {
        let bytes = deferred.as_slice().to_vec();
        env.pool.put(deferred);
        receive(connection, &bytes, env);
    }
}

fn send(connection: &mut Connection, env: &mut Env<'_>) -> Option<TransportAction> {
    while let Some(buffer) = connection.pop() {
        env.pool.put(buffer);
    }
    connection.take_transport_action()
}
