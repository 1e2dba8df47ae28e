//! Times as people write them in flags.

use std::time::Duration;

/// Reads a whole number of seconds, minutes or hours: `20`, `20s`, `2m`, `1h`.
///
/// # Errors
/// What to write instead.
pub fn duration(text: &str) -> Result<Duration, String> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let seconds = match unit {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return Err(format!("{unit:?} is no unit of time: write 20s, 2m or 1h")),
    };
    let number: u64 = number.parse().map_err(|_| "write a number and a unit: 20s".to_owned())?;
    let total = number.checked_mul(seconds).ok_or("that is longer than time itself: write 1h")?;
    Ok(Duration::from_secs(total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_a_number_with_a_unit() {
        assert_eq!(duration("20s"), Ok(Duration::from_secs(20)));
        assert_eq!(duration("20"), Ok(Duration::from_secs(20)));
        assert_eq!(duration("2m"), Ok(Duration::from_mins(2)));
        assert!(duration("2d").unwrap_err().contains("no unit"));
        assert!(duration("s").is_err());
        assert!(duration("18446744073709551615h").is_err());
    }
}
