//! Waits until the mount and each server answer, and says so.

use std::path::Path;
use std::time::{Duration, Instant};

use fsd::view::{MountState, MountView};
use reqwest::StatusCode;

use crate::config::{Config, Server};
use crate::http;

/// Between two looks.
const PERIOD: Duration = Duration::from_millis(50);
/// How long one look may take: a hung mount or server must not hold up the others.
const LOOK_TIMEOUT: Duration = Duration::from_secs(2);
/// After this long a person is told what does not answer yet; the wait goes on.
const IMPATIENT_AFTER: Duration = Duration::from_secs(30);

/// Ends when all of them answer.
pub async fn wait(config: &Config) -> anyhow::Result<()> {
    let begun = Instant::now();
    let mut told = false;
    loop {
        let missing = missing(config).await?;
        if missing.is_empty() {
            return Ok(());
        }
        if !told && begun.elapsed() > IMPATIENT_AFTER {
            told = true;
            tracing::warn!(missing = missing.join(", "), "not ready yet");
        }
        tokio::time::sleep(PERIOD).await;
    }
}

/// What does not answer, for people.
async fn missing(config: &Config) -> anyhow::Result<Vec<&'static str>> {
    let mut missing = Vec::new();
    if !is_mounted(&config.mount.mountpoint).await {
        missing.push("the mount");
    }
    for (name, server) in [
        ("the synchronizer", Server::Manager),
        ("the reader", Server::Read),
        ("the writer", Server::Write),
        ("the candidate for the lead", Server::Lead),
    ] {
        let is_lead = server == Server::Lead;
        if (is_lead && !config.lead.candidate) || (server == Server::Write && !config.writes()) {
            continue;
        }
        let url = format!("{}/health", http::url_of(config.listen(server))?);
        let answer = http::client(Some(LOOK_TIMEOUT))?.get(url).send().await;
        // whether anybody leads depends on others, too; who is strained answers all the same
        let answers = |status: StatusCode| {
            is_lead || status.is_success() || status == StatusCode::TOO_MANY_REQUESTS
        };
        if !answer.is_ok_and(|answer| answers(answer.status())) {
            missing.push(name);
        }
    }
    Ok(missing)
}

async fn is_mounted(mountpoint: &Path) -> bool {
    let view = MountView::new(mountpoint);
    let look = tokio::task::spawn_blocking(move || view.state() == MountState::Live);
    matches!(tokio::time::timeout(LOOK_TIMEOUT, look).await, Ok(Ok(true)))
}

/// What a person can do now.
pub fn block(dir: &Path, config: &Config) -> anyhow::Result<String> {
    let reader = http::url_of(&config.node.read_listen)?;
    let (dir, mount) = (dir.display(), config.mount.mountpoint.display());
    Ok(format!(
        "\ntrough is ready\n\n  \
           publish  trough put --dir {dir} FILE.sqlite ...\n  \
           ask      curl --data-binary 'SELECT ...' '{reader}/?segment=ID'\n  \
           open     sqlite3 {mount}/ID.sqlite\n  \
           look     trough status --dir {dir}\n  \
           stop     Ctrl-C\n"
    ))
}
