//! One pretraining example as it lies in a record file.

use std::path::Path;

use super::example::{Example, Feature};
use super::tfrecord::RecordReader;
use crate::{Error, Result};

/// One row of one step, before a permutation is drawn; every list has `seq_len` entries.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// Token ids: `reuse_len` tokens of the stream, then `A <sep> B <sep> <cls>`.
    pub input: Vec<i32>, // [L]
    /// The next token of each position; kept for the original program, not read in training.
    pub target: Vec<i32>, // [L]
    /// 0 for the first half, A and its `<sep>`; 1 for B and its `<sep>`; 2 for `<cls>`.
    pub segment_ids: Vec<u8>, // [L]
    /// Positions chosen for prediction; functional ones among them are not predicted.
    pub is_masked: Vec<bool>, // [L]
    /// Whether B follows A in the text; not read in training.
    pub is_next: bool,
}

impl Record {
    /// The record as a `tf.train.Example` with the original's names.
    pub fn to_example(&self) -> Example {
        Example::default()
            .with_ints("input", self.input.iter().map(|&v| v.into()))
            .with_ints("is_masked", self.is_masked.iter().map(|&v| v.into()))
            .with_ints("label", [self.is_next.into()])
            .with_ints("seg_id", self.segment_ids.iter().map(|&v| v.into()))
            .with_ints("target", self.target.iter().map(|&v| v.into()))
    }

    /// Reads payload `record` (counted from 0) of the file `path`.
    ///
    /// # Errors
    /// When a feature is absent, too short, or holds values that cannot be; the sentence names file and record.
    pub fn decode(payload: &[u8], seq_len: usize, path: &Path, record: u64) -> Result<Self> {
        Self::from_example(&Example::decode(payload, path, record)?, seq_len, path, record)
    }

    /// Reads record `index` (counted from 0) of the file `path`, whatever its length.
    ///
    /// # Errors
    /// When the file is damaged or has fewer records.
    pub fn read(path: &Path, index: u64) -> Result<Self> {
        let mut reader = RecordReader::open(path)?;
        while reader.record() < index && reader.next_record()?.is_some() {}
        let records = reader.record();
        let Some(payload) = reader.next_record()? else {
            return Err(Error::data(path, format!("there is no record {index}, only {records} from 0 on")));
        };
        let example = Example::decode(payload, path, index)?;
        let seq_len = match example.features.get("input") {
            Some(Feature::Ints(values)) => values.len(),
            _ => 0, // the check below names what is amiss
        };
        Self::from_example(&example, seq_len, path, index)
    }

    fn from_example(example: &Example, seq_len: usize, path: &Path, record: u64) -> Result<Self> {
        let ints = |name, expected| example.ints(name, expected, path, record);
        let out_of_range = |name: &str, value: i64, expected: &str| {
            Error::data(path, format!("record {record}: feature {name:?} holds {value}, expected {expected}"))
        };
        let ids = |name| {
            let id = |&v| i32::try_from(v).ok().filter(|v| *v >= 0).ok_or_else(|| out_of_range(name, v, "a token id"));
            ints(name, seq_len)?.iter().map(id).collect::<Result<Vec<i32>>>()
        };
        let flag = |name, v| match v {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(out_of_range(name, v, "0 or 1")),
        };
        let segment = |&v: &i64| u8::try_from(v).map_err(|_| out_of_range("seg_id", v, "a segment from 0 to 255"));
        Ok(Self {
            input: ids("input")?,
            target: ids("target")?,
            segment_ids: ints("seg_id", seq_len)?.iter().map(segment).collect::<Result<_>>()?,
            is_masked: ints("is_masked", seq_len)?.iter().map(|&v| flag("is_masked", v)).collect::<Result<_>>()?,
            is_next: flag("label", ints("label", 1)?[0])?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        Record {
            input: vec![10, 11, 4, 3],
            target: vec![11, 12, 3, 3],
            segment_ids: vec![0, 1, 1, 2],
            is_masked: vec![false, true, true, false],
            is_next: true,
        }
    }

    #[test]
    fn round_trip() {
        let bytes = record().to_example().encode();
        assert_eq!(Record::decode(&bytes, 4, Path::new("x"), 0).unwrap(), record());
    }

    #[test]
    fn impossible_values_are_named() {
        let says = |name: &str, values: [i64; 4]| {
            let example = record().to_example().with_ints(name, values);
            Record::decode(&example.encode(), 4, Path::new("x"), 2).unwrap_err().to_string()
        };
        assert_eq!(says("input", [1, 2, -3, 4]), "x: record 2: feature \"input\" holds -3, expected a token id");
        assert!(says("input", [1, 2, 3, 1 << 40]).contains("1099511627776"));
        assert!(says("seg_id", [0, 256, 0, 0]).contains("expected a segment"));
        assert!(says("is_masked", [0, 2, 0, 0]).contains("holds 2, expected 0 or 1"));
        let mut example = record().to_example();
        example.features.remove("target");
        let e = Record::decode(&example.encode(), 4, Path::new("x"), 2).unwrap_err().to_string();
        assert!(e.contains("\"target\" must hold 4 integers"), "{e}");
    }

    #[test]
    fn damaged_payloads_are_errors_or_records() {
        use rand::{Rng, SeedableRng};
        let bytes = record().to_example().encode();
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(14);
        let mut errors = 0;
        for _ in 0..1000 {
            let mut damaged = bytes.clone();
            let at = rng.random_range(0..bytes.len());
            damaged[at] ^= 1 << rng.random_range(0..8);
            damaged.truncate(rng.random_range(at..2 * bytes.len()).max(1));
            if let Err(e) = Record::decode(&damaged, 4, Path::new("x"), 2) {
                assert!(e.to_string().starts_with("x: record 2"), "{e}");
                errors += 1;
            }
        }
        assert!(errors > 500, "{errors}");
    }

    #[test]
    fn one_record_of_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.tfrecords");
        let mut bytes = Vec::new();
        let second = Record { is_next: false, ..record() };
        for record in [record(), second.clone()] {
            super::super::tfrecord::append_record(&mut bytes, &record.to_example().encode());
        }
        super::super::tfrecord::append_record(&mut bytes, b"");
        std::fs::write(&path, bytes).unwrap();
        assert_eq!(Record::read(&path, 1).unwrap(), second);
        assert!(Record::read(&path, 2).unwrap_err().to_string().contains("an example without features"));
        assert!(Record::read(&path, 3).unwrap_err().to_string().contains("no record 3, only 3"));
        assert!(Record::read(&path, u64::MAX).is_err());
    }
}
