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
use echoring_auth::{App, AppEvent, AppSettings};
use echoring_proto::limits::Nanos;

const HEADING: &str = "Hooks of the application";

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
    /// [`Failure::Environment`] for URLs and names that cannot be used.
    pub(super) fn load(
        &self,
        origins: &Origins,
        tables: &HookTables,
        node: &str,
    ) -> Result<Option<Arc<App>>, Failure> {
        if self.urls().next().is_none() && tables.is_empty() {
            return Ok(None);
        }
        let mut settings = AppSettings {
            node: node.to_owned(),
            urls: self.urls().map(|(event, _, url)| (event, url.to_owned())).collect(),
            timeout: self.hooks_timeout,
            headers: self.hooks_header.clone(),
            ..AppSettings::default()
        };
        tables.add_to(&mut settings);
        let loaded = App::load(&settings)
            .map_err(|error| origins.unusable(&flag_of(error.setting), &error.to_string()))?;
        Ok(Some(Arc::new(loaded)))
    }

    /// The hooks whose URLs are given, and their options.
    fn urls(&self) -> impl Iterator<Item = (AppEvent, &'static str, &str)> {
        let all = [
            &self.hooks_rpc,
            &self.hooks_publish,
            &self.hooks_subscribe,
            &self.hooks_connect,
            &self.hooks_refresh,
            &self.hooks_sub_refresh,
        ];
        let all = AppEvent::ALL.into_iter().zip(all);
        all.filter_map(|((event, key), url)| Some((event, key, url.as_deref()?)))
    }

    /// Warnings about these options.
    pub(super) fn warnings(&self, tables: &HookTables) -> Vec<String> {
        let own = self.urls().map(|(_, key, url)| (key.to_owned(), url));
        let open = own.chain(tables.urls()).filter(|(_, url)| is_exposed(url));
        open.map(|(key, _)| format!("{key}: what clients send leaves this machine without TLS; use https://"))
            .collect()
    }
}
