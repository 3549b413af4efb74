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

/// `peers`, each with whether it is available, in the order in which they are asked.
pub(super) fn order(id: &SegmentId, peers: Vec<(Arc<Peer>, bool)>) -> Vec<Arc<Peer>> {
    let mut ranked: Vec<_> = peers
        .into_iter()
        .map(|(peer, available)| (class(&peer, available), rank(id, &peer), peer))
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

/// Those that do not answer come last: the registry may be wrong, and so may the probes.
fn class(peer: &Peer, available: bool) -> u8 {
    match (peer.is_silent(), available) {
        (false, true) => 0,
        (false, false) => 1,
        (true, _) => 2,
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

    fn peers(count: usize) -> Vec<(Arc<Peer>, bool)> {
        let name = |n| NodeName::new(&format!("node-{n}")).unwrap();
        let silent = Duration::from_secs(1);
        (0..count).map(|n| (Arc::new(Peer::new(name(n), "a:1".into(), silent)), true)).collect()
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
                five.iter().filter(|(peer, _)| peer.name() != whole[2].name()).cloned().collect();
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
        let unavailable = three.into_iter().map(|(peer, _)| {
            let available = peer.name() != usual[1].name();
            (peer, available)
        });
        let last = order(&id(7), unavailable.collect());
        assert_eq!(
            names(&last),
            [usual[2].name(), usual[1].name(), usual[0].name()].map(NodeName::as_str)
        );
    }
}
