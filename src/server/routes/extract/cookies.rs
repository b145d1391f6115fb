//! [`Cookies`]: the cookies of a request (RFC 6265, 5.4).

use crate::routes::extract::FromRequest;
use crate::routes::request_context::RequestContext;
use crate::routes::response::Response;

/// The cookies of a request, by name. Values are as sent, without surrounding quotation marks.
///
/// Browsers send cookies from every page, also of other sites. The origin policy of the route keeps those out, and
/// `SameSite` in the `Set-Cookie` of a response does.
///
/// ```
/// use echoring::server::{Cookies, Handler, Response, Route};
///
/// # struct Member(String);
/// # impl Handler for Member {}
/// let route = Route::new("/ws", |cookies: Cookies| match cookies.get("session") {
///     Some(session) => Ok(Member(session.to_owned())),
///     None => Err(Response::text(401, "log in first\n")),
/// });
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cookies(Vec<(String, String)>);

impl Cookies {
    /// The value of a cookie. `None` if there are several of the name with different values: a browser sends several that were
    /// set for different paths or domains, and another application of the domain may have set one of them.
    pub fn get(&self, name: &str) -> Option<&str> {
        let mut values = self.values(name);
        let value = values.next()?;
        values.all(|other| other == value).then_some(value)
    }

    /// All values of a cookie, in order.
    pub fn values(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(own, _)| own == name).map(|(_, value)| value.as_str())
    }
}

impl FromRequest for Cookies {
    fn from_request(request: &RequestContext<'_>) -> Result<Cookies, Response> {
        let lines = request.values("cookie").filter_map(|line| str::from_utf8(line).ok());
        let pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| {
            let (name, value) = pair.split_once('=')?;
            let value = value.trim();
            let inner = value.strip_prefix('"').and_then(|value| value.strip_suffix('"'));
            Some((name.trim().to_owned(), inner.unwrap_or(value).to_owned()))
        });
        Ok(Cookies(pairs.collect()))
    }
}
