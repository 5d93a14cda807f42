//! The sorted table of a bundle's index file, in LevelDB's format: blocks of prefix-compressed entries, an index block
//! that points at them, a footer that points at the index.

use crate::checksum::{masked_crc_of_two, matches};

/// The last 8 bytes of every table.
pub(super) const MAGIC: u64 = 0xdb47_7524_8b80_fb57;
const FOOTER: usize = 48; // bytes
const TRAILER: usize = 5; // bytes after a block: its compression and its check sum
const RESTART_INTERVAL: usize = 16; // entries
const BLOCK_SIZE: usize = 256 << 10; // bytes, as TensorFlow writes them
/// Longest block that a compressed one may become, and all keys of a block together.
const BLOCK_LIMIT: usize = 1 << 28; // bytes

/// What is wrong with a table, as the middle of a sentence.
pub(super) type TableResult<T> = std::result::Result<T, String>;

/// Reads numbers and strings of varying length from the front of a slice.
#[derive(Clone, Copy)]
pub(super) struct Cursor<'a>(pub &'a [u8]);

impl<'a> Cursor<'a> {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    pub fn bytes(&mut self, n: usize) -> TableResult<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(n).ok_or("it ends in the middle of an entry")?;
        self.0 = rest;
        Ok(head)
    }
    pub fn array<const N: usize>(&mut self) -> TableResult<[u8; N]> {
        let bytes = self.bytes(N)?;
        Ok(std::array::from_fn(|i| bytes[i]))
    }
    /// Seven bits a byte, the lowest first.
    pub fn varint(&mut self) -> TableResult<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let [byte] = self.array()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                break;
            }
            value |= bits << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err("a number is longer than 64 bits".into())
    }
    pub fn length(&mut self) -> TableResult<usize> {
        let value = self.varint()?;
        usize::try_from(value).map_err(|_| format!("a length of {value} bytes is too much"))
    }
    /// A string that is preceded by its length.
    pub fn string(&mut self) -> TableResult<&'a [u8]> {
        let length = self.length()?;
        self.bytes(length)
    }
}

pub(super) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Where a block lies.
#[derive(Clone, Copy)]
struct Handle {
    offset: usize,
    size: usize,
}

impl Handle {
    fn read(cursor: &mut Cursor) -> TableResult<Self> {
        Ok(Handle { offset: cursor.length()?, size: cursor.length()? })
    }
    fn write(self, out: &mut Vec<u8>) {
        put_varint(out, self.offset as u64);
        put_varint(out, self.size as u64);
    }
}

/// True when `tail`, the end of a file, is the end of a table.
pub(super) fn has_magic(tail: &[u8]) -> bool {
    tail.ends_with(&MAGIC.to_le_bytes())
}

/// All keys with their values, sorted. Every check sum is verified.
pub(super) fn read_table(table: &[u8]) -> TableResult<Vec<(Vec<u8>, Vec<u8>)>> {
    if !has_magic(table) || table.len() < FOOTER {
        return Err("it does not end as a table does".into());
    }
    let mut footer = Cursor(&table[table.len() - FOOTER..]);
    Handle::read(&mut footer)?; // of properties; TensorFlow has none
    let index = block(table, Handle::read(&mut footer)?)?;
    let mut entries: Vec<(Vec<u8>, Vec<u8>)> = vec![];
    for (_, handle) in block_entries(&index)? {
        for (key, value) in block_entries(&block(table, Handle::read(&mut Cursor(&handle))?)?)? {
            if entries.last().is_some_and(|(before, _)| *before >= key) {
                return Err("its keys are not sorted".into());
            }
            entries.push((key, value));
        }
    }
    Ok(entries)
}

fn block(table: &[u8], handle: Handle) -> TableResult<Vec<u8>> {
    let end = handle.offset.checked_add(handle.size).and_then(|end| end.checked_add(TRAILER));
    let whole = end.and_then(|end| table.get(handle.offset..end)).ok_or("a block lies outside of the file")?;
    let (body, trailer) = whole.split_at(handle.size);
    let (kind, crc) = trailer.split_at(1);
    let crc = u32::from_le_bytes(std::array::from_fn(|i| crc[i]));
    if !matches(crc, masked_crc_of_two(body, kind)) {
        return Err(format!("the check sum of the block at byte {} does not match", handle.offset));
    }
    match kind[0] {
        0 => Ok(body.to_vec()),
        1 => {
            let size = snap::raw::decompress_len(body).map_err(|e| format!("a compressed block is damaged: {e}"))?;
            if size > BLOCK_LIMIT {
                return Err(format!("a compressed block claims {size} bytes"));
            }
            snap::raw::Decoder::new().decompress_vec(body).map_err(|e| format!("a compressed block is damaged: {e}"))
        }
        other => Err(format!("a block has compression {other}; only none (0) and snappy (1) are known")),
    }
}

/// Entries of one block, their keys made whole.
fn block_entries(block: &[u8]) -> TableResult<Vec<(Vec<u8>, Vec<u8>)>> {
    let no_restarts = "a block has no list of restarts";
    let (rest, count) = block.split_last_chunk::<4>().ok_or(no_restarts)?;
    let restarts = (u32::from_le_bytes(*count) as usize).checked_mul(4);
    let length = restarts.and_then(|bytes| rest.len().checked_sub(bytes)).ok_or(no_restarts)?;
    let mut cursor = Cursor(&rest[..length]);
    let mut entries: Vec<(Vec<u8>, Vec<u8>)> = vec![];
    let mut keys = 0;
    while !cursor.is_empty() {
        let (shared, own, value) = (cursor.length()?, cursor.length()?, cursor.length()?);
        let before = entries.last().map_or(&[][..], |(key, _)| key);
        let mut key = before.get(..shared).ok_or("an entry shares more of its key than there is")?.to_vec();
        key.extend_from_slice(cursor.bytes(own)?);
        keys += key.len();
        if keys > BLOCK_LIMIT {
            return Err("its keys are too long".into()); // a few bytes can repeat a long key without end
        }
        entries.push((key, cursor.bytes(value)?.to_vec()));
    }
    Ok(entries)
}

