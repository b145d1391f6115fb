//! The user of the process, and its capabilities.

use std::ffi::CString;
use std::fmt;
use std::io;
use std::str::FromStr;

use nix::unistd::{Gid, Group, Uid, User, initgroups, setgroups, setresgid, setresuid};
use rustix::thread::{CapabilitySet, CapabilitySets, clear_ambient_capability_set, set_capabilities};

/// `NAME[:GROUP]`, each a name or a number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UserName {
    user: String,
    group: Option<String>,
}

impl FromStr for UserName {
    type Err = String;

    fn from_str(word: &str) -> Result<UserName, String> {
        let (user, group) = word.split_once(':').map_or((word, None), |(user, group)| (user, Some(group)));
        let is_wrong = |name: &str| name.is_empty() || name.contains([':', '\0']);
        if is_wrong(user) || group.is_some_and(is_wrong) {
            return Err("expected NAME or NAME:GROUP".to_owned());
        }
        Ok(UserName { user: user.to_owned(), group: group.map(str::to_owned) })
    }
}

impl fmt::Display for UserName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.user)?;
        self.group.as_ref().map_or(Ok(()), |group| write!(f, ":{group}"))
    }
}

/// A user of this host.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Identity {
    uid: Uid,
    gid: Gid,
    /// For the groups that the user is a member of; none for a number without an entry.
    name: Option<CString>,
}

impl Identity {
    pub(super) fn uid(&self) -> u32 {
        self.uid.as_raw()
    }
}

impl UserName {
    /// Looks the user up.
    ///
    /// # Errors
    /// If this host does not have the user or the group.
    pub(super) fn find(&self) -> Result<Identity, String> {
        let unknown =
            |what: &str, name: &str| format!("there is no {what} {name}; create it, or name another");
        let by_number = self.user.parse().ok().map(Uid::from_raw);
        let user = match by_number {
            Some(uid) => User::from_uid(uid),
            None => User::from_name(&self.user),
        };
        let user = user.map_err(|error| looking_up(&self.user, error))?;
        let group =
            self.group.as_deref().map(|name| gid(name)?.ok_or_else(|| unknown("group", name))).transpose()?;
        let uid = user.as_ref().map(|user| user.uid).or(by_number);
        let gid = group.or(user.as_ref().map(|user| user.gid));
        match (uid, gid) {
            (Some(uid), Some(gid)) => {
                Ok(Identity { uid, gid, name: user.and_then(|user| CString::new(user.name).ok()) })
            }
            _ => Err(unknown("user", &self.user)),
        }
    }
}

fn gid(name: &str) -> Result<Option<Gid>, String> {
    if let Ok(number) = name.parse() {
        return Ok(Some(Gid::from_raw(number)));
    }
    let group = Group::from_name(name).map_err(|error| looking_up(name, error))?;
    Ok(group.map(|group| group.gid))
}

fn looking_up(name: &str, error: nix::Error) -> String {
    format!("cannot look {name} up: {error}; see /etc/nsswitch.conf")
}

/// Becomes this user, for good. The C library changes all threads; the kernel drops the capabilities of a former root.
///
/// # Errors
/// Without the privilege to change.
pub(super) fn become_user(identity: &Identity) -> Result<(), String> {
    change(identity).map_err(|error| {
        let uid = identity.uid;
        format!("cannot become user {uid}: {error}; start as root, or as that user without --user")
    })
}

fn change(Identity { uid, gid, name }: &Identity) -> nix::Result<()> {
    if Uid::effective() == *uid && Uid::current() == *uid && Gid::effective() == *gid {
        return Ok(());
    }
    match name {
        Some(name) => initgroups(name, *gid)?,
        None => setgroups(&[*gid])?,
    }
    setresgid(*gid, *gid, *gid)?;
    setresuid(*uid, *uid, *uid)
}

/// Gives up every capability of the calling thread.
pub(super) fn drop_capabilities() -> io::Result<()> {
    let none = CapabilitySet::empty();
    clear_ambient_capability_set()?;
    set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_a_name_and_perhaps_a_group() {
        for (word, user, group) in
            [("www-data", "www-data", None), ("a:b", "a", Some("b")), ("7:8", "7", Some("8"))]
        {
            let parsed: UserName = word.parse().expect("valid");
            assert_eq!((parsed.user.as_str(), parsed.group.as_deref()), (user, group));
            assert_eq!(parsed.to_string(), word);
        }
        for word in ["", ":", "a:", ":b", "a:b:c"] {
            assert_eq!(word.parse::<UserName>().expect_err(word), "expected NAME or NAME:GROUP");
        }
    }

    #[test]
    fn users_are_found_by_name_and_by_number() {
        let find = |word: &str| word.parse::<UserName>().expect("valid").find();
        let root = find("root").expect("every host has it");
        assert_eq!((root.uid, root.gid), (Uid::from_raw(0), Gid::from_raw(0)));
        assert_eq!(find("0:0").expect("numbers"), root);
        let nobody_has_it = find("4123456789:7").expect("a number needs no entry beside a group");
        assert_eq!((nobody_has_it.uid, nobody_has_it.name), (Uid::from_raw(4_123_456_789), None));
        for word in ["no-such-user", "root:no-such-group", "4123456789"] {
            let Err(reason) = find(word) else { panic!("{word} was found") };
            assert!(reason.starts_with("there is no "), "{reason}");
        }
    }
}
