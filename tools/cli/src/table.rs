//! Tables: a header, aligned columns, two blanks between them, never truncated, never wrapped.

use comfy_table::{Cell, CellAlignment, Color, ContentArrangement, Row, Table, presets};

/// On which side a column is flush.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// Words.
    Left,
    /// Numbers.
    Right,
}

/// How a cell is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mood {
    /// As it should be.
    Good,
    /// Worth a look.
    Odd,
    /// Broken.
    Bad,
}

/// A table in the making.
pub(crate) struct Columns {
    table: Table,
    coloured: bool,
}

impl Columns {
    /// A table with these headings.
    pub(crate) fn new(coloured: bool, headings: &[(&str, Side)]) -> Self {
        let mut table = Table::new();
        table
            .load_preset(presets::NOTHING)
            .set_content_arrangement(ContentArrangement::Disabled);
        table.set_header(headings.iter().map(|(heading, _)| *heading));
        for (column, (_, side)) in table.column_iter_mut().zip(headings) {
            column.set_padding((0, 2));
            column.set_cell_alignment(match side {
                Side::Left => CellAlignment::Left,
                Side::Right => CellAlignment::Right,
            });
        }
        if coloured {
            table.enforce_styling();
        } else {
            table.force_no_tty();
        }
        Self { table, coloured }
    }

    /// Adds a row; the mood, if any, colours its column `at`.
    pub(crate) fn row(&mut self, cells: Vec<String>, mood: Option<(usize, Mood)>) {
        let mut row = Row::new();
        for (at, text) in cells.into_iter().enumerate() {
            let cell = Cell::new(crate::human::clean(&text));
            row.add_cell(match mood {
                Some((column, mood)) if self.coloured && column == at => cell.fg(colour(mood)),
                _ => cell,
            });
        }
        self.table.add_row(row);
    }

    /// The table as text, without blanks at the ends of lines.
    pub(crate) fn finish(self) -> String {
        let text = self.table.to_string();
        text.lines()
            .fold(String::new(), |lines, line| lines + line.trim_end() + "\n")
    }
}

const fn colour(mood: Mood) -> Color {
    match mood {
        Mood::Good => Color::Green,
        Mood::Odd => Color::Yellow,
        Mood::Bad => Color::Red,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_align_and_nothing_is_cut_however_long() {
        let mut table = Columns::new(false, &[("NAME", Side::Left), ("COST", Side::Right)]);
        let long = "x".repeat(300);
        table.row(vec![long.clone(), "7us".into()], Some((1, Mood::Bad)));
        table.row(vec!["äb".into(), "12.3ms".into()], None);
        let expected = format!(
            "NAME{}    COST\n{long}     7us\näb{}  12.3ms\n",
            " ".repeat(296),
            " ".repeat(298)
        );
        assert_eq!(table.finish(), expected);
    }

    #[test]
    fn colour_only_where_it_is_wanted() {
        let paint = |coloured| {
            let mut table = Columns::new(coloured, &[("STATE", Side::Left)]);
            table.row(vec!["up".into()], Some((0, Mood::Good)));
            table.finish()
        };
        assert!(paint(true).contains("\u{1b}["));
        assert!(!paint(false).contains('\u{1b}'));
    }
}
