//! The application's HTTP hooks for connects, calls, publications and subscriptions of clients, in the form of
//! Centrifugo's proxies.
//!
//! One thread sends the requests. Calls are bounded in number and in bytes, and every call is answered, within the timeout.

mod hook_set;
mod wire;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::rc::Rc;
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use bytes::{Buf as _, BufMut as _};

use echoring_proto::handshake::Request;
use echoring_topics::Pattern;
use hyper::header::{HeaderName, HeaderValue};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{AcquireError, Semaphore, mpsc};
use tokio::task::LocalSet;
use tokio::time::timeout;

use self::hook_set::{HookSet, set_for};
use crate::error::LoadError;
use crate::http::http_client::HttpClient;
use crate::http::load::{Counted, Full, Load};
use crate::identity::Identity;
use crate::identity::app_data::AppData;
use crate::identity::info::Info;
use crate::identity::server_subscriptions::ServerSubscriptions;
use crate::limits::{
    APP_ANSWER_BYTES_MAX, APP_CALLS_BYTES_MAX, APP_CALLS_MAX, APP_CONNECT_REQUESTS_MAX,
    APP_CONNECTS_BYTES_MAX, APP_CONNECTS_MAX, APP_FIELDS_MAX, APP_NAMED_MAX, APP_REQUESTS_MAX,
    APP_REQUESTS_PER_CLIENT_MAX, APP_TIMEOUT_DEFAULT, EMULATED_FIELDS_BYTES_MAX,
};

pub use self::hook_set::hooks_id;

/// The subject of a question to an application.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppEvent {
    /// A client calls it.
    Rpc,
    /// A client publishes.
    Publish,
    /// A client subscribes.
    Subscribe,
    /// A session begins without a token.
    Connect,
    /// The time until which it has let a client in is nearly over.
    Refresh,
    /// The same of a subscription.
    SubRefresh,
}

/// The number of events.
const EVENTS: usize = 6;

/// Where the hooks are.
#[derive(Clone, PartialEq, Eq)]
pub struct AppSettings {
    /// The URL for calls and messages of clients.
    pub rpc: Option<String>,
    /// The URL for publications of clients.
    pub publish: Option<String>,
    /// The URL for subscriptions of clients.
    pub subscribe: Option<String>,
    /// The URL for sessions that begin without a token.
    pub connect: Option<String>,
    /// The URL for clients that are let in until a time.
    pub refresh: Option<String>,
    /// The URL for subscriptions that are allowed until a time.
    pub sub_refresh: Option<String>,
    /// Maximum time for an answer.
    pub timeout: Duration,
    /// Names of header fields of the handshake that are forwarded.
    pub headers: Vec<String>,
    /// Header fields of each request, which take precedence over forwarded ones.
    pub fixed: Vec<(String, String)>,
    /// Hooks that topics and methods of calls choose by their names.
    pub named: Vec<NamedHooks>,
}

/// Hooks with a name. They are asked in place of the others where they have a URL.
#[derive(Clone, PartialEq, Eq)]
pub struct NamedHooks {
    /// The name, by which topics choose them.
    pub name: String,
    /// Patterns of methods whose calls they get.
    pub rpc_methods: Vec<String>,
    /// The hooks. None of them is about connections, and none has further ones.
    pub hooks: AppSettings,
}

// Fixed header fields may be credentials.
impl fmt::Debug for AppSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AppSettings").finish_non_exhaustive()
    }
}

impl fmt::Debug for NamedHooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NamedHooks").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Default for AppSettings {
    fn default() -> AppSettings {
        AppSettings {
            rpc: None,
            publish: None,
            subscribe: None,
            connect: None,
            refresh: None,
            sub_refresh: None,
            timeout: APP_TIMEOUT_DEFAULT,
            headers: Vec::new(),
            fixed: Vec::new(),
            named: Vec::new(),
        }
    }
}

