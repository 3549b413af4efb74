//! Services in Consul: registered with the agent of this machine, found in the catalogue of all.
//!
//! Invariants: a check that somebody else gave an instance, and its maintenance, stay when it is registered again; what
//! was registered with a token that is not used any more is to be registered again, for the agent keeps that token, and
//! with it would tell the others nothing of the instance, nor of its health.
//!
//! The token needs `service:write` for what is registered, and `node:read`: without that Consul says nothing of the
//! maintenance of a node, which looks as if there were none.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard};

use async_trait::async_trait;
use bytes::Bytes;
use hyper::StatusCode;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

use super::{Found, Health, Instance, Maintenance, Name, ServiceAddress, Services, in_order};
use crate::kv::KvError;
use crate::kv::consul::ConsulSettings;
use crate::kv::consul::http::{Answer, Http, Question};

/// The check that Consul gives a node that is under maintenance.
const NODE_MAINTENANCE: &str = "_node_maintenance";
/// What the check begins with that Consul gives an instance that is under maintenance; the instance's id follows.
const INSTANCE_MAINTENANCE: &str = "_service_maintenance:";

/// Services in Consul.
#[derive(Debug)]
pub struct ConsulServices {
    http: Http,
    /// With which token each instance was registered, as [`Http::token_number`] counts them.
    registered_with: Mutex<HashMap<Name, u64>>,
}

impl ConsulServices {
    /// Reads the files that `settings` name; nothing is asked of Consul yet. Their address is that of the agent of this
    /// machine: it asks the checks.
    pub fn new(settings: &ConsulSettings) -> Result<Self, KvError> {
        Ok(Self { http: Http::new(settings)?, registered_with: Mutex::default() })
    }

    fn registered_with(&self) -> MutexGuard<'_, HashMap<Name, u64>> {
        self.registered_with.lock().expect("no code panics while it holds the numbers")
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Registration<'a> {
    name: &'a Name,
    #[serde(rename = "ID")]
    id: &'a Name,
    address: &'a str,
    port: u16,
    tags: &'a BTreeSet<Name>,
    check: Check<'a>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Check<'a> {
    /// The instance's own: so that it takes the place of the one before.
    #[serde(rename = "CheckID")]
    id: &'a Name,
    #[serde(rename = "HTTP")]
    http: &'a str,
    interval: String,
    timeout: String,
    deregister_critical_service_after: String,
}

/// Whoever registered it may have left anything out but what it is called.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Registered {
    #[serde(rename = "ID")]
    id: String,
    service: String,
    #[serde(default)]
    address: String,
    #[serde(default)]
    port: i64,
    tags: Option<Vec<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    service: Registered,
    checks: Vec<EntryCheck>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct EntryCheck {
    #[serde(rename = "CheckID")]
    id: String,
    status: String,
}

impl Registration<'_> {
    fn of(instance: &Instance) -> Registration<'_> {
        let Instance { service, id, address, tags, check } = instance;
        Registration {
            name: service,
            id,
            address: address.host(),
            port: address.port(),
            tags,
            check: Check {
                id,
                http: &check.url,
                interval: format!("{}ms", check.interval_ms),
                timeout: format!("{}ms", check.timeout_ms),
                deregister_critical_service_after: format!("{}s", check.deregister_after_s),
            },
        }
    }
}

impl Registered {
    /// As it is found; `None` when no trough can have registered it.
    fn found(&self, health: Health) -> Option<Found> {
        let address = ServiceAddress::of(&self.address, u16::try_from(self.port).ok()?)?;
        let tags = self.tags.iter().flatten().map(|tag| Name::new(tag));
        let (id, tags) = (Name::new(&self.id).ok()?, tags.collect::<Result<_, _>>().ok()?);
        Some(Found { id, address, tags, health })
    }
}

impl EntryCheck {
    fn health(&self, answer: &Answer) -> Result<Health, KvError> {
        if self.id == NODE_MAINTENANCE || self.id.starts_with(INSTANCE_MAINTENANCE) {
            return Ok(Health::Maintenance);
        }
        match self.status.as_str() {
            "passing" => Ok(Health::Passing),
            "warning" => Ok(Health::Warning),
            "critical" => Ok(Health::Critical),
            other => Err(answer.malformed(format!("{other:?} is no status of a check"))),
        }
    }
}

