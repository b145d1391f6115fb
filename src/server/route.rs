//! Routes of a program's own: which paths have a [`Handler`](super::Handler), who may open them, and what plain requests
//! are answered.

use std::fmt;
use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::handler::Handler;
use super::response::Response;
use super::seats::{Taste, log_panic};
use crate::connection::Kind;
use crate::protocol::handshake::{
    BadField, OriginPolicy, Request, SubprotocolPreference, Upgrade, check_field, percent_decode_path,
};
use crate::shard::Extras;

/// Makes the handler of a connection, or says why there is none.
type Make = dyn Fn(&mut Opening<'_>) -> Result<Box<dyn Handler>, Response> + Send + Sync;

/// A path for WebSockets, with its handlers and its policy.
///
/// ```
/// use echoring::protocol::handshake::OriginPolicy;
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
    kind: Option<Kind>,
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
    /// A route for the paths of `pattern`. `make` is called with each request that asks for a WebSocket and keeps the
    /// route's policy; a response that it returns instead of a handler refuses the request, with whatever status it
    /// has.
    ///
    /// A pattern is compared with the path as it was sent. In it `{name}` is one segment that is not empty, and `{*name}` at the end all
    /// that is left; both are had from [`Opening::param`].
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

    /// The subprotocols that are spoken here, best first (RFC 6455, 1.9). One that the client offers is named to it; a
    /// client that offers none of them is taken without. Without this the server's own subprotocols hold.
    #[must_use]
    pub fn subprotocols<S: Into<String>>(mut self, names: impl IntoIterator<Item = S>) -> Route {
        self.subprotocols = names.into_iter().map(Into::into).collect();
        self
    }

    /// The same, but the route is for clients that offer one of them: for others the next route of the same path is
    /// looked for. So the subprotocol chooses the handler.
    #[must_use]
    pub fn only_subprotocols<S: Into<String>>(self, names: impl IntoIterator<Item = S>) -> Route {
        Route { subprotocol_required: true, ..self.subprotocols(names) }
    }

    /// Which pages may connect, instead of what holds for the server.
    #[must_use]
    pub fn origins(mut self, origins: OriginPolicy) -> Route {
        self.origins = Some(origins);
        self
    }

    /// A field of the 101. One that the handshake writes itself, or that is malformed, is left out, with a line in the
    /// log.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Route {
        match check_field(name, value) {
            Ok(()) => self.fields.push((name.to_owned(), value.to_owned())),
            Err(why) => tracing::error!(name, %why, "a route's field is left out"),
        }
        self
    }

    /// Binary messages close the connection with 1003.
    #[must_use]
    pub fn text_only(mut self) -> Route {
        self.kind = Some(Kind::Text);
        self
    }

    /// Text messages close the connection with 1003.
    #[must_use]
    pub fn binary_only(mut self) -> Route {
        self.kind = Some(Kind::Binary);
        self
    }

    /// Bytes of a message here, at most; longer ones close the connection with 1009. Only a value below the server's
    /// own limit, which is judged earlier, has a meaning.
    #[must_use]
    pub fn message_bytes_max(mut self, bytes: u64) -> Route {
        self.message_bytes_max = bytes;
        self
    }

    pub(super) fn taste(&self) -> Taste {
        Taste { kind: self.kind, message_bytes_max: self.message_bytes_max }
    }

    /// Whether a page of this origin may connect, `default` being the server's rule.
    pub(super) fn allows(&self, upgrade: &Upgrade<'_>, default: &OriginPolicy) -> bool {
        self.origins.as_ref().unwrap_or(default).allows(upgrade.host, upgrade.origin)
    }

    /// Asks for a handler. A panic is a 500.
    pub(super) fn make(&self, opening: &mut Opening<'_>) -> Result<Box<dyn Handler>, Response> {
        catch_unwind(AssertUnwindSafe(|| (self.make)(opening))).unwrap_or_else(|panic| {
            log_panic(panic);
            Err(Response::internal_error())
        })
    }

    /// The request as this route sees it, with the headers of the route.
    pub(super) fn opening<'a>(
        &'a self,
        request: &'a Request<'a>,
        upgrade: &'a Upgrade<'a>,
        defaults: Subprotocols<'_>,
    ) -> Opening<'a> {
        let subprotocol = if self.subprotocols.is_empty() {
            upgrade.subprotocol(defaults.names, defaults.preference).map(str::to_owned)
        } else {
            self.chosen(upgrade, defaults.preference)
        };
        Opening { request, upgrade, pattern: &self.pattern, subprotocol, fields: self.fields.clone() }
    }

    fn chosen(&self, upgrade: &Upgrade<'_>, preference: SubprotocolPreference) -> Option<String> {
        let names: Vec<&str> = self.subprotocols.iter().map(String::as_str).collect();
        upgrade.subprotocol(&names, preference).map(str::to_owned)
    }

    /// Where the subprotocol that this route asks for stands in the client's list; `None` when the route is not for
    /// this client.
    fn rank(&self, upgrade: &Upgrade<'_>) -> Option<usize> {
        if !self.subprotocol_required {
            return Some(usize::MAX);
        }
        upgrade.subprotocols().position(|offered| self.subprotocols.iter().any(|own| own == offered))
    }
}

