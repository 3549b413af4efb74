//! Instances, and what becomes of them.

use std::collections::BTreeSet;

use sync::kv::KvErrorKind;
use sync::services::{Health, Instance, Maintenance, Name, ServiceAddress, TAGS_MAX};

use crate::page::Page;
use crate::places::Place;
use crate::support::*;

pub async fn what_is_registered_is_found_by_name_and_tag(place: &impl Place) {
    let (page, services) = (Page::new(200).await, place.open());
    assert_eq!(all(&*services, "found").await, []);
    let some = [
        instance("found", "found-1", "127.0.0.1:6444", &["a", "x--b2"], &page),
        instance("found", "found-2", "127.0.0.2:6445", &["b"], &page),
        instance("found", "found-3", "node-3.example.org:6444", &[], &page),
        instance("found", "found-4", "[fd00::4]:6444", &["a"], &page),
        instance("found-else", "found-5", "127.0.0.5:6444", &["a"], &page),
    ];
    for instance in &some {
        services.register(instance).await.unwrap();
        assert!(services.has(instance).await.unwrap());
    }
    let other = place.open();
    let passing = async |tag: Option<&str>| {
        let tag = tag.map(name);
        other.instances(&name("found"), tag.as_ref(), true).await.unwrap()
    };
    until(place, "four pass", async || passing(None).await.len() == 4).await;
    for found in passing(None).await {
        let registered = some.iter().find(|instance| instance.id == found.id).unwrap();
        assert_eq!((&found.address, &found.tags), (&registered.address, &registered.tags));
        assert_eq!(found.health, Health::Passing);
    }
    for (tag, ids) in [
        ("a", &["found-1", "found-4"][..]),
        ("b", &["found-2"]),
        ("x--b2", &["found-1"]),
        ("c", &[]),
    ] {
        let found: Vec<_> = passing(Some(tag)).await.into_iter().map(|found| found.id).collect();
        assert_eq!(found, ids.iter().map(|id| name(id)).collect::<Vec<_>>(), "{tag}");
    }
}

pub async fn who_registers_again_takes_the_place_of_what_was_there(place: &impl Place) {
    let (page, services) = (Page::new(200).await, place.open());
    let first = instance("again", "again-1", "127.0.0.1:1", &["a", "b"], &page);
    services.register(&first).await.unwrap();
    let others = [
        Instance { tags: tags(&["b", "c"]), ..first.clone() },
        Instance { tags: tags(&[]), ..first.clone() },
        Instance { address: ServiceAddress::new("127.0.0.1:2").unwrap(), ..first.clone() },
        Instance { address: ServiceAddress::new("127.0.0.2:1").unwrap(), ..first.clone() },
        Instance { service: name("again-else"), ..first.clone() },
        Instance { id: name("again-2"), ..first.clone() },
    ];
    for other in &others {
        assert!(!services.has(other).await.unwrap(), "{other:?}");
    }
    let second = &others[0];
    services.register(second).await.unwrap();
    assert!(services.has(second).await.unwrap() && !services.has(&first).await.unwrap());
    let with = async |tag: &str| {
        services.instances(&name("again"), Some(&name(tag)), false).await.unwrap().len()
    };
    until(place, "its tags are found", async || with("c").await == 1).await;
    assert_eq!((with("a").await, with("b").await, all(&*services, "again").await.len()), (0, 1, 1));

    services.deregister(&second.id).await.unwrap();
    assert!(!services.has(second).await.unwrap());
    until(place, "it is gone", async || all(&*services, "again").await.is_empty()).await;
    services.deregister(&second.id).await.unwrap();
}

pub async fn an_instance_passes_while_its_check_passes(place: &impl Place) {
    let (page, services) = (Page::new(503).await, place.open());
    let one = instance("checked", "checked-1", "127.0.0.1:1", &[], &page);
    services.register(&one).await.unwrap();
    becomes(place, &*services, "checked", Health::Critical).await;
    let passing = async || services.instances(&one.service, None, true).await.unwrap().len();
    for (status, health, pass) in [
        (204, Health::Passing, 1),
        (429, Health::Warning, 0),
        (200, Health::Passing, 1),
        (404, Health::Critical, 0),
        (200, Health::Passing, 1),
        // silence
        (0, Health::Critical, 0),
    ] {
        page.says(status);
        becomes(place, &*services, "checked", health).await;
        assert_eq!(passing().await, pass, "{status}");
    }
    page.says(200);
    becomes(place, &*services, "checked", Health::Passing).await;
    drop(page);
    becomes(place, &*services, "checked", Health::Critical).await;
}

pub async fn an_instance_keeps_its_health_when_it_registers_again(place: &impl Place) {
    let (page, services) = (Page::new(200).await, place.open());
    let mut one = instance("kept", "kept-1", "127.0.0.1:1", &[], &page);
    services.register(&one).await.unwrap();
    becomes(place, &*services, "kept", Health::Passing).await;
    // Consul asks it at some moment of this time only
    one.check.interval_ms = 600_000;
    one.tags = tags(&["new"]);
    services.register(&one).await.unwrap();
    let tag = name("new");
    let with = async || services.instances(&one.service, Some(&tag), false).await.unwrap();
    until(place, "its tag is found", async || !with().await.is_empty()).await;
    assert_eq!(with().await[0].health, Health::Passing);
}

