//! Services of one machine, in the SQLite file of its registry.
//!
//! Nobody asks the checks while nobody asks for the instances: how an instance is is found out then. So an instance is
//! critical only from the first look that found it so, and one that is abandoned stays until somebody looks.
//!
//! Left out: DNS.

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use futures::{StreamExt, stream};
use rusqlite::{Connection, OptionalExtension, params};

use super::{Found, Health, Instance, Maintenance, Name, Services, in_order};
use crate::clock::Clock;
use crate::kv::sqlite::{Failure, SharedFile};
use crate::kv::{KvError, KvTimeouts};

mod probe;

use probe::Prober;

/// Checks that are asked at the same time.
const PROBES: usize = 16;
/// What stands for the machine among what is under maintenance: no instance has this id.
const MACHINE: &str = "";

/// Services in a file. Cloning is cheap.
#[derive(Clone)]
pub struct SqliteServices {
    file: SharedFile,
    clock: Arc<dyn Clock>,
    prober: Prober,
}

impl std::fmt::Debug for SqliteServices {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("SqliteServices").field(&self.file.address()).finish()
    }
}

/// A row, with what is known of it beside the instance itself.
struct Row {
    instance: Instance,
    critical_since_ms: Option<u64>,
    maintenance: bool,
}

impl SqliteServices {
    /// Opens the registry at `path`, or makes it, and brings its schema up to date.
    pub fn open(
        path: impl Into<PathBuf>,
        clock: Arc<dyn Clock>,
        timeouts: KvTimeouts,
    ) -> Result<Self, KvError> {
        let file = SharedFile::open(path.into(), timeouts)?;
        Ok(Self { file, clock, prober: Prober::new() })
    }

    /// Puts the instance `id`, or this machine, under maintenance, or takes it out of that. An instance that is not
    /// there stays as it is.
    pub async fn set_maintenance(&self, id: Option<&Name>, on: bool) -> Result<(), KvError> {
        let id = id.map_or(MACHINE, Name::as_str).to_owned();
        let sql = match on {
            true => {
                "INSERT OR IGNORE INTO maintenance
                 SELECT ?1 WHERE ?1 = '' OR EXISTS (SELECT 1 FROM service WHERE id = ?1)"
            }
            false => "DELETE FROM maintenance WHERE id = ?1",
        };
        self.file
            .on("change maintenance", move |file| {
                Ok(file.connection()?.execute(sql, [id]).map(drop)?)
            })
            .await
    }

    /// Takes an instance out; with `critical_since_ms` only if it is critical since then, and was not registered again.
    async fn remove(
        &self,
        attempted: &'static str,
        id: Name,
        critical_since_ms: Option<u64>,
    ) -> Result<(), KvError> {
        let instance =
            "DELETE FROM service WHERE id = ?1 AND (?2 IS NULL OR critical_since_ms = ?2)";
        let maintenance = "DELETE FROM maintenance
            WHERE id = ?1 AND NOT EXISTS (SELECT 1 FROM service WHERE id = ?1)";
        self.file
            .on(attempted, move |file| {
                let transaction = file.connection()?.transaction()?;
                transaction.execute(instance, params![id.as_str(), critical_since_ms])?;
                transaction.execute(maintenance, [id.as_str()])?;
                Ok(transaction.commit()?)
            })
            .await
    }

    /// How the instance of `row` is. Notes since when it is critical, and takes out what was so for too long.
    async fn look_at(&self, row: Row) -> Result<Option<Found>, KvError> {
        let Row { instance, critical_since_ms, maintenance } = row;
        let health = self.prober.ask(&instance.check).await;
        let now_ms = self.clock.now_ms();
        let since_ms = (health == Health::Critical).then(|| critical_since_ms.unwrap_or(now_ms));
        let patience_ms = instance.check.deregister_after().as_millis();
        if since_ms.is_some_and(|since| u128::from(now_ms.saturating_sub(since)) > patience_ms) {
            self.remove("take out an abandoned service", instance.id, critical_since_ms).await?;
            return Ok(None);
        }
        if since_ms != critical_since_ms {
            let id = instance.id.clone();
            let note = "UPDATE service SET critical_since_ms = ? WHERE id = ?";
            self.file
                .on("note how a service is", move |file| {
                    Ok(file
                        .connection()?
                        .execute(note, params![since_ms, id.as_str()])
                        .map(drop)?)
                })
                .await?;
        }
        let Instance { id, address, tags, .. } = instance;
        let health = if maintenance { Health::Maintenance } else { health };
        Ok(Some(Found { id, address, tags, health }))
    }
}