impl Entry {
    fn found(&self, answer: &Answer) -> Result<Option<Found>, KvError> {
        let health = self.checks.iter().map(|check| check.health(answer));
        // the worst of them
        let health = health.collect::<Result<Vec<_>, _>>()?.into_iter().max();
        Ok(self.service.found(health.unwrap_or(Health::Critical)))
    }
}

#[async_trait]
impl Services for ConsulServices {
    fn address(&self) -> String {
        self.http.address().to_owned()
    }

    async fn register(&self, instance: &Instance) -> Result<(), KvError> {
        let attempted = "register a service";
        instance.check_size(attempted, self.address())?;
        // names and numbers: this cannot fail
        let body = serde_json::to_vec(&Registration::of(instance)).unwrap_or_default();
        let path = "/v1/agent/service/register".to_owned();
        let question = Question::put(attempted, path, body.into());
        // before: what another call finds out meanwhile is taken for news
        let token = self.http.token_number();
        self.http.ask(question).await?.only(&[StatusCode::OK])?;
        self.registered_with().insert(instance.id.clone(), token);
        Ok(())
    }

    async fn deregister(&self, id: &Name) -> Result<(), KvError> {
        let path = format!("/v1/agent/service/deregister/{id}");
        let question = Question::put("deregister a service", path, Bytes::new());
        self.http.ask(question).await?.only(&[StatusCode::OK, StatusCode::NOT_FOUND]).map(drop)
    }

    async fn has(&self, instance: &Instance) -> Result<bool, KvError> {
        let path = format!("/v1/agent/service/{}", instance.id);
        let question = Question::get("read a service of this machine", path);
        let answer =
            self.http.ask(question).await?.only(&[StatusCode::OK, StatusCode::NOT_FOUND])?;
        let token = self.http.token_number();
        let other_token =
            self.registered_with().get(&instance.id).is_some_and(|with| *with != token);
        if other_token || answer.status == StatusCode::NOT_FOUND {
            return Ok(false);
        }
        let there: Registered = answer.json()?;
        // its health is not asked for here
        let found = there.found(Health::Critical);
        let same = |found: Found| found.address == instance.address && found.tags == instance.tags;
        Ok(there.service == instance.service.as_str() && found.is_some_and(same))
    }

    async fn instances(
        &self,
        service: &Name,
        tag: Option<&Name>,
        passing_only: bool,
    ) -> Result<Vec<Found>, KvError> {
        let mut path = format!("/v1/health/service/{service}?");
        if let Some(tag) = tag {
            path.push_str(&format!("tag={tag}&"));
        }
        if passing_only {
            path.push_str("passing");
        }
        let question = Question::get("find the instances of a service", path);
        let answer = self.http.ask(question).await?.only(&[StatusCode::OK])?;
        let entries: Vec<Entry> = answer.json()?;
        let found = entries.iter().filter_map(|entry| entry.found(&answer).transpose());
        let found: Vec<Found> = found.collect::<Result<_, _>>()?;
        Ok(in_order(found))
    }

    async fn maintenance(&self, id: &Name) -> Result<Maintenance, KvError> {
        let instance_check = format!("{INSTANCE_MAINTENANCE}{id}");
        // a name needs no escape: CheckID == "a" or CheckID == "b"
        let path = format!(
            "/v1/agent/checks?filter=CheckID%20%3D%3D%20%22{NODE_MAINTENANCE}%22%20or%20\
             CheckID%20%3D%3D%20%22{instance_check}%22"
        );
        let question = Question::get("ask for maintenance", path);
        let answer = self.http.ask(question).await?.only(&[StatusCode::OK])?;
        let checks: BTreeMap<String, IgnoredAny> = answer.json()?;
        Ok(Maintenance {
            node: checks.contains_key(NODE_MAINTENANCE),
            instance: checks.contains_key(&instance_check),
        })
    }
}
