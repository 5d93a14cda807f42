//! Who touched which bytes last, and whether anything orders that before the access at hand.
//!
//! Order is "happens before", by vector clocks over the warps of a block: a warp's own clock ticks at every barrier, and a
//! barrier that completes makes everybody who waited know the clocks of everybody who arrived. Lanes of one warp are
//! ordered by `bar.warp.sync` and block barriers only, as the PTX memory model has it: running in lockstep orders nothing.

use crate::lanes::WARP;
use crate::wgmma::PIECE;

/// Clocks of all warps of a block, as one warp knows them; behind them those of the bulk copies of each `mbarrier`.
pub(crate) type Clock = [u32; CLOCKS];
/// Entries of a [`Clock`].
pub(crate) const CLOCKS: usize = 2 * WARP;

/// Lane or warp of several readers; both: readers of several blocks.
const MANY: u8 = u8::MAX;
/// A warp as a whole: its lanes took part together, such as in `wgmma`. Each of them is ordered behind such a read.
pub(crate) const WHOLE: u8 = MANY - 1;

/// The thread that accesses memory.
#[derive(Clone, Copy)]
pub(crate) struct Me<'a> {
    /// Number of the block since the machine was made; the first is 1.
    pub block: u32,
    /// Number of the first block of this launch.
    pub first_block: u32,
    pub warp: u8,
    pub lane: u8,
    pub clock: &'a Clock,
    /// Epoch of the warp in which its lanes last met: earlier accesses of one are known to all.
    pub synced: u32,
    /// Barriers of the whole block that this warp passed.
    pub full_barriers: u32,
    /// Atomic, volatile or relaxed: does not race with its kind.
    pub strong: bool,
    pub line: u32,
}

impl Me<'_> {
    fn epoch(&self) -> u32 {
        self.clock[usize::from(self.warp)]
    }
}

/// A recorded access; epoch 0 is none.
#[derive(Clone, Copy, Default)]
pub(crate) struct Access {
    block: u32,
    epoch: u32,
    line: u32,
    warp: u8,
    lane: u8,
    strong: bool,
}

impl Access {
    fn of(me: &Me) -> Self {
        let Me { block, warp, lane, strong, line, .. } = *me;
        Access { block, epoch: me.epoch(), line, warp, lane, strong }
    }
    fn of_many_blocks(&self) -> bool {
        self.warp == MANY && self.lane == MANY
    }
    /// Whether an access of the same block is ordered before `me`.
    fn ordered(&self, me: &Me) -> bool {
        if self.warp == me.warp {
            self.lane == me.lane || self.epoch < me.synced
        } else {
            me.clock[usize::from(self.warp)] >= self.epoch
        }
    }
}

fn is_thread(warp: u8, lane: u8) -> bool {
    usize::from(warp) < WARP && lane < WHOLE
}
fn thread(warp: u8, lane: u8) -> u32 {
    u32::from(warp) * WARP as u32 + u32::from(lane)
}

/// The other side of a race.
#[derive(Debug)]
pub(crate) struct Conflict {
    pub wrote: bool,
    /// Thread in its block, where it was a single one.
    pub thread: Option<u32>,
    pub other_block: bool,
    pub line: Option<u32>,
}

impl Conflict {
    fn write(access: &Access, other_block: bool) -> Self {
        let thread = is_thread(access.warp, access.lane).then(|| thread(access.warp, access.lane));
        Conflict { wrote: true, thread, other_block, line: Some(access.line) }
    }
    fn read(warp: u8, lane: u8, other_block: bool) -> Self {
        let thread = is_thread(warp, lane).then(|| thread(warp, lane));
        Conflict { wrote: false, thread, other_block, line: None }
    }
    /// A sentence; `wrote` says what the access at hand does.
    pub fn message(&self, writes: bool) -> String {
        let did = if self.wrote { "written" } else { "read" };
        let does = if writes { "writes" } else { "reads" };
        let several = if self.wrote { "a bulk copy" } else { "several threads" };
        let who = self.thread.map_or(several.to_owned(), |t| format!("thread {t}"));
        let line = self.line.map_or(String::new(), |line| format!(" in line {line}"));
        let (whose, why) = if self.other_block {
            (" of another block", "nothing orders blocks of one launch")
        } else {
            ("", "no barrier lies between")
        };
        format!("race: {does} bytes that were {did} by {who}{whose}{line}, and {why}")
    }
}

