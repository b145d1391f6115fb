//! The files in which the kernel describes a host, below a root.

use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Limits of a process, in `/proc/self/limits`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limit {
    pub(super) soft: u64,
    pub(super) hard: u64,
}

/// A host. Every answer is `None` or empty where the kernel does not have the file, as in many containers.
#[derive(Debug)]
pub(super) struct Host {
    root: PathBuf,
}

impl Host {
    /// The host whose `/proc` and `/sys` are below `root`.
    pub(super) fn below(root: &Path) -> Host {
        Host { root: root.to_owned() }
    }

    /// The text of a file, without white space around it.
    pub(super) fn text(&self, path: &str) -> Option<String> {
        let text = fs::read_to_string(self.root.join(path)).ok()?;
        Some(text.trim().to_owned())
    }

    /// The number in a file that has one.
    pub(super) fn number<T: FromStr>(&self, path: &str) -> Option<T> {
        self.text(path)?.parse().ok()
    }

    /// The numbers in a file that has several.
    pub(super) fn numbers(&self, path: &str) -> Vec<u64> {
        let text = self.text(path).unwrap_or_default();
        text.split_whitespace().filter_map(|word| word.parse().ok()).collect()
    }

    /// The number at this place in a file that has several.
    pub(super) fn number_at(&self, path: &str, at: usize) -> Option<u64> {
        self.numbers(path).get(at).copied()
    }

    /// A field of this process's `status`, such as `Seccomp`.
    pub(super) fn status(&self, field: &str) -> Option<String> {
        field_of(&self.text("proc/self/status")?, field)
    }

    /// A field of `meminfo` in bytes.
    pub(super) fn memory(&self, field: &str) -> Option<u64> {
        let kibibytes = field_of(&self.text("proc/meminfo")?, field)?;
        kibibytes.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
    }

    /// A limit of this process, by the name that the kernel gives it.
    pub(super) fn limit(&self, name: &str) -> Option<Limit> {
        let text = self.text("proc/self/limits")?;
        let mut words = text.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace();
        let mut next = || match words.next()? {
            "unlimited" => Some(u64::MAX),
            word => word.parse().ok(),
        };
        Some(Limit { soft: next()?, hard: next()? })
    }
}

fn field_of(text: &str, field: &str) -> Option<String> {
    let value = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    Some(value.trim().to_owned())
}
