//! What a browser sees on `/`, which carries its own content security policy, and how the files of the other pages leave.
//!
//! A page must never be allowed more than it needs: the policy lets it run its own script, look as its own style sheet
//! says, and connect to where it came from.

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

/// What all files of a page carry. They are small, and are asked for again with each visit, so that they always fit each
/// other.
macro_rules! headers {
    () => {
        "Cache-Control: no-cache\r\nX-Content-Type-Options: nosniff\r\nReferrer-Policy: no-referrer\r\n\
         Cross-Origin-Resource-Policy: same-origin\r\n"
    };
}

/// A page whose script and style sheet are files beside it.
pub(super) const fn html(body: &'static [u8]) -> Reply<'static> {
    Reply {
        status: 200,
        content_type: "text/html; charset=utf-8",
        headers: concat!(
            headers!(),
            "Content-Security-Policy: default-src 'none'; script-src 'self'; style-src 'self'; \
             connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
             require-trusted-types-for 'script'; trusted-types 'none'\r\nX-Frame-Options: DENY\r\n"
        ),
        body,
        head_only: false,
    }
}

/// A page's script.
pub(super) const fn script(body: &'static [u8]) -> Reply<'static> {
    Reply { content_type: "text/javascript; charset=utf-8", headers: headers!(), ..html(body) }
}

/// A page's style sheet.
pub(super) const fn style(body: &'static [u8]) -> Reply<'static> {
    Reply { content_type: "text/css; charset=utf-8", headers: headers!(), ..html(body) }
}
