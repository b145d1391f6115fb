//! Where tokens come from: a callback of the program, whose futures the task of the client polls.
//!
//! Never: showing a token.

use std::error::Error;
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use crate::limits::TOKEN_FETCHES_MAX;

/// Why the program has no token.
pub(crate) type Failure = Box<dyn Error + Send + Sync>;
pub(crate) type Fetched = Result<String, Failure>;
type Fetching = Pin<Box<dyn Future<Output = Fetched> + Send>>;

/// Fetches tokens: the first one, and a fresh one before or after each expires.
///
/// ```
/// use echoring::client::{SubscribeOptions, TokenSource};
///
/// async fn token_for(topic: &str) -> Result<String, std::io::Error> {
///     // Asks the program's back end.
/// #   let _ = topic;
///     Ok("eyJhbGciOi".to_owned())
/// }
///
/// let tokens = TokenSource::new(|| token_for("orders.alice"));
/// let options = SubscribeOptions::default().token_source(tokens);
/// # drop(options);
/// ```
#[derive(Clone)]
pub struct TokenSource(Arc<dyn Fn() -> Fetching + Send + Sync>);

impl TokenSource {
    /// Calls `fetch` for each token. The task of the client polls its future, which may not block; bound its time, because
    /// nothing else does.
    ///
    /// Its error is final: it ends whatever the token is for.
    pub fn new<F, E>(fetch: impl Fn() -> F + Send + Sync + 'static) -> TokenSource
    where
        F: Future<Output = Result<String, E>> + Send + 'static,
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        TokenSource(Arc::new(move || {
            let fetching = fetch();
            Box::pin(async move { fetching.await.map_err(Into::into) })
        }))
    }
}

impl fmt::Debug for TokenSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenSource").finish_non_exhaustive()
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
        self.0.push((id, (source.0)()));
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
