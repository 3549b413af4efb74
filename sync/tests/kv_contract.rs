//! What every store of keys promises, asked of a real Consul and of a SQLite file alike; then what only the one
//! or the other can be asked.
//!
//! Time is passed, not asserted: on the file by a clock of the test's own, on Consul by waiting.

// a failed step of a test is a failed test
#![allow(clippy::unwrap_used)]

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rig::consul::{Consul, Server};
use sync::kv::consul::{ConsulKv, ConsulSettings};
use sync::kv::sqlite::SqliteKv;
use sync::kv::{
    Consistency, Entry, Index, Key, Kv, KvErrorKind, KvTimeouts, Op, SESSION_TTL_MIN, SessionId,
    SessionOptions, Snapshot, TXN_OPS_MAX, Txn, VALUE_BYTES_MAX, Watched, Watcher,
};

/// A loaded machine may be slow; what hangs is seen all the same.
const PATIENT: KvTimeouts = KvTimeouts { connect_ms: 10_000, call_ms: 20_000 };
/// Longer than any wait that must not be used up.
const LONG: Duration = Duration::from_secs(60);
const LOCK_DELAY: Duration = Duration::from_secs(2);

/// Where a store is; opened by as many clients as a case likes.
trait Place: Send + Sync {
    fn open(&self) -> Arc<dyn Kv>;
    /// Lets time pass for sessions and lock-delays.
    fn pass(&self, time: Duration) -> impl Future<Output = ()> + Send;
    /// The store loses everything.
    fn empty(&self);
    /// A part of a session's time to live: most of it, where passing time costs nothing.
    const SHORT_OF_TTL: Duration;
}

struct File {
    dir: tempfile::TempDir,
    since_boot_ms: Arc<AtomicU64>,
}

impl File {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), since_boot_ms: Arc::new(AtomicU64::new(1_000)) }
    }

    fn path(&self) -> std::path::PathBuf {
        self.dir.path().join("kv.sqlite")
    }
}

impl Place for File {
    const SHORT_OF_TTL: Duration = Duration::from_secs(9);

    fn open(&self) -> Arc<dyn Kv> {
        let clock = self.since_boot_ms.clone();
        let since_boot = move || Duration::from_millis(clock.load(Ordering::SeqCst));
        Arc::new(SqliteKv::open(self.path(), since_boot, PATIENT).unwrap())
    }

    async fn pass(&self, time: Duration) {
        let ms = u64::try_from(time.as_millis()).unwrap();
        self.since_boot_ms.fetch_add(ms, Ordering::SeqCst);
    }

    fn empty(&self) {
        for end in ["", "-wal", "-shm"] {
            let _ = std::fs::remove_file(format!("{}{end}", self.path().display()));
        }
    }
}

/// A Consul; the cases that do it no harm share one.
struct OneServer(Option<Consul>);

impl OneServer {
    fn shared() -> Self {
        Self(None)
    }

    fn own() -> Self {
        Self(Some(Consul::start()))
    }

    fn consul(&self) -> &Consul {
        static SHARED: OnceLock<Consul> = OnceLock::new();
        self.0.as_ref().unwrap_or_else(|| SHARED.get_or_init(Consul::start))
    }

    fn client(&self, timeouts: KvTimeouts) -> ConsulKv {
        let address = self.consul().address().to_owned();
        ConsulKv::new(&ConsulSettings { address, timeouts, ..Default::default() }).unwrap()
    }
}

impl Place for OneServer {
    const SHORT_OF_TTL: Duration = Duration::from_secs(1);

    fn open(&self) -> Arc<dyn Kv> {
        Arc::new(self.client(PATIENT))
    }

    async fn pass(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }

    fn empty(&self) {
        self.consul().restart_empty();
    }
}

/// Each case of this list runs on both; its keys are its own. On Consul all of them run at once and share one
/// server: its sessions take 20 s to end, and only one of those waits is paid for.
macro_rules! contract {
    ($($name:ident),* $(,)?) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name(&super::File::new()).await;
            })*
        }
        #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
        async fn s12_a_consul_keeps_the_contract() {
            let cases = [$((stringify!($name), tokio::spawn(async {
                $name(&OneServer::shared()).await;
            }))),*];
            let mut failed = Vec::new();
            for (name, case) in cases {
                if case.await.is_err() {
                    failed.push(name);
                }
            }
            assert!(failed.is_empty(), "failed on Consul, each with its own message above: {failed:?}");
        }
    };
}

