//! `trough status`: what this machine holds, from its synchronizer; and the one thing a person may have to
//! answer to what it says.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;

use crate::cli::Status;
use crate::config::Config;
use crate::http;

mod report;

/// How long the synchronizer may be silent.
const TIMEOUT: Duration = Duration::from_secs(10);

/// No synchronizer answers.
const NOT_RUNNING: u8 = 3;

/// Runs the command.
pub async fn run(config: &Config, options: &Status) -> anyhow::Result<ExitCode> {
    let url = match &options.url {
        Some(url) => url.clone(),
        None => http::url_of(&config.node.manager_listen)?,
    };
    let request = http::client(Some(TIMEOUT))?.get(format!("{url}/status"));
    let answer = match request.send().await.and_then(reqwest::Response::error_for_status) {
        Ok(answer) => answer,
        Err(error) => {
            eprintln!("trough: ask the synchronizer at {url}: {:#}", anyhow::Error::new(error));
            eprintln!("trough: is it running? `trough up` starts it");
            return Ok(ExitCode::from(NOT_RUNNING));
        }
    };
    let text = answer.text().await.context("read the synchronizer's answer")?;
    if options.json {
        println!("{}", text.trim_end());
        return Ok(ExitCode::SUCCESS);
    }
    let status = serde_json::from_str(&text)
        .context("understand the synchronizer's answer; is it of another version?")?;
    print!("{}", report::render(&status, report::now_ms()));
    Ok(ExitCode::SUCCESS)
}
