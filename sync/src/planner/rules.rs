//! What an operator asks of the planner: how many copies of what, where, and how fast things may move.
//!
//! Invariant: [`Rules`] are checked when they are made; a plan never meets a bad glob or a ratio that makes no
//! sense.

use globset::{Candidate, GlobBuilder, GlobSet, GlobSetBuilder};
use serde::{Deserialize, Serialize};

/// The most copies a rule may ask for: a copy on every node of a small cluster, and rows stay small.
pub const COPIES_MAX: u8 = 32;

/// The most rules: each costs every segment a match in every cycle.
pub const RULES_MAX: usize = 250;

/// One replication rule. The first whose glob matches a segment's id counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// A glob on the segment's id: `*`, `?`, `[a-z]`, `{a,b}`.
    pub glob: String,
    /// How many copies, each on a node of its own.
    pub copies: u8,
    /// Whether these segments come before all others in shortage.
    #[serde(default)]
    pub pinned: bool,
    /// Nodes to be preferred, in this order; further copies go anywhere. Segments with such nodes are pinned.
    #[serde(default)]
    pub nodes: Vec<String>,
}

/// The planner's settings beside the rules.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PlanSettings {
    /// Copies of a segment that no rule names.
    pub copies: u8,
    /// How far a node's stored/quota may be from the average, as a share of it, before anything moves.
    pub dead_band: f64,
    /// The most bytes that one cycle starts to move, where a copy is there already. A single larger segment
    /// may go when nothing else does. New segments and new versions are not held back by it.
    pub moved_bytes_max: u64,
    /// How long a lost node's copies are waited for, milliseconds.
    pub lost_grace_ms: u64,
    /// How long a copy drains: longer than DNS TTL + the longest query, milliseconds.
    pub drain_grace_ms: u64,
    /// The share of the expected capacity that may vanish before planning is refused.
    pub capacity_drop_ratio_max: f64,
    /// A person agreed to plan with a registered capacity down to this many bytes: an order, and no setting.
    #[serde(skip)]
    pub accepted_quota_bytes: Option<u64>,
}

impl Default for PlanSettings {
    fn default() -> Self {
        Self {
            copies: 2,
            dead_band: 0.05,
            // a minute of one node at 1 Gbit/s is 7 GiB: a cycle starts what some nodes pull in one
            moved_bytes_max: 64 << 30,
            // a reboot takes minutes; what is re-replicated too early is moved for nothing
            lost_grace_ms: 300_000,
            drain_grace_ms: 120_000,
            // one of two nodes may die without a person's word
            capacity_drop_ratio_max: 0.5,
            accepted_quota_bytes: None,
        }
    }
}

/// Rules that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RulesError {
    /// Not a glob.
    #[error("read the replication rule {glob:?}: {reason}; write a glob such as `web-*`")]
    Glob {
        /// As given.
        glob: String,
        /// What is wrong.
        reason: String,
    },
    /// No copies, or too many.
    #[error("{copies} copies for {whom:?}: ask for 1 to {COPIES_MAX}")]
    Copies {
        /// Which rule, or the default.
        whom: String,
        /// As given.
        copies: u8,
    },
    /// Too many rules.
    #[error("{0} replication rules are too many; {RULES_MAX} is the most")]
    TooMany(usize),
    /// A share that is not one.
    #[error("{name} is {value}; give a share between {least} and 1")]
    Share {
        /// The setting.
        name: &'static str,
        /// As given.
        value: String,
        /// The least that makes sense.
        least: &'static str,
    },
}

/// Checked rules and settings.
#[derive(Debug, Clone)]
pub struct Rules {
    settings: PlanSettings,
    rules: Vec<Rule>,
    globs: GlobSet,
}

