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

const ZERO_TIME: &str = "0001-01-01T00:00:00Z";

/// A point in time (RFC 3339) as Kubernetes writes it: in UTC, in whole seconds. Go's zero time is
/// written as null.
pub(super) fn time(text: &str) -> Option<Value> {
    let (date, clock) = text.split_once('T')?;
    let [year, month, day] = numbers(date, '-', [4, 2, 2])?;
    let offset_at = clock.find(['Z', '+', '-'])?;
    let (clock, zone) = clock.split_at(offset_at);
    let offset = match zone.as_bytes()[0] {
        b'Z' => (zone.len() == 1).then_some(0)?,
        sign => {
            let [hours, minutes] = numbers(&zone[1..], ':', [2, 2])?;
            let is_offset = hours <= 24 && minutes < 60;
            let seconds = is_offset.then_some(hours * 3600 + minutes * 60)?;
            if sign == b'-' { -seconds } else { seconds }
        }
    };
    let (clock, fraction) =
        clock.split_once(['.', ',']).map_or((clock, None), |(clock, rest)| (clock, Some(rest)));
    if fraction.is_some_and(|fraction| digits_only(fraction).is_none()) {
        return None;
    }
    let [hour, minute, second] = numbers(clock, ':', [2, 2, 2])?;
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days = match month {
        2 => 28 + i64::from(is_leap),
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    if !(1..=days).contains(&day) || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let at = days_from_civil(year, month, day) * 86400 + hour * 3600 + minute * 60 + second;
    let (day, of_day) = ((at - offset).div_euclid(86400), (at - offset).rem_euclid(86400));
    let (year, month, day) = civil_from_days(day);
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    if !(0..=9999).contains(&year) {
        return None;
    }
    let text = format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z");
    Some(if text == ZERO_TIME { Value::Null } else { text.into() })
}

fn digits_only(text: &str) -> Option<&str> {
    (!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())).then_some(text)
}

/// Numbers of these widths with this separator between them.
fn numbers<const N: usize>(text: &str, separator: char, widths: [usize; N]) -> Option<[i64; N]> {
    let mut parts = text.split(separator);
    let mut found = [0; N];
    for (number, width) in found.iter_mut().zip(widths) {
        let part = digits_only(parts.next()?).filter(|part| part.len() == width)?;
        *number = part.parse().ok()?;
    }
    parts.next().is_none().then_some(found)
}

/// Days since 1970-01-01 in the Gregorian calendar, years counted from March.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year + era * 400 + i64::from(month <= 2), month, day)
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

    #[test]
    fn times_become_utc_in_whole_seconds() {
        for (text, written) in [
            ("2024-01-02T03:04:05Z", "2024-01-02T03:04:05Z"),
            ("2024-02-29T23:59:59.9+01:30", "2024-02-29T22:29:59Z"),
            ("1999-12-31T23:00:00-02:00", "2000-01-01T01:00:00Z"),
            ("1970-01-01T00:00:00Z", "1970-01-01T00:00:00Z"),
            ("0000-12-31T23:00:00Z", "0000-12-31T23:00:00Z"),
        ] {
            assert_eq!(time(text), Some(written.into()), "{text}");
        }
        assert_eq!(time("0001-01-01T01:00:00+01:00"), Some(Value::Null));
        for text in [
            "",
            "0000-01-01T00:00:00+01:00",
            "9999-12-31T23:00:00-01:00",
            "2024-01-02",
            "2023-02-29T00:00:00Z",
            "2024-01-02T24:00:00Z",
            "x",
        ] {
            assert_eq!(time(text), None, "{text}");
        }
    }
}
