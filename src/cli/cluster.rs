//! `echoring cluster`: the cluster as one of its nodes sees it.

use std::fmt::Write as _;
use std::process::ExitCode;

use hyper::{Method, StatusCode};
use serde_json::Value;

use crate::admin_client::{AdminArgs, message};
use crate::{Failure, print};

const EXAMPLES: &str = "\
Examples:
  echoring cluster status
  echoring cluster status --admin 10.0.0.7:9002 --admin-token-file /etc/echoring/admin-token
  echoring cluster status --json

Exit codes: 0 the node is active and connected, 1 it is not, 3 no answer, or no cluster.";

/// The commands about a cluster.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
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

pub(super) fn run(arguments: Args) -> Result<ExitCode, Failure> {
    let Command::Status(StatusArgs { admin, json }) = arguments.command;
    let (status, body) = admin.client()?.request(Method::GET, "/cluster")?;
    if status != StatusCode::OK {
        return Err(Failure::Environment(format!("the server answers {status}: {}", message(&body))));
    }
    let report: Value = serde_json::from_slice(&body).unwrap_or_default();
    let is_well = report["phase"] == "active" && report["connected"] == true;
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
        let link = if member["full"] == true { "link full" } else { "link ok" };
        let _ = writeln!(text, "{:<24} {:<8} {link}", word(&member["node"]), word(&member["phase"]));
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
            "members": [{"node": "b", "phase": "leaving", "full": true}],
        });
        let text = shown(&report);
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[0], ["a", "active", "this", "node,", "connected,", "settling"]);
        assert_eq!(lines[1], ["b", "leaving", "link", "full"]);
    }
}
