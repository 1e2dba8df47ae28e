//! Limits of a pod's traffic, from its annotations.
//!
//! A limit that is too small or too large is the nearest that isn't; one that can't be read, or
//! that lacks the limit it belongs to, is none.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

/// One limit for each direction.
struct Limit {
    /// The annotation, after `qos.projectcalico.org/ingress` or `…/egress`; also the field.
    name: &'static str,
    min: i64,
    max: i64,
}

/// In bits per second, as the next two.
const BANDWIDTH: Limit = limit("Bandwidth", 1_000, 1_000_000_000_000_000);
/// In bits; the largest is what 32 bits hold of bytes.
const BURST: Limit = limit("Burst", 1_000, 8 * u32::MAX as i64);
const PEAKRATE: Limit = limit("Peakrate", 1_010, 1_010_000_000_000_000);
/// In bytes: it is the size of a packet.
const MINBURST: Limit = limit("Minburst", 1_000, 100_000_000);
/// In packets per second; netfilter's limit ends there, and so does the next.
const PACKET_RATE: Limit = limit("PacketRate", 1, 10_000);
const PACKET_BURST: Limit = limit("PacketBurst", 1, 10_000);
const MAX_CONNECTIONS: Limit = limit("MaxConnections", 1, u32::MAX as i64);

/// 512 MiB, in bits.
const DEFAULT_BURST: i64 = 1 << 32;
const DEFAULT_PACKET_BURST: i64 = 5;

const fn limit(name: &'static str, min: i64, max: i64) -> Limit {
    Limit { name, min, max }
}

type Annotations = BTreeMap<String, String>;

/// `spec.qosControls` of the endpoint; empty: the pod has no limits.
pub(super) fn controls(annotations: &Annotations) -> Map<String, Value> {
    let mut controls = Map::new();
    for direction in ["ingress", "egress"] {
        of_direction(annotations, direction, &mut controls);
    }
    if let Some(dscp) = annotations.get("qos.projectcalico.org/dscp").and_then(|it| dscp(it)) {
        controls.insert("dscp".to_owned(), dscp);
    }
    controls
}

fn of_direction(annotations: &Annotations, direction: &str, controls: &mut Map<String, Value>) {
    let annotation = |limit: &Limit| {
        annotations.get(&format!("qos.projectcalico.org/{direction}{}", limit.name))
    };
    let read = |limit: &Limit, text: &String| {
        quantity(text).map(|quantity| quantity.clamp(limit.min, limit.max))
    };
    let value = |limit: &Limit| read(limit, annotation(limit)?);
    // Calico's annotation counts, even a bad one, before that of Kubernetes.
    let bandwidth = annotation(&BANDWIDTH)
        .or_else(|| annotations.get(&format!("kubernetes.io/{direction}-bandwidth")))
        .and_then(|text| read(&BANDWIDTH, text));
    let burst = bandwidth.map(|_| value(&BURST).unwrap_or(DEFAULT_BURST));
    let peakrate = value(&PEAKRATE).filter(|peak| bandwidth.is_some_and(|usual| usual < *peak));
    let packet_rate = value(&PACKET_RATE);
    for (limit, value) in [
        (BANDWIDTH, bandwidth),
        (BURST, burst),
        (PEAKRATE, peakrate),
        (MINBURST, peakrate.and_then(|_| value(&MINBURST))),
        (PACKET_RATE, packet_rate),
        (PACKET_BURST, packet_rate.map(|_| value(&PACKET_BURST).unwrap_or(DEFAULT_PACKET_BURST))),
        (MAX_CONNECTIONS, value(&MAX_CONNECTIONS)),
    ] {
        if let Some(value) = value {
            controls.insert(format!("{direction}{}", limit.name), json!(value));
        }
    }
}

/// A code point from 0 to 63, or the name of one.
fn dscp(text: &str) -> Option<Value> {
    const NAMES: [&str; 21] = [
        "DF", "EF", "AF11", "AF12", "AF13", "AF21", "AF22", "AF23", "AF31", "AF32", "AF33", "AF41",
        "AF42", "AF43", "CS0", "CS1", "CS2", "CS3", "CS4", "CS5", "CS6",
    ];
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if is_number {
        return text.parse::<u8>().ok().filter(|number| *number <= 63).map(Value::from);
    }
    let name = |text: &str| NAMES.iter().find(|name| name.eq_ignore_ascii_case(text));
    // With blanks around it, it is kept as it is.
    let trimmed = || name(text.trim()).map(|_| json!(text));
    name(text).map(|name| json!(name)).or_else(trimmed)
}

