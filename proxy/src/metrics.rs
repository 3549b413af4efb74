//! The names of all metrics of this crate.

use metrics_exporter_prometheus::PrometheusHandle;

/// Queries answered or refused, by `status` (the HTTP status; `broken` for an answer broken off after its
/// first byte, `gone` when the client left first). Counter.
pub const QUERIES: &str = "trough_read_queries_total";
/// From a request's head to the end of its answer, in seconds. Histogram.
pub const DURATION: &str = "trough_read_query_duration_seconds";
/// Queries that occupy a thread now (S8: back to 0 when nobody asks). Gauge.
pub const IN_FLIGHT: &str = "trough_read_queries_in_flight";
/// Queries admitted and not ended: running, waiting, or with an answer under way. Gauge.
pub const ADMITTED: &str = "trough_read_queries_admitted";
/// Queries stopped before their end, by `reason`: `time`, `client_gone`, `temp_bytes`. Counter.
pub const STOPPED: &str = "trough_read_queries_stopped_total";
/// Rows sent. Counter.
pub const ROWS: &str = "trough_read_rows_total";
/// Bytes of answers handed to connections. Counter.
pub const BYTES: &str = "trough_read_answer_bytes_total";
/// Connections to segments that are open. Gauge.
pub const POOL_OPEN: &str = "trough_read_pool_open_connections";
/// Queries that found an open connection. Counter.
pub const POOL_HITS: &str = "trough_read_pool_hits_total";
/// Queries that had to open the segment. Counter.
pub const POOL_MISSES: &str = "trough_read_pool_misses_total";
/// Connections closed, by `reason`: `room`, `replaced`, `failed`. Counter.
pub const POOL_CLOSED: &str = "trough_read_pool_closed_total";
/// Queries that found the mount missing and waited for it (S6). Counter.
pub const MOUNT_WAITS: &str = "trough_read_mount_waits_total";
/// Questions to other readers, by `outcome`: `answered`, or why another was asked (`silent`, `not_there`, `refused`), and
/// `broken_off` for an answer that ended in its middle. Counter.
pub const FORWARDS: &str = "trough_read_forwards_total";
/// Writes answered or refused, by `status` (the HTTP status; `gone` when the client left first). Counter.
pub const WRITES: &str = "trough_write_requests_total";
/// From a write's head to its answer, in seconds. Histogram.
pub const WRITE_DURATION: &str = "trough_write_request_duration_seconds";
/// Rows written and acknowledged. Counter.
pub const WRITE_ROWS: &str = "trough_write_rows_total";
/// Segments open for writing. Gauge.
pub const WRITABLE_OPEN: &str = "trough_write_open_segments";
/// Segments with writes that are not published (S3). Gauge.
pub const WRITABLE_UNPUBLISHED: &str = "trough_write_unpublished_segments";
/// Age of the oldest write that is not published, in seconds (S3). Gauge.
pub const WRITABLE_UNPUBLISHED_AGE: &str = "trough_write_unpublished_age_seconds";
/// Publications of segments that are written, by `outcome`: `published`, `failed`. Counter.
pub const WRITABLE_PROMOTIONS: &str = "trough_write_promotions_total";
/// Orphans: writes that were acknowledged here and overtaken elsewhere (S4). Gauge.
pub const WRITABLE_ORPHANS: &str = "trough_write_orphans";
/// HTTP connections open now. Gauge.
pub const HTTP_CONNECTIONS: &str = "trough_http_connections";

/// The page `/metrics`.
pub fn page(handle: &PrometheusHandle) -> axum::response::Response {
    use axum::response::IntoResponse;
    let kind = axum::http::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    ([(axum::http::header::CONTENT_TYPE, kind)], handle.render()).into_response()
}
