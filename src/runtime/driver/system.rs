//! The driver that a launch has chosen. Shards and their applications are compiled for this one type instead of for each driver.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use echoring_proto::buffer::Pool;

use super::epoll::Epoll;
use super::uring::Uring;
use super::{
    Description, Driver, DriverWork, Event, Nanos, Released, RemoteAddress, SendTimes, Source, Span, TcpInfo,
    Token, Waker, Work,
};

/// A driver of the operating system.
// One is made for each shard, so the larger variant costs nothing.
#[allow(clippy::large_enum_variant)]
#[derive(Debug)]
pub enum SystemDriver {
    /// io_uring.
    Uring(Uring),
    /// epoll.
    Epoll(Epoll),
}

macro_rules! on_either {
    ($chosen:expr, $driver:ident => $call:expr) => {
        match $chosen {
            SystemDriver::Uring($driver) => $call,
            SystemDriver::Epoll($driver) => $call,
        }
    };
}

impl Driver for SystemDriver {
    type Socket = OwnedFd;

    #[inline]
    fn now(&self) -> Nanos {
        on_either!(self, driver => driver.now())
    }

    #[inline]
    fn tick(&mut self, pool: &mut Pool, deadline: Option<Nanos>, events: &mut Vec<Event>) -> io::Result<()> {
        on_either!(self, driver => driver.tick(pool, deadline, events))
    }

    #[inline]
    fn received(&mut self, span: Span) -> &mut [u8] {
        on_either!(self, driver => driver.received(span))
    }

    #[inline]
    fn run<W: Work>(&mut self, work: W) -> W::Outcome {
        on_either!(self, driver => work.on(driver))
    }

    #[inline]
    fn send(&mut self, token: Token, source: Source) -> Result<(), Source> {
        on_either!(self, driver => driver.send(token, source))
    }

    #[inline]
    fn send_received(&mut self, token: Token, span: Span) -> bool {
        on_either!(self, driver => driver.send_received(token, span))
    }

    #[inline]
    fn unsent_bytes(&self, token: Token) -> usize {
        on_either!(self, driver => driver.unsent_bytes(token))
    }

    #[inline]
    fn held_bytes(&self, token: Token) -> usize {
        on_either!(self, driver => driver.held_bytes(token))
    }

    #[inline]
    fn unsent_shared(&self, token: Token) -> Option<(u64, usize)> {
        on_either!(self, driver => driver.unsent_shared(token))
    }

    #[inline]
    fn take_back(&mut self, token: Token, bytes: usize) -> bool {
        on_either!(self, driver => driver.take_back(token, bytes))
    }

    fn stamp(&mut self, token: Token) -> bool {
        on_either!(self, driver => driver.stamp(token))
    }

    fn send_times(&mut self, token: Token, handed_at: Nanos) -> Option<SendTimes> {
        on_either!(self, driver => driver.send_times(token, handed_at))
    }

    fn set_notsent_lowat(&mut self, token: Token) {
        on_either!(self, driver => driver.set_notsent_lowat(token))
    }

    #[inline]
    fn pause(&mut self, token: Token) {
        on_either!(self, driver => driver.pause(token))
    }

    #[inline]
    fn resume(&mut self, token: Token) {
        on_either!(self, driver => driver.resume(token))
    }

    fn shutdown(&mut self, token: Token) {
        on_either!(self, driver => driver.shutdown(token))
    }

    #[inline]
    fn close(&mut self, token: Token) {
        on_either!(self, driver => driver.close(token))
    }

    fn abort(&mut self, token: Token) {
        on_either!(self, driver => driver.abort(token))
    }

    fn release(&mut self, token: Token) {
        on_either!(self, driver => driver.release(token))
    }

    fn take_released(&mut self, token: Token) -> Option<Released<OwnedFd>> {
        on_either!(self, driver => driver.take_released(token))
    }

    fn adopt(&mut self, socket: OwnedFd, has_fallen_behind: bool) -> Result<Token, OwnedFd> {
        on_either!(self, driver => driver.adopt(socket, has_fallen_behind))
    }

    fn listen(&mut self, listener: OwnedFd, number: u8) -> io::Result<()> {
        on_either!(self, driver => driver.listen(listener, number))
    }

    fn stop_listening(&mut self) {
        on_either!(self, driver => driver.stop_listening())
    }

    fn is_listening(&self) -> bool {
        on_either!(self, driver => driver.is_listening())
    }

    fn connect(&mut self, address: &RemoteAddress, source: Option<SocketAddr>) -> io::Result<Token> {
        on_either!(self, driver => driver.connect(address, source))
    }

    fn find_address(&mut self, token: Token) {
        on_either!(self, driver => driver.find_address(token))
    }

    fn address(&self, token: Token) -> Option<SocketAddr> {
        on_either!(self, driver => driver.address(token))
    }

    fn find_tcp_info(&mut self, token: Token) {
        on_either!(self, driver => driver.find_tcp_info(token))
    }

    fn tcp_info(&self, token: Token) -> Option<TcpInfo> {
        on_either!(self, driver => driver.tcp_info(token))
    }

    fn generation_at(&self, index: u32) -> Option<u32> {
        on_either!(self, driver => driver.generation_at(index))
    }

    fn is_unix(&self, token: Token) -> bool {
        on_either!(self, driver => driver.is_unix(token))
    }

    fn waker(&self) -> Waker {
        on_either!(self, driver => driver.waker())
    }

    fn wake(&mut self, other: &Waker) {
        on_either!(self, driver => driver.wake(other))
    }

    fn describe(&self) -> Description {
        on_either!(self, driver => driver.describe())
    }

    fn work(&self) -> DriverWork {
        on_either!(self, driver => driver.work())
    }
}
