//! `trough resolve`: a person says which of two versions of a segment is to stay.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use fsd::segment::SegmentId;
use proxy::tokens::Right;

use crate::cli::{KeepOf, Resolve};
use crate::config::Config;
use crate::{http, wiring};

/// How long publishing may take: a segment of many gigabytes is sent and read back.
const PUBLISH_MAX: Duration = Duration::from_secs(21_600);

/// Gives the order and says what came of it.
pub async fn run(config: &Config, options: &Resolve) -> anyhow::Result<ExitCode> {
    let id: SegmentId = options.segment.parse().context("read the segment's name")?;
    let keep = match options.keep {
        KeepOf::Ours => "ours",
        KeepOf::Theirs => "theirs",
    };
    let url = format!("{}/resolve", wiring::manager_url(config).await?);
    let order = serde_json::json!({ "segment": id, "keep": keep }).to_string();
    let request = http::client(Some(PUBLISH_MAX))?.post(&url).body(order);
    let answer = http::authorized(request, config, Right::Manage)?.send().await;
    let answer = answer.with_context(|| format!("ask {url}; is the segment manager running?"))?;
    let status = answer.status();
    let text = answer.text().await.context("read the segment manager's answer")?;
    anyhow::ensure!(status.is_success(), "not resolved: {}", text.trim_end());
    let said: serde_json::Value = serde_json::from_str(&text)
        .with_context(|| format!("understand what the segment manager says: {text}"))?;
    let part = |name: &str| said[name].as_str();
    println!(
        "{}",
        match (options.keep, part("remote_path"), part("orphan")) {
            (KeepOf::Ours, path, _) => {
                format!(
                    "what was written to {id} is published: {}",
                    path.unwrap_or("see the status")
                )
            }
            (KeepOf::Theirs, _, Some(orphan)) => format!(
                "{id} is what was put there; what was written and not published is the orphan {orphan} (`trough orphans`)"
            ),
            (KeepOf::Theirs, _, None) =>
                format!("{id} is what was put there; nothing else was written"),
        }
    );
    Ok(ExitCode::SUCCESS)
}
