//! Values that have several notations, read as Go and Calico read them and written in one.

use std::str::FromStr;

use serde_json::Value;

/// A number of digits alone, leading zeros allowed (Go: `strconv.ParseUint`).
pub(super) fn digits<N: FromStr>(text: &str) -> Option<N> {
    let is_digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    is_digits.then(|| text.parse().ok()).flatten()
}

/// A port as it is written: a number, or a text for a range or a name. A range of one is a number
/// (Calico: `numorstring/port.go`).
pub(super) fn port(text: &str) -> Result<Value, String> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) && !text.is_empty() {
        return digits::<u16>(text).map(Value::from).ok_or_else(String::new);
    }
    let range = text.split_once(':').filter(|(from, to)| {
        [from, to]
            .iter()
            .all(|end| !end.is_empty() && end.bytes().all(|byte| byte.is_ascii_digit()))
    });
    if let Some((from, to)) = range {
        let ends = digits::<u16>(from).zip(digits::<u16>(to));
        return match ends {
            Some((from, to)) if from == to => Ok(from.into()),
            Some((from, to)) if from < to => Ok(format!("{from}:{to}").into()),
            _ => Err(String::new()),
        };
    }
    let is_name = (1..=128).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte));
    if is_name { Ok(text.into()) } else { Err(String::new()) }
}

/// An AS number in digits, or in dotted notation.
pub(super) fn as_number(text: &str) -> Option<u32> {
    digits(text).or_else(|| {
        let (high, low) = text.split_once('.')?;
        let (high, low) = (digits::<u16>(high)?, digits::<u16>(low)?);
        Some(u32::from(high) << 16 | u32::from(low))
    })
}

const SECOND: u64 = 1_000_000_000;
/// The largest magnitude: that of the smallest `i64`.
const MAX: u64 = 1 << 63;

/// A duration in nanoseconds, from Go's notation: decimal numbers with units, such as `1h1.5s`.
pub(super) fn duration(text: &str) -> Option<i64> {
    let (is_negative, mut rest) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total = 0_u64;
    while !rest.is_empty() {
        let (whole, after) = split_digits(rest);
        let (fraction, after) = after.strip_prefix('.').map_or(("", after), split_digits);
        if whole.is_empty() && fraction.is_empty() {
            return None;
        }
        let end = after.find(|char: char| char == '.' || char.is_ascii_digit());
        let (unit, after) = after.split_at(end.unwrap_or(after.len()));
        let unit = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => SECOND,
            "m" => 60 * SECOND,
            "h" => 3600 * SECOND,
            _ => return None,
        };
        let whole = if whole.is_empty() { 0 } else { whole.parse::<u64>().ok()? };
        // More digits than this are below a nanosecond in every unit.
        let fraction = &fraction[..fraction.len().min(16)];
        let part = if fraction.is_empty() {
            0
        } else {
            let scale = 10_u128.pow(fraction.len() as u32);
            (fraction.parse::<u128>().ok()? * u128::from(unit) / scale) as u64
        };
        total = whole
            .checked_mul(unit)
            .and_then(|value| value.checked_add(part))
            .and_then(|value| value.checked_add(total))
            .filter(|total| *total <= MAX)?;
        rest = after;
    }
    if is_negative { 0_i64.checked_sub_unsigned(total) } else { i64::try_from(total).ok() }
}

fn split_digits(text: &str) -> (&str, &str) {
    let end = text.find(|char: char| !char.is_ascii_digit());
    text.split_at(end.unwrap_or(text.len()))
}

/// A duration as Go writes it, such as `1m30s`, `1.5s`, `10µs`.
pub(super) fn duration_text(nanos: i64) -> String {
    let sign = if nanos < 0 { "-" } else { "" };
    let nanos = nanos.unsigned_abs();
    if nanos < SECOND {
        return match nanos {
            0 => "0s".to_owned(),
            1..1_000 => format!("{sign}{nanos}ns"),
            1_000..1_000_000 => format!("{sign}{}µs", decimal(nanos, 1_000)),
            _ => format!("{sign}{}ms", decimal(nanos, 1_000_000)),
        };
    }
    let (minutes, rest) = (nanos / (60 * SECOND), nanos % (60 * SECOND));
    let seconds = decimal(rest, SECOND);
    match (minutes / 60, minutes % 60) {
        (0, 0) => format!("{sign}{seconds}s"),
        (0, minutes) => format!("{sign}{minutes}m{seconds}s"),
        (hours, minutes) => format!("{sign}{hours}h{minutes}m{seconds}s"),
    }
}

/// `value / unit` with as many decimals as it has.
fn decimal(value: u64, unit: u64) -> String {
    let width = unit.ilog10() as usize;
    let text = format!("{}.{:0width$}", value / unit, value % unit);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_and_written_as_go_does() {
        for (text, written) in [
            ("90s", "1m30s"),
            ("1.5s", "1.5s"),
            ("1500ms", "1.5s"),
            ("1h", "1h0m0s"),
            ("0", "0s"),
            ("-5s", "-5s"),
            ("10us", "10µs"),
            ("1h1m1.000000001s", "1h1m1.000000001s"),
            (".5s", "500ms"),
            ("2562047h47m16.854775807s", "2562047h47m16.854775807s"),
            ("-2562047h47m16.854775808s", "-2562047h47m16.854775808s"),
        ] {
            assert_eq!(duration(text).map(duration_text).as_deref(), Some(written), "{text}");
        }
        for text in ["", "5", "s", ".s", "1x", "1 s", "-", "2562047h47m16.854775808s", "1s "] {
            assert_eq!(duration(text), None, "{text}");
        }
    }
}
