//! Builds the segments of the demo: one SQLite database for each state of the United States, with the bird
//! strikes that were reported there and its airports, from the public records in `testdata/`.
//!
//! `birdstrikes OUT_DIR [TESTDATA_DIR]`. The same input gives the same bytes.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use flate2::read::GzDecoder;
use rusqlite::{Connection, params};

/// The segment of the airports whose state the source does not say.
const ELSEWHERE: &str = "elsewhere";

/// Postal code and name of each state, district and territory, as the two sources say them.
#[rustfmt::skip]
const STATES: [(&str, &str); 56] = [
    ("AK", "Alaska"), ("AL", "Alabama"), ("AR", "Arkansas"), ("AS", "American Samoa"), ("AZ", "Arizona"),
    ("CA", "California"), ("CO", "Colorado"), ("CQ", "Northern Mariana Islands"), ("CT", "Connecticut"),
    ("DC", "DC"), ("DE", "Delaware"), ("FL", "Florida"), ("GA", "Georgia"), ("GU", "Guam"), ("HI", "Hawaii"),
    ("IA", "Iowa"), ("ID", "Idaho"), ("IL", "Illinois"), ("IN", "Indiana"), ("KS", "Kansas"),
    ("KY", "Kentucky"), ("LA", "Louisiana"), ("MA", "Massachusetts"), ("MD", "Maryland"), ("ME", "Maine"),
    ("MI", "Michigan"), ("MN", "Minnesota"), ("MO", "Missouri"), ("MS", "Mississippi"), ("MT", "Montana"),
    ("NC", "North Carolina"), ("ND", "North Dakota"), ("NE", "Nebraska"), ("NH", "New Hampshire"),
    ("NJ", "New Jersey"), ("NM", "New Mexico"), ("NV", "Nevada"), ("NY", "New York"), ("OH", "Ohio"),
    ("OK", "Oklahoma"), ("OR", "Oregon"), ("PA", "Pennsylvania"), ("PR", "Puerto Rico"),
    ("RI", "Rhode Island"), ("SC", "South Carolina"), ("SD", "South Dakota"), ("TN", "Tennessee"),
    ("TX", "Texas"), ("UT", "Utah"), ("VA", "Virginia"), ("VI", "Virgin Islands"), ("VT", "Vermont"),
    ("WA", "Washington"), ("WI", "Wisconsin"), ("WV", "West Virginia"), ("WY", "Wyoming"),
];

