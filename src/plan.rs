//! `trough sync plan`: what the lead of the cluster would do by this machine's settings.
//!
//! Invariant: nothing is changed, in the registry or anywhere else.

use std::collections::BTreeSet;
use std::process::ExitCode;

use anyhow::Context;
use sync::lead::{Forecast, MoveSum, NodeForecast, WhatIf, dry_run};
use sync::node::{InvalidNodeName, NodeName};
use sync::planner::{MoveReason, NodeState};

use crate::cli::Plan;
use crate::columns;
use crate::config::Config;
use crate::orders;
use crate::rows::{bytes, counted, percent};
use crate::wiring;

/// The most segments without a place that are named; `--json` has more.
const UNPLACED_SHOWN: usize = 10;

/// Runs the command.
pub async fn run(config: &Config, options: &Plan) -> anyhow::Result<ExitCode> {
    let what_if =
        WhatIf { decommission: names(&options.decommission)?, without: names(&options.without)? };
    let outside = wiring::outside(config, wiring::kv(config)?)?;
    let rules = config.plan.rules()?;
    let ratio = config.lead.cycle.max_removed_ratio;
    let forecast = dry_run(&outside, ratio, &rules, what_if).await.context("look ahead")?;
    match options.json {
        true => println!("{}", serde_json::to_string(&forecast)?),
        false => print!("{}", render(&forecast, config.plan.settings.moved_bytes_max)),
    }
    Ok(ExitCode::SUCCESS)
}

fn names(texts: &[String]) -> Result<BTreeSet<NodeName>, InvalidNodeName> {
    texts.iter().map(|text| NodeName::new(text)).collect()
}

/// What is foretold, as a person reads it.
fn render(forecast: &Forecast, moved_bytes_max: u64) -> String {
    let figures = &forecast.figures;
    let mut lines = Vec::new();
    match &forecast.refused {
        Some(refusal) => lines.push(("refused", refusal.clone())),
        None => {
            lines.push(("pulls", pulls(forecast, moved_bytes_max)));
            let of_reason = |(reason, sum): (&MoveReason, &MoveSum)| {
                ("", format!("{}: {}", segments(sum), reason_of(*reason)))
            };
            lines.extend(forecast.reasons.iter().map(of_reason));
            lines.push((
                "copies",
                format!(
                    "{} wanted of {}, {} not held yet, {} without a place",
                    figures.copies_wanted,
                    counted(figures.segments as usize, "segment"),
                    figures.copies_missing,
                    figures.copies_unplaced
                ),
            ));
            let fullest = figures.max_over_average;
            lines.push(("balance", format!("the fullest node has {fullest:.2} of the average")));
        }
    }
    lines.push((
        "deep store",
        match forecast.list_ms {
            Some(ms) => format!("listed in {ms} ms"),
            None => "not listed, for the cluster is paused: as it was when that began".to_owned(),
        },
    ));
    let listing = forecast.listing.iter();
    lines.extend(listing.flat_map(|report| {
        report.unseen_examples.iter().map(|unseen| ("not seen", unseen.clone()))
    }));
    if let Some(held_back) = &forecast.held_back {
        lines.push(("attention", held_back.reason.clone()));
    }
    lines.extend(orders::describe(&forecast.orders).into_iter().map(|order| ("orders", order)));
    for left in forecast.unplaced.iter().take(UNPLACED_SHOWN) {
        let copies = match left.copies {
            1 => "a copy".to_owned(),
            copies => format!("{copies} copies"),
        };
        lines.push(("no place", format!("for {copies} of {}: {}", left.id, left.why)));
    }
    if let Some(more @ 1..) = forecast.unplaced_segments.checked_sub(UNPLACED_SHOWN as u64) {
        lines.push(("no place", format!("for {more} segments more")));
    }
    let mut text = columns::named(lines);
    if !forecast.nodes.is_empty() {
        let head = [
            "node", "state", ">quota", ">holds", ">bytes", ">then", ">bytes", ">full", ">pulls",
            ">bytes",
        ];
        text.push_str(&columns::table(&head, forecast.nodes.iter().map(row).collect()));
    }
    text
}

fn row(node: &NodeForecast) -> Vec<String> {
    let full = percent(node.after.bytes, node.quota_bytes);
    let mut cells = vec![node.name.clone(), state(node.state).to_owned(), bytes(node.quota_bytes)];
    for (at, sum) in [node.before, node.after, node.pull].iter().enumerate() {
        cells.extend([sum.segments.to_string(), bytes(sum.bytes)]);
        if at == 1 {
            cells.push(full.clone());
        }
    }
    cells
}

/// What a node counts as, for people.
pub fn state(state: NodeState) -> &'static str {
    match state {
        NodeState::Live => "live",
        NodeState::Returning => "returning",
        NodeState::Lost { .. } => "GONE",
        NodeState::Decommissioning => "to be emptied",
    }
}

fn segments(sum: &MoveSum) -> String {
    format!("{}, {}", counted(sum.segments as usize, "segment"), bytes(sum.bytes))
}

fn pulls(forecast: &Forecast, moved_bytes_max: u64) -> String {
    if forecast.pulls == MoveSum::default() {
        return "nothing is to be done".to_owned();
    }
    let news = [MoveReason::New, MoveReason::Update];
    let moved = forecast.reasons.iter().filter(|(reason, _)| !news.contains(reason));
    let moved: u64 = moved.map(|(_, sum)| sum.bytes).sum();
    let spread = match moved.div_ceil(moved_bytes_max.max(1)) {
        0 | 1 => String::new(),
        cycles => format!(", in {cycles} cycles at least (plan.moved_bytes_max)"),
    };
    format!("{} in all{spread}", segments(&forecast.pulls))
}

fn reason_of(reason: MoveReason) -> &'static str {
    match reason {
        MoveReason::New => "no node has them yet",
        MoveReason::Update => "there is a new version",
        MoveReason::Repair => "a copy is missing",
        MoveReason::Decommission => "from nodes that are to become empty",
        MoveReason::Balance => "so that each node has its share",
        MoveReason::Spread => "so that copies lie in several racks, or where a rule prefers them",
    }
}
