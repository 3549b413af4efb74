//! The front door of a segment: its manager, and its writer, as applications use them.
//!
//! Invariant: anything but the answer that was asked for is an error with the words of who gave it.

use std::time::Duration;

use anyhow::{Context, bail};
use fsd::segment::SegmentId;
use proxy::tokens::Right;
use reqwest::header::CONTENT_TYPE;
use reqwest::{Client, RequestBuilder, StatusCode};
use serde::Deserialize;
use serde_json::json;
use sync::write_lock::WriteLocks;

use crate::config::Config;
use crate::{http, wiring};

/// How long the manager may take to publish a segment: as long as it waits for the writer itself, and a moment.
const PROMOTE_MAX: Duration = Duration::from_secs(21_660);
/// How long it may take to open one, likewise.
const PROVISION_MAX: Duration = Duration::from_secs(660);
/// What the manager is called in messages.
const MANAGER: &str = "the segment manager";
/// How often it is told to publish a segment that changes hands meanwhile.
const PUBLISH_ATTEMPTS: usize = 3;

/// Who writes a segment, or did and is gone.
#[derive(Debug, Clone, Copy)]
pub(super) struct Owner {
    /// Whether it told that it has what is not published.
    pub(super) has_unpublished: bool,
}

/// See the module.
pub(super) struct Door<'a> {
    config: &'a Config,
    locks: WriteLocks,
    /// It waits as long as the longest answer may take.
    patient: Client,
    writing: Client,
}

/// What the manager says that opened a segment.
#[derive(Debug, Deserialize)]
struct Opened {
    write_url: String,
}

impl<'a> Door<'a> {
    pub(super) fn new(config: &'a Config) -> anyhow::Result<Self> {
        let locks = wiring::orphans::locks(config)?;
        let (patient, writing) = (http::client(Some(PROMOTE_MAX))?, http::client(None)?);
        Ok(Self { config, locks, patient, writing })
    }

    /// Who writes `id`; `None` when nobody does, and nobody left anything.
    pub(super) async fn owner(&self, id: &SegmentId) -> anyhow::Result<Option<Owner>> {
        let owned = self.locks.owner(id).await.context("ask the registry who writes it")?;
        Ok(owned.and_then(|owned| {
            let has_unpublished = owned.ownership.dirty_since_ms.is_some();
            // one that is gone and had published all leaves nothing
            (owned.held || has_unpublished).then_some(Owner { has_unpublished })
        }))
    }

    /// Has `id` published as it is, if anybody writes it.
    pub(super) async fn publish(&self, id: &SegmentId) -> anyhow::Result<()> {
        let mut said = None;
        for _ in 0..PUBLISH_ATTEMPTS {
            if self.owner(id).await?.is_none() {
                return Ok(());
            }
            let request = self.order("promote", &json!({ "segment": id })).await?;
            match answer(MANAGER, request.timeout(PROMOTE_MAX)).await? {
                (StatusCode::OK, _) => return Ok(()),
                (_, text) => said = Some(text),
            }
        }
        bail!("publish {id}: {}", said.unwrap_or_default())
    }

    /// Has `id` opened for writing; where it is written.
    pub(super) async fn provision(
        &self,
        id: &SegmentId,
        schema: Option<&SegmentId>,
    ) -> anyhow::Result<String> {
        let mut order = json!({ "segment": id });
        if let Some(schema) = schema {
            order["schema"] = schema.as_str().into();
        }
        let request = self.order("provision", &order).await?;
        match answer(MANAGER, request.timeout(PROVISION_MAX)).await? {
            (StatusCode::OK, text) => {
                let opened: Opened = serde_json::from_str(&text)
                    .with_context(|| format!("understand the segment manager's answer {text:?}"))?;
                Ok(opened.write_url)
            }
            (_, text) => bail!("open {id} for writing: {text}"),
        }
    }

    /// Writes `body`, JSON, at `url`.
    pub(super) async fn write(&self, url: &str, body: String) -> anyhow::Result<()> {
        let request = self.writing.post(url).header(CONTENT_TYPE, "application/json").body(body);
        match answer("the writer", http::authorized(request, self.config, Right::Write)?).await? {
            (StatusCode::OK, text) if text == "OK" => Ok(()),
            (status, text) => bail!("{url} says {status}: {text}"),
        }
    }

    /// An order to whoever manages segments at the moment.
    async fn order(&self, page: &str, order: &serde_json::Value) -> anyhow::Result<RequestBuilder> {
        let manager = wiring::manager_url(self.config).await;
        let manager = manager.context("find out who opens and publishes segments; try again")?;
        let request = self.patient.post(format!("{manager}/{page}"));
        let request = request.header(CONTENT_TYPE, "application/json").body(order.to_string());
        http::authorized(request, self.config, Right::Manage)
    }
}

/// Sends it to `whom`; status and text of the answer, which managers and writers keep to a line.
async fn answer(whom: &str, request: RequestBuilder) -> anyhow::Result<(StatusCode, String)> {
    let answer = request.send().await.with_context(|| format!("ask {whom}; is it running?"))?;
    let status = answer.status();
    let text = answer.text().await.context("read the answer")?;
    Ok((status, text.trim_end().to_owned()))
}
