//! A subscriber that survives a server restart: it prints each message of a topic once and in order, says what it missed, and shows the
//! state of its connection. It gives up after a time without a server, and at once if the server refuses it for good.
//!
//! ```text
//! echoring serve
//! cargo run --example subscriber ws://127.0.0.1:9001/broadcast news 60    # seconds
//! ```

use std::error::Error;
use std::time::Duration;

use echoring::client::{Client, Event, Payload};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let url = arguments.next().unwrap_or_else(|| "ws://127.0.0.1:9001/broadcast".to_owned());
    let topic = arguments.next().unwrap_or_else(|| "news".to_owned());
    let limit = Duration::from_secs(arguments.next().map_or(Ok(60), |seconds| seconds.parse())?);

    let client = Client::v1(url)
        .reconnect(move |how| how.give_up_after(limit))
        .on_state(|state| eprintln!("{state}"))
        .connect();
    let mut messages = client.subscribe::<Payload>(topic).await?;
    while let Some(event) = messages.next().await {
        match event {
            Event::Subscribed(_) => eprintln!("subscribed"),
            Event::Message(message) => println!("{}", message.data),
            Event::Gap(gap) => println!("{gap}"),
            Event::Ended(why) => return Err(why.into()),
            _ => {}
        }
    }
    Ok(())
}
