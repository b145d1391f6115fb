//! The room's page: an HTML file, a script and a style sheet.

use std::error::Error;

use echoring::HttpResponse;

/// The page runs its own script and style sheet, and connects to its own origin, and nothing else.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
                      require-trusted-types-for 'script'; trusted-types 'none'";

/// The response to a `GET` of `path`: the page, one of its files, or 404.
pub fn respond(path: &str) -> HttpResponse {
    let file = match path {
        "/chat" => file("text/html; charset=utf-8", include_str!("chat.html")),
        "/chat/chat.js" => file("text/javascript; charset=utf-8", include_str!("chat.js")),
        "/chat/chat.css" => file("text/css; charset=utf-8", include_str!("chat.css")),
        _ => return HttpResponse::new(404, "no such path\n"),
    };
    file.unwrap_or_else(|error| HttpResponse::new(500, format!("{error}\n")))
}

fn file(content_type: &str, body: &str) -> Result<HttpResponse, Box<dyn Error>> {
    let mut answer = HttpResponse::new(200, body);
    for (name, value) in [
        ("Content-Type", content_type),
        ("Cache-Control", "no-cache"),
        ("X-Content-Type-Options", "nosniff"),
        ("X-Frame-Options", "DENY"),
        ("Referrer-Policy", "no-referrer"),
        ("Cross-Origin-Resource-Policy", "same-origin"),
    ] {
        answer.set_header(name, value)?;
    }
    if content_type.starts_with("text/html") {
        answer.set_header("Content-Security-Policy", POLICY)?;
    }
    Ok(answer)
}
