//! `instr` and `replace` in linear time, over SQLite's own, which take time in proportion to the product of
//! both lengths (seconds for 1 MB in 0.5 MB) within one step that nothing can interrupt (S8).
//!
//! Invariant: for every argument the answer is that of the built-in function (SQLite 3.54, `func.c`); a
//! property test compares them. Written against the C interface because a number as argument has to be
//! turned into text by SQLite itself.

use std::ffi::{CStr, c_int};

use memchr::memmem;
use rusqlite::ffi;

/// Registers both on `connection`.
pub fn install(connection: &rusqlite::Connection) -> rusqlite::Result<()> {
    register(connection, c"instr", 2, instr)?;
    register(connection, c"replace", 3, replace)
}

type ScalarFunction =
    unsafe extern "C" fn(*mut ffi::sqlite3_context, c_int, *mut *mut ffi::sqlite3_value);

fn register(
    connection: &rusqlite::Connection,
    name: &CStr,
    arguments: c_int,
    function: ScalarFunction,
) -> rusqlite::Result<()> {
    // innocuous as the built-ins are: a view or an index on an expression may use them
    let flags = ffi::SQLITE_UTF8 | ffi::SQLITE_DETERMINISTIC | ffi::SQLITE_INNOCUOUS;
    // SAFETY: the handle is open for as long as `connection` is borrowed, the name is a C string, and the
    // function has the type that SQLite calls and no data of its own
    let code = unsafe {
        ffi::sqlite3_create_function_v2(
            connection.handle(),
            name.as_ptr(),
            arguments,
            flags,
            std::ptr::null_mut(),
            Some(function),
            None,
            None,
            None,
        )
    };
    match code {
        ffi::SQLITE_OK => Ok(()),
        code => Err(rusqlite::Error::SqliteFailure(ffi::Error::new(code), None)),
    }
}

/// The value as text; `None` for NULL and when memory is out.
///
/// # Safety
/// `value` is one that SQLite gave, and is not asked for in another form while the answer lives.
unsafe fn text<'a>(value: *mut ffi::sqlite3_value) -> Option<&'a [u8]> {
    // SAFETY: as this function's; the length is asked for after the text, as SQLite demands
    unsafe {
        let start = ffi::sqlite3_value_text(value);
        let length = usize::try_from(ffi::sqlite3_value_bytes(value)).unwrap_or(0);
        (!start.is_null()).then(|| std::slice::from_raw_parts(start, length))
    }
}

/// The value's bytes, as a blob.
///
/// # Safety
/// As [`text`].
unsafe fn blob<'a>(value: *mut ffi::sqlite3_value) -> &'a [u8] {
    // SAFETY: as this function's; an empty blob has no address
    unsafe {
        let start = ffi::sqlite3_value_blob(value).cast::<u8>();
        let length = usize::try_from(ffi::sqlite3_value_bytes(value)).unwrap_or(0);
        if start.is_null() { &[] } else { std::slice::from_raw_parts(start, length) }
    }
}

fn continues_character(byte: u8) -> bool {
    byte & 0xc0 == 0x80
}

/// Where `needle` first is in `haystack`, counted in characters from 1; 0 when it is not there.
fn position_in_text(haystack: &[u8], needle: &[u8]) -> usize {
    let found = match needle.first() {
        None => return 1,
        // no character starts so: the built-in looks for it at the very start only
        Some(&first) if continues_character(first) => haystack.starts_with(needle).then_some(0),
        Some(_) => memmem::find(haystack, needle),
    };
    let Some(at) = found else { return 0 };
    // character starts after the first byte, up to and including the place
    let starts = (1..=at).filter(|&i| !continues_character(haystack[i])).count();
    1 + starts
}

fn position_in_blob(haystack: &[u8], needle: &[u8]) -> usize {
    memmem::find(haystack, needle).map_or(0, |at| at + 1)
}

unsafe extern "C" fn instr(
    context: *mut ffi::sqlite3_context,
    _count: c_int,
    arguments: *mut *mut ffi::sqlite3_value,
) {
    // SAFETY: SQLite calls with the two arguments that the function was registered with
    unsafe {
        let (haystack, needle) = (*arguments, *arguments.add(1));
        let kinds = (ffi::sqlite3_value_type(haystack), ffi::sqlite3_value_type(needle));
        let position = match kinds {
            (ffi::SQLITE_NULL, _) | (_, ffi::SQLITE_NULL) => return,
            (ffi::SQLITE_BLOB, ffi::SQLITE_BLOB) => position_in_blob(blob(haystack), blob(needle)),
            (ffi::SQLITE_BLOB, _) | (_, ffi::SQLITE_BLOB) => {
                // a blob turned into text in place would stay so for the next function
                let copies = (ffi::sqlite3_value_dup(haystack), ffi::sqlite3_value_dup(needle));
                let position = match (copies.0.is_null(), copies.1.is_null()) {
                    (false, false) => mixed(copies.0, copies.1),
                    _ => None,
                };
                ffi::sqlite3_value_free(copies.0);
                ffi::sqlite3_value_free(copies.1);
                match position {
                    Some(position) => position,
                    None => return ffi::sqlite3_result_error_nomem(context),
                }
            }
            _ => match (text(haystack), text(needle)) {
                (Some(haystack), Some(needle)) => position_in_text(haystack, needle),
                _ => return ffi::sqlite3_result_error_nomem(context),
            },
        };
        ffi::sqlite3_result_int64(context, i64::try_from(position).unwrap_or(i64::MAX));
    }
}

