//! What a person sees while files are published: a bar on a terminal, plain lines elsewhere.

use std::io::IsTerminal;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use indicatif::{ProgressBar, ProgressStyle};
use sync::publish::{Progress as Step, Publication};

use crate::rows::bytes;

/// The display of one run.
#[derive(Debug)]
pub struct Progress {
    bar: Option<ProgressBar>,
    /// Bytes that were sent, and bytes that came back the same.
    sent: AtomicU64,
    read_back: AtomicU64,
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
        Self { bar, sent: AtomicU64::new(0), read_back: AtomicU64::new(0) }
    }

    /// One segment went a step further.
    pub fn step(&self, step: Step) {
        match step {
            Step::Uploaded(bytes) => drop(self.sent.fetch_add(bytes, Ordering::Relaxed)),
            Step::ReadBack(bytes) => drop(self.read_back.fetch_add(bytes, Ordering::Relaxed)),
            Step::Prepared(_) | Step::Published => {}
        }
        if let Some(bar) = &self.bar {
            let (sent, back) = (&self.sent, &self.read_back);
            bar.set_message(format!(
                "{} sent, {} read back",
                bytes(sent.load(Ordering::Relaxed)),
                bytes(back.load(Ordering::Relaxed))
            ));
        }
    }

    /// One more is published.
    pub fn published(&self, published: &Publication) {
        let Publication { id, path, version, .. } = published;
        match &self.bar {
            Some(bar) => bar.inc(1),
            None => println!("{id}  {}  {path}", bytes(version.stamp.length)),
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
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
