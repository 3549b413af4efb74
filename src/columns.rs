//! Lines and tables for people, within [`WIDTH`] columns.

use std::fmt::Write;

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};

/// What fits into a terminal beside something else, and into a mail.
const WIDTH: u16 = 100;

/// Lines that say what they are about.
pub fn named<N: AsRef<str>>(lines: impl IntoIterator<Item = (N, String)>) -> String {
    lines.into_iter().fold(String::new(), |mut text, (name, value)| {
        // writing to a string does not fail
        let _ = writeln!(text, "{:<12}{value}", name.as_ref());
        text
    })
}

/// A table; columns whose head begins with `>` are numbers and stand to the right.
pub fn table(head: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_content_arrangement(ContentArrangement::Dynamic).set_width(WIDTH);
    table.set_header(head.iter().map(|name| name.trim_start_matches('>')));
    table.add_rows(rows);
    for (at, _) in head.iter().enumerate().filter(|(_, name)| name.starts_with('>')) {
        if let Some(column) = table.column_mut(at) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.trim_fmt() + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_stays_within_its_width_whatever_is_in_it() {
        let long = "worker-17.rack-4.datacenter-east.example.org:6444";
        let row = || vec![long.to_owned(), "7".to_owned(), long.to_owned(), long.to_owned()];
        let text = table(&["node", ">n", "at", "and"], vec![row(), row()]);
        assert!(text.lines().all(|line| line.chars().count() <= usize::from(WIDTH)), "{text}");
    }
}
