//! The deadline of the heartbeat's pings.

use std::time::Duration;

use echoring_async::{Conn, Error, Opened, Settings};
use echoring_proto::Role;
use tokio::time::Instant;

use super::heartbeat::{Ticker, beat};

#[tokio::test(start_paused = true)]
async fn a_ping_that_nobody_takes_ends_the_connection_at_its_deadline() {
    // Room for a few pings, and a peer that does not read.
    let (ours, _theirs) = tokio::io::duplex(64);
    let conn = Conn::new(ours, &Settings::default(), Opened::new(Role::Server));
    let ticker = Ticker { every: Duration::from_secs(30), deadline: Duration::from_secs(1) };
    let begun = Instant::now();
    let ended = beat(conn, &ticker).await;
    assert!(matches!(ended, Err(Error::WriteTimeout)), "{ended:?}");
    // Frames of 2 + 4 bytes: ten pings fit, and the eleventh waits until its deadline of one second.
    let passed = begun.elapsed();
    assert!((Duration::from_secs(331)..Duration::from_secs(332)).contains(&passed), "{passed:?}");
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_takes_pings_and_closes_is_a_good_end() {
    let (ours, theirs) = tokio::io::duplex(64);
    let conn = Conn::new(ours, &Settings::default(), Opened::new(Role::Server));
    let mut peer = Conn::new(theirs, &Settings::default(), Opened::new(Role::Client));
    let ticker = Ticker { every: Duration::from_secs(30), deadline: Duration::from_secs(1) };
    let beating = tokio::spawn(async move { beat(conn, &ticker).await });
    peer.set_read_deadline(Some(Instant::now() + Duration::from_secs(10 * 60)));
    let (heard, mut pings) = tokio::sync::mpsc::unbounded_channel();
    peer.set_ping_handler(move |data| {
        heard.send(data.to_vec()).expect("a receiver");
        echoring_async::ControlReply::Default
    });
    assert!(matches!(peer.read().await, Err(Error::ReadTimeout)));
    peer.close(echoring_proto::CloseCode::NORMAL, "").await.expect("an answer");
    assert!(beating.await.expect("no panic").is_ok());
    let mut count = 0;
    while let Ok(data) = pings.try_recv() {
        assert_eq!(data, b"beat");
        count += 1;
    }
    assert!((19..=20).contains(&count), "{count} pings in ten minutes");
}
