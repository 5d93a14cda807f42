//! A card as the executor's machine, by way of its driver.

use std::ffi::c_void;
use std::sync::Arc;
use std::time::Duration;

use cudarc::driver::result::{self, event, graph, stream};
use cudarc::driver::{DriverError, sys};

use super::context::{Context, Function};
use super::cublaslt::Products;
use super::nccl::Nccl;
use super::staging::Staging;
use super::{Call, Driver, KernelLaunch, KernelText, Product};
use crate::backend::DeviceSums;
use crate::{Error, Result};

/// What one program holds of a card: a stream on which everything happens in order, memory, recordings.
pub struct Card {
    context: Arc<Context>,
    stream: sys::CUstream,
    /// Before and after what is timed.
    stamps: [sys::CUevent; 2],
    staging: Option<Staging>,
    allocations: Vec<Arc<Allocation>>,
    functions: Vec<(Function, String)>, // with their labels
    /// Where there is a library for them.
    products: Option<Products>,
    recordings: Vec<sys::CUgraphExec>,
    /// Given back before the stream that it works on.
    nccl: Option<Nccl>,
}

/// Memory of a card, given back when no program needs it any more.
struct Allocation {
    context: Arc<Context>,
    address: sys::CUdeviceptr,
}

impl Drop for Allocation {
    fn drop(&mut self) {
        if self.context.enter().is_ok() {
            // SAFETY: allocated by a card of this context, and given back only here; the cards that used it are gone.
            let _ = unsafe { result::free_sync(self.address) };
        }
    }
}

// SAFETY: the handles belong to the driver, which allows every thread to use them once the context is current there; each
// method makes it current first, and `&mut self` keeps threads apart.
unsafe impl Send for Card {}

impl Card {
    /// Opens a card.
    ///
    /// # Errors
    /// When there is no driver or no such card, either is too old, or what the driver says.
    pub fn open(number: usize) -> Result<Self> {
        Self::on(Context::open(number)?)
    }
    fn on(context: Arc<Context>) -> Result<Self> {
        context.enter()?;
        let failed = |error| context.failed("opening the card", error);
        let stream = stream::create(stream::StreamKind::NonBlocking).map_err(failed)?;
        let stamp = || event::create(sys::CUevent_flags::CU_EVENT_DEFAULT);
        let stamps = [stamp().map_err(failed)?, stamp().map_err(failed)?];
        let staging = Some(Staging::new(&context)?);
        let products = Products::open(&context)?;
        let nccl = Some(Nccl::new(&context, stream));
        let (allocations, functions, recordings) = (vec![], vec![], vec![]);
        Ok(Card { context, stream, stamps, staging, allocations, functions, products, recordings, nccl })
    }
    fn failed(&self, doing: &str, error: DriverError) -> Error {
        self.context.failed(doing, error)
    }
    /// The error of kernels that ran before, told when the host waits for them.
    fn ran(&self, error: DriverError) -> Error {
        use sys::CUresult::{CUDA_ERROR_ILLEGAL_ADDRESS, CUDA_ERROR_LAUNCH_FAILED, CUDA_ERROR_MISALIGNED_ADDRESS};
        let advice = match error.0 {
            CUDA_ERROR_ILLEGAL_ADDRESS | CUDA_ERROR_LAUNCH_FAILED | CUDA_ERROR_MISALIGNED_ADDRESS => {
                "; this is a defect of a kernel: run once more with --check_finite, which runs op by op and names the one"
            }
            _ => "",
        };
        let name = &self.context.info.name;
        Error::device(format!("{name}: running kernels: {}{advice}", super::context::said(error)))
    }
    fn make(&self, call: &Call) -> Result<()> {
        match (call, &self.products) {
            (Call::Kernel(launch), _) => self.make_kernel(launch),
            (Call::Product(number), Some(products)) => products.launch(*number, self.stream).map_err(|status| {
                Error::device(format!("{}: {}: {status}", self.context.info.name, products.describe(*number)))
            }),
            (Call::Product(_), None) => Err(Error::plan("a product that this card has not prepared")),
        }
    }
    fn make_kernel(&self, launch: &KernelLaunch) -> Result<()> {
        let (Function(function), label) = &self.functions[launch.kernel];
        let pointer = |address: &u64| std::ptr::from_ref(address).cast_mut().cast::<c_void>();
        let first = launch.params.as_ptr().cast_mut().cast::<c_void>();
        let mut arguments: Vec<*mut c_void> = [first].into_iter().chain(launch.addresses.iter().map(pointer)).collect();
        let ([x, y, z], [a, b, c], shared) = (launch.grid, launch.block, launch.shared);
        // SAFETY: the entry's parameters are the struct and one address for each buffer, as a test of every kernel's text
        // shows; the driver copies them before it returns. Kernels stay within tensors, as the interpreter shows.
        let launched =
            unsafe { result::launch_kernel(*function, (x, y, z), (a, b, c), shared, self.stream, &mut arguments) };
        launched.map_err(|error| self.failed(&format!("launching kernel {label}"), error))
    }
}

