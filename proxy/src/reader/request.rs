//! What a request asks for: which segment, by which name, and the statement.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::Query;
use axum::http::request::Parts;
use fsd::segment::SegmentId;
use serde::Deserialize;

use super::App;
use crate::body;
use crate::catalogue;
use crate::error::QueryError;
use crate::host::HostKind;

/// Which segment a request is for.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) id: SegmentId,
    /// The host that named it, when nothing else did.
    pub(super) by_host: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Parameters {
    segment: Option<String>,
}

impl App {
    /// The segment named by `?segment=`, else by the host; and that the host may be asked at all.
    pub(super) async fn target(&self, parts: &Parts) -> Result<Target, QueryError> {
        let bad = |error: &dyn std::fmt::Display| QueryError::BadRequest(error.to_string());
        let Query(parameters) =
            Query::<Parameters>::try_from_uri(&parts.uri).map_err(|error| bad(&error))?;
        if let Some(segment) = parameters.segment {
            self.check_host(parts).await?;
            let id = SegmentId::new(&segment).map_err(|error| bad(&error))?;
            return Ok(Target { id, by_host: None });
        }
        match self.names.kind(parts)? {
            HostKind::Ours => Err(bad(&"no segment is named; add ?segment=ID to the address")),
            // whether there is such a segment is asked of the mount, not of the registry, on the usual way
            HostKind::Label(label) => match self.id_of(&label).await? {
                Some(id) => Ok(Target { id, by_host: Some(label) }),
                None => Err(QueryError::WrongHost(label)),
            },
        }
    }

    pub(super) async fn check_host(&self, parts: &Parts) -> Result<(), QueryError> {
        let HostKind::Label(label) = self.names.kind(parts)? else { return Ok(()) };
        let Some(id) = self.id_of(&label).await? else {
            return Err(QueryError::WrongHost(label));
        };
        if self.owners.as_ref().is_some_and(|owners| owners.find(&id).is_some()) {
            return Ok(());
        }
        match catalogue::knows(&*self.catalogue, &id).await? {
            true => Ok(()),
            false => Err(QueryError::WrongHost(label)),
        }
    }

    /// The segment that `label` is for, which the pool need not have yet.
    async fn id_of(&self, label: &str) -> Result<Option<SegmentId>, QueryError> {
        let owned =
            self.owners.as_ref().and_then(|owners| owners.id_of(&label.to_ascii_lowercase()));
        // what is its own label is known without a look
        match owned.filter(|id| id.label().as_str() != id.as_str()) {
            Some(id) => Ok(Some(id)),
            None => self.catalogue.id_of(label).await,
        }
    }

    pub(super) async fn read_body(
        &self,
        parts: &Parts,
        body: Body,
    ) -> Result<Arc<str>, QueryError> {
        let settings = &self.settings;
        let text =
            body::text(&parts.headers, body, settings.body_bytes_max, settings.body_ms).await?;
        Ok(text.into())
    }
}
