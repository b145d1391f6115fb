//! Extractors: typed values of a request, which the functions of routes have as arguments.
//!
//! A value that is malformed refuses the request with 400 and names the problem. One that the program forgot to provide
//! refuses it with 500, and is logged.

mod cookies;
mod values;

use std::any::type_name;
use std::fmt::Display;
use std::str::FromStr;

use http::{HeaderMap, HeaderName, HeaderValue};
use serde::de::DeserializeOwned;

use crate::routes::request_context::RequestContext;
use crate::routes::response::Response;
use crate::routes::states::Requirements;
use echoring_auth::Identity;
use values::{ValueError, from_path, from_query};

pub use cookies::Cookies;

/// A value that is made from a request: an argument of the function of a [`Route`](crate::Route), or of
/// [`Builder::get`](crate::Builder::get).
///
/// | extractor | value | refuses |
/// |---|---|---|
/// | [`Path<T>`] | the parameters of the path | a malformed one: 400 |
/// | [`Query<T>`] | the parameters of the query | a malformed or missing one: 400 |
/// | [`Header<T>`] | one header field | a malformed or missing one: 400 |
/// | [`HeaderMap`](http::HeaderMap) | all header fields | |
/// | [`Cookies`] | the cookies | |
/// | [`Identity`] | the authenticated client | one without credentials: 401 |
/// | [`State<T>`] | the state of the server | a missing one is an error of [`Builder::start`](crate::Builder::start) |
/// | [`ShardState<T>`] | the state of the shard | the same |
/// | [`Extension<T>`] | a value that a function of [`Builder::before`](crate::Builder::before) attached | a missing one: 500, logged |
/// | `Option<T>` | `None` if the value is absent, see [`OptionalFromRequest`] | a malformed one: 400 |
/// | `Result<T, Response>` | the value, or the refusal | nothing |
///
/// Extractors run on the thread of a shard and must not block.
///
/// ```
/// use echoring::server::{FromRequest, Query, RequestContext, Requirements, Response, State};
///
/// #[derive(Clone)]
/// struct Tokens(Vec<String>);
///
/// #[derive(serde::Deserialize)]
/// struct Presented {
///     token: String,
/// }
///
/// /// A client that knows one of the tokens.
/// struct Trusted;
///
/// impl FromRequest for Trusted {
///     fn from_request(request: &RequestContext<'_>) -> Result<Trusted, Response> {
///         let State(Tokens(tokens)) = request.extract()?;
///         let Query(Presented { token }) = request.extract()?;
///         if tokens.contains(&token) { Ok(Trusted) } else { Err(Response::text(403, "unknown token\n")) }
///     }
///
///     fn requires(required: &mut Requirements) {
///         required.state::<Tokens>();
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an extractor",
    note = "arguments are `Path<T>`, `Query<T>`, `State<T>`, and other types that implement `FromRequest`; `&mut Opening<'_>` may only be the first one"
)]
pub trait FromRequest: Sized {
    /// Makes the value.
    ///
    /// # Errors
    /// The response that refuses the request.
    fn from_request(request: &RequestContext<'_>) -> Result<Self, Response>;

    /// Names the states that the extractor needs, so that a missing one is an error at the start of the server. Without this, it
    /// is a 500 when a request comes.
    fn requires(required: &mut Requirements) {
        let _ = required;
    }
}

/// An extractor whose value may be absent, so that `Option` of it is an extractor, too.
///
/// ```
/// use echoring::server::{FromRequest, OptionalFromRequest, RequestContext, Response};
///
/// /// The language that a client asks for.
/// struct Language(String);
///
/// impl OptionalFromRequest for Language {
///     fn from_request_if_present(request: &RequestContext<'_>) -> Result<Option<Language>, Response> {
///         Ok(request.values("accept-language").next().map(|value| Language(String::from_utf8_lossy(value).into_owned())))
///     }
/// }
///
/// fn in_language(language: Option<Language>) -> String {
///     language.map_or("en".to_owned(), |language| language.0)
/// }
/// # drop(in_language);
/// ```
pub trait OptionalFromRequest: Sized {
    /// Makes the value; `None` if it is absent.
    ///
    /// # Errors
    /// The response that refuses the request, because the value is present but malformed.
    fn from_request_if_present(request: &RequestContext<'_>) -> Result<Option<Self>, Response>;
}

impl<T: OptionalFromRequest> FromRequest for Option<T> {
    fn from_request(request: &RequestContext<'_>) -> Result<Option<T>, Response> {
        T::from_request_if_present(request)
    }
}

impl<T: FromRequest> FromRequest for Result<T, Response> {
    fn from_request(request: &RequestContext<'_>) -> Result<Result<T, Response>, Response> {
        Ok(T::from_request(request))
    }

