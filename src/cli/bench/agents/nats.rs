//! The options for the NATS server that connects agents and their coordinator.

use std::fs;
use std::path::PathBuf;

use super::super::usage::usage;
use crate::Failure;
use echoring_cluster::nats::{Credentials, NatsOptions, OptionsError, Tls};

const HEADING: &str = "Agents";

/// How NATS is reached.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
#[command(next_help_heading = HEADING)]
pub(in super::super) struct Args {
    /// NATS server that connects agents and bench --agents; repeatable
    ///
    /// nats://HOST[:PORT] or tls://HOST[:PORT]. Anyone who may use its subjects PREFIX.> can make agents load any server.
    #[arg(long, value_name = "URL")]
    pub(super) nats: Vec<String>,

    /// First tokens of the NATS subjects; agents with another prefix are not found
    #[arg(long, value_name = "SUBJECT", default_value = "echoring.bench")]
    pub(super) nats_prefix: String,

    /// File with the NATS token
    #[arg(long, value_name = "FILE", conflicts_with = "nats_credentials_file")]
    nats_token_file: Option<PathBuf>,

    /// File with the JWT and nkey of a NATS user, as written by nsc
    #[arg(long, value_name = "FILE")]
    nats_credentials_file: Option<PathBuf>,

    /// CA certificates for the NATS servers, as a PEM file [default: those of the system]
    #[arg(long, value_name = "FILE")]
    nats_tls_ca: Option<PathBuf>,
}

impl Args {
    /// The options, checked.
    pub(super) fn options(&self) -> Result<NatsOptions, Failure> {
        let credentials = match (&self.nats_token_file, &self.nats_credentials_file) {
            (Some(file), _) => {
                let token = fs::read_to_string(file).map_err(|error| {
                    Failure::Environment(format!("--nats-token-file: {}: {error}", file.display()))
                })?;
                Credentials::Token(token.trim().to_owned())
            }
            (None, Some(file)) => Credentials::CredentialsFile(file.clone()),
            (None, None) => Credentials::None,
        };
        let options = NatsOptions {
            servers: self.nats.clone(),
            prefix: self.nats_prefix.clone(),
            credentials,
            tls: Tls { authorities: self.nats_tls_ca.clone(), certificate: None },
            ..NatsOptions::default()
        };
        options.check().map_err(|error| match error {
            OptionsError::NoServer | OptionsError::Server(..) => usage("--nats", &error.to_string()),
            OptionsError::Prefix(_) | OptionsError::Reserved(..) => {
                usage("--nats-prefix", &error.to_string())
            }
            error => Failure::Environment(format!("--nats: {error}")),
        })?;
        Ok(options)
    }
}