pub async fn an_instance_under_maintenance_stays_so_until_that_or_it_ends(place: &impl Place) {
    let (page, services) = (Page::new(200).await, place.open());
    let mut one = instance("maintained", "maintained-1", "127.0.0.1:1", &["a"], &page);
    let off = Maintenance::default();
    let on = Maintenance { node: false, instance: true };
    assert_eq!(services.maintenance(&one.id).await.unwrap(), off, "of one that is not there");
    services.register(&one).await.unwrap();
    becomes(place, &*services, "maintained", Health::Passing).await;
    place.maintain(Some(&one.id), true).await;
    assert_eq!(services.maintenance(&one.id).await.unwrap(), on);
    assert_eq!(services.maintenance(&name("maintained-2")).await.unwrap(), off);
    becomes(place, &*services, "maintained", Health::Maintenance).await;
    assert!(services.instances(&one.service, None, true).await.unwrap().is_empty());

    one.tags = tags(&["b"]);
    services.register(&one).await.unwrap();
    assert_eq!(services.maintenance(&one.id).await.unwrap(), on, "it registered again");
    let tag = name("b");
    let with = async || services.instances(&one.service, Some(&tag), false).await.unwrap();
    until(place, "its tag is found", async || !with().await.is_empty()).await;
    assert_eq!(with().await[0].health, Health::Maintenance);

    place.maintain(Some(&one.id), false).await;
    assert_eq!(services.maintenance(&one.id).await.unwrap(), off);
    becomes(place, &*services, "maintained", Health::Passing).await;
    place.maintain(Some(&one.id), true).await;
    services.deregister(&one.id).await.unwrap();
    services.register(&one).await.unwrap();
    assert_eq!(services.maintenance(&one.id).await.unwrap(), off, "it ended with the registration");
    becomes(place, &*services, "maintained", Health::Passing).await;
}

pub async fn maintenance_of_a_machine_takes_all_out(place: &impl Place) {
    let (page, services) = (Page::new(200).await, place.open());
    let ids = ["machine-1", "machine-2"];
    for id in ids {
        services.register(&instance("machine", id, "127.0.0.1:1", &[], &page)).await.unwrap();
    }
    let are = async |health_then| {
        let found = health(&*services, "machine").await;
        found.len() == 2 && found.iter().all(|(_, health)| *health == health_then)
    };
    until(place, "both pass", async || are(Health::Passing).await).await;
    place.maintain(None, true).await;
    for id in ids {
        let on = Maintenance { node: true, instance: false };
        assert_eq!(services.maintenance(&name(id)).await.unwrap(), on);
    }
    until(place, "both are out", async || are(Health::Maintenance).await).await;
    place.maintain(None, false).await;
    assert!(!services.maintenance(&name(ids[0])).await.unwrap().is_on());
    until(place, "both pass", async || are(Health::Passing).await).await;
}

pub async fn too_many_tags_are_refused_and_change_nothing(place: &impl Place) {
    let (page, services) = (Page::new(200).await, place.open());
    let mut one = instance("full", "full-1", "127.0.0.1:1", &[], &page);
    // as long as labels are
    let labels = |count: usize| -> BTreeSet<Name> {
        (0..count).map(|n| name(&format!("{n:0>63}"))).collect()
    };
    one.tags = labels(TAGS_MAX);
    services.register(&one).await.unwrap();
    let over = Instance { tags: labels(TAGS_MAX + 1), ..one.clone() };
    let error = services.register(&over).await.unwrap_err();
    assert_eq!(error.kind, KvErrorKind::TooLarge, "{error}");
    assert!(services.has(&one).await.unwrap());
    let tag = one.tags.last().unwrap();
    let with = async || services.instances(&one.service, Some(tag), false).await.unwrap();
    until(place, "its last tag is found", async || !with().await.is_empty()).await;
    assert_eq!(with().await[0].tags, one.tags);
}

pub async fn what_stays_critical_is_taken_out(place: &impl Place) {
    let (page, services) = (Page::new(503).await, place.open());
    let [bad, good] = ["abandoned-1", "abandoned-2"].map(name);
    let well = Page::new(200).await;
    let some = [(&bad, &page), (&good, &well)];
    for (id, page) in some {
        let one = instance("abandoned", id.as_str(), "127.0.0.1:1", &[], page);
        services.register(&one).await.unwrap();
    }
    until(place, "both are seen", async || all(&*services, "abandoned").await.len() == 2).await;
    until(place, "one is gone", async || all(&*services, "abandoned").await.len() == 1).await;
    assert_eq!(health(&*services, "abandoned").await, [(good.to_string(), Health::Passing)]);
}

pub async fn a_place_that_comes_back_empty_is_seen_so(place: &impl Place) {
    let (page, services) = (Page::new(200).await, place.open());
    let one = instance("empty", "empty-1", "127.0.0.1:1", &["a"], &page);
    services.register(&one).await.unwrap();
    becomes(place, &*services, "empty", Health::Passing).await;
    place.empty();
    assert!(!services.has(&one).await.unwrap());
    assert_eq!(all(&*services, "empty").await, []);
    services.register(&one).await.unwrap();
    assert!(services.has(&one).await.unwrap());
    becomes(place, &*services, "empty", Health::Passing).await;
}
