//! Uploads of files that are longer than memory: one message is one file, which goes to the disk while it arrives. A disk that is
//! slower than the network makes the client wait.
//!
//! ```text
//! cargo run --example upload serve                                          # ws://localhost:8003/uploads/NAME
//! cargo run --example upload ws://localhost:8003/uploads/film.mp4 film.mp4
//! ```

mod support;

use std::error::Error;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use aws_lc_rs::digest::{Context, SHA256};
use echoring::{
    Acceptance, CloseCode, Decision, Dialer, HttpResponse, MessageKind, Reader, Transport, Upgrader,
};
use support::{arguments, listen, until_signal};
use tokio::fs::{self, File};
use tokio::io::{self, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;

type AnyError = Box<dyn Error + Send + Sync>;
/// The maximum of a message. Nothing of it is held but a buffer.
const FILE_BYTES_MAX: u64 = 1 << 31;
static UPLOADS: AtomicU64 = AtomicU64::new(0);

#[tokio::main]
async fn main() -> Result<(), AnyError> {
    let names = ["serve|URL", "ADDRESS|FILE", "FOLDER"];
    let defaults = ["serve", "localhost:8003", "target/uploads"];
    let [first, second, folder] = arguments("Receives files, or sends one.", names, defaults);
    until_signal(async {
        if first == "serve" {
            return serve(&second, Path::new(&folder)).await;
        }
        println!("{}", send(&first, Path::new(&second)).await?);
        Ok(())
    })
    .await
}

async fn serve(address: &str, folder: &Path) -> Result<(), AnyError> {
    fs::create_dir_all(folder).await?;
    let (listener, shown) = listen(address).await?;
    println!("uploads to ws://{shown}/uploads/NAME go to {}", folder.display());
    let upgrader = Upgrader::new().allow_any_origin().max_message(FILE_BYTES_MAX);
    loop {
        let (stream, peer) = listener.accept().await?;
        let (upgrader, folder) = (upgrader.clone(), folder.to_owned());
        tokio::spawn(async move {
            if let Err(error) = accept(&upgrader, stream, &folder).await {
                eprintln!("{peer}: {error}");
            }
        });
    }
}

async fn accept(upgrader: &Upgrader, stream: TcpStream, folder: &Path) -> Result<(), AnyError> {
    let mut name = String::new();
    let conn = upgrader.accept_tcp_with(stream, |asked| -> Decision {
        match asked.path().strip_prefix("/uploads/").filter(|name| is_file_name(name)) {
            Some(asked_name) => {
                asked_name.clone_into(&mut name);
                Acceptance::new().into()
            }
            None => HttpResponse::new(404, "the path is /uploads/NAME\n").into(),
        }
    });
    let (mut reader, mut writer) = conn.await?.split();
    // An unfinished upload leaves nothing with the file's name, and two of the same name do not mix.
    let unfinished = format!(".{name}.{}.{}", std::process::id(), UPLOADS.fetch_add(1, Ordering::Relaxed));
    let unfinished = folder.join(unfinished);
    let stored = store(&mut reader, File::create_new(&unfinished).await?).await;
    match &stored {
        Ok(_) => fs::rename(&unfinished, folder.join(&name)).await?,
        Err(_) => fs::remove_file(&unfinished).await?,
    }
    writer.write(stored?).await?;
    writer.close(CloseCode::NORMAL, "").await?;
    Ok(())
}

fn is_file_name(name: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    (1..=100).contains(&name.len()) && !name.starts_with('.') && name.bytes().all(is_plain)
}

/// Writes one message to `file`, and returns its length and checksum. Nothing is read while `file` takes nothing: then the
/// socket's buffers fill, and TCP stops the sender.
pub async fn store<S: Transport>(
    reader: &mut Reader<S>,
    mut file: impl AsyncWrite + Unpin,
) -> Result<String, AnyError> {
    let mut message = reader.next_reader().await?;
    let (mut buffer, mut bytes, mut digest) = (vec![0; 64 * 1024], 0, Context::new(&SHA256));
    loop {
        let part = match message.read(&mut buffer).await? {
            0 => break,
            read => &buffer[..read],
        };
        digest.update(part);
        file.write_all(part).await?;
        bytes += part.len();
    }
    file.flush().await?;
    let sum: String = digest.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(format!("{bytes} bytes, sha256 {sum}"))
}

/// Sends a file, and returns the server's answer. The file is read as fast as the server takes it.
async fn send(url: &str, file: &Path) -> Result<String, AnyError> {
    let (mut reader, mut writer) = Dialer::new().dial(url).await?.split();
    let mut message = writer.next_writer(MessageKind::Binary);
    io::copy(&mut File::open(file).await?, &mut message).await?;
    message.finish().await?;
    Ok(reader.read().await?.as_text().unwrap_or_default().to_owned())
}
