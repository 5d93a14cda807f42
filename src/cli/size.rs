//! Sizes for people: bytes with binary units, counts with thin groups.

pub use crate::size::bytes;

/// Reads `16GiB`, `512MiB`, `1.5G`, `8e9` or plain bytes. `GB` is taken as `GiB`, as cards are sold.
pub fn parse_bytes(text: &str) -> Result<usize, String> {
    let text = text.trim();
    let digits = text.find(|c: char| c.is_ascii_alphabetic() && !matches!(c, 'e' | 'E')).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor = match unit.trim().to_ascii_lowercase().trim_end_matches('b').trim_end_matches('i') {
        "" => 1u64,
        "k" => 1 << 10,
        "m" => 1 << 20,
        "g" => 1 << 30,
        "t" => 1 << 40,
        _ => return Err(format!("unknown unit {unit:?}; use KiB, MiB, GiB or TiB")),
    };
    let number: f64 = number.trim().parse().map_err(|_| format!("{text:?} is no size such as 16GiB"))?;
    let bytes = number * factor as f64;
    if !(0.0..1e18).contains(&bytes) {
        return Err(format!("{text:?} is no size such as 16GiB"));
    }
    Ok(bytes as usize)
}

/// A count with commas between groups of three digits.
pub fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(parse_bytes("16GiB"), Ok(16 << 30));
        assert_eq!(parse_bytes("16 GB"), Ok(16 << 30));
        assert_eq!(parse_bytes("1.5m"), Ok(3 << 19));
        assert_eq!(parse_bytes("1e3"), Ok(1000));
        for wrong in ["", "GiB", "12 parsecs", "-1G", "1e99G", "nan"] {
            assert!(parse_bytes(wrong).is_err(), "{wrong}");
        }
        assert_eq!(bytes(17 << 30), "17.00 GiB");
        assert_eq!(bytes(100), "100 B");
        assert_eq!(grouped(1_234_567), "1,234,567");
        assert_eq!(grouped(12), "12");
    }
}
