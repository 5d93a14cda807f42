//! A card, by way of its driver. The driver's library is looked for at run time: nothing of CUDA is needed to build, and a
//! machine without it is told so.

use std::ffi::{CString, c_int, c_void};

use cudarc::driver::{DriverError, result, sys};

use super::{Driver, KernelLaunch, KernelText};
use crate::{Error, Result};

/// Oldest compute capability that the kernels are written for: V100.
const OLDEST: (i32, i32) = (7, 0);
/// Room for what the driver's compiler says.
const LOG_BYTES: usize = 8 << 10;

/// One card, opened; all launches go to its default stream.
pub struct Card {
    name: String,
    device: sys::CUdevice,
    context: sys::CUcontext,
    allocations: Vec<sys::CUdeviceptr>,
    modules: Vec<Loaded>,
}

struct Loaded {
    module: sys::CUmodule,
    function: sys::CUfunction,
    label: String,
}

// SAFETY: the handles belong to the driver, which allows every thread to use them once the context is current there; each
// method makes it current first, and `&mut self` keeps threads apart.
unsafe impl Send for Card {}

/// What is known of a card without opening it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CardInfo {
    /// Name that the driver gives.
    pub name: String,
    /// Compute capability.
    pub capability: (i32, i32),
    /// Memory.
    pub bytes: usize,
}

/// All cards of this machine.
///
/// # Errors
/// When there is no driver, or it cannot start.
pub fn cards() -> Result<Vec<CardInfo>> {
    // SAFETY: looks for a library and closes it again.
    if !unsafe { sys::is_culib_present() } {
        return Err(Error::device(
            "the PTX backend needs an NVIDIA driver, and there is none on this machine (libcuda); use --device cpu or wgpu",
        ));
    }
    let failed = |error| Error::device(format!("the NVIDIA driver does not start: {}", said(error)));
    result::init().map_err(failed)?;
    let count = result::device::get_count().map_err(failed)?;
    (0..count).map(|number| info(number).map_err(failed)).collect()
}

fn info(number: c_int) -> Result<CardInfo, DriverError> {
    use sys::CUdevice_attribute::{
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR as MAJOR, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR as MINOR,
    };
    let device = result::device::get(number)?;
    let name = result::device::get_name(device)?;
    // SAFETY: `device` was given by the driver just now.
    let (major, minor, bytes) = unsafe {
        let attribute = |which| result::device::get_attribute(device, which);
        (attribute(MAJOR)?, attribute(MINOR)?, result::device::total_mem(device)?)
    };
    Ok(CardInfo { name, capability: (major, minor), bytes })
}

/// Name and explanation of a driver's error.
fn said(error: DriverError) -> String {
    let text = |text: Result<&std::ffi::CStr, DriverError>| text.map_or("unknown".into(), |t| t.to_string_lossy());
    format!("{} ({})", text(error.error_string()), text(error.error_name()))
}

impl Card {
    /// Requires that the card exists and can run the kernels.
    ///
    /// # Errors
    /// When there is no driver or no such card, or it is too old.
    pub fn find(number: usize) -> Result<CardInfo> {
        let all = cards()?;
        let Some(info) = all.get(number).cloned() else {
            let count = all.len();
            return Err(Error::device(format!("device cuda:{number}: this machine has {count} NVIDIA cards")));
        };
        if info.capability < OLDEST {
            let (CardInfo { name, capability: (major, minor), .. }, (oldest, _)) = (&info, OLDEST);
            return Err(Error::device(format!(
                "device cuda:{number}: {name} has compute capability {major}.{minor}, the kernels need {oldest}.0 or newer"
            )));
        }
        Ok(info)
    }
    /// Opens a card.
    ///
    /// # Errors
    /// Those of [`Self::find`], and what the driver says.
    pub fn open(number: usize) -> Result<Self> {
        let name = Self::find(number)?.name;
        let failed = |error| Error::device(format!("device cuda:{number} ({name}): {}", said(error)));
        let device = result::device::get(number as c_int).map_err(failed)?;
        // SAFETY: `device` was given by the driver just now.
        let context = unsafe { result::primary_ctx::retain(device) }.map_err(failed)?;
        Ok(Card { device, context, allocations: vec![], modules: vec![], name })
    }
    fn failed(&self, doing: &str, error: DriverError) -> Error {
        Error::device(format!("{}: {doing}: {}", self.name, said(error)))
    }
    /// Makes the context that of this thread.
    fn enter(&self) -> Result<()> {
        // SAFETY: the context was retained in `open` and is released in `drop`.
        unsafe { result::ctx::set_current(self.context) }.map_err(|error| self.failed("using the card", error))
    }
    /// Compiles a module; what the compiler says is part of the error.
    fn compile(&self, kernel: &KernelText) -> Result<sys::CUmodule> {
        use sys::CUjit_option::{CU_JIT_ERROR_LOG_BUFFER as LOG, CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES as SIZE};
        let label = &kernel.rendered.label;
        let text = CString::new(kernel.rendered.text.as_str())
            .map_err(|_| Error::kernel(format!("kernel {label}: its text holds a zero byte")))?;
        let mut log = vec![0_u8; LOG_BYTES];
        let mut options = [LOG, SIZE];
        let mut values = [log.as_mut_ptr().cast::<c_void>(), LOG_BYTES as *mut c_void];
        let mut module = std::ptr::null_mut();
        // SAFETY: the text ends with a zero byte, the options name a buffer and its size, and all of it outlives the call.
        let code = unsafe {
            sys::cuModuleLoadDataEx(
                &mut module,
                text.as_ptr().cast(),
                options.len() as u32,
                options.as_mut_ptr(),
                values.as_mut_ptr(),
            )
        };
        let Err(error) = code.result() else { return Ok(module) };
        let end = log.iter().position(|byte| *byte == 0).unwrap_or(log.len());
        let log = String::from_utf8_lossy(&log[..end]);
        let name = &self.name;
        Err(match code {
            sys::CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION => Error::device(format!(
                "{name}: the driver is too old for the PTX of kernel {label}; install a newer NVIDIA driver"
            )),
            _ => Error::kernel(format!("kernel {label} on {name}: {}\n{}", said(error), log.trim_end())),
        })
    }
}

