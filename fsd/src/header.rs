//! What the first 100 bytes of a file say: is this an SQLite database that can be shown read-only as it lies
//! there (<https://www.sqlite.org/fileformat.html>, section 1.3).
//!
//! Invariant: a file that passes here opens with plain `sqlite3 FILE` on a read-only mount. One in WAL mode
//! does not (SQLite wants to create its `-shm` file), and one shorter than its header says is cut off.
//!
//! Left out: whether the pages behind the header are sound; that is `PRAGMA quick_check`.

/// Length of the header of an SQLite database, in bytes.
pub const HEADER_BYTES: usize = 100;

const MAGIC: &[u8; 16] = b"SQLite format 3\0";

/// Why a file is not a segment. Every message says what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// No byte at all.
    #[error("the file is empty; create at least one table in it and publish it again")]
    Empty,
    /// Shorter than the header of an SQLite database.
    #[error(
        "the file has only {length} bytes, less than the {HEADER_BYTES} of an SQLite header; \
         it was cut off: publish it again"
    )]
    Short {
        /// Its length in bytes.
        length: u64,
    },
    /// Another kind of file.
    #[error(
        "the file does not start with \"SQLite format 3\", so it is not an SQLite database (or an \
         encrypted one); publish a plain SQLite database"
    )]
    NotSqlite,
    /// Write-ahead log mode.
    #[error(
        "the database is in WAL mode (header bytes 18/19 are {write}/{read}), which nobody can open on a \
         read-only mount; run `PRAGMA journal_mode=DELETE` on it and publish it again"
    )]
    Wal {
        /// Byte 18.
        write: u8,
        /// Byte 19.
        read: u8,
    },
    /// A file format this SQLite does not know.
    #[error(
        "header bytes 18/19 are {write}/{read}, a file format that SQLite does not know; rebuild the \
         database with `VACUUM INTO` and publish that"
    )]
    FormatVersion {
        /// Byte 18.
        write: u8,
        /// Byte 19.
        read: u8,
    },
    /// A page size that no database has.
    #[error(
        "the header says a page size of {0}, which is not a power of two from 512 to 65536; the header is \
         damaged: publish a good copy"
    )]
    PageSize(u32),
    /// The header's page count and the file's length differ.
    #[error(
        "the header says {pages} pages of {page_size} bytes, but the file has {length} bytes; it was cut \
         off or has something appended: publish it again"
    )]
    PageCount {
        /// Pages by the header.
        pages: u32,
        /// Bytes in a page.
        page_size: u32,
        /// The file's length in bytes.
        length: u64,
    },
    /// Not a whole number of pages.
    #[error(
        "{length} bytes are not a whole number of pages of {page_size} bytes; the file was cut off or has \
         something appended: publish it again"
    )]
    PartialPage {
        /// Bytes in a page.
        page_size: u32,
        /// The file's length in bytes.
        length: u64,
    },
}

/// Checks the first bytes of a file of `length` bytes; `start` has the first [`HEADER_BYTES`], or all there are.
pub fn check(start: &[u8], length: u64) -> Result<(), HeaderError> {
    if length == 0 {
        return Err(HeaderError::Empty);
    }
    let Some(header) = start.first_chunk::<HEADER_BYTES>() else {
        return Err(HeaderError::Short { length });
    };
    if &header[..16] != MAGIC {
        return Err(HeaderError::NotSqlite);
    }
    let page_size = match u16::from_be_bytes([header[16], header[17]]) {
        1 => 65_536,
        size => u32::from(size),
    };
    if !(512..=65_536).contains(&page_size) || !page_size.is_power_of_two() {
        return Err(HeaderError::PageSize(page_size));
    }
    match (header[18], header[19]) {
        (1, 1) => {}
        (write @ 1..=2, read @ 1..=2) => return Err(HeaderError::Wal { write, read }),
        (write, read) => return Err(HeaderError::FormatVersion { write, read }),
    }
    // the page count holds only while the change counter equals "version-valid-for" (section 1.3.7)
    let pages = u32::from_be_bytes([header[28], header[29], header[30], header[31]]);
    if pages != 0 && header[24..28] == header[92..96] {
        if u64::from(pages) * u64::from(page_size) != length {
            return Err(HeaderError::PageCount { pages, page_size, length });
        }
    } else if !length.is_multiple_of(u64::from(page_size)) {
        return Err(HeaderError::PartialPage { page_size, length });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn database() -> Vec<u8> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.sqlite");
        let connection = rusqlite::Connection::open(&path).unwrap();
        connection.execute_batch("CREATE TABLE t (a); INSERT INTO t VALUES (1)").unwrap();
        drop(connection);
        std::fs::read(path).unwrap()
    }

    fn check_all(bytes: &[u8]) -> Result<(), HeaderError> {
        check(&bytes[..bytes.len().min(HEADER_BYTES)], bytes.len() as u64)
    }

    #[test]
    fn a_database_as_sqlite_writes_it_passes() {
        assert_eq!(check_all(&database()), Ok(()));
    }

    #[test]
    fn every_wrong_header_has_its_own_error_and_names_the_remedy() {
        let good = database();
        let length = good.len() as u64;
        let with = |at: usize, bytes: &[u8]| {
            let mut changed = good.clone();
            changed[at..at + bytes.len()].copy_from_slice(bytes);
            changed
        };
        let cases = [
            (Vec::new(), HeaderError::Empty, "create at least one table"),
            (good[..99].to_vec(), HeaderError::Short { length: 99 }, "publish it again"),
            (vec![b'x'; 4096], HeaderError::NotSqlite, "publish a plain SQLite database"),
            (
                with(18, &[2, 2]),
                HeaderError::Wal { write: 2, read: 2 },
                "PRAGMA journal_mode=DELETE",
            ),
            (with(19, &[2]), HeaderError::Wal { write: 1, read: 2 }, "PRAGMA journal_mode=DELETE"),
            (with(18, &[3, 1]), HeaderError::FormatVersion { write: 3, read: 1 }, "VACUUM INTO"),
            (with(18, &[0, 0]), HeaderError::FormatVersion { write: 0, read: 0 }, "VACUUM INTO"),
            (with(16, &[0, 3]), HeaderError::PageSize(3), "publish a good copy"),
            (with(16, &[0, 0]), HeaderError::PageSize(0), "publish a good copy"),
            (
                good[..4096].to_vec(),
                HeaderError::PageCount { pages: 2, page_size: 4096, length: 4096 },
                "publish it again",
            ),
            (
                [&good[..], &[0]].concat(),
                HeaderError::PageCount { pages: 2, page_size: 4096, length: length + 1 },
                "publish it again",
            ),
            (
                [&with(92, &[9]), &[0_u8][..]].concat(),
                HeaderError::PartialPage { page_size: 4096, length: length + 1 },
                "publish it again",
            ),
        ];
        for (bytes, expected, remedy) in cases {
            let error = check_all(&bytes).unwrap_err();
            assert_eq!(error, expected);
            assert!(error.to_string().contains(remedy), "{error} does not name the remedy");
        }
        // a page count that is out of date is not believed
        assert_eq!(check_all(&[&with(92, &[9]), &[0_u8; 4096][..]].concat()), Ok(()));
    }
}
