//! Which pages may connect, and what a browser gets if one may not.
//!
//! ```text
//! cargo run --example cors                 # then open both pages that it names
//! ```
//!
//! CORS does not apply to WebSockets: there is no preflight and no `Access-Control-Allow-Origin`, and the same-origin
//! policy does not apply. A browser lets every page connect to every server, sends the visitor's cookies along, and
//! names the page's origin in `Origin`. So the server must check it, and the default here is to allow only pages of its
//! own host. A refused page gets no status and no reason, only close code 1006.

mod support;

use std::error::Error;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::Uri;
use axum::response::{Html, Response};
use axum::routing::{any, get};
use echoring::OriginPolicy;
use echoring::{Upgrader, Upgrading};
use support::{arguments, bind, serve_all, until_signal};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let about = "Serves one page from two origins, and lets it in by five policies.";
    let names = ["ADDRESS", "OTHER"];
    let [address, other] = arguments(about, names, ["localhost:7979", "localhost:7980"]);
    until_signal(serve(&address, &other)).await
}

async fn serve(address: &str, other: &str) -> Result<(), Box<dyn Error>> {
    let (listeners, own) = bind(address).await?;
    let (other_listeners, other) = bind(other).await?;
    println!("the page of this host: http://{own}/");
    println!("the page of another origin: http://{other}/");

    let page = Html(PAGE.replace("SERVER", &own));
    let pages = Router::new().route("/", get(async || page));
    let app = pages.clone().merge(policies(&format!("http://{other}")));
    tokio::try_join!(
        serve_all(listeners, |listener| axum::serve(listener, app.clone()).into_future()),
        serve_all(other_listeners, |listener| axum::serve(listener, pages.clone()).into_future()),
    )?;
    Ok(())
}

/// One path per policy. Requests without an `Origin` come from non-browser clients, which could send any: all policies
/// but the last two allow them. The check protects users from other sites; it does not authenticate.
fn policies(listed: &str) -> Router {
    // Go's `CheckOrigin`. It has the whole say: not even a page of the same host gets in without it.
    let is_page = |origin: Option<&str>| origin.is_some();
    Router::new()
        .merge(route("/same-host", Upgrader::new()))
        .merge(route("/listed", Upgrader::new().origins(OriginPolicy::List(vec![listed.to_owned()]))))
        .merge(route("/any", Upgrader::new().allow_any_origin()))
        .merge(route("/programs", Upgrader::new().check_origin(move |asked| !is_page(asked.origin()))))
        .merge(route("/pages", Upgrader::new().check_origin(move |asked| is_page(asked.origin()))))
}

fn route(path: &str, upgrader: Upgrader) -> Router {
    // The page is told nothing, so the log has to say it all.
    let upgrader = upgrader.on_refusal(|asked, answer| {
        let (path, origin) = asked.map_or(("", None), |asked| (asked.path(), asked.origin()));
        println!("{path}: {answer} (origin {})", origin.unwrap_or("none"));
    });
    Router::new().route(path, any(ws)).with_state(upgrader)
}

async fn ws(State(upgrader): State<Upgrader>, uri: Uri, mut request: Request) -> Response {
    match upgrader.upgrade(&mut request) {
        Ok((response, upgrading)) => {
            tokio::spawn(welcome(upgrading, uri));
            response.map(|()| Body::empty())
        }
        Err(refused) => refused.into_response(),
    }
}

async fn welcome(upgrading: Upgrading, uri: Uri) {
    if let Ok(mut conn) = upgrading.await {
        // The page may be gone already, which is fine.
        let _ = conn.write(format!("welcome to {}", uri.path())).await;
        conn.discard_reads().await;
    }
}

const PAGE: &str = r##"<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>Who may connect?</title>
<style>
  :root { color-scheme: light dark; font-family: system-ui, sans-serif; }
  body { max-width: 40em; margin: 2em auto; padding: 0 1em; }
  td, th { text-align: left; padding: .3em 1em .3em 0; }
</style>
<h1>Who may connect?</h1>
<p>This page comes from <code id="origin"></code> and connects to <code>ws://SERVER</code>.</p>
<table>
  <thead><tr><th>path<th>what this page is told</thead>
  <tbody id="told"></tbody>
</table>
<script>
  document.querySelector("#origin").textContent = location.origin;
  for (const path of ["/same-host", "/listed", "/any", "/programs", "/pages"]) {
    const row = document.querySelector("#told").insertRow();
    row.insertCell().textContent = path;
    const told = row.insertCell();
    const socket = new WebSocket("ws://SERVER" + path);
    socket.onmessage = ({ data }) => { told.textContent = data; socket.close(); };
    socket.onclose = ({ code, reason }) => { told.textContent ||= `closed ${code} "${reason}"`; };
  }
</script>
</html>
"##;
