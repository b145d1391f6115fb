//! The routes of a program: paths with a [`Handler`](crate::Handler) and their policy, and answers to plain requests.

use std::fmt;
use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use crate::handler::Handler;
use crate::message::MessageFilter;
use crate::panics::log_panic;
use crate::response::Response;
use echoring_auth::Identity;
use echoring_proto::connection::MessageKind;
use echoring_proto::handshake::{
    BadField, OriginPolicy, Request, SubprotocolPreference, Upgrade, check_field, percent_decode_path,
};
use echoring_runtime::shard::Extras;

/// Makes the handler of a connection, or refuses the request.
type Make = dyn Fn(&mut Opening<'_>) -> Result<Box<dyn Handler>, Response> + Send + Sync;

/// A path for WebSockets, with its handlers and its policy.
///
/// ```
/// use echoring::OriginPolicy;
/// use echoring::server::{Disposition, Failure, Handler, Message, Remote, Response, Route};
///
/// struct Room {
///     name: String,
/// }
///
/// impl Handler for Room {
///     fn message(&mut self, remote: &mut Remote<'_>, message: Message<'_>) -> Result<Disposition, Failure> {
///         remote.send_text(&format!("{} bytes in {}", message.len(), self.name))?;
///         Ok(Disposition::Done)
///     }
/// }
///
/// let route = Route::new("/rooms/{name}", |opening| {
///     let name = opening.param("name").unwrap_or_default();
///     if name == "attic" { Err(Response::text(404, "no such room\n")) } else { Ok(Room { name }) }
/// })
/// .origins(OriginPolicy::List(vec!["https://app.example".to_owned()]))
/// .text_only();
/// ```
#[derive(Clone)]
pub struct Route {
    pattern: Pattern,
    make: Arc<Make>,
    subprotocols: Vec<String>,
    subprotocol_required: bool,
    origins: Option<OriginPolicy>,
    fields: Vec<(String, String)>,
    kind: Option<MessageKind>,
    message_bytes_max: u64,
}

impl fmt::Debug for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Route")
            .field("pattern", &self.pattern)
            .field("subprotocols", &self.subprotocols)
            .field("origins", &self.origins)
            .finish_non_exhaustive()
    }
}

impl Route {
    /// A route for the paths of `pattern`. `make` is called for each upgrade request that the policy of the route allows. It
    /// returns the handler, or a response that refuses the request.
    ///
    /// A pattern is matched against the path as it was sent. `{name}` matches one segment that is not empty, and `{*name}` at
    /// the end matches the rest of the path; [`Opening::param`] returns their values.
    pub fn new<H, F>(pattern: &str, make: F) -> Route
    where
        H: Handler + 'static,
        F: Fn(&mut Opening<'_>) -> Result<H, Response> + Send + Sync + 'static,
    {
        let make = move |opening: &mut Opening<'_>| -> Result<Box<dyn Handler>, Response> {
            make(opening).map(|handler| Box::new(handler) as Box<dyn Handler>)
        };
        Route {
            pattern: Pattern::new(pattern),
            make: Arc::new(make),
            subprotocols: Vec::new(),
            subprotocol_required: false,
            origins: None,
            fields: Vec::new(),
            kind: None,
            message_bytes_max: u64::MAX,
        }
    }

    /// The subprotocols of the route, preferred first (RFC 6455, 1.9). A client that offers none of them is accepted without
    /// one. By default the route has the subprotocols of the server.
    #[must_use]
    pub fn subprotocols<S: Into<String>>(mut self, names: impl IntoIterator<Item = S>) -> Route {
        self.subprotocols = names.into_iter().map(Into::into).collect();
        self
    }

    /// Restricts the route to clients that offer one of these subprotocols. Other clients get the next route of the same path,
    /// so the subprotocol selects the handler.
    #[must_use]
    pub fn only_subprotocols<S: Into<String>>(self, names: impl IntoIterator<Item = S>) -> Route {
        Route { subprotocol_required: true, ..self.subprotocols(names) }
    }

    /// The origins that may connect, instead of those of the server.
    #[must_use]
    pub fn origins(mut self, origins: OriginPolicy) -> Route {
        self.origins = Some(origins);
        self
    }

