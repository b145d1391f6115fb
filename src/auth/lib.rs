//! Who a client is, and what it may do: credentials of a handshake, tokens, keys, passwords, the HTTP hook, and TLS client
//! certificates.
//!
//! [`Authenticator`] decides. Decisions without waiting (static tokens, JWT with known keys) are made by
//! `Authenticator::check` on the caller's thread. The rest is a [`Question`] for the thread that makes all calls to other services,
//! which answers by a callback. The time is an argument everywhere except on that thread.
//!
//! Nothing here logs a credential, and no `Debug` shows one.
#![forbid(unsafe_code)]

/// Implements `Debug` that shows no more than these fields: others may be secret.
macro_rules! opaque {
    ($type:ident) => {
        opaque!($type, |_it| );
    };
    ($type:ident, |$it:ident| $($name:ident: $value:expr),*) => {
        impl ::std::fmt::Debug for $type {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                let $it = self;
                f.debug_struct(stringify!($type))$(.field(stringify!($name), &$value))*.finish_non_exhaustive()
            }
        }
    };
}

mod app;
mod authenticator;
mod blocklist;
mod calls;
mod credentials;
mod error;
mod file;
mod identity;
pub mod limits;
mod methods;
mod question;
mod settings;
mod tokens;
mod worker;

pub use crate::calls::backend::{
    Backend, BackendAction, BackendAnswer, BackendConnection, BackendDelivery, BackendEvent, BackendFigures,
    BackendOutcome, BackendSettings, ConnectFacts, OnFailure,
};
pub use crate::calls::head::OwnedHead;
pub use crate::calls::load::{Counted, Full, Load, Share, Source};
pub use crate::calls::metrics::{CallMetric, CallSamples};
pub use crate::calls::signature::{SigningSecrets, WEBHOOK_ID, WEBHOOK_SIGNATURE, WEBHOOK_TIMESTAMP};
pub use crate::calls::webhooks::{
    WEBHOOKS, Webhook, WebhookConnection, WebhookCounters, WebhookEvent, WebhookKind, WebhookKinds,
    WebhookMember, WebhookReceiver, WebhookReceivers, Webhooks,
};
pub use app::{
    App, AppAnswer, AppConnected, AppEvent, AppSettings, Call, ClientProgram, Failed, Forwarded,
    InvalidFields, NamedHooks, hooks_id,
};
pub use authenticator::Authenticator;
pub use blocklist::{Block, Blocked, SharedBlocklist};
pub use credentials::certificate::CertificateSubject;
pub use credentials::presented::{Credentials, Presented, SUBPROTOCOL, Sources, extract};
pub use error::LoadError;
pub use identity::app_data::AppData;
pub use identity::info::Info;
pub use identity::server_subscriptions::{ServerSubscription, ServerSubscriptions};
pub use identity::{Identity, Method, Right, Rights, may};
pub use methods::KeySetState;
pub use question::{Decision, Denied, Question, Renewal, Reply, Verdict};
pub use settings::{Hook, Jwks, JwksSource, Settings};
pub use tokens::claims::SubscriptionGrant;