/// A request of a client about which the application is asked.
#[derive(Clone, PartialEq, Eq)]
pub struct Call {
    /// Its action.
    pub event: AppEvent,
    /// The named hooks that are asked; 0 for the others. See [`hooks_id`].
    pub hooks: u64,
    /// The id of the client.
    pub client: String,
    /// The encoding that the client speaks: `json` or `protobuf`.
    pub encoding: &'static str,
    /// The subject of its credentials; empty for none.
    pub user: Box<str>,
    /// The method that it calls, or the channel. `None` for a message that is no call.
    pub target: Option<Box<str>>,
    /// The payload; `None` for nothing.
    pub data: Option<AppData>,
    /// The client's program, of a session that begins.
    pub program: Option<ClientProgram>,
    /// Header fields of its handshake.
    pub forwarded: Option<Forwarded>,
}

// The data are the client's.
impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call").field("event", &self.event).finish_non_exhaustive()
    }
}

impl Call {
    fn bytes(&self) -> usize {
        let data = self.data.as_ref().map_or(0, |data| data.bytes().len());
        let program = self.program.as_ref().map_or(0, |program| program.name.len() + program.version.len());
        size_of::<Call>() + data + program + self.target.as_ref().map_or(0, |target| target.len())
    }
}

/// Information about a client's program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientProgram {
    /// Its name; may be empty.
    pub name: Box<str>,
    /// Its version; may be empty.
    pub version: Box<str>,
}

/// Header fields of a handshake.
#[derive(Clone, PartialEq, Eq)]
pub struct Forwarded(Arc<[(HeaderName, HeaderValue)]>);

// They have credentials in them.
impl fmt::Debug for Forwarded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Forwarded").field("fields", &self.0.len()).finish()
    }
}

impl Forwarded {
    /// Bytes of the copies.
    pub fn held_bytes(&self) -> usize {
        self.0.iter().map(|(name, value)| name.as_str().len() + value.len() + 96).sum()
    }

    /// Appends the fields to `out`, for the process or the shard at which their connection goes on.
    #[doc(hidden)]
    pub fn freeze(&self, out: &mut Vec<u8>) {
        out.put_u16_le(self.0.len() as u16);
        for (name, value) in self.0.iter() {
            for part in [name.as_str().as_bytes(), value.as_bytes()] {
                out.put_u32_le(part.len() as u32);
                out.put_slice(part);
            }
        }
    }

    /// The fields that `from` begins with, which is left with the bytes behind them. `None` if there are no such fields.
    #[doc(hidden)]
    pub fn thaw(from: &mut &[u8]) -> Option<Forwarded> {
        let count = from.try_get_u16_le().ok()?;
        let mut fields = Vec::new();
        for _ in 0..count {
            let mut part = || {
                let length = from.try_get_u32_le().ok()? as usize;
                from.split_off(..length)
            };
            fields.push((HeaderName::from_bytes(part()?).ok()?, HeaderValue::from_bytes(part()?).ok()?));
        }
        Some(Forwarded(fields.into()))
    }
}

/// Emulated header fields are no valid ones, or too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidFields;

/// The application's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AppAnswer {
    /// The application agrees, perhaps with data: the result of a call, the data to publish instead, or the data for a
    /// subscription.
    Agreed {
        /// The data.
        data: Option<AppData>,
        /// Data about the client of a subscription, for others to see.
        info: Info,
        /// When a subscription, or the client of a refresh, expires, in seconds since 1970; 0 if it does not.
        expire_at: u64,
    },
    /// The client, or the subscription, is not allowed any longer.
    Expired,
    /// It lets the client of a session that begins in.
    Connected(Box<AppConnected>),
    /// It refuses with an error for the client.
    Refused {
        /// From 400 to 1999, or a code of the protocol.
        code: u32,
        /// The description.
        message: String,
        /// Whether the client may try again.
        temporary: bool,
    },
    /// The connection must be closed.
    Disconnect {
        /// From 3000 to 4999.
        code: u16,
        /// At most 123 bytes.
        reason: String,
    },
    /// There is none.
    Failed(Failed),
}

/// The application's answer about a session that begins.
#[derive(Clone, PartialEq, Eq)]
pub struct AppConnected {
    /// The client; `None` for one without a name.
    pub identity: Option<Arc<Identity>>,
    /// The subscriptions that the server makes for it.
    pub subscriptions: ServerSubscriptions,
    /// Data for the client.
    pub data: Option<AppData>,
    /// Data about the client, for others to see.
    pub info: Info,
}