/// For shared memory: exact, one reader of each warp remembered.
#[derive(Default)]
pub(crate) struct SharedShadow {
    shift: u32,
    warps: usize,
    writes: Vec<Access>,
    /// `epoch << 8 | lane` by cell and warp.
    reads: Vec<u32>,
    /// What the asynchronous proxy needs to know; where the kernel has none, nothing.
    proxy: Option<Box<Proxy>>,
}

/// Order between ordinary accesses and those of the asynchronous proxy.
struct Proxy {
    /// Epochs at which each thread executed `fence.proxy.async`.
    fences: Vec<Vec<u32>>,
    /// How many fences the writer had executed when it wrote the cell.
    fences_before: Vec<u32>,
    /// Uncompleted reads of each piece of 16 bytes, and the line of the latest.
    reading: Vec<(u16, u32)>,
}

impl SharedShadow {
    pub fn new(bytes: usize, granule: usize, warps: usize, proxy: bool) -> Self {
        let shift = granule.trailing_zeros();
        let cells = bytes.div_ceil(granule);
        let proxy = proxy.then(|| {
            Box::new(Proxy {
                fences: vec![vec![]; warps * WARP],
                fences_before: vec![0; cells],
                reading: vec![(0, 0); bytes.div_ceil(PIECE)],
            })
        });
        SharedShadow { shift, warps, writes: vec![Access::default(); cells], reads: vec![0; cells * warps], proxy }
    }
    /// `fence.proxy.async` of a lane.
    pub fn proxy_fence(&mut self, me: &Me) {
        if let Some(proxy) = &mut self.proxy {
            proxy.fences[usize::from(me.warp) * WARP + usize::from(me.lane)].push(me.epoch());
        }
    }
    /// A write since which its thread has executed no `fence.proxy.async` that is ordered before `me`: thread, line, and
    /// whether there is a fence at all.
    pub fn unfenced(&self, at: usize, bytes: usize, me: &Me) -> Option<(u32, u32, bool)> {
        let proxy = self.proxy.as_ref()?;
        self.cells(at, bytes).find_map(|cell| {
            let write = &self.writes[cell];
            if write.epoch == 0 || usize::from(write.warp) >= WARP {
                return None; // bulk copies are of the same proxy
            }
            let thread = usize::from(write.warp) * WARP + usize::from(write.lane);
            let fence = proxy.fences[thread].get(proxy.fences_before[cell] as usize);
            let ordered = fence.is_some_and(|&epoch| Access { epoch, ..*write }.ordered(me));
            (!ordered).then_some((thread as u32, write.line, fence.is_some()))
        })
    }
    /// A bulk copy of the `mbarrier` with this entry of the clock has arrived.
    pub fn arrived(&mut self, at: usize, bytes: usize, entry: usize, epoch: u32, line: u32) {
        for cell in self.cells(at, bytes) {
            self.writes[cell] = Access { block: 0, epoch, line, warp: entry as u8, lane: 0, strong: false };
            self.reads[cell * self.warps..(cell + 1) * self.warps].fill(0);
        }
    }
    /// A read of the asynchronous proxy starts; it ends with [`Self::end_read`].
    pub fn begin_read(&mut self, at: usize, line: u32) {
        if let Some(proxy) = &mut self.proxy {
            let (count, latest) = &mut proxy.reading[at / PIECE];
            (*count, *latest) = (*count + 1, line);
        }
    }
    pub fn end_read(&mut self, at: usize) {
        if let Some(proxy) = &mut self.proxy {
            proxy.reading[at / PIECE].0 -= 1;
        }
    }
    /// Line of an uncompleted read of the asynchronous proxy.
    pub fn being_read(&self, at: usize, bytes: usize) -> Option<u32> {
        let reading = &self.proxy.as_ref()?.reading[at / PIECE..(at + bytes).div_ceil(PIECE)];
        reading.iter().find(|(count, _)| *count > 0).map(|(_, line)| *line)
    }
    fn cells(&self, at: usize, bytes: usize) -> std::ops::Range<usize> {
        at >> self.shift..((at + bytes - 1) >> self.shift) + 1
    }
    fn write_conflict(&self, cell: usize, me: &Me) -> Option<Conflict> {
        let write = &self.writes[cell];
        let free = write.epoch == 0 || write.ordered(me) || write.strong && me.strong;
        (!free).then(|| Conflict::write(write, false))
    }
    pub fn read(&mut self, at: usize, bytes: usize, me: &Me) -> Option<Conflict> {
        for cell in self.cells(at, bytes) {
            if let Some(conflict) = self.write_conflict(cell, me) {
                return Some(conflict);
            }
            if !me.strong {
                let slot = &mut self.reads[cell * self.warps + usize::from(me.warp)];
                let (now, lane) = (*slot >> 8 >= me.synced, *slot as u8);
                // A read of the whole warp says nothing that a lane's does not.
                let lane = match (now && lane != WHOLE, me.lane) {
                    (true, WHOLE) => lane,
                    (true, me) if me != lane => MANY,
                    (_, me) => me,
                };
                *slot = me.epoch() << 8 | u32::from(lane);
            }
        }
        None
    }
    pub fn write(&mut self, at: usize, bytes: usize, me: &Me) -> Option<Conflict> {
        for cell in self.cells(at, bytes) {
            if let Some(conflict) = self.write_conflict(cell, me) {
                return Some(conflict);
            }
            for warp in 0..self.warps {
                let slot = &mut self.reads[cell * self.warps + warp];
                let (epoch, lane) = (*slot >> 8, *slot as u8);
                if epoch == 0 {
                    continue;
                }
                let ordered = if warp == usize::from(me.warp) {
                    lane == me.lane || lane == WHOLE || epoch < me.synced
                } else {
                    me.clock[warp] >= epoch
                };
                if !ordered {
                    return Some(Conflict::read(warp as u8, lane, false));
                }
                *slot = 0;
            }
            self.writes[cell] = Access::of(me);
            if let Some(proxy) = &mut self.proxy {
                let thread = usize::from(me.warp) * WARP + usize::from(me.lane);
                proxy.fences_before[cell] = proxy.fences[thread].len() as u32;
            }
        }
        None
    }
}

