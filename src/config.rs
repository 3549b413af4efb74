//! The settings: one TOML file for every process of a node.
//!
//! `config/defaults.toml` is the complete file: every setting, its default and what it means. What a person
//! writes is laid over it, then `--set`, and the result is read into one struct per subsystem. Tests hold
//! the file against the `Default` of those structs, so neither can say something else than the other; only
//! where things lie is this layer's own choice.
//!
//! Invariant: a [`Config`] was checked; its paths are absolute. All problems are told at once, each with its
//! line.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use crate::cli::Shared;
use crate::logging::LogSettings;

mod check;
mod identity;
mod problem;
pub mod settings;

pub use problem::{Origin, Problem, Problems};
use settings::{
    CacheSettings, DiscoverySettings, LeadSection, LocalSettings, ManagerSettings, MountSettings,
    NodeSettings, PlanSection, PublishSettings, ReaderSettings, RegistryKind, RegistrySettings,
    ScrubSettings, StoreSettings, TokenSettings, WriterSettings,
};

pub use identity::Server;

/// The complete settings file with every default.
pub const DEFAULTS: &str = include_str!("config/defaults.toml");

/// The name of the settings file in a trough's directory.
pub const FILE_NAME: &str = "trough.toml";

/// Every setting. All sections must be there when it is read: [`DEFAULTS`] has them.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// This machine and its ports.
    pub node: NodeSettings,
    /// The deep store.
    pub store: StoreSettings,
    /// The verified files on this machine.
    pub cache: CacheSettings,
    /// The read-only view of them.
    pub mount: MountSettings,
    /// The local synchronizer.
    pub sync: LocalSettings,
    /// Publishing, as `trough put` does it.
    pub publish: PublishSettings,
    /// Reading everything again to find damage.
    pub scrub: ScrubSettings,
    /// The reader.
    pub read: ReaderSettings,
    /// The writer.
    pub write: WriterSettings,
    /// Who may read, write and give orders.
    pub tokens: TokenSettings,
    /// The synchronizer's HTTP side.
    pub manager: ManagerSettings,
    /// What the processes agree on.
    pub registry: RegistrySettings,
    /// The lead of a cluster.
    pub lead: LeadSection,
    /// Who holds what in a cluster.
    pub plan: PlanSection,
    /// What is told to those who ask DNS.
    pub discovery: DiscoverySettings,
    /// The log.
    pub log: LogSettings,
}

/// Where settings come from.
#[derive(Debug, Clone)]
pub struct Sources {
    /// The file, when there is one.
    pub file: Option<PathBuf>,
    /// Where relative paths start; absolute.
    pub base: PathBuf,
    /// `SECTION.KEY=VALUE`, later ones win.
    pub overrides: Vec<String>,
}

impl Sources {
    /// The sources that the command line names: `--config`, else `DIR/trough.toml` if it is there.
    pub fn of(shared: &Shared) -> std::io::Result<Self> {
        let dir = std::path::absolute(&shared.dir)?;
        let in_dir = dir.join(FILE_NAME);
        let file = match &shared.config {
            Some(file) => Some(std::path::absolute(file)?),
            None => in_dir.try_exists()?.then_some(in_dir),
        };
        let base = file.as_deref().and_then(Path::parent).unwrap_or(&dir).to_owned();
        Ok(Self { file, base, overrides: shared.set.clone() })
    }
}

impl Config {
    /// Reads, lays over the defaults, and checks. Nothing is created or changed.
    pub fn load(sources: &Sources) -> Result<Self, Problems> {
        let (name, text) = match &sources.file {
            None => (PathBuf::new(), String::new()),
            Some(file) => match std::fs::read_to_string(file) {
                Ok(text) => (file.clone(), text),
                Err(error) => return Err(Problems::unreadable(file, &error)),
            },
        };
        Self::from_text(&name, &text, &sources.overrides, &sources.base)
    }

    /// [`Self::load`] of a file's text; `name` is what problems call the file.
    pub fn from_text(
        name: &Path,
        text: &str,
        overrides: &[String],
        base: &Path,
    ) -> Result<Self, Problems> {
        let mut origin = Origin::parse(name, text)?;
        let mut written = text.parse::<Table>().map_err(|error| origin.syntax(&error))?;
        let mut problems = Vec::new();
        for assignment in overrides {
            match parse_override(assignment) {
                Ok((path, value)) => {
                    origin.overridden(&path, assignment);
                    set(&mut written, &path, value);
                }
                Err(message) => problems.push(Problem { path: Vec::new(), message }),
            }
        }
        let defaults = default_table();
        for (path, value) in leaves(&written) {
            let mut probe = defaults.clone();
            set(&mut probe, &path, value.clone());
            if let Err(error) = probe.try_into::<Self>() {
                problems.push(Problem { path, message: error.message().trim_end().to_owned() });
            }
        }
        if !problems.is_empty() {
            return Err(origin.problems(problems));
        }
        let mut merged = defaults;
        for (path, value) in leaves(&written) {
            set(&mut merged, &path, value.clone());
        }
        // each value was read alone above, so this fails only where two of them contradict each other
        let mut config: Self = merged.try_into().map_err(|error: toml::de::Error| {
            let message = error.message().to_owned();
            origin.problems(vec![Problem { path: Vec::new(), message }])
        })?;
        config.resolve(base);
        match check::check(&config) {
            problems if problems.is_empty() => Ok(config),
            problems => Err(origin.problems(problems)),
        }
    }

