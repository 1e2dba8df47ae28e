//! Points in time as Kubernetes reads and writes them.

const ZERO_TIME: &str = "0001-01-01T00:00:00Z";

/// Reads a point in time (RFC 3339) and writes it as Kubernetes does: in UTC, in whole seconds. Go's zero time is no
/// time: it is empty.
pub(crate) fn parse_time(text: &str) -> Option<String> {
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
    Some(if text == ZERO_TIME { String::new() } else { text })
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
    fn times_become_utc_in_whole_seconds() {
        for (text, written) in [
            ("2024-01-02T03:04:05Z", "2024-01-02T03:04:05Z"),
            ("2024-02-29T23:59:59.9+01:30", "2024-02-29T22:29:59Z"),
            ("1999-12-31T23:00:00-02:00", "2000-01-01T01:00:00Z"),
            ("1970-01-01T00:00:00Z", "1970-01-01T00:00:00Z"),
            ("0000-12-31T23:00:00Z", "0000-12-31T23:00:00Z"),
        ] {
            assert_eq!(parse_time(text).as_deref(), Some(written), "{text}");
        }
        assert_eq!(parse_time("0001-01-01T01:00:00+01:00").as_deref(), Some(""));
        for text in [
            "",
            "0000-01-01T00:00:00+01:00",
            "9999-12-31T23:00:00-01:00",
            "2024-01-02",
            "2023-02-29T00:00:00Z",
            "2024-01-02T24:00:00Z",
            "x",
        ] {
            assert_eq!(parse_time(text), None, "{text}");
        }
    }
}
