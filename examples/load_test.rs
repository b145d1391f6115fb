//! A load test inside `cargo test`: the program's server, in this process, must answer 2,000 messages a second on 50 connections,
//! lose none, and be quick enough.
//!
//! ```text
//! cargo test --example load_test
//! cargo run --release --example load_test
//! ```
//!
//! `echoring bench` measures servers in other processes and on other machines.

use std::error::Error;
use std::time::Duration;

use echoring::server::{Disposition, Handler, ListenAddress, Message, Remote, Result, Server};
use echoring_load::{Embedded, Outcome, Pace, Plan, Refused, Resources, Target, Workload};

/// The handler under test.
struct Echo;

impl Handler for Echo {
    fn message(&mut self, _: &mut Remote<'_>, _: Message<'_>) -> Result<Disposition> {
        Ok(Disposition::Echo)
    }
}

/// Starts a server with a handler for each connection. The load begins when it listens.
fn start<H: Handler + 'static>(make: impl Fn() -> H + Send + Sync + 'static) -> Result<Embedded, Refused> {
    let server = Server::builder().listen(([127, 0, 0, 1], 0)).shards(1).handle("/echo", make).start();
    let server = server.map_err(|error| Refused(error.to_string()))?;
    let [ListenAddress::Tcp(address)] = server.addresses() else {
        unreachable!("it listens on one TCP port")
    };
    let (address, stop) = (*address, Box::new(move || drop(server.shutdown(Duration::from_secs(5)))));
    Ok(Embedded { address, stop })
}

/// Puts the server under load. Latency counts from the time at which each message should have been sent, so a stall of the
/// server makes every message late that was due meanwhile.
fn measure<H: Handler + 'static>(
    make: impl Fn() -> H + Send + Sync + 'static,
) -> Result<Outcome, Box<dyn Error>> {
    let workload = Workload {
        connections: 50,
        pace: Pace::Rate(2_000),
        message_bytes: (64, 256),
        warmup: Duration::from_millis(500),
        duration: Duration::from_secs(2),
        // Lost messages are awaited for so long.
        drain: Duration::from_secs(2),
        ..Workload::default()
    };
    workload.check().map_err(|contradiction| contradiction.why)?;
    let target = Target::Embedded(Box::new(move |_| start(make)));
    let plan = Plan { target, workloads: vec![workload], resources: Resources::default() };
    let mut outcomes = echoring_load::run(plan, &mut |_| ())?;
    outcomes.pop().ok_or_else(|| "there was no run".into())
}

fn main() -> Result<(), Box<dyn Error>> {
    let outcome = measure(|| Echo)?;
    let latency = &outcome.record.response_ns;
    println!("{:?}: {} messages", outcome.verdict(), outcome.record.messages);
    println!("p50 {:.1} µs, p99 {:.1} µs", latency.p50 as f64 / 1e3, latency.p99 as f64 / 1e3);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use echoring_load::RunVerdict;

    /// Generous, because other tests run beside this one. A test on a quiet machine can be strict.
    const P99_MAX: Duration = Duration::from_millis(250);

    #[test]
    fn every_message_is_answered_in_time() {
        let outcome = measure(|| Echo).expect("this host can measure it");
        // `Saturated` says that the generator was late itself: this host is busy, and the latency is no result.
        match outcome.verdict() {
            RunVerdict::Broken => panic!("{:?}", outcome.record.integrity),
            RunVerdict::Saturated => eprintln!("the host is too busy for a result"),
            RunVerdict::Good => {
                let p99 = Duration::from_nanos(outcome.record.response_ns.p99);
                assert!(p99 < P99_MAX, "p99 is {p99:?}");
                assert!(outcome.record.messages > 3_900, "{} messages", outcome.record.messages);
            }
        }
    }

    /// Answers all messages but each hundredth.
    #[derive(Default)]
    struct Forgetful(u32);

    impl Handler for Forgetful {
        fn message(&mut self, _: &mut Remote<'_>, _: Message<'_>) -> Result<Disposition> {
            self.0 += 1;
            Ok(if self.0.is_multiple_of(100) { Disposition::Done } else { Disposition::Echo })
        }
    }

    #[test]
    fn a_server_that_forgets_messages_fails() {
        let outcome = measure(Forgetful::default).expect("this host can measure it");
        assert_eq!(outcome.verdict(), RunVerdict::Broken);
    }
}
