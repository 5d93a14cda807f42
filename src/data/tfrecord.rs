//! TFRecord files: length-prefixed, check-summed byte strings.
//!
//! One record is `length: u64`, `masked_crc(length): u32`, `payload`, `masked_crc(payload): u32`, all little-endian.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::stamp::{Stamp, stamp_of};
pub use crate::checksum::masked_crc;
use crate::{Error, Result};

const HEADER: u64 = 12; // u64 length, u32 check sum
const FOOTER: u64 = 4; // u32 check sum

/// Appends `payload` to `out` as one framed record.
pub fn append_record(out: &mut Vec<u8>, payload: &[u8]) {
    let length = (payload.len() as u64).to_le_bytes();
    out.extend_from_slice(&length);
    out.extend_from_slice(&masked_crc(&length).to_le_bytes());
    out.extend_from_slice(payload);
    out.extend_from_slice(&masked_crc(payload).to_le_bytes());
}

/// Reads a TFRecord file record by record; every check sum is verified.
pub struct RecordReader {
    path: PathBuf,
    file: BufReader<File>,
    length: u64, // bytes
    stamp: Stamp,
    /// Bytes of the file that were not read yet; no allocation exceeds them.
    remaining: u64,
    record: u64,
    payload: Vec<u8>,
}

impl RecordReader {
    /// Opens `path`.
    ///
    /// # Errors
    /// When the file cannot be opened or is not a regular file.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref().to_owned();
        let metadata = std::fs::metadata(&path).map_err(|e| Error::io("read", &path, e))?;
        if !metadata.is_file() {
            return Err(Error::data(&path, "expected a TFRecord file, got a directory or a special file"));
        }
        let file = File::open(&path).map_err(|e| Error::io("read", &path, e))?;
        let file = BufReader::with_capacity(1 << 18, file);
        let length = metadata.len();
        let stamp = stamp_of(&metadata);
        Ok(Self { path, file, length, stamp, remaining: length, record: 0, payload: Vec::new() })
    }

    /// Number of the record that [`RecordReader::next_record`] returns next, counted from 0.
    pub fn record(&self) -> u64 {
        self.record
    }

    /// Bytes of the file before that record.
    pub fn offset(&self) -> u64 {
        self.length - self.remaining
    }

    /// Whether there is no further record.
    pub fn is_at_end(&self) -> bool {
        self.remaining == 0
    }

    /// Goes to record `record`, which begins at byte `offset`, as [`RecordReader::offset`] told.
    ///
    /// # Errors
    /// When the file is shorter, or cannot be read.
    pub fn seek(&mut self, offset: u64, record: u64) -> Result<()> {
        if offset > self.length {
            let what = format!("has {} bytes, so there is no record {record} at byte {offset}", self.length);
            return Err(Error::data(&self.path, what));
        }
        self.file.seek(SeekFrom::Start(offset)).map_err(|e| Error::io("read", &self.path, e))?;
        (self.remaining, self.record) = (self.length - offset, record);
        Ok(())
    }

    /// What tells whether the file is still the one that it was.
    pub(crate) fn stamp(&self) -> Stamp {
        self.stamp
    }

    /// The next payload, or `None` at the end of the file.
    ///
    /// # Errors
    /// When the file ends within a record or a check sum does not match; the sentence names file and record.
    pub fn next_record(&mut self) -> Result<Option<&[u8]>> {
        if self.remaining == 0 {
            return Ok(None);
        }
        if self.remaining < HEADER {
            return Err(self.damaged(format!("the file ends {} bytes into its {HEADER}-byte header", self.remaining)));
        }
        let mut header = [0u8; HEADER as usize];
        self.read(&mut header)?;
        let (length, crc) = header.split_at(8);
        if masked_crc(length) != u32_at(crc) {
            return Err(self.damaged("the check sum of its length does not match".into()));
        }
        let length = u64::from_le_bytes(std::array::from_fn(|i| length[i]));
        // Only now is the length believed, and only as far as the file reaches.
        if length.checked_add(FOOTER).is_none_or(|n| n > self.remaining) {
            let rest = self.remaining;
            return Err(self.damaged(format!("it claims {length} bytes, but only {rest} bytes of the file remain")));
        }
        let mut payload = std::mem::take(&mut self.payload);
        payload.resize((length + FOOTER) as usize, 0);
        self.read(&mut payload)?;
        self.payload = payload;
        let (body, crc) = self.payload.split_at(length as usize);
        if masked_crc(body) != u32_at(crc) {
            return Err(self.damaged("the check sum of its content does not match".into()));
        }
        self.record += 1;
        Ok(Some(&self.payload[..length as usize]))
    }

    fn read(&mut self, into: &mut [u8]) -> Result<()> {
        self.file.read_exact(into).map_err(|e| Error::io("read", &self.path, e))?;
        self.remaining -= into.len() as u64;
        Ok(())
    }

    fn damaged(&self, what: String) -> Error {
        let record = self.record;
        Error::data(&self.path, format!("record {record} is damaged: {what}; copy or build the file again"))
    }
}

