//! `/metrics`, in the text format of Prometheus.
//!
//! Calico's names are a contract and are written as Calico writes them, without the suffix that a
//! library would add to counters. Every figure is read from the state when it is asked for.

use std::{
    fmt::Write as _,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// The upper bounds of a histogram's buckets, in milliseconds.
const BOUNDS: [u64; 14] = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 15_000, 60_000];

/// Durations by size, from a millisecond to a minute. Any thread may add to it.
#[derive(Debug, Default)]
pub struct Histogram {
    /// How many were at most as long as each bound and longer than the one before; the last: longer than all.
    counts: [AtomicU64; BOUNDS.len() + 1],
    microseconds: AtomicU64,
}

impl Histogram {
    /// Adds one.
    pub fn observe(&self, duration: Duration) {
        let bucket = BOUNDS.partition_point(|bound| Duration::from_millis(*bound) < duration);
        if let Some(count) = self.counts.get(bucket) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        self.microseconds.fetch_add(duration.as_micros() as u64, Ordering::Relaxed);
    }
}

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

    /// Values that go up and down, by one label.
    pub fn gauges(&mut self, name: &str, help: &str, label: &str, values: &[(&str, f64)]) {
        // Writing to a string can't fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} gauge");
        for (which, value) in values {
            let _ = writeln!(self.0, "{name}{{{label}=\"{which}\"}} {value}");
        }
    }

    /// Durations, in seconds.
    pub fn histogram(&mut self, name: &str, help: &str, histogram: &Histogram) {
        // Writing to a string can't fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} histogram");
        let mut total = 0;
        for (index, count) in histogram.counts.iter().enumerate() {
            total += count.load(Ordering::Relaxed);
            let bound = BOUNDS.get(index).map(|bound| Duration::from_millis(*bound).as_secs_f64());
            let bound = bound.map_or_else(|| "+Inf".to_owned(), |seconds| seconds.to_string());
            let _ = writeln!(self.0, "{name}_bucket{{le=\"{bound}\"}} {total}");
        }
        let sum = Duration::from_micros(histogram.microseconds.load(Ordering::Relaxed));
        let _ = writeln!(self.0, "{name}_sum {}\n{name}_count {total}", sum.as_secs_f64());
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_counts_what_is_at_most_as_long_as_each_bound() {
        let histogram = Histogram::default();
        for milliseconds in [0, 1, 3, 100, 101, 100_000] {
            histogram.observe(Duration::from_millis(milliseconds));
        }
        let mut text = Text::default();
        text.histogram("x_seconds", "Time.", &histogram);
        let text = text.finish();
        let line = |start: &str| text.lines().find_map(|line| line.strip_prefix(start)).unwrap();
        assert_eq!(line("x_seconds_bucket{le=\"0.001\"} "), "2");
        assert_eq!(line("x_seconds_bucket{le=\"0.002\"} "), "2");
        assert_eq!(line("x_seconds_bucket{le=\"0.1\"} "), "4");
        assert_eq!(line("x_seconds_bucket{le=\"0.2\"} "), "5");
        assert_eq!(line("x_seconds_bucket{le=\"60\"} "), "5");
        assert_eq!(line("x_seconds_bucket{le=\"+Inf\"} "), "6");
        assert_eq!(line("x_seconds_sum "), "100.205");
        assert_eq!(line("x_seconds_count "), "6");
    }
}
