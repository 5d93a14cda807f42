//! Barriers in shared memory (`mbarrier`) and bulk copies.
//!
//! A phase is over when all arrivals and all expected bytes are there. The bytes of a copy show themselves to whoever asks
//! the barrier and is told so; until then they count as on their way. A lane that arrives or waits does so for its warp.

use std::collections::BTreeMap;

use super::Block;
use super::access::{Place, moved};
use super::barrier::join;
use crate::error::{Checked, Error, Fault, Result, Rule};
use crate::kernel::{NONE, Op, Space};
use crate::lanes::{Lanes, WARP, lanes_of};
use crate::report::sectors;
use crate::shadow::{CLOCKS, Clock};
use crate::warp::{Copy, State, Warp};

/// Bytes of the object.
const BYTES: usize = 8;
/// Most arrivals and most bytes of a phase.
const MOST: u64 = (1 << 20) - 1;

struct MBarrier {
    expected: u64,
    /// Arrivals and bytes that the phase still waits for.
    pending: u64,
    bytes: i64,
    /// Phases that are over.
    phase: u64,
    /// What those know who arrived in this phase, and in the one before.
    known: Clock,
    before: Clock,
    copies: Vec<Copy>,
    /// Entry of its copies in a clock.
    entry: usize,
    /// Thread that made it, and whether it fenced that from bulk copies.
    thread: usize,
    fenced: bool,
}

/// All of a block, by offset in shared memory.
pub(super) struct MBarriers {
    all: BTreeMap<usize, MBarrier>,
    /// Made so far.
    made: usize,
    /// Clocks of the copies.
    clocks: Clock,
    changes: u64,
}

impl Default for MBarriers {
    fn default() -> Self {
        MBarriers { all: BTreeMap::new(), made: 0, clocks: [0; CLOCKS], changes: 0 }
    }
}

impl MBarriers {
    /// Counts what has happened to them.
    pub fn changes(&self) -> u64 {
        self.changes
    }
    /// Ordinary accesses must not touch them.
    pub fn spare(&self, at: usize, bytes: usize, lane: usize) -> Checked {
        if self.all.is_empty() {
            return Ok(());
        }
        match self.all.range(at.saturating_sub(BYTES - 1)..at + bytes).next() {
            None => Ok(()),
            Some((at, _)) => {
                let message = format!("touches the mbarrier at byte {at} of shared memory");
                Err(Fault::new(Rule::Barrier, lane, message))
            }
        }
    }
    /// A fence that makes them known to the asynchronous proxy.
    pub fn fence(&mut self, warp: usize, mask: u32) {
        for barrier in self.all.values_mut() {
            barrier.fenced |= barrier.thread / WARP == warp && mask >> (barrier.thread % WARP) & 1 == 1;
        }
    }
    /// Why those who wait for them do not go on.
    pub fn stuck(&self) -> impl Iterator<Item = String> {
        self.all.iter().map(|(at, b)| {
            let arrived = b.expected - b.pending;
            let expected = b.expected;
            format!(
                "the mbarrier at byte {at} has {arrived} of {expected} arrivals and misses {} bytes in phase {}",
                b.bytes, b.phase
            )
        })
    }
}

