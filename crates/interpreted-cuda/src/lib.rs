//! A library with the functions of NVIDIA's driver that `xlnet` calls, whose card is `ptx-interpreter`: where it is found as
//! `libcuda.so`, the program's `--device cuda` runs unchanged on a machine without a GPU, every access checked.
//!
//! Work is done when it is asked for. With `INTERPRETED_CUDA_LATE=all` a stream does it when somebody waits, so that whoever
//! does not wait for what is needed gets wrong numbers; with `kernels`, streams of copies are ahead of those of kernels. A
//! launch that the interpreter finds wrong is told on standard error and, like on a card, to whoever waits next.
//! `INTERPRETED_CUDA_CAPABILITY=7.0` and `INTERPRETED_CUDA_DRIVER=11020` make it another card or driver,
//! `INTERPRETED_CUDA_MEMORY=1000000` a smaller one.
//! Each process has a card of its own, unless `INTERPRETED_CUDA_CARD=7` gives two the same one. [`cublaslt`] is NVIDIA's
//! library of matrix products in the same way, [`nccl`] that of sums over processes.
#![allow(non_snake_case)] // the driver's names

pub mod cublaslt;
pub mod nccl;

use std::collections::VecDeque;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::sync::{LazyLock, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use ptx_interpreter::{Argument, Buffer, Machine, Module};

type Code = c_int;
const SUCCESS: Code = 0;
const INVALID_VALUE: Code = 1;
const OUT_OF_MEMORY: Code = 2;
const INVALID_PTX: Code = 218;
const NOT_FOUND: Code = 500;
const NOT_READY: Code = 600;
const ILLEGAL_ADDRESS: Code = 700;

/// Time between two looks at what other processes do.
const PAUSE: Duration = Duration::from_millis(1);

/// A kernel on its arguments.
#[derive(Clone)]
struct Launch {
    function: usize,
    grid: [u32; 3],
    block: [u32; 3],
    shared: usize,
    arguments: Vec<Argument>,
}

/// What a stream is given.
#[derive(Clone)]
enum Work {
    Kernel(Launch),
    Product(cublaslt::Product),
    Sum(nccl::Sum),
    Fill {
        address: u64,
        byte: u8,
        bytes: usize,
    },
    /// The host's bytes are those at the time when it is done.
    Upload {
        to: u64,
        from: usize,
        bytes: usize,
    },
    Copy {
        to: u64,
        from: u64,
        bytes: usize,
    },
    Record {
        event: usize,
        time: u64,
    },
    Wait {
        event: usize,
        time: u64,
    },
}

/// Work in order.
#[derive(Default)]
struct Stream {
    waiting: VecDeque<Work>,
    has_kernels: bool,
}

/// Times that it was recorded: in all, and already; where and when it was last.
struct Event {
    asked: u64,
    done: u64,
    stream: usize,
    at: Instant,
}

/// What the driver holds. Handles are numbers from 1 on.
#[derive(Default)]
struct Card {
    machine: Machine,
    buffers: Vec<Buffer>,
    used: usize,
    modules: Vec<Module>,
    functions: Vec<(usize, String)>,
    /// Most shared memory that a launch of each function may ask for.
    shared: Vec<usize>,
    streams: Vec<Stream>,
    events: Vec<Event>,
    capture: Option<Vec<Work>>,
    graphs: Vec<Vec<Work>>,
    failed: bool,
}

static CARD: LazyLock<Mutex<Card>> = LazyLock::new(Mutex::default);

fn card() -> MutexGuard<'static, Card> {
    CARD.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
fn number(name: &str, default: f64) -> f64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}
fn memory() -> usize {
    number("INTERPRETED_CUDA_MEMORY", 16e9) as usize
}
fn handle(number: usize) -> *mut c_void {
    std::ptr::without_provenance_mut(number + 1)
}
fn index(handle: *mut c_void) -> usize {
    handle.addr().wrapping_sub(1)
}

