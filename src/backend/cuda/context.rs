//! Cards of this machine, and what a process holds of each: its context and its compiled modules. The driver's library is
//! looked for at run time: nothing of CUDA is needed to build, and a machine without it is told so.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ffi::{CStr, CString, c_int, c_void};
use std::sync::{Arc, Mutex, MutexGuard};

use cudarc::driver::{DriverError, result, sys};

use super::KernelText;
use crate::{Error, Result};

/// Oldest compute capability that the kernels are written for: V100.
const OLDEST: (u32, u32) = (7, 0);
/// Oldest driver, as the CUDA version that it knows: graphs as they are used here, and every version of PTX in `kernels/`.
const OLDEST_DRIVER: (i32, i32) = (11, 4);
/// Shared memory that a launch may give a block without asking.
const SHARED: u32 = 48 << 10; // bytes
/// Room for what the driver's compiler says.
const LOG_BYTES: usize = 8 << 10;
/// Memory that is left for modules and the driver's own needs.
const RESERVE: usize = 256 << 20;

/// What is known of a card without opening it.
#[derive(Clone, Debug, PartialEq)]
pub struct CardInfo {
    /// Name that the driver gives.
    pub name: String,
    /// What tells it from every other card.
    pub uuid: [u8; 16],
    /// Compute capability.
    pub capability: (u32, u32),
    /// Memory.
    pub bytes: usize,
    /// Multiprocessors.
    pub multiprocessors: u32,
    /// Highest clock of the multiprocessors, Hz.
    pub clock: f64,
    /// Bytes a second that its memory can move at most.
    pub bandwidth: f64,
}

/// All cards of this machine.
///
/// # Errors
/// When there is no driver, it cannot start, or is too old.
pub fn cards() -> Result<Vec<CardInfo>> {
    // SAFETY: looks for a library and closes it again.
    if !unsafe { sys::is_culib_present() } {
        return Err(Error::device(
            "the PTX backend needs an NVIDIA driver, and there is none on this machine (libcuda); use --device cpu or wgpu",
        ));
    }
    let failed = |error| Error::device(format!("the NVIDIA driver does not start: {}", said(error)));
    result::init().map_err(failed)?;
    check_driver().map_err(failed)??;
    let count = result::device::get_count().map_err(failed)?;
    (0..count).map(|number| info(number).map_err(failed)).collect()
}

/// Before anything of a newer driver is called: a function that is missing would end the program.
fn check_driver() -> Result<Result<()>, DriverError> {
    let mut version = 0;
    // SAFETY: writes one number.
    unsafe { sys::cuDriverGetVersion(&mut version) }.result()?;
    let (major, minor) = (version / 1000, version % 1000 / 10);
    if (major, minor) >= OLDEST_DRIVER {
        return Ok(Ok(()));
    }
    let (least, least_minor) = OLDEST_DRIVER;
    Ok(Err(Error::device(format!(
        "the NVIDIA driver is too old: it is made for CUDA {major}.{minor}, the kernels need {least}.{least_minor} or newer \
         (driver 470); install a newer one, or use --device cpu or wgpu"
    ))))
}

fn info(number: c_int) -> Result<CardInfo, DriverError> {
    use sys::CUdevice_attribute as Attribute;
    let device = result::device::get(number)?;
    let name = result::device::get_name(device)?;
    let uuid = result::device::get_uuid(device)?.bytes.map(|byte| byte as u8);
    // SAFETY: `device` was given by the driver just now.
    let attribute = |which| unsafe { result::device::get_attribute(device, which) };
    let major = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
    let minor = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
    let multiprocessors = attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?;
    // Newer drivers may not tell clocks; a bench then has no limits to compare with.
    let kilohertz = attribute(Attribute::CU_DEVICE_ATTRIBUTE_CLOCK_RATE).unwrap_or(0);
    let memory_kilohertz = attribute(Attribute::CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE).unwrap_or(0);
    let bus_bits = attribute(Attribute::CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH).unwrap_or(0);
    // SAFETY: as above.
    let bytes = unsafe { result::device::total_mem(device)? };
    Ok(CardInfo {
        name,
        uuid,
        capability: (major as u32, minor as u32),
        bytes,
        multiprocessors: multiprocessors as u32,
        clock: 1e3 * f64::from(kilohertz),
        bandwidth: 2.0 * 1e3 * f64::from(memory_kilohertz) * f64::from(bus_bits) / 8.0, // double data rate
    })
}

