//! The web page of the chat room: three files, nothing from elsewhere.
//!
//! Never: a policy of its own; that is the one of all pages.

use crate::connection::Reply;
use crate::server::page::{html, script, style};

/// What a `GET` of a path gets: of `/chat` the page, of its files those.
pub fn page(path: &str) -> Option<Reply<'static>> {
    match path {
        "/chat" => Some(html(include_bytes!("chat.html"))),
        "/chat/chat.js" => Some(script(include_bytes!("chat.js"))),
        "/chat/chat.css" => Some(style(include_bytes!("chat.css"))),
        _ => None,
    }
}
