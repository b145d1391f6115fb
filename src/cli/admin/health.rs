//! `echoring health`: asks a running server whether it is healthy or ready, for health checks.

use std::process::ExitCode;
use std::time::Duration;

use hyper::{Method, StatusCode};

use crate::admin::admin_client::{AdminArgs, message};
use crate::common::values::duration_in;
use crate::limits::HEALTH_TIMEOUT_RANGE;
use crate::{Failure, logging, print};

const EXAMPLES: &str = "\
Examples:
  echoring health
  echoring health --admin unix:/run/echoring/admin.sock
  echoring health --ready --admin-token-file /etc/echoring/admin-token
  HEALTHCHECK CMD [\"/echoring\", \"health\"]      # in a Dockerfile

A server is healthy while the event loop of every shard runs, also during a drain. It is ready until it drains. \
Only --ready needs a token, if the admin address requires one; the read token suffices.

Exit codes: 0 healthy, 1 not healthy or not ready, 2 wrong arguments, 3 no answer or no access.";

/// Exit code for a server that answers that it is not healthy, or not ready.
const EXIT_UNHEALTHY: u8 = 1;

/// The flags of `health`, as typed.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct Args {
    #[command(flatten)]
    admin: AdminArgs,

    /// Check whether the server is ready: a server that drains is healthy and not ready
    #[arg(long)]
    ready: bool,

    /// Maximum time for the answer
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = duration_in(HEALTH_TIMEOUT_RANGE))]
    timeout: Duration,
}

pub(crate) fn run(arguments: Args) -> Result<ExitCode, Failure> {
    let (path, state) = if arguments.ready { ("/readyz", "ready") } else { ("/healthz", "healthy") };
    let admin = arguments.admin.client()?.with_timeout(arguments.timeout);
    let (status, body) = admin.request(Method::GET, path)?;
    match status {
        StatusCode::OK => Ok(print(&body)),
        StatusCode::SERVICE_UNAVAILABLE => {
            logging::print_last(&format!("error: {} is not {state}: {}", admin.target(), message(&body)));
            Ok(ExitCode::from(EXIT_UNHEALTHY))
        }
        _ => Err(Failure::Environment(format!(
            "{} answers {path} with {status}; is it the --admin address of a server?",
            admin.target()
        ))),
    }
}
