//! Active health checks of upstreams.
//!
//! Never: two checks of one upstream at the same time.

#![forbid(unsafe_code)]

use std::error::Error;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::header::{HOST, USER_AGENT};
use http_body_util::Empty;
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http1;
use tokio::task::spawn_local;

use crate::Context;
use crate::upstream::Upstream;
use echoring_async::TokioStream;

/// How upstreams are checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// Time from the end of a check to the start of the next.
    pub interval: Duration,
    /// Path of a GET request; a status below 400 is healthy. Without it, an upstream is healthy if it accepts a
    /// connection.
    pub path: Option<String>,
}

/// Checks all upstreams, each in its own task, until the runtime ends.
pub(crate) fn start(context: &Rc<Context>, check: &HealthCheck) {
    for upstream in &context.upstreams.all {
        let (context, upstream, check) = (Rc::clone(context), Arc::clone(upstream), check.clone());
        spawn_local(async move {
            loop {
                match probe(&context, &upstream, &check).await {
                    Ok(()) => upstream.set_down(false, &""),
                    Err(why) => upstream.set_down(true, &why),
                }
                tokio::time::sleep(check.interval).await;
            }
        });
    }
}

/// Makes one check.
async fn probe(context: &Context, upstream: &Upstream, check: &HealthCheck) -> Result<(), Box<dyn Error>> {
    let timeout = context.settings.connect_timeout;
    let stream = upstream.connect(context.tls.as_ref(), timeout).await?;
    let Some(path) = &check.path else { return Ok(()) };
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
