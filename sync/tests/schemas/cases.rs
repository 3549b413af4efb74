//! The cases. All share one Consul, so each has ids of its own.

use bytes::Bytes;
use fsd::segment::SegmentId;
use sync::kv::{Key, Kv, Op, Txn};
use sync::schemas::{Put, SQL_BYTES_MAX, Schema, Schemas, SchemasError};
use sync::verb::Verb;

use crate::places::{File, Place};

fn id(text: &str) -> SegmentId {
    SegmentId::new(text).unwrap()
}

fn schema(name: &str, sql: &str, verbs: &[Verb]) -> Schema {
    Schema { id: id(name), sql: sql.to_owned(), verbs: verbs.iter().copied().collect() }
}

fn key(name: &str) -> Key {
    Key::new(format!("trough/schema/{}", id(name).label())).unwrap()
}

async fn write(kv: &dyn Kv, key: Key, value: Bytes) {
    assert!(matches!(kv.txn(&[Op::Set { key, value }]).await.unwrap(), Txn::Committed(_)));
}

pub async fn a_schema_reads_back_and_who_registers_it_is_told_whether_it_was_there(
    place: &impl Place,
) {
    let (one, other) = (Schemas::new(place.open()), Schemas::new(place.open()));
    // one is its own label, and one is not
    for name in ["reads-back", "Reads.Back_2"] {
        assert_eq!(one.get(&id(name)).await.unwrap(), None);
        let first = schema(name, "create table a (b);\n-- \u{e9}\n", &[]);
        assert_eq!(one.put(&first).await.unwrap(), Put::Created);
        assert_eq!(other.get(&id(name)).await.unwrap(), Some(first.clone()));
        let second = schema(name, "", &[Verb::Delete, Verb::CreateTable]);
        assert_eq!(other.put(&second).await.unwrap(), Put::Updated);
        assert_eq!(one.get(&id(name)).await.unwrap(), Some(second.clone()));
        // the same once more changes nothing
        assert_eq!(one.put(&second).await.unwrap(), Put::Updated);
        // without verbs means without verbs
        assert_eq!(one.put(&first).await.unwrap(), Put::Updated);
        assert_eq!(other.get(&id(name)).await.unwrap(), Some(first));
    }
}

pub async fn its_sql_alone_is_replaced_with_its_verbs_kept(place: &impl Place) {
    let schemas = Schemas::new(place.open());
    let at = id("sql-alone");
    assert_eq!(schemas.put_sql(&at, "create table a (b)").await.unwrap(), Put::Created);
    assert_eq!(
        schemas.get(&at).await.unwrap(),
        Some(schema("sql-alone", "create table a (b)", &[]))
    );
    schemas.put(&schema("sql-alone", "x", &[Verb::DropTable])).await.unwrap();
    assert_eq!(schemas.put_sql(&at, "create table c (d)").await.unwrap(), Put::Updated);
    let kept = schema("sql-alone", "create table c (d)", &[Verb::DropTable]);
    assert_eq!(schemas.get(&at).await.unwrap(), Some(kept));
}

pub async fn a_listing_names_each_schema_by_its_id(place: &impl Place) {
    let schemas = Schemas::new(place.open());
    let listed = async || {
        let ids = schemas.list().await.unwrap();
        assert!(ids.is_sorted(), "{ids:?}");
        let ours = ids.into_iter().map(String::from).filter(|id| id.contains("isting"));
        ours.collect::<Vec<_>>()
    };
    assert!(listed().await.is_empty());
    for name in ["listing-b", "Listing_C", "listing-a", "listing.d"] {
        schemas.put(&schema(name, "create table a (b)", &[])).await.unwrap();
    }
    assert_eq!(listed().await, ["Listing_C", "listing-a", "listing-b", "listing.d"]);
}

pub async fn many_at_once_create_one_schema_once(place: &impl Place) {
    const AT_ONCE: usize = 8;
    let puts = (0..AT_ONCE).map(|n| {
        let schemas = Schemas::new(place.open());
        async move { schemas.put(&schema("at-once", &format!("-- {n}"), &[])).await.unwrap() }
    });
    let puts = futures::future::join_all(puts).await;
    assert_eq!(puts.iter().filter(|put| **put == Put::Created).count(), 1, "{puts:?}");
    let sql = Schemas::new(place.open()).get(&id("at-once")).await.unwrap().unwrap().sql;
    assert!((0..AT_ONCE).any(|n| sql == format!("-- {n}")), "{sql}");
}

pub async fn s11_what_is_not_understood_is_an_error_and_is_left_alone(place: &impl Place) {
    let kv = place.open();
    let schemas = Schemas::new(kv.clone());
    let newer = br#"{"format":2,"id":"newer","sql":{"tables":[]}}"#;
    let newer: Bytes = zstd::bulk::compress(newer, 3).unwrap().into();
    let other = br#"{"format":1,"id":"another","sql":"","verbs":[]}"#;
    let other: Bytes = zstd::bulk::compress(other, 3).unwrap().into();
    for (name, value, why) in [
        ("newer", newer, "upgrade trough"),
        ("garbled", "not zstd".into(), "remove that key"),
        ("emptied", Bytes::new(), "it is empty"),
        ("misplaced", other, "that of schema another"),
    ] {
        write(&*kv, key(name), value.clone()).await;
        let said = schemas.get(&id(name)).await.unwrap_err();
        assert!(matches!(said, SchemasError::NotUnderstood { .. }), "{said:?}");
        assert!(said.to_string().contains(why), "{said}");
        schemas.put(&schema(name, "", &[])).await.unwrap_err();
        schemas.put_sql(&id(name), "").await.unwrap_err();
        assert_eq!(kv.get(&key(name)).await.unwrap().unwrap().value, value, "{name}");
        let listed = schemas.list().await.unwrap();
        assert!(!listed.contains(&id(name)) && !listed.contains(&id("another")), "{listed:?}");
        // a person follows the advice
        kv.txn(&[Op::Delete { key: key(name) }]).await.unwrap();
        assert_eq!(schemas.put(&schema(name, "", &[])).await.unwrap(), Put::Created);
        assert!(schemas.list().await.unwrap().contains(&id(name)));
    }
}

pub async fn what_is_too_long_is_refused_and_changes_nothing(place: &impl Place) {
    let schemas = Schemas::new(place.open());
    let longest = "-".repeat(SQL_BYTES_MAX);
    schemas.put(&schema("too-long", &longest, &[])).await.unwrap();
    let longer = schema("too-long", &format!("{longest}-"), &[]);
    for refused in [schemas.put(&longer).await, schemas.put_sql(&longer.id, &longer.sql).await] {
        let said = refused.unwrap_err();
        assert!(matches!(said, SchemasError::TooLong { bytes, .. } if bytes == SQL_BYTES_MAX + 1));
    }
    assert_eq!(schemas.get(&longer.id).await.unwrap().unwrap().sql, longest);
}

pub async fn nothing_is_said_of_a_registry_that_is_away() {
    let place = File::new();
    let schemas = Schemas::new(place.open());
    place.empty();
    std::fs::create_dir(place.path()).unwrap();
    let web = schema("web", "", &[]);
    for failed in [
        schemas.list().await.map(drop),
        schemas.get(&web.id).await.map(drop),
        schemas.put(&web).await.map(drop),
    ] {
        assert!(matches!(failed, Err(SchemasError::Kv(_))), "{failed:?}");
    }
}
