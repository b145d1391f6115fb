//! The files that a server reaches, by Landlock (Linux 5.13).
//!
//! Rules name folders, not files: a certificate is renewed, a log rotated and a socket replaced under the same name, and a rule
//! for a file would stay with the old one. The network is not restricted.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access as _, AccessFs, BitFlags, CompatLevel, Compatible as _, PathBeneath, PathFd, Ruleset,
    RulesetAttr as _, RulesetCreated, RulesetCreatedAttr as _, RulesetStatus,
};

/// The rights that are withheld unless granted. Older kernels know fewer and withhold those.
const RIGHTS: ABI = ABI::V5;

/// Folders of the system, with the reason. All are readable; nothing in them can be executed.
const SYSTEM: [&str; 8] = [
    // The resolver, the roots of TLS, the time zone, users and groups.
    "/etc", // Shared libraries that the C library loads late (name services), and what links from /etc point to.
    "/usr",
    "/lib",
    "/lib64", // Limits, memory and threads of this process.
    "/proc",  // CPUs and control groups.
    "/sys",   // The resolver's file on hosts with systemd-resolved.
    "/run/systemd",
    "/dev/urandom",
];
/// Files of name resolution. On many hosts /etc has links to files of a service, such as /run/NetworkManager/resolv.conf.
const RESOLVER: [&str; 3] = ["/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf"];
/// Devices that are written to.
const DEVICES: [&str; 1] = ["/dev/null"];

/// The version of Landlock's interface that this kernel has, as far as it concerns files; 0 where there is none.
pub(crate) fn landlock_version() -> u32 {
    let versions = [(5, ABI::V5), (3, ABI::V3), (2, ABI::V2), (1, ABI::V1)];
    let has = |abi: ABI| {
        let ruleset = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
        ruleset.handle_access(AccessFs::from_all(abi)).and_then(Ruleset::create).is_ok()
    };
    versions.into_iter().find(|(_, abi)| has(*abi)).map_or(0, |(version, _)| version)
}

