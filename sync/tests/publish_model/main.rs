//! A model of publishing under a write lock (DESIGN.md 9), in which all orders of events are gone through, up to a
//! bound: writers that pause anywhere while their session ends, calls to the deep store that arrive after nobody waits
//! for them, crashes, a registry that forgets.
//!
//! ```text
//!   Take         WriteLocks::ask and Purpose::judge; with another's dirty document it is somebody's decision
//!   Step         the next step of what the writer has begun, by its phase:
//!     DeleteLower, MakeDirectory, ConfirmOpening         Staging::open
//!     Look                                               Staging::look, Segment::prepare to its first change of the disk
//!     SetAsideRest                                       Files::set_aside after the log was moved
//!     Fetch, TellAgain                                   content::fetch and Files::place; Segment::begin
//!     NoteDirty, TellDirty                               Hold::tell, from Shared::unsettle
//!     LookForDoubt                                       Tenure::settle after its sweep; about_to of Segment::publish
//!     Stage                                              Staging::stage
//!     ConfirmRename, RenameSeal, RenameData              Staging::publish
//!     NotePublished, Settle, NoteClean                   the end of Segment::promote; Shared::settle, Hold::tell
//!   TimeOut      a call fails and may be carried out later: after it put_back, or the end of an attempt
//!   Resumed      OpenError::SetAside
//!   Write        a request of a writer that has told: its commit, sync and acknowledgement
//!   Promote      Writable::copy, then Staging::sweep or about_to
//!   HandBack, Leave   Segment::give_back, with and without something to lose; Tenure::end
//!   Crash        the process is gone; note, file and orphans are not
//!   Expire, Lose, Arrive   the session ends; the registry comes back empty; a late call is carried out
//! ```
//!
//! The clock that tells a writer by itself that its lock is over is not in it: what holds without it holds with it. Nor
//! is the order of what one lock tells (`sync/tests/write_lock`), `put`, what a person does with orphans, rows written
//! while a new segment is published empty, and a third node.

use std::collections::BTreeSet;

use stateright::{Checker, Expectation, Model};

mod model;
mod rules;
mod steps;
mod world;
mod writer;

use model::{
    ALONE, DECIDED, FENCED, FORWARD, KEPT, LATE_REFUSED, NEVER_BACK, Publishing, SEALED, SET_ASIDE,
    STAYS, TAKEN_OVER, WENT_ON,
};
use rules::{Bounds, Rules};

/// Two owners, one after another, of one row: enough for most that can go wrong.
const TWO: Bounds = Bounds { epochs: 2, attempts: 1, rows: 1, crashes: 1, late: 1, losses: 0 };
/// Three owners, and calls that come late.
const OVERTAKEN: Bounds = Bounds { epochs: 3, crashes: 0, ..TWO };
/// Three owners that are killed.
const KILLED: Bounds = Bounds { epochs: 3, late: 0, ..TWO };
/// An attempt after one that failed, or was done after all.
const AGAIN: Bounds = Bounds { attempts: 2, rows: 2, crashes: 0, ..TWO };
/// Four owners that publish nothing: what becomes of their files.
const FILES: Bounds = Bounds { epochs: 4, attempts: 0, rows: 2, crashes: 2, late: 0, losses: 0 };
/// The registry is lost.
const LOST: Bounds = Bounds { epochs: 3, crashes: 0, late: 0, losses: 1, ..TWO };

/// What came of going through all states.
struct Outcome {
    states: usize,
    /// Properties that should always hold and do not.
    broken: BTreeSet<&'static str>,
    /// What happened at some time.
    happened: BTreeSet<&'static str>,
}

fn outcome(rules: Rules, bounds: Bounds) -> Outcome {
    // depth first: its memory is that of one path, and a number for each state
    let checker = Publishing { rules, bounds }.checker().threads(1).spawn_dfs().join();
    assert!(checker.is_done(), "all states were gone through");
    let (mut broken, mut happened) = (BTreeSet::new(), BTreeSet::new());
    for (name, path) in checker.discoveries() {
        match checker.model().property(name).expectation {
            Expectation::Always => {
                println!("{name}: not after {:?}", path.into_actions());
                broken.insert(name);
            }
            _ => drop(happened.insert(name)),
        }
    }
    Outcome { states: checker.unique_state_count(), broken, happened }
}

