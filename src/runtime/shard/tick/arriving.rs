//! Admits connections once their client is known, and reports the addresses that were requested.

use std::net::SocketAddr;

use super::Shard;
use crate::admission::Limit;
use crate::driver::{Span, Token};
use crate::shard::application::Application;
use crate::shard::context::Context;
use echoring_proto::buffer::Buffer;
use echoring_proto::connection::Cause;
use echoring_proto::proxy_header::{self, ProxyHeaderError};

impl<A: Application> Shard<A> {
    /// The driver reported an address.
    pub(super) fn addressed(&mut self, token: Token) {
        let address = self.core.driver.address(token);
        self.core.note_tcp(token);
        let Some(arrival) = self.core.arrivals.arriving.get_mut(&token) else {
            let address = self.core.arrivals.client(token).or(address);
            return self.tell_address(token, address);
        };
        if arrival.proxy.is_some() {
            return;
        }
        let proxies = &self.core.arrivals.limits.proxies;
        let is_proxy = match address {
            Some(address) => proxies.contains(address.ip()),
            None => proxies.unix && self.core.driver.is_unix(token),
        };
        if is_proxy && proxies.proxy_protocol {
            if let Some(arrival) = self.core.arrivals.arriving.get_mut(&token) {
                arrival.proxy = Some(address);
            }
            self.read_header(token);
        } else {
            self.admit(token, address, is_proxy);
        }
    }

    /// Reports an address to everything that requested it.
    fn tell_address(&mut self, token: Token, address: Option<SocketAddr>) {
        let asked = self.core.log.addressed(token, address);
        // It may have to be closed, which waited for the address.
        self.core.touch(token);
        if asked {
            self.application.addressed(&mut Context { core: &mut self.core }, token, address);
        }
    }

    /// Keeps the bytes of a connection whose client is not known yet.
    #[cold]
    pub(super) fn hold(&mut self, token: Token, span: Span) {
        let Some(arrival) = self.core.arrivals.arriving.get_mut(&token) else { return };
        let held = arrival.input.bytes.take();
        let Some(kept) = self.core.keep(token, held, span, self.core.arrival_bytes_max()) else { return };
        let Some(arrival) = self.core.arrivals.arriving.get_mut(&token) else { return };
        arrival.input.bytes = Some(kept);
        if arrival.proxy.is_some() {
            self.read_header(token);
        }
    }

    /// Reads the header of a trusted proxy, if it has arrived.
    fn read_header(&mut self, token: Token) {
        let Some(arrival) = self.core.arrivals.arriving.get_mut(&token) else { return };
        let Some(proxy) = arrival.proxy else { return };
        let bytes = arrival.input.bytes.as_ref().map_or(&[][..], Buffer::as_slice);
        match proxy_header::parse(bytes) {
            Ok(None) if arrival.input.ended => self.refuse_header(token, ProxyHeaderError::Missing),
            Ok(None) => {}
            Ok(Some(header)) => {
                if let Some(held) = &mut arrival.input.bytes {
                    held.skip(header.bytes);
                }
                self.core.counters.proxy_headers += 1;
                let client =
                    header.client.map(|client| SocketAddr::new(client.ip().to_canonical(), client.port()));
                // A proxy that speaks for itself, or for another proxy, may name the client in the request.
                let is_proxy =
                    client.is_none_or(|client| self.core.arrivals.limits.proxies.contains(client.ip()));
                self.admit(token, client.or(proxy), is_proxy);
            }
            Err(error) => self.refuse_header(token, error),
        }
    }

    fn refuse_header(&mut self, token: Token, error: ProxyHeaderError) {
        let proxy = self.core.refuse_header(token, error);
        self.tell_address(token, proxy);
        let cause = Cause::NotAdmitted(Limit::ProxyHeader.name());
        self.core.with_connection(token, |connection, _| connection.abort(cause));
    }

    /// The client of a connection is known, or a proxy that will name it in the request.
    fn admit(&mut self, token: Token, client: Option<SocketAddr>, is_proxy: bool) {
        let Some(arrival) = self.core.arrivals.arriving.remove(&token) else { return };
        if self.core.slots.get(token).is_none_or(|slot| slot.connection.is_closing()) {
            self.core.drop_held(Some(arrival.input));
            return self.tell_address(token, client);
        }
        if client.is_none() && !is_proxy && !self.core.driver.is_unix(token) {
            self.core.warn_of_unknown_address();
        }
        let entering = client.filter(|_| !is_proxy);
        let entered = entering.map_or(Ok(()), |client| self.core.enter(token, client));
        let entered = entered.and_then(|()| self.core.enter_any());
        self.tell_address(token, client);
        if let Err(limit) = entered {
            self.core.refuse_arrival(token, limit);
            if self.core.slots.get(token).is_none_or(|slot| slot.connection.is_closing()) {
                return self.core.drop_held(Some(arrival.input));
            }
            self.read_held(token, arrival.input);
            return self.core.touch(token);
        }
        if let Some(client) = client.filter(|_| is_proxy) {
            self.core.arrivals.know(token, client, false);
        }
        if is_proxy {
            self.core.arrivals.proxied.insert(token, client);
        }
        if self.core.security.server.is_some() {
            self.core.secure_accepted(token);
        }
        if arrival.input.bytes.is_some() && self.core.handshake_must_wait(token) {
            return self.core.handshakes.wait(token, arrival.input);
        }
        self.read_held(token, arrival.input);
        self.core.touch(token);
    }
}