impl Card {
    fn locate(&self, address: u64, bytes: usize) -> Option<(Buffer, usize)> {
        let inside = |b: &&Buffer| b.address() <= address && address + bytes as u64 <= b.address() + b.bytes() as u64;
        self.buffers.iter().find(inside).map(|b| (*b, (address - b.address()) as usize))
    }
    /// The same as a card's: nothing works any more once a kernel has failed.
    fn state(&self) -> Code {
        if self.failed { ILLEGAL_ADDRESS } else { SUCCESS }
    }
    fn fail(&mut self, what: impl std::fmt::Display) -> Code {
        eprintln!("interpreted-cuda: {what}");
        self.failed = true;
        ILLEGAL_ADDRESS
    }
    fn write(&mut self, address: u64, bytes: &[u8]) -> Code {
        let Some((buffer, offset)) = self.locate(address, bytes.len()) else {
            return self.fail(format!("a write of {} bytes at {address:#x}, which is in no allocation", bytes.len()));
        };
        match self.machine.write(buffer, offset, bytes) {
            Ok(()) => self.state(),
            Err(error) => self.fail(error),
        }
    }
    fn read(&mut self, address: u64, bytes: &mut [u8]) -> Code {
        let Some((buffer, offset)) = self.locate(address, bytes.len()) else {
            return self.fail(format!("a read of {} bytes at {address:#x}, which is in no allocation", bytes.len()));
        };
        match self.machine.read(buffer, offset, bytes) {
            Ok(()) => self.state(),
            Err(error) => self.fail(error),
        }
    }
    /// Gives a stream work, or records it.
    fn make(&mut self, stream: usize, work: Work) {
        let is_kernel = matches!(work, Work::Kernel(_) | Work::Product(_));
        if let Some(recorded) = self.capture.as_mut().filter(|_| is_kernel) {
            recorded.push(work);
            return;
        }
        self.streams[stream].has_kernels |= is_kernel;
        self.streams[stream].waiting.push_back(work);
        let late = match std::env::var("INTERPRETED_CUDA_LATE").as_deref() {
            Ok("all") => true,
            Ok("kernels") => self.streams[stream].has_kernels,
            _ => false,
        };
        if !late {
            self.finish(stream);
        }
    }
    /// Does what a stream was given, up to a sum that others are still to take part in; says whether that was all.
    fn finish(&mut self, stream: usize) -> bool {
        while let Some(work) = self.streams[stream].waiting.pop_front() {
            if let Work::Sum(sum) = &work
                && !self.advance(sum)
            {
                self.streams[stream].waiting.push_front(work);
                return false;
            }
            if !matches!(work, Work::Sum(_)) {
                self.run(work);
            }
        }
        true
    }
    /// Does what comes before an event.
    fn wait(&mut self, event: usize, time: u64) {
        while self.events[event].done < time {
            let Some(work) = self.streams[self.events[event].stream].waiting.pop_front() else { return };
            self.run(work);
        }
    }
    /// What goes wrong is told by `fail`.
    fn run(&mut self, work: Work) {
        match work {
            Work::Kernel(launch) => self.launch(&launch),
            Work::Product(product) => _ = self.product(&product),
            // That of another stream, which this one waits for.
            Work::Sum(sum) => {
                while !self.advance(&sum) {
                    std::thread::sleep(PAUSE);
                }
            }
            Work::Fill { address, byte, bytes } => _ = self.write(address, &vec![byte; bytes]),
            Work::Upload { to, from, bytes } => {
                let from = std::ptr::with_exposed_provenance(from);
                // SAFETY: as the driver demands, the memory is there until somebody has waited for the copy.
                self.write(to, unsafe { std::slice::from_raw_parts(from, bytes) });
            }
            Work::Copy { to, from, bytes } => {
                let mut copy = vec![0; bytes];
                if self.read(from, &mut copy) == SUCCESS {
                    self.write(to, &copy);
                }
            }
            Work::Record { event, time } => {
                (self.events[event].done, self.events[event].at) = (time, Instant::now());
            }
            Work::Wait { event, time } => self.wait(event, time),
        }
    }
    fn launch(&mut self, launch: &Launch) {
        let (module, entry) = &self.functions[launch.function];
        let Launch { grid, block, shared, arguments, .. } = launch;
        let done = self.machine.launch(&self.modules[*module], entry, *grid, *block, *shared, arguments);
        if let Err(error) = done {
            self.fail(error);
        }
    }
}

