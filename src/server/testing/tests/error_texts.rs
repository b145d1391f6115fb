//! Every error of this crate is readable where a `main` returns it.

use std::error::Error;

use echoring_auth::{Authenticator, Settings};
use echoring_proto::CloseCode;
use echoring_topics::{Position, Refused};

use crate::handlers::failure::{Busy, Failure};
use crate::handlers::sender::SendError;
use crate::node::join_error::JoinError;
use crate::node::server::Server;
use crate::routes::topic_name::TopicName;
use crate::testing::TestServer;
use echoring_broker::publications::PublishError;
use echoring_broker::subscription::SubscribeError;

#[test]
fn debug_of_an_error_is_its_text_and_with_a_sharp_its_fields() {
    let start = Server::builder().start().expect_err("no listen address");
    let auth = Settings::default().tokens("/nonexistent/tokens.toml");
    let auth = Authenticator::load(&auth).expect_err("no file");
    let name = "".parse::<TopicName>().expect_err("empty");
    let position = "42".parse::<Position>().expect_err("no epoch");
    let response = TestServer::new(Server::builder()).connect("/").expect_err("no route");
    let errors: [(&dyn Error, &str); 12] = [
        (&start, "StartError {"),
        (&JoinError::new("shard 0 panicked: why"), "JoinError {"),
        (&Busy, "Busy"),
        (&SendError::Full, "Full"),
        (&SubscribeError::TooMany, "TooMany"),
        (&SubscribeError::Refused(Refused::Busy), "Refused("),
        (&PublishError::BadKey(3), "BadKey("),
        (&Refused::TooLarge, "TooLarge"),
        (&auth, "LoadError {"),
        (&name, "TopicNameError("),
        (&position, "PositionError("),
        (&response, "TestResponse {"),
    ];
    for (error, fields) in errors {
        // Further lines are indented.
        assert_eq!(format!("{error:?}"), error.to_string().replace('\n', "\n    "));
        assert_eq!(format!("{error:#?}").lines().next(), Some(fields));
    }
}

#[test]
fn a_start_that_failed_says_so_in_one_line() {
    let error = Server::builder().start().expect_err("no listen address");
    assert_eq!(format!("Error: {error:?}"), "Error: no listen address; name an address, such as 127.0.0.1:0");
    let error =
        Server::builder().listen(([127, 0, 0, 1], 0)).cpus([1 << 20]).start().expect_err("no such CPU");
    assert_eq!(error.setting(), Some("cpus"));
    let line = format!("{error:?}");
    assert!(line.starts_with("cpus: this process may not use CPU 1048576; use some of "), "{line}");
    assert!(!line.contains("--"), "no flags of the program: {line}");
}

#[test]
fn a_failure_of_a_handler_shows_its_causes() {
    let below = std::io::Error::other("the disk is full");
    let error = Failure::from(anyhow_like::Context("cannot save the game", below));
    let text = "1011 internal error: cannot save the game\n\nCaused by:\n    the disk is full";
    assert_eq!(format!("{error:?}"), text);
    let error = Failure::new(CloseCode::POLICY, "at most 100");
    assert_eq!(format!("{error:?}"), "1008 at most 100");
    assert!(format!("{error:#?}").starts_with("Failure {"));
}

mod anyhow_like {
    use std::error::Error;
    use std::{fmt, io};

    /// An error with context.
    #[derive(Debug)]
    pub(crate) struct Context(pub(super) &'static str, pub(super) io::Error);

    impl fmt::Display for Context {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }
    }

    impl Error for Context {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            Some(&self.1)
        }
    }
}
