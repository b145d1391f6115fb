//! The driver that a launch has chosen. Shards and their applications are compiled for this one type.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use echoring_proto::buffer::Pool;

use super::epoll::Epoll;
#[cfg(any(test, feature = "sim"))]
use super::sim::{Network, Sim};
use super::uring::Uring;
use super::{
    Description, DriverWork, Event, Nanos, Operations, Released, RemoteAddress, SendTimes, Source, Span,
    TcpInfo, Token, Waker, Work,
};

/// A driver.
// One is made for each shard, so the larger variant costs nothing.
#[allow(clippy::large_enum_variant)]
#[derive(Debug)]
pub enum Driver {
    /// io_uring.
    Uring(Uring),
    /// epoll.
    Epoll(Epoll),
    /// Of a simulated network.
    #[cfg(any(test, feature = "sim"))]
    Sim(Sim),
}

macro_rules! on_chosen {
    ($chosen:expr, $driver:ident => $call:expr) => {
        match $chosen {
            Driver::Uring($driver) => $call,
            Driver::Epoll($driver) => $call,
            #[cfg(any(test, feature = "sim"))]
            Driver::Sim($driver) => $call,
        }
    };
}

macro_rules! operations {
    () => {};
    (fn $name:ident(&mut $this:ident $(, $arg:ident: $type:ty)*) $(-> $out:ty)?; $($others:tt)*) => {
        #[doc = concat!("See [`Operations::", stringify!($name), "`].")]
        #[allow(clippy::missing_errors_doc, clippy::missing_panics_doc)]
        #[inline]
        pub fn $name(&mut $this $(, $arg: $type)*) $(-> $out)? {
            on_chosen!($this, driver => driver.$name($($arg),*))
        }
        operations!($($others)*);
    };
    (fn $name:ident(&$this:ident $(, $arg:ident: $type:ty)*) $(-> $out:ty)?; $($others:tt)*) => {
        #[doc = concat!("See [`Operations::", stringify!($name), "`].")]
        #[inline]
        pub fn $name(&$this $(, $arg: $type)*) $(-> $out)? {
            on_chosen!($this, driver => driver.$name($($arg),*))
        }
        operations!($($others)*);
    };
}

impl Driver {
    /// Has `work` done on the chosen driver.
    #[inline]
    pub fn run<W: Work>(&mut self, work: W) -> W::Outcome {
        on_chosen!(self, driver => work.on(driver))
    }

    operations! {
        fn now(&self) -> Nanos;
        fn tick(&mut self, pool: &mut Pool, deadline: Option<Nanos>, events: &mut Vec<Event>) -> io::Result<()>;
        fn received(&mut self, span: Span) -> &mut [u8];
        fn send(&mut self, token: Token, source: Source) -> Result<(), Source>;
        fn send_received(&mut self, token: Token, span: Span) -> bool;
        fn unsent_bytes(&self, token: Token) -> usize;
        fn held_bytes(&self, token: Token) -> usize;
        fn unsent_shared(&self, token: Token) -> Option<(u64, usize)>;
        fn take_back(&mut self, token: Token, bytes: usize) -> bool;
        fn stamp(&mut self, token: Token) -> bool;
        fn send_times(&mut self, token: Token, handed_at: Nanos) -> Option<SendTimes>;
        fn set_notsent_lowat(&mut self, token: Token);
        fn pause(&mut self, token: Token);
        fn resume(&mut self, token: Token);
        fn shutdown(&mut self, token: Token);
        fn close(&mut self, token: Token);
        fn abort(&mut self, token: Token);
        fn release(&mut self, token: Token);
        fn take_released(&mut self, token: Token) -> Option<Released>;
        fn adopt(&mut self, socket: OwnedFd, has_fallen_behind: bool) -> Result<Token, OwnedFd>;
        fn listen(&mut self, listener: OwnedFd, number: u8) -> io::Result<()>;
        fn stop_listening(&mut self);
        fn is_listening(&self) -> bool;
        fn connect(&mut self, address: &RemoteAddress, source: Option<SocketAddr>) -> io::Result<Token>;
        fn find_address(&mut self, token: Token);
        fn address(&self, token: Token) -> Option<SocketAddr>;
        fn find_tcp_info(&mut self, token: Token);
        fn tcp_info(&self, token: Token) -> Option<TcpInfo>;
        fn generation_at(&self, index: u32) -> Option<u32>;
        fn is_unix(&self, token: Token) -> bool;
        fn waker(&self) -> Waker;
        fn wake(&mut self, other: &Waker);
        fn describe(&self) -> Description;
        fn work(&self) -> DriverWork;
    }
}

#[cfg(any(test, feature = "sim"))]
impl Network {
    /// A driver on this network, as shards take it; see [`Network::sim`].
    pub fn driver(&self, options: &super::Options) -> Driver {
        Driver::Sim(self.sim(options))
    }
}
