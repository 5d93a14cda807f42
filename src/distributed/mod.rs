//! Several processes, one a device, that train one model: how they start, talk and add up gradients.
//!
//! | file | what |
//! |---|---|
//! | this one | the trait [`Collective`], and everything that is built on its one way to talk |
//! | [`device`] | whether gradients are added up by NCCL, on the cards, or through host memory |
//! | [`launch`] | what `mpirun`, or RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT, say about this process |
//! | [`tcp`] | the ranks of those four variables: plain sockets, part of every build |
//! | `mpi` | the ranks of `mpirun`: any MPI by the crate `mpi`; feature `mpi` |
//!
//! Two engines, since MPI cannot serve the variables: two processes that nobody launched together can meet in MPI only by
//! `MPI_Comm_connect`, which Open MPI refuses without a name server (`ompi-server`) of its own.
//!
//! An engine moves bytes between all pairs of ranks, no more. What is done with them is written once, in one order: the
//! sum of an element is always added up in the order of ranks, in f64, by one rank, who sends it to all others. So a
//! number of ranks has one result, and all ranks have the same bits. Cards that add up by NCCL do so in f32 in the order of a
//! ring: one result too, and the same bits everywhere.

pub mod device;
pub mod launch;
#[cfg(feature = "mpi")]
pub mod mpi;
pub mod tcp;

use bytemuck::Pod;

use crate::backend::Executor;
use crate::tensor::{DType, TensorId};
use crate::{Error, Result};

/// A group of processes that work in step: every rank calls the same methods in the same order.
pub trait Collective {
    /// Number of this process, from 0.
    fn rank(&self) -> usize;
    /// Number of processes.
    fn ranks(&self) -> usize;
    /// What carries the bytes, for people.
    fn engine(&self) -> &'static str;
    /// Sends `outgoing[r]` to each rank `r` and fills `incoming[r]` with what `r` sends here. Both sides know all lengths.
    ///
    /// # Errors
    /// When a rank has ended or failed (the sentence names it), or is not at the same place.
    fn exchange(&mut self, outgoing: &[&[u8]], incoming: &mut [&mut [u8]]) -> Result<()>;
    /// Tells the others, as far as they can be reached, that this rank ends because of `error`. Nothing may follow.
    fn fail(&mut self, error: &Error);
    /// Looks, without waiting, whether a rank has ended or failed: for who waits for the others by another way. Under MPI
    /// the launcher sees to it.
    ///
    /// # Errors
    /// When one has; the sentence names it.
    fn check(&mut self) -> Result<()> {
        Ok(())
    }
    /// Leaves the group in order; all ranks do.
    ///
    /// # Errors
    /// When a rank has failed.
    fn finish(&mut self) -> Result<()>;

    /// Replaces the tensors `ids` by their sums over all ranks, in one bucket through this process's memory. See
    /// [`device::Sums`] for the other way.
    ///
    /// # Errors
    /// Those of [`Collective::exchange`] and of the device.
    fn sum_tensors(&mut self, exec: &mut dyn Executor, ids: &[TensorId]) -> Result<()> {
        match exec.program().float {
            DType::F64 => sum_in_host_memory::<f64>(self, exec, ids),
            _ => sum_in_host_memory::<f32>(self, exec, ids),
        }
    }
}

/// The group of a run of one process.
#[derive(Clone, Copy, Debug, Default)]
pub struct Single;

impl Collective for Single {
    fn rank(&self) -> usize {
        0
    }
    fn ranks(&self) -> usize {
        1
    }
    fn engine(&self) -> &'static str {
        "one process"
    }
    fn exchange(&mut self, outgoing: &[&[u8]], incoming: &mut [&mut [u8]]) -> Result<()> {
        check_exchange(self, outgoing, incoming)?;
        incoming[0].copy_from_slice(outgoing[0]);
        Ok(())
    }
    fn fail(&mut self, _error: &Error) {}
    fn finish(&mut self) -> Result<()> {
        Ok(())
    }
    fn sum_tensors(&mut self, _exec: &mut dyn Executor, _ids: &[TensorId]) -> Result<()> {
        Ok(())
    }
}

