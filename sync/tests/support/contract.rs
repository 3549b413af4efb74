//! One list of cases, asked of a SQLite file and of a real Consul alike.

/// Each case of this list runs on a `File` and on a `OneServer`; its names are its own. On Consul all of them run at once
/// and share one server: they wait for its clocks, and only the longest of those waits is paid for.
macro_rules! contract {
    ($($module:ident: $($name:ident),*;)*) => {
        mod sqlite {
            $($(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                crate::$module::$name(&crate::File::new()).await;
            })*)*
        }
        #[test]
        fn a_consul_keeps_the_contract() {
            let running = [$($({
                let case = || {
                    let runtime = tokio::runtime::Runtime::new().unwrap();
                    runtime.block_on($module::$name(&OneServer::shared()));
                };
                let name = stringify!($name);
                (name, std::thread::Builder::new().name(name.to_owned()).spawn(case).unwrap())
            },)*)*];
            let ended = running.map(|(name, case)| (name, case.join()));
            let failed: Vec<_> =
                ended.iter().filter(|(_, end)| end.is_err()).map(|(name, _)| name).collect();
            assert!(failed.is_empty(), "failed on Consul, each with its own message above: {failed:?}");
        }
    };
}
