//! Cookies (RFC 6265) between dials.

#![forbid(unsafe_code)]

use echoring_proto::Url;

/// Stores cookies between dials. The jar decides which cookie is sent to which host: a general one needs a list of
/// public suffixes (RFC 6265, 5.3). The jar in this example ignores domains and is suitable for a single host.
///
/// ```
/// use std::collections::BTreeMap;
/// use std::sync::{Arc, Mutex};
///
/// use echoring::{Dialer, Jar};
/// use echoring::Url;
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
    /// The value of the `Cookie` field for `url`; `None` for no field.
    fn cookies(&self, url: &Url) -> Option<String>;

    /// Stores one `Set-Cookie` field of a response from `url`, whatever its status.
    fn store(&self, url: &Url, set_cookie: &str);
}
