//! A store that a test can hold up and break, around a real one.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use fsd::segment::Stamp;
use futures::stream::BoxStream;
use sync::store::{ListItem, Store, StoreError, StoreErrorKind, StorePath, StoreWriter};
use tokio::sync::{Mutex, Semaphore};

/// What happens at a call whose number has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The call is refused without being made.
    Refused,
    /// The call is made, and its answer is lost.
    AnswerLost,
    /// The call is made once the test lets it; see [`FaultyStore::let_go`].
    HeldUp,
    /// The call fails, and is made when nobody waits for it any more; see [`FaultyStore::arrive`]. For renames.
    Late,
}

/// A store whose `after + 1`th call of one kind goes wrong, once.
#[derive(Debug)]
pub struct FaultyStore {
    inner: Arc<dyn Store>,
    plan: Mutex<Option<(&'static str, usize, Fault)>>,
    reached: Semaphore,
    gate: Semaphore,
    late: Mutex<Option<(StorePath, StorePath)>>,
}

impl FaultyStore {
    pub fn new(inner: Arc<dyn Store>, call: &'static str, after: usize, fault: Fault) -> Arc<Self> {
        let plan = Mutex::new(Some((call, after, fault)));
        let (reached, gate, late) = (Semaphore::new(0), Semaphore::new(0), Mutex::default());
        Arc::new(Self { inner, plan, reached, gate, late })
    }

    /// The `after + 1`th call of one kind from now on goes wrong, and no other.
    pub async fn arm(&self, call: &'static str, after: usize, fault: Fault) {
        *self.plan.lock().await = Some((call, after, fault));
    }

    /// The rename that is late is done now, if it still can be.
    pub async fn arrive(&self) -> Result<(), StoreError> {
        let (from, to) = self.late.lock().await.take().expect("one is late");
        self.inner.rename(&from, &to).await
    }

    /// Waits until the call that is held up has come.
    pub async fn reached(&self) {
        self.reached.acquire().await.unwrap().forget();
    }

    /// Lets the call that is held up go on.
    pub fn let_go(&self) {
        self.gate.add_permits(1);
    }

    /// What is to become of this call of `name`.
    async fn fault(&self, name: &'static str) -> Option<Fault> {
        let mut plan = self.plan.lock().await;
        match plan.take() {
            Some((of, 0, fault)) if of == name => Some(fault),
            Some((of, after, fault)) if of == name => {
                *plan = Some((of, after - 1, fault));
                None
            }
            other => {
                *plan = other;
                None
            }
        }
    }

    async fn call<T>(
        &self,
        name: &'static str,
        call: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let fault = self.fault(name).await;
        self.run(name, fault, call).await
    }

    async fn run<T>(
        &self,
        name: &'static str,
        fault: Option<Fault>,
        call: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let broken = || StoreError {
            kind: StoreErrorKind::Unavailable,
            attempted: name,
            target: "a store made to fail".to_owned(),
            reason: "as the test asked".to_owned(),
        };
        match fault {
            None => call.await,
            Some(Fault::Refused | Fault::Late) => Err(broken()),
            Some(Fault::AnswerLost) => {
                call.await?;
                Err(broken())
            }
            Some(Fault::HeldUp) => {
                self.reached.add_permits(1);
                self.gate.acquire().await.unwrap().forget();
                call.await
            }
        }
    }
}

#[async_trait]
impl Store for FaultyStore {
    fn address(&self) -> String {
        self.inner.address()
    }
    fn list(&self) -> BoxStream<'_, ListItem> {
        self.inner.list()
    }
    async fn stat(&self, path: &StorePath) -> Result<Option<Stamp>, StoreError> {
        self.call("stat", self.inner.stat(path)).await
    }
    async fn read(
        &self,
        path: &StorePath,
    ) -> Result<BoxStream<'static, Result<Bytes, StoreError>>, StoreError> {
        self.call("read", self.inner.read(path)).await
    }
    async fn create(&self, path: &StorePath) -> Result<Box<dyn StoreWriter>, StoreError> {
        self.call("create", self.inner.create(path)).await
    }
    async fn mkdir(&self, path: &StorePath) -> Result<(), StoreError> {
        self.call("mkdir", self.inner.mkdir(path)).await
    }
    async fn rename(&self, from: &StorePath, to: &StorePath) -> Result<(), StoreError> {
        let fault = self.fault("rename").await;
        if let Some(Fault::Late) = fault {
            *self.late.lock().await = Some((from.clone(), to.clone()));
        }
        self.run("rename", fault, self.inner.rename(from, to)).await
    }
    async fn delete(&self, path: &StorePath) -> Result<bool, StoreError> {
        self.call("delete", self.inner.delete(path)).await
    }
    async fn delete_tree(&self, path: &StorePath) -> Result<bool, StoreError> {
        self.call("delete_tree", self.inner.delete_tree(path)).await
    }
    async fn names(&self, path: &StorePath, limit: usize) -> Result<Vec<String>, StoreError> {
        self.call("names", self.inner.names(path, limit)).await
    }
}