impl Driver for Card {
    fn capability(&self) -> (u32, u32) {
        self.context.info.capability
    }
    fn fill(&self) -> usize {
        4 * self.context.info.multiprocessors as usize
    }
    fn alloc(&mut self, name: &str, bytes: usize, zeroed: bool) -> Result<u64> {
        if bytes == 0 {
            return Ok(0);
        }
        self.context.enter()?;
        // SAFETY: a plain allocation in the current context; it is freed in `drop`.
        let address = unsafe { result::malloc_sync(bytes) }.map_err(|error| {
            let free = result::mem_get_info().map_or(0, |(free, _)| free);
            let what = format!("{bytes} bytes for {name}, {free} are free; use a smaller batch");
            self.failed(&what, error)
        })?;
        self.allocations.push(Arc::new(Allocation { context: self.context.clone(), address }));
        if zeroed {
            // SAFETY: the allocation has `bytes` bytes; the stream comes to it before any launch.
            let cleared = unsafe { result::memset_d8_async(address, 0, bytes, self.stream) };
            cleared.map_err(|error| self.failed("clearing memory", error))?;
        }
        Ok(address)
    }
    fn write(&mut self, address: u64, bytes: &[u8]) -> Result<()> {
        self.context.enter()?;
        if let Some(staging) = self.staging.as_mut().filter(|staging| staging.takes(bytes.len())) {
            let staged = staging.write(address, bytes, self.stream);
            return staged.map_err(|error| self.failed("writing memory", error));
        }
        self.sync()?;
        // SAFETY: the executor writes within tensors, which lie within allocations; the copy is over on return.
        unsafe { result::memcpy_htod_sync(address, bytes) }.map_err(|error| self.failed("writing memory", error))
    }
    fn read(&mut self, address: u64, bytes: &mut [u8]) -> Result<()> {
        self.sync()?;
        // SAFETY: as for `write`; everything before is done.
        unsafe { result::memcpy_dtoh_sync(bytes, address) }.map_err(|error| self.failed("reading memory", error))
    }
    fn load(&mut self, kernel: &KernelText) -> Result<usize> {
        self.functions.push((self.context.function(kernel)?, kernel.rendered.label.clone()));
        Ok(self.functions.len() - 1)
    }
    fn product(&mut self, product: &Product) -> Option<usize> {
        self.context.enter().ok()?;
        self.products.as_mut()?.prepare(product)
    }
    fn launch(&mut self, call: &Call) -> Result<()> {
        self.context.enter()?;
        self.make(call)
    }
    fn record(&mut self, calls: &[&Call]) -> Result<usize> {
        self.context.enter()?;
        let failed = |error| self.failed("recording a step", error);
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream is this card's own, and is not being captured.
        unsafe { stream::begin_capture(self.stream, mode) }.map_err(failed)?;
        let made = calls.iter().try_for_each(|call| self.make(call));
        // SAFETY: the capture was begun above; it must end, whatever became of the calls.
        let captured = unsafe { stream::end_capture(self.stream) };
        made?;
        let captured = captured.map_err(failed)?;
        // SAFETY: the graph was captured just now; its executable form does not need it any more.
        let recording = unsafe {
            let recording = graph::instantiate(captured, sys::CUgraphInstantiate_flags(0));
            let _ = graph::destroy(captured);
            let recording = recording.map_err(failed)?;
            // So that the first replay is like the others.
            graph::upload(recording, self.stream).map_err(failed)?;
            recording
        };
        self.recordings.push(recording);
        Ok(self.recordings.len() - 1)
    }
    fn replay(&mut self, recording: usize) -> Result<()> {
        self.context.enter()?;
        // SAFETY: the recording lives as long as this card.
        let launched = unsafe { graph::launch(self.recordings[recording], self.stream) };
        launched.map_err(|error| self.failed("launching a step", error))
    }
    fn time(&mut self, calls: &[&Call]) -> Result<Duration> {
        self.context.enter()?;
        let [begin, end] = self.stamps;
        let failed = |error| self.ran(error);
        // SAFETY: the events and the stream are this card's own.
        unsafe { event::record(begin, self.stream) }.map_err(failed)?;
        calls.iter().try_for_each(|call| self.make(call))?;
        // SAFETY: as above; both events have been recorded and, after the wait, have happened.
        let milliseconds = unsafe {
            event::record(end, self.stream).map_err(failed)?;
            event::synchronize(end).map_err(failed)?;
            event::elapsed(begin, end).map_err(failed)?
        };
        Ok(Duration::from_secs_f64(1e-3 * f64::from(milliseconds)))
    }
    fn sums(&mut self) -> Option<&mut dyn DeviceSums> {
        self.nccl.as_mut().map(|nccl| nccl as &mut dyn DeviceSums)
    }
    fn sync(&mut self) -> Result<()> {
        self.context.enter()?;
        // SAFETY: the stream is this card's own.
        unsafe { stream::synchronize(self.stream) }.map_err(|error| self.ran(error))
    }
    fn beside(&mut self, addresses: &[u64]) -> Result<Self> {
        self.sync()?;
        let mut card = Card::on(self.context.clone())?;
        let lent = self.allocations.iter().filter(|allocation| addresses.contains(&allocation.address));
        card.allocations.extend(lent.cloned());
        Ok(card)
    }
}

impl Drop for Card {
    fn drop(&mut self) {
        if self.context.enter().is_err() {
            return;
        }
        drop(self.nccl.take()); // ends what waits for other processes
        // Errors are of no use here: the process may be ending, or a kernel has failed before.
        // SAFETY: everything was made by this card and is given back once; nothing uses it afterwards.
        unsafe {
            let _ = stream::synchronize(self.stream);
            drop((self.staging.take(), self.products.take()));
            for recording in &self.recordings {
                let _ = graph::exec_destroy(*recording);
            }
            self.allocations.clear();
            for stamp in self.stamps {
                let _ = event::destroy(stamp);
            }
            let _ = stream::destroy(self.stream);
        }
    }
}
