//! How far a command is, on a terminal; nothing elsewhere.

use std::io::IsTerminal;

use indicatif::{ProgressBar, ProgressStyle};

/// A line that goes when it is dropped.
#[derive(Debug)]
pub struct Progress(Option<ProgressBar>);

impl Progress {
    /// Begins with bytes of `what`.
    pub fn begin(what: String) -> Self {
        Self::of(what, "{msg} {bar:30} {bytes} of {total_bytes}, {eta} left")
    }

    /// Begins with rows of `what`, `total` of them.
    pub fn of_rows(what: String, total: u64) -> Self {
        let progress = Self::of(what, "{msg} {bar:30} {pos} of {len} rows, {eta} left");
        progress.set(0, total);
        progress
    }

    fn of(what: String, template: &str) -> Self {
        Self(std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template(template);
            let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
            ProgressBar::no_length().with_style(style).with_message(what)
        }))
    }

    /// So much is done, of so much.
    pub fn set(&self, done: u64, total: u64) {
        if let Some(bar) = &self.0 {
            bar.set_length(total);
            bar.set_position(done);
        }
    }

    /// Goes on with something that has no measure.
    pub fn say(&self, what: String) {
        if let Some(bar) = &self.0 {
            let style = ProgressStyle::with_template("{msg}, {elapsed}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
            bar.set_message(what);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}
