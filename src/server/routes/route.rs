//! The routes of a program: paths with a [`Handler`](crate::Handler) and their policy, and answers to plain requests.

use std::any::TypeId;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::handlers::backend::BackendHandler;
use crate::handlers::handler::Handler;
use crate::handlers::message::MessageFilter;
use crate::handlers::migrate::{Migrate, Migration};
use crate::handlers::panics::caught;
use crate::routes::factory::{AnswerRequest, MakeHandler};
use crate::routes::middleware::{self, Check, Observe};
use crate::routes::pattern::Pattern;
use crate::routes::request_context::{Opening, RequestContext};
use crate::routes::response::Response;
use crate::routes::states::{MissingState, Requirements, ShardStates, States};
use echoring_auth::Backend;
use echoring_proto::connection::{MessageKind, MessageProgress, nanos};
use echoring_proto::handshake::{OriginPolicy, Request, SubprotocolPreference, Upgrade, check_field};
use echoring_runtime::shard::RouteTimes;

/// Makes the handler of a connection, or refuses the request.
type Make = dyn Fn(&mut Opening<'_>) -> Result<Box<dyn Handler>, Response> + Send + Sync;

/// A path for WebSockets, with its handlers and its policy.
///
/// ```
/// use echoring::OriginPolicy;
/// use echoring::server::{Disposition, Handler, Message, Path, Remote, Response, Result, Route};
///
/// struct Room {
///     name: String,
/// }
///
/// impl Handler for Room {
///     fn message(&mut self, remote: &mut Remote<'_>, message: Message<'_>) -> Result<Disposition> {
///         remote.send_text(&format!("{} bytes in {}", message.len(), self.name))?;
///         Ok(Disposition::Done)
///     }
/// }
///
/// let route = Route::new("/rooms/{name}", |Path(name): Path<String>| {
///     if name == "attic" { Err(Response::text(404, "no such room\n")) } else { Ok(Room { name }) }
/// })
/// .allow_origin(OriginPolicy::List(vec!["https://app.example".to_owned()]))
/// .text_only();
/// ```
#[derive(Clone)]
pub struct Route {
    pattern: Pattern,
    make: Arc<Make>,
    /// The type of its handlers.
    handler: TypeId,
    requirements: Requirements,
    before: Vec<Arc<Check>>,
    subprotocols: Vec<String>,
    subprotocol_required: bool,
    origins: Option<OriginPolicy>,
    fields: Vec<(String, String)>,
    kind: Option<MessageKind>,
    max_message: u64,
    times: RouteTimes,
    migration: Option<Migration>,
    /// The service that decides about its connections.
    backend: Option<Arc<Backend>>,
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
    /// returns the handler, or `Result<H, Response>` with a response that refuses the request.
    ///
    /// Its arguments are [extractors](crate::FromRequest): typed values of the request. The first one may be
    /// `opening: &mut Opening<'_>`, which has the whole request, selects the subprotocol and adds fields to the 101. A closure
    /// must name the types of its arguments.
    ///
    /// A pattern is matched against the path as it was sent. `{name}` matches one segment that is not empty, and `{*name}` at
    /// the end matches the rest of the path; [`Path`](crate::Path) and [`RequestContext::param`] return their values.
    ///
    /// ```
    /// use echoring::server::{Handler, Opening, Path, Query, Response, Route};
    ///
    /// #[derive(serde::Deserialize)]
    /// struct Who {
    ///     nickname: String,
    /// }
    ///
    /// # #[allow(dead_code)]
    /// struct Member(u32, String);
    ///
    /// impl Handler for Member {}
    ///
    /// let rooms = Route::new("/rooms/{room}", |Path(room): Path<u32>, Query(who): Query<Who>| Member(room, who.nickname));
    ///
    /// let versions = Route::new("/chat", |opening: &mut Opening<'_>, Query(who): Query<Who>| {
    ///     if !opening.choose_subprotocol(Some("chat.v2")) {
    ///         return Err(Response::text(400, "offer chat.v2\n"));
    ///     }
    ///     Ok(Member(0, who.nickname))
    /// });
    /// ```
    pub fn new<A, F>(pattern: &str, make: F) -> Route
    where
        F: MakeHandler<A> + Send + Sync + 'static,
    {
        let mut requirements = Requirements::default();
        make.requires(&mut requirements);
        Route {
            pattern: Pattern::new(pattern),
            handler: make.handler(),
            make: Arc::new(move |opening: &mut Opening<'_>| make.make_handler(opening)),
            requirements,
            before: Vec::new(),
            subprotocols: Vec::new(),
            subprotocol_required: false,
            origins: None,
            fields: Vec::new(),
            kind: None,
            max_message: u64::MAX,
            times: RouteTimes::default(),
            migration: None,
            backend: None,
        }
    }

    /// A route whose connections are those of a back end.
    pub(crate) fn of_backend(backend: Arc<Backend>) -> Route {
        let route = Route::new(&backend.settings().path, BackendHandler::of).migrates::<BackendHandler>();
        Route { backend: Some(backend), ..route }
    }

    pub(crate) fn backend(&self) -> Option<&Arc<Backend>> {
        self.backend.as_ref()
    }

    /// Calls `check` before the handler is made, behind the functions of [`Builder::before`](crate::Builder::before) and the
    /// previous ones of this route. It may refuse the request, add fields to the 101, and attach values for the extractor
    /// [`Extension`](crate::Extension).
    #[must_use]
    pub fn before(
        mut self,
        check: impl Fn(&mut RequestContext<'_>) -> Result<(), Response> + Send + Sync + 'static,
    ) -> Route {
        self.before.push(Arc::new(check));
        self
    }

    /// The subprotocols of the route, preferred first (RFC 6455, 1.9). A client that offers none of them is accepted without
    /// one. By default the route has the subprotocols of the server.
    #[must_use]
    pub fn subprotocol<S: Into<String>>(mut self, names: impl IntoIterator<Item = S>) -> Route {
        self.subprotocols = names.into_iter().map(Into::into).collect();
        self
    }

    /// Restricts the route to clients that offer one of these subprotocols. Other clients get the next route of the same path,
    /// so the subprotocol selects the handler.
    #[must_use]
    pub fn only_subprotocols<S: Into<String>>(self, names: impl IntoIterator<Item = S>) -> Route {
        Route { subprotocol_required: true, ..self.subprotocol(names) }
    }

    /// The origins that may connect, instead of those of the server.
    #[must_use]
    pub fn allow_origin(mut self, origins: OriginPolicy) -> Route {
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
    pub fn max_message(mut self, bytes: u64) -> Route {
        self.max_message = bytes;
        self
    }

    /// The least progress of a message that has begun, instead of that of the server, see
    /// [`Builder::message_progress`](crate::Builder::message_progress). At most 255 routes may have times of their own.
    #[must_use]
    pub fn message_progress(mut self, bytes: u32, time: Duration) -> Route {
        self.times.message_progress = Some(MessageProgress::new(bytes, time));
        self
    }

    /// The pings of the route's connections, instead of those of the server, see [`Builder::pings`](crate::Builder::pings).
    #[must_use]
    pub fn pings(mut self, interval: Duration, timeout: Duration) -> Route {
        (self.times.ping_interval, self.times.pong_timeout) = (Some(nanos(interval)), Some(nanos(timeout)));
        self
    }

    /// The longest time without a message, instead of that of the server, see
    /// [`Builder::idle_timeout`](crate::Builder::idle_timeout).
    #[must_use]
    pub fn idle_timeout(mut self, time: Duration) -> Route {
        self.times.idle_timeout = Some(nanos(time));
        self
    }

    /// The longest life of a connection, instead of that of the server, see [`Builder::max_lifetime`](crate::Builder::max_lifetime).
    #[must_use]
    pub fn max_lifetime(mut self, time: Duration) -> Route {
        self.times.max_lifetime = Some(nanos(time));
        self
    }

    /// The handlers of the route are of this type, whose connections move: see [`Migrate`]. A server with a route whose function makes others
    /// does not start.
    ///
    /// A connection goes on with the route of the same pattern, and of the same [`only_subprotocols`](Route::only_subprotocols). If the new
    /// process has none that migrates, the connection is closed with 1012.
    #[must_use]
    pub fn migrates<H: Migrate + 'static>(mut self) -> Route {
        H::requires(&mut self.requirements);
        self.migration = Some(Migration::of::<H>());
        self
    }

    /// How its handlers move, if they do.
    pub(crate) fn migration(&self) -> Option<&Migration> {
        self.migration.as_ref()
    }

    /// What distinguishes it from the other routes of a server.
    pub(crate) fn name(&self) -> String {
        let subprotocols = if self.subprotocol_required { &self.subprotocols[..] } else { &[] };
        subprotocols.iter().fold(self.pattern.to_string(), |name, subprotocol| name + " " + subprotocol)
    }

    /// Its name and times, if it sets any.
    pub(crate) fn times(&self) -> Option<(Arc<str>, RouteTimes)> {
        (self.times != RouteTimes::default()).then(|| (self.name().into(), self.times))
    }

    pub(crate) fn filter(&self) -> MessageFilter {
        MessageFilter { kind: self.kind, max_message: self.max_message }
    }

    /// Whether the origin of a request may connect; `default` is the policy of the server.
    pub(crate) fn allows(&self, upgrade: &Upgrade<'_>, default: &OriginPolicy) -> bool {
        self.origins.as_ref().unwrap_or(default).allows(upgrade.host, upgrade.origin)
    }

    /// Makes a handler, behind the checks of the server and of the route. A panic is answered with 500.
    pub(crate) fn make(
        &self,
        opening: &mut Opening<'_>,
        before: &[Arc<Check>],
    ) -> Result<Box<dyn Handler>, Response> {
        middleware::check(before, opening)?;
        middleware::check(&self.before, opening)?;
        caught(|| (self.make)(opening)).unwrap_or_else(|| Err(Response::internal_error()))
    }

    /// The request for this route, with the fields of the route.
    pub(crate) fn opening<'a>(
        &'a self,
        context: RequestContext<'a>,
        upgrade: &'a Upgrade<'a>,
        defaults: Subprotocols<'_>,
    ) -> Opening<'a> {
        let subprotocol = if self.subprotocols.is_empty() {
            upgrade.subprotocol(defaults.names, defaults.preference).map(str::to_owned)
        } else {
            let names: Vec<&str> = self.subprotocols.iter().map(String::as_str).collect();
            upgrade.subprotocol(&names, defaults.preference).map(str::to_owned)
        };
        let context = RequestContext { pattern: Some(&self.pattern), fields: self.fields.clone(), ..context };
        Opening { context, upgrade, subprotocol, route: self.times().map(|(name, _)| name) }
    }

    /// Whether it comes before `later` for all requests of that one.
    fn takes_all_of(&self, later: &Route, preference: SubprotocolPreference) -> bool {
        let takes_clients = match (self.subprotocol_required, later.subprotocol_required) {
            (false, false) => true,
            // A client's offer prefers the route that names a subprotocol.
            (false, true) => preference == SubprotocolPreference::Server,
            (true, false) => false,
            (true, true) => later.subprotocols.iter().all(|name| self.subprotocols.contains(name)),
        };
        takes_clients && self.pattern.covers(&later.pattern)
    }

    /// The position of the route's subprotocol in the client's offer; `None` if the route is not for this client.
    fn rank(&self, upgrade: &Upgrade<'_>) -> Option<usize> {
        if !self.subprotocol_required {
            return Some(usize::MAX);
        }
        upgrade.subprotocols().position(|offered| self.subprotocols.iter().any(|own| own == offered))
    }
}

/// A route behind another one with the same paths, or more.
fn behind(pattern: &Pattern, earlier: &Pattern) -> String {
    format!("{pattern}: {earlier} is before it and takes all its requests")
}

/// The subprotocols of routes without their own.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Subprotocols<'a> {
    pub(crate) names: &'a [&'static str],
    pub(crate) preference: SubprotocolPreference,
}