/// Requires that a card of this number exists and can run the kernels.
///
/// # Errors
/// When there is no driver or no such card, or either is too old.
pub fn find(number: usize) -> Result<CardInfo> {
    let all = cards()?;
    let Some(info) = all.get(number).cloned() else {
        let count = all.len();
        return Err(Error::device(format!(
            "device cuda:{number}: this machine has {count} NVIDIA cards; use one of them, or --device cpu"
        )));
    };
    if info.capability < OLDEST {
        let (CardInfo { name, capability: (major, minor), .. }, (oldest, _)) = (&info, OLDEST);
        return Err(Error::device(format!(
            "device cuda:{number}: {name} has compute capability {major}.{minor}, the kernels need {oldest}.0 or newer; \
             use --device cpu or wgpu"
        )));
    }
    Ok(info)
}

/// Bytes that new programs may take on a card; `None` when it cannot be opened.
pub fn free_bytes(number: usize) -> Option<usize> {
    let context = Context::open(number).ok()?;
    context.enter().ok()?;
    let (free, _) = result::mem_get_info().ok()?;
    Some(free.saturating_sub(RESERVE))
}

/// Name and explanation of a driver's error.
pub fn said(error: DriverError) -> String {
    fn text(text: Result<&CStr, DriverError>) -> Cow<'_, str> {
        text.map_or("unknown".into(), CStr::to_string_lossy)
    }
    format!("{} ({})", text(error.error_string()), text(error.error_name()))
}

/// A kernel on the card.
#[derive(Clone, Copy)]
pub struct Function(pub sys::CUfunction);

// SAFETY: a handle that the driver lets every thread use; its module is never unloaded.
unsafe impl Send for Function {}

/// What a process holds of a card: one context, and each kernel compiled once, whatever runs there. It stays to the end.
pub struct Context {
    /// The card.
    pub info: CardInfo,
    context: sys::CUcontext,
    functions: Mutex<HashMap<String, Function>>, // by the hash of the text
}

// SAFETY: the driver allows every thread to use a context that is current there, and the map is behind a lock.
unsafe impl Send for Context {}
// SAFETY: as above.
unsafe impl Sync for Context {}

impl Context {
    /// The context of card `number`, made once in a process.
    ///
    /// # Errors
    /// Those of [`find`], and what the driver says.
    pub fn open(number: usize) -> Result<Arc<Context>> {
        static OPEN: Mutex<Option<HashMap<usize, Arc<Context>>>> = Mutex::new(None);
        let mut open = lock(&OPEN);
        let open = open.get_or_insert_with(HashMap::new);
        if let Some(context) = open.get(&number) {
            return Ok(context.clone());
        }
        let info = find(number)?;
        let failed = |error| Error::device(format!("device cuda:{number} ({}): {}", info.name, said(error)));
        let device = result::device::get(number as c_int).map_err(failed)?;
        // SAFETY: `device` was given by the driver just now; it is never released, so that the context stays valid.
        let context = unsafe { result::primary_ctx::retain(device) }.map_err(failed)?;
        let context = Arc::new(Context { info, context, functions: Mutex::default() });
        open.insert(number, context.clone());
        Ok(context)
    }
    /// Makes the context that of this thread.
    ///
    /// # Errors
    /// What the driver says.
    pub fn enter(&self) -> Result<()> {
        // SAFETY: the context was retained in `open` and is never released.
        unsafe { result::ctx::set_current(self.context) }.map_err(|error| self.failed("using the card", error))
    }
    /// An error of this card.
    pub fn failed(&self, doing: &str, error: DriverError) -> Error {
        Error::device(format!("{}: {doing}: {}", self.info.name, said(error)))
    }
    /// A kernel, compiled where no program had it before.
    ///
    /// # Errors
    /// When the driver is too old for its version of PTX, or its text is wrong.
    pub fn function(&self, kernel: &KernelText) -> Result<Function> {
        let mut functions = lock(&self.functions);
        if let Some(function) = functions.get(&kernel.rendered.hash) {
            return Ok(*function);
        }
        self.enter()?;
        let module = self.compile(kernel)?;
        let label = &kernel.rendered.label;
        let entry = CString::new(kernel.entry).map_err(|_| Error::kernel(format!("kernel {label}: wrong name")))?;
        // SAFETY: the module was loaded just now.
        let function = unsafe { result::module::get_function(module, entry) };
        let function = Function(function.map_err(|error| self.failed(&format!("kernel {label}"), error))?);
        if kernel.shared > SHARED {
            let most = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: the function was found just now.
            let set = unsafe { sys::cuFuncSetAttribute(function.0, most, kernel.shared as c_int) }.result();
            set.map_err(|error| {
                self.failed(&format!("{} bytes of shared memory for kernel {label}", kernel.shared), error)
            })?;
        }
        functions.insert(kernel.rendered.hash.clone(), function);
        Ok(function)
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
        let name = &self.info.name;
        Err(match code {
            sys::CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION => Error::device(format!(
                "{name}: the driver is too old for the PTX of kernel {label}; install a newer NVIDIA driver"
            )),
            _ => Error::kernel(format!("kernel {label} on {name}: {}\n{}", said(error), log.trim_end())),
        })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
