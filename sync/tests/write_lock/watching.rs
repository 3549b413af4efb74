//! What readers hear of the owners.

use std::sync::Arc;
use std::time::Duration;

use sync::kv::Kv;
use sync::owners_view::{Owner, OwnersView};
use sync::write_lock::Takeover;
use tokio::task::JoinHandle;

use crate::places::Place;
use crate::support::*;

/// What is not heard of in so long never will be.
const PATIENCE: Duration = Duration::from_secs(30);

/// A reader, which hears until it is dropped.
struct Reader {
    view: Arc<OwnersView>,
    following: JoinHandle<()>,
}

impl Reader {
    fn of(kv: Arc<dyn Kv>) -> Self {
        let view = Arc::new(OwnersView::default());
        let followed = view.clone();
        let following = tokio::spawn(async move { followed.follow(&*kv).await.unwrap() });
        Self { view, following }
    }

    /// Waits until that is what it heard of `segment`: its node, whether it holds the lock, whether it has more than is
    /// published.
    async fn hears(&self, segment: &str, expected: Option<(&str, bool, bool)>) {
        let owner = |found: Owner| (found.node.to_string(), found.held, found.unpublished);
        let expected = expected.map(|(node, held, more)| (node.to_owned(), held, more));
        let id = id(segment);
        let heard = async {
            loop {
                let found = self.view.find(&id);
                if found.clone().map(owner) == expected && self.view.age().is_some() {
                    return;
                }
                match found {
                    Some(found) => self.view.no_more(&id, &found).await,
                    None => tokio::time::sleep(Duration::from_millis(5)).await,
                }
            }
        };
        let heard = tokio::time::timeout(PATIENCE, heard).await;
        assert!(heard.is_ok(), "{segment}: not {expected:?} but {:?}", self.view.find(&id));
        let named = self.view.id_of(id.label().as_str());
        assert_eq!(named, expected.map(|_| id), "the label of {segment}");
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.following.abort();
    }
}

pub async fn readers_hear_who_owns_what_and_what_is_at_stake(place: &impl Place) {
    let writers = Writers::new(place);
    let (north, _) = writers.start("north");
    let (south, kv) = writers.start("south");
    let reader = Reader::of(place.open());
    let name = "Watched.A";
    reader.hears(name, None).await;
    let own = async || north.own(&id(name), &claimant("north", Takeover::Never)).await.unwrap();
    let lock = own().await;
    reader.hears(name, Some(("north", true, false))).await;
    lock.tell(Some(5), false).await.unwrap();
    reader.hears(name, Some(("north", true, true))).await;
    lock.tell(None, true).await.unwrap();
    reader.hears(name, Some(("north", true, false))).await;
    lock.leave(Some(7)).await;
    reader.hears(name, Some(("north", false, true))).await;
    let lock = own().await;
    reader.hears(name, Some(("north", true, true))).await;
    // one that comes later hears the same
    let later = Reader::of(place.open());
    later.hears(name, Some(("north", true, true))).await;
    die(&*kv, &id(name)).await;
    reader.hears(name, Some(("north", false, true))).await;
    drop(lock);
    let lock = south.own(&id(name), &claimant("south", AT_ONCE)).await.unwrap();
    reader.hears(name, Some(("south", true, false))).await;
    lock.release().await;
    reader.hears(name, None).await;
    // who puts owns nothing
    let put = south.acquire(&id(name)).await.unwrap();
    let lock = north.own(&id("watched-b"), &claimant("north", AT_ONCE)).await.unwrap();
    reader.hears("watched-b", Some(("north", true, false))).await;
    reader.hears(name, None).await;
    put.release().await;
    lock.release().await;
    for reader in [reader, later] {
        reader.hears("watched-b", None).await;
    }
}

pub async fn s9_what_was_heard_last_holds_while_the_registry_is_away(place: &impl Place) {
    let writers = Writers::new(place);
    let (north, _) = writers.start("north");
    let (_, cut) = writers.start("the reader's");
    let reader = Reader::of(cut.clone());
    let lock = north.own(&id("away"), &claimant("north", Takeover::Never)).await.unwrap();
    reader.hears("away", Some(("north", true, false))).await;
    cut.cut_off();
    // a look that was on its way may still come
    let quiet = Duration::from_secs(2);
    let old = async {
        while reader.view.age().unwrap() < quiet {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, old).await.unwrap();
    lock.release().await;
    reader.hears("away", Some(("north", true, false))).await;
    cut.mend();
    reader.hears("away", None).await;
    assert!(reader.view.age().unwrap() < PATIENCE);
}

pub async fn s9_a_registry_that_comes_back_empty_takes_no_owner_away(place: &impl Place) {
    let writers = Writers::new(place);
    let (north, _) = writers.start("north");
    let (south, _) = writers.start("south");
    let reader = Reader::of(place.open());
    let mut held = Vec::new();
    for name in ["kept", "moved"] {
        let lock = north.own(&id(name), &claimant("north", Takeover::Never)).await.unwrap();
        lock.tell(Some(5), false).await.unwrap();
        reader.hears(name, Some(("north", true, true))).await;
        held.push(lock);
    }
    place.empty();
    let taken = async {
        loop {
            match south.own(&id("moved"), &claimant("south", Takeover::Never)).await {
                Ok(lock) => return lock,
                // it is not back yet
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    };
    let lock = tokio::time::timeout(PATIENCE, taken).await.unwrap();
    reader.hears("moved", Some(("south", true, false))).await;
    reader.hears("kept", Some(("north", true, true))).await;
    lock.release().await;
    reader.hears("moved", None).await;
    reader.hears("kept", Some(("north", true, true))).await;
}
