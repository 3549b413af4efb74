//! The tables, and the steps from an older version to this one (S11).

/// Key in `meta`: when the newest complete listing ended, milliseconds since 1970.
pub(super) const COMPLETE_AT_MS: &str = "complete_at_ms";
/// Key in `meta`: how many rows `pool` has.
pub(super) const SEGMENTS: &str = "segments";

/// The steps of [`crate::sqlite_file`].
pub(super) const STEPS: &[&str] = &["
    CREATE TABLE meta (key TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID;
    CREATE TABLE pool (
        id TEXT PRIMARY KEY, path TEXT NOT NULL, length INTEGER NOT NULL, mtime_ms INTEGER NOT NULL,
        state INTEGER NOT NULL, digest BLOB, reason TEXT
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE write_lock (
        id TEXT PRIMARY KEY, incarnation INTEGER NOT NULL, idx INTEGER NOT NULL, holder TEXT NOT NULL,
        boot TEXT NOT NULL, expires_ms INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
", "
    -- locks and incarnations are keys in a file of their own: who still looks for them here shall fail
    DROP TABLE write_lock;
    DELETE FROM meta WHERE key IN ('incarnation', 'epoch_index');
"];
