//! Who leads: on a SQLite file with a clock of the test's own, and on a real Consul.

// a failed step of a test is a failed test
#![allow(clippy::unwrap_used)]

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sync::clock::{SinceBoot, SystemClock, since_boot};
use sync::kv::consul::{ConsulKv, ConsulSettings};
use sync::kv::sqlite::SqliteKv;
use sync::kv::{Key, Kv, KvTimeouts, Op, Txn};
use sync::lead::{Candidate, LeadSettings, Term, leader};
use sync::store::{Store, StoreTimeouts, open};
use tokio_util::sync::CancellationToken;

#[path = "support/breaking.rs"]
#[allow(dead_code, reason = "each test file uses its part")]
mod breaking;

use breaking::BreakingKv;

const PATIENT: KvTimeouts = KvTimeouts { connect_ms: 10_000, call_ms: 20_000 };
/// The bound of every wait: five times what a lead that died may take, 2 x 10 s and the lock-delay.
const PATIENCE: Duration = Duration::from_secs(5 * 21);

/// One registry in a file, one deep store, and a clock that only the test moves.
struct Place {
    dir: tempfile::TempDir,
    store: Arc<dyn Store>,
    boot_ms: Arc<AtomicU64>,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("store");
        let store = open(root.to_str().unwrap(), StoreTimeouts::default()).unwrap();
        Self { dir, store, boot_ms: Arc::new(AtomicU64::new(1_000)) }
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("kv")
    }

    fn clock(&self) -> SinceBoot {
        let boot_ms = self.boot_ms.clone();
        Arc::new(move || Duration::from_millis(boot_ms.load(Ordering::SeqCst)))
    }

    fn pass(&self, time: Duration) {
        self.boot_ms.fetch_add(time.as_millis() as u64, Ordering::SeqCst);
    }

    fn kv(&self) -> Arc<dyn Kv> {
        let clock = self.clock();
        Arc::new(SqliteKv::open(self.file(), move || clock(), PATIENT).unwrap())
    }

    fn candidate(&self, node: &str, kv: Arc<dyn Kv>) -> Candidate {
        candidate(node, kv, self.store.clone(), self.clock())
    }
}

fn candidate(node: &str, kv: Arc<dyn Kv>, store: Arc<dyn Store>, clock: SinceBoot) -> Candidate {
    let settings = LeadSettings { session_ttl_s: 10, lock_delay_s: 1 };
    let address = format!("{node}:6111");
    Candidate::new(kv, store, Arc::new(SystemClock), clock, &settings, node, &address).unwrap()
}

