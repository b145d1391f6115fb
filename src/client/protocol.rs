//! The choice of a protocol.
//!
//! Never: the messages of one, which are the codec's.

/// The protocol that a client speaks.
///
/// ```
/// use echoring::client::{Client, Protocol};
///
/// // The same as `Client::v1`.
/// let v1 = Client::builder(Protocol::Echoring, "wss://live.example/broadcast");
/// let protobuf = Client::builder(Protocol::CentrifugeProtobuf, "wss://live.example/connection/websocket");
/// # drop((v1, protobuf));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Protocol {
    /// `echoring.v1.json`, at the path `/broadcast` of echoring.
    Echoring,
    /// Centrifuge's client protocol in JSON, at the path `/connection/websocket` of echoring and Centrifugo.
    Centrifuge,
    /// Centrifuge's client protocol in protobuf, at the same path. Messages are smaller, and carry bytes as they are.
    CentrifugeProtobuf,
}