contract!(
    a_key_reads_back_as_it_was_written,
    a_listing_is_what_lies_below_and_nothing_else,
    compare_and_set_sees_every_change,
    s12_a_transaction_is_whole_or_nothing,
    a_refusal_names_each_operation_that_refused,
    what_exceeds_a_limit_is_refused_and_changes_nothing,
    a_lock_has_one_holder_and_a_fence_that_grows,
    many_at_once_get_one_lock,
    a_released_lock_is_free_at_once_and_a_destroyed_session_s_after_its_delay,
    s12_a_session_that_is_not_renewed_ends_and_can_change_nothing,
    a_watch_returns_on_a_change_and_on_nothing_else,
    a_watch_of_what_lies_below_sees_changes_and_removals,
    a_watch_that_waits_in_vain_ends,
    a_watch_sees_a_session_end,
);

// these do harm to the whole store: each has one of its own

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_comes_back_empty_is_seen_so() {
    a_store_that_comes_back_empty_is_seen_so(&File::new()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consul_that_comes_back_empty_is_seen_so() {
    a_store_that_comes_back_empty_is_seen_so(&OneServer::own()).await;
}

fn key(text: &str) -> Key {
    Key::new(format!("trough/{text}")).unwrap()
}

fn set(key: &Key, value: &'static str) -> Op {
    Op::Set { key: key.clone(), value: value.into() }
}

fn cas(key: &Key, value: &'static str, index: Index) -> Op {
    Op::Cas { key: key.clone(), value: value.into(), index }
}

async fn committed(kv: &dyn Kv, ops: &[Op]) -> Vec<Entry> {
    match kv.txn(ops).await.unwrap() {
        Txn::Committed(entries) => entries,
        Txn::Refused(refusals) => panic!("refused: {refusals:?}"),
    }
}

/// The places of the operations that refused.
async fn refused(kv: &dyn Kv, ops: &[Op]) -> Vec<usize> {
    match kv.txn(ops).await.unwrap() {
        Txn::Committed(entries) => panic!("committed: {entries:?}"),
        Txn::Refused(refusals) => {
            assert!(refusals.iter().all(|refusal| !refusal.reason.is_empty()), "{refusals:?}");
            refusals.iter().map(|refusal| refusal.op).collect()
        }
    }
}

async fn value(kv: &dyn Kv, key: &Key) -> Option<Bytes> {
    kv.get(key).await.unwrap().map(|entry| entry.value)
}

async fn modified(kv: &dyn Kv, key: &Key) -> Index {
    kv.get(key).await.unwrap().unwrap().modified
}

async fn session(kv: &dyn Kv, lock_delay: Duration) -> SessionId {
    let options = SessionOptions::new("contract", SESSION_TTL_MIN, lock_delay).unwrap();
    kv.create_session(&options).await.unwrap()
}

fn names(entries: &[Entry]) -> Vec<&str> {
    entries.iter().map(|entry| entry.key.as_str().rsplit('/').next().unwrap()).collect()
}

/// Asks until `session` gets the lock; the time passes by `step`.
async fn acquire_in(
    place: &impl Place,
    kv: &dyn Kv,
    key: &Key,
    session: &SessionId,
    limit: Duration,
) -> Duration {
    let step = Duration::from_millis(200);
    let mut waited = Duration::ZERO;
    while !kv.acquire(key, "".into(), session).await.unwrap() {
        assert!(waited < limit, "no lock on {key} within {limit:?}");
        place.pass(step).await;
        waited += step;
    }
    waited
}

async fn a_key_reads_back_as_it_was_written(place: &impl Place) {
    let (kv, other) = (place.open(), place.open());
    let at = key("reads-back/A_b-9/x");
    assert_eq!(kv.get(&at).await.unwrap(), None);
    let bytes: Bytes = (0..=255u8).cycle().take(100_000).collect::<Vec<_>>().into();
    committed(&*kv, &[Op::Set { key: at.clone(), value: bytes.clone() }]).await;
    let entry = other.get(&at).await.unwrap().unwrap();
    assert!(entry.value == bytes && entry.key == at && entry.session.is_none());
    assert!(entry.created == entry.modified && entry.modified > Index::ABSENT);
    committed(&*kv, &[set(&at, "")]).await;
    let empty = other.get(&at).await.unwrap().unwrap();
    assert!(empty.value.is_empty() && empty.created == entry.created);
    assert!(empty.modified > entry.modified);
    committed(&*kv, &[Op::Delete { key: at.clone() }, Op::Delete { key: key("reads-back/none") }])
        .await;
    assert_eq!(other.get(&at).await.unwrap(), None);
}

async fn a_listing_is_what_lies_below_and_nothing_else(place: &impl Place) {
    let kv = place.open();
    let below = key("listing/a");
    assert_eq!(kv.list(&below, Consistency::Consistent).await.unwrap(), []);
    let beside =
        ["listing", "listing/a", "listing/a-b", "listing/a0", "listing/ab/x", "listing/A/x"];
    let within = ["listing/a/-", "listing/a/0", "listing/a/Z", "listing/a/_", "listing/a/z/deep"];
    for name in beside.iter().chain(within.iter().rev()) {
        committed(&*kv, &[Op::Set { key: key(name), value: (*name).into() }]).await;
    }
    for consistency in [Consistency::Consistent, Consistency::Default] {
        let found = kv.list(&below, consistency).await.unwrap();
        assert_eq!(names(&found), ["-", "0", "Z", "_", "deep"]);
        assert!(found.iter().all(|entry| entry.value == entry.key.as_str()["trough/".len()..]));
    }
}

async fn compare_and_set_sees_every_change(place: &impl Place) {
    let kv = place.open();
    let at = key("cas");
    assert_eq!(refused(&*kv, &[cas(&at, "x", Index(1))]).await, [0]);
    let made = committed(&*kv, &[cas(&at, "1", Index::ABSENT)]).await;
    assert_eq!(made[0].modified, modified(&*kv, &at).await);
    assert_eq!(refused(&*kv, &[cas(&at, "2", Index::ABSENT)]).await, [0], "0 creates only");
    let changed = committed(&*kv, &[cas(&at, "2", made[0].modified)]).await;
    assert!(changed[0].modified > made[0].modified && changed[0].created == made[0].created);
    assert_eq!(refused(&*kv, &[cas(&at, "3", made[0].modified)]).await, [0]);
    let delete = |index| Op::DeleteCas { key: at.clone(), index };
    assert_eq!(refused(&*kv, &[delete(made[0].modified)]).await, [0]);
    assert_eq!(value(&*kv, &at).await.unwrap(), "2");
    committed(&*kv, &[delete(changed[0].modified)]).await;
    assert_eq!(value(&*kv, &at).await, None);
    committed(&*kv, &[delete(changed[0].modified)]).await;
    let again = committed(&*kv, &[cas(&at, "4", Index::ABSENT)]).await;
    assert!(again[0].modified > changed[0].modified, "a key's second life has higher indexes");
}

async fn s12_a_transaction_is_whole_or_nothing(place: &impl Place) {
    let kv = place.open();
    let [a, b, lead] = ["whole/a", "whole/b", "whole/lead"].map(key);
    let holder = session(&*kv, Duration::ZERO).await;
    assert!(kv.acquire(&lead, "me".into(), &holder).await.unwrap());
    let check =
        |session: &SessionId| Op::CheckSession { key: lead.clone(), session: session.clone() };
    let done = committed(
        &*kv,
        &[check(&holder), set(&a, "1"), cas(&b, "1", Index::ABSENT), Op::Get { key: a.clone() }],
    )
    .await;
    let of: Vec<_> = done.iter().map(|entry| (entry.key.clone(), entry.value.clone())).collect();
    let bare = |key: &Key| (key.clone(), Bytes::new());
    assert_eq!(of, [bare(&lead), bare(&a), bare(&b), (a.clone(), "1".into())]);
    assert_eq!(done[1].modified, done[2].modified, "one step has one index");

    assert_eq!(refused(&*kv, &[set(&a, "2"), cas(&b, "2", Index::ABSENT)]).await, [1]);
    let other = session(&*kv, Duration::ZERO).await;
    assert_eq!(refused(&*kv, &[check(&other), set(&a, "2")]).await, [0]);
    assert!(kv.release(&lead, "".into(), &holder).await.unwrap());
    assert_eq!(refused(&*kv, &[check(&holder), set(&a, "2")]).await, [0], "released");
    assert!(kv.acquire(&lead, "me".into(), &holder).await.unwrap());
    kv.destroy_session(&holder).await.unwrap();
    assert_eq!(refused(&*kv, &[check(&holder), set(&a, "2")]).await, [0], "its session is gone");
    committed(&*kv, &[Op::Delete { key: lead.clone() }]).await;
    assert_eq!(refused(&*kv, &[check(&holder), set(&a, "2")]).await, [0], "its key is gone");
    assert_eq!(value(&*kv, &a).await.unwrap(), "1");
    assert_eq!(value(&*kv, &b).await.unwrap(), "1");
}

async fn a_refusal_names_each_operation_that_refused(place: &impl Place) {
    let kv = place.open();
    let [a, none] = ["refusal/a", "refusal/none"].map(key);
    let index = committed(&*kv, &[set(&a, "1")]).await[0].modified;
    let check = |key: &Key, index| Op::CheckIndex { key: key.clone(), index };
    let absent = |key: &Key| Op::CheckNotExists { key: key.clone() };
    let get = |key: &Key| Op::Get { key: key.clone() };
    let done = committed(&*kv, &[check(&a, index), absent(&none), get(&a)]).await;
    assert_eq!(names(&done), ["a", "a"]);
    assert_eq!(done[1].value, "1");
    let ops = [
        check(&a, index),
        check(&a, Index(index.0 + 1)),
        absent(&a),
        get(&none),
        set(&none, "1"),
        check(&key("refusal/z"), index),
    ];
    assert_eq!(refused(&*kv, &ops).await, [1, 2, 3, 5]);
    assert_eq!(value(&*kv, &none).await, None);
    let ops = [set(&none, "1"), get(&none), Op::Delete { key: none.clone() }, absent(&none)];
    assert_eq!(committed(&*kv, &ops).await[1].value, "1", "an operation sees those before it");
    assert_eq!(value(&*kv, &none).await, None);
}

async fn what_exceeds_a_limit_is_refused_and_changes_nothing(place: &impl Place) {
    let kv = place.open();
    let at = key("limit/at");
    let holder = session(&*kv, Duration::ZERO).await;
    let most = Bytes::from(vec![7; VALUE_BYTES_MAX]);
    let over = Bytes::from(vec![7; VALUE_BYTES_MAX + 1]);
    let error = kv.acquire(&at, over.clone(), &holder).await.unwrap_err();
    assert_eq!(error.kind, KvErrorKind::TooLarge, "{error}");
    assert_eq!(value(&*kv, &at).await, None);
    assert!(kv.acquire(&at, most.clone(), &holder).await.unwrap());
    assert!(value(&*kv, &at).await.unwrap() == most);

    // the most that a transaction takes, in operations and in bytes: whatever the check lets through must go through
    let ops: Vec<Op> =
        (0..TXN_OPS_MAX).map(|n| set(&key(&format!("limit/ops/{n}")), "x")).collect();
    assert_eq!(committed(&*kv, &ops).await.len(), TXN_OPS_MAX);
    let ops: Vec<Op> =
        (0..=TXN_OPS_MAX).map(|n| set(&key(&format!("limit/over/{n}")), "x")).collect();
    let error = kv.txn(&ops).await.unwrap_err();
    assert_eq!(error.kind, KvErrorKind::TooLarge, "{error}");
    assert!(error.to_string().contains("split"), "{error}");
    assert_eq!(kv.list(&key("limit/over"), Consistency::Consistent).await.unwrap(), []);
    let many = |bytes: usize| -> Vec<Op> {
        let value = Bytes::from(vec![255; bytes / TXN_OPS_MAX]);
        (0..TXN_OPS_MAX)
            .map(|n| Op::Cas {
                key: key(&format!("limit/bytes/{n}")),
                value: value.clone(),
                index: Index::ABSENT,
            })
            .collect()
    };
    assert_eq!(kv.txn(&many(VALUE_BYTES_MAX)).await.unwrap_err().kind, KvErrorKind::TooLarge);
    assert_eq!(committed(&*kv, &many(380_000)).await.len(), TXN_OPS_MAX);
    let one = |bytes: usize| [Op::Set { key: at.clone(), value: vec![255; bytes].into() }];
    committed(&*kv, &one(393_000)).await;
    for bytes in [394_000, VALUE_BYTES_MAX] {
        let error = kv.txn(&one(bytes)).await.unwrap_err();
        assert_eq!(error.kind, KvErrorKind::TooLarge, "{error}");
        assert!(error.to_string().contains("split"), "{error}");
    }
    assert_eq!(value(&*kv, &at).await.unwrap().len(), 393_000);
}

async fn a_lock_has_one_holder_and_a_fence_that_grows(place: &impl Place) {
    let kv = place.open();
    let at = key("fence");
    let (one, two) = (session(&*kv, Duration::ZERO).await, session(&*kv, Duration::ZERO).await);
    assert!(kv.acquire(&at, "one".into(), &one).await.unwrap());
    let held = kv.get(&at).await.unwrap().unwrap();
    assert_eq!((held.session.as_ref(), &*held.value), (Some(&one), &b"one"[..]));
    assert!(!kv.acquire(&at, "two".into(), &two).await.unwrap());
    assert!(!kv.release(&at, "two".into(), &two).await.unwrap());
    assert_eq!(
        kv.get(&at).await.unwrap().unwrap(),
        held,
        "a refused acquire or release changes nothing"
    );
    assert!(kv.acquire(&at, "one".into(), &one).await.unwrap(), "by the holder");
    assert_eq!(kv.get(&at).await.unwrap().unwrap(), held, "what says the same keeps its index");
    assert!(kv.acquire(&at, "one again".into(), &one).await.unwrap(), "by the holder");
    let again = kv.get(&at).await.unwrap().unwrap();
    assert!(again.session.as_ref() == Some(&one) && again.modified > held.modified);

    // locks are advisory: whoever writes leaves it with its holder
    committed(&*kv, &[set(&at, "anybody")]).await;
    assert_eq!(kv.get(&at).await.unwrap().unwrap().session.as_ref(), Some(&one));

    let mut fence = modified(&*kv, &at).await;
    for (holder, next) in [(&one, &two), (&two, &one), (&one, &two)] {
        assert!(kv.release(&at, "free".into(), holder).await.unwrap());
        assert_eq!(value(&*kv, &at).await.unwrap(), "free");
        assert!(kv.acquire(&at, "".into(), next).await.unwrap());
        let now = modified(&*kv, &at).await;
        assert!(now > fence, "{now} after {fence}");
        fence = now;
    }
    // also over the life of the key
    committed(&*kv, &[Op::Delete { key: at.clone() }]).await;
    assert!(kv.acquire(&at, "".into(), &one).await.unwrap());
    assert!(modified(&*kv, &at).await > fence);
}

async fn many_at_once_get_one_lock(place: &impl Place) {
    let at = key("many");
    let mut asking = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (kv, at) = (place.open(), at.clone());
        asking.spawn(async move {
            let own = session(&*kv, Duration::ZERO).await;
            kv.acquire(&at, "".into(), &own).await.unwrap()
        });
    }
    let got = asking.join_all().await;
    assert_eq!(got.into_iter().filter(|got| *got).count(), 1);
}

async fn a_released_lock_is_free_at_once_and_a_destroyed_session_s_after_its_delay(
    place: &impl Place,
) {
    let kv = place.open();
    let at = key("delay");
    let next = session(&*kv, Duration::ZERO).await;
    let holder = session(&*kv, LOCK_DELAY).await;
    assert!(kv.acquire(&at, "".into(), &holder).await.unwrap());
    assert!(kv.release(&at, "".into(), &holder).await.unwrap());
    assert!(kv.acquire(&at, "".into(), &next).await.unwrap(), "a released lock is free at once");
    assert!(kv.release(&at, "".into(), &next).await.unwrap());

    assert!(kv.acquire(&at, "".into(), &holder).await.unwrap());
    let held = modified(&*kv, &at).await;
    kv.destroy_session(&holder).await.unwrap();
    kv.destroy_session(&holder).await.unwrap();
    assert_eq!(kv.session(&holder).await.unwrap(), None);
    let freed = kv.get(&at).await.unwrap().unwrap();
    assert!(freed.session.is_none() && freed.modified > held);
    assert!(!kv.acquire(&at, "".into(), &next).await.unwrap(), "closed for the lock-delay");
    acquire_in(place, &*kv, &at, &next, 5 * LOCK_DELAY).await;

    // without a lock-delay it is free at once
    kv.destroy_session(&next).await.unwrap();
    let last = session(&*kv, Duration::ZERO).await;
    assert!(kv.acquire(&at, "".into(), &last).await.unwrap());
}

async fn s12_a_session_that_is_not_renewed_ends_and_can_change_nothing<P: Place>(place: &P) {
    let kv = place.open();
    let [lead, document] = ["expiry/lead", "expiry/document"].map(key);
    let holder = session(&*kv, LOCK_DELAY).await;
    let next = session(&*kv, Duration::ZERO).await;
    let info = kv.session(&holder).await.unwrap().unwrap();
    assert_eq!(
        (info.ttl, info.lock_delay, info.name.as_str()),
        (SESSION_TTL_MIN, LOCK_DELAY, "contract")
    );
    assert!(kv.acquire(&lead, "".into(), &holder).await.unwrap());
    let fence = modified(&*kv, &lead).await;

    // short of its time to live it lives, and a renewal gives it all of it again
    for _ in 0..2 {
        place.pass(P::SHORT_OF_TTL).await;
        assert!(kv.renew_session(&holder).await.unwrap() >= SESSION_TTL_MIN);
        kv.renew_session(&next).await.unwrap();
    }
    assert_eq!(kv.get(&lead).await.unwrap().unwrap().session.as_ref(), Some(&holder));

    // Consul ends it after twice its time to live
    let step = Duration::from_millis(500);
    let mut waited = Duration::ZERO;
    while kv.get(&lead).await.unwrap().unwrap().session.is_some() {
        assert!(waited < 5 * SESSION_TTL_MIN, "the session did not end");
        place.pass(step).await;
        waited += step;
        kv.renew_session(&next).await.unwrap();
    }
    assert!(modified(&*kv, &lead).await > fence);
    assert!(!kv.acquire(&lead, "".into(), &next).await.unwrap(), "closed for the lock-delay");
    assert_eq!(kv.session(&holder).await.unwrap(), None);
    assert_eq!(kv.renew_session(&holder).await.unwrap_err().kind, KvErrorKind::SessionGone);
    assert!(
        !kv.acquire(&lead, "".into(), &holder).await.unwrap(),
        "nor does it reopen for the old one"
    );
    assert!(!kv.release(&lead, "".into(), &holder).await.unwrap());
    let check =
        |session: &SessionId| Op::CheckSession { key: lead.clone(), session: session.clone() };
    assert_eq!(refused(&*kv, &[check(&holder), set(&document, "late")]).await, [0]);
    acquire_in(place, &*kv, &lead, &next, 5 * LOCK_DELAY).await;
    assert_eq!(refused(&*kv, &[check(&holder), set(&document, "late")]).await, [0]);
    let error = kv.acquire(&lead, "".into(), &holder).await.unwrap_err();
    assert_eq!(error.kind, KvErrorKind::SessionGone, "{error}");
    assert_eq!(value(&*kv, &document).await, None);
    committed(&*kv, &[check(&next), set(&document, "new")]).await;
}

/// Follows `what` until it is no longer as `seen` or `wait` is over, and hands back how to see the end of that.
/// (Consul's watch of a key that is not there also wakes for other keys.)
async fn waiting(
    kv: &Arc<dyn Kv>,
    what: &Watched,
    seen: &Snapshot,
    wait: Duration,
) -> tokio::task::JoinHandle<(Snapshot, Duration)> {
    let (kv, what, mut snapshot) = (kv.clone(), what.clone(), seen.clone());
    let before = seen.entries.clone();
    let watch = tokio::spawn(async move {
        let begun = Instant::now();
        while snapshot.entries == before && begun.elapsed() < wait {
            snapshot = kv.watch(&what, Some(snapshot.index), wait).await.unwrap();
        }
        (snapshot, begun.elapsed())
    });
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!watch.is_finished(), "it did not wait: {:?}", watch.await);
    watch
}

