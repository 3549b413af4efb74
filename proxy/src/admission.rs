//! What SQL may do on a reader's connection: an allow-list that SQLite itself asks (S7).
//!
//! Invariant: what is not listed here is refused, and the list stays in force for the connection's life,
//! because SQLite prepares a statement again whenever it likes. SQLite decides what a statement does; no
//! second parser is involved.
//!
//! Left out: that only one statement is given (the prepare tail, in [`crate::connection`]) and how long it
//! may run ([`crate::query`]).

use std::sync::{Arc, Mutex};

use rusqlite::hooks::{AuthAction, AuthContext, Authorization};

/// Functions that a query may call, in order. Left out with intent: `load_extension`, `fts3_tokenizer`
/// (a process pointer), `optimize` (writes), the `sqlite_*` functions that tell how the node is built.
const FUNCTIONS: &[&str] = &[
    "->",
    "->>",
    "abs",
    "acos",
    "acosh",
    "asin",
    "asinh",
    "atan",
    "atan2",
    "atanh",
    "avg",
    "bm25",
    "buildredirectarray",
    "ceil",
    "ceiling",
    "changes",
    "char",
    "coalesce",
    "concat",
    "concat_ws",
    "cos",
    "cosh",
    "count",
    "cume_dist",
    "current_date",
    "current_time",
    "current_timestamp",
    "date",
    "datetime",
    "degrees",
    "dense_rank",
    "exp",
    "first_value",
    "floor",
    "format",
    "fts5",
    "fts5_get_locale",
    "fts5_insttoken",
    "fts5_locale",
    "fts5_source_id",
    "geopoly_area",
    "geopoly_bbox",
    "geopoly_blob",
    "geopoly_contains_point",
    "geopoly_json",
    "geopoly_overlap",
    "geopoly_within",
    "glob",
    "group_concat",
    "hex",
    "highlight",
    "if",
    "ifnull",
    "iif",
    "instr",
    "json",
    "json_array",
    "json_array_insert",
    "json_array_length",
    "json_error_position",
    "json_extract",
    "json_group_array",
    "json_group_object",
    "json_insert",
    "json_object",
    "json_patch",
    "json_pretty",
    "json_quote",
    "json_remove",
    "json_replace",
    "json_set",
    "json_type",
    "json_valid",
    "jsonb",
    "jsonb_array",
    "jsonb_array_insert",
    "jsonb_extract",
    "jsonb_group_array",
    "jsonb_group_object",
    "jsonb_insert",
    "jsonb_object",
    "jsonb_patch",
    "jsonb_remove",
    "jsonb_replace",
    "jsonb_set",
    "julianday",
    "lag",
    "last_value",
    "lead",
    "length",
    "like",
    "likelihood",
    "likely",
    "ln",
    "log",
    "log10",
    "log2",
    "lower",
    "ltrim",
    "match",
    "matchinfo",
    "max",
    "median",
    "min",
    "mod",
    "nth_value",
    "ntile",
    "nullif",
    "octet_length",
    "offsets",
    "percent_rank",
    "percentile",
    "percentile_cont",
    "percentile_disc",
    "pi",
    "pow",
    "power",
    "printf",
    "quote",
    "radians",
    "random",
    "randomblob",
    "rank",
    "regexp",
    "replace",
    "round",
    "row_number",
    "rtreedepth",
    "rtreenode",
    "rtrim",
    "seedcrawledstatus",
    "sign",
    "sin",
    "sinh",
    "snippet",
    "soundex",
    "sqrt",
    "strftime",
    "string_agg",
    "substr",
    "substring",
    "subtype",
    "sum",
    "tan",
    "tanh",
    "time",
    "timediff",
    "total",
    "total_changes",
    "trim",
    "trunc",
    "typeof",
    "unhex",
    "unicode",
    "unistr",
    "unistr_quote",
    "unixepoch",
    "unlikely",
    "upper",
    "zeroblob",
];

/// Pragmas that tell of a table or index; they may have its name as argument.
const PRAGMAS_OF_TABLES: &[&str] = &[
    "foreign_key_list",
    "index_info",
    "index_list",
    "index_xinfo",
    "table_info",
    "table_list",
    "table_xinfo",
];