    /// Adds a field to the 101. A malformed field, or one of the handshake itself, is omitted and logged.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Route {
        match check_field(name, value) {
            Ok(()) => self.fields.push((name.to_owned(), value.to_owned())),
            Err(why) => tracing::error!(name, %why, "malformed header field of a route; omitted"),
        }
        self
    }

    /// Binary messages close the connection with 1003.
    #[must_use]
    pub fn text_only(mut self) -> Route {
        self.kind = Some(MessageKind::Text);
        self
    }

    /// Text messages close the connection with 1003.
    #[must_use]
    pub fn binary_only(mut self) -> Route {
        self.kind = Some(MessageKind::Binary);
        self
    }

    /// Maximum message size in bytes; a longer message closes the connection with 1009. Only a value below the limit of the
    /// server has an effect.
    #[must_use]
    pub fn message_bytes_max(mut self, bytes: u64) -> Route {
        self.message_bytes_max = bytes;
        self
    }

    pub(super) fn filter(&self) -> MessageFilter {
        MessageFilter { kind: self.kind, message_bytes_max: self.message_bytes_max }
    }

    /// Whether the origin of a request may connect; `default` is the policy of the server.
    pub(super) fn allows(&self, upgrade: &Upgrade<'_>, default: &OriginPolicy) -> bool {
        self.origins.as_ref().unwrap_or(default).allows(upgrade.host, upgrade.origin)
    }

    /// Makes a handler. A panic is answered with 500.
    pub(super) fn make(&self, opening: &mut Opening<'_>) -> Result<Box<dyn Handler>, Response> {
        catch_unwind(AssertUnwindSafe(|| (self.make)(opening))).unwrap_or_else(|panic| {
            log_panic(panic);
            Err(Response::internal_error())
        })
    }

    /// The request for this route, with the fields of the route.
    pub(super) fn opening<'a>(
        &'a self,
        request: &'a Request<'a>,
        upgrade: &'a Upgrade<'a>,
        defaults: Subprotocols<'_>,
        client: Option<&'a Identity>,
    ) -> Opening<'a> {
        let subprotocol = if self.subprotocols.is_empty() {
            upgrade.subprotocol(defaults.names, defaults.preference).map(str::to_owned)
        } else {
            self.chosen(upgrade, defaults.preference)
        };
        Opening { request, upgrade, pattern: &self.pattern, subprotocol, fields: self.fields.clone(), client }
    }

    fn chosen(&self, upgrade: &Upgrade<'_>, preference: SubprotocolPreference) -> Option<String> {
        let names: Vec<&str> = self.subprotocols.iter().map(String::as_str).collect();
        upgrade.subprotocol(&names, preference).map(str::to_owned)
    }

    /// The position of the route's subprotocol in the client's offer; `None` if the route is not for this client.
    fn rank(&self, upgrade: &Upgrade<'_>) -> Option<usize> {
        if !self.subprotocol_required {
            return Some(usize::MAX);
        }
        upgrade.subprotocols().position(|offered| self.subprotocols.iter().any(|own| own == offered))
    }
}

/// The subprotocols of routes without their own.
#[derive(Clone, Copy, Debug)]
pub(super) struct Subprotocols<'a> {
    pub(super) names: &'a [&'static str],
    pub(super) preference: SubprotocolPreference,
}

/// An upgrade request before it is answered. Dereferences to the [`Request`].
///
/// ```
/// use echoring::server::{Handler, Opening, Response, Route};
///
/// struct Member {
///     name: String,
/// }
///
/// impl Handler for Member {}
///
/// let route = Route::new("/rooms/{room}", |opening: &mut Opening<'_>| {
///     let Some(name) = opening.query_value("as") else { return Err(Response::text(400, "who are you?\n")) };
///     let name = name.to_owned();
///     if opening.add_header("Set-Cookie", "seen=1").is_err() {
///         return Err(Response::text(500, "internal error\n"));
///     }
///     Ok(Member { name })
/// });
/// # drop(route);
/// ```
#[derive(Debug)]
pub struct Opening<'a> {
    request: &'a Request<'a>,
    upgrade: &'a Upgrade<'a>,
    pattern: &'a Pattern,
    subprotocol: Option<String>,
    fields: Vec<(String, String)>,
    client: Option<&'a Identity>,
}

impl<'a> Deref for Opening<'a> {
    type Target = Request<'a>;

    fn deref(&self) -> &Request<'a> {
        self.request
    }
}

impl<'a> Opening<'a> {
    /// The percent-decoded value of `{name}` or `{*name}` of the route's pattern in this path.
    pub fn param(&self, name: &str) -> Option<String> {
        self.pattern.param(self.request.path, name)
    }

