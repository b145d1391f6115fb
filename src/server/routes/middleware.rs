//! Functions that are called before and after the routes of a program. They run on the thread of a shard and must not block.

use std::sync::Arc;

use crate::handlers::panics::caught;
use crate::routes::request_context::RequestContext;
use crate::routes::response::Response;

/// A function that may refuse a request.
pub(crate) type Check = dyn Fn(&mut RequestContext<'_>) -> Result<(), Response> + Send + Sync;

/// A function that learns the outcome of a request.
pub(crate) type Observe = dyn Fn(&RequestContext<'_>, Result<(), &Response>) + Send + Sync;

/// Calls the functions in order, until one refuses.
pub(crate) fn check(before: &[Arc<Check>], request: &mut RequestContext<'_>) -> Result<(), Response> {
    before
        .iter()
        .try_for_each(|check| caught(|| check(request)).unwrap_or_else(|| Err(Response::internal_error())))
}

/// Tells the functions the outcome of a request: `Ok` for an upgrade.
pub(crate) fn tell(after: &[Arc<Observe>], request: &RequestContext<'_>, outcome: Result<(), &Response>) {
    for observe in after {
        caught(|| observe(request, outcome));
    }
}
