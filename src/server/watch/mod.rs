//! The web page on `/broadcast`, which watches a topic by the subprotocol `echoring.v1.json`: three files, nothing from
//! elsewhere.
//!
//! Never: paths below `/broadcast/`, which are topics.

use super::page::{html, script, style};
use crate::connection::Reply;

/// What a `GET` of a path gets: of `/broadcast` the page, of the files beside it those.
pub(super) fn page(path: &str) -> Option<Reply<'static>> {
    match path {
        "/broadcast" => Some(html(include_bytes!("watch.html"))),
        "/broadcast.js" => Some(script(include_bytes!("watch.js"))),
        "/broadcast.css" => Some(style(include_bytes!("watch.css"))),
        _ => None,
    }
}
