//! A cluster's status as a person reads it.

use sync::lead::{CycleReport, LeadStatus};

use super::{ClusterStatus, LeadLine, NodeLine};
use crate::rows::{ago, bytes, counted, percent};
use crate::status::{report as local, writes};
use crate::{columns, orders, plan};

/// The status as lines and a table of the nodes.
pub fn render(status: &ClusterStatus) -> String {
    let mut lines = vec![("lead", lead(status))];
    if let Some(leading) = &status.leading {
        leads(&mut lines, leading, status.at_ms);
    }
    if let Some(pool) = &status.pool {
        lines.push((
            "pool",
            format!(
                "{}, {} held by nobody, {} without a place for each copy, {} vanished",
                counted(pool.segments as usize, "segment"),
                pool.unheld,
                pool.unplaced,
                pool.vanished
            ),
        ));
    }
    let wanted = status.orders.iter().flat_map(orders::describe);
    lines.extend(wanted.map(|order| ("orders", order)));
    lines.extend(status.orders_problem.iter().map(|problem| ("attention", problem.clone())));
    lines.extend(status.writes.iter().flat_map(|writes| writes::lines(writes, status.at_ms)));
    lines.extend(writes::orphans(&status.orphans, status.at_ms));
    lines.push(("registry", registry(status)));
    let mut text = columns::named(lines);
    if !status.nodes.is_empty() {
        let head = [
            "node", "state", ">quota", ">stored", ">full", ">holds", ">coming", ">going", "reader",
        ];
        text.push_str(&columns::table(&head, status.nodes.iter().map(row).collect()));
    }
    if let Some(here) = &status.here {
        text.push_str("\nthis machine\n");
        text.push_str(&local::render(here, status.at_ms));
    }
    text
}

fn lead(status: &ClusterStatus) -> String {
    match &status.lead {
        None if status.registry.problem.is_some() => "nobody can be asked who leads".to_owned(),
        None => {
            "NOBODY: all is served as it is and nothing moves; start `trough sync lead`".to_owned()
        }
        Some(LeadLine { leader, epoch, problem }) => {
            let who = orders::who(leader, *epoch);
            let since = ago(leader.since_ms, status.at_ms);
            match problem {
                None => format!("{who}, began {since}"),
                Some(problem) => format!("{who}, began {since}, DOES NOT ANSWER: {problem}"),
            }
        }
    }
}

fn registry(status: &ClusterStatus) -> String {
    let registry = &status.registry;
    match &registry.problem {
        None => registry.address.clone(),
        Some(problem) => {
            format!("DOES NOT ANSWER (what nodes hold is served on, and nothing moves): {problem}")
        }
    }
}

/// What the lead says of itself.
fn leads(lines: &mut Vec<(&'static str, String)>, leading: &LeadStatus, now_ms: u64) {
    if let Some(cycle) = &leading.cycle {
        lines.push(("last cycle", last_cycle(cycle, now_ms)));
        if let Some(figures) = &cycle.figures {
            let on_the_way = figures.copies_missing.saturating_sub(figures.copies_unplaced);
            lines.push((
                "copies",
                format!(
                    "{} wanted of {}, {on_the_way} on their way, {} without a place",
                    figures.copies_wanted,
                    counted(figures.segments as usize, "segment"),
                    figures.copies_unplaced
                ),
            ));
        }
    }
    if let Some(listed) = &leading.listed {
        let when = ago(listed.at_ms, now_ms);
        let all = if listed.report.complete() { "" } else { ", NOT WHOLLY SEEN" };
        lines.push(("deep store", format!("listed {when} in {} ms{all}", listed.took_ms)));
        local::listing(lines, &listed.report);
    }
    let cycle = leading.cycle.iter();
    lines.extend(cycle.clone().filter_map(|cycle| {
        Some(("attention", format!("nothing is planned: {}", cycle.unplanned.as_ref()?)))
    }));
    let held_back = cycle.filter_map(|cycle| cycle.held_back.as_ref());
    lines.extend(held_back.map(|held_back| ("attention", held_back.reason.clone())));
    if let Some(problem) = &leading.problem {
        lines.push(("attention", format!("the newest cycle failed: {problem}")));
    }
}

fn last_cycle(cycle: &CycleReport, now_ms: u64) -> String {
    let list = cycle.list_ms.map(|ms| format!(", listed in {ms}")).unwrap_or_default();
    let written = cycle.written.bytes as u64;
    format!(
        "{}: looked in {} ms{list}, planned in {}, wrote {} in {}; began {}",
        ago(cycle.begun_at_ms, now_ms),
        cycle.look_ms,
        cycle.plan_ms,
        bytes(written),
        cycle.write_ms,
        counted(cycle.moves as usize, "pull")
    )
}

fn row(node: &NodeLine) -> Vec<String> {
    let seen = node.seen.as_ref();
    let state = match (seen, node.registered) {
        (_, false) => "GONE",
        (Some(seen), true) => plan::state(seen.state),
        (None, true) => "there",
    };
    let or_unknown = |text: Option<String>| text.unwrap_or_else(|| "?".to_owned());
    let said = node.said.as_ref();
    let coming = seen.and_then(|seen| Some(seen.told.saturating_sub(seen.holds?)));
    vec![
        node.name.to_string(),
        state.to_owned(),
        or_unknown(said.map(|said| bytes(said.quota_bytes))),
        or_unknown(said.map(|said| bytes(said.stored_bytes))),
        or_unknown(said.map(|said| percent(said.stored_bytes, said.quota_bytes))),
        or_unknown(seen.and_then(|seen| seen.holds).map(|holds| holds.to_string())),
        or_unknown(coming.map(|coming| coming.to_string())),
        or_unknown(seen.map(|seen| seen.draining.to_string())),
        or_unknown(said.map(|said| said.read_address.clone())),
    ]
}
