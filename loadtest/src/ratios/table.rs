//! What was measured, as a table.

use std::fmt::Write as _;

use serde::Serialize;

/// In what a figure is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Unit {
    Microseconds,
    Milliseconds,
    Bytes,
    Percent,
}

/// What a figure should be.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Target {
    /// Of the second, at most so much of the first's.
    Ratio(f64),
    /// Of the second, at most this.
    Most(f64),
    /// Of the second, at least this.
    Least(f64),
}

/// What is beside what: the ratio is the second's by the first's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Columns(pub(crate) &'static str, pub(crate) &'static str);

/// The plainest server, and typha.
pub(super) const SERVERS: Columns = Columns("baseline", "typha");

/// Typha, and nothing beside it.
pub(super) const ALONE: Columns = Columns("", "typha");

/// One figure of both.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    columns: Columns,
    figure: String,
    unit: Unit,
    target: Option<Target>,
    /// What Calico's Typha took on a machine of this kind.
    calico: Option<f64>,
    first: Vec<f64>,
    second: Vec<f64>,
    /// What else is to be known of it.
    notes: Vec<String>,
}

/// All figures.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Table {
    rows: Vec<Row>,
    /// Cases that came to no end, and why.
    failed: Vec<String>,
}

impl Table {
    /// The row of a figure of baseline and typha.
    pub(super) fn row(&mut self, figure: &str, unit: Unit) -> &mut Row {
        self.row_of(SERVERS, figure, unit)
    }

    /// The row of a figure.
    pub(super) fn row_of(&mut self, columns: Columns, figure: &str, unit: Unit) -> &mut Row {
        let is = |row: &Row| row.columns == columns && row.figure == figure;
        let index = self.rows.iter().position(is);
        let index = index.unwrap_or_else(|| {
            self.rows.push(Row {
                columns,
                figure: figure.to_owned(),
                unit,
                target: None,
                calico: None,
                first: Vec::new(),
                second: Vec::new(),
                notes: Vec::new(),
            });
            self.rows.len() - 1
        });
        &mut self.rows[index]
    }

    /// A case came to no end. The others go on.
    pub(super) fn failed(&mut self, case: &str, error: &anyhow::Error) {
        let text = format!("the case {case} has failed: {error:#}");
        eprintln!("{text}");
        self.failed.push(text);
    }

    /// Whether every case came to its end.
    pub(crate) fn is_whole(&self) -> bool {
        self.failed.is_empty()
    }

    /// For people.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string can't fail.
        let mut columns = None;
        for row in &self.rows {
            if columns.replace(row.columns) != Some(row.columns) {
                let Columns(first, second) = row.columns;
                let calico = if row.columns == SERVERS { "Calico's Typha" } else { "" };
                let line = format!(
                    "{:<46}{first:>28}{second:>28}{:>8}  {:<16}{calico}",
                    "median (quartiles)", "ratio", "target"
                );
                let _ = writeln!(text, "{}", line.trim_end());
            }
            let _ = writeln!(text, "{}", row.line());
            for note in &row.notes {
                let _ = writeln!(text, "    {note}");
            }
        }
        for failed in &self.failed {
            let _ = writeln!(text, "{failed}");
        }
        text
    }
}

impl Row {
    pub(super) fn target(&mut self, target: Target) -> &mut Self {
        self.target = Some(target);
        self
    }

    pub(super) fn calico(&mut self, value: f64) -> &mut Self {
        self.calico = Some(value);
        self
    }

    /// Figures of the first column, or of the second.
    pub(super) fn add(&mut self, is_first: bool, values: impl IntoIterator<Item = f64>) {
        let Columns(first, second) = self.columns;
        let (name, all) =
            if is_first { (first, &mut self.first) } else { (second, &mut self.second) };
        all.extend(values);
        // A run takes long, and may be ended early.
        if let Some([_, median, _]) = quartiles(all) {
            eprintln!("{name}: {}: {}", self.figure, self.show(median));
        }
    }

    pub(super) fn note(&mut self, note: String) {
        self.notes.push(note);
    }

    fn line(&self) -> String {
        let of = |values: &[f64]| match quartiles(values) {
            None => "-".to_owned(),
            Some([_, median, _]) if values.len() == 1 => self.show(median),
            Some([low, median, high]) => {
                let number = |value| self.show(value).split(' ').next().unwrap_or("").to_owned();
                format!("{} ({} to {})", self.show(median), number(low), number(high))
            }
        };
        let median = |values: &[f64]| quartiles(values).map(|[_, median, _]| median);
        let (first, second) = (median(&self.first), median(&self.second));
        let ratio = first.zip(second).map(|(first, second)| second / first);
        let met = match self.target {
            Some(Target::Ratio(most)) => ratio.map(|ratio| (format!("{most}"), ratio <= most)),
            Some(Target::Most(most)) => second.map(|second| (self.show(most), second <= most)),
            Some(Target::Least(least)) => second.map(|second| (self.show(least), second >= least)),
            None => None,
        };
        let target =
            met.map(|(most, met)| format!("{most} {}", if met { "met" } else { "missed" }));
        format!(
            "{:<46}{:>28}{:>28}{:>8}  {:<16}{}",
            self.figure,
            of(&self.first),
            of(&self.second),
            ratio.map_or_else(
                || "-".into(),
                |ratio| format!("{ratio:.*}", if ratio < 0.1 { 4 } else { 2 })
            ),
            target.unwrap_or_default(),
            self.calico.map(|value| self.show(value)).unwrap_or_default(),
        )
        .trim_end()
        .to_owned()
    }

    fn show(&self, value: f64) -> String {
        match self.unit {
            Unit::Microseconds => format!("{value:.1} µs"),
            Unit::Milliseconds if value >= 10_000.0 => format!("{:.1} s", value / 1000.0),
            Unit::Milliseconds => format!("{value:.1} ms"),
            Unit::Bytes if value.abs() >= 1024.0 * 1024.0 => {
                format!("{:.0} MiB", value / (1024.0 * 1024.0))
            }
            Unit::Bytes => format!("{:.1} KiB", value / 1024.0),
            Unit::Percent => format!("{value:.2} %"),
        }
    }
}

/// The values below which a quarter, a half and three quarters of all are.
fn quartiles(values: &[f64]) -> Option<[f64; 3]> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().checked_sub(1)?;
    Some([last / 4, last / 2, last - last / 4].map(|index| sorted[index]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_has_medians_their_ratio_and_whether_the_target_is_met() {
        let mut table = Table::default();
        let row = table.row("one commit", Unit::Microseconds).target(Target::Ratio(0.5));
        row.calico(39.0);
        row.add(true, [30.0, 10.0, 20.0]);
        row.add(false, [8.0]);
        let text = table.text();
        let line = text.lines().nth(1).unwrap();
        let words: Vec<&str> = line.split_whitespace().collect();
        let expected = "one commit 20.0 µs (10.0 to 30.0) 8.0 µs 0.40 0.5 met 39.0 µs";
        assert_eq!(words.join(" "), expected);
    }

    #[test]
    fn quartiles_are_of_the_sorted_values() {
        assert_eq!(quartiles(&[]), None);
        assert_eq!(quartiles(&[5.0]), Some([5.0; 3]));
        assert_eq!(quartiles(&[4.0, 1.0, 3.0, 2.0, 0.0]), Some([1.0, 2.0, 3.0]));
        assert_eq!(quartiles(&[2.0, 1.0]), Some([1.0, 1.0, 2.0]));
    }
}
