//! Where tokens come from: a callback of the program, whose futures the task of the client polls.
//!
//! Never: showing a token.

use std::error::Error;
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;

use tokio::time::timeout;

use crate::limits::{TOKEN_FETCHES_MAX, TOKEN_TIMEOUT};

/// Why the program has no token.
pub(crate) type Failure = Box<dyn Error + Send + Sync>;
pub(crate) type Fetched = Result<String, Failure>;
type Fetching = Pin<Box<dyn Future<Output = Fetched> + Send>>;

/// Fetches tokens: the first one, and a fresh one before or after each expires.
///
/// ```
/// use echoring::client::{Client, SubscribeOptions, TokenSource};
///
/// async fn token_for(user: &str) -> Result<String, std::io::Error> {
///     // Asks the program's back end.
/// #   let _ = user;
///     Ok("eyJhbGciOi".to_owned())
/// }
///
/// // Of the session, in any protocol.
/// let builder = Client::v1("wss://live.example/broadcast").token_source(TokenSource::new(|| token_for("alice")));
/// // Of one subscription, in Centrifuge's protocol.
/// let options = SubscribeOptions::default().token_source(TokenSource::new(|| token_for("alice")));
/// # drop((builder, options));
/// ```
#[derive(Clone)]
#[must_use]
pub struct TokenSource {
    fetch: Arc<dyn Fn() -> Fetching + Send + Sync>,
    single_use: bool,
}

impl TokenSource {
    /// Calls `fetch` for each token. The task of the client polls its future, which may not block, and drops it after 30
    /// seconds.
    ///
    /// If it fails, it is called again, after a delay that grows: as part of the next attempt to connect, before the token
    /// in use expires, or to subscribe. Only [`Unauthorized`] is final.
    pub fn new<F, E>(fetch: impl Fn() -> F + Send + Sync + 'static) -> TokenSource
    where
        F: Future<Output = Result<String, E>> + Send + 'static,
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        let fetch = move || -> Fetching {
            let fetching = fetch();
            Box::pin(async move { fetching.await.map_err(Into::into) })
        };
        TokenSource { fetch: Arc::new(fetch), single_use: false }
    }

    /// Fetches a token for each attempt to connect, because a server takes each one once. Otherwise a token is kept, and
    /// presented again until it expires.
    ///
    /// ```
    /// use echoring::client::{Client, TokenSource};
    ///
    /// async fn ticket() -> Result<String, std::io::Error> {
    ///     Ok("5f0c6a8e".to_owned())
    /// }
    ///
    /// let builder = Client::v1("wss://live.example/broadcast").token_source(TokenSource::new(ticket).single_use());
    /// # drop(builder);
    /// ```
    pub fn single_use(self) -> TokenSource {
        TokenSource { single_use: true, ..self }
    }

    fn fetch(&self) -> Fetching {
        let fetching = (self.fetch)();
        Box::pin(async move {
            match timeout(TOKEN_TIMEOUT, fetching).await {
                Ok(fetched) => fetched,
                Err(_) => Err("the token source took too long".into()),
            }
        })
    }
}

impl fmt::Debug for TokenSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenSource").field("single_use", &self.single_use).finish_non_exhaustive()
    }
}

/// The error of a [`TokenSource`] that is final: this user gets no token. It ends the client, or the subscription that the
/// token is for. After any other error the source is asked again.
///
/// ```
/// use echoring::client::{TokenSource, Unauthorized};
///
/// async fn ask() -> Result<Option<String>, std::io::Error> {
///     // Asks the program's back end.
///     Ok(None)
/// }
///
/// let source = TokenSource::new(async || -> Result<String, Box<dyn std::error::Error + Send + Sync>> {
///     // While the back end is away, the client goes on asking.
///     let token = ask().await?;
///     Ok(token.ok_or(Unauthorized)?)
/// });
/// # drop(source);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Unauthorized;

impl fmt::Display for Unauthorized {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the user gets no token")
    }
}

impl Error for Unauthorized {}

echoring_proto::error_debug!(struct Unauthorized);

/// Whether a source need not be asked again.
pub(crate) fn is_final(error: &Failure) -> bool {
    error.is::<Unauthorized>()
}

/// A token, and where another one comes from. Clones share the token: attempts to connect present the one that the session
/// has.
#[derive(Clone, Default)]
pub(crate) struct Credentials {
    source: Option<TokenSource>,
    /// `None` if there is none, or the last one has expired.
    token: Arc<Mutex<Option<String>>>,
}

impl Credentials {
    pub(crate) fn new(token: Option<String>, source: Option<TokenSource>) -> Credentials {
        Credentials { source, token: Arc::new(Mutex::new(token)) }
    }

    pub(crate) fn source(&self) -> Option<&TokenSource> {
        self.source.as_ref()
    }

    pub(crate) fn token(&self) -> Option<String> {
        self.token.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set(&self, token: Option<String>) {
        *self.token.lock().unwrap_or_else(PoisonError::into_inner) = token;
    }

    /// The token that another attempt may present.
    pub(crate) fn kept(&self) -> Option<String> {
        self.token().filter(|_| self.source.as_ref().is_none_or(|source| !source.single_use))
    }

    /// Fetches another one, if there is a source.
    ///
    /// # Errors
    /// Those of the source.
    pub(crate) async fn fetch(&self) -> Result<Option<String>, Failure> {
        let Some(source) = &self.source else { return Ok(None) };
        let token = source.fetch().await?;
        self.set(Some(token.clone()));
        Ok(Some(token))
    }
}

/// Tokens that are being fetched, with the numbers of their requests.
#[derive(Default)]
pub(crate) struct Fetches(Vec<(u32, Fetching)>);

impl Fetches {
    /// Whether another one may begin.
    pub(crate) fn has_room(&self) -> bool {
        self.0.len() < TOKEN_FETCHES_MAX
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn begin(&mut self, id: u32, source: &TokenSource) {
        self.0.push((id, source.fetch()));
    }

    /// The next one that is there. Cancel-safe. Waits for ever if there is none.
    pub(crate) async fn next(&mut self) -> (u32, Fetched) {
        poll_fn(|cx| {
            for index in 0..self.0.len() {
                let (id, fetching) = &mut self.0[index];
                if let Poll::Ready(fetched) = fetching.as_mut().poll(cx) {
                    let id = *id;
                    drop(self.0.swap_remove(index));
                    return Poll::Ready((id, fetched));
                }
            }
            Poll::Pending
        })
        .await
    }
}
