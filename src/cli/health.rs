//! `echoring health`: whether a running server is well, for service managers and containers.

use std::process::ExitCode;
use std::time::Duration;

use hyper::{Method, StatusCode};

use crate::admin_client::{AdminArgs, message};
use crate::values::duration;
use crate::{Failure, logging, print};

const EXAMPLES: &str = "\
Examples:
  echoring health
  echoring health --admin unix:/run/echoring/admin.sock
  echoring health --ready --admin-token-file /etc/echoring/admin-token

Without --ready, it asks GET /healthz, which needs no token: whether every shard makes ticks, also while the server drains.
With it, it asks GET /readyz: whether load balancers may send clients.

Exit codes: 0 the server is well, 1 it is not, or does not answer, 2 usage.";

/// The flags of `health`, as typed.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub(super) struct Args {
    #[command(flatten)]
    admin: AdminArgs,

    /// Ask whether the server wants clients, too
    #[arg(long)]
    ready: bool,

    /// How long to wait for the answer
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = duration)]
    timeout: Duration,
}

pub(super) fn run(arguments: &Args) -> Result<ExitCode, Failure> {
    let path = if arguments.ready { "/readyz" } else { "/healthz" };
    match arguments.admin.request_within(Method::GET, path, arguments.timeout) {
        Ok((StatusCode::OK, body)) => Ok(print(format!("{}\n", message(&body)).as_bytes())),
        Ok((status, body)) => {
            Ok(unwell(&format!("{} answers {status}: {}", arguments.admin.target(), message(&body))))
        }
        Err(Failure::Environment(line)) => Ok(unwell(&line)),
        Err(usage) => Err(usage),
    }
}

fn unwell(line: &str) -> ExitCode {
    logging::print_last(line);
    ExitCode::FAILURE
}
