//! What befalls the documents in which a node is told what to hold.

use rig::consul::HTTP_PORT;
use sync::kv::consul::{ConsulKv, ConsulSettings};
use sync::kv::{Consistency, Key, Kv};

use crate::stage::{NODES, Stage};
use crate::steps::http;

#[test]
fn s9_no_answer_fails_for_what_befalls_the_documents_of_a_node() {
    let mut stage = Stage::set();
    stage.machines.allow("trough/assign/c/meta: it is");
    for (what, body) in [("deleted", None), ("emptied", Some("")), ("garbled", Some("{\"x\":1}"))] {
        stage.through(
            &format!("the assignment of a node is {what}"),
            &NODES,
            |stage| {
                let keys = assigned(stage);
                assert!(!keys.is_empty());
                for key in keys {
                    let url = format!("{}/v1/kv/{key}", consul(stage));
                    let (method, body) = body.map_or(("DELETE", ""), |body| ("PUT", body));
                    assert_eq!(http(method, &url, body).0, 200, "{method} {key}");
                }
            },
            |_| (),
        );
    }
}

fn consul(stage: &Stage) -> String {
    format!("http://{}:{HTTP_PORT}", stage.host("a").address())
}

/// Every key of what `c` is told.
fn assigned(stage: &Stage) -> Vec<String> {
    let settings = ConsulSettings { address: consul(stage), ..ConsulSettings::default() };
    let kv = ConsulKv::new(&settings).unwrap();
    let below = Key::new("trough/assign/c").unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let entries = runtime.block_on(kv.list(&below, Consistency::Consistent)).unwrap();
    let meta = std::iter::once(below.to_string());
    entries.iter().map(|entry| entry.key.to_string()).chain(meta).collect()
}
