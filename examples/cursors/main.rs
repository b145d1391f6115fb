//! Collaborative cursors: everyone who has the page open sees where the others point.
//!
//! ```text
//! cargo run --example cursors              # http://127.0.0.1:9001/
//! ```

use std::error::Error;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use echoring::CloseCode;
use echoring::server::{
    Builder, Closed, Disposition, Failure, Handle, Handler, Message, Opening, Remote, Response, Route,
    Server, SubscribeOptions,
};
use serde::{Deserialize, Serialize};

const TOPIC: &str = "cursors";
/// The page runs its own script, and connects to its own server.
const POLICY: &str =
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'";

/// One open page.
struct Pointer {
    id: u64,
    /// For what is published when the connection has ended.
    server: Arc<OnceLock<Handle>>,
}

/// A position in the page, in shares of its width and height.
#[derive(Clone, Copy, Deserialize, Serialize)]
struct Place {
    x: f64,
    y: f64,
}

/// A message to the other pages.
#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
enum News {
    Joined { id: u64 },
    Moved { id: u64, at: Place },
    Left { id: u64 },
}

impl News {
    fn json(&self) -> String {
        // Finite numbers and fixed names are always JSON.
        serde_json::to_string(self).unwrap_or_default()
    }
}

impl Handler for Pointer {
    fn open(&mut self, remote: &mut Remote<'_>) -> Result<(), Failure> {
        remote.subscribe_with(TOPIC, SubscribeOptions::new().skip_own())?;
        // The others answer with their positions, which this page hears.
        Ok(remote.publish(TOPIC, &News::Joined { id: self.id }.json())?)
    }

    fn message(&mut self, remote: &mut Remote<'_>, message: Message<'_>) -> Result<Disposition, Failure> {
        let at: Place = serde_json::from_slice(message.payload())?;
        if !(0.0..=1.0).contains(&at.x) || !(0.0..=1.0).contains(&at.y) {
            return Err(Failure::new(CloseCode::POLICY, "a position is between 0 and 1"));
        }
        remote.publish(TOPIC, &News::Moved { id: self.id, at }.json())?;
        Ok(Disposition::Done)
    }

    fn close(&mut self, _: &Closed) {
        if let Some(server) = self.server.get() {
            // While the server ends, the others leave too.
            let _ = server.try_publish(TOPIC, News::Left { id: self.id }.json());
        }
    }
}

/// The server, and the place for its handle once it is started.
pub fn cursors(address: SocketAddr) -> (Builder, Arc<OnceLock<Handle>>) {
    let (server, ids) = (Arc::new(OnceLock::new()), AtomicU64::new(1));
    let started = Arc::clone(&server);
    let route = Route::new("/cursors", move |_: &mut Opening<'_>| {
        Ok(Pointer { id: ids.fetch_add(1, Ordering::Relaxed), server: Arc::clone(&server) })
    });
    let page = Response::html(200, include_str!("page.html")).header("Content-Security-Policy", POLICY);
    let route = route.text_only().message_bytes_max(256);
    (Server::builder().listen(address).route(route).get("/", move || page.clone()), started)
}

fn main() -> Result<(), Box<dyn Error>> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:9001".to_owned());
    let (builder, started) = cursors(address.parse()?);
    let server = builder.start()?;
    let _ = started.set(server.handle());
    println!("open http://{}/ twice", server.addresses()[0]);
    server.join()?;
    Ok(())
}
