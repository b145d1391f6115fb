//! Requests to other services: the client that sends them, the messages of the authentication hook, and copies of request heads.

pub(crate) mod head;
pub(crate) mod hook;
pub(crate) mod http_client;
