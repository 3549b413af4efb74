//! A reader that does what a test says, down to the bytes on its connections.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What it does with a request.
#[derive(Debug, Clone)]
pub enum Act {
    /// Sends these bytes and keeps the connection for the next request.
    Say(String),
    /// Sends these bytes and closes the connection.
    SayAndClose(String),
    /// Sends these bytes and then nothing, for ever.
    SayAndHang(String),
}

/// See the module.
pub struct Scripted {
    pub address: SocketAddr,
    acts: Arc<Mutex<(Act, Act)>>,
    asked: Arc<Mutex<Vec<String>>>,
    listening: tokio::task::JoinHandle<()>,
}

/// An answer with its length.
pub fn answer(status: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

/// The beginning of an answer of `length` bytes.
pub fn beginning(length: usize, body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{body}")
}

impl Scripted {
    /// One that is well, and does `act` with each query.
    pub async fn new(act: Act) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let acts = Arc::new(Mutex::new((act, Act::Say(answer("200 OK", "{}")))));
        let asked = Arc::default();
        let (all_acts, all_asked) = (Arc::clone(&acts), Arc::clone(&asked));
        let listening = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(connection(
                    stream,
                    Arc::clone(&all_acts),
                    Arc::clone(&all_asked),
                ));
            }
        });
        Self { address, acts, asked, listening }
    }

    pub fn queries(&self, act: Act) {
        self.acts.lock().unwrap().0 = act;
    }

    pub fn health(&self, act: Act) {
        self.acts.lock().unwrap().1 = act;
    }

    /// The queries that came, head and body.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

async fn connection(
    mut stream: TcpStream,
    acts: Arc<Mutex<(Act, Act)>>,
    asked: Arc<Mutex<Vec<String>>>,
) {
    while let Some(request) = request(&mut stream).await {
        let act = match request.starts_with("GET /health ") {
            true => acts.lock().unwrap().1.clone(),
            false => {
                asked.lock().unwrap().push(request);
                acts.lock().unwrap().0.clone()
            }
        };
        let (Act::Say(text) | Act::SayAndClose(text) | Act::SayAndHang(text)) = &act;
        if stream.write_all(text.as_bytes()).await.is_err() {
            return;
        }
        match act {
            Act::Say(_) => {}
            Act::SayAndClose(_) => return,
            // until the other side has enough
            Act::SayAndHang(_) => while stream.read_u8().await.is_ok() {},
        }
    }
}

async fn request(stream: &mut TcpStream) -> Option<String> {
    let mut text = String::new();
    loop {
        if let Some(end) = text.find("\r\n\r\n") {
            let head = text[..end].to_ascii_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            let length: usize = length.map_or(0, |length| length.parse().unwrap());
            if text.len() >= end + 4 + length {
                return Some(text);
            }
        }
        let mut piece = [0; 4096];
        match stream.read(&mut piece).await {
            Ok(0) | Err(_) => return None,
            Ok(read) => text.push_str(std::str::from_utf8(&piece[..read]).unwrap()),
        }
    }
}