fn parse(text: &str) -> Result<Instance, Failure> {
    serde_json::from_str(text).map_err(|error| Failure::Malformed(format!("{text:?}: {error}")))
}

fn rows(connection: &Connection, service: &str) -> Result<Vec<Row>, Failure> {
    let mut statement = connection.prepare_cached(
        "SELECT instance, critical_since_ms,
             EXISTS (SELECT 1 FROM maintenance WHERE maintenance.id IN ('', service.id))
         FROM service WHERE service = ?",
    )?;
    let found = statement
        .query_map([service], |row| Ok((row.get::<_, String>(0)?, row.get(1)?, row.get(2)?)))?;
    found
        .map(|row| {
            let (text, critical_since_ms, maintenance) = row?;
            Ok(Row { instance: parse(&text)?, critical_since_ms, maintenance })
        })
        .collect()
}

#[async_trait]
impl Services for SqliteServices {
    fn address(&self) -> String {
        self.file.address()
    }

    async fn register(&self, instance: &Instance) -> Result<(), KvError> {
        let attempted = "register a service";
        instance.check_size(attempted, self.address())?;
        let (id, service) = (instance.id.clone(), instance.service.clone());
        // names and numbers: this cannot fail
        let text = serde_json::to_string(instance).unwrap_or_default();
        let sql = "INSERT INTO service VALUES (?, ?, ?, NULL) ON CONFLICT (id)
                   DO UPDATE SET service = excluded.service, instance = excluded.instance, critical_since_ms = NULL";
        self.file
            .on(attempted, move |file| {
                let parameters = params![id.as_str(), service.as_str(), text];
                Ok(file.connection()?.execute(sql, parameters).map(drop)?)
            })
            .await
    }

    async fn deregister(&self, id: &Name) -> Result<(), KvError> {
        self.remove("deregister a service", id.clone(), None).await
    }

    async fn has(&self, instance: &Instance) -> Result<bool, KvError> {
        let instance = instance.clone();
        self.file
            .on("read a service of this machine", move |file| {
                let sql = "SELECT instance FROM service WHERE id = ?";
                let mut statement = file.connection()?.prepare_cached(sql)?;
                let text: Option<String> =
                    statement.query_row([instance.id.as_str()], |row| row.get(0)).optional()?;
                Ok(text.is_some_and(|text| parse(&text).is_ok_and(|found| found == instance)))
            })
            .await
    }

    async fn instances(
        &self,
        service: &Name,
        tag: Option<&Name>,
        passing_only: bool,
    ) -> Result<Vec<Found>, KvError> {
        let service = service.clone();
        let rows = self
            .file
            .on("find the instances of a service", move |file| {
                rows(file.connection()?, service.as_str())
            })
            .await?;
        let tagged = |row: &Row| tag.is_none_or(|tag| row.instance.tags.contains(tag));
        let looks = rows.into_iter().filter(tagged).map(|row| self.look_at(row));
        let looked: Vec<_> = stream::iter(looks).buffer_unordered(PROBES).collect().await;
        let mut found = Vec::new();
        for one in looked {
            found.extend(one?.filter(|one| !passing_only || one.health == Health::Passing));
        }
        Ok(in_order(found))
    }

    async fn maintenance(&self, id: &Name) -> Result<Maintenance, KvError> {
        let id = id.clone();
        self.file
            .on("ask for maintenance", move |file| {
                let sql = "SELECT EXISTS (SELECT 1 FROM maintenance WHERE id = ?)";
                let mut statement = file.connection()?.prepare_cached(sql)?;
                let mut is_on = |id: &str| statement.query_row([id], |row| row.get(0));
                Ok(Maintenance { node: is_on(MACHINE)?, instance: is_on(id.as_str())? })
            })
            .await
    }
}
