//! [`RequestContext`], the head of a request with the server's data about it, and [`Opening`], that of an upgrade.

use std::any::{Any, TypeId};
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use crate::routes::extract::FromRequest;
use crate::routes::pattern::Pattern;
use crate::routes::response::Response;
use crate::routes::states::ShardStates;
use echoring_auth::Identity;
use echoring_proto::handshake::{BadField, Request, Upgrade, check_field};
use echoring_runtime::shard::Extras;

/// A request before it is answered: its head, and the server's data about it. Dereferences to the [`Request`].
///
/// [Extractors](FromRequest) read it; [`extract`](RequestContext::extract) runs one.
pub struct RequestContext<'a> {
    pub(crate) request: &'a Request<'a>,
    pub(crate) pattern: Option<&'a Pattern>,
    pub(crate) client: Option<&'a Identity>,
    pub(crate) states: &'a ShardStates,
    pub(crate) extensions: Vec<(TypeId, Box<dyn Any>)>,
    pub(crate) fields: Vec<(String, String)>,
}

impl fmt::Debug for RequestContext<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestContext")
            .field("request", &self.request)
            .field("pattern", &self.pattern)
            .finish_non_exhaustive()
    }
}

impl<'a> Deref for RequestContext<'a> {
    type Target = Request<'a>;

    fn deref(&self) -> &Request<'a> {
        self.request
    }
}

impl<'a> RequestContext<'a> {
    pub(crate) fn new(request: &'a Request<'a>, states: &'a ShardStates) -> RequestContext<'a> {
        RequestContext {
            request,
            pattern: None,
            client: None,
            states,
            extensions: Vec::new(),
            fields: Vec::new(),
        }
    }

    /// The percent-decoded value of `{name}` or `{*name}` of the route's pattern in this path.
    pub fn param(&self, name: &str) -> Option<String> {
        self.pattern?.param(self.request.path, name)
    }

    /// All parameters of the path, in the order of the pattern.
    pub(crate) fn params(&self) -> Vec<(&'a str, Option<String>)> {
        self.pattern.map(|pattern| pattern.params(self.request.path)).unwrap_or_default()
    }

    /// The authenticated client; `None` for one without credentials, for a plain request, which needs none, and on servers
    /// without [`Builder::auth`](crate::Builder::auth).
    pub fn client(&self) -> Option<&'a Identity> {
        self.client
    }

    /// The state of this type from [`Builder::state`](crate::Builder::state).
    pub fn state<T: 'static>(&self) -> Option<&'a T> {
        self.states.of_server()
    }

    /// The state of this type from [`Builder::shard_state`](crate::Builder::shard_state).
    pub fn shard_state<T: 'static>(&self) -> Option<&'a T> {
        self.states.of_shard()
    }

    /// Attaches a value to the request, for functions behind this one and for the extractor [`Extension`](crate::Extension).
    /// It replaces a value of the same type. It is dropped once the request is answered.
    pub fn insert<T: 'static>(&mut self, value: T) {
        self.extensions.retain(|(id, _)| *id != TypeId::of::<T>());
        self.extensions.push((TypeId::of::<T>(), Box::new(value)));
    }

    /// The value of this type that was [attached](RequestContext::insert).
    pub fn extension<T: 'static>(&self) -> Option<&T> {
        let (_, value) = self.extensions.iter().find(|(id, _)| *id == TypeId::of::<T>())?;
        value.downcast_ref()
    }

    /// Runs an extractor.
    ///
    /// # Errors
    /// The response that refuses the request.
    ///
    /// ```
    /// use echoring::server::{Cookies, RequestContext, Response};
    ///
    /// fn session(request: &RequestContext<'_>) -> Result<String, Response> {
    ///     let cookies: Cookies = request.extract()?;
    ///     cookies.get("session").map(str::to_owned).ok_or_else(|| Response::text(401, "log in first\n"))
    /// }
    /// ```
    pub fn extract<T: FromRequest>(&self) -> Result<T, Response> {
        T::from_request(self)
    }

    /// Adds a field to the 101 of a route with a handler. Refusals, plain requests and built-in routes do not have it.
    ///
    /// # Errors
    /// If the field is malformed, or one of the handshake's own.
    pub fn add_header(&mut self, name: &str, value: &str) -> Result<(), BadField> {
        check_field(name, value)?;
        self.fields.push((name.to_owned(), value.to_owned()));
        Ok(())
    }
}

/// An upgrade request before it is answered. Dereferences to the [`RequestContext`], and so to the [`Request`].
#[derive(Debug)]
pub struct Opening<'a> {
    pub(crate) context: RequestContext<'a>,
    pub(crate) upgrade: &'a Upgrade<'a>,
    pub(crate) subprotocol: Option<String>,
    /// Its name, if it sets times.
    pub(crate) route: Option<Arc<str>>,
}

impl<'a> Deref for Opening<'a> {
    type Target = RequestContext<'a>;

    fn deref(&self) -> &RequestContext<'a> {
        &self.context
    }
}

impl<'a> DerefMut for Opening<'a> {
    fn deref_mut(&mut self) -> &mut RequestContext<'a> {
        &mut self.context
    }
}

impl<'a> Opening<'a> {
    /// The upgrade: its origin, and the subprotocols and extensions that it offers.
    pub fn upgrade(&self) -> &'a Upgrade<'a> {
        self.upgrade
    }

    /// The subprotocol that the 101 will name.
    pub fn subprotocol(&self) -> Option<&str> {
        self.subprotocol.as_deref()
    }

    /// Selects another subprotocol, or none. Returns false, and changes nothing, if the client does not offer it
    /// (RFC 6455, 4.2.2).
    pub fn choose_subprotocol(&mut self, name: Option<&str>) -> bool {
        let offered = name.is_none_or(|name| self.upgrade.subprotocols().any(|offered| offered == name));
        if offered {
            self.subprotocol = name.map(str::to_owned);
        }
        offered
    }

    pub(crate) fn into_extras(self) -> Extras {
        let Opening { context, subprotocol, route, .. } = self;
        Extras { subprotocol, fields: context.fields, route }
    }
}
