//! What a launch did, in numbers.

use std::collections::BTreeMap;
use std::fmt;

use crate::lanes::WARP;

/// How often an instruction ran.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Times a warp issued it.
    pub warps: u64,
    /// Lanes that took part, summed.
    pub lanes: u64,
}

/// Counters of one launch, or the sum of several.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// By full opcode, such as `ld.global.v4.f32`.
    pub instructions: BTreeMap<String, Count>,
    /// Bytes that lanes read of global memory, asynchronous copies included.
    pub global_read_bytes: u64,
    /// Bytes that lanes wrote to global memory.
    pub global_written_bytes: u64,
    /// Sectors of 32 bytes that global accesses of a warp touched: 32 times this is the least traffic.
    pub global_sectors: u64,
    /// Bytes that lanes read of shared memory.
    pub shared_read_bytes: u64,
    /// Bytes that lanes wrote to shared memory.
    pub shared_written_bytes: u64,
    /// Passes that shared accesses needed, one clock each at best.
    pub shared_passes: u64,
    /// Passes beyond the least possible: bank conflicts.
    pub bank_conflicts: u64,
    /// Bank conflicts by line of the source.
    pub bank_conflicts_by_line: BTreeMap<u32, u64>,
    /// Times a warp arrived at a barrier of its block.
    pub barriers: u64,
    /// Blocks that ran.
    pub blocks: u64,
}

impl Report {
    /// Instructions that warps issued.
    pub fn issued(&self) -> u64 {
        self.instructions.values().map(|c| c.warps).sum()
    }
    /// Instructions of lanes.
    pub fn lane_instructions(&self) -> u64 {
        self.instructions.values().map(|c| c.lanes).sum()
    }
    /// Issues of opcodes that start with `prefix`.
    pub fn issued_of(&self, prefix: &str) -> u64 {
        self.instructions.iter().filter(|(name, _)| name.starts_with(prefix)).map(|(_, c)| c.warps).sum()
    }
    /// Adds the numbers of another launch.
    pub fn add(&mut self, other: &Report) {
        for (name, count) in &other.instructions {
            let sum = self.instructions.entry(name.clone()).or_default();
            sum.warps += count.warps;
            sum.lanes += count.lanes;
        }
        for (line, conflicts) in &other.bank_conflicts_by_line {
            *self.bank_conflicts_by_line.entry(*line).or_default() += conflicts;
        }
        self.global_read_bytes += other.global_read_bytes;
        self.global_written_bytes += other.global_written_bytes;
        self.global_sectors += other.global_sectors;
        self.shared_read_bytes += other.shared_read_bytes;
        self.shared_written_bytes += other.shared_written_bytes;
        self.shared_passes += other.shared_passes;
        self.bank_conflicts += other.bank_conflicts;
        self.barriers += other.barriers;
        self.blocks += other.blocks;
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} blocks, {} warp instructions ({} lanes)", self.blocks, self.issued(), self.lane_instructions())?;
        write!(f, ", global {} B read {} B written", self.global_read_bytes, self.global_written_bytes)?;
        write!(f, " in {} sectors", self.global_sectors)?;
        write!(f, ", shared {} B read {} B written", self.shared_read_bytes, self.shared_written_bytes)?;
        write!(f, " in {} passes, {} of them bank conflicts", self.shared_passes, self.bank_conflicts)?;
        write!(f, ", {} barriers", self.barriers)
    }
}

/// Passes that one access of a warp to shared memory takes, and the least that so many bytes could take.
///
/// 32 banks of 4 bytes; lanes that read the same word share it. Wider accesses are split into groups of lanes that
/// cover 128 bytes each.
pub(crate) fn passes(offsets: &[usize], bytes: usize) -> (u64, u64) {
    let group = (128 / bytes.max(4)).max(1);
    let (mut passes, mut least) = (0, 0);
    for lanes in offsets.chunks(group) {
        // The first word asked for in each bank, and the others, of which there are few.
        let (mut first, mut counts) = ([usize::MAX; 32], [0_u64; 32]);
        let (mut more, mut len) = ([0; 32], 0);
        for word in lanes.iter().flat_map(|at| at / 4..(at + bytes).div_ceil(4)) {
            let bank = word % 32;
            if first[bank] == usize::MAX {
                first[bank] = word;
            } else if first[bank] == word || more[..len].contains(&word) {
                continue;
            } else {
                more[len] = word;
                len += 1;
            }
            counts[bank] += 1;
        }
        passes += counts.iter().max().copied().unwrap_or(0);
        least += 1;
    }
    (passes, least)
}

/// Sectors of 32 bytes that one access of a warp touches.
pub(crate) fn sectors(addresses: &[u64], bytes: usize) -> u64 {
    // An access of up to 32 bytes touches two sectors at most.
    let (mut all, mut len) = ([0; 2 * WARP], 0);
    for sector in addresses.iter().flat_map(|at| at / 32..=(at + bytes as u64 - 1) / 32) {
        // Neighbours mostly share one.
        if len == 0 || all[len - 1] != sector {
            all[len] = sector;
            len += 1;
        }
    }
    all[..len].sort_unstable();
    (0..len).filter(|&i| i == 0 || all[i] != all[i - 1]).count() as u64
}
