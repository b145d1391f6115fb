//! Routes: which code of a program a request reaches, and with which values.

pub(crate) mod extract;
pub(crate) mod factory;
pub(crate) mod middleware;
pub(crate) mod pattern;
pub(crate) mod request_context;
pub(crate) mod response;
pub(crate) mod route;
pub(crate) mod states;
pub(crate) mod times;
pub(crate) mod topic_name;
