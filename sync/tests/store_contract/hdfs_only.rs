//! What only HDFS can be asked: servers that hang, die and forget.

use super::*;
use rig::hdfs::{Hdfs, Process, exclusive, shared};

async fn store_with_file(hdfs: &Hdfs, root: &str, bytes: &[u8]) -> Arc<dyn Store> {
    let store = open(&hdfs.url(root), SHORT).unwrap();
    store.mkdir(&StorePath::root()).await.unwrap();
    write(&*store, "x.sqlite", bytes.to_vec()).await;
    store
}

/// Waits, with a bound, until the store answers again.
async fn answers(store: &dyn Store) {
    for _ in 0..50 {
        if store.stat(&path("x.sqlite")).await.is_ok_and(|stamp| stamp.is_some()) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("the store does not answer again: {:?}", store.stat(&path("x.sqlite")).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_node_that_hangs_is_a_time_out_and_works_again_after() {
    let hdfs = exclusive();
    let store = store_with_file(&hdfs, "/hangs", b"bytes").await;
    hdfs.pause(Process::NameNode);
    rig::soak::hold();
    let kind = |error: StoreError| error.kind;
    let all = async {
        let timed_out = StoreErrorKind::TimedOut;
        assert_eq!(store.stat(&path("x.sqlite")).await.map_err(kind), Err(timed_out));
        assert_eq!(read(&*store, "x.sqlite").await.map_err(kind), Err(timed_out));
        assert_eq!(store.create(&path("y")).await.err().map(kind), Some(timed_out));
        assert_eq!(store.delete(&path("none")).await.map_err(kind), Err(timed_out));
        let to = path("z");
        assert_eq!(store.rename(&path("x.sqlite"), &to).await.map_err(kind), Err(timed_out));
        let listing = list(&*store).await;
        assert_eq!(listing.unseen.into_iter().map(kind).collect::<Vec<_>>(), [timed_out]);
    };
    // 18 s by the sum of the time-outs
    let ended = tokio::time::timeout(Duration::from_secs(90), all).await;
    hdfs.resume(Process::NameNode);
    ended.expect("every call ends");
    answers(&*store).await;
    assert_eq!(read(&*store, "x.sqlite").await.unwrap(), b"bytes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_node_that_is_killed_is_an_error_and_works_again_after_its_restart() {
    let hdfs = exclusive();
    let store = store_with_file(&hdfs, "/killed", b"bytes").await;
    hdfs.kill(Process::NameNode);
    let first = store.stat(&path("x.sqlite")).await.unwrap_err();
    let second = store.stat(&path("x.sqlite")).await.unwrap_err();
    let listing = list(&*store).await;
    hdfs.restart(Process::NameNode);
    // a call that was sent just as its connection broke is only given up when it is late
    let known = matches!(first.kind, StoreErrorKind::Unavailable | StoreErrorKind::TimedOut);
    assert!(known, "{first}");
    assert_eq!(second.kind, StoreErrorKind::Unavailable, "{second}");
    assert!(second.to_string().contains("is the NameNode running"), "{second}");
    assert!(listing.segments.is_empty() && listing.unseen.len() == 1);
    answers(&*store).await;
    assert_eq!(read(&*store, "x.sqlite").await.unwrap(), b"bytes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_data_node_that_hangs_does_not_stop_a_read() {
    let hdfs = exclusive();
    let bytes = vec![7u8; 1_000_000];
    let store = store_with_file(&hdfs, "/data-node", &bytes).await;
    for node in 1..=rig::hdfs::DATANODES {
        hdfs.pause(Process::DataNode(node));
        rig::soak::hold();
        let got = read(&*store, "x.sqlite").await;
        hdfs.resume(Process::DataNode(node));
        assert!(got.unwrap() == bytes, "with datanode-{node} hanging");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn data_nodes_that_all_hang_in_the_middle_of_a_read_end_it_and_it_works_again_after() {
    let hdfs = exclusive();
    // more than lies in queues and sockets while nobody takes it
    let bytes = vec![7u8; 64 << 20];
    let store = store_with_file(&hdfs, "/middle", &bytes).await;
    let mut pieces = store.read(&path("x.sqlite")).await.unwrap();
    let mut got = pieces.next().await.unwrap().unwrap().len();
    let data_nodes = (1..=rig::hdfs::DATANODES).map(Process::DataNode);
    data_nodes.clone().for_each(|process| hdfs.pause(process));
    rig::soak::hold();
    let rest = async {
        loop {
            match pieces.next().await {
                Some(Ok(piece)) => got += piece.len(),
                ended => return ended,
            }
        }
    };
    let ended = tokio::time::timeout(Duration::from_secs(90), rest).await;
    data_nodes.for_each(|process| hdfs.resume(process));
    let error = ended.expect("it ends").expect("an end without an error is a whole file");
    let error = error.unwrap_err();
    let known = matches!(error.kind, StoreErrorKind::Unavailable | StoreErrorKind::TimedOut);
    assert!(known && got < bytes.len(), "{got} bytes, {error}");
    works_again(&*store, &bytes).await;
}

/// Waits until the file there is read and another one written: DataNodes that were silent for minutes register anew.
async fn works_again(store: &dyn Store, bytes: &[u8]) {
    let mut last = String::new();
    for n in 0..300 {
        let again = async {
            let got = read(store, "x.sqlite").await?;
            assert!(got == bytes, "other bytes came");
            let mut writer = store.create(&path(&format!("again-{n}"))).await?;
            writer.write(Bytes::from_static(b"again")).await?;
            writer.close().await
        };
        match again.await {
            Ok(()) => return,
            Err(error) => last = error.to_string(),
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    panic!("the store does not work again: {last}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s2_a_flipped_byte_on_one_data_node_reads_right_and_on_all_is_an_error() {
    let hdfs = shared();
    let bytes: Vec<u8> = (0..2_000_000u32).map(|n| (n % 251) as u8).collect();
    let store = store_with_file(&hdfs, "/flipped", &bytes).await;
    hdfs.flip_byte("/flipped/x.sqlite", &[2]);
    for _ in 0..6 {
        assert!(read(&*store, "x.sqlite").await.unwrap() == bytes, "other bytes came");
    }
    hdfs.flip_byte("/flipped/x.sqlite", &[1, 3]);
    let error = read(&*store, "x.sqlite").await.unwrap_err();
    assert!(matches!(error.kind, StoreErrorKind::Unavailable | StoreErrorKind::Corrupt), "{error}");
    assert!(error.to_string().contains("/flipped/x.sqlite"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unreadable_directory_is_unseen_and_the_rest_is_listed() {
    let hdfs = shared();
    let store = store_with_file(&hdfs, "/closed", b"bytes").await;
    store.mkdir(&path("no")).await.unwrap();
    write(&*store, "no/hidden.sqlite", "x").await;
    hdfs.dfs(&["-chmod", "000", "/closed/no"]);
    let listing = list(&*store).await;
    assert_eq!(listing.segments.keys().collect::<Vec<_>>(), ["x.sqlite"]);
    assert_eq!(listing.unseen.len(), 1);
    assert_eq!(listing.unseen[0].kind, StoreErrorKind::Denied, "{}", listing.unseen[0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_freshly_formatted_name_node_says_that_the_root_is_not_there() {
    let hdfs = exclusive();
    let store = store_with_file(&hdfs, "/formatted", b"bytes").await;
    hdfs.reformat();
    let listing = list(&*store).await;
    assert!(listing.segments.is_empty());
    assert_eq!(listing.unseen.len(), 1, "an empty NameNode is not an empty store");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s4_a_writer_whose_directory_was_deleted_cannot_finish() {
    let hdfs = shared();
    let store = open(&hdfs.url("/fence"), SHORT).unwrap();
    store.mkdir(&path("epoch")).await.unwrap();
    let mut writer = store.create(&path("epoch/x")).await.unwrap();
    writer.write(Bytes::from_static(b"late")).await.unwrap();
    assert!(store.delete_tree(&path("epoch")).await.unwrap());
    assert!(writer.close().await.is_err());
    let error = store.create(&path("epoch/y")).await.err().unwrap();
    assert_eq!(error.kind, StoreErrorKind::NotFound, "{error}");
}
