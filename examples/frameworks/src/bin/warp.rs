//! A warp server whose `/ws` this library upgrades, and whose `/` is warp's own.
//!
//! warp is built on hyper, whose `OnUpgrade` is among the request's extensions.
//!
//! ```text
//! cargo run --bin warp -- 127.0.0.1:9001
//! ```

use std::convert::Infallible;
use std::error::Error;

use echoring::{Conn, Transport, Upgrader};
use http::{HeaderMap, Method, Request, Response};
use hyper::upgrade::OnUpgrade;
use tokio::net::TcpListener;
use warp::Filter;
use warp::path::FullPath;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:9001".to_owned());
    let listener = TcpListener::bind(address).await?;
    println!("listening on ws://{}/ws", listener.local_addr()?);
    let sockets = warp::path!("ws").and(upgrade());
    let hello = warp::path::end().map(|| "hello\n");
    warp::serve(sockets.or(hello)).incoming(listener).run().await;
    Ok(())
}

fn upgrade() -> impl Filter<Extract = (Response<String>,), Error = Infallible> + Clone {
    warp::method()
        .and(warp::path::full())
        .and(warp::header::headers_cloned())
        .and(warp::ext::optional())
        .map(ws)
}

fn ws(method: Method, path: FullPath, headers: HeaderMap, connection: Option<OnUpgrade>) -> Response<String> {
    let mut request = Request::new(());
    *request.method_mut() = method;
    *request.uri_mut() = path.as_str().parse().unwrap_or_default();
    *request.headers_mut() = headers;
    if let Some(connection) = connection {
        request.extensions_mut().insert(connection);
    }
    match Upgrader::new().upgrade(&mut request) {
        Ok((response, upgrading)) => {
            tokio::spawn(async move {
                match upgrading.await {
                    Ok(conn) => echo(conn).await,
                    Err(error) => eprintln!("{error}"),
                }
            });
            response.map(|()| String::new())
        }
        Err(refused) => refused.into_response(),
    }
}

async fn echo<S: Transport>(mut conn: Conn<S>) {
    while let Ok(message) = conn.read().await {
        if conn.write(message).await.is_err() {
            return;
        }
    }
}
