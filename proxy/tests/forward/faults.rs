//! What is answered when readers fail.

use std::time::Duration;

use fsd::view::MountState;
use proxy::route::HELD_BACK_BYTES;

use crate::cluster::{Cluster, ask};
use crate::rig::Rig;
use crate::scripted::{Act, Scripted, answer, beginning};

const TABLE: &str = "CREATE TABLE t (a); INSERT INTO t VALUES (1);";
const ROW: &str = "[{\"a\":1}]\n";
/// So many segments that each of two holders is the first to be asked for some.
const SEGMENTS: usize = 20;

fn name(n: usize) -> String {
    format!("s{n}")
}

/// `asker` asks for segments that `good` has, and that a scripted reader has, too.
struct Pair {
    asker: Rig,
    good: Rig,
    bad: Scripted,
    cluster: Cluster,
}

impl Pair {
    async fn new(act: Act) -> Self {
        let cluster = Cluster::default();
        let (asker, good) = (cluster.reader("asker").await, cluster.reader("good").await);
        let bad = Scripted::new(act).await;
        cluster.member("bad", &bad.address.to_string());
        for n in 0..SEGMENTS {
            good.segment(&name(n), TABLE);
            cluster.held(&name(n), &["bad", "good"]);
        }
        Self { asker, good, bad, cluster }
    }

    /// Every segment is answered for, and the scripted reader was asked for some of them first.
    async fn all_answered(&self, case: &str) {
        let asked = self.bad.asked().len();
        for n in 0..SEGMENTS {
            let answer = ask(&self.asker, &name(n), "SELECT a FROM t").await;
            assert_eq!(answer, (200, ROW.to_owned()), "{case}: {}", name(n));
        }
        assert!(self.bad.asked().len() > asked, "{case}: nobody asked it");
    }
}

#[tokio::test]
async fn what_one_holder_cannot_answer_another_does() {
    let broken = "[{\"a\":";
    let pair = Pair::new(Act::Say(answer("503 Service Unavailable", "away\n"))).await;
    for (case, act) in [
        ("away", Act::Say(answer("503 Service Unavailable", "the mount is away\n"))),
        ("damaged", Act::Say(answer("500 Internal Server Error", "damaged\n"))),
        ("busy", Act::Say(answer("429 Too Many Requests", "busy\n"))),
        ("not there any more", Act::Say(answer("421 Misdirected Request", "not here\n"))),
        ("never had it", Act::Say(answer("404 Not Found", "not in the pool\n"))),
        ("closes at once", Act::SayAndClose(String::new())),
        ("no HTTP", Act::SayAndClose("hello\r\n".to_owned())),
        ("closes after its head", Act::SayAndClose(beginning(100, ""))),
        ("breaks off", Act::SayAndClose(beginning(100, broken))),
        (
            "breaks off just before its end",
            Act::SayAndClose(beginning(HELD_BACK_BYTES, &"x".repeat(HELD_BACK_BYTES - 1))),
        ),
    ] {
        pair.bad.queries(act);
        pair.all_answered(case).await;
    }
}

#[tokio::test]
async fn one_that_is_silent_is_left_and_asked_no_more_until_it_is_back() {
    let pair = Pair::new(Act::SayAndHang(String::new())).await;
    pair.bad.health(Act::SayAndHang(String::new()));
    pair.all_answered("silent").await;
    // it is known by now: nobody waits for it
    let asked = pair.bad.asked().len();
    assert!(asked <= 3, "it was asked {asked} times though it was silent");
    for n in 0..SEGMENTS {
        assert_eq!(ask(&pair.asker, &name(n), "SELECT a FROM t").await.0, 200);
    }
    assert_eq!(pair.bad.asked().len(), asked);

    // half of an answer, and then nothing
    pair.bad.health(Act::Say(answer("200 OK", "{}")));
    pair.bad.queries(Act::Say(answer("200 OK", ROW)));
    let mut n = 0;
    while pair.bad.asked().len() == asked {
        assert_eq!(ask(&pair.asker, &name(n % SEGMENTS), "SELECT a FROM t").await.0, 200);
        tokio::time::sleep(Duration::from_millis(10)).await;
        n += 1;
        assert!(n < 3_000, "it is back, and nobody asks it");
    }
    pair.bad.queries(Act::SayAndHang(beginning(1_000, "[{\"a\":")));
    pair.bad.health(Act::SayAndHang(String::new()));
    pair.all_answered("silent in the middle").await;
}

