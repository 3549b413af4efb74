//! A page that says what a test wants, as the `/health` of a server does.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};

/// Answers with the status that it was told last, until it is dropped.
pub struct Page {
    status: Arc<AtomicU16>,
    address: String,
    _serving: DropGuard,
}

impl Page {
    pub async fn new(status: u16) -> Self {
        Self::on("127.0.0.1", status).await
    }

    /// On an address of this machine.
    pub async fn on(host: &str, status: u16) -> Self {
        let listener = TcpListener::bind((host, 0)).await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let says = Arc::new(AtomicU16::new(status));
        let (stop, status) = (CancellationToken::new(), says.clone());
        tokio::spawn(stop.clone().run_until_cancelled_owned(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let status = says.load(Ordering::SeqCst);
                tokio::spawn(async move {
                    let mut head = [0; 4096];
                    let read = stream.read(&mut head).await;
                    if status == 0 {
                        // whoever asked goes first
                        let _ = stream.read(&mut head).await;
                        return;
                    }
                    let known = read.is_ok_and(|n| head[..n].starts_with(b"GET /health HTTP"));
                    let status = if known { status } else { 404 };
                    let answer = format!(
                        "HTTP/1.1 {status} X\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
                    );
                    let _ = stream.write_all(answer.as_bytes()).await;
                });
            }
        }));
        Self { status, address, _serving: stop.drop_guard() }
    }

    /// Answers so from now on; 0 is silence.
    pub fn says(&self, status: u16) {
        self.status.store(status, Ordering::SeqCst);
    }

    /// `HOST:PORT`.
    pub fn address(&self) -> &str {
        &self.address
    }

    pub fn url(&self) -> String {
        format!("http://{}/health", self.address)
    }
}
