//! S3, S4: what a writer acknowledged survives a power cut, in the files that it keeps: segments, notes and orphans. The
//! volume is an ext4 of its own that is cut off without a flush of its journal; deep store and registry lie elsewhere.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};

use crate::support::*;
use crate::volume::Volume;

const CHILD_DIR: &str = "WRITER_CHILD_DIR";
/// Rows before the publication, and after it.
const CHILD_BEFORE: &str = "WRITER_CHILD_BEFORE";
const CHILD_AFTER: &str = "WRITER_CHILD_AFTER";
/// The first row that a client writes; those that were published before are below.
const FIRST: i64 = 100;
/// What another node writes begins here.
const OTHERS: i64 = 1_000_000;
/// So many rows of a child fill the log, so that it is moved into the file and begun anew.
const LOG_FULL: i64 = 460;

/// A child writes this: more pages than one. It may be asked for what is there already after a restart.
fn row(n: i64) -> String {
    format!("INSERT INTO t VALUES ({n}, zeroblob(40000))")
}

fn tell(what: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "\n{what}").unwrap();
    out.flush().unwrap();
}

/// Not a test of its own: the body of the child process. It writes, publishes once, writes on, and tells of each row that
/// was acknowledged; or it only takes up what it finds, and tells of an orphan.
#[test]
fn child() {
    let Some(dir) = std::env::var_os(CHILD_DIR) else { return };
    fsd::failpoint::setup();
    let number = |name: &str| std::env::var(name).unwrap().parse::<i64>().unwrap();
    let (before, after) = (number(CHILD_BEFORE), number(CHILD_AFTER));
    let place = Place::at(dir.into());
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let node = place.start("one").await;
        if before + after == 0 {
            let aside = async || !node.desk.files().orphans().unwrap().is_empty();
            until("it is set aside", aside).await;
            tell("aside");
        } else {
            node.desk.provision(&id("ohio"), None).await.unwrap();
        }
        for n in 0..before + after {
            if n == before {
                node.desk.promote(&id("ohio")).await.unwrap();
            }
            let n = FIRST + n;
            node.write("ohio", &row(n)).await.unwrap().unwrap();
            tell(&format!("acknowledged {n}"));
        }
        // until it is killed
        std::future::pending::<()>().await;
    });
}

/// The place of a node `one` whose files lie on a volume, and what is published there at first.
struct Bench {
    place: Place,
    volume: Volume,
}

impl Bench {
    fn new() -> Self {
        let (place, volume) = (Place::new(), Volume::harsh(96));
        std::os::unix::fs::symlink(volume.path(), place.writable("one")).unwrap();
        let file = place.dir.path().join("store/o/ohio.sqlite");
        std::fs::create_dir(file.parent().unwrap()).unwrap();
        let db = rusqlite::Connection::open(file).unwrap();
        let made = (0..10).map(row).collect::<Vec<_>>().join(";");
        db.execute_batch(&format!("CREATE TABLE t (n, x); {made}")).unwrap();
        Self { place, volume }
    }

    /// A child that writes, and what it told until it ended. `told` is asked after each line whether that is all there
    /// will be; then the child is as good as dead.
    fn child(
        &self,
        before: i64,
        after: i64,
        failpoints: &str,
        mut told: impl FnMut(&mut Child, &str),
    ) {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "power::child", "--nocapture"])
            .env(CHILD_DIR, self.place.dir.path())
            .env(CHILD_BEFORE, before.to_string())
            .env(CHILD_AFTER, after.to_string())
            .env("FAILPOINTS", failpoints)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        lines.map_while(Result::ok).for_each(|line| told(&mut child, &line));
        child.wait().unwrap();
    }

    /// The same with what was acknowledged. The power is cut when that is all of it, or when it has died at a failpoint.
    fn write(&self, before: i64, after: i64, failpoints: &str) -> BTreeSet<i64> {
        let mut acknowledged = BTreeSet::new();
        let mut cut = false;
        self.child(before, after, failpoints, |child, line| {
            let Some(n) = line.strip_prefix("acknowledged ") else { return };
            acknowledged.insert(n.parse().unwrap());
            if acknowledged.len() as i64 == before + after {
                self.volume.cut_power();
                cut = true;
                let _ = child.kill();
            }
        });
        assert_eq!(cut, failpoints.is_empty(), "{failpoints}: {} rows", acknowledged.len());
        if !cut {
            self.volume.cut_power();
        }
        acknowledged
    }

    fn power_is_back(&self) {
        self.volume.unmount();
        self.volume.mount();
    }

    /// What a writer has open that finds what is there, and everything that it has published in the end.
    async fn found(&self) -> [Vec<i64>; 2] {
        let node = self.place.start("one").await;
        node.desk.provision(&id("ohio"), None).await.unwrap();
        let open = rows(&node.desk.files().database(&id("ohio")));
        // a file of which nothing is said to be unpublished goes
        node.desk.hand_back(&id("ohio")).await;
        node.desk.provision(&id("ohio"), None).await.unwrap();
        node.write("ohio", &row(OTHERS)).await.unwrap().unwrap();
        node.desk.promote(&id("ohio")).await.unwrap();
        assert_eq!(node.desk.files().orphans().unwrap(), [], "nobody else wrote");
        node.stop().await;
        [open, self.place.published("ohio").unwrap()]
    }
}

