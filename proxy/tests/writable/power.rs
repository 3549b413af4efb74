//! S3: what was acknowledged survives a power cut. The volume is an ext4 of its own that is cut off without a flush of its
//! journal: unlike a kill, this shows an fdatasync that is missing.

use rusqlite::Connection;

use crate::faults::write_in_child;
use crate::support::rows;
use crate::volume::Volume;

/// Lets a child write, cuts the power when `cut_after` rows were acknowledged, and looks.
fn cut(cut_after: usize) {
    let volume = Volume::new(64);
    let dir = volume.path().join("writable");
    std::fs::create_dir(&dir).unwrap();
    let path = dir.join("s.sqlite");
    let db = Connection::open(&path).unwrap();
    db.execute_batch("CREATE TABLE t (n INTEGER PRIMARY KEY, x)").unwrap();
    drop(db);
    // it was published or provisioned before it was opened, durably
    rustix::fs::syncfs(std::fs::File::open(&dir).unwrap()).unwrap();
    let mut acknowledged = Vec::new();
    let mut over = false;
    write_in_child(&dir, 100_000, "", |child, n| {
        // what is told after the cut was acknowledged before it, or is a lie of a disk that is off
        if !over {
            acknowledged.push(n);
        }
        if acknowledged.len() == cut_after && !over {
            over = true;
            volume.cut_power();
            let _ = child.kill();
        }
    });
    assert!(over, "{cut_after} rows were acknowledged");
    volume.unmount();
    volume.mount();
    let found = rows(&path);
    let lost: Vec<_> = acknowledged.iter().filter(|n| !found.contains(n)).collect();
    assert!(lost.is_empty(), "cut after {cut_after}: lost {lost:?} of {}", acknowledged.len());
}

#[test]
fn s3_a_power_cut_at_any_moment_loses_nothing_that_was_acknowledged() {
    // the first, a few, and after the log was moved into the file and begun anew
    for after in [1, 9, 200, 1_500, 3_001] {
        cut(after);
    }
}
