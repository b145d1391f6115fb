//! Rules about options that need or exclude one another. Each rule is a row of [`RULES`], and [`check`] checks all of them.
//!
//! An option that would have no effect is refused: its user expects one, often protection. The rules ask only whether options are set;
//! `bounds` has the values that bound other values.

use std::collections::BTreeSet;

use clap::ArgMatches;

use super::args::Args;
use super::options::value;
use crate::Failure;
use crate::common::file::flags::{self, Origins};
use crate::common::values::flag_of;
use echoring_auth::Settings as AuthSettings;

/// A rule about options, by their flags, and about conditions, which have no dashes.
struct Rule {
    of: &'static [&'static str],
    /// One of them must be set, or hold, where one of the others is. Empty if those exclude one another.
    needs: &'static [&'static str],
    /// The error about the first of them that is set.
    sentence: &'static str,
}

/// Declares rules: `[FLAG, …] needs [FLAG OR CONDITION, …]: SENTENCE;`, or without `needs` for flags that exclude one another.
macro_rules! rules {
    ($([$($of:literal),+] $(needs [$($needed:literal),+])? : $sentence:literal;)+) => {
        &[$(Rule { of: &[$($of),+], needs: &[$($($needed),+)?], sentence: $sentence }),+]
    };
}

const RULES: &[Rule] = rules! {
    ["--admin-token-file", "--admin-read-token-file"] needs ["admin address"]: "there is no admin address to protect: --admin is off";
    ["--tls-client-ca", "--takeover-tls"] needs ["--tls-cert"]: "needs TLS: set --tls-cert and --tls-key";
    ["--auth-certificate"] needs ["--tls-client-ca"]: "has no effect without --tls-client-ca";
    ["--auth-audience", "--auth-issuer", "--auth-token-without-exp", "--auth-claim", "--auth-cookie", "--auth-query"] needs ["method"]:
        "has no effect without --auth-tokens, --auth-jwt-key, --auth-jwks, --auth-basic or --auth-hook";
    ["--auth-blocked"] needs ["method", "certificates"]:
        "has no effect without --auth-tokens, --auth-jwt-key, --auth-jwks, --auth-basic or --auth-hook";
    ["--proxy-protocol"] needs ["--trusted-proxy"]: "has no effect without --trusted-proxy";
    ["--rate-action"] needs ["--message-rate", "--byte-rate"]: "has no effect without --message-rate or --byte-rate";
    ["--ban-window", "--ban-time"] needs ["--ban-after"]: "has no effect without --ban-after";
    ["--ban-after"] needs [
        "--max-connections-per-address", "--handshake-rate-per-address", "--rate-action", "--publish-rate", "--publish-rate-per-identity",
        "--subscribe-rate", "--subscribe-rate-per-identity", "--max-subscriptions-per-identity", "--max-connections-per-identity",
        "--auth-basic", "--auth-hook"
    ]: "has no effect without --max-connections-per-address, --handshake-rate-per-address, --publish-rate, --rate-action close with a rate, \
        --auth-basic or --auth-hook";
    ["--hooks-header"] needs [
        "--hooks-rpc", "--hooks-publish", "--hooks-subscribe", "--hooks-connect", "--hooks-refresh", "--hooks-sub-refresh", "hook tables"
    ]: "has no effect without the URL of a hook, such as --hooks-rpc";
    ["--hooks-refresh"] needs ["--hooks-connect", "hook tables"]: "has no effect without --hooks-connect";
    ["--hooks-sub-refresh"] needs ["--hooks-subscribe", "hook tables"]: "has no effect without --hooks-subscribe";
    [
        "--cluster-user", "--cluster-password-file", "--cluster-token-file", "--cluster-credentials-file", "--cluster-nkey-file",
        "--cluster-tls-ca", "--cluster-tls-certificate", "--cluster-tls-key", "--cluster-key-file", "--cluster-nats-clients",
        "--cluster-nats-inbox"
    ] needs ["--cluster"]: "has no effect without --cluster";
    ["--cluster-nats-inbox"] needs ["--cluster-nats-clients"]: "has no effect without --cluster-nats-clients";
    ["--cluster-user", "--cluster-token-file", "--cluster-credentials-file", "--cluster-nkey-file"]:
        "another way to authenticate: leave one out";
    ["--cluster-user"] needs ["--cluster-password-file"]: "needs --cluster-password-file";
    ["--cluster-password-file"] needs ["--cluster-user"]: "needs --cluster-user";
    ["--cluster-tls-certificate"] needs ["--cluster-tls-key"]: "needs its private key, --cluster-tls-key";
    ["--cluster-tls-key"] needs ["--cluster-tls-certificate"]: "needs its certificate, --cluster-tls-certificate";
    ["--cluster-nats-clients"] needs ["admin address"]: "needs --admin, whose thread publishes for them";
};

/// Refuses the first option that breaks a rule.
///
/// # Errors
/// [`Failure::Usage`], with the place of the option.
pub(super) fn check(
    args: &Args,
    matches: &ArgMatches,
    auth: &AuthSettings,
    has_hook_tables: bool,
    origins: &Origins,
) -> Result<(), Failure> {
    let command = flags::command::<Args>();
    let defaults = command.clone().get_matches_from([""; 0]);
    let differs = command.get_arguments().filter(|arg| value(arg, matches) != value(arg, &defaults));
    let mut set: BTreeSet<String> = differs.map(|arg| flag_of(arg.get_id().as_str())).collect();
    // Its word for all issuers sets none.
    set.retain(|flag| flag != "--auth-issuer" || !auth.issuer.is_empty());
    let conditions = [
        ("admin address", args.admin.is_some()),
        ("method", auth.is_on()),
        ("certificates", auth.certificate.is_some()),
        ("hook tables", has_hook_tables),
    ];
    set.extend(conditions.into_iter().filter(|(_, holds)| *holds).map(|(name, _)| name.to_owned()));
    for Rule { of, needs, sentence } in RULES {
        let mut wrong = of.iter().filter(|flag| set.contains(**flag));
        match (needs, wrong.next(), wrong.next()) {
            ([], Some(one), Some(other)) => {
                return Err(origins.wrong(other, &format!("conflicts with {one}, {sentence}")));
            }
            ([_, ..], Some(flag), _) if !needs.iter().any(|needed| set.contains(*needed)) => {
                return Err(origins.wrong(flag, sentence));
            }
            _ => {}
        }
    }
    Ok(())
}
