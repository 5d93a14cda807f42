//! `tf.train.Example` messages, encoded and decoded by hand: a map from names to lists.
//!
//! `Example { 1: Features { 1: repeated entry { 1: name, 2: Feature { 1: bytes | 2: floats | 3: ints } } } }`, and every
//! list is a message whose field 1 repeats; numbers may be packed or not.

use std::collections::BTreeMap;
use std::path::Path;

use crate::{Error, Result};

/// One named list of an [`Example`].
#[derive(Clone, Debug, PartialEq)]
pub enum Feature {
    /// Byte strings.
    Bytes(Vec<Vec<u8>>),
    /// 32-bit floats.
    Floats(Vec<f32>),
    /// 64-bit integers.
    Ints(Vec<i64>),
}

/// A `tf.train.Example`: named lists. Encoding sorts the names, so equal examples are equal bytes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Example {
    /// The lists by name.
    pub features: BTreeMap<String, Feature>,
}

type Wire<T> = std::result::Result<T, String>;

impl Example {
    /// Adds a list of integers.
    pub fn with_ints(mut self, name: &str, values: impl IntoIterator<Item = i64>) -> Self {
        self.features.insert(name.into(), Feature::Ints(values.into_iter().collect()));
        self
    }

    /// The message as protobuf bytes, numbers packed.
    pub fn encode(&self) -> Vec<u8> {
        let mut features = Vec::new();
        let (mut list, mut feature, mut entry) = (Vec::new(), Vec::new(), Vec::new());
        for (name, value) in &self.features {
            list.clear();
            let field = match value {
                Feature::Bytes(strings) => {
                    strings.iter().for_each(|s| put_bytes(&mut list, 1, s));
                    1
                }
                Feature::Floats(values) => {
                    let packed: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
                    put_bytes(&mut list, 1, &packed);
                    2
                }
                Feature::Ints(values) => {
                    let mut packed = Vec::with_capacity(2 * values.len());
                    values.iter().for_each(|&v| put_varint(&mut packed, v as u64));
                    put_bytes(&mut list, 1, &packed);
                    3
                }
            };
            feature.clear();
            put_bytes(&mut feature, field, &list);
            entry.clear();
            put_bytes(&mut entry, 1, name.as_bytes());
            put_bytes(&mut entry, 2, &feature);
            put_bytes(&mut features, 1, &entry);
        }
        let mut example = Vec::with_capacity(features.len() + 4);
        put_bytes(&mut example, 1, &features);
        example
    }

    /// Reads a message; unknown fields are skipped, of a repeated name the last list counts.
    ///
    /// # Errors
    /// When `bytes` is no such message; the sentence names `path` and `record` (counted from 0).
    pub fn decode(bytes: &[u8], path: &Path, record: u64) -> Result<Self> {
        parse_example(bytes)
            .map_err(|e| Error::data(path, format!("record {record} is not a tf.train.Example message: {e}")))
    }

    /// The integers called `name`, which must be `expected` many.
    ///
    /// # Errors
    /// When the list is absent, of another type or of another length; the sentence names `path` and `record`.
    pub fn ints(&self, name: &str, expected: usize, path: &Path, record: u64) -> Result<&[i64]> {
        let got = match self.features.get(name) {
            Some(Feature::Ints(values)) if values.len() == expected => return Ok(values),
            Some(Feature::Ints(values)) => format!("{} integers", values.len()),
            Some(Feature::Floats(_)) => "floats".into(),
            Some(Feature::Bytes(_)) => "byte strings".into(),
            None => match self.features.keys().map(String::as_str).collect::<Vec<_>>() {
                names if names.is_empty() => "an example without features".into(),
                names => format!("only the features {}", names.join(", ")),
            },
        };
        Err(Error::data(path, format!("record {record}: feature {name:?} must hold {expected} integers, got {got}")))
    }
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn put_bytes(out: &mut Vec<u8>, field: u64, bytes: &[u8]) {
    put_varint(out, field << 3 | 2);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// What a field of a message holds.
enum Value<'a> {
    Varint(u64),
    Fixed64,
    Bytes(&'a [u8]),
    Fixed32([u8; 4]),
}

/// Takes `n` bytes off the front of `rest`.
fn take<'a>(rest: &mut &'a [u8], n: u64) -> Wire<&'a [u8]> {
    let at = usize::try_from(n).ok().filter(|&n| n <= rest.len());
    let at = at.ok_or_else(|| format!("a field of {n} bytes where {} remain", rest.len()))?;
    let (head, tail) = rest.split_at(at);
    *rest = tail;
    Ok(head)
}

