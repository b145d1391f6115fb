//! Requests to other services: the client that sends them, their signatures, back ends of routes, webhooks, the messages of the
//! authentication hook, and copies of request heads.

pub(crate) mod backend;
pub(crate) mod head;
pub(crate) mod hook;
pub(crate) mod http_client;
pub(crate) mod load;
pub(crate) mod signature;
pub(crate) mod webhooks;
