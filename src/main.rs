//! Entry point of the one binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    fsd::failpoint::setup();
    trough::run()
}
