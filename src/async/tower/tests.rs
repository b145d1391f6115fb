//! The service without a server. `tests/sockets/aio` has it behind hyper's server, and in axum's router.

use tokio::sync::mpsc;

use super::*;

const UPGRADE: [(&str, &str); 5] = [
    ("host", "a"),
    ("sec-websocket-version", "13"),
    ("sec-websocket-key", "AAAAAAAAAAAAAAAAAAAAAA=="),
    ("upgrade", "websocket"),
    ("connection", "Upgrade"),
];

#[tokio::test]
async fn a_connection_that_is_not_handed_over_is_reported() {
    let (failures, mut failed) = mpsc::unbounded_channel();
    let mut service = UpgradeService::new(Upgrader::new(), |_| async { panic!("there is no connection") })
        .on_failed_upgrade(move |error| failures.send(error.to_string()).expect("awaited"));
    let mut request = http::Request::builder().uri("/ws");
    for (name, value) in UPGRADE {
        request = request.header(name, value);
    }
    let request = request.body(()).expect("a request");
    let response = tower_service::Service::call(&mut service, request).await.expect("infallible");
    assert_eq!(response.status(), 101);
    let error = failed.recv().await.expect("the callback is called");
    assert!(error.contains("did not hand the connection over"), "{error}");
}
