//! What SQL may do in the script of a schema: an allow-list that SQLite itself asks, as a reader's does
//! ([`crate::admission`]), and what that allows is allowed here.
//!
//! Invariant: what is not listed here or there is refused. So is what reaches beyond the empty database that the script
//! runs in, what changes how that is kept, and what a new segment cannot need: nothing is there to be altered, dropped
//! or indexed anew.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rusqlite::Connection;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization, TransactionOperation};

use crate::admission::{self, listed};

/// Virtual tables that keep all that they are in tables of the same file, and that readers have.
const MODULES: &[&str] = &["fts5", "rtree", "rtree_i32"];

/// Pragmas that a script may set: what they set is written into the file, but for `foreign_keys`, with which every dump
/// begins and which ends with the script.
const PRAGMAS: &[&str] =
    &["application_id", "auto_vacuum", "encoding", "foreign_keys", "page_size", "user_version"];

/// Virtual tables that show or change the file's pages.
const TABLES_DENIED: &[&str] = &["sqlite_dbpage", "dbstat"];

#[derive(Debug, Default)]
struct Seen {
    /// What was refused first of the statement that runs, for people.
    refused: Option<String>,
    /// The index that it makes: SQLite asks whether it may be filled as if it were being made anew.
    index: Option<String>,
    /// What runs is this program's own and no script's.
    ours: bool,
}

/// The allow-list of one script, and what it last saw.
#[derive(Debug, Clone, Default)]
pub(super) struct Rules(Arc<Mutex<Seen>>);

impl Rules {
    /// Puts the list in force on `connection`.
    pub(super) fn install(connection: &mut Connection) -> rusqlite::Result<Self> {
        let rules = Self::default();
        let asked = rules.clone();
        connection.authorizer(Some(move |context: AuthContext<'_>| asked.judge(&context)))?;
        Ok(rules)
    }

    /// Forgets the last statement.
    pub(super) fn begin(&self) {
        *self.lock() = Seen::default();
    }

    /// What was refused of the last statement.
    pub(super) fn refused(&self) -> Option<String> {
        self.lock().refused.clone()
    }

    /// Runs what is this program's own.
    pub(super) fn ours<T>(&self, run: impl FnOnce() -> T) -> T {
        self.lock().ours = true;
        let ran = run();
        self.lock().ours = false;
        ran
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn judge(&self, context: &AuthContext<'_>) -> Authorization {
        let mut seen = self.lock();
        if seen.ours {
            return Authorization::Allow;
        }
        match judge(&context.action, &mut seen.index) {
            Ok(()) => Authorization::Allow,
            Err(what) => {
                seen.refused.get_or_insert(what);
                Authorization::Deny
            }
        }
    }
}

/// `Ok` when the action is allowed, else what it would do. `index`: the one that the statement makes.
fn judge(action: &AuthAction<'_>, index: &mut Option<String>) -> Result<(), String> {
    match *action {
        AuthAction::CreateTable { .. }
        | AuthAction::CreateView { .. }
        | AuthAction::CreateTrigger { .. } => Ok(()),
        AuthAction::CreateIndex { index_name, .. } => {
            *index = Some(index_name.to_owned());
            Ok(())
        }
        AuthAction::Reindex { index_name } if index.as_deref() == Some(index_name) => Ok(()),
        AuthAction::CreateVtable { module_name, .. } => match listed(MODULES, module_name) {
            true => Ok(()),
            false => Err(format!("a virtual table of {module_name}")),
        },
        // the tables of the schema itself are among those that are asked for here; SQLite keeps a script from writing
        // to them by itself
        AuthAction::Insert { table_name }
        | AuthAction::Update { table_name, .. }
        | AuthAction::Delete { table_name } => match listed(TABLES_DENIED, table_name) {
            true => Err(format!("a change of {table_name}")),
            false => Ok(()),
        },
        AuthAction::Pragma { pragma_name, pragma_value: Some(_) }
            if listed(PRAGMAS, pragma_name) =>
        {
            Ok(())
        }
        // a dump is one transaction; whether it ends is looked at afterwards. What is unknown here is COMMIT
        AuthAction::Transaction {
            operation: TransactionOperation::Begin | TransactionOperation::Unknown,
        } => Ok(()),
        // VACUUM and VACUUM INTO ask so, too
        AuthAction::Attach { .. } => Err("ATTACH or VACUUM".to_owned()),
        _ => admission::judge(action).map(drop),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_may_be_filled_by_the_statement_that_makes_it_and_by_no_other() {
        let mut index = None;
        let fill = AuthAction::Reindex { index_name: "i" };
        assert!(judge(&fill, &mut index).is_err());
        let make = AuthAction::CreateIndex { index_name: "i", table_name: "t" };
        judge(&make, &mut index).unwrap();
        judge(&fill, &mut index).unwrap();
        assert!(judge(&AuthAction::Reindex { index_name: "j" }, &mut index).is_err());
    }
}
