//! Every bound and deadline of the crate, with its unit and its reason.
//!
//! Nothing here is logic. A number that limits what a peer can cost stands here, is named after what it
//! bounds, ends in its unit, and is the only copy. Configuration may move some of them; these are the
//! defaults and the hard ends.

#![forbid(unsafe_code)]

/// Nanoseconds on the driver's monotonic clock. Time is an argument everywhere above the driver.
pub type Nanos = u64;

/// One millisecond in [`Nanos`].
pub const MILLISECOND: Nanos = 1_000_000;
/// One second in [`Nanos`].
pub const SECOND: Nanos = 1_000 * MILLISECOND;

// ---- handshake (RFC 6455, section 4) ----

/// Bytes of a request or response head. A browser sends about 600 bytes; cookies rarely pass 8 KiB.
pub const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Header fields in a head.
pub const HEADERS_MAX: usize = 100;
/// From accept to the 101, absolute: a dribbled head does not extend it.
pub const HANDSHAKE_TIMEOUT: Nanos = 5 * SECOND;

// ---- TLS (RFC 8446, RFC 5246) ----

/// Session tickets sent with each full or resumed TLS 1.3 handshake: each is about 200 bytes on the wire, and a
/// client that comes back needs one.
pub const TLS_TICKETS: usize = 1;
/// Bytes inside of a record that we send, at most. The standard allows 16,384; four of this size, sealed, are just
/// within a pooled buffer of 64 KiB.
pub const TLS_RECORD_BYTES: usize = 16 * 1024 - TLS_RECORD_OVERHEAD_BYTES_MAX;
/// Bytes by which sealing makes a record longer, at most: 5 of header, 8 of nonce (TLS 1.2), 16 of tag, and 1 that
/// tells the type (TLS 1.3), generously.
pub const TLS_RECORD_OVERHEAD_BYTES_MAX: usize = 64;
/// Received bytes of a connection that cannot be opened yet: a record that is not complete (18,437 bytes at most), or
/// the records of a handshake message, of which a chain of certificates is the longest.
pub const TLS_UNREAD_BYTES_MAX: usize = 32 * 1024;
/// What the node's budget is charged with for the keys and state of one session: an idle one was measured to take
/// 3.8 kB in either version.
pub const TLS_SESSION_BYTES: usize = 4 * 1024;

// ---- messages (RFC 6455, section 5) ----

/// Bytes of a message; one of exactly this size is allowed.
pub const MESSAGE_BYTES_DEFAULT: u64 = 64 * 1024;
/// The largest value `--max-message` takes.
pub const MESSAGE_BYTES_MAX: u64 = 1 << 31;
/// Payload bytes of a control frame (RFC 6455, 5.5).
pub const CONTROL_PAYLOAD_BYTES_MAX: usize = 125;
/// From the first byte of a message to its last.
pub const MESSAGE_TIMEOUT: Nanos = 30 * SECOND;
/// A frame that spans turns is assembled up to this size and echoed whole; a longer one streams through
/// as validated fragments, so that a declared length reserves nothing.
pub const ASSEMBLED_FRAME_BYTES_MAX: u64 = 64 * 1024;

// ---- compression (RFC 7692) ----

/// Bytes that compressed messages of one connection may become in one turn before the rest waits for the next:
/// what a few milliseconds of inflating, handling and deflating are, so that no peer holds up the others.
pub const INFLATED_BYTES_PER_TURN: usize = 256 * 1024;
/// Bytes of a message below which compressing it is not worth the trouble to either end.
pub const COMPRESSION_THRESHOLD_BYTES: u32 = 128;
/// Effort of compression, from 1 to 9.
pub const COMPRESSION_LEVEL_DEFAULT: u8 = 1;
/// Node-wide bytes of the windows that connections keep from message to message; past it they are declined.
pub const COMPRESSION_BYTES_DEFAULT: u64 = 256 * 1024 * 1024;
/// Bytes of them leased at a time.
pub const COMPRESSION_LEASE_BYTES: u64 = 1024 * 1024;
/// Deflaters of closed connections that a shard keeps for new ones.
pub const SPARE_CONTEXTS_MAX: usize = 8;