#[tokio::test]
async fn one_that_takes_long_is_waited_for_while_it_is_alive() {
    let pair = Pair::new(Act::SayAndHang(String::new())).await;
    let slow = name(0);
    pair.cluster.held(&slow, &["bad"]);
    let asking = ask(&pair.asker, &slow, "SELECT a FROM t");
    // three times as long as it may be silent: its health says that it lives
    let mut asking = std::pin::pin!(asking);
    let early = tokio::time::timeout(Duration::from_secs(3), &mut asking).await;
    assert!(early.is_err(), "{early:?}");
    assert_eq!(pair.bad.asked().len(), 1, "it was asked again though it lives");
    // and when it is not any more, that is said
    pair.bad.health(Act::SayAndHang(String::new()));
    let (status, text) = asking.await;
    assert_eq!(status, 503, "{text}");
    assert!(text.contains("node bad"), "{text}");
}

#[tokio::test]
async fn a_long_answer_that_breaks_is_broken_off_visibly() {
    let long = "x".repeat(3 * HELD_BACK_BYTES);
    let pair = Pair::new(Act::SayAndClose(beginning(4 * HELD_BACK_BYTES, &long))).await;
    let mut broken = 0;
    for n in 0..SEGMENTS {
        match ask(&pair.asker, &name(n), "SELECT a FROM t").await {
            (200, text) if text == ROW => {}
            (200, text) => {
                assert!(text.starts_with("broken: "), "{}", &text[..40.min(text.len())]);
                broken += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(broken > 0 && broken < SEGMENTS, "{broken}");
}

#[tokio::test]
async fn what_is_wrong_with_the_question_is_not_asked_again() {
    let pair = Pair::new(Act::Say(String::new())).await;
    for status in
        ["400 Bad Request", "403 Forbidden", "408 Request Timeout", "413 Payload Too Large"]
    {
        pair.bad.queries(Act::Say(answer(status, "no\n")));
        let code: u16 = status[..3].parse().unwrap();
        let mut seen = 0;
        for n in 0..SEGMENTS {
            let (found, text) = ask(&pair.asker, &name(n), "SELECT a FROM t").await;
            assert!(found == 200 || (found, &*text) == (code, "no\n"), "{found} {text}");
            seen += usize::from(found == code);
        }
        assert!(seen > 0 && seen < SEGMENTS, "{status}: {seen}");
    }
}

#[allow(clippy::await_holding_lock, clippy::readonly_write_lock, reason = "it lets the mount hang")]
#[tokio::test]
async fn what_this_reader_has_but_cannot_give_another_gives() {
    let pair = Pair::new(Act::Say(answer("503 Service Unavailable", "away\n"))).await;
    for n in 0..SEGMENTS {
        pair.cluster.held(&name(n), &["asker", "bad", "good"]);
    }
    pair.all_answered("the table says that it is here, and it is not yet").await;
    for n in 0..SEGMENTS {
        let path = pair.asker.segment(&name(n), TABLE);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[100..].fill(0xff);
        std::fs::write(&path, bytes).unwrap();
    }
    pair.all_answered("damaged here").await;
    for n in 0..SEGMENTS {
        pair.asker.segment(&name(n), TABLE);
    }
    pair.asker.directory.set(MountState::Dead);
    pair.all_answered("the mount is dead here").await;
    pair.asker.directory.set(MountState::Live);
    let hangs = pair.asker.directory.hangs.write().unwrap();
    let answer = ask(&pair.asker, &name(0), "SELECT a FROM t").await;
    drop(hangs);
    assert_eq!(answer, (200, ROW.to_owned()), "the mount hangs here");
    // nobody else has it either: it is waited for here
    pair.asker.directory.set(MountState::Dead);
    pair.good.directory.set(MountState::Absent);
    let back = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        pair.asker.directory.set(MountState::Live);
    };
    let segment = name(0);
    let asking = ask(&pair.asker, &segment, "SELECT a FROM t");
    assert_eq!(tokio::join!(asking, back).0, (200, ROW.to_owned()));
}

#[tokio::test]
async fn s9_what_moves_while_it_is_asked_for_is_found() {
    let pair = Pair::new(Act::Say(answer("421 Misdirected Request", "not here\n"))).await;
    pair.cluster.held(&name(0), &["bad"]);
    let segment = name(0);
    let asking = ask(&pair.asker, &segment, "SELECT a FROM t");
    let moving = async {
        while pair.bad.asked().is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        pair.cluster.held(&name(0), &["good"]);
    };
    assert_eq!(tokio::join!(asking, moving).0, (200, ROW.to_owned()));

    // away from this reader, which alone has it by what the table said last
    for (newest, older) in [(&["asker"][..], &[][..]), (&[], &["asker"])] {
        pair.cluster.held_by(&name(2), newest, older);
        let segment = name(2);
        let asking = ask(&pair.asker, &segment, "SELECT a FROM t");
        let moving = async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            pair.cluster.held(&name(2), &["good"]);
        };
        let answer = tokio::join!(asking, moving).0;
        assert_eq!(answer, (200, ROW.to_owned()), "from {newest:?} {older:?}");
    }

    // to this reader itself, which the table does not say yet
    pair.cluster.held(&name(1), &["bad"]);
    pair.asker.segment(&name(1), TABLE);
    assert_eq!(ask(&pair.asker, &name(1), "SELECT a FROM t").await, (200, ROW.to_owned()));
}

#[tokio::test]
async fn all_that_have_it_refuse_and_one_says_why() {
    let pair = Pair::new(Act::Say(answer("503 Service Unavailable", "its mount is away\n"))).await;
    pair.cluster.held(&name(0), &["bad"]);
    let (status, text) = ask(&pair.asker, &name(0), "SELECT a FROM t").await;
    assert_eq!((status, &*text), (503, "its mount is away\n"));
    let asked = pair.bad.asked().len();
    pair.bad.queries(Act::Say(answer("429 Too Many Requests", "busy\n")));
    let (status, text) = ask(&pair.asker, &name(0), "SELECT a FROM t").await;
    assert_eq!((status, &*text), (429, "busy\n"));
    assert_eq!(pair.bad.asked().len(), asked + 1, "a busy reader was asked again at once");
    // nothing at its address
    pair.cluster.member("bad", "127.0.0.1:1");
    let (status, text) = ask(&pair.asker, &name(0), "SELECT a FROM t").await;
    assert_eq!(status, 503, "{text}");
    assert!(text.contains("node bad"), "{text}");
}

#[tokio::test]
async fn s9_an_older_version_is_answered_when_none_of_the_newest_is() {
    let newest = "[{\"a\":2}]\n";
    let pair = Pair::new(Act::Say(answer("200 OK", newest))).await;
    for n in 0..SEGMENTS {
        pair.cluster.held_by(&name(n), &["bad"], &["good"]);
    }
    for n in 0..SEGMENTS {
        let answer = ask(&pair.asker, &name(n), "SELECT a FROM t").await;
        assert_eq!(answer, (200, newest.to_owned()), "{}", name(n));
    }
    for act in [
        Act::Say(answer("503 Service Unavailable", "away\n")),
        Act::SayAndClose(String::new()),
        Act::SayAndHang(String::new()),
    ] {
        if matches!(act, Act::SayAndHang(_)) {
            pair.bad.health(Act::SayAndHang(String::new()));
        }
        pair.bad.queries(act);
        let answer = ask(&pair.asker, &name(0), "SELECT a FROM t").await;
        assert_eq!(answer, (200, ROW.to_owned()));
    }
    // this reader itself has the older version, or the newest, but not in its mount
    pair.cluster.held_by(&name(1), &["bad"], &["asker"]);
    pair.asker.segment(&name(1), TABLE);
    assert_eq!(ask(&pair.asker, &name(1), "SELECT a FROM t").await, (200, ROW.to_owned()));
    pair.cluster.held_by(&name(2), &["asker"], &["good"]);
    assert_eq!(ask(&pair.asker, &name(2), "SELECT a FROM t").await, (200, ROW.to_owned()));
}
