//! The application's HTTP hooks for connects, calls, publications and subscriptions of clients, in the form of
//! Centrifugo's proxies.
//!
//! Calls are bounded in number and in bytes, and every call is answered, within the timeout.

mod hook_set;
mod wire;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use echoring_proto::handshake::Request;
use echoring_proto::{AddressKey, Plain};
use echoring_topics::Pattern;
use hyper::header::{HeaderName, HeaderValue};

use self::hook_set::{HookSet, set_for};
use crate::calls::http_client::post_with_id;
use crate::calls::load::{Counted, Full, Source};
use crate::calls::{self, Inlet, Queue, within};
use crate::error::LoadError;
use crate::identity::Identity;
use crate::identity::app_data::AppData;
use crate::identity::info::Info;
use crate::identity::server_subscriptions::ServerSubscriptions;
use crate::limits::{
    APP_CALLS_MAX, APP_CONNECTS_MAX, APP_FIELDS_MAX, APP_NAMED_MAX, APP_TIMEOUT_DEFAULT,
    EMULATED_FIELDS_BYTES_MAX,
};

pub use self::hook_set::hooks_id;

/// The subject of a question to an application.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppEvent {
    /// A client calls it, or sends it a message.
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

impl AppEvent {
    /// All events, in the order of their numbers, with the settings that have the URLs of their hooks. A new hook is a row.
    pub const ALL: [(AppEvent, &'static str); 6] = [
        (AppEvent::Rpc, "hooks_rpc"),
        (AppEvent::Publish, "hooks_publish"),
        (AppEvent::Subscribe, "hooks_subscribe"),
        (AppEvent::Connect, "hooks_connect"),
        (AppEvent::Refresh, "hooks_refresh"),
        (AppEvent::SubRefresh, "hooks_sub_refresh"),
    ];
}

/// Where the hooks are.
#[derive(Clone, PartialEq, Eq)]
pub struct AppSettings {
    /// The name of this server, which each request has; empty for none.
    pub node: String,
    /// The URLs of the hooks that there are.
    pub urls: Vec<(AppEvent, String)>,
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
opaque!(AppSettings);

opaque!(NamedHooks, |it| name: it.name);

impl Default for AppSettings {
    fn default() -> AppSettings {
        AppSettings {
            node: String::new(),
            urls: Vec::new(),
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
    /// The address of a client without a name, if it has one that is known.
    pub address: Option<AddressKey>,
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
opaque!(Call, |it| event: it.event);

impl Call {
    /// Whose load it is: that of its user, or of the address of a client without a name.
    fn source(&self) -> Source {
        if self.user.is_empty() { Source::from(self.address) } else { Source::Name(self.user.clone()) }
    }

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
opaque!(Forwarded, |it| fields: it.0.len());

impl Forwarded {
    /// Bytes of the copies.
    pub fn held_bytes(&self) -> usize {
        self.0.iter().map(|(name, value)| name.as_str().len() + value.len() + 96).sum()
    }
}

impl Plain<'_> for Forwarded {
    fn put(&self, out: &mut Vec<u8>) {
        let fields = self.0.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
        fields.collect::<Vec<_>>().put(out);
    }

    fn take(from: &mut &[u8]) -> Option<Forwarded> {
        let fields = Vec::<(&str, &[u8])>::take(from)?.into_iter();
        let field = |(name, value): (&str, _)| {
            Some((HeaderName::from_bytes(name.as_bytes()).ok()?, HeaderValue::from_bytes(value).ok()?))
        };
        fields.map(field).collect::<Option<_>>().map(Forwarded)
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
opaque!(AppConnected, |it| identity: it.identity);

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
    hooks: Arc<Hooks>,
    /// Names of all fields that some hooks get.
    headers: Box<[HeaderName]>,
    inlet: Inlet<Waiting>,
}

/// The part that answers need, too.
struct Hooks {
    sets: Box<[HookSet]>,
    calls: Queue,
    connects: Queue,
}

opaque!(App, |it| sets: it.hooks.sets.len());

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
            sets.push(HookSet { id: hooks_id(name), node: settings.node.clone(), methods, ..set });
        }
        let mut headers: Vec<HeaderName> = sets.iter().flat_map(|set| set.headers.iter().cloned()).collect();
        headers.sort_unstable_by(|one, other| one.as_str().cmp(other.as_str()));
        headers.dedup();
        let (calls, connects) = (calls::HOOKS.queue(), calls::CONNECT_HOOKS.queue());
        let hooks = Arc::new(Hooks { sets: sets.into(), calls, connects });
        Ok(App { hooks, headers: headers.into(), inlet: Inlet::default() })
    }

    /// Has calls made from now on.
    ///
    /// # Errors
    /// If the thread for calls cannot be started.
    pub fn start(&self) -> io::Result<()> {
        let hooks = Arc::clone(&self.hooks);
        self.inlet.start(APP_CALLS_MAX + APP_CONNECTS_MAX, move |waiting| {
            let hooks = Arc::clone(&hooks);
            async move { hooks.answer(waiting).await }
        })
    }

    /// Whether the application is asked about an event, by the hooks with this [id](hooks_id).
    pub fn has(&self, event: AppEvent, hooks: u64) -> bool {
        set_for(&self.hooks.sets, event, hooks).is_some()
    }

    /// The id of the hooks that get the calls of a method.
    pub fn hooks_of_method(&self, method: &str) -> u64 {
        let fits = |set: &&HookSet| set.methods.iter().any(|pattern| pattern.fits(method));
        self.hooks.sets.iter().find(fits).map_or(0, |set| set.id)
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

    /// Asks the application. `answered` is called on the thread for calls, or on this one if the call is rejected, and
    /// receives the call.
    pub fn ask(&self, call: Call, answered: impl FnOnce(Call, AppAnswer) + Send + 'static) {
        let counted = match self.hooks.queue(&call).waiting.take(call.source(), call.bytes()) {
            Ok(counted) => counted,
            Err(Full::Busy) => return answered(call, AppAnswer::Failed(Failed::Busy)),
            Err(Full::TooLarge) => return answered(call, AppAnswer::Failed(Failed::TooLarge)),
        };
        let waiting = Waiting { call: Some((call, Box::new(answered))), _counted: counted };
        // A call that is not taken is dropped, which answers it.
        let _ = self.inlet.send(waiting);
    }
}

impl Hooks {
    fn queue(&self, call: &Call) -> &Queue {
        if call.event == AppEvent::Connect { &self.connects } else { &self.calls }
    }

    async fn answer(&self, mut waiting: Waiting) {
        let Some((call, _)) = &waiting.call else { return };
        let set = &self.sets[set_for(&self.sets, call.event, call.hooks).unwrap_or_default()];
        let answer = within(set.timeout, self.post(call, set)).await.unwrap_or_else(|problem| {
            tracing::warn!(event = ?call.event, problem, "an application hook did not answer");
            AppAnswer::Failed(Failed::Unavailable)
        });
        waiting.give(answer);
    }

    async fn post(&self, call: &Call, set: &HookSet) -> Result<AppAnswer, String> {
        let client = set.clients[call.event as usize].as_ref().ok_or("it is not configured")?;
        let _turn = self.queue(call).turns.take(&call.source()).await;
        let (fields, body) = (set.fields(call.forwarded.as_ref()), wire::body(call, &set.node));
        let (head, body) = client.send(post_with_id(fields, body)?).await?;
        let body = body?;
        if head.status() != 200 {
            return Err(format!("its status is {}", head.status()));
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
        forwarded.put(&mut bytes);
        for end in 0..bytes.len() {
            assert_eq!(Forwarded::take(&mut &bytes[..end]), None, "{end}");
        }
        bytes.push(b'x');
        let mut from = &bytes[..];
        assert_eq!(Forwarded::take(&mut from).as_ref(), Some(&forwarded));
        assert_eq!(from, b"x");
        assert_eq!(Forwarded::decode(&vec![(" ", "")].encode()), None, "no name of a field");
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader, Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};
    use std::sync::mpsc as std_mpsc;
    use std::thread;

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
            urls: vec![(AppEvent::Rpc, url.clone()), (AppEvent::Connect, url)],
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
            address: None,
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
    fn slow_calls_of_one_client_or_address_leave_room_and_turns_to_others() {
        let named = |user: &str| call(AppEvent::Rpc, user, "stuck");
        let at = |address: &str| Some(AddressKey::of(address.parse().expect("an address")));
        let of = |event, address, method| Call { address, ..call(event, "", method) };
        let (rpc, connect) = (AppEvent::Rpc, AppEvent::Connect);
        let others =
            |event| ["192.0.2.1", "192.0.2.2", "2001:db8::1"].map(|other| of(event, at(other), "echo"));
        let slow: [(Call, Vec<Call>); 5] = [
            (named("alice"), [call(rpc, "bob", "echo")].into_iter().chain(others(rpc)).collect()),
            (of(rpc, at("192.0.2.9"), "stuck"), others(rpc).into()),
            (of(rpc, at("2001:db8:0:9::1"), "stuck"), others(rpc).into()),
            (of(rpc, None, "stuck"), others(rpc).into()),
            (of(connect, at("192.0.2.9"), "stuck"), others(connect).into()),
        ];
        for (slow, others) in slow {
            let app = started();
            let waiting: Vec<_> = (0..2 * APP_CALLS_MAX).map(|_| asked(&app, slow.clone())).collect();
            for other in others {
                let answer = asked(&app, other).recv_timeout(PATIENCE / 2);
                assert!(
                    matches!(answer, Ok(AppAnswer::Agreed { .. } | AppAnswer::Connected(_))),
                    "{slow:?} {answer:?}"
                );
            }
            let refused = waiting.iter().filter(|answer| answer.try_recv().is_ok()).count();
            assert_eq!(refused, 2 * APP_CALLS_MAX - APP_CALLS_MAX / 4 * 3, "{slow:?}");
        }
    }
}
