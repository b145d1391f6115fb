//! `GET /`: the operator's page. It shows the answers of the other paths, and has no data of its own.
//!
//! The page is one file with inline style and script, so that it needs no further path that is served without the token.
//! Its content security policy names both by their hashes, and allows requests to its own origin only.

use std::sync::LazyLock;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hyper::StatusCode;
use hyper::header::{CONTENT_SECURITY_POLICY, HeaderName, HeaderValue, REFERRER_POLICY, X_FRAME_OPTIONS};

use super::http::Reply;
use echoring_proto::CloseCode;

const HTML: &str = include_str!("page/page.html");
const STYLE: &str = include_str!("page/page.css");
static SCRIPT: LazyLock<String> = LazyLock::new(|| {
    let script = concat!(
        include_str!("page/figures.js"),
        include_str!("page/elements.js"),
        include_str!("page/sections.js"),
        include_str!("page/main.js"),
    );
    // An object from codes to names.
    let names = CloseCode::NAMED.map(|(_, code, name)| format!("{code}: \"{name}\""));
    script.replace("{close_codes}", &format!("{{ {} }}", names.join(", ")))
});

/// The page as it is sent, and its policy.
static PAGE: LazyLock<(String, HeaderValue)> = LazyLock::new(|| (html(), policy()));

/// The answer to `GET /`.
pub(super) fn reply() -> Reply {
    let (html, policy) = &*PAGE;
    let fixed = |name: HeaderName, value: &'static str| (name, HeaderValue::from_static(value));
    Reply {
        content_type: "text/html; charset=utf-8",
        headers: vec![
            (CONTENT_SECURITY_POLICY, policy.clone()),
            fixed(REFERRER_POLICY, "no-referrer"),
            fixed(X_FRAME_OPTIONS, "DENY"),
            fixed(HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
            fixed(HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        ],
        body: html.clone().into_bytes(),
        ..Reply::empty(StatusCode::OK)
    }
}

fn html() -> String {
    HTML.replace("{style}", STYLE).replace("{script}", &SCRIPT)
}

fn policy() -> HeaderValue {
    let policy = format!(
        "default-src 'none'; script-src '{}'; style-src '{}'; connect-src 'self'; img-src data:; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
        source(&SCRIPT),
        source(STYLE)
    );
    // Base64 and the text above are visible ASCII. A policy that allows nothing would be the safe failure.
    HeaderValue::try_from(policy).unwrap_or(HeaderValue::from_static("default-src 'none'"))
}

/// The source expression of an inline element.
fn source(content: &str) -> String {
    format!("sha256-{}", BASE64.encode(digest(&SHA256, content.as_bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The text between two markers, which occur once each.
    fn between<'a>(html: &'a str, from: &str, to: &str) -> &'a str {
        let (before, rest) = html.split_once(from).expect("the start");
        let (content, after) = rest.split_once(to).expect("the end");
        assert!(!before.contains(to) && !after.contains(from), "{from} occurs once");
        content
    }

    #[test]
    fn the_policy_names_the_inline_elements_as_they_are_sent() {
        let reply = reply();
        let html = String::from_utf8(reply.body).expect("UTF-8");
        let policy = reply.headers[0].1.to_str().expect("visible characters");
        for (from, to, directive) in
            [("<script>", "</script>", "script-src"), ("<style>", "</style>", "style-src")]
        {
            let hash = source(between(&html, from, to));
            assert!(policy.contains(&format!("; {directive} '{hash}'; ")), "{policy}");
        }
        assert!(policy.starts_with("default-src 'none'; ") && !policy.contains("unsafe"), "{policy}");
    }

    #[test]
    fn the_page_is_one_file_and_names_no_other_host() {
        let html = html().replace("http://www.w3.org/2000/svg", "");
        assert!(["{style}", "{script}", "{close_codes}"].iter().all(|name| !html.contains(name)));
        for outside in ["://", "@import", " src=", "url("] {
            assert!(!html.contains(outside), "{outside}");
        }
    }
}
