//! The few protocol buffers of a bundle: its header and what it says about each tensor.

use std::fmt;

use super::table::{Cursor, TableResult, put_varint};

/// Element types by their numbers in TensorFlow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Element {
    F32,
    F64,
    I32,
    String,
    I64,
    Bf16,
    F16,
    Other(u64),
}

impl Element {
    const NUMBERS: [(Element, u64); 7] = [
        (Element::F32, 1),
        (Element::F64, 2),
        (Element::I32, 3),
        (Element::String, 7),
        (Element::I64, 9),
        (Element::Bf16, 14),
        (Element::F16, 19),
    ];
    fn from_number(number: u64) -> Self {
        Self::NUMBERS.iter().find(|(_, n)| *n == number).map_or(Element::Other(number), |(element, _)| *element)
    }
    fn number(self) -> u64 {
        match self {
            Element::Other(number) => number,
            known => Self::NUMBERS.iter().find(|(element, _)| *element == known).map_or(0, |(_, n)| *n),
        }
    }
    /// Bytes of one element; `None` when that varies or is not known.
    pub fn size(self) -> Option<u64> {
        match self {
            Element::F32 | Element::I32 => Some(4),
            Element::F64 | Element::I64 => Some(8),
            Element::Bf16 | Element::F16 => Some(2),
            Element::String | Element::Other(_) => None,
        }
    }
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Element::F32 => "float32",
            Element::F64 => "float64",
            Element::I32 => "int32",
            Element::String => "string",
            Element::I64 => "int64",
            Element::Bf16 => "bfloat16",
            Element::F16 => "float16",
            Element::Other(number) => return write!(f, "type {number} of TensorFlow"),
        })
    }
}

/// One field of a message.
enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    Fixed32(u32),
}

/// Calls `each` with the number and value of every field.
fn fields<'a>(message: &'a [u8], mut each: impl FnMut(u64, Value<'a>) -> TableResult<()>) -> TableResult<()> {
    let mut cursor = Cursor(message);
    while !cursor.is_empty() {
        let tag = cursor.varint()?;
        let value = match tag & 7 {
            0 => Value::Number(cursor.varint()?),
            1 => Value::Number(u64::from_le_bytes(cursor.array()?)),
            2 => Value::Bytes(cursor.string()?),
            5 => Value::Fixed32(u32::from_le_bytes(cursor.array()?)),
            other => return Err(format!("a field has the unknown wire type {other}")),
        };
        each(tag >> 3, value)?;
    }
    Ok(())
}

/// Version of the format that this code reads and writes.
const VERSION: u64 = 1;

/// What the empty key holds.
#[derive(Debug, PartialEq)]
pub(super) struct Header {
    pub shards: u32,
    pub big_endian: bool,
}

/// A checkpoint of the first version keeps a message under the empty key too, with another first field.
pub(super) fn is_version_1(header: &[u8]) -> bool {
    header.first() == Some(&(1 << 3 | 2))
}

impl Header {
    pub fn parse(message: &[u8]) -> TableResult<Self> {
        let mut header = Header { shards: 0, big_endian: false };
        fields(message, |field, value| {
            match (field, value) {
                (1, Value::Number(n)) => header.shards = small(n, "the number of shards")?,
                (2, Value::Number(n)) => header.big_endian = n != 0,
                (3, Value::Bytes(version)) => fields(version, |field, value| match (field, value) {
                    (2, Value::Number(needed)) if needed > VERSION => {
                        Err(format!("it needs a reader of version {needed}, this one has {VERSION}"))
                    }
                    _ => Ok(()),
                })?,
                _ => {}
            }
            Ok(())
        })?;
        Ok(header)
    }
    pub fn write(&self) -> Vec<u8> {
        let mut out = vec![];
        put_number(&mut out, 1, u64::from(self.shards));
        put_number(&mut out, 2, u64::from(self.big_endian));
        let mut version = vec![];
        put_number(&mut version, 1, VERSION);
        put_bytes(&mut out, 3, &version);
        out
    }
}

/// Where a tensor lies and what it is.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Entry {
    pub element: Element,
    pub shape: Vec<usize>,
    pub shard: u32,
    pub offset: u64, // bytes
    pub size: u64,   // bytes
    pub crc: u32,    // masked
    pub sliced: bool,
}