/// A watch that a change ended: long before its wait was over.
async fn woken(watch: tokio::task::JoinHandle<(Snapshot, Duration)>) -> Snapshot {
    let (snapshot, took) = watch.await.unwrap();
    assert!(took < LONG / 2, "it waited {took:?}, as if nothing had changed");
    snapshot
}

async fn a_watch_returns_on_a_change_and_on_nothing_else(place: &impl Place) {
    let kv = place.open();
    let [at, beside] = ["watch/at", "watch/at-x"].map(key);
    let what = Watched::Key(at.clone());
    committed(&*kv, &[set(&beside, "1"), set(&at, "1")]).await;
    let first = kv.watch(&what, None, LONG).await.unwrap();
    assert_eq!((names(&first.entries), &*first.entries[0].value), (vec!["at"], &b"1"[..]));
    assert!(first.index >= first.entries[0].modified);

    let watch = waiting(&kv, &what, &first, LONG).await;
    committed(&*place.open(), &[set(&beside, "2"), set(&beside, "3")]).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!watch.is_finished(), "woken by a key beside it");
    committed(&*place.open(), &[set(&at, "2")]).await;
    let second = woken(watch).await;
    assert!(second.index > first.index && second.entries[0].value == "2");
    // a change that came between two watches is not missed
    let late = kv.watch(&what, Some(first.index), LONG).await.unwrap();
    assert_eq!(late, second);

    let watch = waiting(&kv, &what, &second, LONG).await;
    committed(&*kv, &[Op::Delete { key: at.clone() }]).await;
    let third = woken(watch).await;
    assert!(third.index > second.index && third.entries.is_empty());

    let watch = waiting(&kv, &what, &third, LONG).await;
    committed(&*kv, &[set(&at, "4")]).await;
    assert_eq!(woken(watch).await.entries[0].value, "4");
}

