//! Cookies of a dial (RFC 6265): who keeps them.

#![forbid(unsafe_code)]

use crate::protocol::Url;

/// Keeps cookies between dials. Which cookie goes where is a jar's to decide, for that needs a list of the domains
/// under which anybody may have a name (RFC 6265, 5.3); this one leaves domains alone and does well for one host.
///
/// ```
/// use std::collections::BTreeMap;
/// use std::sync::{Arc, Mutex};
///
/// use echoring::aio::{Dialer, Jar};
/// use echoring::protocol::Url;
///
/// /// Cookies of this session, each for the very host that set it.
/// #[derive(Default)]
/// struct Session(Mutex<BTreeMap<(String, String), String>>);
///
/// impl Jar for Session {
///     fn cookies(&self, url: &Url) -> Option<String> {
///         let kept = self.0.lock().ok()?;
///         let of_host = kept.iter().filter(|((host, _), _)| *host == url.host);
///         let pairs: Vec<String> = of_host.map(|((_, name), value)| format!("{name}={value}")).collect();
///         (!pairs.is_empty()).then(|| pairs.join("; "))
///     }
///
///     fn store(&self, url: &Url, set_cookie: &str) {
///         let pair = set_cookie.split(';').next().unwrap_or_default();
///         if let (Some((name, value)), Ok(mut kept)) = (pair.split_once('='), self.0.lock()) {
///             kept.insert((url.host.clone(), name.trim().to_owned()), value.trim().to_owned());
///         }
///     }
/// }
///
/// let jar: Arc<dyn Jar> = Arc::new(Session::default());
/// jar.store(&Url::parse("wss://a.example/").unwrap(), "id=7; Secure; HttpOnly");
/// assert_eq!(jar.cookies(&Url::parse("wss://a.example/x").unwrap()).as_deref(), Some("id=7"));
/// assert_eq!(jar.cookies(&Url::parse("wss://b.example/").unwrap()), None);
/// let dialer = Dialer::new().cookies(jar);
/// ```
pub trait Jar: Send + Sync {
    /// What `Cookie` says to `url`; `None` when there is nothing to say.
    fn cookies(&self, url: &Url) -> Option<String>;

    /// Takes one `Set-Cookie` of an answer of `url`'s, accepting or not, as it was sent.
    fn store(&self, url: &Url, set_cookie: &str);
}
