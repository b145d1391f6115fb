//! Clients that are not let in although their credentials are good: by their subject, or by the id of their token.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use serde::Deserialize;

use crate::credentials::secret::{Digest, sha256};
use crate::error::LoadError;
use crate::file;
use crate::identity::{Identity, Method};
use crate::limits::{BLOCKS_MAX, SUBJECT_BYTES_MAX};
use crate::tokens::static_tokens::seconds;

const SETTING: &str = "auth_blocked";

/// Who is blocked.
///
/// ```
/// # use echoring_auth::Blocked;
/// let session = Blocked::token_id("3f0c9a").expect("1 to 255 bytes");
/// assert_ne!(Some(session), Blocked::subject("3f0c9a"));
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Blocked {
    is_token: bool,
    name: Box<str>,
}

echoring_proto::plain!(for Blocked { is_token, name where |name| (1..=SUBJECT_BYTES_MAX).contains(&name.len()) });

/// A block, which may end.
///
/// ```
/// # use echoring_auth::{Block, Blocked};
/// // Until the token would have expired.
/// let revoked = Blocked::token_id("3f0c9a").map(|who| Block { who, until: Some(1_893_456_000) });
/// # drop(revoked);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// Whose it is.
    pub who: Blocked,
    /// When it ends, in seconds since 1970; `None` for never.
    pub until: Option<u64>,
}

echoring_proto::plain!(for Block { who, until });

// Subjects are personal data.
opaque!(Blocked, |it| is_token: it.is_token);

impl Blocked {
    /// All clients with this subject. `None` unless it has 1 to 255 bytes.
    pub fn subject(name: &str) -> Option<Blocked> {
        Blocked::new(false, name)
    }

    /// All clients with a JWT of this id (`jti`; RFC 7519, 4.1.7). `None` unless it has 1 to 255 bytes.
    pub fn token_id(id: &str) -> Option<Blocked> {
        Blocked::new(true, id)
    }

    fn new(is_token: bool, name: &str) -> Option<Blocked> {
        (1..=SUBJECT_BYTES_MAX).contains(&name.len()).then(|| Blocked { is_token, name: name.into() })
    }

    /// Whether it is the id of a token.
    pub fn is_token(&self) -> bool {
        self.is_token
    }

    /// The subject or the id.
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// Blocks by whom they are about.
#[derive(Clone, Debug, Default)]
pub(crate) struct Blocklist {
    subjects: BTreeMap<Box<str>, u64>,
    /// By the digest of the id, as identities have it.
    tokens: BTreeMap<Digest, (Box<str>, u64)>,
}

impl Blocklist {
    /// Reads a file.
    pub(crate) fn read(path: &Path) -> Result<Blocklist, LoadError> {
        file::load(SETTING, path, Blocklist::parse)
    }

    fn parse(bytes: &[u8]) -> Result<Blocklist, String> {
        let File { blocked } = file::parse_toml(bytes)?;
        let mut list = Blocklist::default();
        for (at, entry) in blocked.into_iter().enumerate() {
            let block = entry.block().map_err(|problem| format!("blocked {}: {problem}", at + 1))?;
            list.insert(block);
        }
        Ok(list)
    }

    /// Whether a client is blocked at the time `now`, in seconds since 1970.
    pub(crate) fn blocks(&self, client: &Identity, now: u64) -> bool {
        let is_current = |until: &u64| *until > now;
        let token = client.credential.filter(|_| client.method() == Method::Jwt);
        let by_token = || self.tokens.get(&token?).map(|(_, until)| until);
        self.subjects.get(client.subject()).is_some_and(is_current)
            || (!self.tokens.is_empty() && by_token().is_some_and(is_current))
    }

    pub(crate) fn len(&self) -> usize {
        self.subjects.len() + self.tokens.len()
    }

    fn insert(&mut self, block: Block) {
        let Block { who: Blocked { is_token, name }, until } = block;
        let until = until.unwrap_or(u64::MAX);
        match is_token {
            true => drop(self.tokens.insert(sha256(name.as_bytes()), (name, until))),
            false => drop(self.subjects.insert(name, until)),
        }
    }

