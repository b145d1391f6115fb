//! `echoring reload`: has a running server read its configuration again.

use std::fmt::Write as _;
use std::process::ExitCode;

use hyper::{Method, StatusCode};
use serde_json::Value;

use crate::admin::admin_client::{AdminArgs, message};
use crate::{Failure, print};

const EXAMPLES: &str = "\
Examples:
  echoring reload
  echoring reload --admin 127.0.0.1:9002 --admin-token-file /etc/echoring/admin-token
  echoring reload --admin unix:/run/echoring/admin.sock
  echoring reload --json

kill -HUP does the same, without an answer.

Exit codes: 0 the new configuration is in effect, 2 it is wrong and the old one stays in effect, 3 no answer.";

/// The flags of `reload`, as typed.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct Args {
    #[command(flatten)]
    admin: AdminArgs,

    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: Args) -> Result<ExitCode, Failure> {
    let (status, body) = arguments.admin.client()?.request(Method::POST, "/reload")?;
    match status {
        StatusCode::OK if arguments.json => Ok(print(&body)),
        StatusCode::OK => {
            let report: Value = serde_json::from_slice(&body)
                .map_err(|error| Failure::Environment(format!("the server's answer is not JSON: {error}")))?;
            Ok(print(shown(&report).as_bytes()))
        }
        StatusCode::UNPROCESSABLE_ENTITY => Err(Failure::Usage(message(&body))),
        _ => Err(Failure::Environment(format!("the server answers {status}: {}", message(&body)))),
    }
}

/// The report for people: a line for each change.
fn shown(report: &Value) -> String {
    let entries = |key: &str| report[key].as_array().cloned().unwrap_or_default();
    let mut text = String::new();
    for change in entries("changed") {
        line(&mut text, "changed", &change);
    }
    for file in entries("files") {
        // Writing to a string does not fail.
        let _ = writeln!(text, "read again: {}", file.as_str().unwrap_or_default());
    }
    for change in entries("restart") {
        line(&mut text, "needs a restart", &change);
    }
    if text.is_empty() { "nothing has changed\n".to_owned() } else { text }
}

fn line(text: &mut String, what: &str, change: &Value) {
    let word = |field: &str| change[field].as_str().unwrap_or("(unset)").to_owned();
    let hint = change["hint"].as_str().map(|hint| format!(" ({hint})")).unwrap_or_default();
    let _ = writeln!(text, "{what}: {} from {} to {}{hint}", word("key"), word("from"), word("to"));
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::shown;

    #[test]
    fn a_report_has_a_line_for_each_change() {
        let report = json!({
            "changed": [{"key": "max_message", "from": "\"64KiB\"", "to": "\"1MiB\""}],
            "restart": [{"key": "cpus", "from": null, "to": "\"0\"", "hint": "at most 2 without a restart"}],
            "files": ["cert.pem"],
        });
        assert_eq!(
            shown(&report),
            "changed: max_message from \"64KiB\" to \"1MiB\"\nread again: cert.pem\n\
             needs a restart: cpus from (unset) to \"0\" (at most 2 without a restart)\n"
        );
        assert_eq!(shown(&json!({})), "nothing has changed\n");
    }
}