async fn a_watch_of_what_lies_below_sees_changes_and_removals(place: &impl Place) {
    let kv = place.open();
    let [a, b, beside] = ["below/w/a", "below/w/b", "below/wx/c"].map(key);
    committed(&*kv, &[set(&a, "1"), set(&b, "1"), set(&beside, "1")]).await;
    let what = Watched::Below(key("below/w"));
    let first = kv.watch(&what, None, LONG).await.unwrap();
    assert_eq!(names(&first.entries), ["a", "b"]);
    // two removals: the second must be seen even by one who saw the first
    let watch = waiting(&kv, &what, &first, LONG).await;
    committed(&*kv, &[Op::Delete { key: a.clone() }]).await;
    let second = woken(watch).await;
    assert_eq!(names(&second.entries), ["b"]);
    let watch = waiting(&kv, &what, &second, LONG).await;
    committed(&*kv, &[Op::Delete { key: b }]).await;
    let third = woken(watch).await;
    assert!(third.entries.is_empty() && third.index > second.index);
    let watch = waiting(&kv, &what, &third, LONG).await;
    committed(&*kv, &[set(&a, "2")]).await;
    assert_eq!(names(&woken(watch).await.entries), ["a"]);
}

async fn a_watch_that_waits_in_vain_ends(place: &impl Place) {
    let kv = place.open();
    let at = key("vain/at");
    committed(&*kv, &[set(&at, "1")]).await;
    for what in [Watched::Key(at), Watched::Below(key("vain"))] {
        let first = kv.watch(&what, None, LONG).await.unwrap();
        let begun = Instant::now();
        let wait = Duration::from_secs(1);
        assert_eq!(kv.watch(&what, Some(first.index), wait).await.unwrap(), first);
        let took = begun.elapsed();
        assert!(took > wait / 2 && took < LONG / 2, "it waited {took:?}, told to wait {wait:?}");
    }
    // what is not there can be watched too: its index is one to wait on
    let none = kv.watch(&Watched::Below(key("vain/none")), None, LONG).await.unwrap();
    assert!(none.entries.is_empty() && none.index > Index::ABSENT);
    let long_since = kv.watch(&Watched::Key(key("vain/at")), Some(Index(1)), LONG).await.unwrap();
    assert_eq!(long_since.entries.len(), 1);
}