/// All holds in more than `states` states, in which all of `happened` happens.
fn holds(bounds: Bounds, states: usize, happened: &[&'static str]) {
    let outcome = outcome(Rules::IMPLEMENTED, bounds);
    assert_eq!(outcome.broken, BTreeSet::new());
    let missing: Vec<_> =
        happened.iter().filter(|name| !outcome.happened.contains(**name)).collect();
    assert!(missing.is_empty(), "never happened: {missing:?}");
    assert!(outcome.states > states, "{} states are not what was meant", outcome.states);
}

/// Without some rule just `broken` do not hold.
fn breaks(rules: Rules, bounds: Bounds, broken: &[&'static str]) {
    assert_eq!(outcome(rules, bounds).broken, broken.iter().copied().collect());
}

/// What breaks when a late rename finds its source.
const UNFENCED: [&str; 5] = [NEVER_BACK, SEALED, KEPT, STAYS, FENCED];

#[test]
fn s4_whatever_comes_late_from_an_owner_before_changes_nothing() {
    holds(OVERTAKEN, 500_000, &[LATE_REFUSED, TAKEN_OVER, SET_ASIDE, WENT_ON]);
    holds(Bounds { late: 2, ..TWO }, 50_000, &[LATE_REFUSED, TAKEN_OVER, WENT_ON]);
}

#[test]
fn s4_nothing_acknowledged_is_lost_by_owners_that_are_killed() {
    holds(KILLED, 200_000, &[TAKEN_OVER, SET_ASIDE, WENT_ON]);
}

#[test]
fn s4_an_attempt_that_was_done_after_all_is_followed_by_the_next() {
    holds(AGAIN, 500_000, &[LATE_REFUSED, TAKEN_OVER, WENT_ON]);
}

#[test]
fn s4_a_file_goes_on_or_is_set_aside_whole() {
    holds(FILES, 200_000, &[SET_ASIDE, WENT_ON]);
}

#[test]
fn s4_a_registry_that_comes_back_empty_costs_no_rows() {
    holds(LOST, 250_000, &[TAKEN_OVER, SET_ASIDE, WENT_ON]);
}

#[test]
fn without_deleting_what_lower_epochs_staged_a_late_rename_shows() {
    breaks(Rules { lower_deleted: false, ..Rules::IMPLEMENTED }, TWO, &UNFENCED);
}

#[test]
fn a_create_that_makes_its_directory_again_leaves_the_fence_to_the_last_confirmation() {
    let again = Rules { create_needs_directory: false, ..Rules::IMPLEMENTED };
    breaks(again, TWO, &[FENCED]);
    breaks(Rules { confirmed_before_rename: false, ..again }, TWO, &UNFENCED);
}

#[test]
fn a_directory_made_without_asking_leaves_the_fence_to_the_last_confirmation() {
    let unasked = Rules { confirmed_when_made: false, ..Rules::IMPLEMENTED };
    breaks(unasked, TWO, &[FENCED]);
    breaks(Rules { confirmed_before_rename: false, ..unasked }, TWO, &UNFENCED);
}

#[test]
fn the_fence_needs_no_confirmation_before_the_renames() {
    breaks(Rules { confirmed_before_rename: false, ..Rules::IMPLEMENTED }, TWO, &[]);
}

#[test]
fn without_sweeping_what_an_attempt_left_its_late_rename_shows() {
    let unswept = Rules { leftovers_swept: false, ..Rules::IMPLEMENTED };
    breaks(unswept, AGAIN, &[FORWARD, SEALED, KEPT, STAYS, DECIDED]);
}

#[test]
fn what_is_acknowledged_before_it_is_told_vanishes() {
    breaks(Rules { told_before_acknowledged: false, ..Rules::IMPLEMENTED }, TWO, &[KEPT]);
}

#[test]
fn without_noting_a_doubtful_publication_a_crash_makes_an_orphan_of_what_nobody_took() {
    breaks(Rules { doubt_noted: false, ..Rules::IMPLEMENTED }, AGAIN, &[DECIDED]);
}

#[test]
fn without_the_epoch_of_who_had_it_before_an_overtaken_file_goes_on() {
    breaks(Rules { taking_keeps_epoch: false, ..Rules::IMPLEMENTED }, FILES, &[ALONE]);
}

#[test]
fn a_file_that_is_set_aside_in_two_steps_may_go_on_without_its_log() {
    let rules =
        Rules { taking_keeps_epoch: false, set_aside_finished: false, ..Rules::IMPLEMENTED };
    breaks(rules, FILES, &[ALONE, KEPT]);
}
