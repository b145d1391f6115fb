//! Simulated peers for the suite.

use bytes::Bytes;
use echoring_proto::limits::MILLISECOND;
use echoring_runtime::driver::sim::{self, ClientId, Faults, Network, Random, Sim};
use echoring_runtime::driver::{Event, Operations, Options, Shared, Source};

use super::world::{Heard, Kit, Peer, World};

/// A driver on its own network.
pub struct SimKit {
    network: Network,
    seed: u64,
    faults: Faults,
}

impl SimKit {
    pub fn new(seed: u64, faults: Faults) -> SimKit {
        SimKit { network: Network::new(seed, faults), seed, faults }
    }

    /// The same, with faults that the seed chooses.
    pub fn seeded(seed: u64) -> SimKit {
        SimKit::new(seed, Faults::random(&mut Random::new(!seed)))
    }
}

pub struct SimPeer {
    network: Network,
    client: ClientId,
}

impl Drop for SimKit {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("seed {} with {:?}", self.seed, self.faults);
        }
    }
}

impl Kit for SimKit {
    type Driver = Sim;
    type Peer = SimPeer;

    fn driver(&mut self, options: &Options) -> Sim {
        let mut driver = self.network.sim(options);
        driver.listen(self.network.listener().expect("a descriptor"), 0).expect("the driver listens");
        driver
    }

    fn beside(&self, options: &Options) -> (SimKit, Sim) {
        let SimKit { network, seed, faults } = self;
        let driver = network.sim(options);
        (SimKit { network: network.clone(), seed: *seed, faults: *faults }, driver)
    }

    fn dial(&mut self) -> SimPeer {
        SimPeer { network: self.network.clone(), client: self.network.connect() }
    }

    fn pass_time(&mut self) {
        self.network.advance(MILLISECOND);
    }
}

impl Peer for SimPeer {
    fn write(&mut self, bytes: &[u8]) -> usize {
        self.network.client_write(self.client, bytes)
    }

    fn read(&mut self, into: &mut Vec<u8>) -> Heard {
        match self.network.client_read(self.client, 64 * 1024, into) {
            sim::Heard::Nothing => Heard::Nothing,
            sim::Heard::Bytes => Heard::Bytes,
            sim::Heard::End => Heard::End,
            sim::Heard::Reset => Heard::Reset,
        }
    }

    fn fin(&mut self) {
        self.network.client_fin(self.client);
    }

    fn reset(self) {
        self.network.client_reset(self.client);
    }
}

impl Drop for SimPeer {
    fn drop(&mut self) {
        self.network.client_close(self.client);
    }
}

/// A kernel that accepts nothing at first, as when a socket's memory is exhausted: all of a send can be taken back
/// except the byte that unblocks the connection.
pub fn a_refused_send_is_taken_back_but_for_a_frame(kit: SimKit) {
    let mut world = World::new(kit);
    let (token, mut peer) = world.accept();
    let mut left = None;
    for tag in 1..=3 {
        let shared = Shared { bytes: Bytes::from_static(b"<one><two>"), tag };
        world.driver.send(token, Source::Shared(shared)).expect("not blocked");
    }
    world.until_with(
        "the refusal",
        |driver, _, event| {
            let Event::Blocked { unsent, .. } = event else { return };
            assert_eq!(*unsent, 30, "nothing has left");
            for tag in [3, 2] {
                assert_eq!(driver.unsent_shared(token), Some((tag, 10)));
                assert!(driver.take_back(token, 10));
            }
            assert!(driver.take_back(token, 5));
            left = driver.unsent_shared(token);
        },
        |world| world.is_blocked(token),
    );
    assert_eq!(left, Some((1, 5)));
    assert_eq!(world.read(&mut peer, 5), b"<one>");
    world.until("unblocked", |world| !world.is_blocked(token));
    world.driver.send(token, Source::Shared(Bytes::from_static(b"<two>").into())).expect("not blocked");
    assert_eq!(world.read(&mut peer, 5), b"<two>");
}
