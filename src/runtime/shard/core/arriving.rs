//! Connections that arrive, with limits on peers or behind trusted proxies: their clients, and whether these are
//! admitted.
//!
//! ```text
//! accepted ─► address ─┬─► client ─────────────────────────────► admitted, or refused ─► TLS, request
//!                      └─► trusted proxy ─┬─► PROXY header ─► client ──┘
//!                                         └─► TLS, request ─► client by Forwarded ─► admitted, or refused
//! ```
//!
//! Nothing is read before, and no TLS handshake begins. Bytes that arrive meanwhile are kept, up to a bound.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use super::Core;
use super::arrivals::{Arrival, Arrivals};
use crate::admission::{AddressLimits, Admission, Limit, Offence, PeerLimits};
use crate::driver::Token;
use crate::shard::kinds::Kinds;
use crate::shard::refusals;
use echoring_proto::connection::Cause;
use echoring_proto::handshake::{Refusal, Request, forwarded_client};
use echoring_proto::limits::SECOND;
use echoring_proto::proxy_header::ProxyHeaderError;

/// A proxy at a Unix socket has no address.
const NOWHERE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

impl<K: Kinds> Core<K> {
    /// Applies other limits, also to existing connections if the limits are on open ones.
    pub(in crate::shard) fn set_limits(
        &mut self,
        admission: Option<Arc<Admission>>,
        limits: Arc<PeerLimits>,
    ) {
        if let Some(admission) = admission {
            self.arrivals.admission = admission;
        }
        self.set_throttle(&limits.traffic);
        self.arrivals.configure(limits);
    }

    /// A connection was accepted. Nothing is done with it until the address of its other end is known.
    #[cold]
    pub(super) fn begin_arrival(&mut self, token: Token) {
        self.arrivals.arriving.insert(token, Arrival::default());
        self.driver.find_address(token);
        self.touch(token);
    }

    /// Counts and logs that a trusted proxy has sent no header, and drops the received bytes. Returns the proxy's
    /// address.
    pub(in crate::shard) fn refuse_header(
        &mut self,
        token: Token,
        error: ProxyHeaderError,
    ) -> Option<SocketAddr> {
        let proxy = self.arrivals.arriving.get_mut(&token).and_then(|arrival| arrival.proxy).flatten();
        self.count_limited(Limit::ProxyHeader);
        if let Some(left_out) = self.arrivals.log_due(Limit::ProxyHeader, self.env.now) {
            let peer = proxy.map(tracing::field::display);
            let hint =
                "the proxy must send the header that `proxy_protocol` expects (HAProxy: send-proxy-v2)";
            let reason = error.reason();
            tracing::warn!(peer, reason, left_out, hint, "connection of a trusted proxy closed");
        }
        let arrival = self.arrivals.arriving.remove(&token);
        self.drop_held(arrival.map(|arrival| arrival.input));
        proxy
    }

    /// A client's address was not found. Each such connection had ended, unless the kernel cannot look up any.
    #[cold]
    pub(in crate::shard) fn warn_of_unknown_address(&mut self) {
        if !self.arrivals.limits.addresses.is_none()
            && let Some(left_out) = self.arrivals.unknown_log_due(self.env.now)
        {
            let hint = "if this repeats, restart the server: before Linux 6.8 it finds addresses only if it started with limits";
            tracing::warn!(left_out, hint, "a client without an address is not limited by it");
        }
    }

    /// A client whose address is known enters. It counts among the connections of its address until it leaves.
    pub(in crate::shard) fn enter(&mut self, token: Token, client: SocketAddr) -> Result<(), Limit> {
        let arrivals = &mut self.arrivals;
        let limits = &arrivals.limits.addresses;
        // Without limits on addresses nothing is remembered of them.
        let entered = match limits.is_none() {
            true => Ok(false),
            false => arrivals.admission.enter(client.ip(), limits, self.env.now).map(|()| true),
        };
        arrivals.know(token, client, entered == Ok(true));
        entered.map(|_| ()).map_err(|offence| self.note_offence(client, offence))
    }

    /// A client comes with its connection from another shard, whatever its limits are.
    pub(in crate::shard) fn reenter(&mut self, token: Token, client: SocketAddr) {
        let entered = !self.arrivals.limits.addresses.is_none();
        if entered {
            self.arrivals.admission.reenter(client.ip(), self.env.now);
        }
        self.arrivals.know(token, client, entered);
    }