async fn a_watch_sees_a_session_end(place: &impl Place) {
    let kv = place.open();
    let at = key("watched-end");
    let holder = session(&*kv, Duration::ZERO).await;
    assert!(kv.acquire(&at, "".into(), &holder).await.unwrap());
    let what = Watched::Key(at.clone());
    let mut index = kv.watch(&what, None, LONG).await.unwrap().index;
    let ended = async {
        loop {
            let snapshot = kv.watch(&what, Some(index), LONG).await.unwrap();
            index = snapshot.index;
            if snapshot.entries[0].session.is_none() {
                return;
            }
        }
    };
    // the time passes while the watch waits; nobody else asks
    let (seen, ()) = tokio::join!(
        tokio::time::timeout(5 * 2 * SESSION_TTL_MIN, ended),
        place.pass(SESSION_TTL_MIN)
    );
    seen.expect("the watch saw the session end");
}

async fn a_store_that_comes_back_empty_is_seen_so(place: &impl Place) {
    let kv = place.open();
    let at = key("again/at");
    for n in 0..200 {
        committed(&*kv, &[Op::Set { key: at.clone(), value: n.to_string().into() }]).await;
    }
    let what = Watched::Below(key("again"));
    let mut watcher = Watcher::new(what, Duration::from_secs(2));
    let before = watcher.next(&*kv).await.unwrap();
    assert_eq!(names(&before.entries), ["at"]);
    place.empty();
    // whether it saw the connection break or the index go back: soon it says what is there, and then follows it
    let deadline = Instant::now() + LONG;
    let mut follow = async |until: &dyn Fn(&Snapshot) -> bool| loop {
        assert!(Instant::now() < deadline, "the watch did not start over");
        match watcher.next(&*kv).await {
            Ok(snapshot) if until(&snapshot) => return snapshot,
            Ok(_) => {}
            Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    };
    let after = follow(&|snapshot| snapshot.entries.is_empty()).await;
    assert!(after.index < before.index, "{} after {}", after.index, before.index);
    committed(&*kv, &[set(&at, "new")]).await;
    let new = follow(&|snapshot| !snapshot.entries.is_empty()).await;
    assert_eq!(new.entries[0].value, "new");
}

/// What can only be asked of a Consul.
mod consul {
    use super::*;
    use std::io::{Read, Write};

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn silence_is_a_time_out_absence_is_said_and_a_restart_keeps_everything() {
        let place = OneServer::own();
        let kv = place.client(KvTimeouts { connect_ms: 500, call_ms: 1_000 });
        let [at, lock] = ["outage/at", "outage/lock"].map(key);
        let patient = place.open();
        committed(&*patient, &[set(&at, "1")]).await;
        let holder = session(&*patient, LOCK_DELAY).await;
        assert!(patient.acquire(&lock, "".into(), &holder).await.unwrap());
        let before = patient.get(&lock).await.unwrap();

        place.consul().pause(Server(1));
        let error = kv.get(&at).await.unwrap_err();
        assert_eq!(error.kind, KvErrorKind::TimedOut, "{error}");
        assert!(error.to_string().contains(place.consul().address()), "{error}");
        place.consul().resume(Server(1));
        assert_eq!(value(&*patient, &at).await.unwrap(), "1");

        place.consul().kill(Server(1));
        let error = kv.get(&at).await.unwrap_err();
        assert_eq!(error.kind, KvErrorKind::Unavailable, "{error}");
        assert!(error.to_string().contains("is Consul running there?"), "{error}");
        place.consul().restart(Server(1));
        assert_eq!(value(&*patient, &at).await.unwrap(), "1");
        assert_eq!(patient.get(&lock).await.unwrap(), before, "a restart takes no lock away");
        patient.renew_session(&holder).await.unwrap();
        committed(&*patient, &[set(&at, "2")]).await;
        assert!(modified(&*patient, &at).await > before.unwrap().modified);
    }

    /// Consul's default ends a session also when gossip believes its node dead.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_session_rests_on_its_time_to_live_alone() {
        let place = OneServer::shared();
        let own = session(&*place.open(), LOCK_DELAY).await;
        let host = place.consul().address().strip_prefix("http://").unwrap();
        let mut stream = std::net::TcpStream::connect(host).unwrap();
        write!(stream, "GET /v1/session/info/{own} HTTP/1.0\r\nHost: {host}\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(
            answer.contains(own.as_str()) && answer.contains("\"Behavior\":\"release\""),
            "{answer}"
        );
        assert!(!answer.contains("serfHealth"), "{answer}");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn with_tls_and_tokens_only_the_right_ones_pass_and_a_new_token_is_read() {
        let consul = Consul::start_secure();
        let file = |name: &str| Some(consul.dir().join(name));
        let own = tempfile::NamedTempFile::new().unwrap();
        let settings = ConsulSettings {
            address: consul.secure_address(),
            token_file: Some(own.path().to_owned()),
            ca_file: file("tls/consul-agent-ca.pem"),
            cert_file: file("tls/dc1-client-consul-0.pem"),
            key_file: file("tls/dc1-client-consul-0-key.pem"),
            timeouts: PATIENT,
            ..Default::default()
        };
        let refused = |settings: &ConsulSettings| ConsulKv::new(settings).unwrap_err().to_string();
        assert!(refused(&settings).contains("holds no token"));
        std::fs::write(own.path(), "11111111-2222-3333-4444-555555555555\n").unwrap();
        let at = key("secure");
        let kv = ConsulKv::new(&settings).unwrap();
        let said = format!("check the token in {}", own.path().display());
        for error in [
            kv.get(&at).await.unwrap_err(),
            kv.txn(&[set(&at, "1")]).await.unwrap_err(),
            kv.create_session(&SessionOptions::new("n", SESSION_TTL_MIN, LOCK_DELAY).unwrap())
                .await
                .unwrap_err(),
        ] {
            assert_eq!(error.kind, KvErrorKind::Denied, "{error}");
            assert!(error.to_string().contains(&said), "{error}");
        }
        // the same client, after the file was put right
        std::fs::copy(consul.dir().join("token"), own.path()).unwrap();
        committed(&kv, &[set(&at, "1")]).await;
        assert_eq!(value(&kv, &at).await.unwrap(), "1");

        let none = ConsulSettings { cert_file: None, key_file: None, ..settings.clone() };
        let error = ConsulKv::new(&none).unwrap().get(&at).await.unwrap_err();
        assert_eq!(error.kind, KvErrorKind::Unavailable, "without a certificate: {error}");
        let other = ConsulSettings {
            tls_server_name: Some("elsewhere.test".to_owned()),
            ..settings.clone()
        };
        let error = ConsulKv::new(&other).unwrap().get(&at).await.unwrap_err();
        assert!(
            error.kind == KvErrorKind::Unavailable && error.to_string().contains("certificate"),
            "{error}"
        );
        let known = ConsulSettings {
            tls_server_name: Some("server.dc1.consul".to_owned()),
            ..settings.clone()
        };
        assert_eq!(value(&ConsulKv::new(&known).unwrap(), &at).await.unwrap(), "1");
        let half = ConsulSettings { key_file: None, ..settings.clone() };
        assert!(refused(&half).contains("go together"));
        let blind = ConsulSettings { ca_file: None, ..settings };
        assert!(refused(&blind).contains("ca_file"));
    }

    #[test]
    fn what_is_no_address_of_a_consul_is_refused() {
        for address in
            ["", "127.0.0.1:8500", "ftp://h:1", "http://", "http://h:1/path", "http://h:1?x"]
        {
            let settings = ConsulSettings { address: address.to_owned(), ..Default::default() };
            let error = ConsulKv::new(&settings).map(|_| address).unwrap_err();
            assert!(error.to_string().contains("http://HOST:PORT"), "{error}");
        }
    }
}