/// # Safety
/// As [`text`], for both.
unsafe fn mixed(
    haystack: *mut ffi::sqlite3_value,
    needle: *mut ffi::sqlite3_value,
) -> Option<usize> {
    // SAFETY: as this function's
    unsafe {
        // an empty needle is found at once, before anything becomes text
        if ffi::sqlite3_value_bytes(needle) == 0 {
            return Some(1);
        }
        Some(position_in_text(text(haystack)?, text(needle)?))
    }
}

unsafe extern "C" fn replace(
    context: *mut ffi::sqlite3_context,
    _count: c_int,
    arguments: *mut *mut ffi::sqlite3_value,
) {
    // SAFETY: SQLite calls with the three arguments that the function was registered with
    unsafe {
        // none: NULL, or out of memory, which SQLite has noted itself
        let Some(subject) = text(*arguments) else { return };
        let Some(pattern) = text(*arguments.add(1)) else { return };
        // so does the built-in: it looks at the byte, not at the length
        if pattern.first().is_none_or(|&byte| byte == 0) {
            return result_text(context, subject);
        }
        let Some(by) = text(*arguments.add(2)) else { return };
        let database = ffi::sqlite3_context_db_handle(context);
        let limit = ffi::sqlite3_limit(database, ffi::SQLITE_LIMIT_LENGTH, -1);
        match replaced(subject, pattern, by, usize::try_from(limit).unwrap_or(0)) {
            Some(out) => result_text(context, &out),
            None => ffi::sqlite3_result_error_toobig(context),
        }
    }
}

/// # Safety
/// `context` is that of the call under way.
unsafe fn result_text(context: *mut ffi::sqlite3_context, bytes: &[u8]) {
    // SAFETY: SQLite copies the bytes before this returns; they are far below 2 GiB (SQLITE_LIMIT_LENGTH)
    unsafe {
        ffi::sqlite3_result_text64(
            context,
            bytes.as_ptr().cast(),
            bytes.len() as u64,
            ffi::SQLITE_TRANSIENT(),
            ffi::SQLITE_UTF8 as u8,
        );
    }
}

/// `subject` with every `pattern` replaced; `None` when that is longer than `limit`. The built-in checks the
/// limit only as the text grows.
fn replaced(subject: &[u8], pattern: &[u8], by: &[u8], limit: usize) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(subject.len());
    let mut rest = 0;
    let mut grown = subject.len();
    for at in memmem::find_iter(subject, pattern) {
        if by.len() > pattern.len() {
            grown += by.len() - pattern.len();
            if grown > limit {
                return None;
            }
        }
        out.extend_from_slice(&subject[rest..at]);
        out.extend_from_slice(by);
        rest = at + pattern.len();
    }
    out.extend_from_slice(&subject[rest..]);
    Some(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rusqlite::Connection;
    use rusqlite::types::Value;

    /// Values that meet: few letters, characters of several bytes, numbers, blobs of half characters.
    fn value() -> impl Strategy<Value = Value> {
        prop_oneof![
            1 => Just(Value::Null),
            2 => (-120_i64..120).prop_map(Value::Integer),
            2 => (-20..20_i32).prop_map(|n| Value::Real(f64::from(n) / 4.0)),
            1 => any::<f64>().prop_map(Value::Real),
            8 => "[ab1é€\u{1F600}\0]{0,6}".prop_map(Value::Text),
            4 => prop::collection::vec(
                prop::sample::select(vec![b'a', b'b', b'1', 0, 0xc3, 0xa9, 0x82, 0xe2]), 0..6
            ).prop_map(Value::Blob),
        ]
    }

    fn both() -> (Connection, Connection) {
        let ours = Connection::open_in_memory().unwrap();
        super::install(&ours).unwrap();
        (ours, Connection::open_in_memory().unwrap())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(3000))]
        #[test]
        fn both_functions_answer_as_sqlite_does(a in value(), b in value(), c in value()) {
            let (ours, theirs) = both();
            let sql = "SELECT instr(?1, ?2), typeof(instr(?1, ?2)), \
                       hex(replace(?1, ?2, ?3)), typeof(replace(?1, ?2, ?3)), \
                       instr(CAST(?1 AS TEXT), CAST(?2 AS TEXT)), typeof(?1), hex(?1)";
            let ask = |connection: &Connection| -> Vec<Value> {
                connection.query_row(sql, [&a, &b, &c], |row| (0..7).map(|i| row.get(i)).collect())
                    .unwrap()
            };
            prop_assert_eq!(ask(&ours), ask(&theirs));
        }
    }

    #[test]
    fn growth_over_the_length_limit_is_an_error_as_in_sqlite() {
        let (ours, theirs) = both();
        for connection in [&ours, &theirs] {
            connection.set_limit(rusqlite::limits::Limit::SQLITE_LIMIT_LENGTH, 1000).unwrap();
            let ask = |by: i64| {
                let sql = "SELECT length(replace('aaaaaaaaaa', 'a', hex(zeroblob(?1))))";
                connection.query_row(sql, [by], |row| row.get::<_, i64>(0))
            };
            assert_eq!(ask(50).unwrap(), 1000);
            assert!(ask(51).unwrap_err().to_string().contains("too big"));
        }
    }

    #[test]
    fn s8_a_long_needle_takes_no_time() {
        let (ours, _) = both();
        // 6.8 s with the built-in
        let sql = "SELECT instr(hex(zeroblob(500000)), hex(zeroblob(250000)) || '1'), \
                   length(replace(hex(zeroblob(500000)), hex(zeroblob(250000)) || '1', ''))";
        let answer = ours.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
        assert_eq!(answer, (0, 1_000_000));
    }
}
