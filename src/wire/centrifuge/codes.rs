//! The codes of errors, of disconnections, and of ended subscriptions.

use std::ops::RangeInclusive;

/// An error in a reply. Applications may use codes from 400 to 1999 of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Error<'a> {
    /// The code, for programs.
    pub code: u32,
    /// The description, for people.
    pub message: &'a str,
    /// Whether the client may try again.
    pub temporary: bool,
}

impl From<ErrorCode> for Error<'static> {
    fn from(code: ErrorCode) -> Error<'static> {
        Error { code: code.code(), message: code.message(), temporary: code.is_temporary() }
    }
}

/// The errors that the protocol defines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum ErrorCode {
    /// The server failed; the client may try again.
    Internal = 100,
    /// The client has not identified itself.
    Unauthorized = 101,
    /// There is no such channel.
    UnknownChannel = 102,
    /// The client may not do this.
    PermissionDenied = 103,
    /// There is no such method.
    MethodNotFound = 104,
    /// The client is subscribed to the channel already.
    AlreadySubscribed = 105,
    /// A limit of the server would be exceeded.
    LimitExceeded = 106,
    /// The command is invalid.
    BadRequest = 107,
    /// The channel or the server does not have this feature.
    NotAvailable = 108,
    /// The token has expired: the client gets a new one and tries again.
    TokenExpired = 109,
    /// The connection or subscription has expired, without a token.
    Expired = 110,
    /// The client sends more than it may; it may try again later.
    TooManyRequests = 111,
    /// The history does not reach back to the requested position.
    UnrecoverablePosition = 112,
    /// Another page of the same channel is being requested; the client may try again.
    ConcurrentPagination = 113,
}

impl ErrorCode {
    /// All of them, in ascending order.
    pub const ALL: [ErrorCode; 14] = [
        ErrorCode::Internal,
        ErrorCode::Unauthorized,
        ErrorCode::UnknownChannel,
        ErrorCode::PermissionDenied,
        ErrorCode::MethodNotFound,
        ErrorCode::AlreadySubscribed,
        ErrorCode::LimitExceeded,
        ErrorCode::BadRequest,
        ErrorCode::NotAvailable,
        ErrorCode::TokenExpired,
        ErrorCode::Expired,
        ErrorCode::TooManyRequests,
        ErrorCode::UnrecoverablePosition,
        ErrorCode::ConcurrentPagination,
    ];

    /// The number on the wire.
    pub fn code(self) -> u32 {
        self as u32
    }

    /// The description on the wire.
    pub fn message(self) -> &'static str {
        match self {
            ErrorCode::Internal => "internal server error",
            ErrorCode::Unauthorized => "unauthorized",
            ErrorCode::UnknownChannel => "unknown channel",
            ErrorCode::PermissionDenied => "permission denied",
            ErrorCode::MethodNotFound => "method not found",
            ErrorCode::AlreadySubscribed => "already subscribed",
            ErrorCode::LimitExceeded => "limit exceeded",
            ErrorCode::BadRequest => "bad request",
            ErrorCode::NotAvailable => "not available",
            ErrorCode::TokenExpired => "token expired",
            ErrorCode::Expired => "expired",
            ErrorCode::TooManyRequests => "too many requests",
            ErrorCode::UnrecoverablePosition => "unrecoverable position",
            ErrorCode::ConcurrentPagination => "concurrent pagination",
        }
    }

    /// Whether the same command may succeed later.
    pub fn is_temporary(self) -> bool {
        matches!(self, ErrorCode::Internal | ErrorCode::TooManyRequests | ErrorCode::ConcurrentPagination)
    }
}

/// Why the server ends a connection: the code and the reason of its WebSocket close frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum Disconnect {
    /// The connection was closed without a reason from the server.
    ConnectionClosed = 3000,
    /// The server shuts down.
    Shutdown = 3001,
    /// The server failed.
    ServerError = 3004,
    /// The connection's token has expired.
    Expired = 3005,
    /// The token of a subscription has expired.
    SubscriptionExpired = 3006,
    /// The client reads too slowly.
    Slow = 3008,
    /// Writing to the client failed.
    WriteError = 3009,
    /// The client's position in a channel is wrong; it recovers when it reconnects.
    InsufficientState = 3010,
    /// The server asks the client to reconnect.
    ForceReconnect = 3011,
    /// The client did not answer a ping in time.
    NoPong = 3012,
    /// The client sends more commands than it may.
    TooManyRequests = 3013,
    /// The client's state is no longer valid: it gets a new token and synchronizes again.
    StateInvalidated = 3014,
    /// The token is invalid.
    InvalidToken = 3500,
    /// The client violated the protocol.
    BadRequest = 3501,
    /// The client did not connect in time.
    Stale = 3502,
    /// The server asks the client to stay away.
    ForceNoReconnect = 3503,
    /// The client has too many connections.
    ConnectionLimit = 3504,
    /// The client has too many subscriptions.
    ChannelLimit = 3505,
    /// The client's encoding cannot carry the data.
    InappropriateProtocol = 3506,
    /// The client may not use this server.
    PermissionDenied = 3507,
    /// The server does not have the feature that a message without a reply asked for.
    NotAvailable = 3508,
    /// The client caused too many errors.
    TooManyErrors = 3509,
}

