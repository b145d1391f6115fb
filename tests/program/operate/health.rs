//! `echoring health`: what it tells the health checks of containers and orchestrators.

use std::fs;
use std::net::TcpListener;
use std::process::Command;
use std::time::Instant;

use super::admin::{UnixAdmin, binary, folder, text, tokens};
use super::peer::Peer;
use super::server::{PATIENCE, Server, on_both_drivers};

const CLIENTS: &str = "[[tokens]]\ntoken = \"0123456789abcdef-client\"\nsubject = \"alice\"\n";

/// Runs `echoring health`: its exit code, and what it printed on stdout and stderr.
fn health(flags: &[&str], variables: &[(&str, &str)]) -> (Option<i32>, String, String) {
    let mut command = Command::new(binary());
    command.arg("health").args(flags).envs(variables.iter().copied());
    let output = command.output().expect("it runs");
    let [stdout, stderr] = [output.stdout, output.stderr].map(|said| String::from_utf8(said).expect("text"));
    assert!(stderr.lines().count() <= 1, "{stderr}");
    (output.status.code(), stdout, stderr)
}

fn ok() -> (Option<i32>, String, String) {
    (Some(0), "ok\n".to_owned(), String::new())
}

#[test]
fn a_server_that_requires_credentials_is_healthy_without_any() {
    let [write, read] = tokens();
    let clients = folder().join("clients");
    fs::write(&clients, CLIENTS).expect("written");
    let flags = [
        "--auth-tokens",
        text(&clients),
        "--admin-token-file",
        text(&write),
        "--admin-read-token-file",
        text(&read),
    ];
    on_both_drivers(&flags, |server| {
        let admin = server.admin_address().to_string();
        assert_eq!(health(&["--admin", &admin], &[]), ok());
        let variables = [("ECHORING_ADMIN", admin.as_str())];
        assert_eq!(health(&[], &variables), ok(), "as in the container of a server");
        let (code, stdout, stderr) = health(&["--ready"], &variables);
        assert_eq!((code, stdout.as_str()), (Some(3), ""));
        assert!(stderr.contains("give --admin-token-file"), "{stderr}");
        assert_eq!(health(&["--ready", "--admin-token-file", text(&read)], &variables), ok());
        let with_token = [variables[0], ("ECHORING_ADMIN_TOKEN_FILE", text(&write))];
        assert_eq!(health(&["--ready"], &with_token), ok());
    });
}

#[test]
fn a_server_that_drains_is_healthy_and_not_ready() {
    for driver in ["auto", "epoll"] {
        let server = Server::start(&["--driver", driver, "--drain", "1h"]);
        let _peers: Vec<Peer> = (0..4).map(|_| Peer::open(&server, "/echo")).collect();
        let admin = server.admin_address().to_string();
        assert_eq!(health(&["--ready", "--admin", &admin], &[]), ok());
        server.terminate();
        while server.status("/readyz") == 200 {}
        let not_ready = format!("error: {admin} is not ready: draining\n");
        assert_eq!(health(&["--ready", "--admin", &admin], &[]), (Some(1), String::new(), not_ready));
        assert_eq!(health(&["--admin", &admin], &[]), ok());
    }
}

#[test]
fn a_unix_socket_is_asked_until_its_server_has_ended() {
    let path = folder().join("admin.sock");
    let server = UnixAdmin::start(&path, &[]);
    let admin = format!("unix:{}", path.display());
    for flags in [&["--admin", &admin][..], &["--admin", &admin, "--ready"]] {
        assert_eq!(health(flags, &[]), ok());
    }
    assert_eq!(server.terminate(), Some(0));
    let (code, _, stderr) = health(&["--admin", &admin], &[]);
    assert_eq!(code, Some(3));
    assert!(stderr.starts_with(&format!("error: no answer from {admin}: ")), "{stderr}");
}

#[test]
fn an_address_without_a_server_has_an_exit_code_and_a_reason() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its address").to_string();
    // It accepts and never answers.
    let started = Instant::now();
    let (code, _, stderr) = health(&["--admin", &address, "--timeout", "100ms"], &[]);
    assert!(started.elapsed() < PATIENCE);
    assert_eq!(code, Some(3));
    assert!(stderr.contains("it took longer than 100ms"), "{stderr}");
    drop(listener);
    let (code, _, stderr) = health(&["--admin", &address], &[]);
    assert_eq!(code, Some(3));
    assert!(stderr.contains("onnection refused"), "{stderr}");
}

#[test]
fn an_address_that_is_none_is_a_usage_error() {
    for (flags, variables, told) in [
        (&["--admin", "here"][..], &[][..], "--admin"),
        (&["--admin", "off"], &[], "--admin"),
        (&["--timeout", "0s"], &[], "--timeout"),
        (&[], &[("ECHORING_ADMIN", "off")], "ECHORING_ADMIN is off"),
        (&[], &[("ECHORING_ADMIN", "here")], "ECHORING_ADMIN: expected"),
    ] {
        let (code, _, stderr) = health(flags, variables);
        assert_eq!(code, Some(2), "{stderr}");
        assert!(stderr.contains(told), "{stderr}");
    }
}
