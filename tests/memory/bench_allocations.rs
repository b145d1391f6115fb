//! In the steady state neither the generator nor its server allocates per message: a longer run has more messages and no more
//! allocations.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use crate::support::alone::alone;
use crate::support::counting::total;
use echoring_load::{
    self, Arrivals, Compress, DriverChoice, Embedded, Mode, Pace, Plan, Protocol, Refused, Resources, Spread,
    Style, Target, Workload,
};
use echoring_server::{Compression, ListenAddress, Server, ServerConfig};

fn start_server(compression: Option<Compression>) -> Result<Embedded, Refused> {
    let listen = vec![ListenAddress::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))];
    let mut config = ServerConfig { listen, shards: Some(1), ..ServerConfig::default() };
    config.connection.compression = compression;
    let server = Server::start(config).map_err(|error| Refused(error.to_string()))?;
    let Some(&ListenAddress::Tcp(address)) = server.addresses().first() else {
        unreachable!("one TCP listener")
    };
    let stop = move || {
        server.handle().stop();
        server.join().expect("no shard panics");
    };
    Ok(Embedded { address, stop: Box::new(stop) })
}

/// Allocations and messages of a run.
fn measure(
    load: &(Mode, Pace, Arrivals, Style),
    protocol: Option<&Protocol>,
    duration: Duration,
) -> (u64, u64) {
    let (mode, pace, arrivals, style) = load.clone();
    let broadcast = u32::from(mode == Mode::Broadcast);
    // JSON is compressible. The messages are long enough that all of them are compressed.
    let compression = (style == Style::Json).then(Compression::default);
    let message_bytes = if compression.is_some() { (700, 1_400) } else { (40, 200) };
    let workload = Workload {
        mode,
        connections: 20,
        // Two subscribers, so that their order is compared too.
        publishers: 2 * broadcast,
        topics: broadcast,
        duration,
        message_bytes,
        spread: if style == Style::Binary { Spread::Zipf } else { Spread::Even },
        protocol: protocol.cloned(),
        style,
        pace,
        arrivals,
        compress: Compress { words: "on".to_owned(), compression, ..Compress::off() },
        ..Workload::default()
    };
    let resources = Resources {
        threads: 1,
        cpus: Vec::new(),
        server_cpus: Vec::new(),
        sources: Vec::new(),
        driver: DriverChoice::Auto,
        descriptors: 1_000,
        server_pid: None,
        stop: Arc::default(),
    };
    let plan = Plan {
        target: Target::Embedded(Box::new(move |_| start_server(compression))),
        workloads: vec![workload],
        resources,
    };
    let before = total();
    let outcomes = echoring_load::run(plan, &mut |_| ()).expect("an embedded server can be measured");
    let record = &outcomes[0].record;
    assert!(record.integrity.is_clean());
    assert_eq!(record.compression.is_some_and(|done| done.messages_out > 0), compression.is_some());
    (total() - before, outcomes[0].record.messages)
}

/// The record has a text for each slice of 100 ms, of which the longer runs have twelve more.
const SLICE_ALLOCATIONS: u64 = 25;

#[test]
fn more_messages_are_no_more_allocations() {
    if !alone(module_path!(), "more_messages_are_no_more_allocations", 500) {
        return;
    }
    let even = Arrivals::Even;
    let declared = |name: &str, text: &str| Protocol::parse(name, text, &[], &|_| None).expect("valid");
    let v1 = declared("echoring.v1", Protocol::preset("echoring.v1").expect("a preset"));
    let template = declared(
        "template",
        r#"
            path = "/echo"
            [[request]]
            name = "r"
            send = '{{connection}} {{seq}} {{random.hex(20)}} {{now_ms}} {{random.uuid|base64}} {{payload|json}}'
            [[answer]]
            same = true
        "#,
    );
    let json = declared(
        "json",
        r#"
            path = "/echo"
            [[request]]
            name = "r"
            send = '{"a":[1,{"b":null}],"id":{{id}},"text":"{{payload|json}}"}'
            [[answer]]
            when = [{ json = "/a/0", equals = 1 }, { json = "/id", matches = '^\d+$' }]
            match = { json = "/id" }
            payload = { json = "/text" }
            error = { json = "/error" }
        "#,
    );
    let groups = declared(
        "groups",
        r#"
            path = "/echo"
            [[request]]
            name = "r"
            send = 'n={{id}} p={{payload}}'
            [[answer]]
            match = { regex = '^n=(\d+)' }
            payload = { regex = 'p=(.*)$' }
        "#,
    );
    for (load, protocol) in [
        ((Mode::Echo, Pace::Depth(4), even, Style::Text), None),
        ((Mode::Echo, Pace::Depth(4), even, Style::Binary), None),
        ((Mode::Echo, Pace::Depth(4), even, Style::Json), None),
        ((Mode::Echo, Pace::Rate(20_000), even, Style::Text), None),
        ((Mode::Broadcast, Pace::Depth(4), even, Style::Text), None),
        ((Mode::Broadcast, Pace::Rate(2_000), Arrivals::Poisson, Style::Text), None),
        ((Mode::Echo, Pace::Depth(4), even, Style::Text), Some(template)),
        ((Mode::Echo, Pace::Depth(4), even, Style::Text), Some(groups)),
        ((Mode::Echo, Pace::Depth(4), even, Style::Text), Some(json)),
        ((Mode::Broadcast, Pace::Depth(4), even, Style::Text), Some(v1)),
    ] {
        let (few_allocations, few_messages) = measure(&load, protocol.as_ref(), Duration::from_millis(300));
        let (allocations, messages) = measure(&load, protocol.as_ref(), Duration::from_millis(1_500));
        let load = (load, protocol.map(|protocol| protocol.name));
        let (more, further) = (allocations.saturating_sub(few_allocations), messages - few_messages);
        // Compression is slow in a test build.
        let enough = if load.0.3 == Style::Json { 1_000 } else { 5_000 };
        assert!(further > enough, "{load:?}: {further} messages are too few to tell");
        let of_messages = more.saturating_sub(12 * SLICE_ALLOCATIONS);
        assert!(of_messages * 100 < further, "{load:?}: {more} allocations for {further} messages");
        println!("{load:?}: {more} more allocations for {further} more messages");
    }
}