/// The codes after which a client does not reconnect.
const TERMINAL: [RangeInclusive<u16>; 2] = [3500..=3999, 4500..=4999];

impl Disconnect {
    /// All of them, in ascending order.
    pub const ALL: [Disconnect; 22] = [
        Disconnect::ConnectionClosed,
        Disconnect::Shutdown,
        Disconnect::ServerError,
        Disconnect::Expired,
        Disconnect::SubscriptionExpired,
        Disconnect::Slow,
        Disconnect::WriteError,
        Disconnect::InsufficientState,
        Disconnect::ForceReconnect,
        Disconnect::NoPong,
        Disconnect::TooManyRequests,
        Disconnect::StateInvalidated,
        Disconnect::InvalidToken,
        Disconnect::BadRequest,
        Disconnect::Stale,
        Disconnect::ForceNoReconnect,
        Disconnect::ConnectionLimit,
        Disconnect::ChannelLimit,
        Disconnect::InappropriateProtocol,
        Disconnect::PermissionDenied,
        Disconnect::NotAvailable,
        Disconnect::TooManyErrors,
    ];

    /// The close code.
    pub fn code(self) -> u16 {
        self as u16
    }

    /// The reason, at most 123 bytes, as a close frame carries it.
    pub fn reason(self) -> &'static str {
        match self {
            Disconnect::ConnectionClosed => "connection closed",
            Disconnect::Shutdown => "shutdown",
            Disconnect::ServerError => "internal server error",
            Disconnect::Expired => "connection expired",
            Disconnect::SubscriptionExpired => "subscription expired",
            Disconnect::Slow => "slow",
            Disconnect::WriteError => "write error",
            Disconnect::InsufficientState => "insufficient state",
            Disconnect::ForceReconnect => "force reconnect",
            Disconnect::NoPong => "no pong",
            Disconnect::TooManyRequests => "too many requests",
            Disconnect::StateInvalidated => "state invalidated",
            Disconnect::InvalidToken => "invalid token",
            Disconnect::BadRequest => "bad request",
            Disconnect::Stale => "stale",
            Disconnect::ForceNoReconnect => "force disconnect",
            Disconnect::ConnectionLimit => "connection limit",
            Disconnect::ChannelLimit => "channel limit",
            Disconnect::InappropriateProtocol => "inappropriate protocol",
            Disconnect::PermissionDenied => "permission denied",
            Disconnect::NotAvailable => "not available",
            Disconnect::TooManyErrors => "too many errors",
        }
    }

    /// Whether the client reconnects.
    pub fn reconnects(self) -> bool {
        Disconnect::reconnects_after(self.code())
    }

    /// Whether a client reconnects after this close code, which may be one of the application's: all codes except those
    /// from 3500 to 3999 and from 4500 to 4999. SDKs also stay away after 1009 (message too big).
    pub fn reconnects_after(code: u16) -> bool {
        !TERMINAL.iter().any(|range| range.contains(&code))
    }
}

/// Why the server ends a subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum UnsubscribeCode {
    /// The server ended it.
    Server = 2000,
    /// The client's position in the channel is wrong, or it missed publications: it recovers when it subscribes again.
    InsufficientState = 2500,
    /// The subscription has expired.
    Expired = 2501,
    /// The client's state is no longer valid: it gets a new token and synchronizes again.
    StateInvalidated = 2502,
}

impl UnsubscribeCode {
    /// All of them, in ascending order.
    pub const ALL: [UnsubscribeCode; 4] = [
        UnsubscribeCode::Server,
        UnsubscribeCode::InsufficientState,
        UnsubscribeCode::Expired,
        UnsubscribeCode::StateInvalidated,
    ];

    /// The number on the wire.
    pub fn code(self) -> u32 {
        self as u32
    }

    /// The description on the wire.
    pub fn reason(self) -> &'static str {
        match self {
            UnsubscribeCode::Server => "server unsubscribe",
            UnsubscribeCode::InsufficientState => "insufficient state",
            UnsubscribeCode::Expired => "subscription expired",
            UnsubscribeCode::StateInvalidated => "state invalidated",
        }
    }

    /// Whether the client subscribes again by itself: from 2500.
    pub fn resubscribes(self) -> bool {
        self.code() >= 2500
    }
}
