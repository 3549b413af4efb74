//! Which segments are being written in a reader's memory: who has the newest of each, and whether only that node has it.
//!
//! Invariants: what was heard last holds, whatever becomes of the registry (S9): one that is away, that came back empty, or
//! that says what this trough does not understand, takes no owner away. Only a lock that is seen to be given back does.
//! While the registry answers, what is known is at most [`OWNERS_AGE_MAX`] old, and [`OwnersView::age`] says how old.
//!
//! Left out: whether an owner answers, which only asking it shows. A registry that was emptied unseen, and has changed more
//! often since than before, is taken for the one that it was.

use std::collections::{HashMap, HashSet};
use std::sync::{PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use fsd::segment::SegmentId;
use tokio::sync::Notify;

use crate::clock::since_boot;
use crate::kv::{self, Entry, Index, Key, Kv, KvError, Snapshot, Watched};
use crate::node::NodeName;
use crate::write_lock::{LOCKS_KEY, understand};

/// How old what is known may be while the registry answers: a look waits, pauses, and takes its time.
pub const OWNERS_AGE_MAX: Duration = Duration::from_secs(2);
/// How long a look waits for a change. Consul may add a sixteenth.
const WAIT: Duration = Duration::from_secs(1);
/// The least pause between two looks: each document changes with all that its owner tells, and each look brings all.
const PAUSE: Duration = Duration::from_millis(250);
/// The most owners that are remembered though the registry lost them.
const FORMER_MAX: usize = 10_000;

/// Who writes a segment, or did until it died.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// Its node.
    pub node: NodeName,
    /// Whether it holds the lock; else it is gone, and its lock waits for the next.
    pub held: bool,
    /// Whether that node has acknowledged, or is about to, what is not published.
    pub unpublished: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub struct OwnersView {
    seen: RwLock<Seen>,
    /// Told at each look.
    news: Notify,
}

#[derive(Debug, Default)]
struct Seen {
    owners: HashMap<SegmentId, Known>,
    /// By label.
    ids: HashMap<String, SegmentId>,
    /// Of the last look.
    index: Option<Index>,
    /// When that was, in time since boot: a machine that slept knows that what it heard is old.
    heard_at: Option<Duration>,
    /// What of the last look is not understood.
    told: HashSet<Key>,
}

#[derive(Debug)]
struct Known {
    owner: Owner,
    /// The registry lost it: it stays until there is something at its key again.
    lost: bool,
}

impl OwnersView {
    /// Who writes `id`; `None` when nobody does, as far as was heard.
    pub fn find(&self, id: &SegmentId) -> Option<Owner> {
        Some(self.read().owners.get(id)?.owner.clone())
    }

    /// The segment that is being written which `label` is for.
    pub fn id_of(&self, label: &str) -> Option<SegmentId> {
        self.read().ids.get(label).cloned()
    }

    /// How long ago this was all that there is; `None` when it never was.
    pub fn age(&self) -> Option<Duration> {
        let heard_at = self.read().heard_at?;
        Some(since_boot().saturating_sub(heard_at))
    }

    /// Returns when something else than `owner` is known of `id`.
    pub async fn no_more(&self, id: &SegmentId, owner: &Owner) {
        loop {
            // what is told after this line ends the wait below
            let news = self.news.notified();
            if self.find(id).as_ref() != Some(owner) {
                return;
            }
            news.await;
        }
    }

    /// Follows the write locks in `kv` for ever. Drop it to stop.
    pub async fn follow(&self, kv: &dyn Kv) -> Result<(), KvError> {
        let below = kv::key(LOCKS_KEY)?;
        kv::follow(kv, Watched::Below(below.clone()), WAIT, PAUSE, |seen| {
            self.heard(&below, seen);
            Ok(())
        })
        .await
    }

    /// Takes what the registry says of all locks, which lie `below`.
    fn heard(&self, below: &Key, snapshot: Snapshot) {
        let mut seen = self.seen.write().unwrap_or_else(PoisonError::into_inner);
        let Seen { owners: mut before, mut ids, told: told_before, index, .. } =
            std::mem::take(&mut *seen);
        let lost = index.is_some_and(|index| snapshot.index < index);
        for entry in snapshot.entries {
            let Some(label) = entry.key.below(below) else { continue };
            let former = ids.remove(label).and_then(|id| Some((before.remove(&id)?, id)));
            match read(label, &entry) {
                Ok(None) => {}
                Ok(Some((id, owner))) => seen.know(id, Known { owner, lost: false }),
                Err(reason) => {
                    let key = entry.key;
                    if !told_before.contains(&key) {
                        tracing::warn!(%key, reason, "a write lock says what this trough does not understand; what it said before holds");
                    }
                    seen.told.insert(key);
                    if let Some((known, id)) = former {
                        seen.know(id, known);
                    }
                }
            }
        }
        before.retain(|_, known| lost || known.lost);
        if before.len() <= FORMER_MAX {
            for (id, Known { owner, .. }) in before {
                seen.know(id, Known { owner, lost: true });
            }
        }
        seen.index = Some(snapshot.index);
        seen.heard_at = Some(since_boot());
        drop(seen);
        self.news.notify_waiters();
    }

    fn read(&self) -> RwLockReadGuard<'_, Seen> {
        self.seen.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seen {
    fn know(&mut self, id: SegmentId, known: Known) {
        self.ids.insert(id.label().to_string(), id.clone());
        self.owners.insert(id, known);
    }
}

/// Who owns the segment of `label`; `None` when the holder of its lock owns nothing; an error, for people, when it is not
/// understood.
fn read(label: &str, entry: &Entry) -> Result<Option<(SegmentId, Owner)>, String> {
    let Some(said) = understand(&entry.value)? else { return Ok(None) };
    if said.segment.label().as_str() != label {
        return Err(format!("it is of segment {}", said.segment));
    }
    let (held, unpublished) = (entry.session.is_some(), said.dirty_since_ms.is_some());
    Ok(Some((said.segment, Owner { node: said.node, held, unpublished })))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::SessionId;
    use crate::write_lock::ownership;

    fn entry(segment: &str, value: impl Into<bytes::Bytes>) -> Entry {
        let label = SegmentId::new(segment).unwrap().label();
        Entry {
            key: Key::new(format!("{LOCKS_KEY}/{label}")).unwrap(),
            value: value.into(),
            created: Index(1),
            modified: Index(1),
            session: SessionId::new("11111111-1111-1111-1111-111111111111"),
        }
    }

    fn owned(segment: &str, node: &str) -> Entry {
        let mut said = ownership(node);
        said.segment = SegmentId::new(segment).unwrap();
        entry(segment, serde_json::to_vec(&said).unwrap())
    }

    fn view() -> (OwnersView, impl Fn(&OwnersView, u64, Vec<Entry>)) {
        let hear = |view: &OwnersView, index, entries| {
            let below = Key::new(LOCKS_KEY).unwrap();
            view.heard(&below, Snapshot { index: Index(index), entries });
        };
        (OwnersView::default(), hear)
    }

    fn node(view: &OwnersView, segment: &str) -> Option<String> {
        let id = SegmentId::new(segment).unwrap();
        let named = view.id_of(id.label().as_str());
        let owner = view.find(&id);
        assert_eq!(named.is_some(), owner.is_some(), "{segment}");
        owner.map(|owner| owner.node.to_string())
    }

    #[test]
    fn s9_a_registry_that_lost_its_locks_takes_no_owner_away() {
        let (view, hear) = view();
        let is = |segment: &str| node(&view, segment);
        assert_eq!((view.age(), is("a")), (None, None));
        hear(&view, 10, vec![owned("a", "n"), owned("B", "n"), owned("c", "n")]);
        // given back
        hear(&view, 11, vec![owned("a", "n"), owned("B", "n")]);
        assert_eq!((is("a").is_some(), is("B").is_some(), is("c").is_some()), (true, true, false));
        hear(&view, 3, Vec::new());
        hear(&view, 4, vec![owned("d", "n")]);
        assert!(is("a").is_some() && is("B").is_some() && is("d").is_some());
        // taken anew by another, taken and given back, taken by one who owns nothing
        hear(&view, 5, vec![owned("a", "m"), owned("d", "n")]);
        assert_eq!(is("a").as_deref(), Some("m"));
        hear(&view, 6, vec![entry("B", r#"{"format":1,"holder":"put"}"#), owned("d", "n")]);
        assert_eq!((is("a"), is("B"), is("d").is_some()), (None, None, true));
        hear(&view, 7, Vec::new());
        assert_eq!((is("B"), is("d")), (None, None));
        assert!(view.age().is_some());
    }

    #[test]
    fn what_is_not_understood_changes_nothing() {
        let (view, hear) = view();
        hear(&view, 1, vec![owned("a", "n"), entry("b", r#"{"format":9}"#)]);
        assert_eq!((node(&view, "a").as_deref(), node(&view, "b")), (Some("n"), None));
        let mut elsewhere = owned("a", "m");
        elsewhere.value = owned("c", "m").value;
        for garbled in [entry("a", ""), entry("a", r#"{"format":9}"#), elsewhere] {
            hear(&view, 2, vec![garbled]);
            assert_eq!((node(&view, "a").as_deref(), node(&view, "c")), (Some("n"), None));
        }
        hear(&view, 3, Vec::new());
        assert_eq!(node(&view, "a"), None);
    }
}