// ---- liveness and closing (RFC 6455, sections 5.5.2 and 7) ----

/// Silence after which a ping is sent.
pub const PING_INTERVAL: Nanos = 25 * SECOND;
/// From that ping to any byte of the peer.
pub const PONG_TIMEOUT: Nanos = 10 * SECOND;
/// From our Close frame to the end of the connection.
pub const CLOSE_TIMEOUT: Nanos = 5 * SECOND;
/// Pongs queued behind an unfinished send; past it only the latest is kept (RFC 6455, 5.5.3 allows it).
pub const QUEUED_PONGS_MAX: u32 = 16;
/// Pings a peer may send in one second of a window before 1008. Autobahn sends ten at once.
pub const PINGS_PER_SECOND_MAX: u32 = 1_000;
/// Bytes of a close reason kept for the log.
pub const REASON_BYTES_MAX: usize = 123;
/// Bytes that are read and thrown away after our Close frame before the connection is cut: enough for
/// what a peer had in flight, not enough for one that ignores the close.
pub const DISCARD_BYTES_MAX: u32 = 4 * 1024 * 1024;

// ---- queues and memory ----

/// Outbox of a connection above which its reading pauses; it resumes at half. Also the encoded bytes of a
/// topic's log on one shard: how far a subscriber may lag behind.
pub const QUEUE_BYTES_DEFAULT: u32 = 256 * 1024;
/// Pieces (iovecs) in one send: what a `SENDMSG` carries without the kernel allocating (`UIO_FASTIOV` is
/// 8), times 8, so that a long backlog still leaves in few sends.
pub const SEND_PIECES_MAX: usize = 64;
/// Bytes of one receive: large enough for a bulk sender, small enough that one peer cannot take the region.
pub const RECEIVE_BYTES_MAX: u32 = 16 * 1024;
/// Bytes that one arming of a multishot receive may bring before it must be armed again, where the kernel knows totals;
/// one receive may bring all of them. What comes in one turn is answered with one send, and the fewer sends a
/// large message takes, the fewer timers a congestion control that paces sets: against 128 KiB this makes an
/// echo of 1 MiB a fifth cheaper, and 512 KiB no more than this.
pub const RECEIVE_CREDIT_BYTES: u32 = 256 * 1024;
/// Received bytes of a connection that wait to be read, because its request is being decided on or its compressed
/// messages became too much at once. Receives are paused meanwhile: what can still come is one credit, here
/// counted twice for kernels that bound it less sharply.
pub const PARKED_BYTES_MAX: usize = 2 * RECEIVE_CREDIT_BYTES as usize;
/// Node-wide bytes of pooled buffers and logs.
pub const MEMORY_BUDGET_DEFAULT: u64 = 1024 * 1024 * 1024;
/// The smallest budget of bytes that a node can be given.
pub const MEMORY_BUDGET_MIN: u64 = 16 * 1024 * 1024;
/// Of so many parts of the budget, one is a reserve: while less is free, histories are given up, then whoever holds
/// most beyond its share is ended, so that those who ask next find what they need.
pub const MEMORY_RESERVE_PARTS: u64 = 8;
/// Of so many parts of the budget, only handshakes may take the last: TLS sessions and requests, 36 KiB each at most.
pub const HANDSHAKE_RESERVE_PARTS: u64 = 32;
/// Of so many parts of the budget, histories may take one: they are kept for those who may come back, and others are
/// there.
pub const HISTORY_SHARE_PARTS: u64 = 2;
/// Of so many parts of the budget, each shard keeps one back for what cannot wait until memory has been made.
pub const SHARD_RESERVE_PARTS: u64 = 128;
/// Bytes that a shard keeps back so, at most: several receives of the largest size, with their answers.
pub const SHARD_RESERVE_BYTES_MAX: u64 = 1024 * 1024;
/// Time between two looks at all connections of a shard for those that hold more than their share, while the node is
/// short of memory and the last look found none.
pub const RELIEF_INTERVAL: Nanos = 10 * MILLISECOND;
/// Of so many parts of what was free then, one is gone when they are looked at earlier: looks cost what is taken between
/// them, however many connections there are.
pub const RELIEF_PARTS: u64 = 8;
/// Time without progress after which a send ends its connection. TCP retransmits for minutes to a peer that has gone; one
/// that is there and does not read costs up to its queue and half a megabyte in the kernel meanwhile.
pub const SEND_TIMEOUT: Nanos = 30 * SECOND;
/// Time between two looks at an unfinished send, as parts of the time that it has.
pub const SEND_LOOKS: u64 = 30;
/// Bytes leased from the node's budget at a time, or a 64th of it if that is less.
pub const BUDGET_LEASE_BYTES: u64 = 1024 * 1024;
/// Connections per node when neither `--max-connections` nor the descriptor limit says less.
pub const CONNECTIONS_DEFAULT: u32 = 100_000;
/// Connections beyond the maximum that are accepted only to be told 503.
pub const REFUSING_CONNECTIONS_MAX: u32 = 64;

