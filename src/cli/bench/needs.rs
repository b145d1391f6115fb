//! Which flags of `bench` have an effect only with another one.
//!
//! One table, checked where the flags are resolved, so that it holds for the command line and for each run of a file. clap's `requires`
//! is not used: clap drops it when the required flag contradicts one that is given, and the flag then has no effect.

use clap::ArgMatches;

use super::usage::usage;
use crate::Failure;
use crate::common::file::flags::is_given;
use crate::common::values::flag_of;

/// Flags that have no effect without another one, each with a value for examples; what they need; and the same in an example.
type Needs = (&'static [(&'static str, &'static str)], &'static str, &'static str);

pub(super) const NEEDS: &[Needs] = &[
    (
        &[("replay_speed", "2"), ("replay_copies", "3"), ("replay_rule", "json"), ("replay_ignore", "/ts")],
        "replay",
        "--replay day.jsonl",
    ),
    (&[("param", "method=add")], "protocol", "--protocol json-rpc"),
    (&[("data_order", "shuffled")], "data", "--data users.csv"),
    (&[("time_unit", "us")], "time_field", "--mode push --time-field sent_at"),
    (&[("tls_cert", "client.pem")], "tls_key", "--tls-key client.key"),
    (&[("tls_key", "client.key")], "tls_cert", "--tls-cert client.pem"),
    (
        &[("fail_on", "worse"), ("against_pid", "4711")],
        "against",
        "--repeat 10 --against ws://127.0.0.1:9101",
    ),
    (&[("max_duration", "5m")], "until", "--until 'p99±5%'"),
    (&[("slow_how", "trickle"), ("trickle", "4KiB/s")], "slow", "--slow 1%"),
    (&[("nats", "nats://127.0.0.1"), ("agents_timeout", "1m")], "agents", "--agents 3"),
    (
        &[
            ("nats_prefix", "load"),
            ("nats_token_file", "nats.token"),
            ("nats_credentials_file", "nats.creds"),
            ("nats_tls_ca", "nats.pem"),
        ],
        "nats",
        NATS,
    ),
    (&[("agents", "3")], "nats", NATS),
    (&[("against", "ws://127.0.0.1:9101")], URL, "bench ws://127.0.0.1:9001 --repeat 10"),
    (
        &[
            ("replay", "day.jsonl"),
            ("agents", "3"),
            ("server_pid", "4711"),
            ("all_addresses", ""),
            ("proxy", "http://proxy:3128"),
            ("unix_socket", "/run/echo.sock"),
        ],
        URL,
        "bench ws://localhost:9001/echo",
    ),
];
const NATS: &str = "--nats nats://127.0.0.1";
const URL: &str = "url";

/// Refuses the first flag without an effect. `searches`: whether a search decides about its runs, with a default longest time.
pub(super) fn check(typed: &ArgMatches, searches: bool) -> Result<(), Failure> {
    for (flags, needed, example) in NEEDS {
        let is_needed =
            |(flag, _): &&(&str, &str)| is_given(typed, flag) && !(searches && *flag == "max_duration");
        if let Some((flag, value)) = flags.iter().find(is_needed).filter(|_| !is_given(typed, needed)) {
            let needed = if *needed == URL { "a URL".to_owned() } else { flag_of(needed) };
            let flag = flag_of(flag);
            let example = format!("{example} {flag} {value}");
            return Err(usage(&flag, &format!("only with {needed}, such as {}", example.trim_end())));
        }
    }
    Ok(())
}
