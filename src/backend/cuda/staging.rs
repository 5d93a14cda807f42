//! Uploads that do not wait: the host's bytes go to pinned memory, from there on a stream of their own to the card, while
//! kernels run, and to their place when it is their turn among the launches.

use std::sync::Arc;

use cudarc::driver::result::{self, event, stream};
use cudarc::driver::{DriverError, sys};

use super::context::Context;
use crate::Result;

/// Bytes of one half. A batch of tokens is a few hundred KiB; what is bigger (weights) is not staged.
const HALF: usize = 4 << 20;
/// Copies begin at multiples of this.
const ALIGN: usize = 256;

/// Two halves, used in turn, in pinned memory and, at the same offsets, on the card.
pub struct Staging {
    /// Kept so that the context outlives the memory.
    _context: Arc<Context>,
    host: *mut u8,
    device: sys::CUdeviceptr,
    copies: sys::CUstream,
    /// The last copy has arrived on the card.
    arrived: sys::CUevent,
    /// Everything staged in a half is in its place.
    emptied: [sys::CUevent; 2],
    half: usize,
    used: usize,
}

impl Staging {
    /// Takes the memory.
    ///
    /// # Errors
    /// When there is not that much.
    pub fn new(context: &Arc<Context>) -> Result<Self> {
        let failed = |error| context.failed("memory for uploads", error);
        let event = || event::create(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING).map_err(failed);
        // SAFETY: plain allocations in the current context, freed in `drop`.
        let (host, device) = unsafe {
            let host = result::malloc_host(2 * HALF, 0).map_err(failed)?;
            (host.cast::<u8>(), result::malloc_sync(2 * HALF).map_err(failed)?)
        };
        let copies = stream::create(stream::StreamKind::NonBlocking).map_err(failed)?;
        let (arrived, emptied) = (event()?, [event()?, event()?]);
        Ok(Staging { _context: context.clone(), host, device, copies, arrived, emptied, half: 0, used: 0 })
    }
    /// Whether `bytes` are few enough.
    pub fn takes(&self, bytes: usize) -> bool {
        bytes <= HALF
    }
    /// Copies `bytes` to `address` in the order of `stream`.
    ///
    /// # Errors
    /// What the driver says.
    pub fn write(&mut self, address: u64, bytes: &[u8], stream: sys::CUstream) -> Result<(), DriverError> {
        if bytes.is_empty() {
            return Ok(());
        }
        if self.used + bytes.len() > HALF {
            // SAFETY: own events. One that was never recorded has nothing to wait for.
            unsafe {
                event::record(self.emptied[self.half], stream)?;
                (self.half, self.used) = (1 - self.half, 0);
                event::synchronize(self.emptied[self.half])?;
            }
        }
        let offset = self.half * HALF + self.used;
        self.used = (self.used + bytes.len()).next_multiple_of(ALIGN);
        // SAFETY: `offset + len` lies within both allocations, as was checked above, and earlier copies from there are over:
        // the event of this half has happened. `address` has room for the bytes, as the executor has checked.
        unsafe {
            let host = std::slice::from_raw_parts_mut(self.host.add(offset), bytes.len());
            host.copy_from_slice(bytes);
            let device = self.device + offset as u64;
            result::memcpy_htod_async(device, host, self.copies)?;
            event::record(self.arrived, self.copies)?;
            stream::wait_event(stream, self.arrived, sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT)?;
            result::memcpy_dtod_async(address, device, bytes.len(), stream)
        }
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // SAFETY: everything was made by `new` and is given back once; the card's stream, and so every copy, is done.
        unsafe {
            let _ = stream::synchronize(self.copies);
            let _ = result::free_host(self.host.cast());
            let _ = result::free_sync(self.device);
            for event in [self.arrived, self.emptied[0], self.emptied[1]] {
                let _ = event::destroy(event);
            }
            let _ = stream::destroy(self.copies);
        }
    }
}