// ---- broadcast ----

/// Bytes of a topic's name, percent-decoded.
pub const TOPIC_BYTES_MAX: usize = 255;
/// Topics of the node unless it is told otherwise. Those that nobody subscribes to make room for new ones.
pub const TOPICS_DEFAULT: u32 = 65_536;
/// Topics leased from the node's maximum at a time.
pub const TOPIC_LEASE: u64 = 64;
/// Topics that are there because one connection was the first to publish to them, for each shard that is their home: a
/// sixteenth of the topics that a node has unless it is told otherwise. Those that somebody subscribes to are allowed
/// beyond it.
pub const TOPICS_BEGUN_MAX: u32 = 4_096;
/// Topics that one connection may subscribe to unless the node is told otherwise.
pub const SUBSCRIPTIONS_DEFAULT: u32 = 128;
/// Topics of other shards that a shard has asked for, or is about to, and has no answer about: as many requests as a lane
/// between two shards holds. They wait for room behind a busy topic's publications, no longer than a handshake may take;
/// past it newcomers are told that the node is busy.
pub const SUBSCRIPTIONS_WAITING_MAX: usize = 4_096;
/// Subscribers in one answer about who is there: some five kilobytes of JSON.
pub const PRESENCE_PAGE_MAX: usize = 256;
/// Requests of sessions that wait for room to another shard; past it they are told that the node is busy.
pub const REQUESTS_WAITING_MAX: usize = 1_024;
/// Time in which a publication with the idempotency key of an earlier one is the same message.
pub const IDEMPOTENCY_WINDOW: Nanos = 300 * SECOND;
/// Bytes of an idempotency key: a UUID has 36, and mailboxes between shards count them in one byte.
pub const IDEMPOTENCY_KEY_BYTES_MAX: usize = 255;
/// Idempotency keys that a topic remembers of clients, and as many of the operator; past it the oldest are forgotten, so that
/// the window of that topic is shorter.
pub const IDEMPOTENCY_KEYS_PER_TOPIC_MAX: usize = 8_192;
/// The same of all topics that have their home on one shard: some 20 MB at most, counted in the memory budget.
pub const IDEMPOTENCY_KEYS_PER_SHARD_MAX: usize = 65_536;
/// Bytes of a message's key.
pub const KEY_BYTES_MAX: usize = 255;
/// Keys of a topic that keeps the latest message of each.
pub const KEYS_MAX: usize = 4_096;
/// Messages of a topic kept for those who come back, unless its settings say otherwise.
pub const HISTORY_MESSAGES_DEFAULT: u32 = 100;
/// Bytes of them, likewise.
pub const HISTORY_BYTES_DEFAULT: usize = 64 * 1024;
/// Their age, likewise: a page that reloads or changes from one network to another is back within a minute.
pub const HISTORY_AGE_DEFAULT: Nanos = 60 * SECOND;
/// Time for which a shard remembers of a topic that was forgotten how far it had come, so that who comes back goes on in
/// the same epoch: longer than what a client waits between two attempts ([`RECONNECT_DELAY_MAX`]) many times over.
pub const REMEMBERED_AGE: Nanos = 600 * SECOND;
/// Bytes on each shard of that, and as many of what was sent of topics whose last subscriber there has left. About 4,000
/// topics each.
pub const REMEMBERED_BYTES_MAX: usize = 1024 * 1024;
/// Silence of a topic after which its subscribers are told its last offset.
pub const HEARTBEAT_INTERVAL: Nanos = 25 * SECOND;
/// The longest time that messages may be made to wait for others.
pub const COALESCE_MAX: Nanos = SECOND;
/// Requests in a row of a client that make no sense before 1008.
pub const COMPLAINTS_MAX: u8 = 20;
/// Arrays and objects within one another in a JSON value that is published: what readers of JSON take without being
/// told to.
pub const JSON_DEPTH_MAX: usize = 128;
/// Messages from outside that wait for their topics' homes, on the whole node; past it a publisher is told 429.
pub const OUTSIDE_MESSAGES_MAX: u64 = 1_024;
/// Bytes of them, likewise.
pub const OUTSIDE_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// Bytes of them that a shard publishes in one turn, before its subscribers are sent anything: a batch may be longer
/// than a subscriber may lag behind ([`QUEUE_BYTES_DEFAULT`]), and must not be what makes it lag.
pub const OUTSIDE_BYTES_PER_TURN: usize = 64 * 1024;
/// Bytes of a log segment.
pub const LOG_SEGMENT_BYTES: usize = 16 * 1024;
/// Bytes of a log's first segment: a quiet topic holds one. Each further one is twice as large.
pub const LOG_SEGMENT_BYTES_MIN: usize = 1024;

