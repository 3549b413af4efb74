use super::super::{OnConflict, RehearsalError, Requests, rehearse};
use super::*;
use crate::writable::WritableSettings;

struct Pair {
    dir: tempfile::TempDir,
    files: Files,
}

impl Pair {
    /// Two databases, made by `base` and then by a script each.
    fn new(base: &str, ours: &str, theirs: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for (name, sql) in [("ours", ours), ("theirs", theirs)] {
            let db = Connection::open(dir.path().join(name)).unwrap();
            db.execute_batch(&format!("{base};{sql}")).unwrap();
        }
        let files = Files::open(dir.path().join("writable")).unwrap();
        Self { dir, files }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    /// The difference, and the missing rows as text.
    fn compare(&self) -> (Difference, Vec<String>) {
        let mut rows = Vec::new();
        let theirs = self.path("theirs");
        let mut each = |table: &Table, row: &Row<'_>| {
            let values =
                (0..table.columns.len()).map(|at| format!("{:?}", row.get_ref(at).unwrap()));
            rows.push(format!("{} {}", table.name, values.collect::<Vec<_>>().join(" ")));
            Ok(())
        };
        let stop = Stop::default();
        let found = compare(&self.files, &self.path("ours"), Some(&theirs), &stop, &mut each);
        let left: Vec<_> =
            std::fs::read_dir(self.files.root()).unwrap().map(Result::unwrap).collect();
        assert_eq!(left.len(), 1, "nothing but the orphans' directory stays: {left:?}");
        (found.unwrap(), rows)
    }

    fn replay(&self, on_conflict: OnConflict) -> Result<u64, RehearsalError> {
        self.replay_with(on_conflict, &WritableSettings::default())
    }

    /// Puts the difference back; how many rows stayed out.
    fn replay_with(
        &self,
        on_conflict: OnConflict,
        settings: &WritableSettings,
    ) -> Result<u64, RehearsalError> {
        let (ours, theirs, stop) = (self.path("ours"), self.path("theirs"), Stop::default());
        let (requests, difference) =
            Requests::of_difference(&self.files, &ours, &theirs, on_conflict, &stop)?;
        assert_eq!(requests.rows(), difference.missing());
        let (files, on) = (&self.files, on_conflict);
        let done = rehearse(files, &requests, on, &ours, &theirs, settings, &stop);
        drop(requests);
        done.map(|rehearsed| rehearsed.skipped)
    }
}

fn of(table: &str, missing: u64, others: u64) -> TableDifference {
    TableDifference { table: table.to_owned(), place: Place::There, missing, others }
}

#[test]
fn rows_that_are_equal_are_counted() {
    let pair = Pair::new(
        "CREATE TABLE log (at, what)",
        "INSERT INTO log VALUES (1, 'a'), (1, 'a'), (1, 'a'), (2, NULL), (2, NULL), (3, 'only ours')",
        "INSERT INTO log VALUES (2, NULL), (1, 'a'), (4, 'only theirs'), (4, 'only theirs')",
    );
    let (difference, rows) = pair.compare();
    assert_eq!(difference.tables, [of("log", 4, 2)]);
    assert_eq!((difference.missing(), difference.others()), (4, 2));
    let [first, second, third, fourth] = &rows[..] else { panic!("{rows:?}") };
    assert_eq!((first, third), (second, &"log Integer(2) Null".to_owned()));
    assert!(fourth.starts_with("log Integer(3)"), "in their order: {rows:?}");
    pair.replay(OnConflict::Stop).unwrap();
    assert_eq!(pair.compare().0.tables, [of("log", 0, 2)]);
}

#[test]
fn values_are_the_same_when_bytes_and_types_are() {
    let all = [
        "1", "1.0", "'1'", "x'31'", "NULL", "''", "x''", "0", "0.0", "1e999", "'a'", "'A'", "'a '",
    ];
    let insert = |values: &[&str]| {
        values.iter().map(|value| format!("INSERT INTO t VALUES ({value});")).collect::<String>()
    };
    for (at, value) in all.iter().enumerate() {
        let mut others = all.to_vec();
        others.remove(at);
        let pair = Pair::new("CREATE TABLE t (v)", &insert(&[value]), &insert(&others));
        assert_eq!(pair.compare().0.tables, [of("t", 1, others.len() as u64)], "{value}");
        pair.replay(OnConflict::Stop).unwrap();
        assert_eq!(pair.compare().0.missing(), 0, "{value} comes back as it was");
        let pair = Pair::new("CREATE TABLE t (v)", &insert(&all), &insert(&all));
        assert_eq!(pair.compare().0.tables, [of("t", 0, 0)]);
    }
}