fn take_varint(rest: &mut &[u8]) -> Wire<u64> {
    let mut value = 0u64;
    for (i, &byte) in rest.iter().take(10).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * i); // bits past the 64th fall off, as in protobuf itself
        if byte < 0x80 {
            *rest = &rest[i + 1..];
            return Ok(value);
        }
    }
    Err(if rest.len() < 10 { "it ends within a number".into() } else { "a number of more than ten bytes".into() })
}

/// The next field number and value, or `None` at the end.
fn take_field<'a>(rest: &mut &'a [u8]) -> Wire<Option<(u64, Value<'a>)>> {
    if rest.is_empty() {
        return Ok(None);
    }
    let key = take_varint(rest)?;
    let value = match key & 7 {
        0 => Value::Varint(take_varint(rest)?),
        1 => take(rest, 8).map(|_| Value::Fixed64)?,
        2 => {
            let length = take_varint(rest)?;
            Value::Bytes(take(rest, length)?)
        }
        5 => Value::Fixed32(float_bytes(take(rest, 4)?)),
        wire => return Err(format!("field {} has the unknown wire type {wire}", key >> 3)),
    };
    Ok(Some((key >> 3, value)))
}

fn float_bytes(bytes: &[u8]) -> [u8; 4] {
    std::array::from_fn(|i| bytes[i])
}

fn parse_example(mut bytes: &[u8]) -> Wire<Example> {
    let mut example = Example::default();
    while let Some((field, value)) = take_field(&mut bytes)? {
        let (1, Value::Bytes(mut features)) = (field, value) else { continue };
        while let Some((field, value)) = take_field(&mut features)? {
            let (1, Value::Bytes(entry)) = (field, value) else { continue };
            if let (name, Some(feature)) = parse_entry(entry)? {
                example.features.insert(name, feature);
            }
        }
    }
    Ok(example)
}

fn parse_entry(mut entry: &[u8]) -> Wire<(String, Option<Feature>)> {
    let (mut name, mut feature) = (String::new(), None);
    while let Some((field, value)) = take_field(&mut entry)? {
        match (field, value) {
            (1, Value::Bytes(text)) => {
                name = std::str::from_utf8(text).map_err(|_| "a feature name is not UTF-8".to_string())?.into();
            }
            (2, Value::Bytes(bytes)) => feature = parse_feature(bytes)?,
            _ => {}
        }
    }
    Ok((name, feature))
}

fn parse_feature(mut bytes: &[u8]) -> Wire<Option<Feature>> {
    let mut feature = None;
    while let Some((field, value)) = take_field(&mut bytes)? {
        let Value::Bytes(mut list) = value else { continue };
        feature = match field {
            1 => {
                let mut strings = Vec::new();
                while let Some((field, value)) = take_field(&mut list)? {
                    if let (1, Value::Bytes(string)) = (field, value) {
                        strings.push(string.to_vec());
                    }
                }
                Some(Feature::Bytes(strings))
            }
            2 => Some(Feature::Floats(parse_floats(list)?)),
            3 => Some(Feature::Ints(parse_ints(list)?)),
            _ => feature,
        };
    }
    Ok(feature)
}

fn parse_floats(mut list: &[u8]) -> Wire<Vec<f32>> {
    let mut floats = Vec::new();
    while let Some((field, value)) = take_field(&mut list)? {
        match (field, value) {
            (1, Value::Fixed32(bytes)) => floats.push(f32::from_le_bytes(bytes)),
            (1, Value::Bytes(packed)) if packed.len() % 4 == 0 => {
                floats.extend(packed.chunks_exact(4).map(|b| f32::from_le_bytes(float_bytes(b))));
            }
            (1, Value::Bytes(packed)) => return Err(format!("{} bytes of packed floats", packed.len())),
            _ => {}
        }
    }
    Ok(floats)
}