// ---- chat ----

/// Members of the chat room. A list of all their names fits one message of the default limit.
pub const CHAT_USERS_MAX: usize = 256;
/// Characters of a member's name, which is four times as many bytes at most.
pub const CHAT_NAME_CHARACTERS_MAX: usize = 32;
/// Bytes of what is said at once: a page of text.
pub const CHAT_TEXT_BYTES_MAX: usize = 4 * 1024;
/// Messages that a member may send at once, after a pause.
pub const CHAT_BURST: u32 = 20;
/// A member's share of time for each message in the long run: nobody types so fast, and 256 members who do are
/// 650,000 messages a second to carry.
pub const CHAT_INTERVAL: Nanos = 100 * MILLISECOND;
/// Messages in a row that are not taken before 1008.
pub const CHAT_REFUSALS_MAX: u8 = 50;

// ---- shards ----

/// Bytes of each direction of a mailbox between two shards, at least; it always holds two messages of
/// the largest size.
pub const MAILBOX_BYTES_MIN: usize = 1024 * 1024;
/// Time in which a drained server is gone, whatever its peers do.
pub const DRAIN_TIMEOUT: Nanos = 8 * SECOND;
/// Of the time of a drain, what is left for the last words: subscribers that have not got everything by then are told what
/// they miss. A round trip, and a second for one that is busy. No more than a quarter of the whole.
pub const DRAIN_GOODBYE: Nanos = 2 * SECOND;
/// How often buffers that nobody needed meanwhile are freed.
pub const TRIM_INTERVAL: Nanos = SECOND;
/// Width of a slot of the timer wheel. Deadlines are kept to this precision, never early.
pub const TIMER_TICK: Nanos = 32 * MILLISECOND;

// ---- routes of a program's own ----

/// Bytes of the body of a response that a route makes.
pub const RESPONSE_BODY_BYTES_MAX: usize = 1024 * 1024;

// ---- test endpoints ----