/// Goes on until it leads, also when its own session ended meanwhile because the test moved the clock.
async fn leads(candidate: &Candidate) -> Term {
    let never = CancellationToken::new();
    let campaigns = async {
        loop {
            if let Ok(Some(term)) = candidate.campaign(&never).await {
                return term;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, campaigns).await.expect("it leads in the end")
}

/// Whether a transaction with this term's fence is done.
async fn may_write(kv: &dyn Kv, term: &Term) -> bool {
    let key = Key::new("trough/proof").unwrap();
    let ops = [term.fence().unwrap(), Op::Set { key, value: "x".into() }];
    matches!(kv.txn(&ops).await.unwrap(), Txn::Committed(_))
}

#[tokio::test]
async fn one_of_many_leads_and_hands_over_when_it_resigns() {
    let place = Place::new();
    let kv = place.kv();
    assert_eq!(leader(&*kv).await.unwrap(), None);
    let stop = CancellationToken::new();
    let (leading, mut terms) = tokio::sync::mpsc::unbounded_channel();
    let mut others = Vec::new();
    for n in 0..4 {
        let candidate = place.candidate(&format!("node-{n}"), place.kv());
        let (leading, stop) = (leading.clone(), stop.clone());
        others.push(tokio::spawn(async move {
            let term = candidate.campaign(&stop).await.unwrap();
            let _ = leading.send((n, term));
        }));
    }
    let mut epochs = Vec::new();
    for _ in 0..3 {
        let (n, term) = tokio::time::timeout(PATIENCE, terms.recv()).await.unwrap().unwrap();
        let term = term.unwrap();
        assert_eq!(leader(&*kv).await.unwrap().unwrap().node, format!("node-{n}"));
        assert!(term.holds() && may_write(&*kv, &term).await);
        assert!(terms.try_recv().is_err(), "two lead");
        epochs.push(term.epoch());
        term.resign().await;
    }
    assert!(epochs.is_sorted_by(|a, b| a < b), "{epochs:?}");
    let (_, last) = tokio::time::timeout(PATIENCE, terms.recv()).await.unwrap().unwrap();
    // one that waits ends when it is told to, and leaves no session behind
    let waiting = place.candidate("waiting", place.kv());
    let campaign = tokio::spawn({
        let stop = stop.clone();
        async move { waiting.campaign(&stop).await.unwrap().is_none() }
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    stop.cancel();
    assert!(campaign.await.unwrap());
    last.unwrap().resign().await;
    assert_eq!(leader(&*kv).await.unwrap(), None);
}

#[tokio::test]
async fn a_lead_that_is_cut_off_or_slept_ends_before_another_leads_and_writes_nothing() {
    let place = Place::new();
    let cut = BreakingKv::new(place.kv());
    let old = leads(&place.candidate("old", cut.clone())).await;
    assert!(old.holds());
    cut.cut_off();
    let next = place.candidate("next", place.kv());
    let next = tokio::spawn(async move { leads(&next).await });
    // short of its time to live it goes on, though it hears nothing; then it ends by its own clock
    place.pass(Duration::from_millis(9_900));
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(old.holds() && !next.is_finished());
    place.pass(Duration::from_millis(200));
    assert!(!old.holds());
    // the rest of twice the time to live, and then the lock-delay
    for _ in 0..13 {
        if !next.is_finished() {
            place.pass(Duration::from_secs(1));
            tokio::time::sleep(Duration::from_millis(700)).await;
        }
    }
    let next = next.await.unwrap();
    assert!(next.epoch() > old.epoch());
    cut.mend();
    assert!(!may_write(&*place.kv(), &old).await, "the old lead wrote");
    assert!(may_write(&*place.kv(), &next).await);
    tokio::time::timeout(PATIENCE, old.over()).await.expect("it hears that it is over");
    old.resign().await;
    assert!(next.holds() && may_write(&*place.kv(), &next).await, "the old one took it away");
}

#[tokio::test]
async fn a_renewal_counts_from_when_it_was_sent() {
    let place = Place::new();
    let boot_ms = place.boot_ms.clone();
    // six seconds from a renewal to its answer
    let slow = BreakingKv::with_renewal(place.kv(), move || {
        boot_ms.fetch_add(6_000, Ordering::SeqCst);
    });
    let term = leads(&place.candidate("slow", slow.clone())).await;
    let renewed = async {
        while slow.renewals.load(Ordering::SeqCst) == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, renewed).await.expect("it renews");
    assert!(term.holds());
    // ten seconds after the question, four after the answer
    place.pass(Duration::from_millis(4_001));
    assert!(!term.holds());
}

/// Nothing tells of the end of a lock-delay, and who only watched would wait for all of its wait.
#[tokio::test]
async fn a_lock_that_is_closed_for_its_delay_is_asked_for_again_and_again() {
    let place = Place::new();
    let old = leads(&place.candidate("old", place.kv())).await;
    let waiting = BreakingKv::new(place.kv());
    let next = place.candidate("next", waiting.clone());
    let next = tokio::spawn(async move { leads(&next).await });
    let asked = async |times: usize| {
        while waiting.acquires.load(Ordering::SeqCst) < times {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    // less than the wait of a watch
    let bound = Duration::from_secs(15);
    tokio::time::timeout(bound, asked(1)).await.expect("it asks");
    // ended without a release: the lock stays closed, and the test's clock stands still
    place.kv().destroy_session(old.session()).await.unwrap();
    let before = waiting.acquires.load(Ordering::SeqCst);
    tokio::time::timeout(bound, asked(before + 4)).await.expect("it goes on asking");
    assert!(!next.is_finished());
    place.pass(Duration::from_secs(2));
    tokio::time::timeout(bound, next).await.expect("it leads when the delay is over").unwrap();
}

#[tokio::test]
async fn a_registry_that_comes_back_empty_begins_a_higher_epoch() {
    let place = Place::new();
    let old = leads(&place.candidate("old", place.kv())).await;
    for end in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(format!("{}{end}", place.file().display()));
    }
    tokio::time::timeout(PATIENCE, old.over()).await.expect("it hears that it is over");
    assert!(!old.holds());
    let new = leads(&place.candidate("new", place.kv())).await;
    assert!(new.epoch().incarnation > old.epoch().incarnation, "{} {}", new.epoch(), old.epoch());
    assert!(!may_write(&*place.kv(), &old).await);

    // so does one whose incarnation somebody garbled
    let key = Key::new("trough/incarnation").unwrap();
    let garbled = Op::Set { key, value: "what?".into() };
    place.kv().txn(&[garbled]).await.unwrap();
    let epoch = new.epoch();
    new.resign().await;
    let last = leads(&place.candidate("last", place.kv())).await;
    assert!(last.epoch() > epoch);
}

#[tokio::test]
async fn without_a_deep_store_nobody_begins_an_incarnation_and_the_lock_is_given_back() {
    let place = Place::new();
    let never = CancellationToken::new();
    std::fs::write(place.dir.path().join("store"), "in the way").unwrap();
    let candidate = place.candidate("node", place.kv());
    let error = candidate.campaign(&never).await.unwrap_err();
    assert!(error.to_string().contains("epoch"), "{error}");
    assert_eq!(leader(&*place.kv()).await.unwrap(), None);
    std::fs::remove_file(place.dir.path().join("store")).unwrap();
    let term = leads(&candidate).await;
    assert_eq!(term.epoch().incarnation, 1);
    // once there is one, the deep store is not asked
    term.resign().await;
    std::fs::remove_dir_all(place.dir.path().join("store")).unwrap();
    std::fs::write(place.dir.path().join("store"), "in the way").unwrap();
    assert_eq!(leads(&candidate).await.epoch().incarnation, 1);
}

/// On Consul time is waited for: a lead that resigns is followed at once, one that dies when its session has ended,
/// and one whose registry came back empty in a new incarnation.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_consul_elects_one_lead_after_another() {
    let place = Place::new();
    let consul = rig::consul::Consul::start();
    let address = consul.address().to_owned();
    let kv = || -> Arc<dyn Kv> {
        let settings =
            ConsulSettings { address: address.clone(), timeouts: PATIENT, ..Default::default() };
        Arc::new(ConsulKv::new(&settings).unwrap())
    };
    let of = |node: &str, kv| candidate(node, kv, place.store.clone(), Arc::new(since_boot));
    let first = leads(&of("first", kv())).await;
    let second = of("second", kv());
    let waiting = tokio::spawn(async move { leads(&second).await });
    first.resign().await;
    let second = waiting.await.unwrap();
    assert_eq!(leader(&*kv()).await.unwrap().unwrap().node, "second");

    // its process hangs: it neither renews nor resigns
    let cut = BreakingKv::new(kv());
    second.resign().await;
    let dead = leads(&of("dead", cut.clone())).await;
    cut.cut_off();
    let third = leads(&of("third", kv())).await;
    assert!(!dead.holds(), "two lead");
    assert!(third.epoch() > dead.epoch() && may_write(&*kv(), &third).await);
    assert!(!may_write(&*kv(), &dead).await);

    consul.restart_empty();
    tokio::time::timeout(PATIENCE, third.over()).await.expect("it hears that it is over");
    let fourth = leads(&of("fourth", kv())).await;
    assert!(fourth.epoch().incarnation > third.epoch().incarnation);
}
