//! Watches files for changes, by looking at them every few seconds.
//!
//! That works on every file system, and through the symbolic links by which containers replace mounted secrets. A change
//! is reported once the file has been left alone for one look, so that a file that is being written is not read.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// The version of a file, as far as its metadata tell; `None` for a file that is not there. The last two are those of the change
/// of its status: permissions and owners decide whether it can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileVersion(Option<(u64, u64, u64, [i64; 4])>);

impl FileVersion {
    /// The present version. Taken before the file is read, so that no change between the two is missed.
    pub fn of(file: &Path) -> FileVersion {
        let found = fs::metadata(file).ok();
        let times = |at: &fs::Metadata| [at.mtime(), at.mtime_nsec(), at.ctime(), at.ctime_nsec()];
        FileVersion(found.map(|at| (at.dev(), at.ino(), at.size(), times(&at))))
    }
}

/// Files and their versions.
#[derive(Debug, Default)]
pub(super) struct Watched(BTreeMap<PathBuf, State>);

#[derive(Debug)]
struct State {
    /// The version that was read.
    used: FileVersion,
    /// The version at the latest look.
    seen: FileVersion,
}

impl Watched {
    /// Watches these files instead, which were read in these versions.
    pub(super) fn set(&mut self, files: impl IntoIterator<Item = (PathBuf, FileVersion)>) {
        let state = |(file, version)| (file, State { used: version, seen: version });
        self.0 = files.into_iter().map(state).collect();
    }

    /// Looks at all files. Returns whether one has changed and not again since the previous look; its version then
    /// counts as read.
    pub(super) fn look(&mut self) -> bool {
        let mut changed = false;
        for (file, state) in &mut self.0 {
            let version = FileVersion::of(file);
            if version == state.seen && version != state.used {
                state.used = version;
                changed = true;
            }
            state.seen = version;
        }
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_change_is_reported_once_and_only_after_the_file_was_left_alone() {
        let folder = std::env::temp_dir().join(format!("echoring-watch-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder");
        let file = folder.join("token");
        fs::write(&file, "one").expect("written");
        let mut watched = Watched::default();
        watched
            .set([file.clone(), folder.join("missing")].map(|file| (file.clone(), FileVersion::of(&file))));
        assert!(!watched.look());
        fs::write(&file, "longer").expect("written");
        assert!(!watched.look(), "it may still be written");
        assert!(watched.look());
        assert!(!watched.look(), "once");
        fs::write(&file, "begun").expect("written");
        assert!(!watched.look());
        fs::write(&file, "and finished").expect("written");
        assert!(!watched.look(), "it changed again");
        assert!(watched.look());
        fs::remove_file(&file).expect("removed");
        assert!(!watched.look());
        assert!(watched.look(), "a file that is gone is a change too");
        fs::write(&file, "for nobody").expect("written");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o000)).expect("changed");
        assert!(!watched.look() && watched.look());
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("changed");
        assert!(!watched.look() && watched.look(), "it can be read now");
        fs::remove_dir_all(&folder).expect("removed");
    }
}
