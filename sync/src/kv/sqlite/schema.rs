//! The tables, and the steps from an older version to this one (S11).

/// Key in `meta`: the index of the newest change.
pub(super) const INDEX: &str = "index";
/// Key in `meta`: the highest index of a removed key that is no longer in `gone`.
pub(super) const FORGOTTEN: &str = "forgotten";

/// The steps of [`crate::sqlite_file`].
pub(super) const STEPS: &[&str] = &["
    CREATE TABLE meta (key TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID;
    INSERT INTO meta VALUES ('index', 1), ('forgotten', 1);
    CREATE TABLE kv (
        key TEXT NOT NULL UNIQUE, value BLOB NOT NULL, created INTEGER NOT NULL, modified INTEGER NOT NULL,
        session TEXT
    ) STRICT;
    CREATE INDEX kv_session ON kv (session) WHERE session IS NOT NULL;
    CREATE TABLE gone (key TEXT PRIMARY KEY, modified INTEGER NOT NULL) STRICT, WITHOUT ROWID;
    CREATE INDEX gone_modified ON gone (modified);
    CREATE TABLE session (
        id TEXT PRIMARY KEY, name TEXT NOT NULL, ttl_ms INTEGER NOT NULL, lock_delay_ms INTEGER NOT NULL,
        boot TEXT NOT NULL, expires_ms INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE lock_delay (key TEXT PRIMARY KEY, boot TEXT NOT NULL, until_ms INTEGER NOT NULL)
        STRICT, WITHOUT ROWID;
", "
    CREATE TABLE service (
        id TEXT NOT NULL UNIQUE, service TEXT NOT NULL, instance TEXT NOT NULL, critical_since_ms INTEGER
    ) STRICT;
    CREATE INDEX service_name ON service (service);
    CREATE TABLE maintenance (id TEXT PRIMARY KEY) STRICT, WITHOUT ROWID;
"];
