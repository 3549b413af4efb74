//! Who of a segment's holders is asked first.
//!
//! Invariant: the order of holders that are all well and idle depends on names alone, so every reader asks the same
//! ones for the same segment, and their page caches have it; of the first two the second goes first only when it has
//! clearly less to do.

use std::sync::Arc;

use fsd::segment::SegmentId;

use super::peer::Peer;

/// So many queries more one must have than the other: what is known of a load is a glimpse from a probe ago, and
/// whoever asks another for each flicker finds cold caches.
const CLEARLY: usize = 4;

/// One that may be asked.
#[derive(Debug, Clone)]
pub(super) struct Candidate {
    pub(super) peer: Arc<Peer>,
    /// It has the newest version that anybody has.
    pub(super) newest: bool,
    /// Nobody took it out.
    pub(super) available: bool,
}

/// The order in which they are asked.
pub(super) fn order(id: &SegmentId, candidates: Vec<Candidate>) -> Vec<Arc<Peer>> {
    let mut ranked: Vec<_> = candidates
        .into_iter()
        .map(|candidate| (class(&candidate), rank(id, &candidate.peer), candidate.peer))
        .collect();
    ranked.sort_unstable_by_key(|(class, rank, _)| (*class, *rank));
    if let [(class, _, first), (other_class, _, second), ..] = ranked.as_slice()
        && class == other_class
        && first.load() > second.load() + CLEARLY
    {
        ranked.swap(0, 1);
    }
    ranked.into_iter().map(|(_, _, peer)| peer).collect()
}

/// An older version is better than waiting for one that does not answer. Those come last: the registry may be wrong, and
/// so may the probes.
fn class(candidate: &Candidate) -> u8 {
    match (candidate.peer.is_silent(), candidate.newest, candidate.available) {
        (false, true, true) => 0,
        (false, true, false) => 1,
        (false, false, true) => 2,
        (false, false, false) => 3,
        (true, true, _) => 4,
        (true, false, _) => 5,
    }
}

/// Rendezvous hashing: each segment has an order of its own, and a node that comes or goes changes no other's place.
fn rank(id: &SegmentId, peer: &Peer) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(id.as_str().as_bytes());
    // no name and no id has it
    hasher.update(b"/");
    hasher.update(peer.name().as_str().as_bytes());
    *hasher.finalize().as_bytes()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use sync::node::NodeName;

    use super::*;

    fn peers(count: usize) -> Vec<Candidate> {
        let name = |n| NodeName::new(&format!("node-{n}")).unwrap();
        let peer = |n| Arc::new(Peer::new(name(n), "a:1".into(), Duration::from_secs(1)));
        let well = |n| Candidate { peer: peer(n), newest: true, available: true };
        (0..count).map(well).collect()
    }

    fn names(order: &[Arc<Peer>]) -> Vec<&str> {
        order.iter().map(|peer| peer.name().as_str()).collect()
    }

    fn id(n: usize) -> SegmentId {
        SegmentId::new(&format!("s{n}")).unwrap()
    }

    #[test]
    fn each_segment_has_a_first_of_its_own_and_keeps_it_when_others_come_or_go() {
        let five = peers(5);
        let mut firsts = BTreeMap::<String, usize>::new();
        for n in 0..1000 {
            let whole = order(&id(n), five.clone());
            let mut backwards = five.clone();
            backwards.reverse();
            assert_eq!(names(&order(&id(n), backwards)), names(&whole));
            *firsts.entry(whole[0].name().to_string()).or_default() += 1;
            let without: Vec<_> =
                five.iter().filter(|one| one.peer.name() != whole[2].name()).cloned().collect();
            let left: Vec<&str> = names(&whole)
                .into_iter()
                .filter(|name| *name != whole[2].name().as_str())
                .collect();
            assert_eq!(names(&order(&id(n), without)), left);
        }
        assert_eq!(firsts.len(), 5);
        assert!(firsts.values().all(|count| (120..280).contains(count)), "{firsts:?}");
    }

    #[test]
    fn the_second_goes_first_when_the_first_has_clearly_more_to_do_and_who_does_not_answer_goes_last()
     {
        let three = peers(3);
        let usual = order(&id(7), three.clone());
        let mut busy: Vec<_> = (0..CLEARLY).map(|_| usual[0].ask()).collect();
        assert_eq!(names(&order(&id(7), three.clone())), names(&usual));
        busy.push(usual[0].ask());
        let now = order(&id(7), three.clone());
        assert_eq!(
            names(&now),
            [usual[1].name(), usual[0].name(), usual[2].name()].map(NodeName::as_str)
        );
        drop(busy);
        assert_eq!(names(&order(&id(7), three.clone())), names(&usual));

        usual[0].failed();
        let last = order(&id(7), three.clone());
        assert_eq!(
            names(&last),
            [usual[1].name(), usual[2].name(), usual[0].name()].map(NodeName::as_str)
        );
        let mut unavailable = three.clone();
        for one in &mut unavailable {
            one.available = one.peer.name() != usual[1].name();
        }
        let last = order(&id(7), unavailable);
        assert_eq!(
            names(&last),
            [usual[2].name(), usual[1].name(), usual[0].name()].map(NodeName::as_str)
        );

        // the first of them is silent, and the second has an older version
        let mut older = three;
        for one in &mut older {
            one.newest = one.peer.name() != usual[1].name();
        }
        let last = order(&id(7), older);
        assert_eq!(
            names(&last),
            [usual[2].name(), usual[1].name(), usual[0].name()].map(NodeName::as_str)
        );
    }
}