/// Restricts this thread, and those that it starts, to the folders of these files and to the parts of the system that a
/// program needs.
///
/// # Errors
/// Why it is not restricted.
pub(super) fn restrict(reads: &[PathBuf], writes: &[PathBuf]) -> Result<(), String> {
    match enforce(reads, writes) {
        Ok(RulesetStatus::NotEnforced) => Err("the kernel does not have it (lsm=landlock)".to_owned()),
        Ok(_) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

fn enforce(reads: &[PathBuf], writes: &[PathBuf]) -> Result<RulesetStatus, landlock::RulesetError> {
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let write = read
        | AccessFs::WriteFile
        | AccessFs::Truncate
        | AccessFs::MakeReg
        | AccessFs::MakeSock
        | AccessFs::RemoveFile
        | AccessFs::Refer;
    let mut rules = Ruleset::default().handle_access(AccessFs::from_all(RIGHTS))?.create()?;
    for folder in readable(reads) {
        rules = allow(rules, &folder, read)?;
    }
    for folder in DEVICES.map(PathBuf::from).into_iter().chain(writes.iter().flat_map(|file| folders(file))) {
        rules = allow(rules, &folder, write)?;
    }
    Ok(rules.restrict_self()?.ruleset)
}

/// The readable folders: those of the system, and those of these files.
fn readable(reads: &[PathBuf]) -> impl Iterator<Item = PathBuf> {
    let resolver = RESOLVER.iter().map(Path::new);
    let files = resolver.chain(reads.iter().map(PathBuf::as_path));
    SYSTEM.map(PathBuf::from).into_iter().chain(files.flat_map(folders))
}

/// Whether a file is in one of the folders that are readable or writable for these files.
pub(super) fn is_reached(file: &Path, reads: &[PathBuf], writes: &[PathBuf]) -> bool {
    let file = file.canonicalize().or_else(|_| std::path::absolute(file)).unwrap_or_else(|_| file.to_owned());
    let reached = readable(reads).chain(writes.iter().flat_map(|file| folders(file)));
    reached.filter_map(|folder| folder.canonicalize().ok()).any(|folder| file.starts_with(folder))
}

/// The roots of TLS that the environment names instead of those of the system. Each reload reads them again.
pub(super) fn tls_roots(variable: impl Fn(&str) -> Option<OsString>) -> Vec<PathBuf> {
    let folders = variable("SSL_CERT_DIR").unwrap_or_default();
    let named = variable("SSL_CERT_FILE").map(PathBuf::from).into_iter().chain(env::split_paths(&folders));
    named.filter(|path| !path.as_os_str().is_empty()).collect()
}

/// Files that are missing now stay unreachable.
fn allow(
    rules: RulesetCreated,
    path: &Path,
    access: BitFlags<AccessFs>,
) -> Result<RulesetCreated, landlock::RulesetError> {
    let Ok(opened) = PathFd::new(path) else { return Ok(rules) };
    let access = if path.is_dir() { access } else { access & AccessFs::from_file(RIGHTS) };
    rules.add_rule(PathBeneath::new(opened, access))
}

/// The folder of a file, and that of the file which it links to. A folder is its own.
fn folders(file: &Path) -> Vec<PathBuf> {
    if file.is_dir() {
        return vec![file.to_owned()];
    }
    let folder = |path: &Path| match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    let linked = file.canonicalize().ok();
    [Some(folder(file)), linked.as_deref().map(folder)].into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_those_of_the_name_and_of_what_it_links_to() {
        let root = std::env::temp_dir().join(format!("echoring-folders-{}", std::process::id()));
        let (live, archive) = (root.join("live"), root.join("archive"));
        for folder in [&live, &archive] {
            std::fs::create_dir_all(folder).expect("made");
        }
        std::fs::write(archive.join("cert1.pem"), "").expect("written");
        std::os::unix::fs::symlink("../archive/cert1.pem", live.join("cert.pem")).expect("linked");
        let found = folders(&live.join("cert.pem"));
        assert_eq!(found, [live.clone(), archive.canonicalize().expect("it exists")]);
        assert_eq!(folders(Path::new("missing.pem")), [PathBuf::from(".")]);
        assert_eq!(folders(&live.join("not-yet.pem")), [live]);
        std::fs::remove_dir_all(root).expect("removed");
    }

    #[test]
    fn the_files_of_name_resolution_are_readable_where_they_are() {
        let readable: Vec<PathBuf> = readable(&[]).collect();
        for file in RESOLVER.iter().filter_map(|file| Path::new(file).canonicalize().ok()) {
            let folder = file.parent().expect("a file");
            assert!(readable.iter().any(|readable| readable == folder), "{}", file.display());
        }
    }

    #[test]
    fn the_roots_of_tls_that_the_environment_names_are_reached() {
        let root = env::temp_dir().join(format!("echoring-roots-{}", std::process::id()));
        let (file, folder) = (root.join("ca/ca.pem"), root.join("roots"));
        for folder in [root.join("ca"), folder.clone()] {
            std::fs::create_dir_all(folder).expect("made");
        }
        std::fs::write(&file, "").expect("written");
        let both = env::join_paths([folder.clone(), root.join("missing")]).expect("a list");
        let found = tls_roots(|name| match name {
            "SSL_CERT_FILE" => Some(file.clone().into_os_string()),
            "SSL_CERT_DIR" => Some(both.clone()),
            _ => None,
        });
        assert_eq!(found, [file, folder.clone(), root.join("missing")]);
        let readable: Vec<PathBuf> = readable(&found).collect();
        assert!(readable.contains(&root.join("ca")) && readable.contains(&folder), "{readable:?}");
        assert!(tls_roots(|_| None).is_empty() && tls_roots(|_| Some(OsString::new())).is_empty());
        std::fs::remove_dir_all(root).expect("removed");
    }

    /// Landlock restricts single threads, so that a test can have one.
    #[test]
    fn only_folders_that_were_named_are_reached() {
        if landlock_version() == 0 {
            // `serve` says so; there is nothing to test on such a kernel.
            return;
        }
        let root = std::env::temp_dir().join(format!("echoring-landlock-{}", std::process::id()));
        let folder = |name: &str| root.join(name);
        for name in ["read", "write", "other"] {
            std::fs::create_dir_all(folder(name)).expect("made");
            std::fs::write(folder(name).join("file"), "text").expect("written");
        }
        std::thread::scope(|scope| {
            scope.spawn(|| {
                restrict(&[folder("read").join("file")], &[folder("write").join("file")])
                    .expect("restricted");
                let read = |name: &str| std::fs::read_to_string(folder(name).join("file"));
                let write = |name: &str| std::fs::write(folder(name).join("new"), "text");
                let (reads, writes) = ([folder("read").join("file")], [folder("write").join("file")]);
                let is_told = |name: &str| is_reached(&folder(name).join("file"), &reads, &writes);
                assert!(is_told("read") && is_told("write") && !is_told("other"));
                assert_eq!(read("read").expect("it is named"), "text");
                assert!(read("other").is_err() && write("read").is_err() && write("other").is_err());
                write("write").expect("it is named");
                // A log is rotated, a socket replaced.
                std::fs::rename(folder("write").join("new"), folder("write").join("old")).expect("allowed");
                std::os::unix::net::UnixListener::bind(folder("write").join("socket")).expect("allowed");
                std::fs::remove_file(folder("write").join("socket")).expect("allowed");
                std::fs::read_to_string("/proc/self/limits").expect("every start needs it");
                std::fs::read_to_string("/etc/hosts").expect("the resolver needs it");
            });
        });
        std::fs::remove_dir_all(root).expect("removed");
    }
}