/// Sizes that every engine relies on: a part for each rank, and what this rank keeps to itself.
fn check_exchange<C: Collective + ?Sized>(group: &C, outgoing: &[&[u8]], incoming: &[&mut [u8]]) -> Result<()> {
    let (n, me) = (group.ranks(), group.rank());
    let fits = outgoing.len() == n && incoming.len() == n && outgoing[me].len() == incoming[me].len();
    if fits { Ok(()) } else { Err(Error::ranks(format!("an exchange of {n} ranks needs a part for each of them"))) }
}

/// A number that ranks can add up.
pub trait Summand: Pod {
    /// Type of its tensors.
    const DTYPE: DType;
    /// To the precision that sums are made in.
    fn to_f64(self) -> f64;
    /// Back, rounded once.
    fn from_f64(x: f64) -> Self;
}
impl Summand for f32 {
    const DTYPE: DType = DType::F32;
    fn to_f64(self) -> f64 {
        f64::from(self)
    }
    fn from_f64(x: f64) -> Self {
        x as f32
    }
}
impl Summand for f64 {
    const DTYPE: DType = DType::F64;
    fn to_f64(self) -> f64 {
        self
    }
    fn from_f64(x: f64) -> Self {
        x
    }
}

fn sum_in_host_memory<T: Summand>(
    group: &mut (impl Collective + ?Sized),
    exec: &mut dyn Executor,
    ids: &[TensorId],
) -> Result<()> {
    let program = exec.program().clone();
    if let Some(desc) = ids.iter().map(|&id| program.tensor(id)).find(|desc| desc.dtype != T::DTYPE) {
        return Err(Error::dtype("a sum over ranks", desc.name.clone(), T::DTYPE, desc.dtype));
    }
    let lengths: Vec<usize> = ids.iter().map(|&id| program.tensor(id).shape.len()).collect();
    let mut bucket = vec![T::zeroed(); lengths.iter().sum()];
    let mut rest = &mut bucket[..];
    for (&id, &length) in ids.iter().zip(&lengths) {
        let (part, others) = rest.split_at_mut(length);
        exec.read(id, bytemuck::cast_slice_mut(part))?;
        rest = others;
    }
    sum(group, &mut bucket)?;
    let mut rest = &bucket[..];
    for (&id, &length) in ids.iter().zip(&lengths) {
        let (part, others) = rest.split_at(length);
        exec.write(id, bytemuck::cast_slice(part))?;
        rest = others;
    }
    Ok(())
}

/// Replaces `values` by their sums over all ranks. Each rank adds up one stretch of elements, the first to the last rank
/// in order, and sends it to all: 2 (n - 1) / n of the data pass each rank in each direction.
///
/// # Errors
/// Those of [`Collective::exchange`].
pub fn sum<T: Summand>(group: &mut (impl Collective + ?Sized), values: &mut [T]) -> Result<()> {
    let (n, me) = (group.ranks(), group.rank());
    if n == 1 {
        return Ok(());
    }
    let lengths: Vec<usize> = (0..n).map(|r| values.len() * (r + 1) / n - values.len() * r / n).collect();
    let mut theirs = vec![T::zeroed(); lengths[me] * n]; // [n, stretch]
    let mut parts = split(values, &lengths);
    {
        let outgoing: Vec<&[u8]> = parts.iter().map(|part| bytemuck::cast_slice(part)).collect();
        let incoming = split(&mut theirs, &vec![lengths[me]; n]);
        let mut incoming: Vec<&mut [u8]> = incoming.into_iter().map(bytemuck::cast_slice_mut).collect();
        group.exchange(&outgoing, &mut incoming)?;
    }
    let total = |i: usize| (0..n).map(|r| theirs[r * lengths[me] + i].to_f64()).sum::<f64>();
    let totals: Vec<T> = (0..lengths[me]).map(|i| T::from_f64(total(i))).collect();
    let outgoing: Vec<&[u8]> = vec![bytemuck::cast_slice(&totals); n];
    let mut incoming: Vec<&mut [u8]> = parts.iter_mut().map(|part| bytemuck::cast_slice_mut(part)).collect();
    group.exchange(&outgoing, &mut incoming)
}

