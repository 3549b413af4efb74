//! The names of what this crate measures; each with its unit and meaning.

/// Counter: segments published by this process.
pub const PUBLISHED_SEGMENTS: &str = "trough_published_segments_total";
/// Counter, bytes: how much of segments this process published.
pub const PUBLISHED_BYTES: &str = "trough_published_bytes_total";
/// Counter: publications that failed, by `step`.
pub const PUBLISH_FAILURES: &str = "trough_publish_failures_total";
/// Counter: publications refused because the fence had moved on (S4).
pub const PUBLISH_FENCED: &str = "trough_publish_fenced_total";
