//! The programs of README: what they do. Their lines stand here as they stand there, but for addresses and `main`.

use std::error::Error;

use echoring::server::{Disposition, Handler, Message, Remote, Result, Server};

const README: &str = include_str!("../../README.md");
const HERE: &str = include_str!("readme.rs");

struct Member;

impl Handler for Member {
    fn open(&mut self, remote: &mut Remote<'_>) -> Result {
        remote.send_text("welcome")?;
        Ok(remote.subscribe("room")?)
    }

    fn message(&mut self, remote: &mut Remote<'_>, message: Message<'_>) -> Result<Disposition> {
        remote.publish("room", message)?;
        Ok(Disposition::Done)
    }
}

fn start() -> std::result::Result<Server, Box<dyn Error>> {
    Ok(Server::builder().listen(([127, 0, 0, 1], 0)).handle("/room", || Member).start()?)
}

/// Returns what the program prints.
async fn talk(url: &str) -> std::result::Result<String, Box<dyn Error>> {
    let mut conn = echoring::dial(url).await?;
    assert_eq!(conn.read().await?, "welcome".into());
    conn.write("hello").await?;
    Ok(format!("{:?}", conn.read().await?))
}

#[tokio::test]
async fn a_client_is_welcomed_and_hears_what_it_says() {
    let server = start().expect("the room");
    let address = server.addresses()[0].to_string();
    let said = talk(&format!("ws://{address}/room")).await.expect("a talk");
    assert!(said.contains("hello"), "{said}");
    server.shutdown(std::time::Duration::from_secs(5)).expect("a clean end");
}

#[test]
fn the_programs_are_those_of_readme() {
    let blocks: Vec<&str> =
        README.split("```rust,no_run\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert_eq!(blocks.len(), 2);
    let changed = |line: &str| {
        line.contains("127, 0, 0, 1")
            || line.contains("ws://")
            || line.contains("println!")
            || line.contains(" main()")
    };
    for line in blocks.iter().flat_map(|block| block.lines()).filter(|line| !changed(line)) {
        let is_frame = ["", "}", "    Ok(())", "#[tokio::main]"].contains(&line);
        assert!(is_frame || HERE.lines().any(|own| own == line), "README has a line that is not run: {line}");
    }
    // The changed lines, but for what is changed.
    for line in [
        r#"    Server::builder().listen(([127, 0, 0, 1], 9001)).handle("/room", || Member).start()?.join()?;"#,
        r#"    let mut conn = echoring::dial("ws://127.0.0.1:9001/room").await?;"#,
        r#"    println!("{:?}", conn.read().await?);"#,
    ] {
        assert!(README.lines().any(|own| own == line), "README lacks {line}");
    }
}
