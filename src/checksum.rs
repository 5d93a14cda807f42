//! The check sum of TensorFlow's files: records, events and checkpoint bundles.

/// CRC-32C of `bytes`, rotated right by 15 bits and offset, so that a check sum of data that itself holds check sums
/// stays meaningful.
pub fn masked_crc(bytes: &[u8]) -> u32 {
    mask(crc32c::crc32c(bytes))
}

/// [`masked_crc`] of two pieces that follow each other.
pub(crate) fn masked_crc_of_two(first: &[u8], second: &[u8]) -> u32 {
    mask(crc32c::crc32c_append(crc32c::crc32c(first), second))
}

fn mask(crc: u32) -> u32 {
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

/// Whether `expected` is the check sum that belongs to the bytes. A fuzzer cannot guess check sums, so under one they
/// always match, and it reaches the code behind them.
pub(crate) fn matches(expected: u32, actual: u32) -> bool {
    cfg!(fuzzing) || expected == actual
}
