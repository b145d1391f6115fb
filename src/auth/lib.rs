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
mod app_data;
mod authenticator;
mod basic;
mod cache;
mod certificate;
mod claims;
mod credentials;
mod error;
mod file;
mod head;
mod hook;
mod http_client;
mod identity;
mod jwks;
mod jwt;
mod key;
pub mod limits;
mod memory;
mod patterns;
mod secret;
mod server_subscriptions;
mod settings;
mod tokens;
pub mod worker;

pub use app::{App, AppAnswer, AppConnected, AppEvent, AppSettings, Call, ClientProgram, Failed, Forwarded};
pub use app_data::AppData;
pub use authenticator::{Authenticator, Decision, Denied, KeySetState, Question, Renewal, Reply, Verdict};
pub use certificate::CertificateSubject;
pub use claims::SubscriptionGrant;
pub use credentials::{Credentials, Presented, SUBPROTOCOL, Sources, extract};
pub use error::LoadError;
pub use head::OwnedHead;
pub use identity::{Identity, Method, Right, Rights, may};
pub use server_subscriptions::{ServerSubscription, ServerSubscriptions};
pub use settings::{Hook, Jwks, JwksSource, Settings};
