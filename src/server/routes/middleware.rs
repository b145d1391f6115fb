//! Functions that are called before and after the routes of a program. They run on the thread of a shard and must not block.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use crate::handlers::panics::log_panic;
use crate::routes::request_context::RequestContext;
use crate::routes::response::Response;

type Check = dyn Fn(&mut RequestContext<'_>) -> Result<(), Response> + Send + Sync;
type Observe = dyn Fn(&RequestContext<'_>, Result<(), &Response>) + Send + Sync;

/// Functions that may refuse a request, in the order of their calls.
#[derive(Clone, Default)]
pub(crate) struct Before(Vec<Arc<Check>>);

impl fmt::Debug for Before {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} functions", self.0.len())
    }
}

impl Before {
    pub(crate) fn push(
        &mut self,
        check: impl Fn(&mut RequestContext<'_>) -> Result<(), Response> + Send + Sync + 'static,
    ) {
        self.0.push(Arc::new(check));
    }

    pub(crate) fn extend(&mut self, others: Before) {
        self.0.extend(others.0);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Calls the functions until one refuses. A panic is answered with 500.
    pub(crate) fn check(&self, request: &mut RequestContext<'_>) -> Result<(), Response> {
        self.0.iter().try_for_each(|check| {
            catch_unwind(AssertUnwindSafe(|| check(request))).unwrap_or_else(|panic| {
                log_panic(panic);
                Err(Response::internal_error())
            })
        })
    }
}

/// Functions that receive the outcomes, in the order of their calls.
#[derive(Clone, Default)]
pub(crate) struct After(Vec<Arc<Observe>>);

impl fmt::Debug for After {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} functions", self.0.len())
    }
}

impl After {
    pub(crate) fn push(
        &mut self,
        observe: impl Fn(&RequestContext<'_>, Result<(), &Response>) + Send + Sync + 'static,
    ) {
        self.0.push(Arc::new(observe));
    }

    pub(crate) fn extend(&mut self, others: After) {
        self.0.extend(others.0);
    }

    /// Passes an outcome to the functions. A panic of one is logged, and changes nothing.
    pub(crate) fn tell(&self, request: &RequestContext<'_>, outcome: Result<(), &Response>) {
        for observe in &self.0 {
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| observe(request, outcome))) {
                log_panic(panic);
            }
        }
    }
}
