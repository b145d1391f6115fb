//! The bounds, deadlines and defaults of this crate, with their units and reasons. No logic.

use std::time::Duration;

// ---- credentials ----

/// Maximum bytes of a token or of a user name with its password. It fits a request head of 16 KiB beside other fields.
pub const CREDENTIAL_BYTES_MAX: usize = 8 * 1024;
/// Maximum bytes of a subject: a UUID, an e-mail address or a distinguished name.
pub const SUBJECT_BYTES_MAX: usize = echoring_topics::limits::SUBJECT_BYTES_MAX;
/// Maximum patterns of one kind in a token. Each check tries them in turn.
pub const PATTERNS_MAX: usize = 128;

/// Blocks that operators may add to a node. All are copied when one is added.
pub const BLOCKS_MAX: usize = 10_000;

// ---- files ----

/// Maximum bytes of a file of tokens or passwords, and of a key file: about 100,000 entries.
pub const FILE_BYTES_MAX: u64 = 32 * 1024 * 1024;
/// Minimum bytes of a static token: a shorter one may be guessed.
pub const TOKEN_BYTES_MIN: usize = 16;
/// Minimum bytes of a secret of HS256, as long as the hash (RFC 7518, 3.2). HS384 needs 48 and HS512 64.
pub const SECRET_BYTES_MIN: usize = 32;
/// Minimum bits of an RSA modulus (RFC 7518, 3.3).
pub const RSA_BITS_MIN: usize = 2_048;
/// Maximum bits of an RSA modulus, that of aws-lc-rs: a shard checks signatures, and larger keys take longer.
pub const RSA_BITS_MAX: usize = 8_192;

// ---- keys from a JWKS URL ----

/// Maximum keys of one JWKS. Providers publish two or three.
pub const JWKS_KEYS_MAX: usize = 64;
/// Maximum bytes of a JWKS.
pub const JWKS_BYTES_MAX: usize = 256 * 1024;
/// Default interval between two refreshes of a JWKS.
pub const JWKS_REFRESH_DEFAULT: Duration = Duration::from_secs(300);
/// Minimum interval between two refreshes that unknown key ids cause, so that forged ids make no load.
pub const JWKS_EARLY_REFRESH_MIN: Duration = Duration::from_secs(60);
/// First delay after a failed refresh; it doubles up to [`JWKS_RETRY_MAX`].
pub const JWKS_RETRY_MIN: Duration = Duration::from_secs(1);
/// Maximum delay after a failed refresh.
pub const JWKS_RETRY_MAX: Duration = Duration::from_secs(60);
/// Maximum time of one request for a JWKS, for which clients with an unknown key wait: below the handshake timeout of 5 s, and the 5 s
/// after which SDKs give up.
pub const JWKS_TIMEOUT: Duration = Duration::from_secs(4);

// ---- passwords ----

/// Maximum memory of one password hash in KiB: 256 MiB. It is held once, because hashes are checked one after another.
pub const ARGON2_MEMORY_KIB_MAX: u32 = 256 * 1024;
/// Maximum passes of a password hash.
pub const ARGON2_PASSES_MAX: u32 = 16;
/// Maximum lanes of a password hash. They are computed one after another.
pub const ARGON2_LANES_MAX: u32 = 16;
/// Password checks that wait for the thread that makes them; at 20 ms each, a bit over a second. Further clients are
/// answered 503.
pub const PASSWORDS_WAITING_MAX: usize = 64;
/// Checks of one address that wait, or whose failure is not answered yet: an eighth. Further clients of the address are answered 503.
pub const PASSWORDS_PER_ADDRESS_MAX: usize = 8;
/// Waiting checks for one name: a quarter, and twice the share of one address, so that no address takes all. Further
/// ones are answered 503.
pub const PASSWORDS_PER_NAME_MAX: usize = 16;
/// Time after which the first wrong password of an address or a name is answered; it doubles with each further one.
pub const PASSWORD_DELAY_MIN: Duration = Duration::from_millis(100);
/// Maximum of this time: below the handshake timeout of 5 s, with time for the checks in front.
pub const PASSWORD_DELAY_MAX: Duration = Duration::from_secs(3);
/// Time without a failure after which those of an address or a name are forgotten.
pub const PASSWORD_FAILURES_FORGOTTEN: Duration = Duration::from_secs(60);
/// Addresses and names whose failures are remembered: 200 KB.
pub const PASSWORD_SOURCES_MAX: usize = 1_024;

