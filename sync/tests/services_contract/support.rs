//! What the cases say often.

use std::collections::BTreeSet;
use std::time::Duration;

use sync::services::{Found, Health, HttpCheck, Instance, Name, ServiceAddress, Services};

use crate::page::Page;
use crate::places::Place;

/// The bound of every wait for an event: Consul takes a minute and a half to give an instance up.
pub const PATIENCE: Duration = Duration::from_secs(300);

pub fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

pub fn tags(texts: &[&str]) -> BTreeSet<Name> {
    texts.iter().map(|text| name(text)).collect()
}

/// An instance of `service` whose check asks `page`, as often as Consul does.
pub fn instance(service: &str, id: &str, address: &str, texts: &[&str], page: &Page) -> Instance {
    Instance {
        service: name(service),
        id: name(id),
        address: ServiceAddress::new(address).unwrap(),
        tags: tags(texts),
        check: HttpCheck {
            url: page.url(),
            interval_ms: 1_000,
            timeout_ms: 1_000,
            deregister_after_s: 60,
        },
    }
}

pub async fn all(services: &dyn Services, service: &str) -> Vec<Found> {
    services.instances(&name(service), None, false).await.unwrap()
}

/// How the instances of `service` are, by id.
pub async fn health(services: &dyn Services, service: &str) -> Vec<(String, Health)> {
    let found = all(services, service).await.into_iter();
    found.map(|one| (one.id.to_string(), one.health)).collect()
}

/// Waits until `what` is so.
pub async fn until(place: &impl Place, what: &str, is: impl AsyncFn() -> bool) {
    let wait = async {
        while !is().await {
            // on the file nothing passes by itself
            place.pass(Duration::from_secs(1)).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let waited = tokio::time::timeout(PATIENCE, wait).await;
    waited.unwrap_or_else(|_| panic!("it did not come to be that {what}"));
}

/// Waits until the only instance of `service` is so.
pub async fn becomes(
    place: &impl Place,
    services: &dyn Services,
    service: &str,
    health_then: Health,
) {
    let what = format!("{service} is {health_then:?}");
    let is = async || match &*health(services, service).await {
        [(_, health)] => *health == health_then,
        _ => false,
    };
    until(place, &what, is).await;
}
