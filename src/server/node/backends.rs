//! The back ends of a server: those of its configuration, and those that connections still have after a reload.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Instant;

use echoring_auth::limits::BACKEND_FINISH_TIMEOUT;
use echoring_auth::{Backend, BackendFigures};

use crate::routes::route::{Route, Routes};

/// The back ends of a configuration.
#[derive(Clone, Debug, Default)]
pub struct Backends(pub Vec<Arc<Backend>>);

impl Backends {
    /// Goes on with those of `used` that do the same, and with the counters of those that have the same path.
    pub fn keep(&mut self, used: &Backends) {
        for backend in &mut self.0 {
            let path = &backend.settings().path;
            let Some(known) = used.0.iter().find(|known| known.settings().path == *path) else { continue };
            if known.is_same(backend) {
                *backend = Arc::clone(known);
            } else if let Some(backend) = Arc::get_mut(backend) {
                backend.count_with(known);
            }
        }
    }

    pub(crate) fn routes(&self) -> Routes {
        let mut routes = Routes::default();
        self.0.iter().for_each(|backend| routes.add(Route::of_backend(Arc::clone(backend))));
        routes
    }
}

/// The back ends that a server uses, and those that it has used and that are not over.
#[derive(Debug, Default)]
pub(crate) struct UsedBackends(Mutex<(Backends, Vec<Weak<Backend>>)>);

impl UsedBackends {
    pub(crate) fn new(backends: &Backends) -> UsedBackends {
        UsedBackends(Mutex::new((backends.clone(), Vec::new())))
    }

    /// Others take their place.
    pub(crate) fn replace(&self, backends: &Backends) {
        let mut used = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut used.0, backends.clone());
        used.1.retain(|backend| backend.strong_count() > 0);
        used.1.extend(before.0.iter().map(Arc::downgrade));
    }

    /// The state of those of the configuration.
    pub(crate) fn figures(&self) -> Vec<BackendFigures> {
        let used = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        used.0.0.iter().map(|backend| backend.figures()).collect()
    }

    /// Waits until all events are sent, for a bounded time and `until` at most. Logs what is left.
    pub(crate) fn finish(&self, until: Option<Instant>) {
        let used = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<Arc<Backend>> = used.1.iter().filter_map(Weak::upgrade).collect();
        all.extend(used.0.0.iter().cloned());
        drop(used);
        let latest = Instant::now() + BACKEND_FINISH_TIMEOUT;
        let until = until.map_or(latest, |until| until.min(latest));
        for backend in all {
            backend.finish(until);
            let BackendFigures { path, queued_bytes, .. } = backend.figures();
            if queued_bytes > 0 {
                tracing::warn!(
                    backend = path,
                    queued_bytes,
                    "a back end was not sent all events before the end"
                );
            }
        }
    }
}