    fn remove(&mut self, who: &Blocked) {
        match who.is_token {
            true => drop(self.tokens.remove(&sha256(who.name.as_bytes()))),
            false => drop(self.subjects.remove(&who.name)),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    blocked: Vec<BlockedEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BlockedEntry {
    subject: Option<String>,
    token_id: Option<String>,
    until: Option<toml::value::Datetime>,
}

impl BlockedEntry {
    fn block(self) -> Result<Block, String> {
        let who = match (&self.subject, &self.token_id) {
            (Some(subject), None) => Blocked::subject(subject),
            (None, Some(id)) => Blocked::token_id(id),
            _ => return Err("needs either subject or token_id".to_owned()),
        };
        let until = self.until.map(|time| seconds("until", &time)).transpose()?;
        Ok(Block { who: who.ok_or("has 1 to 255 bytes")?, until })
    }
}

/// The blocks that operators add while a node runs. Shards read them at handshakes; the lock is held for the copy of a pointer.
#[derive(Debug, Default)]
pub struct SharedBlocklist(RwLock<Arc<Blocklist>>);

impl SharedBlocklist {
    fn current(&self) -> Arc<Blocklist> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether a client is blocked at the time `now`, in seconds since 1970.
    pub fn blocks(&self, client: &Identity, now: u64) -> bool {
        self.current().blocks(client, now)
    }

    /// Adds a block, or replaces the one about the same. False if there are too many that have not ended.
    #[must_use]
    pub fn add(&self, block: Block, now: u64) -> bool {
        self.change(|list| {
            list.subjects.retain(|_, until| *until > now);
            list.tokens.retain(|_, (_, until)| *until > now);
            list.insert(block);
            list.len() <= BLOCKS_MAX
        })
    }

    /// Adds the blocks of another server.
    pub fn extend(&self, blocks: Vec<Block>) {
        self.change(|list| {
            blocks.into_iter().for_each(|block| list.insert(block));
            true
        });
    }

    /// Ends a block.
    pub fn remove(&self, who: &Blocked) {
        self.change(|list| {
            list.remove(who);
            true
        });
    }

    /// Those that have not ended.
    pub fn list(&self, now: u64) -> Vec<Block> {
        let list = self.current();
        let block = |is_token, name: &str, until: u64| Block {
            who: Blocked { is_token, name: name.into() },
            until: Some(until).filter(|until| *until != u64::MAX),
        };
        let subjects = list.subjects.iter().map(|(name, until)| block(false, name, *until));
        let tokens = list.tokens.values().map(|(id, until)| block(true, id, *until));
        subjects.chain(tokens).filter(|block| block.until.is_none_or(|until| until > now)).collect()
    }

    /// Replaces the list by what `change` makes of it, if that says so.
    fn change(&self, change: impl FnOnce(&mut Blocklist) -> bool) -> bool {
        let mut current = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let mut list = (**current).clone();
        let is_good = change(&mut list);
        if is_good {
            *current = Arc::new(list);
        }
        is_good
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Rights;

    fn client(subject: &str, token: Option<&str>) -> Identity {
        let identity = Identity::new(subject, Method::Jwt, Rights::default(), None).expect("a subject");
        match token {
            Some(id) => identity.with_credential(sha256(id.as_bytes())),
            None => identity,
        }
    }

    #[test]
    fn subjects_and_tokens_are_blocked_until_a_time() {
        let text = "[[blocked]]\nsubject = 'a'\n[[blocked]]\ntoken_id = 'b'\nuntil = 1970-01-01T00:16:40Z";
        let list = Blocklist::parse(text.as_bytes()).expect("valid");
        assert!(list.blocks(&client("a", None), u64::MAX - 1));
        assert!(!list.blocks(&client("b", None), 0), "it is the id of a token");
        assert!(list.blocks(&client("c", Some("b")), 999) && !list.blocks(&client("c", Some("b")), 1_000));
        // The digest of another method is not that of an id.
        let token = Identity::new("c", Method::Token, Rights::default(), None).expect("a subject");
        assert!(!list.blocks(&token.with_credential(sha256(b"b")), 0));
    }

    #[test]
    fn what_a_file_cannot_have_is_told() {
        for (text, problem) in [
            ("[[blocked]]", "blocked 1: needs either subject or token_id"),
            ("[[blocked]]\nsubject = 'a'\ntoken_id = 'b'", "blocked 1: needs either subject or token_id"),
            ("[[blocked]]\nsubject = ''", "blocked 1: has 1 to 255 bytes"),
            ("[[blocked]]\nsubject = 'a'\nuntil = 1979-05-27", "blocked 1: until is a time in UTC"),
            ("[[block]]", "unknown field"),
        ] {
            let error = Blocklist::parse(text.as_bytes()).expect_err(text);
            assert!(error.contains(problem), "{text}: {error}");
        }
    }

    #[test]
    fn blocks_of_operators_are_bounded_and_those_that_have_ended_make_room() {
        let list = SharedBlocklist::default();
        let block =
            |name: usize, until| Block { who: Blocked::subject(&name.to_string()).expect("short"), until };
        for name in 0..BLOCKS_MAX {
            assert!(list.add(block(name, Some(100)), 5));
        }
        assert!(!list.add(block(BLOCKS_MAX, None), 5) && list.add(block(7, None), 5));
        assert_eq!(list.list(5).len(), BLOCKS_MAX);
        assert!(list.add(block(BLOCKS_MAX, None), 100));
        assert_eq!(list.list(100), [block(BLOCKS_MAX, None), block(7, None)]);
        list.remove(&block(7, None).who);
        assert!(
            list.blocks(&client(&BLOCKS_MAX.to_string(), None), 5) && !list.blocks(&client("7", None), 5)
        );
    }
}