    /// Whether this machine is a node of a cluster.
    pub fn in_cluster(&self) -> bool {
        self.registry.kind == RegistryKind::Consul
    }

    /// Makes every path absolute.
    fn resolve(&mut self, base: &Path) {
        let paths = [
            &mut self.cache.dir,
            &mut self.mount.mountpoint,
            &mut self.registry.path,
            &mut self.write.dir,
        ];
        let consul = &mut self.registry.consul;
        let files = [
            &mut self.publish.temp_dir,
            &mut consul.token_file,
            &mut consul.ca_file,
            &mut consul.cert_file,
            &mut consul.key_file,
            &mut self.tokens.read_file,
            &mut self.tokens.write_file,
            &mut self.tokens.manage_file,
        ];
        for path in paths.into_iter().chain(files.into_iter().flatten()) {
            *path = base.join(&*path);
        }
        if !self.store.url.contains("://") {
            self.store.url = base.join(&self.store.url).to_string_lossy().into_owned();
        }
    }
}

/// The text of the settings file that `trough up` writes at the first start: every default, and the
/// `overrides` in place of theirs.
pub fn first_file(overrides: &[String]) -> Result<String, String> {
    let mut document: toml_edit::DocumentMut =
        DEFAULTS.parse().map_err(|error| format!("read the defaults: {error}"))?;
    for assignment in overrides {
        let (path, value) = parse_override(assignment)?;
        let value: toml_edit::Value =
            value.to_string().parse().map_err(|error| format!("--set {assignment}: {error}"))?;
        let (key, sections) = path.split_last().expect("an override names a section and a key");
        let mut table: &mut dyn toml_edit::TableLike = document.as_table_mut();
        for section in sections {
            let item = table.entry(section).or_insert_with(toml_edit::table);
            table = item
                .as_table_like_mut()
                .ok_or_else(|| format!("--set {assignment}: {section} is no section"))?;
        }
        match table.get_mut(key).and_then(toml_edit::Item::as_value_mut) {
            Some(old) => {
                let decor = old.decor().clone();
                *old = value;
                *old.decor_mut() = decor;
            }
            None => drop(table.insert(key, toml_edit::Item::Value(value))),
        }
    }
    Ok(document.to_string())
}

fn default_table() -> Table {
    DEFAULTS.parse().expect("the defaults are part of the program and read by its tests")
}

/// `a.b=value`: the value as TOML where it is that, else as a string, so that no shell quoting is needed.
fn parse_override(assignment: &str) -> Result<(Vec<String>, Value), String> {
    let wrong = || format!("--set {assignment}: write it as SECTION.KEY=VALUE");
    let (path, text) = assignment.split_once('=').ok_or_else(wrong)?;
    let path: Vec<String> = path.trim().split('.').map(str::to_owned).collect();
    if path.len() < 2 || path.iter().any(String::is_empty) {
        return Err(wrong());
    }
    let parsed = format!("value = {text}").parse::<Table>().ok();
    let value = parsed.filter(|table| table.len() == 1).and_then(|mut table| table.remove("value"));
    Ok((path, value.unwrap_or_else(|| Value::String(text.to_owned()))))
}

/// Sets the value at `path`, making the tables on the way.
fn set(table: &mut Table, path: &[String], value: Value) {
    match path {
        [] => {}
        [key] => {
            table.insert(key.clone(), value);
        }
        [key, rest @ ..] => {
            let entry = table.entry(key.clone()).or_insert_with(|| Value::Table(Table::new()));
            if !entry.is_table() {
                *entry = Value::Table(Table::new());
            }
            if let Value::Table(inner) = entry {
                set(inner, rest, value);
            }
        }
    }
}

/// Every value that is no table, with its path. An empty table counts, so that its name is checked.
fn leaves(table: &Table) -> Vec<(Vec<String>, &Value)> {
    let mut found = Vec::new();
    for (key, value) in table {
        match value {
            Value::Table(inner) if !inner.is_empty() => {
                found.extend(leaves(inner).into_iter().map(|(mut path, value)| {
                    path.insert(0, key.clone());
                    (path, value)
                }));
            }
            // an empty section says nothing; an unknown one is still a problem
            Value::Table(_) if default_table().contains_key(key) => {}
            _ => found.push((vec![key.clone()], value)),
        }
    }
    found
}

#[cfg(test)]
mod tests;
