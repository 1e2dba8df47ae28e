//! A token of a service account with another end of its life: an API server makes none for less than ten minutes.

use std::time::{SystemTime, UNIX_EPOCH};

use rcgen::{KeyPair, SigningKey as _};

const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// The same token, which ends so many seconds from now (before now if negative), signed with the key (PEM, ECDSA on P-256) that signed it.
pub(crate) fn ending(token: &str, seconds: i64, key: &str) -> String {
    let mut parts = token.trim().split('.');
    let head = parts.next().expect("a head");
    let claims = decoded(parts.next().expect("claims"));
    let claims = String::from_utf8(claims).expect("JSON");
    let (before, rest) = claims.split_once("\"exp\":").expect("an end");
    let after = rest.trim_start_matches(|digit: char| digit.is_ascii_digit());
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock");
    let end = now.as_secs().saturating_add_signed(seconds);
    let claims = format!("{before}\"exp\":{end}{after}");
    let signed = format!("{head}.{}", encoded(claims.as_bytes()));
    let key = KeyPair::from_pem(key).expect("a key");
    let signature = key.sign(signed.as_bytes()).expect("a signature");
    format!("{signed}.{}", encoded(&plain(&signature)))
}

/// The two numbers of a signature, 32 bytes each, out of their DER.
fn plain(der: &[u8]) -> Vec<u8> {
    let mut numbers = Vec::new();
    let mut rest = &der[2..];
    while let [2, length, after @ ..] = rest {
        let (number, after) = after.split_at(usize::from(*length));
        let number: Vec<u8> = number.iter().copied().skip_while(|byte| *byte == 0).collect();
        numbers.extend(vec![0; 32 - number.len()]);
        numbers.extend(number);
        rest = after;
    }
    numbers
}

fn encoded(bytes: &[u8]) -> String {
    let bits = |chunk: &[u8]| {
        (0..3).fold(0_u32, |bits, at| bits << 8 | u32::from(chunk.get(at).copied().unwrap_or(0)))
    };
    let digits = bytes.chunks(3).flat_map(|chunk| {
        let bits = bits(chunk);
        (0..=chunk.len()).map(move |at| DIGITS[(bits >> (18 - 6 * at) & 63) as usize])
    });
    digits.map(char::from).collect()
}

fn decoded(text: &str) -> Vec<u8> {
    let (mut bits, mut count, mut bytes) = (0_u32, 0, Vec::new());
    for byte in text.bytes() {
        let digit = DIGITS.iter().position(|digit| *digit == byte).expect("base64url");
        bits = bits << 6 | digit as u32;
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
            bits &= (1 << count) - 1;
        }
    }
    bytes
}