impl Driver for Card {
    fn alloc(&mut self, name: &str, bytes: usize, zeroed: bool) -> Result<u64> {
        if bytes == 0 {
            return Ok(0);
        }
        self.enter()?;
        // SAFETY: a plain allocation in the current context; it is freed in `drop`.
        let address = unsafe { result::malloc_sync(bytes) }.map_err(|error| {
            let free = result::mem_get_info().map_or(0, |(free, _)| free);
            let what = format!("{bytes} bytes for {name}, {free} are free; use a smaller batch");
            self.failed(&what, error)
        })?;
        self.allocations.push(address);
        if zeroed {
            // SAFETY: the allocation has `bytes` bytes.
            let cleared = unsafe { result::memset_d8_sync(address, 0, bytes) };
            cleared.map_err(|error| self.failed("clearing memory", error))?;
        }
        Ok(address)
    }
    fn write(&mut self, address: u64, bytes: &[u8]) -> Result<()> {
        self.enter()?;
        // SAFETY: the executor writes within tensors, which lie within allocations; the copy is over on return.
        unsafe { result::memcpy_htod_sync(address, bytes) }.map_err(|error| self.failed("writing memory", error))
    }
    fn read(&mut self, address: u64, bytes: &mut [u8]) -> Result<()> {
        self.enter()?;
        // SAFETY: as for `write`; the default stream has finished every earlier launch before the copy.
        unsafe { result::memcpy_dtoh_sync(bytes, address) }.map_err(|error| self.failed("reading memory", error))
    }
    fn load(&mut self, kernel: &KernelText) -> Result<usize> {
        self.enter()?;
        let module = self.compile(kernel)?;
        let label = kernel.rendered.label.clone();
        let entry = CString::new(kernel.entry).map_err(|_| Error::kernel(format!("kernel {label}: wrong name")))?;
        // SAFETY: the module was loaded just now.
        let function = unsafe { result::module::get_function(module, entry) };
        let function = function.map_err(|error| self.failed(&format!("kernel {label}"), error))?;
        self.modules.push(Loaded { module, function, label });
        Ok(self.modules.len() - 1)
    }
    fn launch(&mut self, launch: &KernelLaunch) -> Result<()> {
        self.enter()?;
        let Loaded { function, label, .. } = &self.modules[launch.kernel];
        let pointer = |address: &u64| std::ptr::from_ref(address).cast_mut().cast::<c_void>();
        let first = launch.params.as_ptr().cast_mut().cast::<c_void>();
        let mut arguments: Vec<*mut c_void> = [first].into_iter().chain(launch.addresses.iter().map(pointer)).collect();
        let ([x, y, z], [a, b, c]) = (launch.grid, launch.block);
        let stream = result::stream::null();
        // SAFETY: the entry's parameters are the struct and one address for each buffer, as a test of every kernel's text
        // shows; the driver copies them before it returns. Kernels stay within tensors, as the interpreter shows.
        let launched = unsafe { result::launch_kernel(*function, (x, y, z), (a, b, c), 0, stream, &mut arguments) };
        launched.map_err(|error| self.failed(&format!("launching kernel {label}"), error))
    }
    fn sync(&mut self) -> Result<()> {
        self.enter()?;
        result::ctx::synchronize().map_err(|error| self.failed("running kernels", error))
    }
}

impl Drop for Card {
    fn drop(&mut self) {
        if self.enter().is_err() {
            return;
        }
        // Errors are of no use here: the process may be ending, or a kernel has failed before.
        // SAFETY: everything was made by this card and is given back once; nothing uses it afterwards.
        unsafe {
            let _ = result::ctx::synchronize();
            self.modules.iter().for_each(|loaded| drop(result::module::unload(loaded.module)));
            self.allocations.iter().for_each(|address| drop(result::free_sync(*address)));
            let _ = result::primary_ctx::release(self.device);
        }
    }
}