/// Pragmas that tell of the file; refused with an argument, which would set something.
const PRAGMAS_OF_FILES: &[&str] = &[
    "application_id",
    "collation_list",
    "data_version",
    "encoding",
    "freelist_count",
    "page_count",
    "page_size",
    "schema_version",
    "user_version",
];

/// Virtual tables that show the file's or the process's insides.
const TABLES_DENIED: &[&str] =
    &["dbstat", "sqlite_dbpage", "sqlite_stmt", "bytecode", "tables_used"];

/// Endings of the tables in which an R-tree keeps its nodes.
const RTREE_TABLES: &[&str] = &["_node", "_rowid", "_parent"];

/// What the authorizer saw of the statement that is being prepared.
#[derive(Debug, Default)]
struct Seen {
    /// What it refused first, for people.
    refused: Option<String>,
    /// Whether the statement selects or is an allowed pragma. `VACUUM` and the like ask for nothing.
    reads: bool,
}

/// The allow-list of one connection, and what it last saw.
#[derive(Debug, Clone, Default)]
pub struct Admission(Arc<Mutex<Seen>>);

impl Admission {
    /// Puts the list in force on `connection`.
    pub fn install(connection: &mut rusqlite::Connection) -> rusqlite::Result<Self> {
        let admission = Self::default();
        let seen = admission.clone();
        connection.authorizer(Some(move |context: AuthContext<'_>| seen.judge(&context)))?;
        Ok(admission)
    }

    /// Forgets the last statement.
    pub fn begin(&self) {
        *self.lock() = Seen::default();
    }

    /// What was refused of the last statement.
    pub fn refused(&self) -> Option<String> {
        self.lock().refused.clone()
    }

    /// Whether the last statement is a query at all.
    pub fn reads(&self) -> bool {
        self.lock().reads
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.0.lock().expect("a panic ends the process, so no thread has left this lock poisoned")
    }

    fn judge(&self, context: &AuthContext<'_>) -> Authorization {
        let mut seen = self.lock();
        match judge(&context.action) {
            Ok(reads) => {
                seen.reads |= reads;
                Authorization::Allow
            }
            Err(what) => {
                seen.refused.get_or_insert(what);
                Authorization::Deny
            }
        }
    }
}

/// `Ok` when the action is allowed (`true` when it makes the statement a query), else what it would do.
pub(crate) fn judge(action: &AuthAction<'_>) -> Result<bool, String> {
    let change = |verb: &str, what: &str| Err(format!("{verb} {what}"));
    match *action {
        AuthAction::Select => Ok(true),
        AuthAction::Recursive => Ok(false),
        AuthAction::Read { table_name, .. } => match listed(TABLES_DENIED, table_name) {
            true => Err(format!("reading {table_name}")),
            false => Ok(false),
        },
        AuthAction::Function { function_name } => match listed(FUNCTIONS, function_name) {
            true => Ok(false),
            false => Err(format!("the function {function_name}()")),
        },
        AuthAction::Pragma { pragma_name, pragma_value } => {
            let allowed = listed(PRAGMAS_OF_TABLES, pragma_name)
                || (pragma_value.is_none() && listed(PRAGMAS_OF_FILES, pragma_name));
            match allowed {
                true => Ok(true),
                false => change("PRAGMA", pragma_name),
            }
        }
        // an R-tree prepares its own writes when it is first looked at; it never runs them here, and a
        // statement that would is no read-only one, which the connection checks after this list
        AuthAction::Insert { table_name }
        | AuthAction::Update { table_name, .. }
        | AuthAction::Delete { table_name }
            if RTREE_TABLES.iter().any(|suffix| table_name.ends_with(suffix)) =>
        {
            Ok(false)
        }
        AuthAction::Insert { table_name } => change("INSERT into", table_name),
        AuthAction::Update { table_name, .. } => change("UPDATE of", table_name),
        AuthAction::Delete { table_name } => change("DELETE from", table_name),
        AuthAction::CreateIndex { index_name, .. }
        | AuthAction::CreateTempIndex { index_name, .. } => change("CREATE INDEX", index_name),
        AuthAction::CreateTable { table_name }
        | AuthAction::CreateTempTable { table_name }
        | AuthAction::CreateVtable { table_name, .. } => change("CREATE TABLE", table_name),
        AuthAction::CreateTrigger { trigger_name, .. }
        | AuthAction::CreateTempTrigger { trigger_name, .. } => {
            change("CREATE TRIGGER", trigger_name)
        }
        AuthAction::CreateView { view_name } | AuthAction::CreateTempView { view_name } => {
            change("CREATE VIEW", view_name)
        }
        AuthAction::DropIndex { index_name, .. } | AuthAction::DropTempIndex { index_name, .. } => {
            change("DROP INDEX", index_name)
        }
        AuthAction::DropTable { table_name }
        | AuthAction::DropTempTable { table_name }
        | AuthAction::DropVtable { table_name, .. } => change("DROP TABLE", table_name),
        AuthAction::DropTrigger { trigger_name, .. }
        | AuthAction::DropTempTrigger { trigger_name, .. } => change("DROP TRIGGER", trigger_name),
        AuthAction::DropView { view_name } | AuthAction::DropTempView { view_name } => {
            change("DROP VIEW", view_name)
        }
        AuthAction::AlterTable { table_name, .. } => change("ALTER TABLE", table_name),
        AuthAction::Reindex { index_name } => change("REINDEX", index_name),
        AuthAction::Analyze { table_name } => change("ANALYZE", table_name),
        // the path is the client's own word: nothing is given away by saying it
        AuthAction::Attach { filename } => change("ATTACH", filename),
        AuthAction::Detach { database_name } => change("DETACH", database_name),
        AuthAction::Transaction { .. } => Err("BEGIN, COMMIT or ROLLBACK".to_owned()),
        AuthAction::Savepoint { .. } => Err("SAVEPOINT, RELEASE or ROLLBACK TO".to_owned()),
        AuthAction::Unknown { code, .. } => Err(format!("an action unknown to trough ({code})")),
        // the enum is marked open: what a later rusqlite adds is refused until it is listed
        _ => Err("an action unknown to trough".to_owned()),
    }
}

/// Whether SQL of callers may call the function `name`.
pub(crate) fn is_allowed_function(name: &str) -> bool {
    listed(FUNCTIONS, name)
}

/// Whether `list` has `name`, in whatever case.
pub(crate) fn listed(list: &[&str], name: &str) -> bool {
    // every name asked for is ASCII or not on the list; SQLite compares names without case
    let mut lower = [0_u8; 40];
    let Some(lower) = lower.get_mut(..name.len()) else { return false };
    lower.copy_from_slice(name.as_bytes());
    lower.make_ascii_lowercase();
    list.iter().any(|entry| entry.as_bytes() == lower)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_function_of_this_sqlite_is_allowed_or_left_out_by_name() {
        let left_out = [
            "fts3_tokenizer",
            "fts5_expr",
            "fts5_expr_tcl",
            "fts5_decode",
            "fts5_decode_none",
            "fts5_fold",
            "fts5_isalnum",
            "fts5_rowid",
            "last_insert_rowid",
            "load_extension",
            "optimize",
            "rtreecheck",
            "sqlite_compileoption_get",
            "sqlite_compileoption_used",
            "sqlite_log",
            "sqlite_offset",
            "sqlite_source_id",
            "sqlite_version",
        ];
        let plain = rusqlite::Connection::open_in_memory().unwrap();
        let mut names = plain.prepare("SELECT DISTINCT name FROM pragma_function_list").unwrap();
        let names: Vec<String> =
            names.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
        assert!(names.len() > 100);
        for name in names {
            let known = listed(FUNCTIONS, &name) || left_out.contains(&name.as_str());
            assert!(known, "{name} is neither allowed nor left out");
        }
    }

    #[test]
    fn a_name_is_compared_without_case_and_as_a_whole() {
        assert!(listed(FUNCTIONS, "Json_Each") == listed(FUNCTIONS, "json_each"));
        assert!(listed(FUNCTIONS, "ABS"));
        for no in ["", "ab", "abs ", "load_extension", &"a".repeat(500)] {
            assert!(!listed(FUNCTIONS, no), "{no}");
        }
    }
}