    pub(in crate::shard) fn enter_any(&mut self) -> Result<(), Limit> {
        let Arrivals { admission, limits, .. } = &self.arrivals;
        if admission.enter_any(&limits.addresses, self.env.now) {
            return Ok(());
        }
        self.count_limited(Limit::Handshakes);
        if let Some(left_out) = self.arrivals.log_due(Limit::Handshakes, self.env.now) {
            tracing::warn!(left_out, "connections refused: more handshakes per second than allowed");
        }
        Err(Limit::Handshakes)
    }

    /// Refuses a connection that has sent no request yet: a banned one gets no answer, and no TLS handshake begins for
    /// it.
    pub(in crate::shard) fn refuse_arrival(&mut self, token: Token, limit: Limit) {
        if limit == Limit::Banned {
            let cause = Cause::NotAdmitted(limit.name());
            return self.with_connection(token, |connection, _| connection.abort(cause));
        }
        let refusal = refusals::over_limit(limit, self.env.entropy.next());
        self.refuse_later(token, refusal, true);
        if self.security.server.is_some() {
            self.secure_accepted(token);
        }
    }

    /// The request of a trusted proxy names the client. Returns why that is refused.
    #[inline]
    pub(in crate::shard) fn identify(&mut self, token: Token, request: &Request<'_>) -> Option<Refusal> {
        let proxy = self.arrivals.take_proxy(token)?;
        self.identify_behind(token, proxy.unwrap_or(NOWHERE), request)
    }

    #[cold]
    fn identify_behind(&mut self, token: Token, proxy: SocketAddr, request: &Request<'_>) -> Option<Refusal> {
        let limits = Arc::clone(&self.arrivals.limits);
        let client = match forwarded_client(request, proxy, |address| limits.proxies.contains(address)) {
            Ok(client) => client,
            Err(refusal) => return Some(refusal),
        };
        if limits.proxies.contains(client.ip()) || client == proxy {
            return None;
        }
        self.log.readdressed(token, client);
        let limit = self.enter(token, client).err()?;
        Some(refusals::over_limit(limit, self.env.entropy.next()))
    }

    /// Counts and logs that a client was over a limit.
    pub(super) fn note_offence(&mut self, client: SocketAddr, offence: Offence) -> Limit {
        let Offence { limit, log, banned } = offence;
        self.count_limited(limit);
        let (peer, name) = (client.ip(), limit.name());
        if banned {
            let ban_s = self.arrivals.limits.addresses.bans.map_or(0, |policy| policy.time / SECOND);
            tracing::warn!(%peer, limit = name, ban_s, "address banned");
        } else if let Some(left_out) = log {
            tracing::warn!(%peer, limit = name, left_out, "address over a limit");
        }
        limit
    }

    /// A connection was over a limit of its own, which may ban its address unless it is only slowed down.
    pub(in crate::shard) fn note_excess(&mut self, token: Token, limit: Limit, counts: bool) {
        let Some(client) = self.arrivals.client(token) else { return self.note_unknown(token, limit) };
        let limits = Arc::clone(&self.arrivals.limits);
        let limits = if counts { &limits.addresses } else { &AddressLimits::NONE };
        let offence = self.arrivals.admission.offend(client.ip(), limit, limits, self.env.now);
        self.note_offence(client, offence);
    }

    /// Counts and logs that a client without a stored address was over a limit: the address is looked up for the log.
    #[cold]
    fn note_unknown(&mut self, token: Token, limit: Limit) {
        self.count_limited(limit);
        let Some(left_out) = self.arrivals.log_due(limit, self.env.now) else { return };
        let is_here = self.slots.get(token).is_some();
        if self.log.over_limit(token, is_here, limit.name(), left_out) {
            self.driver.find_address(token);
        }
    }

    pub(in crate::shard) fn count_limited(&mut self, limit: Limit) {
        *self.counters.limited.entry(limit.name()).or_default() += 1;
    }

    /// A connection has ended.
    pub(super) fn forget_arrival(&mut self, token: Token) {
        self.forget_throttled(token);
        self.refused_later.remove(&token);
        let waiting = self.handshakes.forget(token);
        self.drop_held(waiting);
        let arrival = self.arrivals.forget(token, self.env.now);
        self.drop_held(arrival.map(|arrival| arrival.input));
    }
}
