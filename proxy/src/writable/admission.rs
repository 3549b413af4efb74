//! What SQL may do in a segment that is open for writing: an allow-list that SQLite itself asks.
//!
//! Invariants: what is not listed is refused; a request cannot end its own transaction, nor reach another file or the
//! settings of the connection. What a table brings with it (its triggers, and the tables beneath a virtual one) does
//! what it was made for, whatever the verbs are.
//!
//! Left out: that a statement writes at all; the thread looks at that.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard};

use rusqlite::hooks::{AuthAction, AuthContext, Authorization};

use sync::verb::Verb;

use super::verbs::Verbs;
use crate::admission::is_allowed_function;

/// The tables of the schema, and one that `AUTOINCREMENT` keeps; SQLite guards them itself.
const SCHEMA_TABLES: [&str; 4] =
    ["sqlite_master", "sqlite_schema", "sqlite_sequence", "sqlite_temp_master"];
/// Modules that a virtual table may have.
const MODULES: [&str; 2] = ["fts5", "rtree"];
/// What SQLite calls of its own while a table is altered; nobody else can call them.
const FUNCTIONS_OF_ALTER: [&str; 2] = ["sqlite_rename_", "sqlite_drop_"];
/// What FTS5 and R-trees ask when they are used.
const PRAGMAS: [&str; 2] = ["data_version", "page_size"];

#[derive(Debug)]
struct State {
    verbs: Verbs,
    /// Tables beneath virtual ones.
    shadows: HashSet<String>,
    /// What it refused first of the current request, for people.
    refused: Option<String>,
    /// A statement of the current request makes this virtual table: its tables' names begin so.
    making: Option<String>,
    /// A statement of the current request drops these.
    dropping: Vec<String>,
    /// The statement is trough's own.
    trusted: bool,
}

/// The allow-list of one connection.
#[derive(Debug, Clone)]
pub(super) struct Admission(Arc<Mutex<State>>);