fn parse_ints(mut list: &[u8]) -> Wire<Vec<i64>> {
    let mut ints = Vec::new();
    while let Some((field, value)) = take_field(&mut list)? {
        match (field, value) {
            (1, Value::Varint(value)) => ints.push(value as i64),
            (1, Value::Bytes(mut packed)) => {
                ints.reserve(packed.len() / 2);
                while !packed.is_empty() {
                    ints.push(take_varint(&mut packed)? as i64);
                }
            }
            _ => {}
        }
    }
    Ok(ints)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    fn path() -> &'static Path {
        Path::new("x.tfrecords")
    }

    fn sample() -> Example {
        let mut example = Example::default().with_ints("input", [0, 1, 127, 128, 31999, -1, i64::MIN]);
        example.features.insert("weight".into(), Feature::Floats(vec![0.5, -2.0, f32::MAX]));
        example.features.insert("name".into(), Feature::Bytes(vec![b"ab".to_vec(), vec![]]));
        example
    }

    #[test]
    fn round_trip() {
        let example = sample();
        assert_eq!(Example::decode(&example.encode(), path(), 0).unwrap(), example);
        assert_eq!(example.ints("input", 7, path(), 0).unwrap()[4], 31999);
    }

    /// Bytes written out by hand from the protobuf encoding rules, not by our encoder.
    #[test]
    fn packed_and_unpacked_bytes() {
        let packed =
            [0x0a, 0x0f, 0x0a, 0x0d, 0x0a, 0x01, b'a', 0x12, 0x08, 0x1a, 0x06, 0x0a, 0x04, 0x05, 0xac, 0x02, 0x00];
        let unpacked = [
            0x0a, 0x10, 0x0a, 0x0e, 0x0a, 0x01, b'a', 0x12, 0x09, 0x1a, 0x07, 0x08, 0x05, 0x08, 0xac, 0x02, 0x08, 0x00,
        ];
        let expected = Example::default().with_ints("a", [5, 300, 0]);
        assert_eq!(expected.encode(), packed);
        assert_eq!(Example::decode(&packed, path(), 0).unwrap(), expected);
        assert_eq!(Example::decode(&unpacked, path(), 0).unwrap(), expected);
        let floats = [0x0a, 0x0e, 0x0a, 0x0c, 0x0a, 0x01, b'f', 0x12, 0x07, 0x12, 0x05, 0x0d, 0, 0, 0x80, 0x3f];
        let decoded = Example::decode(&floats, path(), 0).unwrap();
        assert_eq!(decoded.features["f"], Feature::Floats(vec![1.0]));
    }

    #[test]
    fn garbage_is_an_error_or_a_value_but_never_a_panic() {
        let bytes = sample().encode();
        let mut rng = ChaCha8Rng::seed_from_u64(2);
        let mut errors = 0;
        for _ in 0..2000 {
            let mut damaged = bytes.clone();
            match rng.random_range(0..3) {
                0 => damaged.truncate(rng.random_range(0..bytes.len())),
                1 => {
                    let at = rng.random_range(0..bytes.len());
                    damaged[at] ^= 1 << rng.random_range(0..8);
                }
                _ => damaged.iter_mut().for_each(|b| *b = rng.random()),
            }
            if let Err(e) = Example::decode(&damaged, path(), 7) {
                assert!(e.to_string().starts_with("x.tfrecords: record 7 "), "{e}");
                errors += 1;
            }
        }
        assert!(errors > 800, "{errors}");
    }

    #[test]
    fn absent_and_short_features_are_named() {
        let example = sample();
        let says = |name: &str, n| example.ints(name, n, path(), 3).unwrap_err().to_string();
        assert_eq!(says("input", 8), "x.tfrecords: record 3: feature \"input\" must hold 8 integers, got 7 integers");
        assert!(says("target", 8).ends_with("got only the features input, name, weight"));
        assert!(says("weight", 3).ends_with("got floats"));
    }
}