impl Rules {
    /// Checks and takes them.
    pub fn new(settings: PlanSettings, rules: Vec<Rule>) -> Result<Self, RulesError> {
        if rules.len() > RULES_MAX {
            return Err(RulesError::TooMany(rules.len()));
        }
        copies_ok("default", settings.copies)?;
        // below a thousandth, balance chases single segments for ever
        share_ok("dead_band", settings.dead_band, 0.001, "0.001")?;
        share_ok("capacity_drop_ratio_max", settings.capacity_drop_ratio_max, 0.0, "0")?;
        let mut globs = GlobSetBuilder::new();
        for rule in &rules {
            copies_ok(&rule.glob, rule.copies)?;
            let bad = |error: globset::Error| RulesError::Glob {
                glob: rule.glob.clone(),
                reason: error.kind().to_string(),
            };
            globs.add(GlobBuilder::new(&rule.glob).build().map_err(bad)?);
        }
        let bad = |error: globset::Error| RulesError::Glob {
            glob: error.glob().unwrap_or("all together").to_owned(),
            reason: error.kind().to_string(),
        };
        let globs = globs.build().map_err(bad)?;
        Ok(Self { settings, rules, globs })
    }

    /// The settings beside the rules.
    pub fn settings(&self) -> &PlanSettings {
        &self.settings
    }

    /// The same with a person's word that the cluster may be so small; see
    /// [`PlanSettings::accepted_quota_bytes`].
    #[must_use]
    pub fn accepting(&self, quota_bytes: u64) -> Self {
        let mut rules = self.clone();
        rules.settings.accepted_quota_bytes = Some(quota_bytes);
        rules
    }

    /// The same without a cap on what one cycle begins to move: what is to be moved in all.
    #[must_use]
    pub fn uncapped(&self) -> Self {
        let mut rules = self.clone();
        rules.settings.moved_bytes_max = u64::MAX;
        rules
    }

    /// The rules in order.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// The index of the first rule for `id`. `scratch` is reused between calls.
    pub(super) fn find(&self, id: &str, scratch: &mut Vec<usize>) -> Option<usize> {
        if self.rules.is_empty() {
            return None;
        }
        self.globs.matches_candidate_into(&Candidate::new(id), scratch);
        scratch.iter().copied().min()
    }
}

fn copies_ok(whom: &str, copies: u8) -> Result<(), RulesError> {
    if (1..=COPIES_MAX).contains(&copies) {
        return Ok(());
    }
    Err(RulesError::Copies { whom: whom.to_owned(), copies })
}

fn share_ok(
    name: &'static str,
    value: f64,
    min: f64,
    least: &'static str,
) -> Result<(), RulesError> {
    if (min..=1.0).contains(&value) {
        return Ok(());
    }
    Err(RulesError::Share { name, value: value.to_string(), least })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(glob: &str, copies: u8) -> Rule {
        Rule { glob: glob.to_owned(), copies, pinned: false, nodes: Vec::new() }
    }

    #[test]
    fn the_first_rule_that_matches_counts() {
        let list = vec![rule("web-2026*", 3), rule("web-*", 1), rule("{a,b}?", 4)];
        let rules = Rules::new(PlanSettings::default(), list).unwrap();
        let find = |id| rules.find(id, &mut Vec::new());
        assert_eq!(find("web-2026-11"), Some(0));
        assert_eq!(find("web-2025-11"), Some(1));
        assert_eq!(find("b7"), Some(2));
        assert_eq!(find("other"), None);
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_a_reason() {
        let refused = |settings, list| Rules::new(settings, list).unwrap_err().to_string();
        let settings = PlanSettings::default;
        assert!(refused(settings(), vec![rule("web-[", 2)]).contains("web-["));
        assert!(refused(settings(), vec![rule("*", 0)]).contains("0 copies"));
        let band = PlanSettings { dead_band: f64::NAN, ..settings() };
        assert!(refused(band, Vec::new()).contains("dead_band"));
        let many = vec![rule("*", 1); RULES_MAX + 1];
        assert!(refused(settings(), many).contains("too many"));
    }
}