// ---- the hook ----

/// Default time that the hook has to answer: below the handshake timeout of 5 s.
pub const HOOK_TIMEOUT_DEFAULT: Duration = Duration::from_secs(2);
/// Requests to the hook at the same time.
pub const HOOK_REQUESTS_MAX: usize = 32;
/// Decisions that wait for the hook, those in progress included. Further clients are answered 503.
pub const HOOK_WAITING_MAX: usize = 1_024;
/// Time for the decision about a token that a session presents, in the queue and at the hook: below the 5 s after which SDKs give up,
/// unless the hook may take longer. The session is told to try again later.
pub const SESSION_DECISION_MAX: Duration = Duration::from_secs(4);
/// Maximum bytes of the hook's answer.
pub const HOOK_ANSWER_BYTES_MAX: usize = 64 * 1024;
/// Default time that decisions of the hook and checked passwords are remembered.
pub const CACHE_TTL_DEFAULT: Duration = Duration::from_secs(60);
/// Remembered decisions. Beyond it the oldest is forgotten.
pub const CACHE_ENTRIES_MAX: usize = 16_384;
/// Bytes of the identities in them, likewise. An answer of the hook may name many topics.
pub const CACHE_IDENTITIES_BYTES_MAX: usize = 16 * 1024 * 1024;

// ---- hooks of the application ----

/// Default time that a hook of the application has to answer: below the 5 s after which SDKs give up.
pub const APP_TIMEOUT_DEFAULT: Duration = Duration::from_secs(2);
/// Requests to these hooks at the same time.
pub const APP_REQUESTS_MAX: usize = 64;
/// Calls of all clients that wait for these hooks, those in progress included. Further ones are refused.
pub const APP_CALLS_MAX: usize = 1_024;
/// Bytes of their data, likewise.
pub const APP_CALLS_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Requests about sessions that begin at the same time, besides.
pub const APP_CONNECT_REQUESTS_MAX: usize = 32;
/// Sessions that begin and wait for the hook, besides. Further ones are refused.
pub const APP_CONNECTS_MAX: usize = 1_024;
/// Bytes of their data, likewise.
pub const APP_CONNECTS_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Maximum bytes of an answer.
pub const APP_ANSWER_BYTES_MAX: usize = 1024 * 1024;
/// Server-side subscriptions of a client: as many as credentials may have patterns of a right.
pub const SERVER_SUBSCRIPTIONS_MAX: usize = 128;
/// Header fields of a handshake that may be forwarded.
pub const APP_FIELDS_MAX: usize = 16;
/// Tables of hooks with names.
pub const APP_NAMED_MAX: usize = 64;
/// Bytes of such fields that a client emulates, as its first command: as long as a credential may be, and as much again.
pub const EMULATED_FIELDS_BYTES_MAX: usize = 2 * CREDENTIAL_BYTES_MAX;

// ---- requests over HTTP ----

/// How many times as much as it leaves free one address, user or topic may take of what waits for a service, and of the requests to it at the
/// same time: three quarters if it is alone. The rest is room for others, at every moment.
pub const SHARE_OF_FREE: usize = 3;

/// Time that an idle connection to a hook or to a key set is kept: below the 5 s after which common services end theirs.
pub const IDLE_CONNECTION_MAX: Duration = Duration::from_secs(4);
/// Part of the time that a service names in `Keep-Alive` for which its idle connection is not used any more, at most half of it: time
/// for the answer to arrive, and for the next request.
pub const KEEP_ALIVE_MARGIN_MAX: Duration = Duration::from_secs(1);
/// Lookups of names of hosts at the same time. Each has a thread, and each host has a share of them.
pub const LOOKUPS_MAX: usize = 32;
/// Threads for work that blocks: lookups, and, for the settings before and after a reload, a password check and the read of a key set.
pub const CALLS_BLOCKING_THREADS_MAX: usize = LOOKUPS_MAX + 4;
/// Minimum bytes of a secret that signs requests (Standard Webhooks).
pub const SIGNING_SECRET_BYTES_MIN: usize = 24;
/// Secrets that sign a request: one and its successor, twice.
pub const SIGNING_SECRETS_MAX: usize = 4;

// ---- back ends of routes ----

