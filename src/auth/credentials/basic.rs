//! Users with passwords, from a TOML file with argon2 hashes in the PHC string format:
//!
//! ```toml
//! [[users]]
//! name = "alice"
//! password = "$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHQ$…"
//! subscribe = ["prices.*"]
//! publish = ["chat.alice"]
//! ```
//!
//! A check takes milliseconds and megabytes on purpose, so it never runs on a shard.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use argon2::password_hash::PasswordVerifier as _;
use argon2::password_hash::phc::PasswordHash;
use argon2::{Argon2, Params};
use serde::Deserialize;

use crate::credentials::secret::{Digest, sha256};
use crate::error::LoadError;
use crate::file;
use crate::identity::{Identity, Method, Rights};
use crate::limits::{ARGON2_LANES_MAX, ARGON2_MEMORY_KIB_MAX, ARGON2_PASSES_MAX};

const SETTING: &str = "auth_basic";

/// The users of a password file, by their names.
pub(crate) struct Users(BTreeMap<Box<str>, User>);

struct User {
    hash: PasswordHash,
    identity: Arc<Identity>,
}

impl std::fmt::Debug for Users {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Users").field("users", &self.0.len()).finish()
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    users: Vec<UserEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UserEntry {
    name: String,
    password: String,
    #[serde(default)]
    subscribe: Vec<String>,
    #[serde(default)]
    publish: Vec<String>,
    presence: Option<Vec<String>>,
    history: Option<Vec<String>>,
}

impl Users {
    /// Reads a password file.
    pub(crate) fn read(path: &Path) -> Result<Users, LoadError> {
        file::load(SETTING, path, Users::parse)
    }

    pub(crate) fn parse(bytes: &[u8]) -> Result<Users, String> {
        let File { users } = file::parse_toml(bytes)?;
        file::keyed(users, "user", "name", UserEntry::user).map(Users)
    }

    /// Whether there is a user of this name.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// The user whose password this is. Takes milliseconds; also for an unknown name, so that names cannot be guessed by time.
    pub(crate) fn verify(&self, name: &str, password: &[u8]) -> Option<Arc<Identity>> {
        let known = self.0.get(name);
        let user = known.or_else(|| self.0.values().next())?;
        let is_right = Argon2::default().verify_password(password, &user.hash).is_ok();
        known.filter(|_| is_right).map(|user| user.identity.clone())
    }

    /// The user whose hash has this digest.
    pub(crate) fn of_digest(&self, name: &str, digest: &Digest) -> Option<&Arc<Identity>> {
        let user = self.0.get(name)?;
        (user.identity.credential.as_ref() == Some(digest)).then_some(&user.identity)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

impl UserEntry {
    fn user(self) -> Result<(Box<str>, User), String> {
        let hash = checked_hash(&self.password)?;
        let rights = Rights::of_lists(self.subscribe, self.publish, self.presence, self.history)?;
        let identity = Identity::new(&self.name, Method::Password, rights, None)
            .filter(|_| !self.name.contains(':'))
            .ok_or("name has 1 to 255 bytes without control characters and colons (RFC 7617, 2)")?;
        let identity = Arc::new(identity.with_credential(sha256(self.password.as_bytes())));
        Ok((self.name.into(), User { hash, identity }))
    }
}

/// A hash that argon2 can verify within the limits.
fn checked_hash(text: &str) -> Result<PasswordHash, String> {
    let hash = PasswordHash::new(text)
        .map_err(|_| "password is not a PHC string such as $argon2id$v=19$…".to_owned())?;
    if !matches!(hash.algorithm.as_str(), "argon2id" | "argon2i" | "argon2d") {
        return Err("password is not a hash of argon2".to_owned());
    }
    if hash.salt.is_none() || hash.hash.is_none() {
        return Err("password has no salt or no hash".to_owned());
    }
    let params = Params::try_from(&hash)
        .map_err(|_| "password has parameters that argon2 does not allow".to_owned())?;
    if params.m_cost() > ARGON2_MEMORY_KIB_MAX
        || params.t_cost() > ARGON2_PASSES_MAX
        || params.p_cost() > ARGON2_LANES_MAX
    {
        return Err(format!(
            "password costs more than m={ARGON2_MEMORY_KIB_MAX}, t={ARGON2_PASSES_MAX}, p={ARGON2_LANES_MAX}"
        ));
    }
    Ok(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `argon2.PasswordHasher(time_cost=1, memory_cost=64, parallelism=1).hash("correct horse")` of argon2-cffi.
    const HASH: &str =
        "$argon2id$v=19$m=64,t=1,p=1$GYFGVJMbkshcCLHAFM/QQg$h8vOSA7pnoSIOgLumJa8mNiTXHrfv8E/nrlKxl0EI40";

    fn entry(name: &str, hash: &str) -> String {
        format!("[[users]]\nname = \"{name}\"\npassword = \"{hash}\"\n")
    }

    #[test]
    fn a_password_is_verified_by_its_hash() {
        let users =
            Users::parse((entry("alice", HASH) + "subscribe = [\"a.*\"]\n").as_bytes()).expect("valid");
        let known = users.verify("alice", b"correct horse").expect("right");
        assert_eq!((known.subject(), known.method()), ("alice", Method::Password));
        for (name, password) in [("alice", "correct horse "), ("alice", ""), ("bob", "correct horse")] {
            assert!(users.verify(name, password.as_bytes()).is_none(), "{name} {password}");
        }
        assert!(users.has("alice") && !users.has("bob"));
        assert_eq!(users.len(), 1);
    }

    #[test]
    fn a_file_that_is_wrong_is_refused_without_repeating_a_hash() {
        let twice = entry("a", HASH) + &entry("a", HASH);
        let costly = HASH.replace("m=64", "m=262145");
        let long = HASH.replace("t=1", "t=17");
        for (text, problem) in [
            (String::new(), "has no [[users]]"),
            (entry("a", "plain"), "not a PHC string"),
            (entry("a", "$2b$12$abcdefghijklmnopqrstuv"), "password is not a"),
            (entry("a", &HASH.replace("argon2id", "scrypt")), "not a hash of argon2"),
            (entry("a", "$argon2id$v=19$m=64,t=1,p=1"), "no salt or no hash"),
            (entry("a", &costly), "costs more than"),
            (entry("a", &long), "costs more than"),
            (entry("a:b", HASH), "name has 1 to 255"),
            (entry("", HASH), "name has 1 to 255"),
            (twice, "user 2: the same name"),
            (entry("a", HASH) + "expires = 1\n", "unknown field `expires`"),
        ] {
            let wrong = Users::parse(text.as_bytes()).expect_err(&text);
            assert!(wrong.contains(problem), "{text}: {wrong}");
            assert!(!wrong.contains("GYFGVJMb"), "{wrong}");
        }
    }
}
