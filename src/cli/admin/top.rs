//! `echoring top`: watches a running server in the terminal, through its admin address.
//!
//! `model` and `app` are pure; `poller` asks, `view` draws. Never: a terminal that is left in a changed mode.

mod answers;
mod app;
mod format;
mod model;
mod poller;
mod screen;
mod text;
mod view;

use std::io::{self, IsTerminal as _};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use crate::admin::admin_client::AdminArgs;
use crate::common::values::duration_in;
use crate::limits::TOP_INTERVAL_RANGE;
use crate::{Failure, print};
use app::App;

const EXAMPLES: &str = "\
Examples:
  echoring top
  echoring top --admin 192.0.2.1:9002 --admin-token-file token
  echoring top --once --interval 5s      # one snapshot as text, over five seconds

Keys: q ends, p pauses, t and c sort topics and consumers, + and - change the interval, h lists all.

Exit codes: 0 done, 2 wrong arguments, 3 no answer.";

/// The flags of `top`, as typed.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct Args {
    #[command(flatten)]
    admin: AdminArgs,

    /// Time between two requests
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = duration_in(TOP_INTERVAL_RANGE))]
    interval: Duration,

    /// Print one snapshot as text and end; the default without a terminal
    #[arg(long)]
    once: bool,
}

pub(crate) fn run(arguments: Args) -> Result<ExitCode, Failure> {
    let admin = arguments.admin.client()?;
    let mut app = App::new(admin.target(), arguments.interval);
    // A server that cannot be asked at all is an error; one that is lost later is shown as such.
    app.answered(poller::ask(&admin, app.questions.topic_order)?);
    if arguments.once || !(io::stdin().is_terminal() && io::stdout().is_terminal()) {
        // Rates need two answers.
        thread::sleep(arguments.interval);
        app.answered(poller::ask(&admin, app.questions.topic_order)?);
        return Ok(print(text::snapshot(&app).as_bytes()));
    }
    screen::watch(admin, app)
        .map_err(|error| Failure::Environment(format!("the terminal cannot be used: {error}")))?;
    Ok(ExitCode::SUCCESS)
}