    /// The upgrade: its origin, and the subprotocols and extensions that it offers.
    pub fn upgrade(&self) -> &Upgrade<'a> {
        self.upgrade
    }

    /// The authenticated client; `None` for one without credentials, and on servers without
    /// [`ServerConfig::auth`](crate::ServerConfig::auth).
    pub fn client(&self) -> Option<&'a Identity> {
        self.client
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

    /// Adds a field to the 101.
    ///
    /// # Errors
    /// If the field is malformed, or is one of the handshake itself.
    pub fn add_header(&mut self, name: &str, value: &str) -> Result<(), BadField> {
        check_field(name, value)?;
        self.fields.push((name.to_owned(), value.to_owned()));
        Ok(())
    }

    pub(super) fn into_extras(self) -> Extras {
        Extras { subprotocol: self.subprotocol, fields: self.fields }
    }
}

/// A plain request for a route. Dereferences to the [`Request`].
///
/// ```
/// use echoring::server::{Response, Server};
///
/// let builder = Server::builder().get("/hello/{name}", |request| match request.param("name") {
///     Some(name) => Response::text(200, format!("hello, {name}, on {}\n", request.host)),
///     None => Response::text(404, "who?\n"),
/// });
/// # drop(builder);
/// ```
#[derive(Debug)]
pub struct PlainRequest<'a> {
    request: &'a Request<'a>,
    pattern: &'a Pattern,
}

impl<'a> Deref for PlainRequest<'a> {
    type Target = Request<'a>;

    fn deref(&self) -> &Request<'a> {
        self.request
    }
}

impl PlainRequest<'_> {
    /// The percent-decoded value of `{name}` or `{*name}` of the route's pattern in this path.
    pub fn param(&self, name: &str) -> Option<String> {
        self.pattern.param(self.request.path, name)
    }
}

/// Answers a plain request.
type Answer = dyn Fn(&PlainRequest<'_>) -> Response + Send + Sync;

#[derive(Clone)]
struct Plain {
    pattern: Pattern,
    answer: Arc<Answer>,
}

/// All routes of a server. Cloning shares them.
///
/// ```
/// use echoring::server::{Handler, Opening, Response, Route, Routes, ServerConfig};
///
/// struct Chat;
///
/// impl Handler for Chat {}
///
/// let mut routes = Routes::default();
/// routes.add(Route::new("/chat", |_: &mut Opening<'_>| Ok(Chat)));
/// routes.add_get("/hello", |_| Response::text(200, "hello\n"));
/// let config = ServerConfig { routes, ..ServerConfig::default() };
/// # drop(config);
/// ```
#[derive(Clone, Default)]
pub struct Routes {
    upgrades: Vec<Arc<Route>>,
    plain: Vec<Plain>,
}

impl fmt::Debug for Routes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.upgrades.iter().map(|route| &route.pattern))
            .entries(self.plain.iter().map(|plain| &plain.pattern))
            .finish()
    }
}

impl Routes {
    /// Adds a route. The first route whose pattern and subprotocols match is used.
    pub fn add(&mut self, route: Route) {
        self.upgrades.push(Arc::new(route));
    }

    /// Answers plain GET and HEAD requests.
    pub fn add_get(
        &mut self,
        pattern: &str,
        answer: impl Fn(&PlainRequest<'_>) -> Response + Send + Sync + 'static,
    ) {
        self.plain.push(Plain { pattern: Pattern::new(pattern), answer: Arc::new(answer) });
    }

    /// Adds all routes of `others` behind the present ones.
    pub fn extend(&mut self, others: Routes) {
        self.upgrades.extend(others.upgrades);
        self.plain.extend(others.plain);
    }

    /// The route for an upgrade. If several match by their subprotocols, `preference` selects by the order of the routes or
    /// of the client's offer.
    pub(super) fn find(
        &self,
        path: &str,
        upgrade: &Upgrade<'_>,
        preference: SubprotocolPreference,
    ) -> Option<Arc<Route>> {
        let fitting = self.upgrades.iter().filter(|route| route.pattern.matches(path));
        let mut ranked = fitting.filter_map(|route| Some((route.rank(upgrade)?, route)));
        let (_, route) = match preference {
            SubprotocolPreference::Server => ranked.next(),
            SubprotocolPreference::Client => ranked.min_by_key(|(rank, _)| *rank),
        }?;
        Some(Arc::clone(route))
    }

    /// Whether there is no route for WebSockets.
    pub(super) fn has_no_upgrades(&self) -> bool {
        self.upgrades.is_empty()
    }

    /// Whether a path is for WebSockets.
    pub(super) fn has_upgrade(&self, path: &str) -> bool {
        self.upgrades.iter().any(|route| route.pattern.matches(path))
    }

    /// Whether there is a route for a path, of either sort.
    pub(super) fn has(&self, path: &str) -> bool {
        self.has_upgrade(path) || self.plain.iter().any(|plain| plain.pattern.matches(path))
    }

    /// Answers a plain request, if there is a route for it. A panic is answered with 500.
    pub(super) fn answer(&self, request: &Request<'_>) -> Option<Response> {
        let plain = self.plain.iter().find(|plain| plain.pattern.matches(request.path))?;
        let asked = PlainRequest { request, pattern: &plain.pattern };
        let answered = catch_unwind(AssertUnwindSafe(|| (plain.answer)(&asked)));
        Some(answered.unwrap_or_else(|panic| {
            log_panic(panic);
            Response::internal_error()
        }))
    }
}

/// A path with parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Pattern(Vec<Segment>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Segment {
    Literal(String),
    Parameter(String),
    Rest(String),
}

