//! echoring's own `Conn` over tokio, as its front page shows it: replies are fed, and leave when nothing more is to be read.
//! With `--write`, each reply is written by itself, as with the `send` of other libraries. With `--compress`, compression is
//! negotiated.

use echoring::{Compression, Conn, Upgrader};
use peers::{MESSAGE_BYTES, Outcome, has_flag, serve};
use tokio::net::TcpStream;

fn main() -> Outcome {
    let mut upgrader = Upgrader::new().allow_any_origin().max_message(MESSAGE_BYTES as u64);
    if has_flag("--compress") {
        upgrader = upgrader.compression(Compression::default());
    }
    let writes = has_flag("--write");
    serve(move |stream| {
        let upgrader = upgrader.clone();
        async move {
            let conn = upgrader.accept_tcp(stream).await?;
            if writes { echo_each(conn).await } else { echo(conn).await }
        }
    })
}

async fn echo(mut conn: Conn<TcpStream>) -> Outcome {
    loop {
        let message = conn.read().await?;
        conn.feed(message).await?;
    }
}

async fn echo_each(mut conn: Conn<TcpStream>) -> Outcome {
    loop {
        let message = conn.read().await?;
        conn.write(message).await?;
    }
}
