//! Collaborative cursors: everyone who has the page open sees where the others point.
//!
//! ```text
//! cargo run --example cursors              # http://127.0.0.1:9001/
//! ```

use std::error::Error;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use echoring::CloseCode;
use echoring::server::{
    Builder, Disposition, Failure, Handler, Message, Remote, Response, Result, Route, Server,
    SubscribeOptions,
};
use serde::{Deserialize, Serialize};

const TOPIC: &str = "cursors";
/// The page runs its own script, and connects to its own server.
const POLICY: &str =
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'";

/// One open page.
struct Pointer {
    id: u64,
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
    fn open(&mut self, remote: &mut Remote<'_>) -> Result {
        remote.subscribe_with(TOPIC, SubscribeOptions::new().skip_own())?;
        remote.publish_on_close(TOPIC, &News::Left { id: self.id }.json())?;
        // The others answer with their positions, which this page hears.
        Ok(remote.publish(TOPIC, &News::Joined { id: self.id }.json())?)
    }

    fn message(&mut self, remote: &mut Remote<'_>, message: Message<'_>) -> Result<Disposition> {
        let at: Place = serde_json::from_slice(message.payload())?;
        if !(0.0..=1.0).contains(&at.x) || !(0.0..=1.0).contains(&at.y) {
            return Err(Failure::new(CloseCode::POLICY, "a position is between 0 and 1"));
        }
        remote.publish(TOPIC, &News::Moved { id: self.id, at }.json())?;
        Ok(Disposition::Done)
    }
}

/// The server, which listens on `address`.
pub fn cursors(address: SocketAddr) -> Builder {
    let ids = AtomicU64::new(1);
    let route = Route::new("/cursors", move || Pointer { id: ids.fetch_add(1, Ordering::Relaxed) });
    let page = Response::html(200, include_str!("page.html")).header("Content-Security-Policy", POLICY);
    let route = route.text_only().max_message(256);
    Server::builder().listen(address).route(route).get("/", move || page.clone())
}

fn main() -> Result<(), Box<dyn Error>> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:9001".to_owned());
    let server = cursors(address.parse()?).start()?;
    println!("open http://{}/ twice", server.addresses()[0]);
    server.join()?;
    Ok(())
}