#[test]
fn no_collation_and_no_border_between_columns_makes_rows_the_same() {
    let pair = Pair::new(
        "CREATE TABLE t (a TEXT COLLATE NOCASE, b TEXT COLLATE RTRIM)",
        "INSERT INTO t VALUES ('x', 'y'), ('ab', 'c')",
        "INSERT INTO t VALUES ('X', 'y '), ('a', 'bc')",
    );
    assert_eq!(pair.compare().0.tables, [of("t", 2, 2)]);
}

#[test]
fn a_rowid_and_what_is_computed_are_no_part_of_a_row() {
    let pair = Pair::new(
        "CREATE TABLE t (a, twice AS (a * 2) STORED, thrice AS (a * 3), b);
         CREATE TABLE keyed (k INTEGER PRIMARY KEY, v);
         CREATE TABLE pairs (a, b, v, PRIMARY KEY (b, a)) WITHOUT ROWID",
        "INSERT INTO t (rowid, a, b) VALUES (7, 1, 'x'), (8, 2, 'y');
         INSERT INTO keyed VALUES (1, 'same'), (2, 'moved'); INSERT INTO pairs VALUES (2, 1, 'p'), (1, 2, 'q')",
        "INSERT INTO t (rowid, a, b) VALUES (1, 1, 'x');
         INSERT INTO keyed VALUES (1, 'same'), (3, 'moved'); INSERT INTO pairs VALUES (1, 2, 'q')",
    );
    let (difference, rows) = pair.compare();
    assert_eq!(difference.tables, [of("t", 1, 0), of("keyed", 1, 1), of("pairs", 1, 0)]);
    assert!(rows[0].starts_with("t Integer(2) Text("), "{rows:?}");
    pair.replay(OnConflict::Stop).unwrap();
    assert_eq!(pair.compare().0.missing(), 0);
}

#[test]
fn a_table_that_is_not_there_or_has_other_columns_is_told_and_its_rows_count() {
    let pair = Pair::new(
        "CREATE TABLE same (a, b)",
        "INSERT INTO same VALUES (1, 2);
         CREATE TABLE gone (a); INSERT INTO gone VALUES (1), (2);
         CREATE TABLE other (a, b); INSERT INTO other VALUES (1, 2);
         CREATE TABLE empty (a)",
        "INSERT INTO same VALUES (1, 2); CREATE TABLE other (a, c); INSERT INTO other VALUES (1, 2)",
    );
    let (difference, rows) = pair.compare();
    let with = |table, place, missing| TableDifference { place, ..of(table, missing, 0) };
    let expected = [
        of("same", 0, 0),
        with("gone", Place::Absent, 2),
        with("other", Place::OtherColumns, 1),
        with("empty", Place::Absent, 0),
    ];
    assert_eq!(difference.tables, expected);
    assert!(rows.is_empty(), "they have no place to go to");
    let named: Vec<_> = difference.out_of_place().map(|table| &*table.table).collect();
    assert_eq!((named, difference.missing()), (vec!["gone", "other"], 3));
    // nothing is published
    let none = compare(&pair.files, &pair.path("ours"), None, &Stop::default(), &mut |_, _| Ok(()))
        .unwrap();
    assert_eq!(none.missing(), 4);
}

#[test]
fn names_are_taken_as_sql_takes_them_and_the_order_of_columns_does_not_matter() {
    let pair = Pair::new(
        "",
        r#"CREATE TABLE "a ""b" ("x ""y", "select", n); INSERT INTO "a ""b" VALUES (1, 2, 3), (4, 5, 6)"#,
        r#"CREATE TABLE "A ""B" (N, "SELECT", "X ""Y"); INSERT INTO "A ""B" VALUES (3, 2, 1)"#,
    );
    assert_eq!(pair.compare().0.tables, [of("a \"b", 1, 0)]);
    pair.replay(OnConflict::Stop).unwrap();
    assert_eq!(pair.compare().0.missing(), 0);
}

