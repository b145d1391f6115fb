//! The codes of errors, of disconnections, and of ended subscriptions.

use std::ops::RangeInclusive;

use crate::centrifuge::messages::Error;

impl From<ErrorCode> for Error<'static> {
    fn from(code: ErrorCode) -> Error<'static> {
        Error { code: code.code(), message: code.message(), temporary: code.is_temporary() }
    }
}

/// Codes with their texts on the wire.
macro_rules! codes {
    (
        $(#[$doc:meta])* $name:ident: $number:ident;
        $(#[$text_doc:meta])* $text:ident;
        $($(#[$variant_doc:meta])* $variant:ident = $code:literal $words:literal,)*
    ) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr($number)]
        pub enum $name {
            $($(#[$variant_doc])* $variant = $code,)*
        }

        echoring_proto::plain!(for enum $name { $($variant),* });

        impl $name {
            /// All of them, in ascending order.
            pub const ALL: [$name; [$($code),*].len()] = [$($name::$variant),*];

            /// The number on the wire.
            pub fn code(self) -> $number {
                self as $number
            }

            $(#[$text_doc])*
            pub fn $text(self) -> &'static str {
                match self {
                    $($name::$variant => $words,)*
                }
            }
        }
    };
}

codes! {
    /// The errors that the protocol defines.
    ErrorCode: u32;

    /// The description on the wire.
    message;

    /// The server failed; the client may try again.
    Internal = 100 "internal server error",
    /// The client has not identified itself.
    Unauthorized = 101 "unauthorized",
    /// There is no such channel.
    UnknownChannel = 102 "unknown channel",
    /// The client may not do this.
    PermissionDenied = 103 "permission denied",
    /// There is no such method.
    MethodNotFound = 104 "method not found",
    /// The client is subscribed to the channel already.
    AlreadySubscribed = 105 "already subscribed",
    /// A limit of the server would be exceeded.
    LimitExceeded = 106 "limit exceeded",
    /// The command is invalid.
    BadRequest = 107 "bad request",
    /// The channel or the server does not have this feature.
    NotAvailable = 108 "not available",
    /// The token has expired: the client gets a new one and tries again.
    TokenExpired = 109 "token expired",
    /// The connection or subscription has expired, without a token.
    Expired = 110 "expired",
    /// The client sends more than it may; it may try again later.
    TooManyRequests = 111 "too many requests",
    /// The history does not reach back to the requested position.
    UnrecoverablePosition = 112 "unrecoverable position",
    /// Another page of the same channel is being requested; the client may try again.
    ConcurrentPagination = 113 "concurrent pagination",
}

impl ErrorCode {
    /// Whether the same command may succeed later.
    pub fn is_temporary(self) -> bool {
        matches!(self, ErrorCode::Internal | ErrorCode::TooManyRequests | ErrorCode::ConcurrentPagination)
    }

    /// Whether the client asks for what the protocol or the server does not have. The other errors refuse a command that may be sent.
    pub fn is_violation(self) -> bool {
        matches!(self, ErrorCode::BadRequest | ErrorCode::MethodNotFound | ErrorCode::NotAvailable)
    }
}

codes! {
    /// Why the server ends a connection: the code and the reason of its WebSocket close frame.
    Disconnect: u16;

    /// The reason, at most 123 bytes, as a close frame carries it.
    reason;

    /// The connection was closed without a reason from the server.
    ConnectionClosed = 3000 "connection closed",
    /// The server shuts down.
    Shutdown = 3001 "shutdown",
    /// The server failed.
    ServerError = 3004 "internal server error",
    /// The connection's token has expired.
    Expired = 3005 "connection expired",
    /// The token of a subscription has expired.
    SubscriptionExpired = 3006 "subscription expired",
    /// The client reads too slowly.
    Slow = 3008 "slow",
    /// Writing to the client failed.
    WriteError = 3009 "write error",
    /// The client's position in a channel is wrong; it recovers when it reconnects.
    InsufficientState = 3010 "insufficient state",
    /// The server asks the client to reconnect.
    ForceReconnect = 3011 "force reconnect",
    /// The client did not answer a ping in time.
    NoPong = 3012 "no pong",
    /// The client sends more commands than it may.
    TooManyRequests = 3013 "too many requests",
    /// The client's state is no longer valid: it gets a new token and synchronizes again.
    StateInvalidated = 3014 "state invalidated",
    /// The token is invalid.
    InvalidToken = 3500 "invalid token",
    /// The client violated the protocol.
    BadRequest = 3501 "bad request",
    /// The client did not connect in time.
    Stale = 3502 "stale",
    /// The server asks the client to stay away.
    ForceNoReconnect = 3503 "force disconnect",
    /// The client has too many connections.
    ConnectionLimit = 3504 "connection limit",
    /// The client has too many subscriptions.
    ChannelLimit = 3505 "channel limit",
    /// The client's encoding cannot carry the data.
    InappropriateProtocol = 3506 "inappropriate protocol",
    /// The client may not use this server.
    PermissionDenied = 3507 "permission denied",
    /// The server does not have the feature that a message without a reply asked for.
    NotAvailable = 3508 "not available",
    /// The client caused too many errors.
    TooManyErrors = 3509 "too many errors",
}

/// The codes after which a client does not reconnect.
const TERMINAL: [RangeInclusive<u16>; 2] = [3500..=3999, 4500..=4999];

impl Disconnect {
    /// Whether a client reconnects after this close code, which may be one of the application's: all codes except those
    /// from 3500 to 3999 and from 4500 to 4999. SDKs also stay away after 1009 (message too big).
    pub fn reconnects_after(code: u16) -> bool {
        !TERMINAL.iter().any(|range| range.contains(&code))
    }
}

codes! {
    /// Why the server ends a subscription.
    UnsubscribeCode: u32;

    /// The description on the wire.
    reason;

    /// The server ended it.
    Server = 2000 "server unsubscribe",
    /// The client's position in the channel is wrong, or it missed publications: it recovers when it subscribes again.
    InsufficientState = 2500 "insufficient state",
    /// The subscription has expired.
    Expired = 2501 "subscription expired",
    /// The client's state is no longer valid: it gets a new token and synchronizes again.
    StateInvalidated = 2502 "state invalidated",
}
