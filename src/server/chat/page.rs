//! The web page of the chat room: three files, nothing from elsewhere.
//!
//! It must never be allowed more than it needs: the policy lets it run its own script, look as its own style
//! sheet says, and connect to where it came from.

use crate::connection::Reply;

/// What all of the page's files carry. They are small, and are asked for again with each visit, so that they
/// always fit each other.
macro_rules! headers {
    () => {
        "Cache-Control: no-cache\r\nX-Content-Type-Options: nosniff\r\nReferrer-Policy: no-referrer\r\n\
         Cross-Origin-Resource-Policy: same-origin\r\n"
    };
}

const PAGE: Reply<'static> = Reply {
    status: 200,
    content_type: "text/html; charset=utf-8",
    headers: concat!(
        headers!(),
        "Content-Security-Policy: default-src 'none'; script-src 'self'; style-src 'self'; \
         connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
         require-trusted-types-for 'script'; trusted-types 'none'\r\nX-Frame-Options: DENY\r\n"
    ),
    body: include_bytes!("chat.html"),
    head_only: false,
};
const SCRIPT: Reply<'static> = Reply {
    content_type: "text/javascript; charset=utf-8",
    headers: headers!(),
    body: include_bytes!("chat.js"),
    ..PAGE
};
const STYLE: Reply<'static> = Reply {
    content_type: "text/css; charset=utf-8",
    headers: headers!(),
    body: include_bytes!("chat.css"),
    ..PAGE
};

/// What a `GET` of a path gets: of `/chat` the page, of its files those.
pub fn page(path: &str) -> Option<Reply<'static>> {
    match path {
        "/chat" => Some(PAGE),
        "/chat/chat.js" => Some(SCRIPT),
        "/chat/chat.css" => Some(STYLE),
        _ => None,
    }
}