const SCHEMA: &str = "
    CREATE TABLE strikes (
        strike_id       INTEGER PRIMARY KEY,
        flight_date     TEXT NOT NULL,
        airport         TEXT NOT NULL,
        aircraft        TEXT NOT NULL,
        operator        TEXT NOT NULL,
        phase_of_flight TEXT NOT NULL,
        time_of_day     TEXT NOT NULL,
        species         TEXT NOT NULL,
        wildlife_size   TEXT NOT NULL,
        damage          TEXT NOT NULL,
        speed_knots     INTEGER,
        cost_repair_usd INTEGER NOT NULL,
        cost_other_usd  INTEGER NOT NULL,
        cost_total_usd  INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE airports (
        code      TEXT PRIMARY KEY,
        name      TEXT NOT NULL,
        city      TEXT NOT NULL,
        country   TEXT NOT NULL,
        latitude  REAL NOT NULL,
        longitude REAL NOT NULL
    ) STRICT;
    CREATE TABLE about (state TEXT NOT NULL, source TEXT NOT NULL) STRICT;";

const INDEXES: &str = "
    CREATE INDEX strikes_by_date ON strikes (flight_date);
    CREATE INDEX strikes_by_species ON strikes (species);
    CREATE INDEX strikes_by_airport ON strikes (airport);
    ANALYZE;";

const SOURCE: &str =
    "FAA Wildlife Strike Database and US airports; works of the US government, public domain";

/// One database being filled.
struct Segment {
    connection: Connection,
}

impl Segment {
    fn create(directory: &Path, id: &str, state: &str) -> anyhow::Result<Self> {
        let path = directory.join(format!("{id}.sqlite"));
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("remove {}", path.display()));
            }
            _ => {}
        }
        let connection =
            Connection::open(&path).with_context(|| format!("create {}", path.display()))?;
        // rebuilt from the source when anything goes wrong: no journal needed
        connection.execute_batch("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; BEGIN;")?;
        connection.execute_batch(SCHEMA)?;
        connection.execute("INSERT INTO about VALUES (?1, ?2)", params![state, SOURCE])?;
        Ok(Self { connection })
    }

    fn finish(self) -> anyhow::Result<()> {
        self.connection.execute_batch(INDEXES)?;
        self.connection.execute_batch("COMMIT")?;
        self.connection.close().map_err(|(_, error)| error.into())
    }
}

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args_os().skip(1);
    let Some(output) = arguments.next().map(PathBuf::from) else {
        bail!("say where to: birdstrikes OUT_DIR [TESTDATA_DIR]");
    };
    let beside_source = || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/testdata"));
    let input = arguments.next().map_or_else(beside_source, PathBuf::from);
    std::fs::create_dir_all(&output).with_context(|| format!("create {}", output.display()))?;

    let mut segments = BTreeMap::new();
    for (code, name) in STATES {
        segments.insert(code, Segment::create(&output, &id_of(name), name)?);
    }
    segments.insert(ELSEWHERE, Segment::create(&output, ELSEWHERE, ELSEWHERE)?);
    let codes: BTreeMap<&str, &str> = STATES.iter().map(|&(code, name)| (name, code)).collect();

    let mut strikes = 0_i64;
    for record in records(&input.join("birdstrikes.csv.gz"))? {
        let record = record?;
        strikes += 1;
        let field = |name: &str| {
            record.get(name).map(String::as_str).with_context(|| format!("no column {name:?}"))
        };
        let state = field("Origin State")?;
        let code = codes.get(state).with_context(|| format!("no code for the state {state:?}"))?;
        segments[code].connection.prepare_cached(
            "INSERT INTO strikes VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)",
        )?
        .execute(params![
            strikes,
            iso_date(field("Flight Date")?)?,
            field("Airport Name")?,
            field("Aircraft Make Model")?,
            field("Aircraft Airline Operator")?,
            field("Phase of flight")?,
            field("Time of day")?,
            field("Wildlife Species")?,
            field("Wildlife Size")?,
            field("Effect Amount of damage")?,
            integer(field("Speed IAS in knots")?)?,
            integer(field("Cost Repair")?)?,
            integer(field("Cost Other")?)?,
            integer(field("Cost Total $")?)?,
        ])?;
    }
    for record in records(&input.join("airports.csv.gz"))? {
        let record = record?;
        let field = |name: &str| {
            record.get(name).map(String::as_str).with_context(|| format!("no column {name:?}"))
        };
        let code = field("state")?;
        let segment = segments.get(code).unwrap_or(&segments[ELSEWHERE]);
        segment
            .connection
            .prepare_cached("INSERT INTO airports VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?
            .execute(params![
                field("iata")?,
                field("name")?,
                field("city")?,
                field("country")?,
                field("latitude")?.parse::<f64>()?,
                field("longitude")?.parse::<f64>()?,
            ])?;
    }
    let count = segments.len();
    for (_, segment) in segments {
        segment.finish()?;
    }
    println!("{strikes} strikes in {count} segments below {}", output.display());
    Ok(())
}

/// The records of a compressed CSV file, by the names of its first line.
fn records(
    path: &Path,
) -> anyhow::Result<impl Iterator<Item = csv::Result<BTreeMap<String, String>>>> {
    let file = File::open(path).with_context(|| format!("open {}", path.display()))?;
    Ok(csv::Reader::from_reader(GzDecoder::new(file)).into_deserialize())
}

/// `New York` becomes `new-york`: what DNS takes as a label.
fn id_of(state: &str) -> String {
    match state {
        "DC" => "district-of-columbia".to_owned(),
        _ => state.to_lowercase().replace(' ', "-"),
    }
}

fn iso_date(text: &str) -> anyhow::Result<&str> {
    let shape =
        |(at, c): (usize, char)| if at == 4 || at == 7 { c == '-' } else { c.is_ascii_digit() };
    ensure!(
        text.len() == 10 && text.char_indices().all(shape),
        "{text:?} is not a date as 1990-12-31"
    );
    Ok(text)
}

/// `1,234` is 1234; nothing is NULL.
fn integer(text: &str) -> anyhow::Result<Option<i64>> {
    let digits = text.replace(',', "");
    match digits.is_empty() {
        true => Ok(None),
        false => digits.parse().map(Some).with_context(|| format!("{text:?} is not a number")),
    }
}