/// What the server says on subprotocols where a route says nothing.
#[derive(Clone, Copy, Debug)]
pub(super) struct Subprotocols<'a> {
    pub(super) names: &'a [&'static str],
    pub(super) preference: SubprotocolPreference,
}

/// A request for a WebSocket, shown to a route before it is answered. It is also the [`Request`] itself.
#[derive(Debug)]
pub struct Opening<'a> {
    request: &'a Request<'a>,
    upgrade: &'a Upgrade<'a>,
    pattern: &'a Pattern,
    subprotocol: Option<String>,
    fields: Vec<(String, String)>,
}

impl<'a> Deref for Opening<'a> {
    type Target = Request<'a>;

    fn deref(&self) -> &Request<'a> {
        self.request
    }
}

impl<'a> Opening<'a> {
    /// What `{name}` or `{*name}` of the route's pattern is in this path, percent-decoded.
    pub fn param(&self, name: &str) -> Option<String> {
        self.pattern.param(self.request.path, name)
    }

    /// The upgrade: its origin, and the subprotocols and extensions that it offers.
    pub fn upgrade(&self) -> &Upgrade<'a> {
        self.upgrade
    }

    /// The subprotocol that the 101 will name.
    pub fn subprotocol(&self) -> Option<&str> {
        self.subprotocol.as_deref()
    }

    /// Names another subprotocol, or none. False, and nothing changed, when the client does not offer it
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
    /// When the handshake writes it itself, or when it is malformed.
    pub fn add_header(&mut self, name: &str, value: &str) -> Result<(), BadField> {
        check_field(name, value)?;
        self.fields.push((name.to_owned(), value.to_owned()));
        Ok(())
    }

    pub(super) fn into_extras(self) -> Extras {
        Extras { subprotocol: self.subprotocol, fields: self.fields }
    }
}

/// A plain request, shown to a route that answers it. It is also the [`Request`] itself.
#[derive(Debug)]
pub struct Asked<'a> {
    request: &'a Request<'a>,
    pattern: &'a Pattern,
}

impl<'a> Deref for Asked<'a> {
    type Target = Request<'a>;

    fn deref(&self) -> &Request<'a> {
        self.request
    }
}

impl Asked<'_> {
    /// What `{name}` or `{*name}` of the route's pattern is in this path, percent-decoded.
    pub fn param(&self, name: &str) -> Option<String> {
        self.pattern.param(self.request.path, name)
    }
}

/// Answers a plain request.
type Answer = dyn Fn(&Asked<'_>) -> Response + Send + Sync;

#[derive(Clone)]
struct Plain {
    pattern: Pattern,
    answer: Arc<Answer>,
}

/// All routes of a server. Cloning shares them.
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
    /// Adds a route. The first whose pattern and subprotocols fit is taken.
    pub fn add(&mut self, route: Route) {
        self.upgrades.push(Arc::new(route));
    }

    /// Adds an answer to GET and HEAD requests that ask for no WebSocket.
    pub fn add_get(
        &mut self,
        pattern: &str,
        answer: impl Fn(&Asked<'_>) -> Response + Send + Sync + 'static,
    ) {
        self.plain.push(Plain { pattern: Pattern::new(pattern), answer: Arc::new(answer) });
    }

    /// Adds all of `others`, behind those that are there.
    pub fn extend(&mut self, others: Routes) {
        self.upgrades.extend(others.upgrades);
        self.plain.extend(others.plain);
    }

    /// The route for an upgrade. Where only the subprotocol tells routes of a path apart, `preference` says whether
    /// the order of the routes or that of the client's offer decides.
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

    /// Answers a plain request, if there is a route for it. A panic is a 500.
    pub(super) fn answer(&self, request: &Request<'_>) -> Option<Response> {
        let plain = self.plain.iter().find(|plain| plain.pattern.matches(request.path))?;
        let asked = Asked { request, pattern: &plain.pattern };
        let answered = catch_unwind(AssertUnwindSafe(|| (plain.answer)(&asked)));
        Some(answered.unwrap_or_else(|panic| {
            log_panic(panic);
            Response::internal_error()
        }))
    }
}

/// A path with places to be filled in.
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

    /// Lays the pattern beside a path. False when they do not fit.
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