/// Times in the query of a test endpoint, such as `/delay?ms=`: a minute.
pub const ENDPOINT_MS_MAX: u64 = 60_000;
/// Messages that wait in `/delay` before their sender is read no further.
pub const DELAYED_MESSAGES_MAX: usize = 1_024;
/// Bytes of them, likewise.
pub const DELAYED_BYTES_MAX: usize = 256 * 1024;
/// Messages a second of `/source`.
pub const SOURCE_RATE_MAX: u64 = 100_000;
/// Bytes of a message of `/source`.
pub const SOURCE_BYTES_MAX: u64 = 1024 * 1024;
/// Messages that `/source` sends in one turn, so that it does not hold up others.
pub const SOURCE_MESSAGES_PER_TURN: u32 = 256;
/// How often `/source` wakes up, at most: what is due within it is sent together.
pub const SOURCE_TICK: Nanos = MILLISECOND;
/// Frames of a message of `/fragment`.
pub const FRAGMENTS_MAX: u64 = 1_024;
/// Pings a second of `/ping-storm`.
pub const PING_STORM_RATE_MAX: u64 = 1_000;
/// Bytes a second of `/slow-read`, at least: a receive's worth must not take hours.
pub const SLOW_READ_BYTES_PER_S_MIN: u64 = 64;
/// Bytes a second of `/slow-read`, at most.
pub const SLOW_READ_BYTES_PER_S_MAX: u64 = 1 << 30;
/// Messages after which `/abort` ends the stream and `/sink` reports, at most.
pub const ENDPOINT_MESSAGES_MAX: u64 = 1_000_000;
/// Bytes of a wrong parameter that are repeated in the answer.
pub const SHOWN_PARAMETER_BYTES_MAX: usize = 64;

// ---- control plane ----

/// Connections to the admin address at once. A further one takes the place of the oldest that sent no request yet.
pub const ADMIN_CONNECTIONS_MAX: usize = 64;
/// Requests at once, without those for `/healthz`: places are kept for these. Past it a request is told 429.
pub const ADMIN_REQUESTS_MAX: usize = 48;
/// From accepting an admin connection to the end of its request's head.
pub const ADMIN_HEAD_TIMEOUT: Nanos = 2 * SECOND;
/// Of that, what a connection has in any case, however many others come: a head is sent at once, and a round trip takes
/// less.
pub const ADMIN_IDLE_MIN: Nanos = 100 * MILLISECOND;
/// From accepting an admin connection to its end, whatever it does: one request, one response.
pub const ADMIN_TIMEOUT: Nanos = 10 * SECOND;
/// Of that, for the body of a request.
pub const ADMIN_BODY_TIMEOUT: Nanos = 5 * SECOND;
/// Bytes of a batch of messages; two of the largest size when that is more.
pub const ADMIN_BATCH_BYTES_MAX: u64 = 1024 * 1024;
/// Bytes of all requests' bodies at once; a single one may be longer. Past it a publisher is told 429.
pub const ADMIN_BODIES_BYTES_MAX: u64 = OUTSIDE_BYTES_MAX;
/// Bytes of a body nobody wants that are read and thrown away, so that its sender gets to see why.
pub const ADMIN_DISCARD_BYTES_MAX: u64 = 1024 * 1024;
/// Time for that.
pub const ADMIN_LINGER: Nanos = SECOND;
/// Topics in a list of them, unless it is asked for more or fewer.
pub const ADMIN_TOPICS_DEFAULT: usize = 1_000;
/// The most that may be asked for: some six megabytes of JSON.
pub const ADMIN_TOPICS_MAX: usize = 10_000;
/// Bytes of the token of the admin address, at least: one that cannot be guessed is not shorter.
pub const ADMIN_TOKEN_BYTES_MIN: usize = 16;
/// The same, at most. A head has room for it.
pub const ADMIN_TOKEN_BYTES_MAX: usize = 1_024;
/// Time that a shard has to answer the control plane. One that is busy answers between two turns, far
/// sooner; one that is stuck must not hang the operator who came to see why.
pub const SNAPSHOT_TIMEOUT: Nanos = 2 * SECOND;
/// Time without a turn, although it was asked for one, after which a shard counts as stalled and `/healthz` says 503.
pub const TURN_TIMEOUT: Nanos = SECOND;
/// Time that peers of a server get to leave when one of its threads has ended by itself.
pub const BROKEN_DRAIN_TIMEOUT: Nanos = 2 * SECOND;
/// From then to the end of the server, whether or not all its shards have ended.
pub const BROKEN_END_TIMEOUT: Nanos = BROKEN_DRAIN_TIMEOUT + SECOND;