    fn requires(required: &mut Requirements) {
        T::requires(required);
    }
}

/// The parameters of the path, percent-decoded: a single one into a string, number, `bool` or enum, several into a tuple in the
/// order of the pattern, or into a struct or map by their names.
///
/// A value that is not UTF-8, or that `T` does not accept, refuses the request with 400. A `T` that does not fit the pattern is a
/// mistake of the program: 500, and logged.
///
/// ```
/// use echoring::server::{Handler, Path, Route};
///
/// struct Seat {
///     room: String,
///     number: u32,
/// }
///
/// impl Handler for Seat {}
///
/// let by_order = Route::new("/rooms/{room}/{number}", |Path((room, number)): Path<(String, u32)>| Seat { room, number });
///
/// #[derive(serde::Deserialize)]
/// struct Place {
///     room: String,
///     number: u32,
/// }
///
/// let by_name = Route::new("/rooms/{room}/{number}", |Path(place): Path<Place>| {
///     let Place { room, number } = place;
///     Seat { room, number }
/// });
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Path<T>(pub T);

impl<T: DeserializeOwned> FromRequest for Path<T> {
    fn from_request(request: &RequestContext<'_>) -> Result<Path<T>, Response> {
        from_path(request.params()).map(Path).map_err(|error| refuse("path", &error))
    }
}

/// The parameters of the query, in the form of HTML forms (WHATWG URL, 5): a struct or map by their names. A field of a sequence
/// type has all values of its name. Parameters without a field are ignored, unless `T` denies them.
///
/// A parameter that is missing, repeated, not UTF-8, or that `T` does not accept, refuses the request with 400. An `Option` or
/// `#[serde(default)]` may be missing.
///
/// ```
/// use echoring::server::{Handler, Query, Route};
///
/// #[derive(serde::Deserialize)]
/// struct Member {
///     nickname: String,
///     #[serde(default)]
///     topic: Vec<String>,
/// }
///
/// impl Handler for Member {}
///
/// // ws://…/chat?nickname=ann&topic=rust&topic=io_uring
/// let chat = Route::new("/chat", |Query(member): Query<Member>| member);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Query<T>(pub T);

impl<T: DeserializeOwned> FromRequest for Query<T> {
    fn from_request(request: &RequestContext<'_>) -> Result<Query<T>, Response> {
        from_query(request.query).map(Query).map_err(|error| refuse("query", &error))
    }
}

/// A header field that a [`Header`] extracts.
///
/// ```
/// use std::str::FromStr;
///
/// use echoring::server::HeaderField;
///
/// struct Device(String);
///
/// impl FromStr for Device {
///     type Err = &'static str;
///
///     fn from_str(text: &str) -> Result<Device, &'static str> {
///         if text.len() <= 36 { Ok(Device(text.to_owned())) } else { Err("a device's name has at most 36 bytes") }
///     }
/// }
///
/// impl HeaderField for Device {
///     const NAME: &'static str = "x-device";
/// }
/// ```
pub trait HeaderField: FromStr<Err: Display> {
    /// The name of the field; case does not matter.
    const NAME: &'static str;
}

/// One header field, by its type. A field that is missing, repeated, or malformed, refuses the request with 400.
///
/// ```
/// use std::num::ParseIntError;
/// use std::str::FromStr;
///
/// use echoring::server::{Handler, Header, HeaderField, Route};
///
/// struct ApiVersion(u32);
///
/// impl FromStr for ApiVersion {
///     type Err = ParseIntError;
///
///     fn from_str(text: &str) -> Result<ApiVersion, ParseIntError> {
///         text.parse().map(ApiVersion)
///     }
/// }
///
/// impl HeaderField for ApiVersion {
///     const NAME: &'static str = "x-api-version";
/// }
///
/// # struct Api(u32);
/// # impl Handler for Api {}
/// let route = Route::new("/api", |Header(version): Header<ApiVersion>| Api(version.0));
/// let or_one = Route::new("/api", |version: Option<Header<ApiVersion>>| Api(version.map_or(1, |version| version.0.0)));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header<T>(pub T);

impl<T: HeaderField> OptionalFromRequest for Header<T> {
    fn from_request_if_present(request: &RequestContext<'_>) -> Result<Option<Header<T>>, Response> {
        let wrong = |what: &dyn Display| Response::text(400, format!("header field {}: {what}\n", T::NAME));
        let mut values = request.values(T::NAME);
        let Some(value) = values.next() else { return Ok(None) };
        if values.next().is_some() {
            return Err(wrong(&"given more than once"));
        }
        let text = str::from_utf8(value).map_err(|_| wrong(&"not UTF-8"))?;
        text.parse().map(|value| Some(Header(value))).map_err(|error| wrong(&error))
    }
}

impl<T: HeaderField> FromRequest for Header<T> {
    fn from_request(request: &RequestContext<'_>) -> Result<Header<T>, Response> {
        let value = Header::from_request_if_present(request)?;
        value.ok_or_else(|| Response::text(400, format!("header field {}: missing\n", T::NAME)))
    }
}

/// All header fields.
impl FromRequest for HeaderMap {
    fn from_request(request: &RequestContext<'_>) -> Result<HeaderMap, Response> {
        let mut map = HeaderMap::new();
        for (name, value) in request.fields() {
            // The parser of the request lets no other names and values pass.
            if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::from_bytes(value)) {
                map.append(name, value);
            }
        }
        Ok(map)
    }
}

impl OptionalFromRequest for Identity {
    fn from_request_if_present(request: &RequestContext<'_>) -> Result<Option<Identity>, Response> {
        Ok(request.client().cloned())
    }
}

/// The authenticated client, see [`RequestContext::client`]. One without credentials is refused with 401.
impl FromRequest for Identity {
    fn from_request(request: &RequestContext<'_>) -> Result<Identity, Response> {
        request.client().cloned().ok_or_else(|| {
            // RFC 9110, 15.5.2: with a challenge.
            Response::text(401, "credentials are missing\n")
                .header("www-authenticate", "Bearer realm=\"echoring\"")
        })
    }
}

/// A clone of the state of this type from [`Builder::state`](crate::Builder::state).
///
/// A server without it does not start, if a route has this extractor as an argument. For a request of
/// [`RequestContext::extract`] it is a 500, and logged.
///
/// ```
/// use std::sync::Arc;
/// use std::sync::atomic::{AtomicU64, Ordering};
///
/// use echoring::server::{Handler, Server, State};
///
/// struct Visitor(u64);
///
/// impl Handler for Visitor {}
///
/// let builder = Server::builder()
///     .state(Arc::new(AtomicU64::new(1)))
///     .handle("/ws", |State(next): State<Arc<AtomicU64>>| Visitor(next.fetch_add(1, Ordering::Relaxed)));
/// # drop(builder);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State<T>(pub T);

impl<T: Clone + Send + Sync + 'static> FromRequest for State<T> {
    fn from_request(request: &RequestContext<'_>) -> Result<State<T>, Response> {
        request.state().cloned().map(State).ok_or_else(|| forgotten::<T>("Builder::state"))
    }