impl Pattern {
    fn new(pattern: &str) -> Pattern {
        let inside = |text: &str| -> Option<String> {
            text.strip_prefix('{').and_then(|text| text.strip_suffix('}')).map(str::to_owned)
        };
        let segment = |text: &str| match inside(text) {
            Some(name) => match name.strip_prefix('*') {
                Some(name) => Segment::Rest(name.to_owned()),
                None => Segment::Parameter(name),
            },
            None => Segment::Literal(text.to_owned()),
        };
        Pattern(pattern.trim_start_matches('/').split('/').map(segment).collect())
    }

    fn matches(&self, path: &str) -> bool {
        self.walk(path, |_, _| {})
    }

    fn param(&self, path: &str, wanted: &str) -> Option<String> {
        let mut found = None;
        self.walk(path, |name, value| {
            if name == wanted {
                found = percent_decode_path(value);
            }
        });
        found
    }

    /// Matches a path against the pattern, and passes each parameter to `parameter`.
    fn walk<'a>(&self, path: &'a str, mut parameter: impl FnMut(&str, &'a str)) -> bool {
        let Some(mut rest) = path.strip_prefix('/') else { return false };
        let last = self.0.len().saturating_sub(1);
        for (index, segment) in self.0.iter().enumerate() {
            if let Segment::Rest(name) = segment {
                parameter(name, rest);
                return true;
            }
            let (here, behind) = match rest.split_once('/') {
                Some((here, behind)) => (here, Some(behind)),
                None => (rest, None),
            };
            match segment {
                Segment::Literal(text) if text == here => {}
                Segment::Parameter(name) if !here.is_empty() => parameter(name, here),
                _ => return false,
            }
            match behind {
                Some(_) if index == last => return false,
                None if index != last => return false,
                behind => rest = behind.unwrap_or_default(),
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_fit_paths_segment_by_segment() {
        for (pattern, path, fits) in [
            ("/a", "/a", true),
            ("/a", "/a/", false),
            ("/a/", "/a/", true),
            ("/a", "/A", false),
            ("/", "/", true),
            ("/", "/a", false),
            ("/a/{x}", "/a/b", true),
            ("/a/{x}", "/a/", false),
            ("/a/{x}", "/a", false),
            ("/a/{x}", "/a/b/c", false),
            ("/a/{x}/c", "/a/b/c", true),
            ("/a/{*x}", "/a/", true),
            ("/a/{*x}", "/a/b/c", true),
            ("/a/{*x}", "/a", false),
            ("/{*x}", "/", true),
            ("/a", "*", false),
        ] {
            assert_eq!(Pattern::new(pattern).matches(path), fits, "{pattern} and {path}");
        }
    }

    #[test]
    fn parameters_are_percent_decoded() {
        let pattern = Pattern::new("/a/{x}/{*rest}");
        assert_eq!(pattern.param("/a/b%20c/d/e", "x").as_deref(), Some("b c"));
        assert_eq!(pattern.param("/a/b%20c/d/e", "rest").as_deref(), Some("d/e"));
        assert_eq!(pattern.param("/a/b/d", "y"), None);
        assert_eq!(pattern.param("/a/%ff/d", "x"), None, "what is not UTF-8 is no text");
    }
}