impl Entry {
    pub fn parse(message: &[u8]) -> TableResult<Self> {
        let mut entry =
            Entry { element: Element::Other(0), shape: vec![], shard: 0, offset: 0, size: 0, crc: 0, sliced: false };
        fields(message, |field, value| {
            match (field, value) {
                (1, Value::Number(n)) => entry.element = Element::from_number(n),
                (2, Value::Bytes(shape)) => entry.shape = parse_shape(shape)?,
                (3, Value::Number(n)) => entry.shard = small(n, "the number of its shard")?,
                (4, Value::Number(n)) => entry.offset = n,
                (5, Value::Number(n)) => entry.size = n,
                (6, Value::Fixed32(crc)) => entry.crc = crc,
                (7, Value::Bytes(_)) => entry.sliced = true,
                _ => {}
            }
            Ok(())
        })?;
        Ok(entry)
    }
    pub fn write(&self) -> Vec<u8> {
        let mut out = vec![];
        put_number(&mut out, 1, self.element.number());
        let mut shape = vec![];
        for &size in &self.shape {
            let mut dim = vec![];
            put_number(&mut dim, 1, size as u64);
            put_bytes(&mut shape, 2, &dim);
        }
        put_bytes(&mut out, 2, &shape);
        put_number(&mut out, 3, u64::from(self.shard));
        put_number(&mut out, 4, self.offset);
        put_number(&mut out, 5, self.size);
        put_varint(&mut out, 6 << 3 | 5);
        out.extend_from_slice(&self.crc.to_le_bytes());
        out
    }

    /// Bytes that its shape and type amount to, `Some(None)` when too many to count; `None` when the type does not
    /// tell.
    pub fn expected_size(&self) -> Option<Option<u64>> {
        let size = self.element.size()?;
        Some(self.shape.iter().try_fold(size, |all, &dim| all.checked_mul(dim as u64)))
    }
}

fn parse_shape(message: &[u8]) -> TableResult<Vec<usize>> {
    let mut shape = vec![];
    fields(message, |field, value| {
        match (field, value) {
            (2, Value::Bytes(dim)) => {
                let mut size = 0;
                fields(dim, |field, value| {
                    if let (1, Value::Number(n)) = (field, value) {
                        size = n;
                    }
                    Ok(())
                })?;
                // A negative number is a very large one here.
                let size = usize::try_from(size).ok().filter(|size| *size <= isize::MAX as usize);
                shape.push(size.ok_or("a dimension is negative or too large")?);
            }
            (3, Value::Number(1)) => return Err("its number of dimensions is not known".into()),
            _ => {}
        }
        Ok(())
    })?;
    Ok(shape)
}

fn small(n: u64, what: &str) -> TableResult<u32> {
    u32::try_from(n).map_err(|_| format!("{what} is {n}"))
}

/// Zero is what an absent field means.
fn put_number(out: &mut Vec<u8>, field: u64, value: u64) {
    if value != 0 {
        put_varint(out, field << 3);
        put_varint(out, value);
    }
}
fn put_bytes(out: &mut Vec<u8>, field: u64, bytes: &[u8]) {
    put_varint(out, field << 3 | 2);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_round_trip() {
        let header = Header { shards: 3, big_endian: false };
        assert_eq!(header.write(), [8, 3, 26, 2, 8, 1]);
        assert_eq!(Header::parse(&header.write()), Ok(header));
        for (element, _) in Element::NUMBERS {
            let entry = Entry {
                element,
                shape: vec![3, 0, 1 << 40],
                shard: 2,
                offset: 1 << 33,
                size: 9,
                crc: 0xdead_beef,
                sliced: false,
            };
            assert_eq!(Entry::parse(&entry.write()), Ok(entry));
        }
    }

    #[test]
    fn what_is_refused() {
        assert!(Header::parse(&[8, 1, 26, 2, 16, 9]).expect_err("newer").contains("needs a reader of version 9"));
        assert!(is_version_1(&[10, 3, 1, 2, 3]) && !is_version_1(&[8, 1]));
        let negative = [0x12, 13, 0x12, 11, 8, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1];
        assert!(Entry::parse(&negative).expect_err("negative").contains("negative"));
        assert!(Entry::parse(&[0x12, 2, 0x18, 1]).expect_err("unknown rank").contains("not known"));
        assert!(Entry::parse(&[0x0b]).is_err() && Entry::parse(&[0x08]).is_err());
    }
}