    fn requires(required: &mut Requirements) {
        required.state::<T>();
    }
}

/// A clone of the state of this type from [`Builder::shard_state`](crate::Builder::shard_state), of the connection's
/// shard. All handlers of a shard run on one thread, so it may be an `Rc<RefCell<…>>`.
///
/// The rules for a missing [`State`] apply to it, too.
///
/// ```
/// use std::cell::Cell;
/// use std::rc::Rc;
///
/// use echoring::server::{Handler, Server, ShardState};
///
/// struct Visitor(u32);
///
/// impl Handler for Visitor {}
///
/// let builder = Server::builder()
///     .shard_state(|| Rc::new(Cell::new(0_u32)))
///     .handle("/ws", |ShardState(count): ShardState<Rc<Cell<u32>>>| Visitor(count.replace(count.get() + 1)));
/// # drop(builder);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShardState<T>(pub T);

impl<T: Clone + 'static> FromRequest for ShardState<T> {
    fn from_request(request: &RequestContext<'_>) -> Result<ShardState<T>, Response> {
        request.shard_state().cloned().map(ShardState).ok_or_else(|| forgotten::<T>("Builder::shard_state"))
    }

    fn requires(required: &mut Requirements) {
        required.shard_state::<T>();
    }
}

/// A clone of the value of this type that a function of [`Builder::before`](crate::Builder::before) or
/// [`Route::before`](crate::Route::before) [attached](RequestContext::insert).
///
/// ```
/// use echoring::server::{Extension, Handler, Response, Server};
///
/// #[derive(Clone)]
/// struct Tenant(String);
///
/// struct Member(Tenant);
///
/// impl Handler for Member {}
///
/// let builder = Server::builder()
///     .before(|request| {
///         let Some((tenant, _)) = request.host.split_once('.') else {
///             return Err(Response::text(404, "no tenant\n"));
///         };
///         let tenant = Tenant(tenant.to_owned());
///         request.insert(tenant);
///         Ok(())
///     })
///     .handle("/ws", |Extension(tenant): Extension<Tenant>| Member(tenant));
/// # drop(builder);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extension<T>(pub T);

impl<T: Clone + 'static> OptionalFromRequest for Extension<T> {
    fn from_request_if_present(request: &RequestContext<'_>) -> Result<Option<Extension<T>>, Response> {
        Ok(request.extension().cloned().map(Extension))
    }
}

impl<T: Clone + 'static> FromRequest for Extension<T> {
    fn from_request(request: &RequestContext<'_>) -> Result<Extension<T>, Response> {
        request.extension().cloned().map(Extension).ok_or_else(|| forgotten::<T>("RequestContext::insert"))
    }
}

/// 500: the program did not provide a value of this type.
fn forgotten<T>(by: &str) -> Response {
    tracing::error!(type_name = type_name::<T>(), provided_by = by, "a route needs a value that is missing");
    Response::internal_error()
}

/// The refusal of a request whose parameters are malformed, in `place`.
fn refuse(place: &str, error: &ValueError) -> Response {
    if error.is_mistake_of_program() {
        tracing::error!(%error, place, "the type of an extractor does not fit its route");
        return Response::internal_error();
    }
    Response::text(400, format!("{place}: {error}\n"))
}

#[cfg(test)]
mod tests;
