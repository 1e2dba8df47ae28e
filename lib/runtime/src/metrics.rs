//! `/metrics`, in the text format of Prometheus.
//!
//! Calico's names are a contract and are written as Calico writes them, without the suffix that a
//! library would add to counters. Every figure is read from the state when it is asked for.

use std::fmt::Write as _;

/// Gathers metrics as text.
#[derive(Debug, Default)]
pub struct Text(String);

impl Text {
    /// A value that goes up and down.
    pub fn gauge(&mut self, name: &str, help: &str, value: impl std::fmt::Display) {
        self.metric("gauge", name, help, value);
    }

    /// A value that only grows.
    pub fn counter(&mut self, name: &str, help: &str, value: impl std::fmt::Display) {
        self.metric("counter", name, help, value);
    }

    /// Values that only grow, by one label.
    pub fn counters(&mut self, name: &str, help: &str, label: &str, values: &[(&str, u64)]) {
        // Writing to a string can't fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} counter");
        for (which, value) in values {
            let _ = writeln!(self.0, "{name}{{{label}=\"{which}\"}} {value}");
        }
    }

    /// A sum of observations and their number.
    pub fn summary(&mut self, name: &str, help: &str, sum: f64, count: u64) {
        // Writing to a string can't fail.
        let _ = writeln!(
            self.0,
            "# HELP {name} {help}\n# TYPE {name} summary\n{name}_sum {sum}\n{name}_count {count}"
        );
    }

    fn metric(&mut self, kind: &str, name: &str, help: &str, value: impl std::fmt::Display) {
        // Writing to a string can't fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}");
    }

    /// The whole answer.
    pub fn finish(self) -> String {
        self.0
    }
}