/// Defines functions of the driver; a body's value is its code.
macro_rules! driver {
    ($($name:ident($($argument:ident: $type:ty),*) $body:block)*) => { $(
        /// See the documentation of CUDA's driver.
        ///
        /// # Safety
        /// As for the driver's own: pointers are valid for what the function does.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($($argument: $type),*) -> Code {
            $(let _ = &$argument;)*
            $body
        }
    )* };
}
use driver;

/// # Safety
/// `to` is valid for a write.
unsafe fn put<T>(to: *mut T, value: T) -> Code {
    // SAFETY: the caller says so.
    unsafe { to.write(value) };
    SUCCESS
}

// SAFETY of all bodies: the caller keeps the driver's contract, which is that pointers are valid for the sizes given.
driver! {
    cuInit(flags: c_uint) { SUCCESS }
    cuDriverGetVersion(version: *mut c_int) {
        unsafe { put(version, number("INTERPRETED_CUDA_DRIVER", 12080.0) as c_int) }
    }
    cuDeviceGetCount(count: *mut c_int) { unsafe { put(count, 1) } }
    cuDeviceGet(device: *mut c_int, number: c_int) { unsafe { put(device, number) } }
    cuDeviceGetName(name: *mut c_char, len: c_int, device: c_int) {
        let text = c"PTX interpreter".to_bytes_with_nul();
        unsafe { std::ptr::copy_nonoverlapping(text.as_ptr().cast(), name, text.len().min(len as usize)) };
        SUCCESS
    }
    cuDeviceGetUuid(uuid: *mut [u8; 16], device: c_int) {
        let card = number("INTERPRETED_CUDA_CARD", f64::from(std::process::id()));
        unsafe { put(uuid, (card as u128).to_le_bytes()) }
    }
    cuDeviceGetAttribute(value: *mut c_int, attribute: c_int, device: c_int) {
        let capability = number("INTERPRETED_CUDA_CAPABILITY", 8.0);
        let known = match attribute {
            75 => capability as c_int,                      // major
            76 => (capability * 10.0).round() as c_int % 10, // minor
            16 => 1,                                         // multiprocessors
            13 | 36 => 1000,                                 // clocks, kHz
            37 => 64,                                        // bits of the memory bus
            _ => 0,
        };
        unsafe { put(value, known) }
    }
    cuDeviceTotalMem_v2(bytes: *mut usize, device: c_int) { unsafe { put(bytes, memory()) } }
    cuDevicePrimaryCtxRetain(context: *mut *mut c_void, device: c_int) { unsafe { put(context, handle(0)) } }
    cuCtxSetCurrent(context: *mut c_void) { SUCCESS }
    cuMemGetInfo_v2(free: *mut usize, total: *mut usize) {
        let left = memory().saturating_sub(card().used);
        unsafe { put(free, left) };
        unsafe { put(total, memory()) }
    }

    cuMemAlloc_v2(address: *mut u64, bytes: usize) {
        let mut card = card();
        if card.used + bytes > memory() {
            return OUT_OF_MEMORY;
        }
        let name = format!("allocation {}", card.buffers.len());
        let buffer = card.machine.alloc(&name, bytes);
        card.buffers.push(buffer);
        card.used += bytes;
        unsafe { put(address, buffer.address()) }
    }
    cuMemFree_v2(address: u64) {
        let mut card = card();
        let Some(at) = card.buffers.iter().position(|b| b.address() == address) else { return NOT_FOUND };
        card.used -= card.buffers.remove(at).bytes();
        SUCCESS
    }
    cuMemHostAlloc(pointer: *mut *mut c_void, bytes: usize, flags: c_uint) {
        unsafe { put(pointer, Box::leak(vec![0_u8; bytes].into_boxed_slice()).as_mut_ptr().cast()) }
    }
    cuMemFreeHost(pointer: *mut c_void) { SUCCESS } // leaked: tests end
    cuMemsetD8Async(address: u64, byte: u8, bytes: usize, stream: *mut c_void) {
        card().make(index(stream), Work::Fill { address, byte, bytes });
        SUCCESS
    }
    cuMemcpyHtoD_v2(to: u64, from: *const c_void, bytes: usize) {
        card().write(to, unsafe { std::slice::from_raw_parts(from.cast(), bytes) })
    }
    cuMemcpyHtoDAsync_v2(to: u64, from: *const c_void, bytes: usize, stream: *mut c_void) {
        card().make(index(stream), Work::Upload { to, from: from.expose_provenance(), bytes });
        SUCCESS
    }
    cuMemcpyDtoH_v2(to: *mut c_void, from: u64, bytes: usize) {
        card().read(from, unsafe { std::slice::from_raw_parts_mut(to.cast(), bytes) })
    }
    cuMemcpyDtoDAsync_v2(to: u64, from: u64, bytes: usize, stream: *mut c_void) {
        card().make(index(stream), Work::Copy { to, from, bytes });
        SUCCESS
    }

    cuStreamCreate(stream: *mut *mut c_void, flags: c_uint) {
        let mut card = card();
        card.streams.push(Stream::default());
        unsafe { put(stream, handle(card.streams.len() - 1)) }
    }
    cuStreamDestroy_v2(stream: *mut c_void) {
        card().finish(index(stream));
        SUCCESS
    }
    cuStreamSynchronize(stream: *mut c_void) {
        loop {
            let mut card = card();
            if card.finish(index(stream)) {
                return card.state();
            }
            drop(card);
            std::thread::sleep(PAUSE);
        }
    }
    cuStreamQuery(stream: *mut c_void) {
        let mut card = card();
        if card.finish(index(stream)) { card.state() } else { NOT_READY }
    }
    cuStreamWaitEvent(stream: *mut c_void, event: *mut c_void, flags: c_uint) {
        let (mut card, event) = (card(), index(event));
        let time = card.events[event].asked;
        card.make(index(stream), Work::Wait { event, time });
        SUCCESS
    }
    cuEventCreate(event: *mut *mut c_void, flags: c_uint) {
        let mut card = card();
        card.events.push(Event { asked: 0, done: 0, stream: 0, at: Instant::now() });
        unsafe { put(event, handle(card.events.len() - 1)) }
    }
    cuEventRecord(event: *mut c_void, stream: *mut c_void) {
        let (mut card, event) = (card(), index(event));
        card.events[event].asked += 1;
        card.events[event].stream = index(stream);
        let time = card.events[event].asked;
        card.make(index(stream), Work::Record { event, time });
        SUCCESS
    }
    cuEventSynchronize(event: *mut c_void) {
        let (mut card, event) = (card(), index(event));
        let time = card.events[event].asked;
        card.wait(event, time);
        card.state()
    }
    cuEventElapsedTime(milliseconds: *mut f32, begin: *mut c_void, end: *mut c_void) {
        let card = card();
        let time = card.events[index(end)].at.saturating_duration_since(card.events[index(begin)].at);
        unsafe { put(milliseconds, 1e3 * time.as_secs_f32()) }
    }
    cuEventDestroy_v2(event: *mut c_void) { SUCCESS }

    cuModuleLoadDataEx(
        module: *mut *mut c_void,
        text: *const c_void,
        count: c_uint,
        options: *mut c_int,
        values: *mut *mut c_void
    ) {
        let text = unsafe { CStr::from_ptr(text.cast()) }.to_string_lossy();
        match Module::parse(&text) {
            Ok(parsed) => {
                let mut card = card();
                card.modules.push(parsed);
                unsafe { put(module, handle(card.modules.len() - 1)) }
            }
            Err(error) => {
                eprintln!("interpreted-cuda: {error}");
                INVALID_PTX
            }
        }
    }
    cuModuleGetFunction(function: *mut *mut c_void, module: *mut c_void, name: *const c_char) {
        let (mut card, name) = (card(), unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned());
        if card.modules[index(module)].kernel(&name).is_err() {
            return NOT_FOUND;
        }
        card.functions.push((index(module), name));
        card.shared.push(48 << 10);
        unsafe { put(function, handle(card.functions.len() - 1)) }
    }
    cuFuncSetAttribute(function: *mut c_void, attribute: c_int, value: c_int) {
        const MAX_DYNAMIC_SHARED_SIZE_BYTES: c_int = 8;
        const MOST: c_int = 99 << 10; // of the smallest card from 8.0 on
        if attribute != MAX_DYNAMIC_SHARED_SIZE_BYTES || !(0..=MOST).contains(&value) {
            return INVALID_VALUE;
        }
        card().shared[index(function)] = value as usize;
        SUCCESS
    }
    cuLaunchKernel(
        function: *mut c_void,
        x: c_uint, y: c_uint, z: c_uint,
        a: c_uint, b: c_uint, c: c_uint,
        shared: c_uint,
        stream: *mut c_void,
        arguments: *mut *mut c_void,
        extra: *mut *mut c_void
    ) {
        let mut card = card();
        let function = index(function);
        let (module, entry) = &card.functions[function];
        let Ok(kernel) = card.modules[*module].kernel(entry) else { return NOT_FOUND };
        if shared as usize > card.shared[function] {
            return INVALID_VALUE;
        }
        let sizes = kernel.parameters().map(|(_, bytes)| bytes).enumerate();
        let argument = |(i, bytes): (usize, usize)| {
            let bytes = unsafe { std::slice::from_raw_parts((*arguments.add(i)).cast::<u8>(), bytes) };
            Argument::Bytes(bytes.to_vec())
        };
        let arguments = sizes.map(argument).collect();
        let launch = Launch { function, grid: [x, y, z], block: [a, b, c], shared: shared as usize, arguments };
        card.make(index(stream), Work::Kernel(launch));
        SUCCESS
    }

    cuStreamBeginCapture_v2(stream: *mut c_void, mode: c_int) {
        card().capture = Some(vec![]);
        SUCCESS
    }
    cuStreamEndCapture(stream: *mut c_void, graph: *mut *mut c_void) {
        let mut card = card();
        let Some(recorded) = card.capture.take() else { return NOT_FOUND };
        card.graphs.push(recorded);
        unsafe { put(graph, handle(card.graphs.len() - 1)) }
    }
    cuGraphInstantiateWithFlags(executable: *mut *mut c_void, graph: *mut c_void, flags: u64) {
        unsafe { put(executable, graph) }
    }
    cuGraphUpload(executable: *mut c_void, stream: *mut c_void) { SUCCESS }
    cuGraphLaunch(executable: *mut c_void, stream: *mut c_void) {
        let mut card = card();
        let recorded = card.graphs[index(executable)].clone();
        recorded.into_iter().for_each(|work| card.make(index(stream), work));
        SUCCESS
    }
    cuGraphDestroy(graph: *mut c_void) { SUCCESS }
    cuGraphExecDestroy(executable: *mut c_void) { SUCCESS }

    cuGetErrorName(code: Code, name: *mut *const c_char) {
        let text = match code {
            INVALID_VALUE => c"CUDA_ERROR_INVALID_VALUE",
            OUT_OF_MEMORY => c"CUDA_ERROR_OUT_OF_MEMORY",
            INVALID_PTX => c"CUDA_ERROR_INVALID_PTX",
            NOT_FOUND => c"CUDA_ERROR_NOT_FOUND",
            ILLEGAL_ADDRESS => c"CUDA_ERROR_ILLEGAL_ADDRESS",
            _ => c"CUDA_ERROR_UNKNOWN",
        };
        unsafe { put(name, text.as_ptr()) }
    }
    cuGetErrorString(code: Code, text: *mut *const c_char) {
        let said = match code {
            OUT_OF_MEMORY => c"out of memory",
            ILLEGAL_ADDRESS => c"an illegal memory access was encountered",
            _ => c"an error",
        };
        unsafe { put(text, said.as_ptr()) }
    }
}
