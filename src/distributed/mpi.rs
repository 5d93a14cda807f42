//! The ranks of `mpirun`, on any MPI that the crate `mpi` was built with.
//!
//! A rank that dies is the launcher's to notice: `mpirun` names it, ends the others within seconds and gives its exit code
//! on. So a rank that fails says its own sentence and ends without leaving MPI in order, which `mpirun` treats the same.

use std::mem::ManuallyDrop;

use mpi::Threading;
use mpi::datatype::Equivalence;
use mpi::environment::Universe;
use mpi::topology::SimpleCommunicator;
use mpi::traits::{Communicator, Destination, Source};

use super::{Collective, check_exchange};
use crate::{Error, Result};

/// Bytes of one message; MPI counts in 32 bits.
const MOST_BYTES: usize = 1 << 30;

/// This process as a rank of `MPI_COMM_WORLD`.
pub struct Mpi {
    universe: ManuallyDrop<Universe>, // dropping it waits for all ranks, so only `finish` does
    world: SimpleCommunicator,
    left: bool,
}

impl Mpi {
    /// Starts MPI; all its calls must come from this thread.
    ///
    /// # Errors
    /// When it was started in this process before.
    pub fn start() -> Result<Self> {
        let started = mpi::initialize_with_threading(Threading::Funneled);
        let (universe, level) = started.ok_or_else(|| Error::ranks("MPI was started in this process before"))?;
        if level < Threading::Funneled {
            return Err(Error::ranks("this MPI allows no threads in a process; use one built with them"));
        }
        let world = universe.world();
        Ok(Mpi { universe: ManuallyDrop::new(universe), world, left: false })
    }
}

/// Name and version of the MPI of this build.
pub fn version() -> String {
    let version = mpi::environment::library_version().unwrap_or_default();
    // Open MPI adds its packager and dates, behind commas and null bytes.
    version.split([',', '\0', '\n']).next().unwrap_or_default().trim().to_owned()
}

impl Collective for Mpi {
    fn rank(&self) -> usize {
        self.world.rank() as usize
    }
    fn ranks(&self) -> usize {
        self.world.size() as usize
    }
    fn engine(&self) -> &'static str {
        "MPI"
    }
    fn exchange(&mut self, outgoing: &[&[u8]], incoming: &mut [&mut [u8]]) -> Result<()> {
        check_exchange(self, outgoing, incoming)?;
        if self.left {
            return Err(Error::ranks("this rank has left the group"));
        }
        let me = self.rank();
        incoming[me].copy_from_slice(outgoing[me]);
        let mut wrong = None;
        mpi::request::scope(|scope| {
            let (mut sent, mut received) = (vec![], vec![]);
            for (r, part) in incoming.iter_mut().enumerate().filter(|(r, _)| *r != me) {
                let rank = self.world.process_at_rank(r as i32);
                for piece in part.chunks_mut(MOST_BYTES) {
                    received.push((r, piece.len(), rank.immediate_receive_into(scope, piece)));
                }
            }
            for (r, part) in outgoing.iter().enumerate().filter(|(r, _)| *r != me) {
                let rank = self.world.process_at_rank(r as i32);
                for piece in part.chunks(MOST_BYTES) {
                    sent.push(rank.immediate_send(scope, piece));
                }
            }
            for (r, expected, request) in received {
                let length = request.wait().count(u8::equivalent_datatype());
                if length as usize != expected {
                    wrong.get_or_insert((r, length, expected));
                }
            }
            for request in sent {
                request.wait();
            }
        });
        match wrong {
            None => Ok(()),
            Some((r, length, expected)) => Err(Error::ranks(format!(
                "rank {r} sent {length} bytes where {expected} were expected: it is not at this place"
            ))),
        }
    }
    fn fail(&mut self, _error: &Error) {
        self.left = true;
    }
    fn finish(&mut self) -> Result<()> {
        if !std::mem::replace(&mut self.left, true) {
            // SAFETY: `left` was false, so this runs once, and nothing uses MPI afterwards: `exchange` asks `left`.
            unsafe { ManuallyDrop::drop(&mut self.universe) };
        }
        Ok(())
    }
}
