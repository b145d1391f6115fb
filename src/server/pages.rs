//! The demo pages: `/` connects to `/echo` and shows the round trip; `/broadcast` subscribes to a topic with
//! `echoring.v1.json` and publishes to it. They share the style sheet `page.css`.
//!
//! The client of `/broadcast` is in `pages/client`. It is also an npm package: that is what `package.json`, `README.md` and the types,
//! `echoring.d.ts` and `event-streams.d.ts`, are for, and the module `event-streams.js`, which pages load if they need it.
//!
//! The content security policy of a page allows its own scripts and style sheets and connections to its own origin, and
//! nothing else. Paths below `/broadcast/` are topics, so the files of the page are beside it.

use echoring_proto::connection::Reply;

/// The response to a `GET` of `path`.
pub(crate) fn find(path: &str) -> Option<Reply<'static>> {
    match path {
        "/" => Some(html(include_bytes!("pages/echo.html"))),
        "/echo.js" => Some(script(include_bytes!("pages/echo.js"))),
        "/echo.css" => Some(style(include_bytes!("pages/echo.css"))),
        "/broadcast" => Some(html(include_bytes!("pages/broadcast.html"))),
        "/broadcast.js" => Some(script(include_bytes!("pages/broadcast.js"))),
        "/broadcast.css" => Some(style(include_bytes!("pages/broadcast.css"))),
        "/echoring.js" => Some(script(include_bytes!("pages/client/echoring.js"))),
        "/page.css" => Some(style(include_bytes!("pages/page.css"))),
        _ => None,
    }
}

/// The header fields of all files. The files are small, and revalidated with each visit so that they match.
macro_rules! headers {
    () => {
        "Cache-Control: no-cache\r\nX-Content-Type-Options: nosniff\r\nReferrer-Policy: no-referrer\r\n\
         Cross-Origin-Resource-Policy: same-origin\r\n"
    };
}

const fn html(body: &'static [u8]) -> Reply<'static> {
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

const fn script(body: &'static [u8]) -> Reply<'static> {
    Reply { content_type: "text/javascript; charset=utf-8", headers: headers!(), ..html(body) }
}

const fn style(body: &'static [u8]) -> Reply<'static> {
    Reply { content_type: "text/css; charset=utf-8", headers: headers!(), ..html(body) }
}
