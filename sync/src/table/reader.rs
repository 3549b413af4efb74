//! Follows a table: fetches what changed, and nothing that does not fit together.

use std::marker::PhantomData;
use std::time::Duration;

use fsd::segment::SegmentId;
use futures::{StreamExt, TryStreamExt};

use super::manifest::{Manifest, Part, meta_key, read_part};
use super::writer::no_key;
use super::{Row, TableError};
use crate::kv::{Entry, InvalidKey, Key, Kv, Watched, Watcher};
use crate::registry::Epoch;

/// Parts that are fetched at the same time.
const FETCHES: usize = 8;
/// How often a table that changes while it is read is begun again at once.
const RESTARTS_MAX: usize = 3;

/// What changed since the last time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change<T> {
    /// When it was written.
    pub epoch: Epoch,
    /// Nothing that was told before holds any more: it is the first time, or the table was cut differently.
    pub whole: bool,
    /// The parts that changed, each with what was made of all its rows; of none, when it is gone.
    pub parts: Vec<(Part, T)>,
}

/// Follows one table.
#[derive(Debug)]
pub struct TableReader<R> {
    table: Key,
    meta: Key,
    wait: Duration,
    watcher: Watcher,
    /// What was told.
    seen: Option<Manifest>,
    rows: PhantomData<fn() -> R>,
}

impl<R: Row> TableReader<R> {
    /// Follows the table at `table`, which need not be there; each call waits at most `wait`.
    pub fn new(table: Key, wait: Duration) -> Result<Self, TableError> {
        let meta = meta_key(&table).map_err(|error| no_key(&table, &error))?;
        let watcher = Watcher::new(Watched::Key(meta.clone()), wait);
        Ok(Self { table, meta, wait, watcher, seen: None, rows: PhantomData })
    }

    /// What changed; `None` when the wait is over without a change, also while there is no table. After an error
    /// what was told before still holds, and the next call begins at once: pause before it.
    pub async fn next(&mut self, kv: &dyn Kv) -> Result<Option<Change<Vec<R>>>, TableError> {
        self.next_with(kv, &|rows| rows).await
    }

    /// [`Self::next`], with each part given to `make` as it comes: so not all rows of a large table are there at once.
    pub async fn next_with<T>(
        &mut self,
        kv: &dyn Kv,
        make: &(impl Fn(Vec<R>) -> T + Sync),
    ) -> Result<Option<Change<T>>, TableError> {
        // a new one stays after a failure, and when this call is dropped half way: what it saw was not told
        let anew = Watcher::new(Watched::Key(self.meta.clone()), self.wait);
        let mut watcher = std::mem::replace(&mut self.watcher, anew);
        let snapshot = watcher.next(kv).await?;
        let change = self.take(kv, snapshot.entries.into_iter().next(), make).await?;
        self.watcher = watcher;
        Ok(change)
    }

    /// What changes whenever the table does.
    pub fn watched(&self) -> Watched {
        Watched::Key(self.meta.clone())
    }

    /// What changed, without waiting for anything to change.
    pub async fn look(&mut self, kv: &dyn Kv) -> Result<Option<Change<Vec<R>>>, TableError> {
        self.look_with(kv, &|rows| rows).await
    }

    /// [`Self::look`], as [`Self::next_with`] does it.
    pub async fn look_with<T>(
        &mut self,
        kv: &dyn Kv,
        make: &(impl Fn(Vec<R>) -> T + Sync),
    ) -> Result<Option<Change<T>>, TableError> {
        let entry = kv.get(&self.meta).await?;
        self.take(kv, entry, make).await
    }

    async fn take<T>(
        &mut self,
        kv: &dyn Kv,
        mut meta: Option<Entry>,
        make: &(impl Fn(Vec<R>) -> T + Sync),
    ) -> Result<Option<Change<T>>, TableError> {
        let mut left = RESTARTS_MAX;
        loop {
            let Some(Entry { value, .. }) = meta else { return Ok(None) };
            let result = match Manifest::read(&self.meta, &value) {
                Ok(manifest) => self.fetch(kv, manifest, make).await,
                Err(error) => Err(error),
            };
            match result {
                // a writer may have gone on in between: then the meta document says something else by now
                Err(TableError::Undecodable { .. }) if left > 0 => left -= 1,
                other => return other,
            }
            meta = kv.get(&self.meta).await?;
        }
    }

    async fn fetch<T>(
        &mut self,
        kv: &dyn Kv,
        manifest: Manifest,
        make: &(impl Fn(Vec<R>) -> T + Sync),
    ) -> Result<Option<Change<T>>, TableError> {
        if let Some(seen) = &self.seen {
            if manifest.epoch < seen.epoch {
                let (table, found, seen) = (self.table.clone(), manifest.epoch, seen.epoch);
                return Err(TableError::Older { table, found, seen });
            }
            if *seen == manifest {
                return Ok(None);
            }
        }
        let before = self.seen.as_ref().filter(|seen| seen.bits == manifest.bits);
        let whole = before.is_none();
        let told = |part: Part| before.and_then(|seen| seen.parts.get(&part.index).copied());
        let changed = manifest.parts().filter(|(part, tag)| told(*part) != Some(*tag));
        let fetched = changed.map(|(part, tag)| {
            let key =
                part.key(&self.table).map_err(|error: InvalidKey| no_key(&self.table, &error));
            async move {
                let key = key?;
                let entry = kv.get(&key).await?;
                let rows = read_part(&key, entry.as_ref().map(|entry| &*entry.value), tag)?;
                Ok::<_, TableError>((part, make(rows)))
            }
        });
        let fetched: Vec<_> = fetched.collect();
        let mut parts: Vec<(Part, T)> =
            futures::stream::iter(fetched).buffered(FETCHES).try_collect().await?;
        let gone = before.into_iter().flat_map(Manifest::parts);
        let gone = gone.filter(|(part, _)| !manifest.parts.contains_key(&part.index));
        parts.extend(gone.map(|(part, _)| (part, make(Vec::new()))));
        let epoch = manifest.epoch;
        self.seen = Some(manifest);
        Ok(Some(Change { epoch, whole, parts }))
    }
}

/// The row of `id` in the table at `table`, from its part alone; `None` when there is no table.
pub(crate) async fn find<R: Row>(
    kv: &dyn Kv,
    table: &Key,
    id: &SegmentId,
) -> Result<Option<Option<R>>, TableError> {
    let meta = meta_key(table).map_err(|error| no_key(table, &error))?;
    let mut left = RESTARTS_MAX;
    loop {
        let Some(Entry { value, .. }) = kv.get(&meta).await? else { return Ok(None) };
        let manifest = Manifest::read(&meta, &value)?;
        let part = Part::of(id, manifest.bits);
        let Some(tag) = manifest.parts.get(&part.index) else { return Ok(Some(None)) };
        let key = part.key(table).map_err(|error| no_key(table, &error))?;
        let entry = kv.get(&key).await?;
        match read_part::<R>(&key, entry.as_ref().map(|entry| &*entry.value), *tag) {
            Ok(rows) => return Ok(Some(rows.into_iter().find(|row| row.id() == id))),
            // a writer may have gone on in between
            Err(TableError::Undecodable { .. }) if left > 0 => left -= 1,
            Err(error) => return Err(error),
        }
    }
}
