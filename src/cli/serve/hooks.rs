//! The options of `[hooks]`: the application that is asked about requests of clients of Centrifuge's client protocol. In the file
//! they are the keys of one table, without the prefix `hooks_`.

pub(crate) mod tables;

use std::sync::Arc;
use std::time::Duration;

use self::tables::HookTables;
use super::auth::is_exposed;
use crate::Failure;
use crate::common::file::flags::Origins;
use crate::common::values::{self, flag_of};
use echoring_auth::limits::APP_TIMEOUT_DEFAULT;
use echoring_auth::{App, AppSettings};
use echoring_proto::limits::Nanos;

/// The table in the file.
pub(super) const TABLE: &str = "hooks";

const HEADING: &str = "Hooks of the application";

/// The key in the table for the option `id`; `None` for an option of another table.
pub(super) fn key_of(id: &str) -> Option<&str> {
    id.strip_prefix("hooks_")
}

/// The options of `[hooks]`.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = HEADING)]
pub(super) struct HookArgs {
    /// Post calls (rpc) and messages (send) from Centrifuge clients to this URL
    ///
    /// The format is that of Centrifugo's RPC proxy. See docs/reference/centrifuge.md#hooks.
    #[arg(long, value_name = "URL")]
    hooks_rpc: Option<String>,

    /// Ask this URL about publications to topics with publish = "hook"
    #[arg(long, value_name = "URL")]
    hooks_publish: Option<String>,

    /// Ask this URL about subscriptions to topics with subscribe = "hook"
    #[arg(long, value_name = "URL")]
    hooks_subscribe: Option<String>,

    /// Ask this URL about Centrifuge sessions that begin without a token
    ///
    /// The format is that of Centrifugo's connect proxy.
    #[arg(long, value_name = "URL")]
    hooks_connect: Option<String>,

    /// Ask this URL whether a client may stay that --hooks-connect lets in until a time
    ///
    /// The format is that of Centrifugo's refresh proxy. Without it, the connection ends at that time.
    #[arg(long, value_name = "URL")]
    hooks_refresh: Option<String>,

    /// Ask this URL whether a subscription goes on that --hooks-subscribe allows until a time
    ///
    /// The format is that of Centrifugo's sub refresh proxy. Without it, the subscription ends at that time.
    #[arg(long, value_name = "URL")]
    hooks_sub_refresh: Option<String>,

    /// Forward this header field of the handshake to the hooks; repeatable
    #[arg(long, value_name = "NAME")]
    hooks_header: Vec<String>,

    /// Maximum time for an answer from these hooks
    #[arg(
        long,
        value_name = "TIME",
        default_value = values::shown_time(APP_TIMEOUT_DEFAULT.as_nanos() as Nanos),
        value_parser = values::duration_in(Duration::from_millis(10)..=Duration::from_secs(60)),
    )]
    hooks_timeout: Duration,
}

impl HookArgs {
    /// Checks the options; `None` without a hook.
    ///
    /// # Errors
    /// [`Failure::Environment`] for URLs and names that cannot be used, [`Failure::Usage`] for options without an effect.
    pub(super) fn load(&self, origins: &Origins, tables: &HookTables) -> Result<Option<Arc<App>>, Failure> {
        if self.urls().next().is_none() && tables.is_empty() {
            let line = "has no effect without the URL of a hook, such as --hooks-rpc";
            return origins.refuse([("--hooks-header", !self.hooks_header.is_empty())], line).map(|()| None);
        }
        for (refresh, of) in [
            (("--hooks-refresh", self.hooks_refresh.is_some()), ("--hooks-connect", &self.hooks_connect)),
            (
                ("--hooks-sub-refresh", self.hooks_sub_refresh.is_some()),
                ("--hooks-subscribe", &self.hooks_subscribe),
            ),
        ] {
            if of.1.is_none() && tables.is_empty() {
                origins.refuse([refresh], &format!("has no effect without {}", of.0))?;
            }
        }
        let mut settings = AppSettings {
            rpc: self.hooks_rpc.clone(),
            publish: self.hooks_publish.clone(),
            subscribe: self.hooks_subscribe.clone(),
            connect: self.hooks_connect.clone(),
            refresh: self.hooks_refresh.clone(),
            sub_refresh: self.hooks_sub_refresh.clone(),
            timeout: self.hooks_timeout,
            headers: self.hooks_header.clone(),
            ..AppSettings::default()
        };
        tables.add_to(&mut settings);
        let loaded = App::load(&settings)
            .map_err(|error| origins.unusable(&flag_of(error.setting), &error.to_string()))?;
        Ok(Some(Arc::new(loaded)))
    }

    /// The options with URLs that are given.
    fn urls(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let all = [
            ("hooks_rpc", &self.hooks_rpc),
            ("hooks_publish", &self.hooks_publish),
            ("hooks_subscribe", &self.hooks_subscribe),
            ("hooks_connect", &self.hooks_connect),
            ("hooks_refresh", &self.hooks_refresh),
            ("hooks_sub_refresh", &self.hooks_sub_refresh),
        ];
        all.into_iter().filter_map(|(key, url)| Some((key, url.as_deref()?)))
    }

    /// Warnings about these options.
    pub(super) fn warnings(&self, tables: &HookTables) -> Vec<String> {
        let own = self.urls().map(|(key, url)| (key.to_owned(), url));
        let open = own.chain(tables.urls()).filter(|(_, url)| is_exposed(url));
        open.map(|(key, _)| format!("{key}: what clients send leaves this machine without TLS; use https://"))
            .collect()
    }
}