impl Admission {
    /// Puts the list in force on `connection`.
    pub(super) fn install(
        connection: &mut rusqlite::Connection,
        verbs: Verbs,
    ) -> rusqlite::Result<Self> {
        let shadows = shadows(connection)?;
        let state = State {
            verbs,
            shadows,
            refused: None,
            making: None,
            dropping: Vec::new(),
            trusted: false,
        };
        let admission = Self(Arc::new(Mutex::new(state)));
        let judge = admission.clone();
        connection.authorizer(Some(move |context: AuthContext<'_>| judge.judge(&context)))?;
        Ok(admission)
    }

    /// Begins a statement.
    pub(super) fn begin(&self) {
        let mut state = self.lock();
        state.refused = None;
        state.making = None;
        state.dropping.clear();
    }

    /// What was refused of the statement.
    pub(super) fn refused(&self) -> Option<String> {
        self.lock().refused.clone()
    }

    /// Whether the statements that come now are trough's own.
    pub(super) fn trust(&self, trusted: bool) {
        self.lock().trusted = trusted;
    }

    /// Looks again which tables are beneath virtual ones; after a change of the schema.
    pub(super) fn look(&self, connection: &rusqlite::Connection) -> rusqlite::Result<()> {
        let found = shadows(connection)?;
        self.lock().shadows = found;
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("a panic ends the process, so no thread has left this lock poisoned")
    }

    fn judge(&self, context: &AuthContext<'_>) -> Authorization {
        let mut state = self.lock();
        match state.judge(context) {
            Ok(()) => Authorization::Allow,
            Err(what) => {
                state.refused.get_or_insert(what);
                Authorization::Deny
            }
        }
    }
}

/// The tables beneath virtual ones, as SQLite itself tells them apart.
fn shadows(connection: &rusqlite::Connection) -> rusqlite::Result<HashSet<String>> {
    // a plain query of the schema would not know which module has which
    let mut list = connection.prepare("PRAGMA main.table_list")?;
    let mut rows = list.query([])?;
    let mut found = HashSet::new();
    while let Some(row) = rows.next()? {
        if row.get_ref("type")?.as_str().is_ok_and(|kind| kind == "shadow") {
            found.insert(row.get::<_, String>("name")?.to_ascii_lowercase());
        }
    }
    Ok(found)
}

impl State {
    fn judge(&mut self, context: &AuthContext<'_>) -> Result<(), String> {
        if self.trusted {
            return Ok(());
        }
        // named by the trigger or view that does it: whoever made the schema wanted that
        let by_schema = context.accessor.is_some();
        match context.action {
            AuthAction::Select | AuthAction::Recursive | AuthAction::Read { .. } => Ok(()),
            AuthAction::Function { function_name } => self.function(function_name),
            AuthAction::Insert { table_name } => self.change(Verb::Insert, table_name, by_schema),
            AuthAction::Update { table_name, .. } => {
                self.change(Verb::Update, table_name, by_schema)
            }
            AuthAction::Delete { table_name } => self.change(Verb::Delete, table_name, by_schema),
            AuthAction::CreateTable { table_name } if self.is_beneath(table_name) => Ok(()),
            AuthAction::CreateTable { table_name } => self.verb(Verb::CreateTable, table_name),
            AuthAction::CreateIndex { table_name, .. } if self.is_beneath(table_name) => Ok(()),
            // UNIQUE and PRIMARY KEY make indexes of their own
            AuthAction::CreateIndex { index_name, .. }
                if index_name.starts_with("sqlite_autoindex_") =>
            {
                Ok(())
            }
            AuthAction::CreateIndex { index_name, .. } => self.verb(Verb::CreateIndex, index_name),
            AuthAction::Reindex { index_name } => self.verb(Verb::CreateIndex, index_name),
            AuthAction::CreateView { view_name } => self.verb(Verb::CreateView, view_name),
            AuthAction::CreateTrigger { trigger_name, .. } => {
                self.verb(Verb::CreateTrigger, trigger_name)
            }
            AuthAction::CreateVtable { table_name, module_name } => {
                if !MODULES.iter().any(|module| module.eq_ignore_ascii_case(module_name)) {
                    return Err(format!("CREATE VIRTUAL TABLE with {module_name}"));
                }
                self.verb(Verb::CreateVirtualTable, table_name)?;
                self.making = Some(format!("{}_", table_name.to_ascii_lowercase()));
                Ok(())
            }
            AuthAction::AlterTable { table_name, .. } => self.verb(Verb::AlterTable, table_name),
            AuthAction::DropTable { table_name } if self.is_beneath(table_name) => Ok(()),
            AuthAction::DropTable { table_name } | AuthAction::DropVtable { table_name, .. } => {
                self.verb(Verb::DropTable, table_name)?;
                self.dropping.push(table_name.to_ascii_lowercase());
                Ok(())
            }
            AuthAction::DropIndex { index_name, .. } => self.verb(Verb::DropIndex, index_name),
            AuthAction::DropView { view_name } => {
                self.verb(Verb::DropView, view_name)?;
                self.dropping.push(view_name.to_ascii_lowercase());
                Ok(())
            }
            AuthAction::DropTrigger { trigger_name, table_name } => {
                // a table takes its triggers along
                match self.dropping.iter().any(|name| name.eq_ignore_ascii_case(table_name)) {
                    true => Ok(()),
                    false => self.verb(Verb::DropTrigger, trigger_name),
                }
            }
            AuthAction::Pragma { pragma_name, pragma_value } => {
                match PRAGMAS.contains(&pragma_name) && pragma_value.is_none() {
                    true => Ok(()),
                    false => Err(format!("PRAGMA {pragma_name}")),
                }
            }
            AuthAction::Transaction { .. } => {
                Err("BEGIN, COMMIT or ROLLBACK (a request is one transaction)".to_owned())
            }
            AuthAction::Savepoint { .. } => {
                Err("SAVEPOINT, RELEASE or ROLLBACK TO (a request is one transaction)".to_owned())
            }
            AuthAction::Attach { filename } => Err(format!("ATTACH {filename}, or VACUUM")),
            AuthAction::Detach { database_name } => Err(format!("DETACH {database_name}")),
            AuthAction::Analyze { .. } => Err("ANALYZE".to_owned()),
            AuthAction::Unknown { code, .. } => {
                Err(format!("an action unknown to trough ({code})"))
            }
            // the enum is marked open: what a later rusqlite adds is refused until it is listed
            _ => Err("an action unknown to trough, or one on temporary tables".to_owned()),
        }
    }

    fn verb(&self, verb: Verb, of: &str) -> Result<(), String> {
        match self.verbs.has(verb) {
            true => Ok(()),
            false => Err(format!("{} {of}", verb.name().to_ascii_uppercase())),
        }
    }

    fn change(&self, verb: Verb, table: &str, by_schema: bool) -> Result<(), String> {
        let of_schema = SCHEMA_TABLES.contains(&table);
        if by_schema || self.verbs.has(verb) || self.is_beneath(table) {
            return Ok(());
        }
        // what changes the schema writes there, and was judged by its own name
        if of_schema && (self.verbs.change_the_schema() || self.making.is_some()) {
            return Ok(());
        }
        if self.dropping.iter().any(|name| name.eq_ignore_ascii_case(table)) {
            return Ok(());
        }
        self.verb(verb, table)
    }

    /// Whether it is beneath a virtual table; statements of callers cannot write there (SQLITE_DBCONFIG_DEFENSIVE).
    fn is_beneath(&self, table: &str) -> bool {
        let table = table.to_ascii_lowercase();
        let starts = |with: &String| table.starts_with(with.as_str());
        self.making.as_ref().is_some_and(starts) || self.shadows.contains(&table)
    }

    fn function(&self, name: &str) -> Result<(), String> {
        let of_alter = FUNCTIONS_OF_ALTER.iter().any(|start| name.starts_with(start));
        match is_allowed_function(name) || of_alter || name == "last_insert_rowid" {
            true => Ok(()),
            false => Err(format!("the function {name}()")),
        }
    }
}
