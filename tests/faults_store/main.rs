//! What goes wrong in a deep store, and what a user sees of it: a real `trough up` on a directory.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

#[path = "../support/segment.rs"]
#[allow(dead_code, reason = "each test file uses its part")]
mod segment;
#[path = "../support/trough.rs"]
#[allow(dead_code, reason = "each test file uses its part")]
mod support;

mod files;
mod pool;

use std::path::PathBuf;

use support::{SHORT, Trough};

/// A trough with short times whose log may have `allowed`.
fn short(allowed: &[&'static str], settings: &[&str]) -> Trough {
    let mut trough = Trough::new().with_settings(&SHORT).with_settings(settings);
    for part in allowed {
        trough = trough.allow(part);
    }
    trough.start();
    trough.wait_ready();
    trough
}

/// Files of the cache's objects.
fn objects(trough: &Trough) -> Vec<PathBuf> {
    let directories = std::fs::read_dir(trough.dir().join("cache/objects")).unwrap();
    let files = directories.flat_map(|entry| std::fs::read_dir(entry.unwrap().path()).unwrap());
    files.map(|entry| entry.unwrap().path()).collect()
}
