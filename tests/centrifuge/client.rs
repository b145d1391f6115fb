//! The client of topics against a node of Centrifuge's own library: `scripts/check-centrifuge` starts `tests/centrifuge/server`, and runs
//! this program.
//!
//! ```text
//! centrifuge_client 127.0.0.1:8000
//! ```
//!
//! Each scenario runs in JSON and in protobuf, with topics and users of its own, and prints a line, `ok NAME` or `FAILED NAME: …`. Exit
//! codes: 0 all passed, 1 some not, 2 usage.
//!
//! Never: knowledge of the protocol. What the client promises is checked through its public API.
#![forbid(unsafe_code)]

use std::error::Error;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use echoring::client::{
    Client, ClientError, Ended, Event, GapReason, HistoryQuery, Message, Missed, Payload, Protocol,
    RequestError, State, SubscribeOptions, Subscription, TokenSource,
};
use echoring::reconnect::Reason;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::timeout;

type Problem = Box<dyn Error + Send + Sync>;
type Outcome = Result<(), Problem>;

/// A scenario that waits longer has failed.
const PATIENCE: Duration = Duration::from_secs(30);
/// More messages than the node keeps of a topic, which are 16.
const MORE_THAN_KEPT: u64 = 40;

/// Fails the scenario unless it is true.
macro_rules! ensure {
    ($condition:expr, $($words:tt)+) => {
        if !$condition {
            return Err(format!($($words)+).into());
        }
    };
}

/// A node, and the names of one scenario.
#[derive(Clone)]
struct Node {
    address: String,
    protocol: Protocol,
    scenario: &'static str,
}

impl Node {
    /// A topic of this kind that no other scenario uses.
    fn topic(&self, kind: &str) -> String {
        format!("{kind}.{}.{:?}", self.scenario, self.protocol)
    }

    fn user(&self) -> String {
        format!("{} {:?}", self.scenario, self.protocol)
    }

    fn builder(&self) -> echoring::client::Builder {
        let url = format!("ws://{}/connection/websocket", self.address);
        Client::builder(self.protocol, url).reconnect(|how| {
            how.initial_delay(Duration::from_millis(10)).max_delay(Duration::from_millis(50))
        })
    }

    /// A client with a user of its own, whom commands can name.
    fn client(&self) -> Client {
        self.builder().token(self.user()).connect()
    }

    /// A client that subscribes to a topic of this kind.
    async fn follower(&self, kind: &str) -> Result<(String, Client, Subscription<u64>), Problem> {
        let (topic, client) = (self.topic(kind), self.client());
        let mut numbers = client.subscribe::<u64>(&topic).await?;
        subscribed(&mut numbers).await?;
        Ok((topic, client, numbers))
    }

    /// A POST request to the node's commands.
    async fn command(&self, name: &str, parameters: &[(&str, &str)], body: &str) -> Outcome {
        let query: Vec<String> =
            parameters.iter().map(|(name, value)| format!("{name}={}", value.replace(' ', "%20"))).collect();
        let request = format!(
            "POST /{name}?{} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            query.join("&"),
            body.len()
        );
        let mut stream = TcpStream::connect(&self.address).await?;
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        ensure!(answer.starts_with("HTTP/1.1 200"), "the node answers {name} with {answer}");
        Ok(())
    }

    async fn publish(&self, topic: &str, numbers: impl IntoIterator<Item = u64>) -> Outcome {
        for number in numbers {
            self.command("publish", &[("channel", topic)], &number.to_string()).await?;
        }
        Ok(())
    }

    /// No connections from now on, until [`recover`](Node::recover).
    async fn outage(&self) -> Outcome {
        self.command("outage", &[], "").await
    }

    async fn recover(&self) -> Outcome {
        self.command("recover", &[], "").await
    }
}

async fn next<T: echoring::client::FromPayload>(
    subscription: &mut Subscription<T>,
) -> Result<Event<T>, Problem> {
    Ok(subscription.next().await.ok_or("no further event")?)
}

/// Waits for the beginning of the subscription, and says whether it was resumed in full.
async fn subscribed<T: echoring::client::FromPayload>(
    subscription: &mut Subscription<T>,
) -> Result<Option<bool>, Problem> {
    match subscription.next().await {
        Some(Event::Subscribed(begun)) => Ok(begun.recovered),
        Some(_) => Err("an event before the subscription has begun".into()),
        None => Err("no subscription".into()),
    }
}

