//! The SQL functions that the original trough adds: REGEXP, SEEDCRAWLEDSTATUS, BUILDREDIRECTARRAY.
//!
//! Invariant: none of them can run long: a regular expression is matched in linear time and has a bounded
//! compiled size (the original's engine backtracks), the other two work on one row's values. None has an
//! effect, so a segment's own views may use them, as they could in the original.

use regex::bytes::{Regex, RegexBuilder};
use rusqlite::Connection;
use rusqlite::functions::{Context, FunctionFlags};
use rusqlite::types::{Value, ValueRef};

/// The most memory a compiled expression may take, in bytes. Unicode classes need some 100 KB each.
const REGEX_BYTES_MAX: usize = 1 << 20;
/// The most hops that BUILDREDIRECTARRAY takes: its list is as long as the hop path.
const HOPS_MAX: usize = 1000;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Registers all three.
pub fn install(connection: &Connection) -> rusqlite::Result<()> {
    let flags = FunctionFlags::SQLITE_UTF8
        | FunctionFlags::SQLITE_DETERMINISTIC
        | FunctionFlags::SQLITE_INNOCUOUS;
    connection.create_scalar_function("REGEXP", 2, flags, regexp)?;
    connection.create_scalar_function("SEEDCRAWLEDSTATUS", 1, flags, |context| {
        Ok(seed_crawled_status(context.get_raw(0)))
    })?;
    connection.create_scalar_function("BUILDREDIRECTARRAY", 4, flags, build_redirect_array)
}

/// `X REGEXP Y` calls `regexp(Y, X)`: the expression comes first. A NULL subject does not match (the
/// original says so too); a NULL expression is NULL.
fn regexp(context: &Context<'_>) -> rusqlite::Result<Option<bool>> {
    if context.get_raw(0) == ValueRef::Null {
        return Ok(None);
    }
    // compiled once a statement where the expression is a constant
    let regex = context.get_or_create_aux(0, compile)?;
    let matched = match context.get_raw(1) {
        ValueRef::Null => false,
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => regex.is_match(bytes),
        ValueRef::Integer(number) => regex.is_match(number.to_string().as_bytes()),
        ValueRef::Real(number) => regex.is_match(number.to_string().as_bytes()),
    };
    Ok(Some(matched))
}

fn compile(pattern: ValueRef<'_>) -> Result<Regex, Failure> {
    let pattern = pattern.as_str().map_err(|_| "REGEXP needs text as its expression")?;
    let regex = RegexBuilder::new(pattern)
        .size_limit(REGEX_BYTES_MAX)
        .dfa_size_limit(REGEX_BYTES_MAX)
        .build();
    regex.map_err(|error| format!("REGEXP: {error}").into())
}

/// A crawler's status code in words.
fn seed_crawled_status(code: ValueRef<'_>) -> String {
    let number = match code {
        ValueRef::Null | ValueRef::Blob(_) => None,
        ValueRef::Integer(number) => Some(number),
        // as Python's int(): towards zero
        ValueRef::Real(number) => Some(number as i64),
        ValueRef::Text(text) => {
            std::str::from_utf8(text).ok().and_then(|text| text.trim().parse().ok())
        }
    };
    match (number, code) {
        (Some(300..=399), _) => "Redirected".to_owned(),
        (Some(number @ 400..), _) => format!("Crawled (HTTP error {number})"),
        (Some(1..), _) => "Crawled".to_owned(),
        (Some(0 | -5003 | -5004), _) => "Not crawled (queued)".to_owned(),
        (Some(-9998), _) => "Not crawled (blocked by robots)".to_owned(),
        (Some(number), _) => format!("Not crawled ({number})"),
        // where the original raised an error for text, this names the text
        (None, ValueRef::Text(text)) => format!("Not crawled ({})", String::from_utf8_lossy(text)),
        (None, _) => "Not crawled (None)".to_owned(),
    }
}

