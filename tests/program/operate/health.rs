//! `echoring health`, as service managers and containers use it.

use std::fs;
use std::process::Command;

use super::server::{Server, on_both_drivers};

/// Runs `echoring health`. Returns its exit code and what it said.
fn health(admin: &str, words: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_echoring"));
    let output = command.args(["health", "--admin", admin]).args(words).output().expect("it runs");
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(said).expect("text"))
}

fn admin(server: &Server) -> String {
    server.admin_address().to_string()
}

#[test]
fn a_server_is_well_whatever_credentials_its_clients_need() {
    let folder = std::env::temp_dir().join(format!("echoring-health-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("a folder");
    let tokens = folder.join("tokens.toml");
    fs::write(&tokens, "[[tokens]]\ntoken = '0123456789abcdef-client'\nsubject = 'one'\n").expect("written");
    let token = folder.join("admin-token");
    fs::write(&token, "0123456789abcdef").expect("written");
    let [tokens, token] = [&tokens, &token].map(|file| file.to_str().expect("UTF-8"));
    on_both_drivers(&["--auth-tokens", tokens, "--admin-token-file", token], |server| {
        let admin = admin(server);
        assert_eq!(health(&admin, &[]), (Some(0), "ok\n".to_owned()));
        let (code, said) = health(&admin, &["--ready"]);
        assert_eq!(code, Some(1));
        assert!(said.contains("it requires its token; give --admin-token-file"), "{said}");
        assert_eq!(health(&admin, &["--ready", "--admin-token-file", token]), (Some(0), "ok\n".to_owned()));
    });
}

#[test]
fn a_server_that_drains_is_well_and_not_ready() {
    on_both_drivers(&["--drain", "100s"], |server| {
        let admin = admin(server);
        assert_eq!(health(&admin, &["--ready"]).0, Some(0));
        server.terminate();
        server.wait_until("draining", |stats| stats["draining"] == true);
        let (code, said) = health(&admin, &["--ready"]);
        assert_eq!((code, said.contains("503 Service Unavailable: draining")), (Some(1), true), "{said}");
        assert_eq!(health(&admin, &[]).0, Some(0));
    });
}

#[test]
fn nobody_is_not_well() {
    let (code, said) = health("unix:/nonexistent/echoring.sock", &[]);
    assert_eq!(code, Some(1));
    assert!(
        said.contains("no answer from unix:/nonexistent/echoring.sock") && said.lines().count() == 1,
        "{said}"
    );
    assert_eq!(health("nowhere", &[]).0, Some(2));
    // It listens, and never answers.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound").to_string();
    let (code, said) = health(&address, &["--timeout", "100ms"]);
    assert!(code == Some(1) && said.contains("it took longer than 0.1 s"), "{said}");
}