async fn message(subscription: &mut Subscription<u64>) -> Result<Message<u64>, Problem> {
    match next(subscription).await? {
        Event::Message(message) => Ok(message),
        other => Err(format!("{other:?} instead of a message").into()),
    }
}

/// The next messages are these, once and in order.
async fn receives(subscription: &mut Subscription<u64>, numbers: impl IntoIterator<Item = u64>) -> Outcome {
    for number in numbers {
        let seen = message(subscription).await?.data;
        ensure!(seen == number, "message {seen} instead of {number}");
    }
    Ok(())
}

/// Whether the server closed the connection for good.
fn is_permanent(error: &ClientError) -> bool {
    matches!(error, ClientError::Connection(gave_up) if gave_up.reason() == Reason::Permanent)
}

async fn messages_come_in_order_and_are_acknowledged(node: Node) -> Outcome {
    let (topic, client, mut numbers) = node.follower("plain").await?;
    for number in 0..20 {
        client.publish(&topic, &number).await?;
    }
    receives(&mut numbers, 0..20).await?;
    let refused = client.publish(node.topic("closed"), &1).await;
    ensure!(matches!(&refused, Err(RequestError::Refused(_))), "{refused:?}");
    Ok(())
}

async fn what_was_missed_in_an_outage_follows(node: Node) -> Outcome {
    let (topic, _client, mut numbers) = node.follower("kept").await?;
    node.publish(&topic, 0..5).await?;
    receives(&mut numbers, 0..5).await?;
    node.outage().await?;
    node.publish(&topic, 5..15).await?;
    node.recover().await?;
    ensure!(subscribed(&mut numbers).await? == Some(true), "not resumed");
    node.publish(&topic, 15..20).await?;
    receives(&mut numbers, 5..20).await
}

async fn what_is_not_kept_is_a_gap(node: Node) -> Outcome {
    let (topic, client, mut numbers) = node.follower("kept").await?;
    node.publish(&topic, 0..1).await?;
    receives(&mut numbers, 0..1).await?;
    node.outage().await?;
    node.publish(&topic, 1..MORE_THAN_KEPT).await?;
    node.recover().await?;
    ensure!(subscribed(&mut numbers).await? == Some(false), "resumed");
    let Event::Gap(gap) = next(&mut numbers).await? else {
        return Err("no gap".into());
    };
    ensure!(gap.reason == GapReason::History, "{gap}");
    // What follows the gap is in order, and the two together are everything.
    let Missed::Range { from: 2, to } = gap.missed else {
        return Err(format!("{gap}").into());
    };
    client.publish(&topic, &MORE_THAN_KEPT).await?;
    receives(&mut numbers, to..=MORE_THAN_KEPT).await
}

async fn a_position_resumes_in_another_client(node: Node) -> Outcome {
    let (topic, client, mut numbers) = node.follower("kept").await?;
    node.publish(&topic, 0..3).await?;
    receives(&mut numbers, 0..3).await?;
    let position = numbers.position().cloned().ok_or("no position")?;
    client.close().await;
    node.publish(&topic, 3..6).await?;
    let second = node.client();
    let mut numbers =
        second.subscribe_with::<u64>(&topic, SubscribeOptions::from_position(position.clone())).await?;
    ensure!(subscribed(&mut numbers).await? == Some(true), "not resumed");
    receives(&mut numbers, 3..6).await?;
    // Of an epoch that the node does not know.
    let third = node.client();
    let unknown = echoring::client::Position { epoch: "elsewhere".to_owned(), ..position };
    let mut numbers = third.subscribe_with::<u64>(&topic, SubscribeOptions::from_position(unknown)).await?;
    ensure!(subscribed(&mut numbers).await? == Some(false), "resumed");
    let Event::Gap(gap) = next(&mut numbers).await? else {
        return Err("no gap".into());
    };
    ensure!(gap.reason == GapReason::Epoch && gap.missed == Missed::Unknown, "{gap}");
    Ok(())
}

async fn deltas_lead_to_what_was_published(node: Node) -> Outcome {
    let (topic, client) = (node.topic("deltas"), node.client());
    let state = |number: u64| format!("{{\"number\":{number},\"filler\":\"{}\"}}", "lorem ipsum ".repeat(50));
    let options = SubscribeOptions::default().deltas(true);
    let mut states = client.subscribe_with::<Payload>(&topic, options).await?;
    subscribed(&mut states).await?;
    for round in 0..2 {
        for number in 0..5 {
            node.command("publish", &[("channel", &topic)], &state(5 * round + number)).await?;
        }
        if round == 0 {
            check_states(&mut states, (0..5).map(state)).await?;
            node.outage().await?;
        }
    }
    node.recover().await?;
    ensure!(subscribed(&mut states).await? == Some(true), "not resumed");
    node.command("publish", &[("channel", &topic)], &state(10)).await?;
    check_states(&mut states, (5..11).map(state)).await
}

