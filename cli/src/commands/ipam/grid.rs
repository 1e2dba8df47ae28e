//! Tables with lines around their cells, and numbers as `ipam show` has them.

use std::{
    fmt::Write as _,
    io::{self, Write},
};

/// Writes a table; columns from `numbers_from` on are flush right.
pub(super) fn print(
    out: &mut impl Write,
    headings: &[&str],
    rows: &[Vec<String>],
    numbers_from: usize,
) -> io::Result<()> {
    let width = |index: usize| {
        let cells = rows.iter().map(|row| row[index].chars().count());
        cells.chain([headings[index].len()]).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..headings.len()).map(width).collect();
    let lines: Vec<String> = widths.iter().map(|width| "-".repeat(width + 2)).collect();
    let line = format!("+{}", lines.join("+"));
    writeln!(out, "{line}+")?;
    for (heading, width) in headings.iter().zip(&widths) {
        write!(out, "| {heading:width$} ")?;
    }
    writeln!(out, "|\n{line}+")?;
    for row in rows {
        for (index, (cell, width)) in row.iter().zip(&widths).enumerate() {
            if index >= numbers_from {
                write!(out, "| {cell:>width$} ")?;
            } else {
                write!(out, "| {cell:width$} ")?;
            }
        }
        writeln!(out, "|")?;
    }
    if !rows.is_empty() {
        writeln!(out, "{line}+")?;
    }
    Ok(())
}

/// A count with five digits: 65536, 1.0486e+06.
pub(super) fn count(number: f64) -> String {
    const DIGITS: i32 = 5;
    if number == 0.0 {
        return "0".to_owned();
    }
    // It rounds as it cuts, so the exponent is that of the rounded number.
    let scientific = format!("{number:.*e}", DIGITS as usize - 1);
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or_default();
    let without_zeros = |text: &str| {
        let cut = text.trim_end_matches('0').trim_end_matches('.');
        if text.contains('.') { cut.to_owned() } else { text.to_owned() }
    };
    if (-4..DIGITS).contains(&exponent) {
        let decimals = usize::try_from(DIGITS - 1 - exponent).unwrap_or_default();
        return without_zeros(&format!("{number:.decimals$}"));
    }
    let mut text = without_zeros(digits);
    let sign = if exponent < 0 { '-' } else { '+' };
    // Writing to a String doesn't fail.
    let _ = write!(text, "e{sign}{:02}", exponent.abs());
    text
}

/// A count and its part of the whole: `3 (12%)`.
pub(super) fn share(part: f64, whole: f64) -> String {
    format!("{} ({:.0}%)", count(part), 100.0 * part / whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_have_five_digits_and_shares_round_half_to_even() {
        for (number, text) in [
            (0.0, "0"),
            (8.0, "8"),
            (65_536.0, "65536"),
            (99_999.6, "1e+05"),
            (131_072.0, "1.3107e+05"),
            (1_048_576.0, "1.0486e+06"),
            (18_446_744_073_709_551_616.0, "1.8447e+19"),
        ] {
            assert_eq!(count(number), text);
        }
        assert_eq!(share(1.0, 8.0), "1 (12%)");
        assert_eq!(share(3.0, 8.0), "3 (38%)");
        assert_eq!(share(256.0, 256.0), "256 (100%)");
    }

    #[test]
    fn a_table_has_lines_around_its_cells() {
        let mut out = Vec::new();
        let rows = [vec!["a".to_owned(), "12".to_owned()], vec!["long".to_owned(), "3".to_owned()]];
        print(&mut out, &["X", "COUNT"], &rows, 1).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "+------+-------+\n| X    | COUNT |\n+------+-------+\n| a    |    12 |\n\
             | long |     3 |\n+------+-------+\n"
        );
    }
}