/// Builds one block.
#[derive(Default)]
struct BlockWriter {
    bytes: Vec<u8>,
    restarts: Vec<u32>,
    entries: usize,
    last: Vec<u8>,
}

impl BlockWriter {
    fn add(&mut self, key: &[u8], value: &[u8]) {
        let mut shared = 0;
        if self.entries.is_multiple_of(RESTART_INTERVAL) {
            self.restarts.push(self.bytes.len() as u32);
        } else {
            shared = key.iter().zip(&self.last).take_while(|(a, b)| a == b).count();
        }
        for length in [shared, key.len() - shared, value.len()] {
            put_varint(&mut self.bytes, length as u64);
        }
        self.bytes.extend_from_slice(&key[shared..]);
        self.bytes.extend_from_slice(value);
        self.last = key.to_vec();
        self.entries += 1;
    }
    /// Appends the block, uncompressed, and its trailer.
    fn finish(mut self, out: &mut Vec<u8>) -> Handle {
        if self.restarts.is_empty() {
            self.restarts.push(0); // an empty block has one too
        }
        self.restarts.iter().for_each(|at| self.bytes.extend_from_slice(&at.to_le_bytes()));
        self.bytes.extend_from_slice(&(self.restarts.len() as u32).to_le_bytes());
        let handle = Handle { offset: out.len(), size: self.bytes.len() };
        let crc = masked_crc_of_two(&self.bytes, &[0]);
        out.append(&mut self.bytes);
        out.push(0);
        out.extend_from_slice(&crc.to_le_bytes());
        handle
    }
}

/// A table of `entries`, which are sorted by key.
pub(super) fn write_table<'a>(entries: impl IntoIterator<Item = (&'a [u8], Vec<u8>)>) -> Vec<u8> {
    let mut out = vec![];
    let (mut block, mut index) = (BlockWriter::default(), BlockWriter::default());
    let mut finish = |block: &mut BlockWriter, out: &mut Vec<u8>| {
        if block.entries > 0 {
            let full = std::mem::take(block);
            let key = full.last.clone();
            let mut handle = vec![];
            full.finish(out).write(&mut handle);
            index.add(&key, &handle);
        }
    };
    for (key, value) in entries {
        block.add(key, &value);
        if block.bytes.len() >= BLOCK_SIZE {
            finish(&mut block, &mut out);
        }
    }
    finish(&mut block, &mut out);
    let properties = BlockWriter::default().finish(&mut out);
    let index = index.finish(&mut out);
    let start = out.len();
    properties.write(&mut out);
    index.write(&mut out);
    out.resize(start + FOOTER - 8, 0);
    out.extend_from_slice(&MAGIC.to_le_bytes());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_every_length() {
        for value in [0, 1, 127, 128, 300, u64::from(u32::MAX), u64::MAX - 1, u64::MAX] {
            let mut bytes = vec![];
            put_varint(&mut bytes, value);
            assert_eq!(Cursor(&bytes).varint(), Ok(value));
            assert!(Cursor(&bytes[..bytes.len() - 1]).varint().is_err());
        }
        assert!(Cursor(&[0xff; 10]).varint().is_err());
        assert!(Cursor(&[0x80; 11]).varint().is_err());
    }

    #[test]
    fn tables_of_one_and_of_many_blocks() {
        for (count, size) in [(0usize, 0usize), (1, 5), (16, 5), (17, 0), (1000, 40), (2000, 700)] {
            let keys: Vec<Vec<u8>> = (0..count).map(|i| format!("model/layer_{i:05}/kernel").into_bytes()).collect();
            let value = |i: usize| vec![i as u8; size];
            let table = write_table(keys.iter().enumerate().map(|(i, key)| (key.as_slice(), value(i))));
            let read = read_table(&table).expect("its own table");
            let wanted: Vec<_> = keys.iter().cloned().enumerate().map(|(i, key)| (key, value(i))).collect();
            assert_eq!(read, wanted, "{count} entries of {size} bytes");
        }
    }

    #[test]
    fn compressed_blocks() {
        let mut body = BlockWriter::default();
        body.add(b"a", b"same same same same same");
        body.add(b"ab", b"same same same same same");
        let mut plain = vec![];
        let handle = body.finish(&mut plain);
        let mut table = snap::raw::Encoder::new().compress_vec(&plain[..handle.size]).expect("compressed");
        let size = table.len();
        let crc = masked_crc_of_two(&table, &[1]);
        table.push(1);
        table.extend_from_slice(&crc.to_le_bytes());
        let mut index = BlockWriter::default();
        let mut value = vec![];
        Handle { offset: 0, size }.write(&mut value);
        index.add(b"b", &value);
        let index = index.finish(&mut table);
        let start = table.len();
        index.write(&mut table); // in place of the properties, which nobody reads
        index.write(&mut table);
        table.resize(start + FOOTER - 8, 0);
        table.extend_from_slice(&MAGIC.to_le_bytes());
        let read = read_table(&table).expect("a compressed table");
        assert_eq!(read.iter().map(|(key, _)| key.as_slice()).collect::<Vec<_>>(), [b"a".as_slice(), b"ab"]);
    }
}
