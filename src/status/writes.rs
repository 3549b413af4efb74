//! What is written and not published yet, as a person reads it.

use std::time::Duration;

use sync::orphans::NodeOrphans;
use sync::unpublished::{Line, Unpublished};

use crate::rows::counted;

/// The most segments of a kind that are named; `--json` has more.
const NAMED: usize = 5;

/// The lines of it at the time `now_ms`; none where nothing was ever written.
pub fn lines(writes: &Unpublished, now_ms: u64) -> Vec<(&'static str, String)> {
    let mut lines = Vec::new();
    if writes.open > 0 || writes.unpublished > 0 {
        let open = counted(writes.open as usize, "segment");
        let unpublished = match &writes.oldest {
            None => "all that was written is published".to_owned(),
            Some(Line { segment, node, since_ms, .. }) => {
                let since = since_ms.map_or_else(String::new, |at| for_so_long(at, now_ms));
                format!(
                    "{} with writes that are not published, {segment} on node {node} longest{since}",
                    writes.unpublished
                )
            }
        };
        lines.push(("writes", format!("{open} open; {unpublished}")));
    }
    for line in writes.abandoned.iter().take(NAMED) {
        let Line { segment, node, since_ms, .. } = line;
        let since = since_ms.map_or_else(String::new, |at| for_so_long(at, now_ms));
        lines.push((
            "attention",
            format!(
                "{segment} has writes on node {node} that are not published{since}, and its writer is gone; start it again"
            ),
        ));
    }
    more(&mut lines, writes.abandoned.len(), "whose writer is gone");
    for Line { segment, node, problem, .. } in writes.failing.iter().take(NAMED) {
        let problem = problem.as_deref().unwrap_or_default();
        lines.push(("attention", format!("{segment} on node {node} is not published: {problem}")));
    }
    more(&mut lines, writes.failing.len(), "that could not be published");
    if writes.unknown > 0 {
        let count = counted(writes.unknown as usize, "write lock");
        lines.push((
            "attention",
            format!("{count} of a newer trough; upgrade this one to see them"),
        ));
    }
    lines
}

/// The lines of what was overtaken, which a person has to decide about.
pub fn orphans(nodes: &[NodeOrphans], now_ms: u64) -> Vec<(&'static str, String)> {
    let line = |told: &NodeOrphans| {
        let rows = told.orphans.iter().filter_map(|orphan| orphan.rows).sum::<u64>();
        let rows = match rows {
            0 => String::new(),
            rows => format!(" with {}", counted(rows as usize, "row")),
        };
        let oldest = told.orphans.iter().filter_map(|orphan| orphan.unpublished_since_ms).min();
        let since = oldest.map_or_else(String::new, |at| for_so_long(at, now_ms));
        let count = counted(told.count() as usize, "orphan");
        let text = format!(
            "{count}{rows} on node {}{since}: writes that were overtaken elsewhere; run `trough orphans list` there",
            told.node
        );
        ("attention", text)
    };
    nodes.iter().map(line).collect()
}

fn more(lines: &mut Vec<(&'static str, String)>, count: usize, what: &str) {
    if let Some(more @ 1..) = count.checked_sub(NAMED) {
        lines.push(("attention", format!("and {more} more {what}; `--json` names more of them")));
    }
}

fn for_so_long(since_ms: u64, now_ms: u64) -> String {
    let age = Duration::from_millis(now_ms.saturating_sub(since_ms));
    match age.as_secs() {
        0 => String::new(),
        _ => format!(", for {}", indicatif::HumanDuration(age)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_published_says_for_how_long_and_what_to_do() {
        assert_eq!(lines(&Unpublished::default(), 0), []);
        let line = |segment: &str, problem: Option<&str>| Line {
            segment: segment.to_owned(),
            node: "a".to_owned(),
            since_ms: Some(40_000),
            problem: problem.map(str::to_owned),
        };
        let mut writes = Unpublished { open: 2, ..Unpublished::default() };
        let said = |writes: &Unpublished| {
            let lines = lines(writes, 100_000);
            lines.iter().map(|(name, text)| format!("{name}: {text}\n")).collect::<String>()
        };
        assert_eq!(said(&writes), "writes: 2 segments open; all that was written is published\n");
        writes.unpublished = 8;
        writes.oldest = Some(line("ohio", None));
        writes.abandoned = (0..7).map(|n| line(&format!("s{n}"), None)).collect();
        writes.failing = vec![line("utah", Some("somebody put another file there"))];
        writes.unknown = 1;
        let text = said(&writes);
        for part in [
            "2 segments open; 8 with writes that are not published, ohio on node a longest, for 60 seconds\n",
            "s4 has writes on node a that are not published, for 60 seconds, and its writer is gone",
            "and 2 more whose writer is gone;",
            "utah on node a is not published: somebody put another file there\n",
            "1 write lock of a newer trough",
        ] {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
    }
}
