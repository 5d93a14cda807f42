//! Time of each op: two time stamps around its compute pass. Adapters without them are timed one op at a time by the
//! host's clock, the way there and back included.

use std::time::Duration;

use wgpu::BufferUsages;

use super::device::Gpu;
use crate::backend::OpTime;
use crate::{Error, Result};

/// Ops timed in one submit.
const OPS: u32 = 1024;

/// Where time stamps go.
struct Queries {
    set: wgpu::QuerySet,
    resolved: wgpu::Buffer,
    readback: wgpu::Buffer,
    period: f64, // nanoseconds of a tick
}

/// Times of a program under way.
pub struct Profiler {
    queries: Option<Queries>,
    /// Ops of the submit being encoded.
    pending: Vec<usize>,
    times: Vec<(Duration, u64)>,
}

impl Profiler {
    /// For a program of so many ops.
    pub fn new(gpu: &Gpu, ops: usize) -> Self {
        let queries = gpu.info.caps.timestamps.then(|| {
            let count = 2 * OPS;
            let ty = wgpu::QueryType::Timestamp;
            let set = gpu.device.create_query_set(&wgpu::QuerySetDescriptor { label: Some("times"), ty, count });
            let buffer = |usage| {
                let size = u64::from(count) * 8;
                let description =
                    wgpu::BufferDescriptor { label: Some("times"), size, usage, mapped_at_creation: false };
                gpu.device.create_buffer(&description)
            };
            let resolved = buffer(BufferUsages::QUERY_RESOLVE | BufferUsages::COPY_SRC);
            let readback = buffer(BufferUsages::COPY_DST | BufferUsages::MAP_READ);
            Queries { set, resolved, readback, period: f64::from(gpu.queue.get_timestamp_period()) }
        });
        Profiler { queries, pending: vec![], times: vec![(Duration::ZERO, 0); ops] }
    }
    /// Ops of one submit.
    pub fn capacity(&self) -> usize {
        if self.queries.is_some() { OPS as usize } else { 1 }
    }
    /// Time stamps of the pass that computes `op`.
    pub fn begin(&mut self, op: usize) -> Option<wgpu::ComputePassTimestampWrites<'_>> {
        let at = 2 * self.pending.len() as u32;
        self.pending.push(op);
        self.queries.as_ref().map(|queries| wgpu::ComputePassTimestampWrites {
            query_set: &queries.set,
            beginning_of_pass_write_index: Some(at),
            end_of_pass_write_index: Some(at + 1),
        })
    }
    /// Fetches the time stamps at the end of a submit.
    pub fn resolve(&self, encoder: &mut wgpu::CommandEncoder) {
        let (Some(queries), count) = (&self.queries, 2 * self.pending.len() as u32) else { return };
        if count > 0 {
            encoder.resolve_query_set(&queries.set, 0..count, &queries.resolved, 0);
            let bytes = Some(u64::from(count) * 8);
            encoder.copy_buffer_to_buffer(&queries.resolved, 0, &queries.readback, 0, bytes);
        }
    }
    /// Adds the times of a submit that is done; `elapsed` is the host's measure of it.
    ///
    /// # Errors
    /// When the device fails.
    pub fn collect(&mut self, gpu: &Gpu, elapsed: Duration) -> Result<()> {
        let pending = std::mem::take(&mut self.pending);
        let mut add = |op: usize, time: Duration| {
            self.times[op].0 += time;
            self.times[op].1 += 1;
        };
        let Some(queries) = &self.queries else {
            pending.into_iter().for_each(|op| add(op, elapsed));
            return Ok(());
        };
        let bytes = 16 * pending.len() as u64;
        if bytes == 0 {
            return Ok(());
        }
        queries.readback.map_async(wgpu::MapMode::Read, 0..bytes, |_| {});
        gpu.wait()?;
        let mapped = queries.readback.get_mapped_range(0..bytes);
        let mapped = mapped.map_err(|error| Error::device(format!("{}: {error}", gpu.name())))?;
        let (stamps, _) = mapped.as_chunks::<8>();
        for (op, pair) in pending.into_iter().zip(stamps.chunks(2)) {
            let [begin, end] = [0, 1].map(|i| u64::from_ne_bytes(pair[i]));
            let nanoseconds = end.saturating_sub(begin) as f64 * queries.period;
            add(op, Duration::from_nanos(nanoseconds as u64));
        }
        drop(mapped);
        queries.readback.unmap();
        Ok(())
    }
    /// Everything measured.
    pub fn times(self) -> Vec<OpTime> {
        let measured = self.times.into_iter().enumerate().filter(|(_, (_, runs))| *runs > 0);
        measured.map(|(op, (time, runs))| OpTime { op, time, runs }).collect()
    }
}