// ---- the log ----

/// Records that wait to be written to stderr; past it they are dropped and counted.
pub const LOG_QUEUE_RECORDS: usize = 1_024;
/// Bytes of them, likewise.
pub const LOG_QUEUE_BYTES: usize = 1024 * 1024;
/// Bytes of a field of a record: much of what a peer says is longer than what helps to understand it.
pub const LOG_FIELD_BYTES_MAX: usize = 256;
/// Bytes of a record's message.
pub const LOG_MESSAGE_BYTES_MAX: usize = 1024;
/// Records of one cause in a second; of the others only the number is logged.
pub const LOG_RECORDS_PER_SECOND: u32 = 10;
/// The same for the levels `debug` and `trace`, which somebody asked for.
pub const LOG_RECORDS_PER_SECOND_DEBUG: u32 = 1_000;
/// Causes that are told apart; the program has fewer.
pub const LOG_CAUSES_MAX: usize = 256;
/// From the first record that was left out to the line that tells how many were.
pub const LOG_SUMMARY_INTERVAL: Nanos = SECOND;
/// Addresses of peers that a shard looks up in a second for what it logs; beyond, records go without. Each costs three
/// system calls, and not many more records of a second are written.
pub const LOG_LOOKUPS_PER_SECOND: u32 = 32;
/// How long the end of the process waits for a stderr that nobody reads.
pub const LOG_FLUSH_TIMEOUT: Nanos = 250 * MILLISECOND;
/// How soon a write that would block is tried again.
pub const LOG_RETRY: Nanos = 5 * MILLISECOND;

// ---- taking over ----

/// Time that a server has to stop listening when a successor asks it to: as long as its shards may take to answer twice,
/// and its control plane to end.
pub const TAKEOVER_REPLY_TIMEOUT: Nanos = 6 * SECOND;
/// Time that whoever asks has to do so.
pub const TAKEOVER_REQUEST_TIMEOUT: Nanos = SECOND;

// ---- async connections ----

/// Bytes of the read buffer and of the write buffer of an async connection, each, unless it is told otherwise.
pub const CONN_BUFFER_BYTES_DEFAULT: usize = 4096;
/// Bytes that one read of an async connection brings at most in the middle of a frame that is longer than its read
/// buffer: a message of the default limit is there after two reads.
pub const CONN_READ_BYTES_MAX: usize = 64 * 1024;
/// Bytes of a streamed message behind which its fragments become as long, however small the write buffer is: peers
/// bound the number of fragments.
pub const FRAGMENT_BYTES_LONG: usize = 64 * 1024;
/// A fragment of a streamed message is at least this part of what has been sent of it, so that the longest message,
/// 2 GiB, takes under 4,096 of them.
pub const FRAGMENTS_PER_DOUBLING: u64 = 512;
/// Sets of buffers that a pool shared by async connections keeps for the next one that needs them.
pub const BUFFERS_KEPT_MAX: usize = 64;
/// Sets of buffers that a thread keeps for the next async connection without a pool of its own: more are in use only
/// while as many peers do not take what they are sent.
pub const SPARE_BUFFERS_MAX: usize = 16;
/// Bytes of a set of buffers that is kept so; what one long message needed is given back.
pub const SPARE_BUFFERS_BYTES_MAX: u64 = 1 << 20;
/// How often a set of buffers is put away before what it did not need meanwhile is given back.
pub const SPARE_BUFFERS_TRIM_AFTER: u32 = 32;

// ---- the proxy ----