/// Back ends of a node.
pub const BACKENDS_MAX: usize = 16;
/// Default time that a back end has to answer a request.
pub const BACKEND_TIMEOUT_DEFAULT: Duration = Duration::from_secs(2);
/// Default number of further attempts: about 1.5 s for a back end that restarts.
pub const BACKEND_RETRIES_DEFAULT: u32 = 4;
/// Delay before the first of them; it doubles up to [`BACKEND_RETRY_DELAY_MAX`], unless the back end names a time.
pub const BACKEND_RETRY_DELAY_MIN: Duration = Duration::from_millis(100);
/// Maximum delay before an attempt, also if the back end names a longer one.
pub const BACKEND_RETRY_DELAY_MAX: Duration = Duration::from_secs(10);
/// Default number of requests to a back end at the same time.
pub const BACKEND_REQUESTS_DEFAULT: u32 = 32;
/// Default bytes of the events that wait for a back end, those in progress included.
pub const BACKEND_QUEUE_BYTES_DEFAULT: usize = 16 * 1024 * 1024;
/// Bytes that the beginning or the end of a connection is charged besides its head and its JSON form: with the facts about the connection.
pub const BACKEND_EVENT_BYTES: usize = 512;
/// Bytes that a message is charged besides its payload and its JSON form: its entry in a queue.
pub const BACKEND_MESSAGE_BYTES: usize = 96;
/// The share of the queue that one connection may take: a quarter. It is closed beyond that.
pub const BACKEND_QUEUE_SHARE: usize = 4;
/// Maximum bytes of the messages in a request. A longer message has a request of its own.
pub const BACKEND_BATCH_BYTES_MAX: usize = 256 * 1024;
/// Maximum bytes of a back end's answer.
pub const BACKEND_ANSWER_BYTES_MAX: usize = 256 * 1024;
/// Maximum time at the end of a server in which back ends are told of connections that have ended.
pub const BACKEND_FINISH_TIMEOUT: Duration = Duration::from_secs(5);

// ---- webhooks ----

/// Webhooks of a server. A shard asks each about each event.
pub const WEBHOOKS_MAX: usize = 16;
/// Receivers of webhooks that have counts of their own, those that reloads have removed included: four times as many as webhooks.
pub const WEBHOOK_RECEIVERS_MAX: usize = 4 * WEBHOOKS_MAX;
/// Default bytes of the events that wait for a webhook: some 8,000.
pub const WEBHOOK_QUEUE_BYTES_DEFAULT: u64 = 4 * 1024 * 1024;
/// Bytes that an event counts besides its JSON: its id, its places in two queues, the share of its source, and what the allocator adds.
pub const WEBHOOK_EVENT_BYTES: usize = 384;
/// Default of the maximum number of events in a request.
pub const WEBHOOK_BATCH_DEFAULT: u32 = 100;
/// Bytes of the body of a request, unless one event is longer: common services accept 1 MiB.
pub const WEBHOOK_BATCH_BYTES_MAX: usize = 256 * 1024;
/// Default time for the answer to a request.
pub const WEBHOOK_TIMEOUT_DEFAULT: Duration = Duration::from_secs(5);
/// Bytes of an answer that are read, so that its connection is used again.
pub const WEBHOOK_ANSWER_BYTES_MAX: usize = 16 * 1024;
/// Default age at which an event is given up.
pub const WEBHOOK_GIVE_UP_AFTER_DEFAULT: Duration = Duration::from_secs(3_600);
/// Maximum delay after a first failed request; it doubles up to [`WEBHOOK_RETRY_MAX`].
pub const WEBHOOK_RETRY_MIN: Duration = Duration::from_secs(1);
/// Maximum delay after a failed request.
pub const WEBHOOK_RETRY_MAX: Duration = Duration::from_secs(60);
/// The same if the answer says when to try again.
pub const WEBHOOK_RETRY_AFTER_MAX: Duration = Duration::from_secs(3_600);
/// Time that the waiting events have to leave when the process ends.
pub const WEBHOOK_FINISH_TIMEOUT: Duration = Duration::from_secs(3);

// ---- questions ----

/// Questions on their way to the thread for calls, of all kinds and shards. Further clients are answered 503.
pub const QUESTIONS_WAITING_MAX: usize = 2_048;
/// Questions of clients whose token has an unknown key id that wait for a refresh of the JWKS.
pub const UNKNOWN_KEY_WAITING_MAX: usize = 256;
