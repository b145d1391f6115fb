//! Tests of what a whole process has, such as its descriptors.

use std::process::Command;

/// Runs the test `name` of `module`, a `module_path!()`, in a process of its own with at most `descriptors` open files. True in that
/// process.
pub fn alone(module: &str, name: &str, descriptors: u32) -> bool {
    if std::env::var_os("ECHORING_TEST_ALONE").is_some() {
        return true;
    }
    let (_, module) = module.split_once("::").expect("a test program has modules");
    let script = format!("ulimit -Sn {descriptors} && exec \"$0\" \"$@\"");
    let child = Command::new("sh")
        .args(["-c", &script])
        .arg(std::env::current_exe().expect("a test binary knows its path"))
        .args([&format!("{module}::{name}"), "--exact", "--nocapture", "--test-threads=1"])
        .env("ECHORING_TEST_ALONE", "1")
        .output()
        .expect("a shell");
    let said = String::from_utf8_lossy(&child.stdout) + String::from_utf8_lossy(&child.stderr);
    assert!(child.status.success(), "{said}");
    assert!(said.contains("1 passed"), "{said}");
    false
}
