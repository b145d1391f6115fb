//! The commits of a repository, and worktrees of them. git is the program, since its library would have to agree with it on
//! configuration, filters and worktrees.

use std::fmt;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::Failure;

/// Variables that point git at another repository, such as in a hook.
pub(super) const GIT_VARIABLES: [&str; 4] = ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX"];
/// Digits of a shortened id in lines for people.
const SHORT_ID: usize = 10;

/// A commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Commit {
    /// The whole id.
    pub id: String,
    pub subject: String,
}

impl fmt::Display for Commit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", &self.id[..SHORT_ID.min(self.id.len())], self.subject)
    }
}

/// A repository.
#[derive(Debug)]
pub(super) struct Repository {
    folder: PathBuf,
}

impl Repository {
    /// The repository that contains `folder`.
    pub(super) fn open(folder: &Path) -> Result<Repository, Failure> {
        let repository = Repository { folder: folder.to_owned() };
        repository
            .git(&["rev-parse", "--git-dir"])
            .map_err(|why| Failure::Usage(format!("--repo: {}: {why}", folder.display())))?;
        Ok(repository)
    }

    /// The commit of a revision, which the argument `name` has.
    pub(super) fn commit(&self, name: &str, revision: &str) -> Result<Commit, Failure> {
        let peeled = format!("{revision}^{{commit}}");
        let found = self.git(&["rev-parse", "--verify", "--quiet", "--end-of-options", &peeled]);
        let id = found
            .map_err(|_| Failure::Usage(format!("{name}: `{revision}` is not a commit of the repository")))?;
        self.described(id.trim()).map_err(Failure::Environment)
    }

    fn described(&self, id: &str) -> Result<Commit, String> {
        let subject = self.git(&["show", "--no-patch", "--format=%s", "--end-of-options", id])?;
        Ok(Commit { id: id.to_owned(), subject: subject.trim_end().to_owned() })
    }

    /// The commits after `good` up to `bad`, oldest first. Of a merge only the first parent's line is followed.
    pub(super) fn commits_between(&self, good: &Commit, bad: &Commit) -> Result<Vec<Commit>, Failure> {
        let range = format!("{}..{}", good.id, bad.id);
        let flags = ["log", "--first-parent", "--ancestry-path", "--reverse", "--format=%H %s"];
        let listed = self.git(&[&flags[..], &["--end-of-options", &range]].concat());
        let commits: Vec<Commit> = listed
            .map_err(Failure::Environment)?
            .lines()
            .filter_map(|line| line.split_once(' '))
            .map(|(id, subject)| Commit { id: id.to_owned(), subject: subject.to_owned() })
            .collect();
        // The list ends with BAD, unless it is empty.
        match commits.last() {
            Some(_) => Ok(commits),
            None if good == bad => Err(Failure::Usage("GOOD and BAD are the same commit".to_owned())),
            None => Err(Failure::Usage(format!("GOOD: {good} is not an ancestor of BAD: {bad}"))),
        }
    }

    /// The output of a git command, or the last line of its errors.
    fn git(&self, words: &[&str]) -> Result<String, String> {
        let mut command = Command::new("git");
        command.arg("-C").arg(&self.folder).args(words).stdin(Stdio::null());
        GIT_VARIABLES.iter().for_each(|name| {
            command.env_remove(name);
        });
        // Ctrl-C at the terminal is for this process: it removes the worktrees by git.
        let output =
            command.process_group(0).output().map_err(|error| format!("git cannot be run: {error}"))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let errors = String::from_utf8_lossy(&output.stderr);
        let line = errors.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("git failed");
        Err(line.trim_start_matches("fatal: ").to_owned())
    }
}

/// Worktrees of commits in a temporary folder. All are removed when this is dropped.
#[derive(Debug)]
pub(super) struct Worktrees<'a> {
    repository: &'a Repository,
    folder: TempDir,
    /// Ids of the commits that have one.
    added: Vec<String>,
}

impl<'a> Worktrees<'a> {
    pub(super) fn new(repository: &'a Repository) -> Result<Worktrees<'a>, Failure> {
        let folder = tempfile::Builder::new().prefix("echoring-bisect-").tempdir();
        let folder = folder.map_err(|error| {
            Failure::Environment(format!("cannot create a temporary folder: {error}; set TMPDIR"))
        })?;
        Ok(Worktrees { repository, folder, added: Vec::new() })
    }

    /// Checks out a commit, and returns the folder.
    pub(super) fn add(&mut self, commit: &Commit) -> Result<PathBuf, Failure> {
        let folder = self.folder(commit);
        if !self.added.contains(&commit.id) {
            // First, so that a worktree that is made only in part is removed, too.
            self.added.push(commit.id.clone());
            let path = folder.to_string_lossy();
            self.repository
                .git(&["worktree", "add", "--quiet", "--detach", &path, &commit.id])
                .map_err(|why| Failure::Environment(format!("no worktree of {commit}: {why}")))?;
        }
        Ok(folder)
    }

    /// The folder of a commit's worktree.
    pub(super) fn folder(&self, commit: &Commit) -> PathBuf {
        self.folder.path().join(&commit.id)
    }

    /// Removes the worktree of a commit, with all that was built there.
    pub(super) fn remove(&mut self, commit: &Commit) {
        self.added.retain(|id| *id != commit.id);
        self.remove_folder(&commit.id);
    }

    fn remove_folder(&self, id: &str) {
        let folder = self.folder.path().join(id);
        // Twice: also what is locked, which a worktree is while git makes it.
        let removed =
            self.repository.git(&["worktree", "remove", "--force", "--force", &folder.to_string_lossy()]);
        if removed.is_err() {
            // The temporary folder goes with all that is left in it, and git forgets worktrees without a folder.
            let _ = std::fs::remove_dir_all(&folder);
            let _ = self.repository.git(&["worktree", "prune"]);
        }
    }
}

impl Drop for Worktrees<'_> {
    fn drop(&mut self) {
        for id in std::mem::take(&mut self.added) {
            self.remove_folder(&id);
        }
    }
}
