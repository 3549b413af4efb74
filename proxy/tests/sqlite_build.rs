//! The bundled SQLite is built with the bounds of `.cargo/config.toml`.

use rusqlite::Connection;

#[test]
fn s8_the_compile_time_bounds_are_in_force() {
    let connection = Connection::open_in_memory().unwrap();
    let mut options = connection.prepare("PRAGMA compile_options").unwrap();
    let options: Vec<String> =
        options.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
    for wanted in [
        "DEFAULT_LOOKASIDE=256,40",
        "DEFAULT_PCACHE_INITSZ=0",
        "ENABLE_MATH_FUNCTIONS",
        "OMIT_LOAD_EXTENSION",
        "OMIT_SHARED_CACHE",
        "THREADSAFE=1",
    ] {
        let there = options.iter().any(|option| option == wanted);
        assert!(there, "{wanted} is missing; is .cargo/config.toml read? {options:?}");
    }
    // these are not listed as options: see them work
    let most = connection
        .query_row("SELECT length(zeroblob(150000000) || 'a')", [], |row| row.get::<_, i64>(0));
    assert!(most.is_err(), "SQLITE_MAX_ALLOCATION_SIZE is not in force");
    let width = "SELECT length(printf('%200000s', 'a'))";
    let width = connection.query_row(width, [], |row| row.get::<_, i64>(0)).unwrap();
    assert_eq!(width, 100_000, "SQLITE_PRINTF_PRECISION_LIMIT is not in force");
    let trusted: i64 = connection.query_row("PRAGMA trusted_schema", [], |row| row.get(0)).unwrap();
    assert_eq!(trusted, 0, "SQLITE_TRUSTED_SCHEMA is not in force");
    assert!(rusqlite::version_number() >= 3_054_000);
}