/// Answers a plain request.
type Answer = dyn Fn(&RequestContext<'_>) -> Response + Send + Sync;

#[derive(Clone)]
struct Plain {
    pattern: Pattern,
    answer: Arc<Answer>,
    requirements: Requirements,
}

/// All routes of a server, with the state that they share and the functions that are called before and after them. Cloning
/// shares them.
///
/// ```
/// use echoring_server::{Handler, Response, Route, Routes, ServerConfig};
///
/// struct Chat;
///
/// impl Handler for Chat {}
///
/// let mut routes = Routes::default();
/// routes.add(Route::new("/chat", || Chat));
/// routes.add_get("/hello", || Response::text(200, "hello\n"));
/// let config = ServerConfig { routes, ..ServerConfig::default() };
/// # drop(config);
/// ```
#[derive(Clone, Default)]
pub struct Routes {
    pub(crate) upgrades: Vec<Arc<Route>>,
    plain: Vec<Plain>,
    pub(crate) states: States,
    pub(crate) before: Vec<Arc<Check>>,
    pub(crate) after: Vec<Arc<Observe>>,
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

    /// Answers plain GET and HEAD requests, see [`Builder::get`](crate::Builder::get).
    pub fn add_get<A>(&mut self, pattern: &str, answer: impl AnswerRequest<A> + Send + Sync + 'static) {
        let mut requirements = Requirements::default();
        answer.requires(&mut requirements);
        self.plain.push(Plain {
            pattern: Pattern::new(pattern),
            answer: Arc::new(move |request: &RequestContext<'_>| answer.answer(request)),
            requirements,
        });
    }

    /// Sets the state of a type, see [`Builder::state`](crate::Builder::state).
    pub fn add_state<T: Clone + Send + Sync + 'static>(&mut self, state: T) {
        self.states.insert(state);
    }

    /// Sets how shards make their state of a type, see [`Builder::shard_state`](crate::Builder::shard_state).
    pub fn add_shard_state<T: Clone + 'static>(&mut self, make: impl Fn() -> T + Send + Sync + 'static) {
        self.states.insert_for_shards(make);
    }

    /// Calls a function before all routes, see [`Builder::before`](crate::Builder::before).
    pub fn add_before(
        &mut self,
        check: impl Fn(&mut RequestContext<'_>) -> Result<(), Response> + Send + Sync + 'static,
    ) {
        self.before.push(Arc::new(check));
    }

    /// Calls a function with each outcome, see [`Builder::after`](crate::Builder::after).
    pub fn add_after(
        &mut self,
        observe: impl Fn(&RequestContext<'_>, Result<(), &Response>) + Send + Sync + 'static,
    ) {
        self.after.push(Arc::new(observe));
    }

    /// Adds all routes and functions of `others` behind the present ones, and their state.
    pub fn extend(&mut self, others: Routes) {
        self.upgrades.extend(others.upgrades);
        self.plain.extend(others.plain);
        self.states.extend(others.states);
        self.before.extend(others.before);
        self.after.extend(others.after);
    }

    /// The times that routes set, with their names.
    pub(crate) fn times(&self) -> impl Iterator<Item = (Arc<str>, RouteTimes)> {
        self.upgrades.iter().filter_map(|route| route.times())
    }

    /// A state that a route needs and that is missing, with the path of the route.
    pub(crate) fn missing_state(&self) -> Option<(String, MissingState)> {
        let upgrades = self.upgrades.iter().map(|route| (&route.pattern, &route.requirements));
        let plain = self.plain.iter().map(|plain| (&plain.pattern, &plain.requirements));
        upgrades
            .chain(plain)
            .find_map(|(pattern, required)| Some((pattern.to_string(), self.states.missing(required)?)))
    }

    /// A route that can never be used, and why: its pattern is wrong, or another that comes before it takes all its requests.
    pub(crate) fn unusable(&self, preference: SubprotocolPreference) -> Option<String> {
        let upgrades = self.upgrades.iter().map(|route| &route.pattern);
        let wrong = upgrades.chain(self.plain.iter().map(|plain| &plain.pattern)).find_map(Pattern::flaw);
        let moves_others =
            |route: &&Arc<Route>| route.migration.is_some_and(|migration| migration.handler != route.handler);
        let of_others = || {
            let route = self.upgrades.iter().find(moves_others)?;
            Some(format!("{}: its handlers are not of the type that migrates", route.pattern))
        };
        let is_never_used = |at: usize| {
            let route = &self.upgrades[at];
            let earlier =
                self.upgrades[..at].iter().find(|earlier| earlier.takes_all_of(route, preference))?;
            Some(behind(&route.pattern, &earlier.pattern))
        };
        let is_never_answered = |at: usize| {
            let pattern = &self.plain[at].pattern;
            let earlier = self.plain[..at].iter().find(|earlier| earlier.pattern.covers(pattern))?;
            Some(behind(pattern, &earlier.pattern))
        };
        wrong
            .or_else(of_others)
            .or_else(|| (1..self.upgrades.len()).find_map(is_never_used))
            .or_else(|| (1..self.plain.len()).find_map(is_never_answered))
    }

    /// The route for an upgrade. If several match by their subprotocols, `preference` selects by the order of the routes or
    /// of the client's offer.
    pub(crate) fn find(
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

    /// The route of this name, if its handlers move.
    pub(crate) fn find_migrating(&self, name: &str) -> Option<Arc<Route>> {
        self.upgrades.iter().find(|route| route.migration.is_some() && route.name() == name).cloned()
    }

    /// Whether a path is for WebSockets.
    pub(crate) fn has_upgrade(&self, path: &str) -> bool {
        self.upgrades.iter().any(|route| route.pattern.matches(path))
    }

    /// Whether there is a route for a path, of either sort.
    pub(crate) fn has(&self, path: &str) -> bool {
        self.has_upgrade(path) || self.plain.iter().any(|plain| plain.pattern.matches(path))
    }

    /// Answers a plain request, if there is a route for it. A panic is answered with 500.
    pub(crate) fn answer(&self, request: &Request<'_>, states: &ShardStates) -> Option<Response> {
        let plain = self.plain.iter().find(|plain| plain.pattern.matches(request.path))?;
        let context =
            RequestContext { pattern: Some(&plain.pattern), ..RequestContext::new(request, states) };
        Some(caught(|| (plain.answer)(&context)).unwrap_or_else(Response::internal_error))
    }
}
