//! Uploads hold one buffer, whatever the length of the file and the speed of the disk.

use echoring::{Conn, MessageKind, Opened, Role, Settings};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

use super::upload::store;

const FILE_BYTES: usize = 16 << 20;
const STREAM_BYTES: usize = 4 * 1024;
/// What may be under way in buffers of both ends.
const UNDERWAY_BYTES_MAX: usize = 1 << 20;

fn connection() -> (Conn<DuplexStream>, Conn<DuplexStream>) {
    let (near, far) = tokio::io::duplex(STREAM_BYTES);
    let settings = Settings::default().max_message(1 << 31);
    let server = Conn::new(near, &settings, Opened::new(Role::Server));
    (server, Conn::new(far, &Settings::default(), Opened::new(Role::Client)))
}

/// Writes the file until no task can go on, and returns how much was written by then.
async fn write_until_stuck(
    writing: &mut (impl Future<Output = ()> + Unpin),
    written: &std::cell::Cell<usize>,
) {
    let mut before = None;
    while before != Some(written.get()) {
        before = Some(written.get());
        // In a runtime of one thread, these turns let every task go on that can.
        for _ in 0..1_000 {
            tokio::select! {
                biased;
                () = &mut *writing => panic!("all of it was written while the disk took nothing"),
                () = tokio::task::yield_now() => {}
            }
        }
    }
}

#[tokio::test]
async fn a_disk_that_takes_nothing_stops_the_sender() {
    let (server, client) = connection();
    let (disk, mut platter) = tokio::io::duplex(STREAM_BYTES);
    let (mut reader, _server) = server.split();
    let storing = tokio::spawn(async move { store(&mut reader, disk).await });
    let written = std::cell::Cell::new(0);
    let (_client, mut writer) = client.split();
    let mut writing = Box::pin(async {
        let mut message = writer.next_writer(MessageKind::Binary);
        for part in 0..FILE_BYTES / STREAM_BYTES {
            message.write_all(&[part as u8; STREAM_BYTES]).await.expect("a server");
            written.set(written.get() + STREAM_BYTES);
        }
        message.finish().await.expect("a server");
    });
    write_until_stuck(&mut writing, &written).await;
    assert!((STREAM_BYTES..UNDERWAY_BYTES_MAX).contains(&written.get()), "{} bytes", written.get());

    // The disk goes on, and so does the upload.
    let stored = tokio::spawn(async move {
        let mut stored = Vec::new();
        platter.read_to_end(&mut stored).await.expect("a file");
        stored
    });
    writing.await;
    let answer = storing.await.expect("no panic").expect("an upload");
    assert!(answer.starts_with(&format!("{FILE_BYTES} bytes, sha256 ")), "{answer}");
    let stored = stored.await.expect("no panic");
    assert_eq!(stored.len(), FILE_BYTES);
    assert!(stored.chunks(STREAM_BYTES).enumerate().all(|(part, bytes)| bytes == [part as u8; STREAM_BYTES]));
}

#[tokio::test]
async fn an_upload_that_breaks_off_is_an_error() {
    let (server, client) = connection();
    let (mut reader, _server) = server.split();
    let storing = tokio::spawn(async move { store(&mut reader, tokio::io::sink()).await });
    let (reader, mut writer) = client.split();
    let mut message = writer.next_writer(MessageKind::Binary);
    message.write_all(&[7; 100_000]).await.expect("a server");
    drop(message);
    drop((reader, writer));
    assert!(storing.await.expect("no panic").is_err());
}