/// Everything that was acknowledged, nothing twice, nothing that nobody wrote.
fn judge(what: &str, found: &[i64], acknowledged: &BTreeSet<i64>, sent: i64) {
    let once: BTreeSet<i64> = found.iter().copied().collect();
    let lost: Vec<_> = acknowledged.difference(&once).collect();
    assert!(lost.is_empty(), "{what}: acknowledged and lost: {lost:?}");
    assert_eq!(once.len(), found.len(), "{what}: something is there twice");
    let written: BTreeSet<i64> = (0..10).chain(FIRST..FIRST + sent).chain([OTHERS]).collect();
    assert!(once.is_subset(&written), "{what}: something nobody sent");
    assert!((0..10).all(|n| once.contains(&n)), "{what}: what was published before is lost");
}

/// Cuts the power under a writer, when it has acknowledged all of its rows or has come to `failpoints`, and looks.
fn cut(before: i64, after: i64, failpoints: &str) {
    let bench = Bench::new();
    let acknowledged = bench.write(before, after, failpoints);
    bench.power_is_back();
    let found = tokio::runtime::Runtime::new().unwrap().block_on(bench.found());
    for (found, what) in found.into_iter().zip(["open", "published"]) {
        let what = format!("{before} rows, {after} after a publication, {failpoints:?}, {what}");
        judge(&what, &found, &acknowledged, before + after);
    }
}

#[test]
fn s3_a_power_cut_right_after_an_acknowledgement_loses_no_row_and_no_note() {
    // the first one; the first after a publication, in a log that is new, and in one that was begun anew
    for (before, after) in [(1, 0), (3, 1), (LOG_FULL, 1), (40, 20)] {
        cut(before, after, "");
    }
}

#[test]
fn s3_s4_a_power_cut_at_the_steps_of_opening_and_publishing_loses_nothing() {
    for step in [
        "write.owned=return",
        "write.fetched=return",
        "write.noted=return",
        "write.synced=return",
        "write.acknowledged=7*off->return",
        "promote.copied=return",
        "promote.prepared=return",
        "promote.staged-seal=return",
        "promote.seal-renamed=return",
        "promote.data-renamed=return",
        "promote.published=return",
        "promote.noted=return",
    ] {
        cut(5, 5, step);
    }
}

#[test]
fn s3_s4_a_power_cut_right_after_an_orphan_was_made_leaves_it() {
    let bench = Bench::new();
    let (place, mut acknowledged) = (&bench.place, BTreeSet::new());
    bench.child(3, 4, "write.acknowledged=6*off->return", |_, line| {
        acknowledged.extend(line.strip_prefix("acknowledged ").map(|n| n.parse::<i64>().unwrap()));
    });
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        place.end_session("ohio").await;
        let two = place.start("two").await;
        two.desk.provision(&id("ohio"), None).await.unwrap();
        two.write("ohio", &row(OTHERS)).await.unwrap().unwrap();
        two.desk.promote(&id("ohio")).await.unwrap();
        two.stop().await;
    });
    let published = place.published("ohio").unwrap();
    bench.child(0, 0, "", |child, line| {
        if line == "aside" {
            bench.volume.cut_power();
            let _ = child.kill();
        }
    });
    bench.power_is_back();
    let one = runtime.block_on(async {
        let one = place.start("one").await;
        one.desk.provision(&id("ohio"), None).await.unwrap();
        one
    });
    let orphans = one.desk.files().orphans().unwrap();
    assert_eq!(orphans.len(), 1, "{orphans:?}");
    let kept = rows(&one.desk.files().orphan(&orphans[0]));
    judge("the orphan", &kept, &acknowledged, 7);
    assert!(!kept.contains(&OTHERS));
    assert_eq!(rows(&one.desk.files().database(&id("ohio"))), published);
    assert_eq!(place.published("ohio").unwrap(), published);
    runtime.block_on(one.stop());
}
