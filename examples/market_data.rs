//! Market data with conflation: a client that is slower than the market gets the latest price of each symbol, and is told how
//! many prices it skipped. The fast ones get all of them.
//!
//! ```text
//! cargo run --example market_data                                         # ws://127.0.0.1:9001/broadcast
//! cargo run --example market_data ws://127.0.0.1:9001/broadcast 100       # prints a price each 100 ms
//! ```

use std::collections::HashMap;
use std::error::Error;
use std::net::SocketAddr;
use std::time::Duration;

use echoring::client::{Client, Event, SubscribeOptions, Subscription};
use echoring::server::{Builder, Handle, OwnedPublication, PublishError, Server, TopicOptions};
use serde::{Deserialize, Serialize};

/// The topic.
pub const TOPIC: &str = "prices";
const SYMBOLS: [&str; 4] = ["AAA", "BBB", "CCC", "DDD"];
/// The pause between two batches of prices, one of each symbol.
const TICK: Duration = Duration::from_millis(1);

/// The latest state of a symbol, which is the message's key.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize)]
pub struct Price {
    /// The best bid.
    pub bid: f64,
}

/// A server of `echoring.v1.json` on `/broadcast`, whose topic only this program publishes to.
pub fn server(address: SocketAddr) -> Builder {
    let prices = TopicOptions::new().conflate().lag_bytes(64 * 1024).only_program_publishes();
    Server::builder().listen(address).builtin_routes(true).topics(TOPIC, prices)
}

/// Publishes one batch. Waits until the topic has it, so the market is never faster than the server.
pub fn publish(market: &Handle, prices: &[(&str, Price)]) -> Result<(), Box<dyn Error>> {
    let batch = prices.iter().map(|(symbol, price)| -> Result<_, Box<dyn Error>> {
        Ok(OwnedPublication::json(serde_json::to_string(price)?).key(*symbol))
    });
    for result in market.publish_all(TOPIC, batch.collect::<Result<Vec<_>, _>>()?)? {
        result?;
    }
    Ok(())
}

/// A subscription that keeps few prices that were not read yet. When it is full, the server waits, and conflates.
pub async fn follow(client: &Client) -> Result<Subscription<Price>, Box<dyn Error>> {
    Ok(client.subscribe_with(TOPIC, SubscribeOptions::default().queue_events(16)).await?)
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let first = arguments.next().unwrap_or_else(|| "127.0.0.1:9001".to_owned());
    if first.starts_with("ws") {
        let pause_ms = arguments.next().map_or(Ok(0), |pause| pause.parse())?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        return runtime.block_on(print(&first, Duration::from_millis(pause_ms)));
    }
    let server = server(first.parse()?).start()?;
    println!("{} prices a second on ws://{}/broadcast", 1_000 * SYMBOLS.len(), server.addresses()[0]);
    for second in (0_u64..).map(|tick| tick as f64 / 1e3) {
        let prices = std::array::from_fn::<_, 4, _>(|n| {
            (SYMBOLS[n], Price { bid: 100.0 * (n + 1) as f64 + (second * (n + 1) as f64).sin() })
        });
        match publish(&server.handle(), &prices) {
            Ok(()) => std::thread::sleep(TICK),
            // An operator has ended the server.
            Err(error) if error.downcast_ref() == Some(&PublishError::Ended) => return Ok(()),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Prints each price, and pauses behind it.
async fn print(url: &str, pause: Duration) -> Result<(), Box<dyn Error>> {
    let client = Client::v1(url).connect();
    let mut prices = follow(&client).await?;
    let mut skipped: HashMap<String, u64> = HashMap::new();
    while let Some(event) = prices.next().await {
        match event {
            Event::Message(message) => {
                let symbol = message.key.unwrap_or_default();
                let total = skipped.entry(symbol.clone()).or_default();
                *total += message.skipped;
                println!("{symbol} {:7.2}   {total} skipped before {symbol}", message.data.bid);
                tokio::time::sleep(pause).await;
            }
            Event::Gap(gap) => println!("{gap}"),
            Event::Ended(why) => return Err(why.into()),
            _ => {}
        }
    }
    Ok(())
}