// The data are the application's.
impl fmt::Debug for AppConnected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AppConnected").field("identity", &self.identity).finish_non_exhaustive()
    }
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failed {
    /// Too many calls wait.
    Busy,
    /// The call has more bytes than may wait.
    TooLarge,
    /// The hook gave no usable answer in time.
    Unavailable,
}

/// The hooks. Shards share them.
pub struct App {
    sets: Arc<[HookSet]>,
    /// Names of all fields that some hooks get.
    headers: Box<[HeaderName]>,
    thread: OnceLock<mpsc::Sender<Waiting>>,
    calls: Arc<Load>,
    /// New sessions have places of their own: existing sessions do not keep them out.
    connects: Arc<Load>,
}

impl fmt::Debug for App {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("App").field("sets", &self.sets.len()).finish_non_exhaustive()
    }
}

type Answered = Box<dyn FnOnce(Call, AppAnswer) + Send>;

/// A call that waits. One that is dropped is answered, too.
struct Waiting {
    call: Option<(Call, Answered)>,
    _counted: Counted,
}

impl Waiting {
    fn give(&mut self, answer: AppAnswer) {
        if let Some((call, answered)) = self.call.take() {
            answered(call, answer);
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.give(AppAnswer::Failed(Failed::Unavailable));
    }
}

impl App {
    /// Checks the URLs and names. Starts nothing and sends nothing.
    ///
    /// # Errors
    /// If one of them cannot be used.
    pub fn load(settings: &AppSettings) -> Result<App, LoadError> {
        let mut sets = vec![HookSet::load(settings)?];
        if settings.named.len() > APP_NAMED_MAX {
            return Err(LoadError::new("hooks_rpc", format!("at most {APP_NAMED_MAX} tables with names")));
        }
        for NamedHooks { name, rpc_methods, hooks } in &settings.named {
            let of_table =
                |error: LoadError| LoadError::new(error.setting, format!("in hooks.{name}: {error}"));
            let set = HookSet::load(hooks).map_err(of_table)?;
            let methods = rpc_methods.iter().map(|pattern| Pattern::new(pattern)).collect();
            sets.push(HookSet { id: hooks_id(name), methods, ..set });
        }
        let mut headers: Vec<HeaderName> = sets.iter().flat_map(|set| set.headers.iter().cloned()).collect();
        headers.sort_unstable_by(|one, other| one.as_str().cmp(other.as_str()));
        headers.dedup();
        Ok(App {
            sets: sets.into(),
            headers: headers.into(),
            thread: OnceLock::new(),
            calls: Load::of_at_most(APP_CALLS_MAX, APP_CALLS_BYTES_MAX),
            connects: Load::of_at_most(APP_CONNECTS_MAX, APP_CONNECTS_BYTES_MAX),
        })
    }

    /// Starts the thread, if it does not run yet. It ends with this value.
    ///
    /// # Errors
    /// If the thread cannot be started.
    pub fn start(&self) -> io::Result<()> {
        if self.thread.get().is_none() {
            let (sender, receiver) = mpsc::channel(APP_CALLS_MAX + APP_CONNECTS_MAX);
            let runtime = Builder::new_current_thread().enable_all().max_blocking_threads(1).build()?;
            let sets = Arc::clone(&self.sets);
            thread::Builder::new().name("hooks".to_owned()).spawn(move || run(&runtime, sets, receiver))?;
            // Only one thread starts it.
            let _ = self.thread.set(sender);
        }
        Ok(())
    }

    /// Whether the application is asked about an event, by the hooks with this [id](hooks_id).
    pub fn has(&self, event: AppEvent, hooks: u64) -> bool {
        set_for(&self.sets, event, hooks).is_some()
    }

    /// The id of the hooks that get the calls of a method.
    pub fn hooks_of_method(&self, method: &str) -> u64 {
        let fits = |set: &&HookSet| set.methods.iter().any(|pattern| pattern.fits(method));
        self.sets.iter().find(fits).map_or(0, |set| set.id)
    }

