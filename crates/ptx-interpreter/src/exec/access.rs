//! Loads, stores, atomics and asynchronous copies, each byte checked.

use super::{Block, ordered};
use crate::error::{Checked, Fault, Rule};
use crate::kernel::{NONE, Op, Space};
use crate::lanes::{Lanes, WARP, lanes_of};
use crate::memory::{SHARED_BASE, SHARED_WINDOW};
use crate::report::{passes, sectors};
use crate::shadow::{Conflict, Me};
use crate::warp::{Copies, Copy, Warp};

/// Where an address leads.
#[derive(Clone, Copy)]
pub(super) enum Place {
    Shared(usize),
    Global(usize, usize),
}

impl Block<'_, '_> {
    pub(super) fn me<'w>(&self, warp: &'w Warp, lane: usize, strong: bool) -> Me<'w> {
        Me {
            block: self.serial,
            first_block: self.launch.first_block,
            warp: warp.index as u8,
            lane: lane as u8,
            clock: &warp.clock,
            synced: warp.synced,
            full_barriers: warp.full_barriers,
            strong,
            line: self.line,
        }
    }

    /// Checks alignment and bounds.
    pub(super) fn locate(&self, space: Space, lane: usize, address: u64, bytes: usize) -> Checked<Place> {
        if !address.is_multiple_of(bytes as u64) {
            let message = format!("address {address:#x} is no multiple of the {bytes} bytes accessed");
            return Err(Fault::new(Rule::Misaligned, lane, message));
        }
        let shared = match space {
            Space::Shared => Some(address),
            Space::Generic if address >= SHARED_WINDOW => Some(address - SHARED_WINDOW),
            _ => None,
        };
        let Some(address) = shared else {
            let (index, offset) = self.launch.global.locate(lane, address, bytes)?;
            return Ok(Place::Global(index, offset));
        };
        let offset = (address as u32 as u64).wrapping_sub(SHARED_BASE) as i64;
        let length = self.shared.len();
        if offset < 0 || offset as usize + bytes > length {
            let message = format!("{bytes} bytes at offset {offset} are outside of shared memory ({length} bytes)");
            return Err(Fault::new(Rule::OutOfBounds, lane, message));
        }
        Ok(Place::Shared(offset as usize))
    }
    pub(super) fn race(conflict: Option<Conflict>, lane: usize, writes: bool) -> Checked {
        match conflict {
            None => Ok(()),
            Some(conflict) => Err(Fault::new(Rule::Race, lane, conflict.message(writes))),
        }
    }

    pub(super) fn check_read(&mut self, warp: &Warp, lane: usize, place: Place, bytes: usize, strong: bool) -> Checked {
        let me = self.me(warp, lane, strong);
        let (conflict, unwritten, name) = match place {
            Place::Shared(at) => {
                self.mbarriers.spare(at, bytes, lane)?;
                (self.shadow.read(at, bytes, &me), self.shared.unwritten(at, bytes), "shared memory")
            }
            Place::Global(index, at) => {
                let allocation = &mut self.launch.global.allocations[index];
                let length = allocation.region.len();
                let conflict = allocation.shadow.read(at, bytes, length, &me);
                (conflict, allocation.region.unwritten(at, bytes), allocation.name.as_str())
            }
        };
        if let Some((byte, in_flight)) = unwritten {
            let why = if in_flight {
                "which an asynchronous copy has not delivered: a wait is missing"
            } else {
                "which was never written"
            };
            let message = format!("reads byte {byte} of {name}, {why}");
            return Err(Fault::new(Rule::UnwrittenMemory, lane, message));
        }
        Self::race(conflict, lane, false)
    }
    pub(super) fn check_write(
        &mut self,
        warp: &Warp,
        lane: usize,
        place: Place,
        bytes: usize,
        strong: bool,
    ) -> Checked {
        let me = self.me(warp, lane, strong);
        let conflict = match place {
            Place::Shared(at) => {
                self.mbarriers.spare(at, bytes, lane)?;
                if self.shared.in_flight(at, bytes) {
                    let message = "writes bytes that an asynchronous copy has not delivered yet: a wait is missing";
                    return Err(Fault::new(Rule::Race, lane, message));
                }
                if let Some(line) = self.shadow.being_read(at, bytes) {
                    let message = format!(
                        "race: writes bytes that the wgmma.mma_async of line {line} may still read: wgmma.wait_group and a \
                         barrier must come first"
                    );
                    return Err(Fault::new(Rule::Race, lane, message));
                }
                self.shadow.write(at, bytes, &me)
            }
            Place::Global(index, at) => {
                let allocation = &mut self.launch.global.allocations[index];
                let length = allocation.region.len();
                allocation.shadow.write(at, bytes, length, &me)
            }
        };
        Self::race(conflict, lane, true)
    }
    pub(super) fn get(&self, place: Place, bytes: usize) -> u64 {
        match place {
            Place::Shared(at) => self.shared.get(at, bytes),
            Place::Global(index, at) => self.launch.global.allocations[index].region.get(at, bytes),
        }
    }
    fn put(&mut self, place: Place, bytes: usize, value: u64) {
        match place {
            Place::Shared(at) => self.shared.put(at, bytes, value),
            Place::Global(index, at) => self.launch.global.allocations[index].region.put(at, bytes, value),
        }
    }

    /// Traffic of one access of the lanes in `mask`.
    pub(super) fn count(&mut self, space: Space, addresses: &Lanes, mask: u32, bytes: usize, writes: bool) {
        let (mut active, mut len) = ([0; WARP], 0);
        for lane in lanes_of(mask) {
            active[len] = addresses[lane];
            len += 1;
        }
        let active = &active[..len];
        let sum = (len * bytes) as u64;
        let shared = space == Space::Shared || space == Space::Generic && active.iter().all(|a| *a >= SHARED_WINDOW);
        let report = &mut self.launch.report;
        if !shared {
            *(if writes { &mut report.global_written_bytes } else { &mut report.global_read_bytes }) += sum;
            report.global_sectors += sectors(active, bytes);
            return;
        }
        *(if writes { &mut report.shared_written_bytes } else { &mut report.shared_read_bytes }) += sum;
        let mut offsets = [0; WARP];
        offsets.iter_mut().zip(active).for_each(|(offset, a)| *offset = *a as u32 as usize);
        let offsets = &offsets[..len];
        let (passes, least) = passes(offsets, bytes);
        report.shared_passes += passes;
        report.bank_conflicts += passes - least.min(passes);
        self.launch.conflicts[self.pc] += passes - least.min(passes);
    }

    /// Reads 16-byte rows of shared memory for `ldmatrix`; `rows[i]` is the address that lane `i` gives.
    pub(super) fn read_row(&mut self, warp: &Warp, lane: usize, address: u64) -> Checked<[u16; 8]> {
        let place = self.locate(Space::Shared, lane, address, 16)?;
        self.check_read(warp, lane, place, 16, false)?;
        let Place::Shared(at) = place else { return Ok([0; 8]) };
        Ok(std::array::from_fn(|i| self.shared.get(at + 2 * i, 2) as u16))
    }
    pub(super) fn write_row(&mut self, warp: &Warp, lane: usize, address: u64, row: [u16; 8]) -> Checked {
        let place = self.locate(Space::Shared, lane, address, 16)?;
        self.check_write(warp, lane, place, 16, false)?;
        if let Place::Shared(at) = place {
            row.iter().enumerate().for_each(|(i, x)| self.shared.put(at + 2 * i, 2, u64::from(*x)));
        }
        Ok(())
    }

    pub(super) fn memory(&mut self, warp: &mut Warp, op: &Op, mask: u32) -> Checked {
        match op {
            Op::LoadParam { d, offset, bytes, extend } => {
                for (i, d) in d.iter().enumerate() {
                    let at = offset + i * bytes;
                    let mut value = [0; 8];
                    value[..*bytes].copy_from_slice(&self.launch.params[at..at + bytes]);
                    let value = extended(u64::from_le_bytes(value), *bytes, *extend);
                    self.set(warp, *d, mask, &[value; WARP]);
                }
            }
            Op::Load { space, d, address, bytes, extend, strong } => {
                let addresses = self.addresses(warp, *address, mask)?;
                let all = bytes * d.len();
                let mut out = [[0; WARP]; 8];
                for lane in lanes_of(mask) {
                    let place = self.locate(*space, lane, addresses[lane], all)?;
                    self.check_read(warp, lane, place, all, *strong)?;
                    for (i, out) in out[..d.len()].iter_mut().enumerate() {
                        out[lane] = extended(self.get(moved(place, i * bytes), *bytes), *bytes, *extend);
                    }
                }
                self.count(*space, &addresses, mask, all, false);
                for (d, out) in d.iter().zip(&out) {
                    self.set(warp, *d, mask, out);
                }
            }
            Op::Store { space, s, address, bytes, strong } => {
                let addresses = self.addresses(warp, *address, mask)?;
                let all = bytes * s.len();
                for s in s.iter() {
                    self.read(warp, *s, mask)?;
                }
                for lane in lanes_of(mask) {
                    let place = self.locate(*space, lane, addresses[lane], all)?;
                    self.check_write(warp, lane, place, all, *strong)?;
                    for (i, s) in s.iter().enumerate() {
                        let value = warp.registers[usize::from(*s)][lane];
                        self.put(moved(place, i * bytes), *bytes, value);
                    }
                }
                self.count(*space, &addresses, mask, all, true);
            }
            Op::Atomic { space, f, d, address, b, c, bytes } => {
                let addresses = self.addresses(warp, *address, mask)?;
                let all = bytes * b.len();
                for b in b.iter() {
                    self.read(warp, *b, mask)?;
                }
                let c = if *c == NONE { [0; WARP] } else { *self.read(warp, *c, mask)? };
                let mut out = [0; WARP];
                for lane in ordered(mask, self.launch.schedule) {
                    let place = self.locate(*space, lane, addresses[lane], all)?;
                    self.check_read(warp, lane, place, all, true)?;
                    self.check_write(warp, lane, place, all, true)?;
                    for (i, b) in b.iter().enumerate() {
                        let place = moved(place, i * bytes);
                        out[lane] = self.get(place, *bytes);
                        let value = f(out[lane], warp.registers[usize::from(*b)][lane], c[lane]);
                        self.put(place, *bytes, value);
                    }
                }
                self.count(*space, &addresses, mask, all, true);
                self.set(warp, *d, mask, &out);
            }
            _ => {}
        }
        Ok(())
    }

    pub(super) fn copy(&mut self, warp: &mut Warp, op: &Op, mask: u32) -> Checked {
        if warp.copies.is_empty() {
            warp.copies.resize_with(WARP, Copies::default);
        }
        match op {
            Op::CopyAsync { to, from, bytes, size } => {
                let (to, from) = (self.addresses(warp, *to, mask)?, self.addresses(warp, *from, mask)?);
                let size = if *size == NONE { [*bytes as u64; WARP] } else { *self.read(warp, *size, mask)? };
                for lane in lanes_of(mask) {
                    let size = size[lane] as usize;
                    if size > *bytes {
                        let message = format!("the source has {size} bytes, the copy {bytes}");
                        return Err(Fault::new(Rule::OutOfBounds, lane, message));
                    }
                    let mut data = vec![0; *bytes];
                    if size > 0 {
                        self.aligned_source(lane, from[lane], *bytes)?;
                        let place = self.located_source(lane, from[lane], size)?;
                        self.check_read(warp, lane, place, size, false)?;
                        data[..size].iter_mut().enumerate().for_each(|(i, x)| *x = self.get(moved(place, i), 1) as u8);
                    }
                    let place = self.locate(Space::Shared, lane, to[lane], *bytes)?;
                    self.check_write(warp, lane, place, *bytes, false)?;
                    let Place::Shared(at) = place else { continue };
                    self.shared.launch_copy(at, *bytes);
                    warp.copies[lane].open.push(Copy { to: at, data, line: self.line });
                }
                self.count(Space::Global, &from, mask, *bytes, false);
                self.count(Space::Shared, &to, mask, *bytes, true);
            }
            Op::CommitGroup => {
                for lane in lanes_of(mask) {
                    let copies = &mut warp.copies[lane];
                    copies.groups.push_back(std::mem::take(&mut copies.open));
                }
            }
            Op::WaitGroup { pending } => {
                for lane in lanes_of(mask) {
                    while warp.copies[lane].groups.len() > *pending {
                        let group = warp.copies[lane].groups.pop_front().unwrap_or_default();
                        self.deliver(warp, lane, group)?;
                    }
                }
            }
            _ => {
                for lane in lanes_of(mask) {
                    let copies = std::mem::take(&mut warp.copies[lane]);
                    for group in copies.groups.into_iter().chain([copies.open]) {
                        self.deliver(warp, lane, group)?;
                    }
                }
            }
        }
        Ok(())
    }
    fn aligned_source(&self, lane: usize, address: u64, bytes: usize) -> Checked {
        if address.is_multiple_of(bytes as u64) {
            return Ok(());
        }
        let message = format!("source address {address:#x} is no multiple of the {bytes} bytes copied");
        Err(Fault::new(Rule::Misaligned, lane, message))
    }
    pub(super) fn located_source(&self, lane: usize, address: u64, bytes: usize) -> Checked<Place> {
        let (index, offset) = self.launch.global.locate(lane, address, bytes)?;
        Ok(Place::Global(index, offset))
    }
    /// The data arrives, as a write of the thread that waited.
    fn deliver(&mut self, warp: &Warp, lane: usize, group: Vec<Copy>) -> Checked {
        for copy in group {
            self.shared.fill(copy.to, &copy.data);
            let me = Me { line: copy.line, ..self.me(warp, lane, false) };
            Self::race(self.shadow.write(copy.to, copy.data.len(), &me), lane, true)?;
        }
        Ok(())
    }
}

pub(super) fn moved(place: Place, by: usize) -> Place {
    match place {
        Place::Shared(at) => Place::Shared(at + by),
        Place::Global(index, at) => Place::Global(index, at + by),
    }
}

/// Copies the sign up to the size of the register, in bytes; 0: no sign.
fn extended(value: u64, bytes: usize, register: usize) -> u64 {
    if register <= bytes {
        return value;
    }
    let sign = 64 - 8 * bytes as u32;
    let value = ((value << sign) as i64 >> sign) as u64;
    if register < 8 { value & ((1 << (8 * register)) - 1) } else { value }
}
