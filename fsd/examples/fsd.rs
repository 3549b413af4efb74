//! fsd alone, for tests and measurements: `fsd CACHE MOUNTPOINT [SETTINGS-AS-JSON]`.

use fsd::daemon::{self, Shutdown};
use fsd::filesystem::xattrs::Facts;
use fsd::layout::Layout;
use fsd::mount::MountSettings;
use fsd::segment::{Digest, SegmentId};

fn main() {
    let mut arguments = std::env::args().skip(1);
    let (Some(cache), Some(mountpoint)) = (arguments.next(), arguments.next()) else {
        eprintln!("usage: fsd CACHE MOUNTPOINT [SETTINGS-AS-JSON]");
        std::process::exit(2);
    };
    let json = arguments.next().unwrap_or_else(|| "{}".to_owned());
    let settings: MountSettings = match serde_json::from_str(&json) {
        Ok(settings) => settings,
        Err(error) => {
            eprintln!("settings {json}: {error}");
            std::process::exit(2);
        }
    };
    let settings = MountSettings { mountpoint: mountpoint.into(), ..settings };
    let facts = |_: &SegmentId, _: &Digest| -> Option<Facts> { None };
    let done =
        daemon::run(&settings, &Layout::new(cache), Box::new(facts), Shutdown::default(), || {
            eprintln!("ready");
        });
    if let Err(error) = done {
        eprintln!("fsd: {error}");
        std::process::exit(1);
    }
}