fn split<'a, T>(mut values: &'a mut [T], lengths: &[usize]) -> Vec<&'a mut [T]> {
    let mut parts = vec![];
    for &length in lengths {
        let (part, rest) = values.split_at_mut(length);
        parts.push(part);
        values = rest;
    }
    parts
}

/// What every rank says, in the order of ranks and with the same length from all.
///
/// # Errors
/// Those of [`Collective::exchange`].
pub fn all_gather(group: &mut (impl Collective + ?Sized), mine: &[u8]) -> Result<Vec<Vec<u8>>> {
    let n = group.ranks();
    let mut all = vec![vec![0; mine.len()]; n];
    let mut incoming: Vec<&mut [u8]> = all.iter_mut().map(Vec::as_mut_slice).collect();
    group.exchange(&vec![mine; n], &mut incoming)?;
    Ok(all)
}

/// What every rank says at rank 0, in the order of ranks and with the same length from all; nothing elsewhere.
///
/// # Errors
/// Those of [`Collective::exchange`].
pub fn gather(group: &mut (impl Collective + ?Sized), mine: &[u8]) -> Result<Vec<Vec<u8>>> {
    let (n, me) = (group.ranks(), group.rank());
    let mut outgoing = vec![&[][..]; n];
    outgoing[0] = mine;
    let mut all = vec![vec![0; if me == 0 { mine.len() } else { 0 }]; n];
    let mut incoming: Vec<&mut [u8]> = all.iter_mut().map(Vec::as_mut_slice).collect();
    group.exchange(&outgoing, &mut incoming)?;
    all.truncate(if me == 0 { n } else { 0 });
    Ok(all)
}

/// Fills `mine` with the part that rank 0 has for this rank; `parts` is of no interest elsewhere.
///
/// # Errors
/// Those of [`Collective::exchange`].
pub fn scatter(group: &mut (impl Collective + ?Sized), parts: &[&[u8]], mine: &mut [u8]) -> Result<()> {
    let (n, me) = (group.ranks(), group.rank());
    let outgoing: Vec<&[u8]> = (0..n).map(|r| if me == 0 { parts[r] } else { &[] }).collect();
    let mut empty = vec![[0u8; 0]; n];
    let mut incoming: Vec<&mut [u8]> = empty.iter_mut().map(|part| &mut part[..]).collect();
    incoming[0] = mine;
    group.exchange(&outgoing, &mut incoming)
}

/// Fills `bytes` with those of rank 0, which all ranks have at this length.
///
/// # Errors
/// Those of [`Collective::exchange`].
pub fn broadcast(group: &mut (impl Collective + ?Sized), bytes: &mut [u8]) -> Result<()> {
    let n = group.ranks();
    if n == 1 {
        return Ok(());
    }
    let own = if group.rank() == 0 { bytes.to_vec() } else { vec![] };
    scatter(group, &vec![own.as_slice(); n], bytes)
}

/// Replaces `bytes` by those of rank 0, whatever their length.
///
/// # Errors
/// Those of [`Collective::exchange`].
pub fn broadcast_any(group: &mut (impl Collective + ?Sized), bytes: &mut Vec<u8>) -> Result<()> {
    let mut length = (bytes.len() as u64).to_le_bytes();
    broadcast(group, &mut length)?;
    bytes.resize(usize::try_from(u64::from_le_bytes(length)).unwrap_or(usize::MAX), 0);
    broadcast(group, bytes)
}

/// Whether any rank says yes.
///
/// # Errors
/// Those of [`Collective::exchange`].
pub fn any(group: &mut (impl Collective + ?Sized), mine: bool) -> Result<bool> {
    Ok(all_gather(group, &[u8::from(mine)])?.iter().any(|said| said[0] != 0))
}

#[cfg(test)]
mod tests;