    /// The header fields of a handshake that calls forward; `None` if none are forwarded.
    pub fn forwarded(&self, request: &Request<'_>) -> Option<Forwarded> {
        let fields = request.fields().filter_map(|(name, value)| {
            let own = self.headers.iter().find(|own| own.as_str().eq_ignore_ascii_case(name))?;
            Some((own.clone(), HeaderValue::from_bytes(value).ok()?))
        });
        let fields: Vec<_> = fields.take(APP_FIELDS_MAX).collect();
        (!fields.is_empty()).then(|| Forwarded(fields.into()))
    }

    /// These fields, and those that a client emulates: fields of its handshake have precedence, as a proxy may have set them.
    ///
    /// # Errors
    /// If the emulated ones are too long, or no valid fields.
    pub fn emulated<'a>(
        &self,
        forwarded: Option<&Forwarded>,
        emulated: impl Iterator<Item = (&'a str, &'a str)>,
    ) -> Result<Option<Forwarded>, InvalidFields> {
        let mut fields = forwarded.map(|forwarded| forwarded.0.to_vec()).unwrap_or_default();
        let (before, mut bytes) = (fields.len(), 0);
        for (name, value) in emulated {
            let Some(own) = self.headers.iter().find(|own| own.as_str().eq_ignore_ascii_case(name)) else {
                continue;
            };
            if fields.iter().any(|(present, _)| present == own) {
                continue;
            }
            bytes += value.len();
            let value = HeaderValue::from_str(value).map_err(|_| InvalidFields)?;
            if bytes > EMULATED_FIELDS_BYTES_MAX || fields.len() >= APP_FIELDS_MAX {
                return Err(InvalidFields);
            }
            fields.push((own.clone(), value));
        }
        Ok(if fields.len() == before { forwarded.cloned() } else { Some(Forwarded(fields.into())) })
    }

    /// Asks the application. `answered` is called on the thread of the hooks, or on this one if the call is rejected,
    /// and receives the call.
    pub fn ask(&self, call: Call, answered: impl FnOnce(Call, AppAnswer) + Send + 'static) {
        let load = if call.event == AppEvent::Connect { &self.connects } else { &self.calls };
        let counted = match load.take(call.bytes()) {
            Ok(counted) => counted,
            Err(Full::Busy) => return answered(call, AppAnswer::Failed(Failed::Busy)),
            Err(Full::TooLarge) => return answered(call, AppAnswer::Failed(Failed::TooLarge)),
        };
        let waiting = Waiting { call: Some((call, Box::new(answered))), _counted: counted };
        // A call that is not taken is dropped, which answers it.
        if let Some(thread) = self.thread.get() {
            let _ = thread.try_send(waiting);
        }
    }
}

fn run(runtime: &Runtime, sets: Arc<[HookSet]>, calls: mpsc::Receiver<Waiting>) {
    let clients = |set: &HookSet| set.endpoints.clone().map(|endpoint| endpoint.map(HttpClient::new));
    let hooks = Rc::new(Hooks {
        clients: sets.iter().map(clients).collect(),
        sets,
        turns: Semaphore::new(APP_REQUESTS_MAX),
        connect_turns: Semaphore::new(APP_CONNECT_REQUESTS_MAX),
        shares: RefCell::default(),
    });
    LocalSet::new().block_on(runtime, answer_all(hooks, calls));
}

struct Hooks {
    sets: Arc<[HookSet]>,
    /// Those of each set.
    clients: Vec<[Option<HttpClient>; EVENTS]>,
    turns: Semaphore,
    connect_turns: Semaphore,
    /// The turns of each client that has calls.
    shares: RefCell<BTreeMap<Box<str>, Rc<Semaphore>>>,
}

/// The turns of clients: slow calls of one do not delay the others.
struct Share<'a> {
    hooks: &'a Hooks,
    client: Box<str>,
    turns: Rc<Semaphore>,
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        // Besides the map, only this one.
        if Rc::strong_count(&self.turns) == 2 {
            self.hooks.shares.borrow_mut().remove(&self.client);
        }
    }
}

