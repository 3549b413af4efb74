//! Which node is to write a segment: one that has its newest version and has least to do, else one with room.

use std::collections::BTreeSet;

use futures::StreamExt;
use sync::node::{Member, Node, NodeName};

use super::ask::Ask;

/// Readers that are asked at the same time how much they have to do.
const ASKED_AT_ONCE: usize = 16;

/// A node that may be told to write a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) name: NodeName,
    /// Where its segment manager answers.
    pub(super) manager_address: String,
}

impl Candidate {
    fn new(name: &NodeName, node: &Node) -> Self {
        Self { name: name.clone(), manager_address: node.manager_address.clone() }
    }
}

/// The node called `name`, if it is there.
pub(super) fn registered(members: &[Member], name: &NodeName) -> Option<Candidate> {
    let member = members.iter().find(|member| member.name == *name && member.registered)?;
    Some(Candidate::new(name, member.node.as_ref()?))
}

/// The nodes that take something new, the least full first. None of `leaving`, and none that a person took out.
pub(super) fn by_room(members: &[Member], leaving: &BTreeSet<NodeName>) -> Vec<Candidate> {
    let mut nodes: Vec<(f64, &NodeName, &Node)> = usable(members, leaving)
        .filter(|(_, node)| node.announced && !node.maintenance)
        .map(|(name, node)| (node.stored_bytes as f64 / node.quota_bytes.max(1) as f64, name, node))
        .collect();
    nodes.sort_by(|(a, a_name, _), (b, b_name, _)| a.total_cmp(b).then_with(|| a_name.cmp(b_name)));
    nodes.into_iter().map(|(_, name, node)| Candidate::new(name, node)).collect()
}

/// Those of `holders` that are there, the one that has least to do first; who does not say comes last.
pub(super) async fn by_load(
    ask: &Ask,
    members: &[Member],
    leaving: &BTreeSet<NodeName>,
    holders: &[NodeName],
) -> Vec<Candidate> {
    let there = usable(members, leaving).filter(|(name, _)| holders.contains(name));
    let asked = there.map(|(name, node)| async move {
        let load = ask.load(&node.read_address).await;
        // one that a person took out is asked where there is no other
        ((node.maintenance, load.unwrap_or(usize::MAX), name.clone()), Candidate::new(name, node))
    });
    let asked: Vec<_> = asked.collect();
    let mut loads: Vec<_> =
        futures::stream::iter(asked).buffer_unordered(ASKED_AT_ONCE).collect().await;
    loads.sort_by(|(a, _), (b, _)| a.cmp(b));
    loads.into_iter().map(|(_, candidate)| candidate).collect()
}

fn usable<'a>(
    members: &'a [Member],
    leaving: &'a BTreeSet<NodeName>,
) -> impl Iterator<Item = (&'a NodeName, &'a Node)> {
    let there =
        members.iter().filter(|member| member.registered && !leaving.contains(&member.name));
    there.filter_map(|member| Some((&member.name, member.node.as_ref()?)))
}

#[cfg(test)]
mod tests {
    use sync::kv::Index;

    use super::*;

    fn member(name: &str, stored_bytes: u64, quota_bytes: u64) -> Member {
        let mut node = Node::new(quota_bytes, "r:1", &format!("{name}:6112"));
        (node.stored_bytes, node.announced) = (stored_bytes, true);
        let name = NodeName::new(name).unwrap();
        Member { name, node: Some(node), registered: true, modified: Index(1) }
    }

    #[test]
    fn something_new_goes_to_the_least_full_of_those_that_take_it() {
        let mut members = vec![
            member("half", 50, 100),
            member("b-empty", 0, 10),
            member("a-empty", 0, 100),
            member("large", 60, 1000),
            member("out", 0, 100),
            member("leaving", 0, 100),
            member("silent", 0, 100),
            member("gone", 0, 100),
            member("strange", 0, 100),
        ];
        members[4].node.as_mut().unwrap().maintenance = true;
        members[6].node.as_mut().unwrap().announced = false;
        members[7].registered = false;
        members[8].node = None;
        let leaving = [NodeName::new("leaving").unwrap()].into();
        let chosen = by_room(&members, &leaving);
        let names: Vec<_> = chosen.iter().map(|one| one.name.as_str()).collect();
        assert_eq!(names, ["a-empty", "b-empty", "large", "half"]);
        assert_eq!(chosen[0].manager_address, "a-empty:6112");
        // the node that has rows is asked, whatever a person thinks of it
        let name = |name| NodeName::new(name).unwrap();
        assert!(registered(&members, &name("out")).is_some());
        assert!(registered(&members, &name("gone")).is_none());
    }
}
