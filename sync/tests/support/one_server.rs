//! A real Consul, and how it is reached.

use std::path::Path;
use std::sync::OnceLock;

use rig::consul::Consul;
use sync::kv::KvTimeouts;
use sync::kv::consul::ConsulSettings;

/// A loaded machine may be slow; what hangs is seen all the same.
pub const PATIENT: KvTimeouts = KvTimeouts { connect_ms: 10_000, call_ms: 20_000 };

/// A Consul; the cases that do it no harm share one.
pub struct OneServer(Option<Consul>);

impl OneServer {
    pub fn shared() -> Self {
        Self(None)
    }

    pub fn own() -> Self {
        Self(Some(Consul::start()))
    }

    pub fn consul(&self) -> &Consul {
        static SHARED: OnceLock<Consul> = OnceLock::new();
        self.0.as_ref().unwrap_or_else(|| SHARED.get_or_init(Consul::start))
    }

    pub fn settings(&self, timeouts: KvTimeouts) -> ConsulSettings {
        let address = self.consul().address().to_owned();
        ConsulSettings { address, timeouts, ..Default::default() }
    }
}

/// What reaches a Consul that was started secure, with a token of the test's own.
pub fn secure_settings(consul: &Consul, token_file: &Path) -> ConsulSettings {
    let file = |name: &str| Some(consul.dir().join(name));
    ConsulSettings {
        address: consul.secure_address(),
        token_file: Some(token_file.to_owned()),
        ca_file: file("tls/consul-agent-ca.pem"),
        cert_file: file("tls/dc1-client-consul-0.pem"),
        key_file: file("tls/dc1-client-consul-0-key.pem"),
        timeouts: PATIENT,
        ..Default::default()
    }
}
