//! `echoring cluster`: the cluster as one of its nodes sees it.

use std::fmt::Write as _;
use std::process::ExitCode;

use hyper::{Method, StatusCode};
use serde_json::Value;

use crate::admin::admin_client::{AdminArgs, message};
use crate::{Failure, print};

const EXAMPLES: &str = "\
Examples:
  echoring cluster status
  echoring cluster status --admin 10.0.0.7:9002 --admin-token-file /etc/echoring/admin-token
  echoring cluster status --json

Exit codes: 0 the node is active and connected, and the others acknowledge its messages; 1 otherwise; 3 no answer, or no cluster.";

/// The commands about a cluster.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Show the nodes that a running server sees
    Status(StatusArgs),
}

/// The flags of `cluster status`, as typed.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
struct StatusArgs {
    #[command(flatten)]
    admin: AdminArgs,

    /// Print the status as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: Args) -> Result<ExitCode, Failure> {
    let Command::Status(StatusArgs { admin, json }) = arguments.command;
    let (status, body) = admin.client()?.request(Method::GET, "/cluster")?;
    if status != StatusCode::OK {
        return Err(Failure::Environment(format!("the server answers {status}: {}", message(&body))));
    }
    let report: Value = serde_json::from_slice(&body)
        .map_err(|error| Failure::Environment(format!("the server's answer is not JSON: {error}")))?;
    let mut members = report["members"].as_array().into_iter().flatten();
    let is_well = report["phase"] == "active"
        && report["connected"] == true
        && members.all(|member| member["behind"] != true);
    let printed = if json { print(&body) } else { print(shown(&report).as_bytes()) };
    Ok(if is_well { printed } else { ExitCode::FAILURE })
}

/// The status for people: a line for each node, this one first.
fn shown(report: &Value) -> String {
    let word = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let mut text = String::new();
    let backbone = if report["connected"] == true { "connected" } else { "no backbone" };
    let settled = if report["open"] == true { "settled" } else { "settling" };
    // Writing to a string does not fail.
    let _ = writeln!(
        text,
        "{:<24} {:<8} this node, {backbone}, {settled}",
        word(&report["node"]),
        word(&report["phase"])
    );
    for member in report["members"].as_array().into_iter().flatten() {
        let _ = writeln!(
            text,
            "{:<24} {:<8} {}{}",
            word(&member["node"]),
            word(&member["phase"]),
            link(member),
            differences(member)
        );
    }
    text
}

/// The settings in which another node differs from this one.
fn differences(member: &Value) -> String {
    let all = [("settings_differ", "different topic settings"), ("key_differs", "different key_file")];
    let found = all.iter().filter(|(field, _)| member[*field] == true);
    found.map(|(_, difference)| format!(", {difference}")).collect()
}

/// How the link to another node does.
fn link(member: &Value) -> String {
    let number = |name: &str| member[name].as_u64().unwrap_or_default();
    let mut text = match (member["behind"] == true, member["full"] == true) {
        (true, _) => format!(
            "link behind: {} bytes not acknowledged for {:.1} s",
            number("unacknowledged_bytes"),
            number("unacknowledged_ms") as f64 / 1e3
        ),
        (false, true) => "link full".to_owned(),
        (false, false) => "link ok".to_owned(),
    };
    if let Some(round_trip_us) = member["round_trip_us"].as_u64() {
        let _ = write!(text, ", round trip {:.1} ms", round_trip_us as f64 / 1e3);
    }
    for name in ["retransmissions", "resets"] {
        if number(name) > 0 {
            let _ = write!(text, ", {name}: {}", number(name));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_for_each_node() {
        let report = serde_json::json!({
            "node": "a", "phase": "active", "connected": true, "open": false,
            "members": [
                {"node": "b", "phase": "leaving", "full": true},
                {"node": "c", "phase": "active", "round_trip_us": 1_234, "retransmissions": 0, "resets": 0,
                 "settings_differ": true, "key_differs": true},
                {"node": "d", "phase": "active", "behind": true, "unacknowledged_bytes": 70_000,
                 "unacknowledged_ms": 7_210, "round_trip_us": null, "retransmissions": 12, "resets": 1},
            ],
        });
        let text = shown(&report);
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[0], ["a", "active", "this", "node,", "connected,", "settling"]);
        assert_eq!(lines[1], ["b", "leaving", "link", "full"]);
        let links: Vec<&str> = text.lines().skip(2).map(|line| &line[34..]).collect();
        assert_eq!(links[0], "link ok, round trip 1.2 ms, different topic settings, different key_file");
        let behind = "link behind: 70000 bytes not acknowledged for 7.2 s, retransmissions: 12, resets: 1";
        assert_eq!(links[1], behind);
    }
}
