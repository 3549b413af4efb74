//! The command line of Consul, as an operator uses it on a machine.

use std::process::Command;

use rig::consul::Consul;

/// Runs `consul ARGS` towards the rig's Consul.
pub fn consul_cli(consul: &Consul, args: &[&str]) {
    consul_cli_as(consul, "", args);
}

/// The same, with a token.
pub fn consul_cli_as(consul: &Consul, token: &str, args: &[&str]) {
    // the program that the rig runs, wherever it built it
    let pid = std::fs::read_to_string(consul.dir().join("server-1/pid")).unwrap();
    let program = std::fs::read_link(format!("/proc/{}/exe", pid.trim())).unwrap();
    let output = Command::new(program)
        .args(args)
        .env("CONSUL_HTTP_ADDR", consul.address())
        .env("CONSUL_HTTP_TOKEN", token)
        .output()
        .unwrap();
    assert!(output.status.success(), "consul {args:?}: {output:?}");
}

/// `consul maint`, for a service's instance or for the node.
pub fn consul_maint(consul: &Consul, instance: Option<&str>, on: bool) {
    let verb = if on { "-enable" } else { "-disable" };
    let service = instance.map(|id| format!("-service={id}"));
    let args: Vec<_> = ["maint", verb].into_iter().chain(service.as_deref()).collect();
    consul_cli(consul, &args);
}
