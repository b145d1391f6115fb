//! Flags of `bench` for the upgrade request, and for the data that templates use.

use std::path::PathBuf;

use super::headings::CONNECTIONS;
use super::parsers::{Resolve, expanded, resolve};
use super::usage::{refuse, usage};
use crate::Failure;
use crate::common::values;
use echoring_load::{ConnectOptions, RowOrder, Rows, Template, WEIGHT_MAX};
use echoring_proto::handshake::{BadField, check_field, is_subprotocol};

#[derive(Debug, clap::Args)]
#[group(skip)]
#[command(next_help_heading = CONNECTIONS)]
pub(super) struct Args {
    /// Send this header field in the upgrade request, such as 'X-Token: {{data.token}}'; repeatable
    ///
    /// The value is a template, as are the path of the URL, --cookie, --origin and --message.
    #[arg(long, short = 'H', value_name = "NAME: VALUE")]
    header: Vec<String>,

    /// Send this cookie in the upgrade request; repeatable
    #[arg(long, value_name = "NAME=VALUE")]
    cookie: Vec<String>,

    /// Send this Origin in the upgrade request, such as https://app.example
    #[arg(long, value_name = "ORIGIN")]
    origin: Option<String>,

    /// Offer this subprotocol; repeatable, in order of preference [default: those of --protocol]
    #[arg(long, value_name = "NAME")]
    subprotocol: Vec<String>,

    /// Read data for templates from this file, one row per connection
    ///
    /// A CSV file, whose first line names the columns, or JSON Lines (.jsonl), whose members are the columns. {{data.NAME}} in
    /// templates is the value of a column.
    #[arg(long, value_name = "FILE.csv|FILE.jsonl")]
    data: Option<PathBuf>,

    /// How connections take the rows of --data
    #[arg(long, value_parser = values::one_of(RowOrder::WORDS), default_value = "in-order")]
    data_order: RowOrder,

    /// Relative weights of several URLs, such as 3,1 [default: equal]
    #[arg(long, value_name = "LIST")]
    weights: Option<String>,

    /// Name expected in the certificate of a wss:// server, and sent in SNI [default: the URL's host]
    #[arg(long, value_name = "NAME")]
    pub(super) sni: Option<String>,

    /// Connect to ADDR for HOST:PORT of a URL; repeatable, also for several addresses of one host
    #[arg(long, value_name = "HOST:PORT:ADDR", value_parser = resolve)]
    pub(super) resolve: Vec<Resolve>,

    /// Connect through this proxy: http://[USER:PASSWORD@]HOST:PORT, socks5://…, or env
    ///
    /// env takes HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY from the environment.
    #[arg(long, value_name = "URL|env", conflicts_with = "unix_socket")]
    pub(super) proxy: Option<String>,

    /// Connect to this Unix socket; the URL gives the Host and the path
    #[arg(long, value_name = "PATH", conflicts_with = "source_addr")]
    pub(super) unix_socket: Option<PathBuf>,

    /// Client certificate chain for wss://, as a PEM file
    #[arg(long, value_name = "FILE")]
    pub(super) tls_cert: Option<PathBuf>,

    /// Private key of --tls-cert, as a PEM file
    #[arg(long, value_name = "FILE")]
    pub(super) tls_key: Option<PathBuf>,
}

impl Args {
    /// Adds the fields of the upgrade request.
    pub(super) fn fields(&self, connecting: &mut ConnectOptions) -> Result<(), Failure> {
        for word in &self.header {
            let expected = "expected NAME: VALUE, such as 'Authorization: Bearer secret'";
            let (name, value) = word.split_once(':').ok_or_else(|| usage("--header", expected))?;
            connecting.headers.push(field("--header", name.trim(), value.trim())?);
        }
        if !self.cookie.is_empty() {
            if let Some(cookie) = self.cookie.iter().find(|cookie| !cookie.contains('=')) {
                return Err(usage("--cookie", &format!("expected NAME=VALUE instead of {cookie}")));
            }
            // One field for all (RFC 6265, 5.4).
            connecting.headers.push(field("--cookie", "Cookie", &self.cookie.join("; "))?);
        }
        if let Some(origin) = &self.origin {
            connecting.origin = Some(field("--origin", "X-Origin", origin)?.1);
        }
        if let Some(wrong) = self.subprotocol.iter().find(|name| !is_subprotocol(name)) {
            return Err(usage("--subprotocol", &format!("{wrong} is not a token (RFC 6455, 4.1)")));
        }
        connecting.subprotocols.clone_from(&self.subprotocol);
        Ok(())
    }

    /// The rows of the data file.
    pub(super) fn rows(&self) -> Result<Option<Rows>, Failure> {
        let Some(file) = &self.data else { return Ok(None) };
        Rows::read(file, self.data_order).map(Some).map_err(|why| usage("--data", &why))
    }

    /// The weights of so many URLs.
    pub(super) fn weights(&self, urls: usize) -> Result<Vec<u32>, Failure> {
        let Some(list) = &self.weights else { return Ok(vec![1; urls]) };
        let weights: Option<Vec<u32>> = list
            .split(',')
            .map(|word| word.trim().parse().ok().filter(|weight| (1..=WEIGHT_MAX).contains(weight)))
            .collect();
        match weights {
            Some(weights) if weights.len() == urls => {
                let why = "only for several URLs, such as bench ws://127.0.0.1:9001 ws://127.0.0.1:9002 --weights 3,1";
                refuse([("--weights", urls < 2)], why).map(|()| weights)
            }
            Some(weights) => Err(usage("--weights", &format!("{} weights for {urls} URLs", weights.len()))),
            None => Err(usage("--weights", &format!("expected numbers from 1 to {WEIGHT_MAX}, such as 3,1"))),
        }
    }
}

/// A header field with a template as value.
fn field(flag: &str, name: &str, value: &str) -> Result<(String, Template), Failure> {
    let value = expanded(value).map_err(|why| usage(flag, &why))?;
    match check_field(name, &value) {
        Ok(()) => {}
        // It replaces the URL's.
        Err(BadField::Reserved) if name.eq_ignore_ascii_case("host") => {}
        Err(why) => return Err(usage(flag, &format!("{name}: {why}"))),
    }
    let template = Template::parse(&value).map_err(|why| usage(flag, &format!("{name}: {why}")))?;
    Ok((name.to_owned(), template))
}
