//! The pages over a manager that only remembers, and a registry in a file.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use fsd::segment::{Digest, SegmentId};
use proxy::segments::{Keep, ManageError, Promoted, Provisioned, Resolved, SegmentManager, routes};
use proxy::tokens::{TokenSettings, Tokens};
use reqwest::{Client, Method, RequestBuilder};
use serde_json::Value;
use sync::clock::since_boot;
use sync::kv::sqlite::SqliteKv;
use sync::kv::{Kv, KvTimeouts};
use sync::schemas::Schemas;
use tokio::net::TcpListener;

/// The longest body, as the pages have it.
pub const BODY_BYTES_MAX: usize = 1 << 20;

/// Remembers which segments are writable, with their schemas; some ids fail as they are called.
#[derive(Debug, Default)]
struct Memory {
    writable: Mutex<BTreeMap<SegmentId, SegmentId>>,
    asked: Mutex<Vec<String>>,
}

impl Memory {
    fn hear(&self, order: &str, id: &SegmentId) -> Result<(), ManageError> {
        self.asked.lock().unwrap().push(format!("{order} {id}"));
        let (id, reason) = (id.clone(), "as it is called".to_owned());
        match id.as_str() {
            "full" => Err(ManageError::NoRoom { id, reason }),
            "away" => Err(ManageError::HolderAway { id, holder: "n7".to_owned(), reason }),
            "conflict" => Err(ManageError::Conflict { id, reason }),
            "registry" => Err(ManageError::Registry(reason)),
            "store" => Err(ManageError::Store(reason)),
            "elsewhere" => Err(ManageError::Elsewhere { reason }),
            "broken" => Err(ManageError::Internal("two\nlines".to_owned())),
            _ => Ok(()),
        }
    }
}

#[async_trait]
impl SegmentManager for Memory {
    async fn provision(
        &self,
        id: &SegmentId,
        schema: Option<&SegmentId>,
    ) -> Result<Provisioned, ManageError> {
        self.hear("provision", id)?;
        let schema = schema.unwrap().clone();
        if schema.as_str() == "unknown" {
            return Err(ManageError::UnknownSchema(schema));
        }
        let mut writable = self.writable.lock().unwrap();
        let before = writable.get(id).cloned();
        writable.entry(id.clone()).or_insert(schema);
        Ok(Provisioned {
            write_url: format!("http://n1:6222/?segment={id}"),
            size: before.is_some().then_some(8192),
            schema: before,
            view_max_age_ms: (id.as_str() == "published").then_some(2000),
        })
    }

    async fn promote(&self, id: &SegmentId) -> Result<Promoted, ManageError> {
        self.hear("promote", id)?;
        if !self.writable.lock().unwrap().contains_key(id) {
            return Err(ManageError::NotWritable(id.clone()));
        }
        let remote_path = format!("/pool/{id}.sqlite");
        Ok(Promoted { remote_path, size: 4096, digest: Digest::from(blake3::hash(b"x")) })
    }

    async fn resolve(&self, id: &SegmentId, keep: Keep) -> Result<Resolved, ManageError> {
        self.hear("resolve", id)?;
        Ok(match keep {
            Keep::Ours => Resolved::Ours(self.promote(id).await?),
            Keep::Theirs => Resolved::Theirs(Some(format!("{id}@1-2"))),
        })
    }

    async fn delete(&self, id: &SegmentId) -> Result<(), ManageError> {
        self.hear("delete", id)?;
        if self.writable.lock().unwrap().contains_key(id) {
            return Err(ManageError::Locked { id: id.clone(), holder: "n1".to_owned() });
        }
        match id.as_str() {
            "published" => Ok(()),
            _ => Err(ManageError::NotFound(id.clone())),
        }
    }
}

pub struct Pages {
    memory: Arc<Memory>,
    pub kv: Arc<dyn Kv>,
    pub address: String,
    pub client: Client,
    pub dir: tempfile::TempDir,
}

impl Pages {
    pub async fn new() -> Self {
        Self::with(&[]).await
    }

    /// With a file for each of these rights; what it has in it is said by [`token`].
    pub async fn with(rights: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = |right: &str| {
            let path = dir.path().join(right);
            let mut options = std::fs::OpenOptions::new();
            let file = options.write(true).create_new(true).mode(0o600).open(&path);
            file.unwrap().write_all(token(right).as_bytes()).unwrap();
            path
        };
        let of = |right| rights.contains(&right).then(|| file(right));
        let settings = TokenSettings {
            read_file: of("read"),
            write_file: of("write"),
            manage_file: of("manage"),
        };
        let tokens = Arc::new(Tokens::load(&settings).unwrap());
        let timeouts = KvTimeouts { connect_ms: 2_000, call_ms: 2_000 };
        let kv = SqliteKv::open(dir.path().join("kv"), since_boot, timeouts).unwrap();
        let kv: Arc<dyn Kv> = Arc::new(kv);
        let memory = Arc::new(Memory::default());
        let router = routes(memory.clone(), Schemas::new(kv.clone()), tokens);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        // ends with the test's runtime
        tokio::spawn(async move { axum::serve(listener, router).await });
        let client = Client::builder().no_proxy().build().unwrap();
        Self { memory, kv, address, client, dir }
    }

    pub fn request(&self, method: Method, path: &str, body: impl Into<String>) -> RequestBuilder {
        let url = format!("http://{}{path}", self.address);
        self.client.request(method, url).body(body.into())
    }

    pub async fn get(&self, path: &str) -> (u16, String) {
        answer(self.request(Method::GET, path, "")).await
    }

    pub async fn put(&self, path: &str, body: impl Into<String>) -> (u16, String) {
        answer(self.request(Method::PUT, path, body)).await
    }

    pub async fn post(&self, path: &str, body: impl Into<String>) -> (u16, String) {
        answer(self.request(Method::POST, path, body)).await
    }

    pub async fn delete(&self, path: &str) -> (u16, String) {
        answer(self.request(Method::DELETE, path, "")).await
    }

    /// The orders that reached the manager since the last call.
    pub fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.memory.asked.lock().unwrap())
    }
}

/// The token that may do this, where a file is set.
pub fn token(right: &str) -> String {
    format!("{right}-0123456789abcdef")
}

/// The status and the body. Whatever fails is told in one line, and when to ask again if it is away.
pub async fn answer(request: RequestBuilder) -> (u16, String) {
    let response = request.send().await.unwrap();
    let status = response.status().as_u16();
    let kind = response.headers().get("content-type").map(|kind| kind.to_str().unwrap().to_owned());
    let retry = response.headers().contains_key("retry-after");
    let text = response.text().await.unwrap();
    if status >= 400 && status != 405 {
        assert_eq!(kind.as_deref(), Some("text/plain; charset=utf-8"), "{status} {text}");
        assert!(text.lines().count() == 1 && text.ends_with('\n'), "{text:?}");
    }
    assert_eq!(retry, status == 503, "{status} {text}");
    (status, text)
}

pub fn parsed((status, text): (u16, String)) -> Value {
    assert_eq!(status, 200, "{text}");
    serde_json::from_str(&text).unwrap()
}