async fn check_states(states: &mut Subscription<Payload>, expected: impl Iterator<Item = String>) -> Outcome {
    for expected in expected {
        match next(states).await? {
            Event::Message(message) => {
                let seen: serde_json::Value = message.data.parse()?;
                let expected: serde_json::Value = serde_json::from_str(&expected)?;
                ensure!(seen == expected, "{seen} instead of {expected}");
            }
            other => return Err(format!("{other:?} instead of a message").into()),
        }
    }
    Ok(())
}

async fn members_come_and_go(node: Node) -> Outcome {
    let (topic, client) = (node.topic("members"), node.client());
    let wanted = || SubscribeOptions::default().presence(true);
    let mut room = client.subscribe_with::<u64>(&topic, wanted()).await?;
    subscribed(&mut room).await?;
    // It sees its own joining.
    let Event::Join(own) = next(&mut room).await? else {
        return Err("no join of its own".into());
    };
    let guest = node.builder().token("guest").connect();
    let mut there = guest.subscribe_with::<u64>(&topic, wanted()).await?;
    subscribed(&mut there).await?;
    let Event::Join(member) = next(&mut room).await? else {
        return Err("no join".into());
    };
    ensure!(own.user == node.user() && member.user == "guest", "{own:?} {member:?}");
    let members = client.presence(&topic, None).await?;
    ensure!(members.members.len() == 2, "{members:?}");
    guest.close().await;
    let Event::Leave(left) = next(&mut room).await? else {
        return Err("no leave".into());
    };
    ensure!(left == member, "{left:?}");
    Ok(())
}

async fn history_and_calls_are_answered(node: Node) -> Outcome {
    let (topic, client, _numbers) = node.follower("kept").await?;
    node.publish(&topic, 0..10).await?;
    let history = client.history(&topic, HistoryQuery::latest(3)).await?;
    ensure!(history.messages.len() == 3, "{history:?}");
    let echoed: u64 = client.rpc("echo", &7).await?.parse()?;
    ensure!(echoed == 7, "{echoed}");
    let refused = client.rpc("nothing", &7).await;
    ensure!(matches!(&refused, Err(RequestError::Refused(_))), "{refused:?}");
    Ok(())
}

async fn a_closed_topic_ends_its_subscription_only(node: Node) -> Outcome {
    let client = node.client();
    let mut closed = client.subscribe::<u64>(node.topic("closed")).await?;
    let ended = next(&mut closed).await?;
    ensure!(matches!(&ended, Event::Ended(Ended::Refused(_))), "{ended:?}");
    messages_come_in_order_and_are_acknowledged(node).await
}

async fn subscriptions_that_the_node_ends(node: Node) -> Outcome {
    let (topic, _client, mut numbers) = node.follower("kept").await?;
    node.publish(&topic, 0..1).await?;
    receives(&mut numbers, 0..1).await?;
    // From 2500 on, the client subscribes again from its position.
    let (user, channel) = (node.user(), topic.as_str());
    node.command("unsubscribe", &[("user", &user), ("channel", channel), ("code", "2500")], "").await?;
    ensure!(subscribed(&mut numbers).await? == Some(true), "not resumed");
    node.publish(&topic, 1..2).await?;
    receives(&mut numbers, 1..2).await?;
    node.command("unsubscribe", &[("user", &user), ("channel", channel), ("code", "2000")], "").await?;
    let ended = next(&mut numbers).await?;
    ensure!(matches!(&ended, Event::Ended(Ended::Refused(refusal)) if refusal.code == "2000"), "{ended:?}");
    Ok(())
}

async fn disconnections_are_temporary_or_final(node: Node) -> Outcome {
    let (_topic, client, mut numbers) = node.follower("kept").await?;
    let user = node.user();
    for code in ["3005", "4000"] {
        node.command("disconnect", &[("user", &user), ("code", code)], "").await?;
        subscribed(&mut numbers).await?;
    }
    node.command("disconnect", &[("user", &user), ("code", "4500")], "").await?;
    let ended = next(&mut numbers).await?;
    let Event::Ended(Ended::Failed(error)) = &ended else {
        return Err(format!("{ended:?}").into());
    };
    ensure!(is_permanent(error), "{error}");
    ensure!(matches!(client.state(), State::Failed(_)), "{}", client.state());
    Ok(())
}