#[test]
fn virtual_tables_and_what_is_beneath_them_are_told_as_not_compared() {
    let base = "CREATE TABLE t (a); CREATE VIRTUAL TABLE f USING fts5(words);
                CREATE VIRTUAL TABLE r USING rtree(id, a, b); CREATE TABLE s (n INTEGER PRIMARY KEY AUTOINCREMENT)";
    let pair = Pair::new(
        base,
        "INSERT INTO f VALUES ('ours'); INSERT INTO r VALUES (1, 2, 3); INSERT INTO s VALUES (NULL)",
        "",
    );
    let (difference, rows) = pair.compare();
    assert_eq!(difference.not_compared, ["f", "r"]);
    assert_eq!(difference.tables, [of("t", 0, 0), of("s", 1, 0)]);
    assert_eq!(rows, ["s Integer(1)"]);
}

#[test]
fn what_contradicts_stops_it_or_is_skipped_or_replaced() {
    let new = || {
        Pair::new(
            "CREATE TABLE t (k INTEGER PRIMARY KEY, v TEXT NOT NULL)",
            "INSERT INTO t VALUES (1, 'ours'), (2, 'ours'), (3, 'same')",
            "INSERT INTO t VALUES (2, 'theirs'), (3, 'same')",
        )
    };
    let pair = new();
    let said = pair.replay(OnConflict::Stop).unwrap_err().to_string();
    assert_eq!(
        said,
        "table \"t\" does not take the row (2, \"ours\"): UNIQUE constraint failed: t.k"
    );
    let pair = new();
    assert_eq!(pair.replay(OnConflict::Skip).unwrap(), 1);
    let (difference, rows) = pair.compare();
    assert_eq!((difference.missing(), difference.others()), (1, 1));
    assert!(rows[0].starts_with("t Integer(2)"), "{rows:?}");
    let pair = new();
    assert_eq!(pair.replay(OnConflict::Replace).unwrap(), 0);
    assert_eq!(pair.compare().0.tables, [of("t", 0, 0)]);
}

#[test]
fn rows_that_become_others_are_not_put_back_again_and_again() {
    let trigger = "CREATE TRIGGER lower AFTER INSERT ON t BEGIN UPDATE t SET v = lower(v) WHERE rowid = new.rowid; END";
    let ignore = "CREATE TRIGGER no BEFORE INSERT ON t BEGIN SELECT RAISE(IGNORE); END";
    for theirs in [
        format!("CREATE TABLE t (v); {trigger}"),
        format!("CREATE TABLE t (v); {ignore}"),
        "CREATE TABLE t (v TEXT)".to_owned(),
    ] {
        let pair = Pair::new("", "CREATE TABLE t (v); INSERT INTO t VALUES ('A'), (1)", &theirs);
        let said = pair.replay(OnConflict::Stop).unwrap_err().to_string();
        assert!(said.contains("become others"), "{theirs}: {said}");
    }
    let theirs = format!("CREATE TABLE t (v); {trigger}");
    let pair = Pair::new("", "CREATE TABLE t (v); INSERT INTO t VALUES ('A')", &theirs);
    let said = pair.replay(OnConflict::Skip).unwrap_err().to_string();
    assert!(said.contains("become others"), "{said}");
}

