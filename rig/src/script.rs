//! What the rigs have in common: a directory, and a shell script that does the work there.
//!
//! Invariant: nothing outlives the test process, however it ends: each script has a watchdog that sees to it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::net::Net;

/// A rig that runs; dropping it stops it and removes its directory.
#[derive(Debug)]
pub(crate) struct Rig {
    script: &'static str,
    dir: PathBuf,
}

impl Rig {
    /// Starts one in a directory of its own, which ends with this process.
    pub(crate) fn start(script: &'static str, prefix: &str, verb: &str) -> Self {
        let dir = tempfile::Builder::new().prefix(prefix).tempdir();
        let dir = dir.expect("a temporary directory for a rig").keep();
        let rig = Self { script, dir };
        rig.run(verb, &[&rustix::process::getpid().as_raw_nonzero().to_string()]);
        rig
    }

    /// Starts one in the directory of a net, on hosts of it that `args` name; it ends with the net.
    pub(crate) fn start_on(script: &'static str, net: &Net, name: &str, args: &[&str]) -> Self {
        let rig = Self { script, dir: net.dir().join(name) };
        let net = net.dir().to_str().expect("a net's directory");
        rig.run("start-on", &[&[net], args].concat());
        rig
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// What the rig's env file says of `name`.
    pub(crate) fn env(&self, name: &str) -> String {
        let env = std::fs::read_to_string(self.dir.join("env")).expect("the rig's env file");
        let found = env.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        found.unwrap_or_else(|| panic!("no {name} in the rig's env file")).to_owned()
    }

    /// What the script says to `verb` and `args`.
    pub(crate) fn run(&self, verb: &str, args: &[&str]) -> String {
        let output = self.output(verb, args);
        assert!(
            output.status.success(),
            "{} {verb} {args:?} failed: {}{}",
            self.script,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// The same where a failure is an answer.
    pub(crate) fn output(&self, verb: &str, args: &[&str]) -> Output {
        Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join(self.script))
            .arg(verb)
            .arg(&self.dir)
            .args(args)
            .stdin(Stdio::null())
            .output()
            .expect("a rig's script runs")
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        // what is on a net went with it, where the net was dropped first
        let there = self.dir.try_exists().unwrap_or(true);
        if there && self.output("stop", &[]).status.success() {
            let _ = std::fs::remove_dir_all(&self.dir);
        }
    }
}
