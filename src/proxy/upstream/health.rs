//! Active health checks of upstreams.
//!
//! Never: two checks of one upstream at the same time.

#![forbid(unsafe_code)]

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use http::header::{HOST, USER_AGENT};
use http_body_util::Empty;
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http1;
use tokio::sync::watch;
use tokio::task::spawn_local;

use crate::Live;
use crate::upstream::Upstream;
use echoring_async::TokioStream;

/// How upstreams are checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// Time between two checks. An upstream whose check takes longer is not checked meanwhile.
    pub interval: Duration,
    /// Path of a GET request; a status below 400 is healthy. Without it, an upstream is healthy if it accepts a
    /// connection.
    pub path: Option<String>,
}

/// Checks the upstreams of the configuration in effect, each in its own task, until the runtime ends. A reload checks them at
/// once.
pub(crate) fn start(mut live: watch::Receiver<Arc<Live>>) {
    spawn_local(async move {
        loop {
            let now = Arc::clone(&live.borrow_and_update());
            for upstream in now.config.health.iter().flat_map(|_| &now.upstreams.all) {
                if !upstream.is_checked.swap(true, Ordering::Relaxed) {
                    spawn_local(check(Arc::clone(&now), Arc::clone(upstream)));
                }
            }
            tokio::select! {
                () = tokio::time::sleep(now.config.settings.health_interval) => {}
                changed = live.changed() => if changed.is_err() { return },
            }
        }
    });
}

async fn check(live: Arc<Live>, upstream: Arc<Upstream>) {
    match probe(&live, &upstream).await {
        Ok(()) => upstream.set_down(false, &""),
        Err(why) => upstream.set_down(true, &why),
    }
    upstream.is_checked.store(false, Ordering::Relaxed);
}

/// Makes one check.
async fn probe(live: &Live, upstream: &Upstream) -> Result<(), Box<dyn Error>> {
    let timeout = live.config.settings.connect_timeout;
    let stream = upstream.connect(live.connector(), timeout).await?;
    let Some(path) = live.config.health.as_ref().and_then(|check| check.path.as_ref()) else { return Ok(()) };
    let asked = async {
        let (mut sender, connection) = http1::handshake(TokioStream(stream)).await?;
        let driver = spawn_local(connection);
        let request = Request::get(upstream.target(path))
            .header(HOST, upstream.authority())
            .header(USER_AGENT, concat!("echoring/", env!("CARGO_PKG_VERSION")))
            .body(Empty::<Bytes>::new())?;
        let answered = sender.send_request(request).await;
        driver.abort();
        let status = answered?.status();
        if status.as_u16() < 400 { Ok(()) } else { Err(format!("GET {path} returned {status}").into()) }
    };
    match tokio::time::timeout(timeout, asked).await {
        Ok(health) => health,
        Err(_) => Err(format!("GET {path} did not return within {timeout:?}").into()),
    }
}