/// Reads a quantity of Kubernetes, such as `10M`, `1.5Gi` or `1e6`; what isn't whole is rounded up.
/// Too large for 64 bits is the largest that fits.
fn quantity(text: &str) -> Option<i64> {
    if text.is_empty() {
        return None;
    }
    let (is_negative, rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
    let (whole, rest) = rest.split_at(digits(rest));
    let (fraction, suffix) = match rest.strip_prefix('.') {
        None => ("", rest),
        Some(rest) => rest.split_at(digits(rest)),
    };
    let (tens, twos) = exponents(suffix)?;
    let size = scaled(whole.trim_start_matches('0'), fraction, tens, twos);
    Some(match i64::try_from(size) {
        // Nothing below zero is a limit: how far below makes no difference.
        _ if is_negative && size > 0 => -1,
        Ok(size) => size,
        Err(_) => i64::MAX,
    })
}

/// What a suffix multiplies by, as powers of 10 and of 2.
fn exponents(suffix: &str) -> Option<(i32, u32)> {
    Some(match suffix {
        "n" => (-9, 0),
        "u" => (-6, 0),
        "m" => (-3, 0),
        "" => (0, 0),
        "k" => (3, 0),
        "M" => (6, 0),
        "G" => (9, 0),
        "T" => (12, 0),
        "P" => (15, 0),
        "E" => (18, 0),
        "Ki" => (0, 10),
        "Mi" => (0, 20),
        "Gi" => (0, 30),
        "Ti" => (0, 40),
        "Pi" => (0, 50),
        "Ei" => (0, 60),
        _ => (suffix.strip_prefix(['e', 'E'])?.parse().ok()?, 0),
    })
}

/// `whole.fraction` by these powers, rounded up, as far as 128 bits go.
fn scaled(whole: &str, fraction: &str, tens: i32, twos: u32) -> u128 {
    /// Of the fraction; with the 20 that a whole part may have, 38 fit in 128 bits.
    const DIGITS: usize = 18;
    if whole.len() > 20 {
        return u128::MAX;
    }
    let (fraction, rest) = fraction.split_at(fraction.len().min(DIGITS));
    let digits = format!("{whole}{fraction}");
    let number = if digits.is_empty() { 0 } else { digits.parse::<u128>().unwrap_or(u128::MAX) };
    let has_more = rest.bytes().any(|byte| byte != b'0');
    let tens = tens.saturating_sub(i32::try_from(fraction.len()).unwrap_or(i32::MAX));
    let power = |base: u128, exponent: u32| base.checked_pow(exponent).unwrap_or(u128::MAX);
    let number = number.saturating_mul(power(2, twos));
    if tens >= 0 {
        return number.saturating_mul(power(10, tens.unsigned_abs()));
    }
    let divisor = power(10, tens.unsigned_abs());
    if has_more { number / divisor + 1 } else { number.div_ceil(divisor) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read_as_kubernetes_reads_them() {
        for (text, value) in [
            ("0", 0),
            ("1", 1),
            ("1.1k", 1_100),
            ("1.0001k", 1_001),
            ("1.5Ki", 1_536),
            ("100m", 1),
            ("1e6", 1_000_000),
            ("1E6", 1_000_000),
            ("1e-3", 1),
            ("1E", 1_000_000_000_000_000_000),
            ("20E", i64::MAX),
            ("1e99", i64::MAX),
            ("123456789012345678901", i64::MAX),
            ("0.0000000000000000000000001", 1),
            ("+5", 5),
            ("-5", -1),
            ("-0", 0),
            (".5", 1),
            ("M", 0),
        ] {
            assert_eq!(quantity(text), Some(value), "{text}");
        }
        for text in ["", "bad", "1 M", "1e", "1K", "1kM", "1.2.3", "0x10", "1e1.5", "--1"] {
            assert_eq!(quantity(text), None, "{text}");
        }
    }
}
