//! Bytes with bounds: global allocations and the shared memory of a block.

use crate::error::{Checked, Fault, Rule};
use crate::shadow::GlobalShadow;

/// First address of shared memory; not 0, so that forgotten addresses are found.
pub(crate) const SHARED_BASE: u64 = 1024;
/// Where shared memory lies among generic addresses.
pub(crate) const SHARED_WINDOW: u64 = 1 << 60;

/// Each allocation has this many bits of addresses for itself, its bytes in the middle of them: an index that runs off
/// one end never meets another allocation.
const SLOT_BITS: u32 = 36;
/// Start of the bytes in a slot: aligned to 256 and no more, like those of a driver.
const START: u64 = (1 << (SLOT_BITS - 1)) + 256;

/// What is known of a byte.
const UNWRITTEN: u8 = 0;
const WRITTEN: u8 = 1;
const IN_FLIGHT: u8 = 2;

/// Bytes, and what is known of each.
#[derive(Default)]
pub(crate) struct Region {
    pub data: Vec<u8>,
    state: Vec<u8>,
}

impl Region {
    pub fn new(bytes: usize) -> Self {
        Region { data: vec![0; bytes], state: vec![UNWRITTEN; bytes] }
    }
    pub fn len(&self) -> usize {
        self.data.len()
    }
    /// The host fills bytes.
    pub fn fill(&mut self, at: usize, bytes: &[u8]) {
        self.data[at..at + bytes.len()].copy_from_slice(bytes);
        self.state[at..at + bytes.len()].fill(WRITTEN);
    }
    /// First byte of a range that nobody wrote, or an asynchronous copy has not delivered (`true`).
    pub fn unwritten(&self, at: usize, bytes: usize) -> Option<(usize, bool)> {
        let state = &self.state[at..at + bytes];
        let found = state.iter().position(|&s| s != WRITTEN)?;
        Some((at + found, state[found] == IN_FLIGHT))
    }
    /// True when an asynchronous copy writes to the range.
    pub fn in_flight(&self, at: usize, bytes: usize) -> bool {
        self.state[at..at + bytes].contains(&IN_FLIGHT)
    }
    pub fn launch_copy(&mut self, at: usize, bytes: usize) {
        self.state[at..at + bytes].fill(IN_FLIGHT);
    }
    /// Up to 8 bytes.
    pub fn get(&self, at: usize, bytes: usize) -> u64 {
        let mut value = [0; 8];
        value[..bytes].copy_from_slice(&self.data[at..at + bytes]);
        u64::from_le_bytes(value)
    }
    pub fn put(&mut self, at: usize, bytes: usize, value: u64) {
        self.fill(at, &value.to_le_bytes()[..bytes]);
    }
}

pub(crate) struct Allocation {
    pub name: String,
    pub region: Region,
    pub shadow: GlobalShadow,
}

/// All global memory.
#[derive(Default)]
pub(crate) struct Global {
    pub allocations: Vec<Allocation>,
}

impl Global {
    pub fn add(&mut self, name: &str, bytes: usize) -> usize {
        let (region, shadow) = (Region::new(bytes), GlobalShadow::default());
        self.allocations.push(Allocation { name: name.to_owned(), region, shadow });
        self.allocations.len() - 1
    }
    pub fn address(index: usize) -> u64 {
        ((index as u64 + 1) << SLOT_BITS) + START
    }
    /// Allocation and offset of `bytes` at `address`.
    pub fn locate(&self, lane: usize, address: u64, bytes: usize) -> Checked<(usize, usize)> {
        let slot = (address >> SLOT_BITS).wrapping_sub(1) as usize;
        let Some(allocation) = self.allocations.get(slot) else {
            let message = format!("address {address:#x} is in no allocation");
            return Err(Fault::new(Rule::OutOfBounds, lane, message));
        };
        let offset = (address & ((1 << SLOT_BITS) - 1)).wrapping_sub(START) as i64;
        let length = allocation.region.len();
        if offset < 0 || offset as usize + bytes > length {
            let name = &allocation.name;
            let message = format!("{bytes} bytes at offset {offset} are outside of {name} ({length} bytes)");
            return Err(Fault::new(Rule::OutOfBounds, lane, message));
        }
        Ok((slot, offset as usize))
    }
}
