//! State and login: a page takes a name and a password, a cookie remembers who logged in, and the WebSocket is for them only.
//!
//! ```text
//! cargo run --example login                # http://localhost:8383/, with the name ann and the password sesame
//! ```
//!
//! Slow hashes, JWTs and other people's servers are for `Builder::auth`, which asks them on a thread of its own.

mod support;

use std::collections::HashMap;
use std::error::Error;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use aws_lc_rs::digest::{Digest, SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use echoring::server::{
    Cookies, Disposition, DrainAction, DrainNotice, FromRequest, Handler, Header, HeaderField, Message,
    Remote, RequestContext, Response, Result, Server, State,
};
use support::{arguments, bind, until_signal};

const SESSION: Duration = Duration::from_secs(12 * 60 * 60);

/// State that all shards share. They lock it for handshakes, never for messages.
#[derive(Clone)]
struct App {
    /// Of `NAME:PASSWORD`. The time of a comparison of digests tells nothing about the password.
    account: Digest,
    /// Who logged in, and until when, by the value of the cookie.
    sessions: Arc<Mutex<HashMap<String, (String, Instant)>>>,
}

/// `Authorization: Basic …` (RFC 7617), decoded. No page of another site can send it without a preflight.
struct Credentials(String);

impl FromStr for Credentials {
    type Err = &'static str;

    fn from_str(field: &str) -> Result<Credentials, &'static str> {
        let pair = field.strip_prefix("Basic ").and_then(|text| STANDARD.decode(text).ok());
        let pair = pair.and_then(|pair| String::from_utf8(pair).ok());
        pair.map(Credentials).ok_or("not a name and a password in base64")
    }
}

impl HeaderField for Credentials {
    const NAME: &'static str = "authorization";
}

fn log_in(Header(given): Header<Credentials>, State(app): State<App>) -> Response {
    if digest(&SHA256, given.0.as_bytes()).as_ref() != app.account.as_ref() {
        return Response::text(403, "wrong name or password\n");
    }
    let (now, name) = (Instant::now(), given.0.split(':').next().unwrap_or_default().to_owned());
    let mut sessions = app.sessions.lock().unwrap_or_else(PoisonError::into_inner);
    sessions.retain(|_, (_, until)| *until > now);
    if sessions.len() >= 10_000 {
        return Response::text(503, "too many sessions\n");
    }
    let session = URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>());
    let cookie = format!("session={session}; HttpOnly; SameSite=Strict; Max-Age={}", SESSION.as_secs());
    sessions.insert(session, (name, now + SESSION));
    Response::text(200, "welcome\n").header("set-cookie", &cookie)
}

/// A client that has logged in, which sees and says everything in the lobby.
struct User(String);

impl FromRequest for User {
    fn from_request(request: &RequestContext<'_>) -> Result<User, Response> {
        let (State(app), cookies): (State<App>, Cookies) = (request.extract()?, request.extract()?);
        let sessions = app.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        match cookies.get("session").and_then(|session| sessions.get(session)) {
            Some((name, until)) if *until > Instant::now() => Ok(User(name.clone())),
            _ => Err(Response::text(401, "log in first\n")),
        }
    }
}

impl Handler for User {
    fn open(&mut self, remote: &mut Remote<'_>) -> Result {
        remote.subscribe("lobby")?;
        Ok(remote.publish("lobby", &format!("{} is here", self.0))?)
    }

    fn message(&mut self, remote: &mut Remote<'_>, message: Message<'_>) -> Result<Disposition> {
        remote.publish("lobby", &format!("{}: {}", self.0, message.text().unwrap_or_default()))?;
        Ok(Disposition::Done)
    }

    fn draining(&mut self, remote: &mut Remote<'_>, _: &DrainNotice) -> Result<DrainAction> {
        remote.send_text("the server restarts: come back in a moment")?;
        Ok(DrainAction::Close)
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let (about, defaults) = ("A lobby for those who log in.", ["localhost:8383", "ann:sesame"]);
    let [address, account] = arguments(about, ["ADDRESS", "ACCOUNT"], defaults);
    let (listeners, shown) = bind(&address).await?;
    let mut builder = Server::builder()
        .state(App { account: digest(&SHA256, account.as_bytes()), sessions: Arc::default() })
        .get("/", || Response::html(200, include_str!("login.html")))
        .get("/login", log_in)
        .handle("/ws", |user: User| user);
    for listener in listeners {
        builder = builder.listener(listener.into_std()?);
    }
    let server = builder.start()?;
    println!("http://{shown}/");
    until_signal(std::future::pending::<Result<(), Box<dyn Error>>>()).await?;
    server.shutdown(Duration::from_secs(5))?;
    Ok(())
}
