//! What Consul's DNS answers, by `dig`.

use std::collections::BTreeSet;
use std::process::Command;

use rig::consul::Consul;

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// `NOERROR`, `NXDOMAIN`; empty when none came.
    pub status: String,
    /// The data of each record of the kind that was asked for.
    pub records: Vec<String>,
}

fn dig(consul: &Consul, kind: &str, name: &str) -> Answer {
    let port = consul.dns_port().to_string();
    let output = Command::new("dig")
        .args(["@127.0.0.1", "-p", &port, "+noall", "+comments", "+answer", "+tries=1", "+time=5"])
        .args([name, kind])
        .output()
        .expect("dig runs (Debian: bind9-dnsutils)");
    let text = String::from_utf8(output.stdout).unwrap();
    let status = text.split("status: ").nth(1).and_then(|rest| rest.split(',').next());
    let record = |line: &str| {
        let fields: Vec<_> = line.split_whitespace().collect();
        (!line.starts_with(';') && fields.get(3) == Some(&kind)).then(|| fields[4..].join(" "))
    };
    let records = text.lines().filter_map(record).collect();
    Answer { status: status.unwrap_or_default().to_owned(), records }
}

/// The addresses of `label.service`; the status, when there are none.
pub fn addresses(consul: &Consul, label: &str, service: &str) -> Result<BTreeSet<String>, String> {
    let answer = dig(consul, "A", &format!("{label}.{service}.service.consul"));
    if answer.records.is_empty() {
        Err(answer.status)
    } else {
        Ok(answer.records.into_iter().collect())
    }
}

/// Where `label.service` answers, as `host:port`: by SRV, and the addresses of what that names.
pub fn places(consul: &Consul, label: &str, service: &str) -> BTreeSet<String> {
    let answer = dig(consul, "SRV", &format!("{label}.{service}.service.consul"));
    let place = |record: &String| {
        let [_priority, _weight, port, target] = record.split(' ').collect::<Vec<_>>()[..] else {
            panic!("{record:?} is no SRV record");
        };
        format!("{}:{port}", dig(consul, "A", target).records[0])
    };
    answer.records.iter().map(place).collect()
}