async fn tokens_are_renewed_and_forged_ones_are_final(node: Node) -> Outcome {
    let fetched = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&fetched);
    let user = node.user();
    // The first is refused as expired, the second expires, and later ones last.
    let source = TokenSource::new(move || {
        let token = match counted.fetch_add(1, Ordering::Relaxed) {
            0 => "expired".to_owned(),
            1 => format!("{user}:2"),
            _ => user.clone(),
        };
        async move { Ok::<_, Problem>(token) }
    });
    let client = node.builder().token_source(source).connect();
    let topic = node.topic("private");
    let tokens = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&tokens);
    let private = TokenSource::new(move || {
        let token = if counted.fetch_add(1, Ordering::Relaxed) == 0 { "member:2" } else { "member" };
        async move { Ok::<_, Problem>(token.to_owned()) }
    });
    let options = SubscribeOptions::default().token_source(private);
    let mut numbers = client.subscribe_with::<u64>(&topic, options).await?;
    subscribed(&mut numbers).await?;
    let mut sent = 0;
    while fetched.load(Ordering::Relaxed) < 3 || tokens.load(Ordering::Relaxed) < 2 {
        node.publish(&topic, sent..=sent).await?;
        receives(&mut numbers, sent..=sent).await?;
        sent += 1;
    }
    let forger = node.builder().token("forged").connect();
    let ended = forger.closed().await;
    ensure!(matches!(&ended, Err(error) if is_permanent(error)), "{ended:?}");
    Ok(())
}

async fn the_node_subscribes_a_client(node: Node) -> Outcome {
    let (offered, mut made) = mpsc::unbounded_channel();
    let client = node
        .builder()
        .token(node.user())
        .on_server_subscription(move |subscription| {
            // The scenario may be over.
            let _ = offered.send(subscription.typed::<u64>());
        })
        .connect();
    client.rpc("echo", &0).await?;
    let (topic, user) = (node.topic("kept"), node.user());
    node.command("subscribe", &[("user", &user), ("channel", &topic)], "").await?;
    let mut numbers = made.recv().await.ok_or("no subscription")?;
    ensure!(numbers.topic() == topic, "{}", numbers.topic());
    subscribed(&mut numbers).await?;
    node.publish(&topic, 0..3).await?;
    receives(&mut numbers, 0..3).await?;
    node.command("unsubscribe", &[("user", &user), ("channel", &topic), ("code", "2000")], "").await?;
    let ended = next(&mut numbers).await?;
    ensure!(matches!(&ended, Event::Ended(Ended::Refused(_))), "{ended:?}");
    Ok(())
}

/// All scenarios, one after another in both encodings. Returns how many failed.
async fn run(address: &str) -> usize {
    let mut failed = 0;
    macro_rules! scenarios {
        ($($scenario:ident)+) => {
            for protocol in [Protocol::Centrifuge, Protocol::CentrifugeProtobuf] {
                $(
                    let scenario = stringify!($scenario);
                    let node = Node { address: address.to_owned(), protocol, scenario };
                    let outcome = timeout(PATIENCE, $scenario(node)).await;
                    match outcome.unwrap_or_else(|_| Err("it takes too long".into())) {
                        Ok(()) => println!("ok {scenario} {protocol:?}"),
                        Err(problem) => {
                            failed += 1;
                            println!("FAILED {scenario} {protocol:?}: {problem}");
                        }
                    }
                )+
            }
        };
    }
    scenarios! {
        messages_come_in_order_and_are_acknowledged
        what_was_missed_in_an_outage_follows
        what_is_not_kept_is_a_gap
        a_position_resumes_in_another_client
        deltas_lead_to_what_was_published
        members_come_and_go
        history_and_calls_are_answered
        a_closed_topic_ends_its_subscription_only
        subscriptions_that_the_node_ends
        disconnections_are_temporary_or_final
        tokens_are_renewed_and_forged_ones_are_final
        the_node_subscribes_a_client
    }
    failed
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    let (Some(address), None) = (words.next(), words.next()) else {
        eprintln!("usage: centrifuge_client HOST:PORT");
        return ExitCode::from(2);
    };
    match run(&address).await {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}
