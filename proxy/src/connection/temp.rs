//! A budget for what one query writes to temporary files (S8).
//!
//! SQLite counts a sorter's temporary bytes only when the sort has ended (`SQLITE_DBSTATUS_TEMPBUF_SPILL`),
//! which is too late. Its unix file layer lets a program put its own functions in the place of the system
//! calls; in a reader, every write that SQLite makes on a query's thread is temporary data, for segments
//! are opened read-only. The budget belongs to the thread: SQLite in other threads is not touched.
//!
//! Invariant: a write beyond the budget fails at once with ENOSPC, which ends the query.

use std::cell::Cell;
use std::ffi::{CStr, c_int, c_void};
use std::sync::OnceLock;

use rusqlite::ffi;

thread_local! {
    /// Bytes that this thread's query may still write; `None`: no query, no limit.
    static BUDGET: Cell<Option<u64>> = const { Cell::new(None) };
    static EXCEEDED: Cell<bool> = const { Cell::new(false) };
}

type Write = unsafe extern "C" fn(c_int, *const c_void, usize) -> isize;
type PositionedWrite = unsafe extern "C" fn(c_int, *const c_void, usize, i64) -> isize;

/// The budget of the query that runs on this thread; dropping it ends it.
#[derive(Debug)]
pub struct TempBudget(());

impl TempBudget {
    /// Allows this thread `bytes` from now on.
    pub fn begin(bytes: u64) -> Self {
        install();
        BUDGET.set(Some(bytes));
        EXCEEDED.set(false);
        Self(())
    }

    /// Whether a write was refused.
    pub fn exceeded(&self) -> bool {
        EXCEEDED.get()
    }
}

impl Drop for TempBudget {
    fn drop(&mut self) {
        BUDGET.set(None);
    }
}

/// Takes `bytes` from this thread's budget; `false` when it has not enough left.
fn take(bytes: usize) -> bool {
    let Some(left) = BUDGET.get() else { return true };
    match left.checked_sub(bytes as u64) {
        Some(left) => {
            BUDGET.set(Some(left));
            true
        }
        None => {
            EXCEEDED.set(true);
            false
        }
    }
}

fn refuse() -> isize {
    // SAFETY: the address of this thread's errno is always good
    unsafe { *libc::__errno_location() = libc::ENOSPC };
    -1
}

unsafe extern "C" fn write(file: c_int, from: *const c_void, bytes: usize) -> isize {
    match take(bytes) {
        // SAFETY: SQLite's own arguments, handed on
        true => unsafe { libc::write(file, from, bytes) },
        false => refuse(),
    }
}

unsafe extern "C" fn positioned_write(
    file: c_int,
    from: *const c_void,
    bytes: usize,
    at: i64,
) -> isize {
    match take(bytes) {
        // SAFETY: SQLite's own arguments, handed on
        true => unsafe { libc::pwrite64(file, from, bytes, at) },
        false => refuse(),
    }
}

fn install() {
    static INSTALLED: OnceLock<()> = OnceLock::new();
    INSTALLED.get_or_init(|| {
        // SAFETY: the default file layer lives for ever; the functions have the types of the calls that
        // they stand for, and `sqlite3_syscall_ptr` is how SQLite hands either of them on
        unsafe {
            let vfs = ffi::sqlite3_vfs_find(std::ptr::null());
            let Some(set) = vfs.as_ref().and_then(|vfs| vfs.xSetSystemCall) else { return };
            let generic = |call: *const ()| -> ffi::sqlite3_syscall_ptr {
                Some(std::mem::transmute::<*const (), unsafe extern "C" fn()>(call))
            };
            let calls: [(&CStr, *const ()); 3] = [
                (c"write", write as Write as *const ()),
                (c"pwrite", positioned_write as PositionedWrite as *const ()),
                (c"pwrite64", positioned_write as PositionedWrite as *const ()),
            ];
            for (name, call) in calls {
                set(vfs, name.as_ptr(), generic(call));
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s8_a_sort_beyond_its_budget_ends_and_the_next_one_is_unharmed() {
        let connection = rusqlite::Connection::open_in_memory().unwrap();
        connection.pragma_update(None, "temp_store", 1).unwrap();
        let sort = "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 60000) \
                    SELECT max(length(b)) FROM (SELECT randomblob(200) AS b FROM n ORDER BY b LIMIT 50000)";
        let ask = || connection.query_row(sort, [], |row| row.get::<_, i64>(0));
        {
            let budget = TempBudget::begin(1 << 20);
            assert!(ask().is_err());
            assert!(budget.exceeded());
        }
        let budget = TempBudget::begin(1 << 30);
        assert_eq!(ask().unwrap(), 200);
        assert!(!budget.exceeded());
        assert!(
            BUDGET.get().unwrap() < 1 << 30,
            "the sort wrote nothing: this test proves nothing"
        );
    }
}