/// From choosing a server to a connection with it, TLS included.
pub const UPSTREAM_CONNECT_TIMEOUT: Nanos = 5 * SECOND;
/// From a request to the head of its response, an upgrade's included.
pub const UPSTREAM_RESPONSE_TIMEOUT: Nanos = 60 * SECOND;
/// Time without a byte in either direction after which a proxied connection is closed. Peers that ping, as browsers'
/// servers do every half minute or so, never come near it.
pub const PROXY_IDLE_TIMEOUT: Nanos = 300 * SECOND;
/// Time between two checks of a server's health.
pub const HEALTH_INTERVAL: Nanos = 5 * SECOND;
/// Bytes of a message that the proxy inflates; others pass through it whatever their length.
pub const RECODED_MESSAGE_BYTES_DEFAULT: u64 = 1024 * 1024;

// ---- io_uring ----

/// How long the kernel may refuse to take submissions for want of memory before a ring counts as broken, or as denied
/// where it is only asked for.
pub const RING_REFUSAL_MAX: Nanos = SECOND;
/// How often an operation on tokio-uring that nobody has heard of is handed to the kernel again; where it was taken, this
/// costs a system call.
pub const RESUBMIT_INTERVAL: Nanos = 5 * MILLISECOND;

// ---- recordings ----

/// Bytes of frames that wait to be written to a recording; past it, relaying pauses until the disk has caught up.
pub const RECORDING_QUEUE_BYTES: usize = 8 * 1024 * 1024;

// ---- sockets and descriptors ----

/// Send buffer of an accepted socket; the kernel doubles it for its bookkeeping. Under autotuning a peer that
/// did not read absorbed 3.9 MB.
pub const SOCKET_SEND_BYTES: usize = 128 * 1024;
/// Receive buffer of an accepted socket, likewise doubled.
pub const SOCKET_RECEIVE_BYTES: usize = 128 * 1024;
/// How long a start waits for a port that is in use: the kernel ends what a process that was killed had under way in its
/// own time, a pending accept of io_uring some 15 ms after the process is gone.
pub const BUSY_PORT_TIMEOUT: Nanos = SECOND;
/// Pause between two looks at such a port.
pub const BUSY_PORT_PAUSE: Nanos = 5 * MILLISECOND;
/// Connections that wait to be accepted.
pub const LISTEN_BACKLOG: i32 = 4096;
/// Descriptors kept for everything but connections.
pub const RESERVED_DESCRIPTORS: u32 = 64;
/// Connections leased from the node's maximum at a time.
pub const CONNECTION_LEASE: u64 = 64;
/// Time that a subscriber may lag behind its topic's latest message.
pub const LAG_MAX: Nanos = 5 * SECOND;

// ---- connections of other programs: `aio` ----

/// Bytes of either buffer of a connection that asks for an HTTP server's size: what hyper begins to read with.
pub const AIO_HTTP_BUFFER_BYTES: usize = 8 * 1024;
/// Time that a refused client has to read why before its connection is cut, and that it waits for the rest of that.
pub const AIO_LINGER: Nanos = SECOND;
/// Handshakes of a listener that may be under way at once; further connections wait to be accepted.
pub const AIO_HANDSHAKES_MAX: usize = 1_024;
/// How long accepting pauses when this process has no descriptors left: connections end meanwhile.
pub const ACCEPT_PAUSE: Nanos = 100 * MILLISECOND;
/// From the first step of a dial to the 101; what gorilla's default dialer gives.
pub const DIAL_TIMEOUT: Nanos = 45 * SECOND;
/// Of that, for the name and the TCP connection.
pub const CONNECT_TIMEOUT: Nanos = 10 * SECOND;
/// Head start of an address over the next one (RFC 8305, section 5).
pub const CONNECT_STAGGER: Nanos = 250 * MILLISECOND;
/// Bytes kept of the body of a response that opens no WebSocket: enough for its reason.
pub const REFUSAL_BODY_BYTES_MAX: usize = 1_024;
/// Longest wait before the second attempt of a reconnecting dialer; it doubles from there.
pub const RECONNECT_DELAY: Nanos = 500 * MILLISECOND;
/// Longest wait before any of its attempts.
pub const RECONNECT_DELAY_MAX: Nanos = 30 * SECOND;
/// Age of a connection from which its end counts as the first failure again.
pub const RECONNECT_SETTLED: Nanos = 30 * SECOND;
