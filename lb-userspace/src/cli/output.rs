//! Standard output of the commands: JSON or aligned columns.
//!
//! A closed pipe (`pointsman flows | head -1`) is an ordinary error of a write here, which
//! `main` takes for success; nothing panics.

use std::io::{self, Write};

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use serde::Serialize;

/// Where a command prints.
#[derive(Debug)]
pub struct Output {
    // Not locked: `pointsman run` may write its access log to standard output.
    stdout: io::Stdout,
}

impl Output {
    /// Standard output.
    #[must_use]
    pub fn stdout() -> Self {
        Self { stdout: io::stdout() }
    }

    /// Prints `value` as JSON if `json`, else what `text` makes of it.
    ///
    /// # Errors
    /// If standard output can not be written.
    pub fn print<T: Serialize>(
        &mut self,
        json: bool,
        value: &T,
        text: impl FnOnce(&T) -> String,
    ) -> io::Result<()> {
        let mut whole = if json { serde_json::to_string_pretty(value)? } else { text(value) };
        if !whole.is_empty() && !whole.ends_with('\n') {
            whole.push('\n');
        }
        self.print_text(&whole)
    }

    /// Prints text to standard error.
    ///
    /// # Errors
    /// If standard error can not be written.
    pub fn complain(&mut self, text: &str) -> io::Result<()> {
        io::stderr().lock().write_all(text.as_bytes())
    }

    /// Prints text as it is.
    ///
    /// # Errors
    /// If standard output can not be written.
    pub fn print_text(&mut self, text: &str) -> io::Result<()> {
        self.stdout.write_all(text.as_bytes())?;
        self.stdout.flush()
    }
}

/// Which way a column leans.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lean {
    /// Text.
    Left,
    /// Numbers.
    Right,
}

/// Rows of cells under headers, aligned, two spaces apart; ends in a newline.
#[must_use]
pub fn table<const N: usize>(
    columns: [(&str, Lean); N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(columns.map(|(name, _)| name));
    for row in rows {
        table.add_row(row);
    }
    for (column, (_, lean)) in table.column_iter_mut().zip(columns) {
        column.set_padding((0, 2)).set_cell_alignment(match lean {
            Lean::Left => CellAlignment::Left,
            Lean::Right => CellAlignment::Right,
        });
    }
    table.trim_fmt() + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_lines_have_no_tail() {
        let columns = [("NAME", Lean::Left), ("FLOWS", Lean::Right), ("WHY", Lean::Left)];
        let rows = [
            ["a".to_owned(), "7".to_owned(), "well".to_owned()],
            ["longer".to_owned(), "1234567".to_owned(), String::new()],
        ];
        assert_eq!(
            table(columns, rows),
            "NAME      FLOWS  WHY\na             7  well\nlonger  1234567\n"
        );
    }
}
