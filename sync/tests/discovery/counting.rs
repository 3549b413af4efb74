//! Services that count how often something is registered, and that fail when a test wants it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use async_trait::async_trait;
use sync::kv::{KvError, KvErrorKind};
use sync::services::{Found, Instance, Maintenance, Name, Services};

#[derive(Debug)]
pub struct CountingServices {
    inner: Arc<dyn Services>,
    away: AtomicBool,
    /// Tries to register.
    pub registrations: AtomicUsize,
    /// Looks whether something is registered.
    pub looks: AtomicUsize,
}

impl CountingServices {
    pub fn new(inner: Arc<dyn Services>) -> Arc<Self> {
        let (registrations, looks) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Arc::new(Self { inner, away: false.into(), registrations, looks })
    }

    /// Nothing reaches it, or everything does.
    pub fn is_away(&self, away: bool) {
        self.away.store(away, Ordering::SeqCst);
    }

    fn reach(&self) -> Result<&dyn Services, KvError> {
        if !self.away.load(Ordering::SeqCst) {
            return Ok(&*self.inner);
        }
        Err(KvError {
            kind: KvErrorKind::Unavailable,
            attempted: "ask",
            target: "the test".to_owned(),
            reason: "it wants a failure".to_owned(),
        })
    }
}

#[async_trait]
impl Services for CountingServices {
    fn address(&self) -> String {
        self.inner.address()
    }
    async fn register(&self, instance: &Instance) -> Result<(), KvError> {
        self.registrations.fetch_add(1, Ordering::SeqCst);
        self.reach()?.register(instance).await
    }
    async fn deregister(&self, id: &Name) -> Result<(), KvError> {
        self.reach()?.deregister(id).await
    }
    async fn has(&self, instance: &Instance) -> Result<bool, KvError> {
        self.looks.fetch_add(1, Ordering::SeqCst);
        self.reach()?.has(instance).await
    }
    async fn instances(
        &self,
        service: &Name,
        tag: Option<&Name>,
        passing_only: bool,
    ) -> Result<Vec<Found>, KvError> {
        self.reach()?.instances(service, tag, passing_only).await
    }
    async fn maintenance(&self, id: &Name) -> Result<Maintenance, KvError> {
        self.reach()?.maintenance(id).await
    }
}