async fn answer_all(hooks: Rc<Hooks>, mut calls: mpsc::Receiver<Waiting>) {
    while let Some(waiting) = calls.recv().await {
        let hooks = Rc::clone(&hooks);
        // Their number is bounded by what may wait.
        tokio::task::spawn_local(async move { hooks.answer(waiting).await });
    }
}

impl Hooks {
    async fn answer(&self, mut waiting: Waiting) {
        let Some((call, _)) = &waiting.call else { return };
        let index = set_for(&self.sets, call.event, call.hooks).unwrap_or_default();
        let time = self.sets[index].timeout;
        let answer = match timeout(time, self.post(call, index)).await {
            Ok(Ok(answer)) => answer,
            failed => {
                let problem = match failed {
                    Ok(Err(problem)) => problem,
                    _ => format!("no answer within {time:?}"),
                };
                tracing::warn!(event = ?call.event, problem, "an application hook did not answer");
                AppAnswer::Failed(Failed::Unavailable)
            }
        };
        waiting.give(answer);
    }

    /// The turns of a call's client: of its user, or of the connection of a client without a name.
    fn share_of(&self, call: &Call) -> Share<'_> {
        let client: Box<str> =
            if call.user.is_empty() { call.client.as_str().into() } else { call.user.clone() };
        let mut shares = self.shares.borrow_mut();
        let new = || Rc::new(Semaphore::new(APP_REQUESTS_PER_CLIENT_MAX));
        let turns = Rc::clone(shares.entry(client.clone()).or_insert_with(new));
        Share { hooks: self, client, turns }
    }

    async fn post(&self, call: &Call, index: usize) -> Result<AppAnswer, String> {
        let set = &self.sets[index];
        let client = self.clients[index][call.event as usize].as_ref().ok_or("it is not configured")?;
        let closed = |error: AcquireError| error.to_string();
        let is_connect = call.event == AppEvent::Connect;
        let share = (!is_connect).then(|| self.share_of(call));
        let _own = match &share {
            Some(share) => Some(share.turns.acquire().await.map_err(closed)?),
            None => None,
        };
        let turns = if is_connect { &self.connect_turns } else { &self.turns };
        let _turn = turns.acquire().await.map_err(closed)?;
        let (fields, body) = (set.fields(call.forwarded.as_ref()), wire::body(call));
        let (status, body) = client.post_with(&fields, body, APP_ANSWER_BYTES_MAX).await?;
        if status != 200 {
            return Err(format!("its status is {status}"));
        }
        wire::answer(call.event, &body).ok_or_else(|| "its answer is malformed".to_owned())
    }
}

#[cfg(test)]
mod forwarded_tests {
    use super::*;

    #[test]
    fn fields_are_read_as_they_were_written_and_no_part_of_them_is() {
        let field = |name: &'static str, value: &'static str| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        let forwarded = Forwarded([field("cookie", "session=1"), field("x-empty", "")].into());
        let mut bytes = Vec::new();
        forwarded.freeze(&mut bytes);
        for end in 0..bytes.len() {
            assert_eq!(Forwarded::thaw(&mut &bytes[..end]), None, "{end}");
        }
        bytes.push(b'x');
        let mut from = &bytes[..];
        assert_eq!(Forwarded::thaw(&mut from).as_ref(), Some(&forwarded));
        assert_eq!(from, b"x");
        assert_eq!(
            Forwarded::thaw(&mut &[1, 0, 1, 0, 0, 0, b' ', 0, 0, 0, 0][..]),
            None,
            "no name of a field"
        );
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader, Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};
    use std::sync::mpsc as std_mpsc;

    use super::*;

    /// Longer than anything here takes.
    const PATIENCE: Duration = Duration::from_secs(30);

