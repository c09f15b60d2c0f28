//! Tables and cards for a person at a terminal. Every cell is foreign text until it is printed.

use std::fmt::Write;

use serving::terminal::printable;
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// Columns between two cells.
const GAP: usize = 2;
/// Narrowest column that is cut: a title, or the begin of a text.
const LEAST: usize = 8;

/// Lines of a table: titles, then rows. On a terminal with this number of columns the widest cells are cut, with `…`, until a line
/// fits. Elsewhere nothing is cut.
pub(super) fn table<const N: usize>(titles: [&str; N], rows: &[[String; N]], columns: Option<usize>) -> Vec<String> {
    let titles = titles.map(str::to_owned);
    let all: Vec<[String; N]> =
        std::iter::once(&titles).chain(rows).map(|row| row.each_ref().map(|cell| printable(cell).into_owned())).collect();
    let mut widths = [0; N];
    for row in &all {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.width());
        }
    }
    if let Some(columns) = columns {
        while widths.iter().sum::<usize>() + GAP * (N - 1) > columns {
            let Some(widest) = widths.iter_mut().max().filter(|width| **width > LEAST) else { break };
            *widest -= 1;
        }
    }
    all.iter().map(|row| line(row, &widths)).collect()
}

fn line<const N: usize>(row: &[String; N], widths: &[usize; N]) -> String {
    let mut line = String::new();
    for (cell, width) in row.iter().zip(widths) {
        let cell = cut(cell, *width);
        let fill = width.saturating_sub(cell.width()) + GAP;
        // Writing to a string cannot fail.
        let _ = write!(line, "{cell}{:fill$}", "");
    }
    line.truncate(line.trim_end().len());
    line
}

/// The begin of a printable text, with `…` if something is left out.
pub(super) fn cut(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let mut left = width.saturating_sub(1);
    let begin = text.chars().take_while(|letter| {
        let needed = letter.width().unwrap_or(0);
        let fits = needed <= left;
        left = left.saturating_sub(needed);
        fits
    });
    begin.chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_fits_its_terminal_and_marks_what_it_cuts() {
        let rows = [["6eebbc03".into(), "日本語の注文番号です".into(), "x".repeat(50)], ["7".into(), "a\u{1b}[2J".into(), String::new()]];

        let lines = table(["id", "order", "error"], &rows, Some(50));

        assert!(lines.iter().all(|line| line.width() <= 50), "{lines:?}");
        assert!(lines[1].ends_with('…') && lines[2].contains("a\\u001b[2J"), "{lines:?}");
        assert!(table(["id", "order", "error"], &rows, None)[1].ends_with("xxx"), "nothing is cut elsewhere");
    }
}
