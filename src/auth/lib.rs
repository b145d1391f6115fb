//! Who a client is, and what it may do: credentials of a handshake, tokens, keys, passwords, the HTTP hook, and TLS client
//! certificates.
//!
//! [`Authenticator`] decides. Decisions without waiting (static tokens, JWT with known keys) are made by
//! `Authenticator::check` on the caller's thread. The rest is a [`Question`] for the thread of [`worker`], which answers
//! by a callback. The time is an argument everywhere except on that thread.
//!
//! Nothing here logs a credential, and no `Debug` shows one.
#![forbid(unsafe_code)]

mod app;
mod authenticator;
mod blocklist;
mod credentials;
mod error;
mod file;
mod http;
mod identity;
pub mod limits;
mod methods;
mod question;
mod settings;
mod tokens;
pub mod worker;

pub use crate::http::backend::{
    Backend, BackendAction, BackendAnswer, BackendConnection, BackendDelivery, BackendEvent, BackendFigures,
    BackendOutcome, BackendSettings, ConnectFacts, EventCounts, OnFailure,
};
pub use crate::http::head::OwnedHead;
pub use crate::http::load::Full;
pub use crate::http::signature::{SigningSecrets, WEBHOOK_ID, WEBHOOK_SIGNATURE, WEBHOOK_TIMESTAMP};
pub use crate::http::webhooks::{
    WEBHOOKS, Webhook, WebhookConnection, WebhookCounters, WebhookEvent, WebhookKind, WebhookKinds,
    WebhookMember, Webhooks,
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
