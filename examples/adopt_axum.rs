//! An axum application whose `/ws` is upgraded by this library, so that its pages, its state and its WebSockets are
//! one program behind one port.
//!
//! ```text
//! cargo run --example adopt_axum           # http://localhost:3000/
//! ```

mod support;

use std::error::Error;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, Request, State};
use axum::response::{Html, Response};
use axum::routing::{any, get};
use echoring::CloseCode;
use echoring::{Conn, Upgraded, Upgrader};
use support::{arguments, bind, serve_all, until_signal};
use tokio::sync::watch;
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(5);

/// The state that pages and WebSockets share.
#[derive(Clone)]
struct App {
    upgrader: Upgrader,
    messages: Arc<AtomicUsize>,
    /// Becomes true when the program must end. A task that holds a receiver has not ended yet.
    ending: watch::Sender<bool>,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let about = "A page, a counter and an echo: axum with the WebSockets of this library.";
    let [address] = arguments(about, ["ADDRESS"], ["localhost:3000"]);
    let app = App {
        upgrader: Upgrader::new().allow_any_origin().subprotocols(["echo"]),
        messages: Arc::default(),
        ending: watch::Sender::new(false),
    };
    let ending = app.ending.clone();
    until_signal(serve(&address, app)).await?;

    // Everyone is told 1001, and has the time to answer.
    ending.send_replace(true);
    let _ = timeout(PATIENCE, ending.closed()).await;
    Ok(())
}

async fn serve(address: &str, app: App) -> Result<(), Box<dyn Error>> {
    let (listeners, shown) = bind(address).await?;
    println!("listening on http://{shown}/");
    let router = Router::new()
        .route("/", get(async || Html(PAGE)))
        .route("/messages", get(messages))
        .route("/ws", any(ws))
        .with_state(app)
        // For `ConnectInfo`: the peer's address is not in a request.
        .into_make_service_with_connect_info::<SocketAddr>();
    serve_all(listeners, |listener| axum::serve(listener, router.clone()).into_future()).await?;
    Ok(())
}

async fn messages(State(app): State<App>) -> String {
    format!("{}\n", app.messages.load(Relaxed))
}

async fn ws(
    State(app): State<App>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    mut request: Request,
) -> Response {
    let (response, upgrading) = match app.upgrader.upgrade(&mut request) {
        Ok(upgrade) => upgrade,
        Err(refused) => return refused.into_response(),
    };
    let ending = app.ending.subscribe();
    tokio::spawn(async move {
        match upgrading.with_addresses(None, Some(peer)).await {
            Ok(conn) => echo(conn, &app.messages, ending).await,
            Err(error) => eprintln!("{peer}: {error}"),
        }
    });
    response.map(|()| Body::empty())
}

async fn echo(mut conn: Conn<Upgraded>, messages: &AtomicUsize, mut ending: watch::Receiver<bool>) {
    let error = loop {
        let message = tokio::select! {
            message = conn.read() => message,
            () = is_true(&mut ending) => {
                // Whether the peer answers makes no difference any more.
                let _ = conn.close(CloseCode::GOING_AWAY, "the server stops").await;
                return;
            }
        };
        let echoed = match message {
            Ok(message) => conn.write(message).await,
            Err(error) => break error,
        };
        if let Err(error) = echoed {
            break error;
        }
        messages.fetch_add(1, Relaxed);
    };
    if !error.is_clean() {
        eprintln!("{:?}: {error}", conn.peer_addr());
    }
}

async fn is_true(ending: &mut watch::Receiver<bool>) {
    // An error would be that nobody is left who could end the program.
    let _ = ending.wait_for(|ending| *ending).await;
}

const PAGE: &str = r##"<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>An echo in axum</title>
<style>
  :root { color-scheme: light dark; font-family: system-ui, sans-serif; }
  body { max-width: 40em; margin: 2em auto; padding: 0 1em; }
</style>
<h1>An echo in axum</h1>
<form><label>Say <input id="message" value="hello" autocomplete="off"></label> <button>Send</button></form>
<ol id="log"></ol>
<script>
  const socket = new WebSocket(location.origin.replace(/^http/, "ws") + "/ws", "echo");
  const log = (text) => {
    const line = document.createElement("li");
    line.textContent = text;
    document.querySelector("#log").append(line);
  };
  socket.onopen = () => log(`open, subprotocol ${socket.protocol}`);
  socket.onmessage = ({ data }) => log(data);
  socket.onclose = ({ code, reason }) => log(`closed ${code} ${reason}`);
  document.querySelector("form").onsubmit = (event) => {
    event.preventDefault();
    socket.send(document.querySelector("#message").value);
  };
</script>
</html>
"##;
