//! Tests that run in a process of their own: of what a whole process has, or with an environment of their own.

use std::process::{Command, Output};

/// The arguments with which a test program runs only the test `name` of `module`, a `module_path!()`.
pub fn only(module: &str, name: &str) -> [String; 4] {
    let (_, module) = module.split_once("::").expect("a test program has modules");
    [format!("{module}::{name}"), "--exact".into(), "--nocapture".into(), "--test-threads=1".into()]
}

/// A test that was run by [`only`] has passed.
pub fn assert_passed(output: &Output) {
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("1 passed"), "{said}");
}

/// Runs the test `name` of `module` in a process of its own with at most `descriptors` open files. True in that process.
pub fn alone(module: &str, name: &str, descriptors: u32) -> bool {
    if std::env::var_os("ECHORING_TEST_ALONE").is_some() {
        return true;
    }
    let script = format!("ulimit -Sn {descriptors} && exec \"$0\" \"$@\"");
    let child = Command::new("sh")
        .args(["-c", &script])
        .arg(std::env::current_exe().expect("a test binary knows its path"))
        .args(only(module, name))
        .env("ECHORING_TEST_ALONE", "1")
        .output()
        .expect("a shell");
    assert_passed(&child);
    false
}
