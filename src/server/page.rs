//! What a browser sees on `/`. The page carries its own content security policy.

use crate::connection::Reply;

/// The page that connects to `/echo` and shows the round trip.
pub(super) const PAGE: Reply = Reply {
    status: 200,
    content_type: "text/html; charset=utf-8",
    headers: "Cache-Control: no-cache\r\nX-Content-Type-Options: nosniff\r\nX-Frame-Options: DENY\r\n\
              Referrer-Policy: no-referrer\r\n",
    body: include_bytes!("page.html"),
    head_only: false,
};