impl Block<'_, '_> {
    pub(super) fn mbarrier(&mut self, warp: &mut Warp, op: &Op, mask: u32) -> Checked {
        match op {
            Op::MBarrierInit { space, address, count } => {
                let addresses = self.addresses(warp, *address, mask)?;
                let counts = *self.read(warp, *count, mask)?;
                for lane in lanes_of(mask) {
                    let at = self.place_of(*space, lane, addresses[lane])?;
                    self.make(warp, lane, at, counts[lane])?;
                }
            }
            Op::MBarrierInvalidate { space, address } => {
                let addresses = self.addresses(warp, *address, mask)?;
                for lane in lanes_of(mask) {
                    let at = self.settled(warp, *space, lane, addresses[lane])?;
                    let me = self.me(warp, lane, false);
                    Self::race(self.shadow.write(at, BYTES, &me), lane, true)?;
                    self.mbarriers.all.remove(&at);
                }
            }
            Op::MBarrierArrive { space, state, address, arrives, count, bytes } => {
                let addresses = self.addresses(warp, *address, mask)?;
                let or = |register: u16, value: u64| -> Checked<Lanes> {
                    if register == NONE { Ok([value; WARP]) } else { self.read(warp, register, mask).copied() }
                };
                let (counts, bytes) = (or(*count, u64::from(*arrives))?, or(*bytes, 0)?);
                let mut phases = [0; WARP];
                for lane in lanes_of(mask) {
                    let at = self.settled(warp, *space, lane, addresses[lane])?;
                    phases[lane] = self.arrive_at(warp, lane, at, counts[lane], bytes[lane])?;
                    let same = |other: &usize| addresses[*other] == addresses[lane] && phases[*other] != phases[lane];
                    if let Some(other) = lanes_of(mask).take_while(|other| *other < lane).find(same) {
                        let message = format!(
                            "the lanes of one instruction arrive in phase {} and in phase {} of the mbarrier at byte {at}: \
                             its count is too small",
                            phases[other], phases[lane]
                        );
                        return Err(Fault::new(Rule::Barrier, lane, message));
                    }
                }
                if *arrives {
                    warp.tick();
                    self.launch.report.barriers += 1;
                }
                self.set(warp, *state, mask, &phases);
            }
            Op::MBarrierWait { space, p, address, phase, parity } => {
                let addresses = self.addresses(warp, *address, mask)?;
                let phases = *self.read(warp, *phase, mask)?;
                let mut over = 0;
                for lane in lanes_of(mask) {
                    let at = self.settled(warp, *space, lane, addresses[lane])?;
                    let barrier = &self.mbarriers.all[&at];
                    let is_over =
                        if *parity { barrier.phase & 1 != phases[lane] & 1 } else { barrier.phase > phases[lane] };
                    if is_over {
                        let own = warp.clock[warp.index];
                        join(&mut warp.clock, &barrier.before);
                        warp.clock[warp.index] = own;
                        over |= 1 << lane;
                    }
                }
                if over != mask {
                    warp.state = State::Polling;
                }
                self.set_predicate(warp, *p, mask, over);
            }
            Op::MBarrierFence => self.mbarriers.fence(warp.index, mask),
            Op::CopyBulk { to, from, bytes, barrier } => {
                let (to, from) = (self.addresses(warp, *to, mask)?, self.addresses(warp, *from, mask)?);
                let (bytes, barrier) = (*self.read(warp, *bytes, mask)?, self.addresses(warp, *barrier, mask)?);
                for lane in lanes_of(mask) {
                    self.copy_bulk(warp, lane, to[lane], from[lane], bytes[lane], barrier[lane])?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn place_of(&self, space: Space, lane: usize, address: u64) -> Checked<usize> {
        match self.locate(space, lane, address, BYTES)? {
            Place::Shared(at) => Ok(at),
            Place::Global(..) => {
                Err(Fault::new(Rule::OutOfBounds, lane, format!("address {address:#x} is not in shared memory")))
            }
        }
    }
    fn make(&mut self, warp: &Warp, lane: usize, at: usize, count: u64) -> Checked {
        let wrong = |message: String| Err(Fault::new(Rule::Barrier, lane, message));
        if count == 0 || count > MOST {
            return wrong(format!("an mbarrier waits for 1 to {MOST} arrivals, not {count}"));
        }
        if self.mbarriers.all.contains_key(&at) {
            return wrong(format!(
                "there is an mbarrier at byte {at} of shared memory; mbarrier.inval must come first"
            ));
        }
        self.check_write(warp, lane, Place::Shared(at), BYTES, false)?;
        let entry = WARP + self.mbarriers.made % (CLOCKS - WARP);
        self.mbarriers.made += 1;
        self.mbarriers.changes += 1;
        let barrier = MBarrier {
            expected: count,
            pending: count,
            bytes: 0,
            phase: 0,
            known: [0; CLOCKS],
            before: [0; CLOCKS],
            copies: vec![],
            entry,
            thread: warp.index * WARP + lane,
            fenced: false,
        };
        self.mbarriers.all.insert(at, barrier);
        Ok(())
    }

    /// Offset of the barrier at `address`, which exists as far as the thread can know; what is complete is made so.
    fn settled(&mut self, warp: &Warp, space: Space, lane: usize, address: u64) -> Checked<usize> {
        let at = self.place_of(space, lane, address)?;
        let MBarriers { all, clocks, changes, .. } = &mut self.mbarriers;
        let Some(barrier) = all.get_mut(&at) else {
            let message = format!("there is no mbarrier at byte {at} of shared memory: mbarrier.init must come first");
            return Err(Fault::new(Rule::Barrier, lane, message));
        };
        if barrier.pending == 0 && barrier.bytes == 0 {
            *changes += 1;
            (barrier.phase, barrier.pending) = (barrier.phase + 1, barrier.expected);
            barrier.before = std::mem::replace(&mut barrier.known, [0; CLOCKS]);
            let entry = barrier.entry;
            if !barrier.copies.is_empty() {
                clocks[entry] += 1;
                barrier.before[entry] = clocks[entry];
            }
            for copy in std::mem::take(&mut barrier.copies) {
                self.shared.fill(copy.to, &copy.data);
                self.shadow.arrived(copy.to, copy.data.len(), entry, clocks[entry], copy.line);
            }
        }
        // Its making is ordered before this.
        let me = self.me(warp, lane, false);
        Self::race(self.shadow.read(at, BYTES, &me), lane, false)?;
        Ok(at)
    }
    /// Arrivals and expected bytes of one lane; the phase in which they count.
    fn arrive_at(&mut self, warp: &Warp, lane: usize, at: usize, count: u64, bytes: u64) -> Checked<u64> {
        self.mbarriers.changes += 1;
        let barrier = self.mbarriers.all.get_mut(&at).expect("settled");
        if count > barrier.pending {
            let message = format!(
                "{count} arrivals at the mbarrier at byte {at}, which waits for {} more in this phase",
                barrier.pending
            );
            return Err(Fault::new(Rule::Barrier, lane, message));
        }
        barrier.pending -= count;
        barrier.bytes += bytes as i64;
        if barrier.bytes > MOST as i64 {
            let message = format!("the mbarrier expects {} bytes, the most is {MOST}", barrier.bytes);
            return Err(Fault::new(Rule::Barrier, lane, message));
        }
        if count > 0 {
            join(&mut barrier.known, &warp.clock);
        }
        Ok(barrier.phase)
    }

    fn copy_bulk(&mut self, warp: &Warp, lane: usize, to: u64, from: u64, bytes: u64, barrier: u64) -> Checked {
        let multiple = |what: &str, value: u64| {
            if value.is_multiple_of(16) {
                return Ok(());
            }
            Err(Fault::new(Rule::Misaligned, lane, format!("{what} {value:#x} of a bulk copy is no multiple of 16")))
        };
        multiple("destination", to)?;
        multiple("source", from)?;
        multiple("size", bytes)?;
        let at = self.settled(warp, Space::Shared, lane, barrier)?;
        if bytes == 0 {
            return Ok(());
        }
        let bytes = bytes as usize;
        let source = self.located_source(lane, from, bytes)?;
        self.check_read(warp, lane, source, bytes, false)?;
        let data: Vec<u8> = (0..bytes).map(|i| self.get(moved(source, i), 1) as u8).collect();
        // Bounds of the whole, which may be longer than any alignment.
        for piece in (0..bytes).step_by(16) {
            let place = self.locate(Space::Shared, lane, to + piece as u64, 16)?;
            self.check_write(warp, lane, place, 16, false)?;
        }
        let Place::Shared(start) = self.locate(Space::Shared, lane, to, 16)? else { return Ok(()) };
        let object = self.mbarriers.all.get_mut(&at).expect("settled");
        if !object.fenced {
            let message = format!(
                "the mbarrier at byte {at} is not known to bulk copies: thread {} executed no fence.mbarrier_init or \
                 fence.proxy.async after mbarrier.init",
                object.thread
            );
            return Err(Fault::new(Rule::ProxyFence, lane, message));
        }
        object.bytes -= bytes as i64;
        object.copies.push(Copy { to: start, data, line: self.line });
        self.mbarriers.changes += 1;
        self.shared.launch_copy(start, bytes);
        let report = &mut self.launch.report;
        report.global_read_bytes += bytes as u64;
        report.shared_written_bytes += bytes as u64;
        report.shared_passes += bytes.div_ceil(128) as u64;
        report.global_sectors +=
            (0..bytes).step_by(32).map(|i| sectors(&[from + i as u64], 32.min(bytes - i))).sum::<u64>();
        Ok(())
    }
    /// At the end of the block: nothing is on its way.
    pub(super) fn copies_arrived(&mut self) -> Result<(), Error> {
        let late = self.mbarriers.all.iter().find_map(|(at, b)| b.copies.first().map(|copy| (*at, copy.line)));
        let Some((at, line)) = late else { return Ok(()) };
        self.line = line;
        let message = format!("the block ends, and nobody waited at the mbarrier at byte {at} for this copy");
        Err(self.finding(0, *Fault::new(Rule::Barrier, 0, message)))
    }
}
