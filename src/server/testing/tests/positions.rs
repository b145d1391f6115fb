//! Handlers that subscribe from the position that their client names.

use std::time::Duration;

use crate::handlers::failure::Result;
use crate::handlers::handler::Handler;
use crate::handlers::remote::Remote;
use crate::handlers::subscription::SubscriptionEvent;
use crate::node::server::Server;
use crate::node::topic_options::TopicOptions;
use crate::routes::extract::Path;
use crate::testing::TestServer;
use echoring_broker::subscription::SubscribeOptions;
use echoring_topics::Position;

/// Subscribes from a position, and reports whether that was possible.
struct Resumed(Position);

impl Handler for Resumed {
    fn open(&mut self, remote: &mut Remote<'_>) -> Result {
        Ok(remote.subscribe_with("news", SubscribeOptions::new().from(self.0))?)
    }

    fn subscription(&mut self, remote: &mut Remote<'_>, event: &SubscriptionEvent<'_>) -> Result {
        if let SubscriptionEvent::Subscribed { recovered, .. } = event {
            remote.send_text(&format!("{recovered:?}"))?;
        }
        Ok(())
    }
}

#[test]
fn a_client_resumes_from_the_text_of_a_position() {
    let kept = TopicOptions::new().history(10, 1000, Duration::from_secs(60));
    let resume = |Path(text): Path<String>| text.parse().map_or(Resumed(Position::default()), Resumed);
    let beyond = |Path((text, offset)): Path<(String, u64)>| {
        Resumed(Position { offset, ..text.parse().unwrap_or_default() })
    };
    let builder = Server::builder().topics("news", kept);
    let server =
        TestServer::new(builder.handle("/after/{text}", resume).handle("/at/{text}/{offset}", beyond));
    let positions: Vec<String> = ["a", "b", "c"]
        .map(|text| server.handle().publish("news", text).expect("published").to_string())
        .into();
    let end = u64::MAX;
    for (path, heard) in [
        (format!("/after/{}", positions[0]), &["b", "c", "Some(true)"][..]),
        (format!("/after/{}", positions[2]), &["Some(true)"]),
        ("/after/1f3a5c-1".to_owned(), &["Some(false)"]),
        ("/after/nonsense".to_owned(), &["Some(false)"]),
        // An offset that no topic reaches ends no shard.
        (format!("/at/{}/{end}", positions[2]), &["Some(false)"]),
        (format!("/at/{}/{}", positions[2], end - 1), &["Some(false)"]),
    ] {
        let client = server.connect(&path).expect("connected");
        assert_eq!(client.take_texts(), heard, "{path}");
    }
}
