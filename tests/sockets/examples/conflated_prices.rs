//! A client that is slower than the market skips prices, knows how many, and ends up with the latest of each symbol.

use std::collections::HashMap;
use std::time::Duration;

use echoring::client::{Client, Event, Subscription};
use echoring::server::{Handle, ListenAddress, Server};

use super::market_data::{Price, follow, publish, server};

const SYMBOLS: [&str; 4] = ["AAA", "BBB", "CCC", "DDD"];
/// Prices of each symbol.
const PRICES: u32 = 1_000;

fn publish_all(market: &Handle) {
    for bid in 1..=PRICES {
        let batch = SYMBOLS.map(|symbol| (symbol, Price { bid: f64::from(bid) }));
        publish(market, &batch).expect("the topic takes prices with keys");
    }
}

fn start() -> (Server, String) {
    let server = server(([127, 0, 0, 1], 0).into()).shards(2).start().expect("it starts");
    let [ListenAddress::Tcp(address)] = server.addresses() else { unreachable!("one TCP listener") };
    let url = format!("ws://{address}/broadcast");
    (server, url)
}

async fn begun(prices: &mut Subscription<Price>) {
    assert!(matches!(prices.next().await, Some(Event::Subscribed(_))));
}

#[tokio::test]
async fn a_slow_client_skips_prices_and_ends_up_with_the_latest() {
    let (server, url) = start();
    let client = Client::v1(url).connect();
    let mut prices = follow(&client).await.expect("a subscription");
    begun(&mut prices).await;
    // Nothing is read meanwhile.
    let market = server.handle();
    tokio::task::spawn_blocking(move || publish_all(&market)).await.expect("no panic");

    let (mut latest, mut read, mut offset) = (HashMap::new(), 0, 0);
    while latest.len() < SYMBOLS.len() || latest.values().any(|bid| *bid != f64::from(PRICES)) {
        match prices.next().await {
            Some(Event::Message(message)) => {
                // Each price was read or is counted as skipped.
                assert_eq!(message.offset, offset + 1 + message.skipped);
                (offset, read) = (message.offset, read + 1);
                latest.insert(message.key.expect("a symbol"), message.data.bid);
            }
            Some(Event::Subscribed(_)) => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(offset, u64::from(PRICES) * SYMBOLS.len() as u64);
    assert!(read < offset / 4, "{read} of {offset} prices were read");
    client.close().await;
    drop(prices);
    let ended = tokio::task::spawn_blocking(move || server.shutdown(Duration::from_secs(10)));
    ended.await.expect("no panic").expect("in order");
}

#[tokio::test]
async fn clients_may_not_publish_prices() {
    let (server, url) = start();
    let client = Client::v1(url).connect();
    let refused = client.publish(super::market_data::TOPIC, &Price { bid: 1.0 }).await;
    assert!(matches!(refused, Err(echoring::client::RequestError::Refused(_))), "{refused:?}");
    client.close().await;
    drop(server);
}
