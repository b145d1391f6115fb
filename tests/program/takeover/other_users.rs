//! A server gives its place to its own user and to root only, and others are told whose it is. Needs root, to become them.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::{Addresses, Server, open, pid};

/// A folder that every user may enter and write to, with the program: other users may not reach the folder of the build.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Folder {
        let folder = std::env::temp_dir().join(format!("echoring-users-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder");
        let open_to_all = fs::Permissions::from_mode(0o777);
        fs::set_permissions(&folder, open_to_all.clone()).expect("its owner");
        let program = folder.join("echoring");
        fs::copy(env!("CARGO_BIN_EXE_echoring"), &program).expect("copied");
        fs::set_permissions(&program, open_to_all).expect("its owner");
        Folder(folder)
    }

    /// A server of this user.
    fn start(&self, user: u32, at: Addresses, words: &[&str]) -> Result<Server, (Option<i32>, String)> {
        let mut command = Command::new(self.0.join("echoring"));
        command.uid(user).gid(user).stdin(Stdio::null());
        Server::spawn(command, at, words)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn another_user_is_told_whose_the_running_server_is() {
    if !rustix::process::geteuid().is_root() {
        eprintln!(
            "skipped: becoming other users needs root: sudo cargo nextest run --test program takeover::"
        );
        assert!(std::env::var_os("CI").is_none(), "CI runs it as root");
        return;
    }
    let folder = Folder::new();
    let file = folder.0.join("socket");
    let file = file.to_str().expect("UTF-8");
    let by_file = ["--takeover-socket", file, "--drain", "1s"];
    for (owner, words, said) in [
        (
            0,
            &[][..],
            "cannot take over: the running server belongs to user 0, and trusts only that user and root;",
        ),
        (4242, &[], "cannot take over: no server of this user accepts a takeover there:"),
        (4242, &by_file, "start this server as the user of the running one, which alone may connect there"),
    ] {
        let at = Addresses::free();
        let mut server = folder.start(owner, at, words).expect("the first");
        let mut socket = open(at, "/echo");
        let takeover = [words, &["--takeover"]].concat();
        let Err((code, line)) = folder.start(4243, at, &takeover) else { panic!("it took over") };
        assert!(code == Some(3) && line.contains(said), "{code:?}: {line}");
        assert!(!line.contains("replace it with --takeover"), "it did that: {line}");
        // Its place is still its own, and for its like.
        assert_eq!(pid(at), server.0.id());
        socket.send("still here".into()).expect("sent");
        assert_eq!(super::next(&mut socket).as_deref(), Ok("still here"));
        socket.close(None).expect("closed");
        while socket.read().is_ok() {}
        let successor = folder.start(owner, at, &takeover).expect("a successor of its own user");
        assert_eq!(pid(at), successor.0.id());
        assert_eq!(server.ended(), Some(0));
    }
}
