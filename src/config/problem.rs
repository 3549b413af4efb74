//! Telling a person what is wrong with the settings: file, line, the line's text, a caret, and what is
//! allowed.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml_edit::{Document, Item};

/// One thing that is wrong, at the setting `path`; an empty path is about none in particular. A number in it is a
/// place in a list, from 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Section and key.
    pub path: Vec<String>,
    /// What is wrong and what is allowed.
    pub message: String,
}

/// Everything that is wrong, ready to be shown.
#[derive(Debug)]
pub struct Problems {
    texts: Vec<String>,
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.texts.join("\n"))
    }
}

impl std::error::Error for Problems {}

impl Problems {
    /// How many there are.
    pub fn count(&self) -> usize {
        self.texts.len()
    }

    pub(super) fn unreadable(file: &Path, error: &std::io::Error) -> Self {
        Self { texts: vec![format!("read the settings file {}: {error}", file.display())] }
    }
}

/// A settings file's text, and where in it each setting stands.
#[derive(Debug)]
pub struct Origin {
    name: PathBuf,
    text: String,
    document: Document<String>,
    overridden: HashMap<Vec<String>, String>,
}

impl Origin {
    /// Reads the positions in `text`.
    pub(super) fn parse(name: &Path, text: &str) -> Result<Self, Problems> {
        let document = Document::parse(text.to_owned()).map_err(|error| {
            let shown = render(name, text, error.span(), error.message().trim_end());
            Problems { texts: vec![shown] }
        })?;
        Ok(Self {
            name: name.to_owned(),
            text: text.to_owned(),
            document,
            overridden: HashMap::new(),
        })
    }

    /// Remembers that the setting at `path` comes from `--set assignment`.
    pub(super) fn overridden(&mut self, path: &[String], assignment: &str) {
        self.overridden.insert(path.to_vec(), assignment.to_owned());
    }

    /// A problem of the file's form.
    pub(super) fn syntax(&self, error: &toml::de::Error) -> Problems {
        let shown = render(&self.name, &self.text, error.span(), error.message().trim_end());
        Problems { texts: vec![shown] }
    }

    /// Shows `problems` in the order of the file.
    pub(super) fn problems(&self, problems: Vec<Problem>) -> Problems {
        let mut placed: Vec<(Option<Range<usize>>, Problem)> =
            problems.into_iter().map(|problem| (self.span(&problem.path), problem)).collect();
        placed.sort_by_key(|(span, _)| span.as_ref().map(|span| span.start));
        let texts = placed.into_iter().map(|(span, problem)| self.show(span, &problem)).collect();
        Problems { texts }
    }

    fn show(&self, span: Option<Range<usize>>, problem: &Problem) -> String {
        let named = match problem.path.as_slice() {
            [] => problem.message.clone(),
            path => format!("{}: {}", path.join("."), problem.message),
        };
        let path = &problem.path;
        let beginning = |count: usize| self.overridden.get(&path[..count]);
        match ((0..=path.len()).rev().find_map(beginning), span) {
            (Some(assignment), _) => format!("--set {assignment}: {}", problem.message),
            (None, Some(span)) => render(&self.name, &self.text, Some(span), &named),
            (None, None) if problem.path.is_empty() => named,
            (None, None) => format!("{named} (this is the default; nothing sets it)"),
        }
    }

    fn span(&self, path: &[String]) -> Option<Range<usize>> {
        let (last, sections) = path.split_last()?;
        let mut item = self.document.as_item();
        for key in sections {
            item = within(item, key)?;
        }
        let key = item.as_table_like().and_then(|table| table.get_key_value(last));
        match within(item, last)? {
            Item::Value(value) => value.span(),
            item => key.and_then(|(key, _)| key.span()).or_else(|| item.span()),
        }
    }
}

/// What `key` names in `item`: a setting in a section, or a place in a list.
fn within<'a>(item: &'a Item, key: &str) -> Option<&'a Item> {
    match key.parse::<usize>() {
        Ok(place) => item.get(place),
        Err(_) => item.get(key),
    }
}

/// The message, and where there is a place for it the line with carets under it.
fn render(name: &Path, text: &str, span: Option<Range<usize>>, message: &str) -> String {
    let file = name.display();
    let Some(span) = span else { return format!("{file}: {message}") };
    let start = span.start.min(text.len());
    let line_start = text[..start].rfind('\n').map_or(0, |at| at + 1);
    let line_number = text[..line_start].matches('\n').count() + 1;
    let line = text[line_start..].lines().next().unwrap_or("");
    let before = text[line_start..start].chars().count();
    let rest = line.chars().count().saturating_sub(before);
    let carets = text.get(span).map_or(1, |text| text.chars().count()).clamp(1, rest.max(1));
    let number = line_number.to_string();
    let gap = " ".repeat(number.len());
    format!(
        "{file}:{number}: {message}\n  {number} | {line}\n  {gap} | {}{}",
        " ".repeat(before),
        "^".repeat(carets)
    )
}
