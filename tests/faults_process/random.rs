//! Kills and hangs at random, for as long as one likes.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::faults::{Watch, incoming, short, started, wait_all_held};
use crate::support::{Trough, until};
use crate::writes::{Client, judge};
use crate::writing::*;

/// Faults at random for a while: each child killed or stopped for a moment under puts, queries and writes. No answer
/// is ever wrong, nothing that was acknowledged is lost, and it converges (S3, S4, S10). Ten minutes with `TROUGH_SOAK=1`; the seed is printed, and
/// `TROUGH_SEED` sets it.
#[test]
fn s3_s4_s10_random_kills_and_hangs_heal() {
    let length = Duration::from_secs(if rig::soak::is_on() { 600 } else { 15 });
    let seed = std::env::var("TROUGH_SEED").ok().map(|text| text.parse().unwrap());
    let mut random = Random(seed.unwrap_or_else(|| std::process::id().into()));
    println!("TROUGH_SEED={}", random.0);
    let trough = COMES_BACK.into_iter().fold(short(WRITING).allow("mount"), Trough::allow);
    let trough = started(trough);
    let ids = ["ohio", "utah", "iowa"];
    for id in ids {
        trough.put(id, 1);
        trough.wait_answers(id, 1);
    }
    provision(&trough, "texas");
    let client = Client::start(write_url(&trough, "texas"));
    let watches = ids.map(|id| Watch::start(&trough, id, 1));
    let mut versions = [1; 3];
    let end = Instant::now() + length;
    while Instant::now() < end {
        let name = ["fsd", "sync", "read", "write"][random.below(4)];
        // by the log it is the newest one; it may have ended a moment ago
        let pid = trough.child_pid(name);
        let at = random.below(3);
        versions[at] += 1;
        watches[at].allow(versions[at]);
        std::thread::scope(|scope| {
            if random.below(2) == 0 {
                // whatever comes of it: the writer, or what it asks, may be away
                scope.spawn(|| drop(promote(&trough, "texas")));
            }
            match random.below(3) {
                0 => {
                    let _ = rustix::process::kill_process(pid, Signal::KILL);
                    trough.put_in_the_end(ids[at], versions[at]);
                }
                1 => {
                    trough.put_in_the_end(ids[at], versions[at]);
                    std::thread::sleep(Duration::from_millis(random.below(300) as u64));
                    let _ = rustix::process::kill_process(pid, Signal::KILL);
                }
                _ => {
                    let _ = rustix::process::kill_process(pid, Signal::STOP);
                    let stopped = Duration::from_millis(random.below(1500) as u64);
                    std::thread::scope(|scope| {
                        // it may stand still in the middle of its change to the registry, which the put waits for
                        scope.spawn(|| {
                            std::thread::sleep(stopped);
                            let _ = rustix::process::kill_process(pid, Signal::CONT);
                        });
                        trough.put_in_the_end(ids[at], versions[at]);
                    });
                }
            }
        });
        if random.below(2) == 0 {
            watches[at].wait(&trough, versions[at]);
        }
        std::thread::sleep(Duration::from_millis(random.below(1000) as u64));
    }
    for (watch, n) in watches.iter().zip(versions) {
        watch.wait(&trough, n);
    }
    let had = client.acknowledged();
    until("it is written", || client.acknowledged() > had);
    let (acknowledged, sent, _) = client.end();
    judge("the reader", &rows(&trough, "texas"), &acknowledged, sent);
    promote_in_the_end(&trough, "texas");
    judge("the store", &in_store(&trough, "texas"), &acknowledged, sent);
    assert!(!trough.log().contains("are an orphan"), "nobody else wrote: {}", trough.log());
    wait_all_held(&trough, 4);
    until("one mount", || trough.mounts() == 1);
    // but the version that was published last
    until("nothing is pulled", || incoming(&trough.dir().join("cache")) == 0);
    for watch in watches {
        watch.end();
    }
}

/// A small generator whose runs can be repeated (SplitMix64).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % limit as u64) as usize
    }
}