/// For global memory: one writer and one reader a cell. Several readers of one block count as ordered only by a
/// barrier of the whole block.
#[derive(Default)]
pub(crate) struct GlobalShadow {
    shift: u32,
    cells: Vec<[Access; 2]>, // writer, reader
}

impl GlobalShadow {
    /// Prepares for a launch whose narrowest access has `granule` bytes. Cells are made when they are first needed.
    pub fn prepare(&mut self, granule: usize) {
        if self.shift != granule.trailing_zeros() {
            self.shift = granule.trailing_zeros();
            self.cells.clear();
        }
    }
    fn range(&mut self, at: usize, bytes: usize, length: usize) -> &mut [[Access; 2]] {
        if self.cells.is_empty() {
            self.cells = vec![[Access::default(); 2]; length.div_ceil(1 << self.shift)];
        }
        &mut self.cells[at >> self.shift..((at + bytes - 1) >> self.shift) + 1]
    }
    fn write_conflict(write: &Access, me: &Me) -> Option<Conflict> {
        if write.block < me.first_block || write.strong && me.strong {
            return None;
        }
        if write.block != me.block {
            return Some(Conflict::write(write, true));
        }
        (!write.ordered(me)).then(|| Conflict::write(write, false))
    }
    pub fn read(&mut self, at: usize, bytes: usize, length: usize, me: &Me) -> Option<Conflict> {
        for [write, read] in self.range(at, bytes, length) {
            if let Some(conflict) = Self::write_conflict(write, me) {
                return Some(conflict);
            }
            if me.strong {
                continue;
            }
            if read.block < me.first_block {
                *read = Access::of(me);
            } else if read.of_many_blocks() {
                // Nothing more can be said.
            } else if read.block != me.block {
                *read = Access { warp: MANY, lane: MANY, ..Access::of(me) };
            } else if read.warp == MANY {
                if me.full_barriers > read.epoch {
                    *read = Access::of(me);
                }
            } else if read.ordered(me) {
                *read = Access::of(me);
            } else if read.warp == me.warp {
                *read = Access { lane: MANY, ..Access::of(me) };
            } else {
                *read = Access { warp: MANY, lane: 0, epoch: me.full_barriers, ..Access::of(me) };
            }
        }
        None
    }
    pub fn write(&mut self, at: usize, bytes: usize, length: usize, me: &Me) -> Option<Conflict> {
        for [write, read] in self.range(at, bytes, length) {
            if let Some(conflict) = Self::write_conflict(write, me) {
                return Some(conflict);
            }
            if read.block >= me.first_block {
                let other_block = read.block != me.block || read.of_many_blocks();
                let ordered = match read.warp {
                    _ if other_block => false,
                    MANY => me.full_barriers > read.epoch,
                    _ => read.ordered(me),
                };
                if !ordered {
                    return Some(Conflict::read(read.warp, read.lane, other_block));
                }
                *read = Access::default();
            }
            *write = Access::of(me);
        }
        None
    }
}
