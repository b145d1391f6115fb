//! Endpoints for test harnesses: server behaviour that clients have to cope with. `docs/reference/endpoints.md` describes each of
//! them and its bounds.
//!
//! They are routes and handlers on the server's public interface, as any program could write them. Every parameter has
//! bounds, and an invalid one is refused.

mod flow;
mod parameters;
mod scripted;

use crate::handlers::handler::Handler;
use crate::routes::request_context::{Opening, RequestContext};
use crate::routes::response::Response;
use crate::routes::route::{Route, Routes};
use echoring_proto::handshake::Request;
use parameters::{Parameters, not};

/// All endpoints except `/echo`, which is a built-in route.
pub(super) fn routes() -> Routes {
    let mut routes = Routes::default();
    add(&mut routes, "/sink", flow::Sink::of);
    add(&mut routes, "/source", flow::Source::of);
    add(&mut routes, "/delay", flow::Delay::of);
    add(&mut routes, "/slow-read", flow::SlowRead::of);
    add(&mut routes, "/close", scripted::Close::of);
    add(&mut routes, "/fragment", flow::Delay::in_parts);
    add(&mut routes, "/ping-storm", scripted::Beats::of_pings);
    add(&mut routes, "/abort", scripted::Abort::of);
    add(&mut routes, "/push", scripted::Beats::of_messages);
    add(&mut routes, "/headers", scripted::Greet::with_headers);
    add(&mut routes, "/subprotocol", scripted::Greet::with_subprotocol);
    add(&mut routes, "/reject", |opening| Err::<scripted::Greet, _>(reject(opening)));
    routes.add_get("/headers", |request: &RequestContext<'_>| {
        Parameters::of(request, &[])?;
        Ok(Response::json(200, &scripted::Shown::of(request)))
    });
    routes.add_get("/reject", |request: &RequestContext<'_>| reject(request));
    routes
}

fn add<H: Handler + 'static>(
    routes: &mut Routes,
    path: &str,
    make: impl Fn(&mut Opening<'_>) -> Result<H, Response> + Send + Sync + 'static,
) {
    routes.add(Route::new(path, make));
}

/// `/reject?status=`: a refusal with this status and the header fields that belong to it.
fn reject(request: &Request<'_>) -> Response {
    rejection(request).unwrap_or_else(|wrong| wrong)
}

fn rejection(request: &Request<'_>) -> Result<Response, Response> {
    let parameters = Parameters::of(request, &["status"])?;
    let status = parameters.number("status", 403, 200..=599)?;
    let header = match status {
        301 | 302 | 303 | 307 | 308 => Some(("location", "/echo")),
        401 => Some(("www-authenticate", "Basic realm=\"echoring\"")),
        429 | 503 => Some(("retry-after", "1")),
        200 | 400..=599 => None,
        // The other statuses have no body, or none that may answer an upgrade.
        _ => {
            let value = request.query_value("status").unwrap_or_default();
            return Err(not("status", "must be 200, 301, 302, 303, 307, 308 or from 400 to 599", value));
        }
    };
    let response = Response::text(status as u16, format!("rejected with {status}, as asked\n"));
    Ok(match header {
        Some((name, value)) => response.header(name, value),
        None => response,
    })
}
