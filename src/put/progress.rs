//! What a person sees while files are published: a bar on a terminal, plain lines elsewhere.

use std::io::IsTerminal;
use std::path::Path;

use fsd::segment::SegmentId;
use indicatif::{ProgressBar, ProgressStyle};

use crate::rows::bytes;
use crate::wiring::Published;

/// The display of one run.
#[derive(Debug)]
pub struct Progress {
    bar: Option<ProgressBar>,
}

impl Progress {
    /// A display for `total` files.
    pub fn new(total: usize) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(total as u64);
            let style = ProgressStyle::with_template(
                "{bar:30} {pos}/{len} segments, {elapsed}, {eta} left  {msg}",
            );
            bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
        });
        Self { bar }
    }

    /// One more is published.
    pub fn published(&self, id: &SegmentId, published: &Published) {
        match &self.bar {
            Some(bar) => {
                bar.set_message(id.to_string());
                bar.inc(1);
            }
            None => println!("{id}  {}  {}", bytes(published.bytes), published.path),
        }
    }

    /// One could not be published.
    pub fn failed(&self, file: &Path, error: &anyhow::Error) {
        let text = format!("trough: publish {}: {error:#}", file.display());
        match &self.bar {
            Some(bar) => {
                bar.suspend(|| eprintln!("{text}"));
                bar.inc(1);
            }
            None => eprintln!("{text}"),
        }
    }

    /// Removes the bar.
    pub fn finish(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }
}
