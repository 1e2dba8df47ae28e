//! A report as one page that needs nothing else: figures, and plots of the run over time as inline SVG.

use std::fmt::Write as _;

use crate::{report::Report, series::Point};

/// Size of a plot, and the room around its lines, in its own units.
const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 240.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 12.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 30.0;
/// Lines across a plot, about.
const TICKS: f64 = 5.0;

const STYLE: &str = "
:root { color-scheme: light dark; --ground: #fff; --ink: #1c2024; --soft: #5c6670; --grid: #dfe3e8;
  --line-0: #1f6fc4; --line-1: #c2501a; }
@media (prefers-color-scheme: dark) { :root { --ground: #15181c; --ink: #e8ebee; --soft: #9aa4ae;
  --grid: #30363d; --line-0: #6fb1f5; --line-1: #f2996a; } }
body { background: var(--ground); color: var(--ink); font: 15px/1.45 system-ui, sans-serif;
  margin: 2rem auto; max-width: 760px; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.05rem; margin: 2rem 0 .3rem; }
pre { overflow-x: auto; line-height: 1.5; }
svg { width: 100%; height: auto; display: block; }
svg text { fill: var(--soft); font: 12px system-ui, sans-serif; font-variant-numeric: tabular-nums; }
.grid { stroke: var(--grid); stroke-width: 1; }
.line { fill: none; stroke-width: 2; stroke-linejoin: round; }
.line-0 { stroke: var(--line-0); } .line-1 { stroke: var(--line-1); stroke-dasharray: 6 3; }
.hit { fill: transparent; } .hit:hover { fill: var(--grid); fill-opacity: .5; }
.key { color: var(--soft); font-size: .85rem; margin: 0; }
.key b { display: inline-block; width: 1.6em; border-top: 3px solid; vertical-align: middle; }
.key .key-0 { border-color: var(--line-0); } .key .key-1 { border-color: var(--line-1); border-top-style: dashed; }
";

/// A figure of each look; none: there is none.
type Figure = fn(&Point) -> Option<f64>;

struct Plot {
    title: &'static str,
    unit: &'static str,
    lines: [(&'static str, Figure); 2],
}

const MIB: f64 = 1024.0 * 1024.0;

const PLOTS: [Plot; 4] = [
    Plot {
        title: "Latency",
        unit: "ms",
        lines: [("p50", |p| p.latency_p50_ms), ("p99", |p| p.latency_p99_ms)],
    },
    Plot {
        title: "Processors in use",
        unit: "cores",
        lines: [("server", |p| p.server_cores), ("tester", |p| Some(p.tester_cores))],
    },
    Plot {
        title: "Bytes from the server",
        unit: "KiB/s",
        lines: [("all agents", |p| Some(p.bytes_per_second / 1024.0)), ("", |_| None)],
    },
    Plot {
        title: "Memory",
        unit: "MiB",
        lines: [
            ("server", |p| p.server_rss_bytes.map(|bytes| bytes as f64 / MIB)),
            ("sockets of the machine, in the kernel", |p| Some(p.socket_bytes as f64 / MIB)),
        ],
    },
];

/// The page.
pub(crate) fn page(report: &Report) -> String {
    let mut plots = String::new();
    for plot in &PLOTS {
        plots += &plot.section(&report.series);
    }
    let title = format!("Load test: {} agents", report.agents);
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\">\
         <title>{title}</title><style>{STYLE}</style></head>\n\
         <body><h1>{title}</h1>\n<pre>{}</pre>\n{plots}</body></html>\n",
        escaped(&report.table())
    )
}

impl Plot {
    fn section(&self, points: &[Point]) -> String {
        let Self { title, unit, lines } = self;
        let mut text = format!("<section><h2>{title}, {unit}</h2>\n");
        let shown = |(_, of): &&(&str, Figure)| points.iter().any(|point| of(point).is_some());
        let keys = lines.iter().filter(shown).enumerate();
        let keys = keys.map(|(n, (name, _))| format!("<b class=\"key-{n}\"></b> {name}"));
        let keys: Vec<String> = keys.collect();
        if keys.is_empty() {
            return text + "<p class=\"key\">not known</p></section>\n";
        }
        // Writing to a string can't fail.
        let _ = writeln!(text, "<p class=\"key\">{}</p>", keys.join(" &nbsp; "));
        text += &self.svg(points);
        text + "</section>\n"
    }

    fn svg(&self, points: &[Point]) -> String {
        let values =
            |point: &Point| self.lines.iter().filter_map(|(_, of)| of(point)).fold(0.0, f64::max);
        let highest = points.iter().map(values).fold(0.0, f64::max);
        let last = points.last().map_or(1.0, |point| point.seconds.max(1e-3));
        let (step, top) = scale(highest);
        let x = |seconds: f64| LEFT + seconds / last * (WIDTH - LEFT - RIGHT);
        let y = |value: f64| HEIGHT - BOTTOM - value / top * (HEIGHT - TOP - BOTTOM);
        let mut svg = format!(
            "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{} over time\">\n",
            self.title
        );
        let mut value = 0.0;
        while value <= top * 1.001 {
            let (at, label) = (y(value), number(value));
            let _ = writeln!(
                svg,
                "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>\
                 <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>",
                WIDTH - RIGHT,
                LEFT - 8.0,
                at + 4.0
            );
            value += step;
        }
        let (step, _) = scale(last);
        let mut seconds = 0.0;
        while seconds <= last {
            let (at, label) = (x(seconds), number(seconds));
            let bottom = HEIGHT - BOTTOM + 18.0;
            let _ = writeln!(
                svg,
                "<text x=\"{at:.1}\" y=\"{bottom:.1}\" text-anchor=\"middle\">{label} s</text>"
            );
            seconds += step;
        }
        for (n, (_, of)) in self.lines.iter().enumerate() {
            let path = path(points, |point| Some((x(point.seconds), y(of(point)?))));
            if !path.is_empty() {
                let _ = writeln!(svg, "<path class=\"line line-{n}\" d=\"{path}\"/>");
            }
        }
        let mut from = LEFT;
        for point in points {
            let to = x(point.seconds);
            let figure = |(name, of): &(&str, Figure)| {
                of(point).map(|value| format!("{name} {} {}", number(value), self.unit))
            };
            let figures: Vec<String> = self.lines.iter().filter_map(figure).collect();
            let _ = writeln!(
                svg,
                "<rect class=\"hit\" x=\"{from:.1}\" y=\"{TOP}\" width=\"{:.1}\" height=\"{:.1}\">\
                 <title>{:.1} s: {}</title></rect>",
                to - from,
                HEIGHT - TOP - BOTTOM,
                point.seconds,
                figures.join(", ")
            );
            from = to;
        }
        svg + "</svg>\n"
    }
}

/// A line through the points that are there, with a gap where one isn't.
fn path(points: &[Point], place: impl Fn(&Point) -> Option<(f64, f64)>) -> String {
    let mut path = String::new();
    let mut pen = 'M';
    for point in points {
        match place(point) {
            Some((x, y)) => {
                // Writing to a string can't fail.
                let _ = write!(path, "{pen}{x:.1} {y:.1}");
                pen = 'L';
            }
            None => pen = 'M',
        }
    }
    path
}

/// The distance between lines across a plot, of 1, 2 or 5 times a power of ten, and where the plot ends.
fn scale(highest: f64) -> (f64, f64) {
    let highest = if highest > 0.0 { highest } else { 1.0 };
    let rough = highest / TICKS;
    let power = 10_f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|n| n * power).into_iter().find(|step| *step >= rough);
    let step = step.unwrap_or(10.0 * power);
    (step, (highest / step).ceil() * step)
}

fn number(value: f64) -> String {
    if value.fract() == 0.0 || value >= 100.0 {
        format!("{value:.0}")
    } else if value >= 1.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.3}").trim_end_matches('0').trim_end_matches('.').to_owned()
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_across_a_plot_are_at_round_numbers_and_it_ends_at_or_above_its_highest_value() {
        assert_eq!(scale(0.0), (0.2, 1.0));
        assert_eq!(scale(7.0), (2.0, 8.0));
        assert_eq!(scale(100.0), (20.0, 100.0));
        let (step, top) = scale(0.033);
        assert!((step - 0.01).abs() < 1e-9 && (top - 0.04).abs() < 1e-9, "{step} {top}");
    }

    #[test]
    fn where_nothing_arrived_a_line_has_a_gap() {
        let at = |seconds, latency| Point { seconds, latency_p50_ms: latency, ..Point::default() };
        let points = [at(0.0, Some(1.0)), at(1.0, Some(2.0)), at(2.0, None), at(3.0, Some(1.0))];
        let path = path(&points, |point| Some((point.seconds, point.latency_p50_ms?)));
        assert_eq!(path, "M0.0 1.0L1.0 2.0M3.0 1.0");
    }

    #[test]
    fn what_agents_said_is_no_markup() {
        assert_eq!(escaped("a < b & <script>"), "a &lt; b &amp; &lt;script&gt;");
    }
}