/// `(url, status, hop_path, list)`: the JSON `list` with `{"seed", "status"}` at the place that the length
/// of `hop_path` says, filled up with nulls.
fn build_redirect_array(context: &Context<'_>) -> rusqlite::Result<String> {
    let failed = |text: String| rusqlite::Error::UserFunctionError(text.into());
    let url = match context.get::<Value>(0)? {
        Value::Null => serde_json::Value::Null,
        Value::Integer(number) => number.into(),
        Value::Real(number) => number.into(),
        Value::Text(text) => text.into(),
        Value::Blob(_) => return Err(failed("BUILDREDIRECTARRAY: the address is a blob".into())),
    };
    let path = context.get_raw(2).as_str();
    let hops = path.map_or(0, |path| path.chars().count());
    if hops == 0 || hops > HOPS_MAX {
        return Err(failed(format!(
            "BUILDREDIRECTARRAY: the hop path must be text of 1 to {HOPS_MAX} characters"
        )));
    }
    let list = match context.get_raw(3) {
        ValueRef::Null => "",
        list => {
            list.as_str().map_err(|_| failed("BUILDREDIRECTARRAY: the list is no text".into()))?
        }
    };
    let mut list: Vec<serde_json::Value> = match list {
        "" => Vec::new(),
        list => serde_json::from_str(list)
            .map_err(|error| failed(format!("BUILDREDIRECTARRAY: the list is no JSON: {error}")))?,
    };
    if list.len() < hops {
        list.resize(hops, serde_json::Value::Null);
    }
    let status = seed_crawled_status(context.get_raw(1));
    list[hops - 1] = serde_json::json!({ "seed": url, "status": status });
    Ok(serde_json::Value::Array(list).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(sql: &str) -> Result<Value, String> {
        let connection = Connection::open_in_memory().unwrap();
        install(&connection).unwrap();
        connection.query_row(sql, [], |row| row.get(0)).map_err(|error| error.to_string())
    }

    #[test]
    fn regexp_searches_in_linear_time() {
        for (sql, expected) in [
            ("SELECT 'cleveland' REGEXP 'v.l'", Value::Integer(1)),
            ("SELECT 'cleveland' REGEXP '^v'", Value::Integer(0)),
            ("SELECT NULL REGEXP 'a'", Value::Integer(0)),
            ("SELECT 'a' REGEXP NULL", Value::Null),
            ("SELECT 1712 REGEXP '^17'", Value::Integer(1)),
            ("SELECT CAST(x'ff41' AS TEXT) REGEXP 'A$'", Value::Integer(1)),
            // a backtracking engine does not end here
            (
                "SELECT replace(hex(zeroblob(20000)), '0', 'a') REGEXP '^(a+)+$|b'",
                Value::Integer(1),
            ),
        ] {
            assert_eq!(ask(sql), Ok(expected), "{sql}");
        }
        for bad in ["SELECT 'a' REGEXP '('", "SELECT 'a' REGEXP '\\w{1000}{1000}'"] {
            assert!(ask(bad).unwrap_err().contains("REGEXP"), "{bad}");
        }
    }

    #[test]
    fn a_crawlers_codes_are_words() {
        for (code, words) in [
            ("200", "Crawled"),
            ("'200'", "Crawled"),
            ("302", "Redirected"),
            ("404", "Crawled (HTTP error 404)"),
            ("0", "Not crawled (queued)"),
            ("-5003", "Not crawled (queued)"),
            ("-9998", "Not crawled (blocked by robots)"),
            ("-2", "Not crawled (-2)"),
            ("NULL", "Not crawled (None)"),
        ] {
            let answer = ask(&format!("SELECT SEEDCRAWLEDSTATUS({code})"));
            assert_eq!(answer, Ok(Value::Text(words.to_owned())), "{code}");
        }
    }

    #[test]
    fn redirects_are_put_at_their_hop() {
        let answer = ask("SELECT BUILDREDIRECTARRAY('http://b', 200, 'RR', \
                          BUILDREDIRECTARRAY('http://a', 301, 'R', NULL))");
        let expected =
            r#"[{"seed":"http://a","status":"Redirected"},{"seed":"http://b","status":"Crawled"}]"#;
        assert_eq!(answer, Ok(Value::Text(expected.to_owned())));
        assert!(ask("SELECT BUILDREDIRECTARRAY('a', 1, '', NULL)").is_err());
        assert!(ask("SELECT BUILDREDIRECTARRAY('a', 1, 'R', '{')").is_err());
        assert!(ask("SELECT BUILDREDIRECTARRAY('a', 1, hex(zeroblob(90000)), NULL)").is_err());
    }
}