#[test]
fn requests_are_bounded_and_what_cannot_be_sent_is_told() {
    let pair = Pair::new(
        "CREATE TABLE t (n, v)",
        "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 2500)
         INSERT INTO t SELECT n, 'x' FROM c;
         WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 40)
         INSERT INTO t SELECT n, zeroblob(100000) FROM c;
         INSERT INTO t VALUES (0, zeroblob(2000000)); CREATE TABLE u (n); INSERT INTO u VALUES (1)",
        "CREATE TABLE u (n)",
    );
    let (ours, theirs, stop) = (pair.path("ours"), pair.path("theirs"), Stop::default());
    let (requests, _) =
        Requests::of_difference(&pair.files, &ours, &theirs, OnConflict::Stop, &stop).unwrap();
    let all: Vec<_> = (0..requests.count()).map(|at| requests.get(at).unwrap().unwrap()).collect();
    assert_eq!(requests.get(requests.count()).unwrap(), None);
    assert_eq!(all.iter().map(|one| one.rows).sum::<u64>(), 2542);
    assert_eq!((all[0].rows, &*all[0].table, &*all.last().unwrap().table), (1000, "t", "u"));
    assert!(all.iter().all(|one| one.rows == 1 || one.body.len() <= 1 << 20));
    assert!(all.len() > 2 + 5 && all.iter().all(|one| one.rows <= 1000));
    drop((requests, all));

    let small = WritableSettings { body_bytes_max: 2_000_000, ..WritableSettings::default() };
    let said = pair.replay_with(OnConflict::Stop, &small).unwrap_err().to_string();
    assert!(said.contains("write.body_bytes_max"), "{said}");
    let pair = Pair::new("CREATE TABLE t (v)", "INSERT INTO t VALUES (CAST(x'ff' AS TEXT))", "");
    let said = pair.replay(OnConflict::Stop).unwrap_err().to_string();
    assert!(said.contains("not UTF-8") && said.contains("table \"t\""), "{said}");
}

#[test]
fn it_ends_when_nobody_waits_and_says_what_cannot_be_read() {
    let pair = Pair::new("CREATE TABLE t (v)", "INSERT INTO t VALUES (1)", "");
    let (ours, theirs) = (pair.path("ours"), pair.path("theirs"));
    let stop = Stop::default();
    stop.store(true, Ordering::Relaxed);
    let stopped = compare(&pair.files, &ours, Some(&theirs), &stop, &mut |_, _| Ok(()));
    assert!(matches!(stopped, Err(DifferenceError::Stopped)), "{stopped:?}");
    std::fs::write(&theirs, "no database, but long enough to look like one ".repeat(100)).unwrap();
    let said = compare(&pair.files, &ours, Some(&theirs), &Stop::default(), &mut |_, _| Ok(()));
    assert!(said.unwrap_err().to_string().contains("the published version at"));
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(32))]

    #[test]
    fn what_is_put_back_makes_the_difference_go_away(
        ours in proptest::collection::vec(0_u8..6, 0..12),
        theirs in proptest::collection::vec(0_u8..6, 0..12),
    ) {
        let values = ["1", "1.0", "NULL", "'1'", "x'31'", "0.1"];
        let insert = |which: &[u8]| which.iter().fold(String::new(), |sql, at| {
            format!("{sql} INSERT INTO t VALUES ({});", values[usize::from(*at)])
        });
        let count = |which: &[u8], value: u8| which.iter().filter(|at| **at == value).count();
        let over = |one: &[u8], other: &[u8]| {
            let more = (0..6).map(|at| count(one, at).saturating_sub(count(other, at)));
            more.sum::<usize>() as u64
        };
        let pair = Pair::new("CREATE TABLE t (v)", &insert(&ours), &insert(&theirs));
        let (missing, others) = (over(&ours, &theirs), over(&theirs, &ours));
        proptest::prop_assert_eq!(pair.compare().0.tables, [of("t", missing, others)]);
        pair.replay(OnConflict::Stop).unwrap();
        proptest::prop_assert_eq!(pair.compare().0.tables, [of("t", 0, others)]);
    }
}

#[test]
fn reals_come_back_to_the_last_bit() {
    let pair = Pair::new("CREATE TABLE t (v)", "", "");
    let db = Connection::open(pair.path("ours")).unwrap();
    let mut bits = 1_u64;
    db.execute_batch("BEGIN").unwrap();
    for _ in 0..2_000 {
        bits = bits.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        db.execute("INSERT INTO t VALUES (?1)", [f64::from_bits(bits)]).unwrap();
    }
    db.execute_batch("COMMIT").unwrap();
    drop(db);
    pair.replay(OnConflict::Stop).unwrap();
    assert_eq!(pair.compare().0.missing(), 0);
}