    /// An application that answers all but calls of the method `stuck`.
    fn application() -> String {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}/", listener.local_addr().expect("an address"));
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                thread::spawn(move || serve(stream));
            }
        });
        url
    }

    fn serve(mut stream: TcpStream) -> Option<()> {
        let mut reader = BufReader::new(stream.try_clone().ok()?);
        loop {
            let (mut line, mut length) = (String::new(), 0);
            while line != "\r\n" {
                line.clear();
                if reader.read_line(&mut line).ok()? == 0 {
                    return None;
                }
                if let Some(value) = line.strip_prefix("content-length: ") {
                    length = value.trim_end().parse().expect("a number");
                }
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).ok()?;
            if !body.windows(7).any(|window| window == b"\"stuck\"") {
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 13\r\n\r\n{\"result\":{}}").ok()?;
            }
        }
    }

    fn started() -> App {
        let url = application();
        let settings = AppSettings {
            rpc: Some(url.clone()),
            connect: Some(url),
            timeout: PATIENCE,
            ..AppSettings::default()
        };
        let app = App::load(&settings).expect("URLs");
        app.start().expect("a thread");
        app
    }

    fn call(event: AppEvent, user: &str, method: &str) -> Call {
        Call {
            event,
            hooks: 0,
            client: "7f".to_owned(),
            encoding: "json",
            user: user.into(),
            target: Some(method.into()),
            data: None,
            program: None,
            forwarded: None,
        }
    }

    /// Asks, and returns where the answer will be.
    fn asked(app: &App, call: Call) -> std_mpsc::Receiver<AppAnswer> {
        let (sender, answer) = std_mpsc::channel();
        app.ask(call, move |_, answer| drop(sender.send(answer)));
        answer
    }

    #[test]
    fn emulated_fields_are_those_that_are_forwarded_and_not_in_the_handshake() {
        let headers = ["authorization", "x-tenant"].map(str::to_owned).to_vec();
        let app = App::load(&AppSettings { headers, ..AppSettings::default() }).expect("names");
        let field = |name: &'static str, value: &'static str| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        let real = Forwarded([field("x-tenant", "real")].into());
        let emulated = |fields: &[(&str, &str)]| app.emulated(Some(&real), fields.iter().copied());
        let both = Forwarded([field("x-tenant", "real"), field("authorization", "Bearer a")].into());
        let sent = [("Authorization", "Bearer a"), ("X-Tenant", "false"), ("cookie", "no")];
        assert_eq!(emulated(&sent), Ok(Some(both)));
        assert_eq!(emulated(&[("cookie", "no")]), Ok(Some(real.clone())));
        assert_eq!(app.emulated(None, std::iter::empty()), Ok(None));
        assert_eq!(emulated(&[("authorization", "a\nb")]), Err(InvalidFields));
        let long = "a".repeat(EMULATED_FIELDS_BYTES_MAX);
        assert!(emulated(&[("authorization", &long)]).is_ok());
        assert_eq!(emulated(&[("authorization", &format!("{long}a"))]), Err(InvalidFields));
    }

    #[test]
    fn sessions_that_begin_have_places_of_their_own() {
        let app = started();
        let stuck = |number: usize| asked(&app, call(AppEvent::Rpc, &number.to_string(), "stuck"));
        let waiting: Vec<_> = (0..APP_CALLS_MAX).map(stuck).collect();
        assert_eq!(stuck(0).recv(), Ok(AppAnswer::Failed(Failed::Busy)), "all places of calls are taken");
        let connected = asked(&app, call(AppEvent::Connect, "", "")).recv_timeout(PATIENCE);
        assert!(matches!(connected, Ok(AppAnswer::Connected(_))), "{connected:?}");
        assert!(waiting.iter().all(|answer| answer.try_recv().is_err()));
    }

    #[test]
    fn slow_calls_of_one_client_leave_turns_to_others() {
        let app = started();
        let waiting: Vec<_> =
            (0..4 * APP_REQUESTS_MAX).map(|_| asked(&app, call(AppEvent::Rpc, "alice", "stuck"))).collect();
        let answer = asked(&app, call(AppEvent::Rpc, "bob", "echo")).recv_timeout(PATIENCE / 2);
        assert!(matches!(answer, Ok(AppAnswer::Agreed { .. })), "{answer:?}");
        assert!(waiting.iter().all(|answer| answer.try_recv().is_err()));
    }
}
