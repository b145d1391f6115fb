//! Members of a room hear one another, in one order, and nobody else.

use echoring::server::{ListenAddress, Server};
use echoring_async::{Conn, Message};

use super::rooms::rooms;

fn url(server: &Server, path: &str) -> String {
    match server.addresses() {
        [ListenAddress::Tcp(address)] => format!("ws://{address}{path}"),
        other => panic!("{other:?}"),
    }
}

async fn hears<S: echoring::Transport>(conn: &mut Conn<S>, expected: &str) {
    assert_eq!(conn.read().await.expect("a message"), Message::from(expected));
}

#[tokio::test]
async fn members_hear_their_room_in_one_order_and_no_other() {
    let server = rooms(([127, 0, 0, 1], 0).into()).shards(2).start().expect("it starts");
    let mut ann = echoring::dial(url(&server, "/rooms/a?as=Ann").as_str()).await.expect("a room");
    hears(&mut ann, "Ann is here").await;
    let mut bob = echoring::dial(url(&server, "/rooms/a?as=Bob").as_str()).await.expect("a room");
    hears(&mut ann, "Bob is here").await;
    hears(&mut bob, "Bob is here").await;
    let mut eve = echoring::dial(url(&server, "/rooms/b?as=Eve").as_str()).await.expect("a room");
    hears(&mut eve, "Eve is here").await;
    for number in 0..100 {
        ann.write_text(format!("{number}").as_str()).await.expect("sent");
    }
    for number in 0..100 {
        hears(&mut ann, &format!("Ann: {number}")).await;
        hears(&mut bob, &format!("Ann: {number}")).await;
    }
    let published = server.handle().publish_async("b", "from outside").await;
    assert_eq!(published.expect("accepted").offset, 2);
    hears(&mut eve, "from outside").await;
    let refused = echoring::dial(url(&server, "/rooms/a").as_str()).await;
    assert!(refused.is_err(), "a member says who it is");
    // Whoever does not read would hold the server up.
    drop((ann, eve));
    hears(&mut bob, "Ann has left").await;
    let ended = tokio::task::spawn_blocking(move || server.shutdown(std::time::Duration::from_secs(10)));
    assert!(bob.read().await.is_err(), "the server is going away");
    ended.await.expect("no panic").expect("in order");
}