fn u32_at(bytes: &[u8]) -> u32 {
    u32::from_le_bytes(std::array::from_fn(|i| bytes[i]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    fn read_all(path: &Path) -> Result<Vec<Vec<u8>>> {
        let mut reader = RecordReader::open(path)?;
        let mut records = Vec::new();
        while let Some(payload) = reader.next_record()? {
            records.push(payload.to_vec());
        }
        Ok(records)
    }

    fn three_records() -> (Vec<Vec<u8>>, Vec<u8>) {
        let records = vec![b"alpha".to_vec(), Vec::new(), (0..=255).collect::<Vec<u8>>()];
        let mut bytes = Vec::new();
        records.iter().for_each(|r| append_record(&mut bytes, r));
        (records, bytes)
    }

    #[test]
    fn crc_is_castagnoli_and_masked() {
        assert_eq!(crc32c::crc32c(b"123456789"), 0xe306_9283); // the published check value
        // Rotated right by 15: 0x9283 is 1001001010000011, its low 15 bits go to the top.
        assert_eq!(masked_crc(b"123456789"), 0x2507_c60du32.wrapping_add(0xa282_ead8));
    }

    #[test]
    fn round_trip() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.tfrecords");
        let (records, bytes) = three_records();
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(read_all(&path).unwrap(), records);
    }

    /// Every cut and every flipped bit is noticed, named by record, and never read as something else.
    #[test]
    fn damage_is_one_sentence() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.tfrecords");
        let (records, bytes) = three_records();
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        for _ in 0..1000 {
            let mut damaged = bytes.clone();
            let cut = rng.random_bool(0.5);
            if cut {
                damaged.truncate(rng.random_range(0..bytes.len()));
            } else {
                let at = rng.random_range(0..bytes.len());
                damaged[at] ^= 1 << rng.random_range(0..8);
            }
            std::fs::write(&path, &damaged).unwrap();
            match read_all(&path) {
                // A cut between two records looks like a shorter file.
                Ok(read) => assert!(cut && read.len() < records.len() && read == records[..read.len()]),
                Err(e) => {
                    let sentence = e.to_string();
                    assert!(sentence.contains("a.tfrecords: record ") && !sentence.contains('\n'), "{sentence}");
                }
            }
        }
    }

    #[test]
    fn absurd_length_allocates_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.tfrecords");
        for length in [u64::MAX, u64::MAX - 3, 1 << 40, 1] {
            let mut bytes = length.to_le_bytes().to_vec();
            bytes.extend_from_slice(&masked_crc(&length.to_le_bytes()).to_le_bytes());
            std::fs::write(&path, &bytes).unwrap();
            let sentence = read_all(&path).unwrap_err().to_string();
            assert!(sentence.contains(&format!("claims {length} bytes")), "{sentence}");
        }
        assert!(RecordReader::open(dir.path()).is_err());
        assert!(RecordReader::open(dir.path().join("absent")).is_err());
    }
}
