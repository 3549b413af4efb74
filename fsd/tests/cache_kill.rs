//! S1, S10: a process that changes the cache is killed at every step; the next start finds whole, verified segments and
//! nothing half.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::path::{Path, PathBuf};
use std::process::Command;

use fsd::cache::Cache;
use fsd::scrub::{Scrub, ScrubSettings};
use std::sync::atomic::AtomicBool;

#[path = "support/cache.rs"]
mod support;
use support::*;

const CHILD_DIR: &str = "CACHE_KILL_CHILD_DIR";
const CHILD_DOES: &str = "CACHE_KILL_CHILD_DOES";

/// What the child does to a cache with a (content 1), b (content 2), its twin (content 2) and c (withdrawn, content 3).
fn act(cache: &Cache, what: &str) {
    match what {
        "publish" => {
            let batch = vec![
                (verified(cache, &id("new"), &database(4)), source(&database(4), 4)),
                (verified(cache, &id("a"), &database(5)), source(&database(5), 5)),
                (verified(cache, &id("c"), &database(6)), source(&database(6), 6)),
            ];
            cache.publish(batch).into_iter().for_each(|result| drop(result.unwrap()));
        }
        "unpublish" => drop(cache.unpublish(&id("a")).unwrap()),
        "remove" => {
            cache.remove(&id("a")).unwrap();
            cache.remove(&id("b")).unwrap();
            cache.remove(&id("c")).unwrap();
        }
        "scrub" => {
            let object = cache.layout().object(&digest(&database(2)));
            std::fs::write(object, &database(2)[..5000]).unwrap();
            let mut scrub = Scrub::new(cache.clone(), ScrubSettings::default(), drop).unwrap();
            scrub.run_once(&AtomicBool::new(false)).unwrap();
        }
        _ => panic!("{what} is not known"),
    }
}

/// Not a test of its own: the body of the child process.
#[test]
fn child() {
    let Some(dir) = std::env::var_os(CHILD_DIR) else { return };
    fsd::failpoint::setup();
    let (cache, _) = open(Path::new(&dir));
    act(&cache, &std::env::var(CHILD_DOES).unwrap());
}

/// Runs a child that dies at `point`, at its `nth` passing; true when it came there.
fn dies_at(dir: &Path, what: &str, point: &str, nth: usize) -> bool {
    use std::os::unix::process::ExitStatusExt;
    let program: PathBuf = std::env::current_exe().unwrap();
    let output = Command::new(program)
        .args(["--exact", "child", "--nocapture"])
        .env(CHILD_DIR, dir)
        .env(CHILD_DOES, what)
        .env("FAILPOINTS", format!("{point}={nth}*off->return"))
        .output()
        .unwrap();
    match output.status.signal() {
        Some(9) => true,
        _ => {
            let text = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{what}, {point}: {text}");
            false
        }
    }
}

fn filled() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let (cache, _) = open(directory.path());
    for (name, seed) in [("a", 1), ("b", 2), ("twin", 2), ("c", 3)] {
        publish(&cache, &id(name), &database(seed), seed);
    }
    cache.unpublish(&id("c")).unwrap();
    directory
}

/// Kills `what` at every passing of `point` and looks at what the next start makes of it.
fn kill_loop(what: &str, points: &[&str]) {
    for point in points {
        let mut passings = 0;
        loop {
            let directory = filled();
            if !dies_at(directory.path(), what, point, passings) {
                break;
            }
            passings += 1;
            let (cache, report) = open(directory.path());
            let case = format!("{what} killed at passing {passings} of {point}: {report:?}");
            assert_consistent(&cache);
            let names = visible(directory.path());
            let allowed = |name: &str, seeds: &[u64]| {
                let shown = names.get(&id(name));
                shown
                    .is_none_or(|shown| seeds.iter().any(|seed| digest(&database(*seed)) == *shown))
            };
            assert!(allowed("a", &[1, 5]) && allowed("b", &[2]) && allowed("twin", &[2]), "{case}");
            assert!(allowed("c", &[6]) && allowed("new", &[4]), "{case}");
            match what {
                "publish" => {
                    assert!(names.contains_key(&id("a")), "a replaced name was lost: {case}");
                }
                "remove" => assert!(names.contains_key(&id("twin")), "{case}"),
                _ => {}
            }
            if what != "scrub" {
                assert_eq!((report.quarantined, report.withdrawn.len()), (0, 0), "{case}");
                assert!(report.foreign.is_empty() && report.ledger_rebuilt.is_none(), "{case}");
            }
            // it goes on where it was, and nothing is left to do for the start after that
            act(&cache, what_is_left(what));
            assert_consistent(&cache);
            drop(cache);
            let (cache, report) = open(directory.path());
            assert_eq!(
                (report.rehashed, report.swept, report.orphans_removed),
                (0, 0, 0),
                "{case}"
            );
            assert_consistent(&cache);
        }
        assert!(passings > 0, "{what} never came to {point}");
    }
}

/// After a scrub nothing is damaged any more; damaging it again would need the object.
fn what_is_left(what: &str) -> &str {
    if what == "scrub" { "publish" } else { what }
}

#[test]
fn s1_kill_at_every_step_of_admission() {
    let steps = [
        "staged",
        "verified",
        "fsynced",
        "renamed",
        "object-dir-synced",
        "linked",
        "segments-dir-synced",
        "ledgered",
    ];
    let points: Vec<String> = steps.iter().map(|step| format!("admission.{step}")).collect();
    kill_loop("publish", &points.iter().map(String::as_str).collect::<Vec<_>>());
}

#[test]
fn s1_kill_at_every_step_of_removal() {
    let steps = ["removal.unlinked", "removal.segments-dir-synced", "removal.ledgered"];
    kill_loop("unpublish", &steps);
    kill_loop("remove", &[&steps[..], &["removal.object-removed"]].concat());
    kill_loop("scrub", &[&steps[..], &["removal.quarantined"]].concat());
}
