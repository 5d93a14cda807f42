//! Sums over processes by NVIDIA's NCCL, looked for at run time: it comes with its own package, and with Python's NVIDIA packages.
//!
//! `cudarc` declares the library too, but ends the program where it or a function is missing. The few functions here are the
//! same in every version from 2.14, the first whose calls can be asked how they are getting on. That matters: a sum whose
//! partner is dead waits for ever, on the card. So the host waits beside it, asks whether all are alive, and ends the sum.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::mem::size_of;
use std::ptr::null_mut;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use cudarc::driver::sys;
use libloading::Library as Dynamic;

use super::context::Context;
use super::cublaslt::functions;
use crate::backend::{Alive, DeviceSums, Partner};
use crate::{Error, Result};

/// The library's name; there is none for other systems.
const NAME: &str = "libnccl.so.2";
/// Oldest version, as the library counts: 2.14.0.
const OLDEST: c_int = 21_400;
/// Time between two looks at whether a sum is done, and between two at whether the others are alive.
const PAUSE: Duration = Duration::from_micros(50);
const PULSE: Duration = Duration::from_millis(50);
/// Time in which a rank that is gone is noticed by the sockets too, so that it can be named.
const NOTICE: Duration = Duration::from_secs(2);

// Numbers of the library's header, by its names.
const NCCL_SUCCESS: c_int = 0;
const NCCL_IN_PROGRESS: c_int = 7;
const NCCL_FLOAT32: c_int = 7;
const NCCL_SUM: c_int = 0;
const NCCL_API_MAGIC: u32 = 0xcafe_beef;

type Opaque = *mut c_void;

/// Names a group.
#[derive(Clone, Copy)]
#[repr(C)]
struct UniqueId([u8; 128]);

/// The head of the library's settings, as 2.14 has it; newer versions take their defaults for what it lacks.
#[repr(C)]
struct Config {
    size: usize,
    magic: u32,
    version: u32,
    blocking: c_int,
}

functions! {
    version = b"ncclGetVersion": unsafe extern "C" fn(*mut c_int) -> c_int;
    unique_id = b"ncclGetUniqueId": unsafe extern "C" fn(*mut UniqueId) -> c_int;
    join = b"ncclCommInitRankConfig": unsafe extern "C" fn(*mut Opaque, c_int, UniqueId, c_int, *mut Config) -> c_int;
    state = b"ncclCommGetAsyncError": unsafe extern "C" fn(Opaque, *mut c_int) -> c_int;
    all_reduce = b"ncclAllReduce": unsafe extern "C" fn(
        u64, u64, usize, c_int, c_int, Opaque, sys::CUstream
    ) -> c_int;
    abort = b"ncclCommAbort": unsafe extern "C" fn(Opaque) -> c_int;
    said = b"ncclGetErrorString": unsafe extern "C" fn(c_int) -> *const c_char;
}

/// The library, loaded.
struct Library {
    version: c_int,
    functions: Functions,
    /// Functions are valid while it is there.
    _library: Dynamic,
}

impl Library {
    fn text(&self) -> String {
        let version = self.version;
        format!("NCCL {}.{}.{}", version / 10_000, version / 100 % 100, version % 100)
    }
}

fn library() -> Result<&'static Library> {
    static FOUND: OnceLock<Result<Library, String>> = OnceLock::new();
    FOUND.get_or_init(find).as_ref().map_err(|why| Error::device(why.clone()))
}

fn find() -> Result<Library, String> {
    // A ring adds up each number in one order, that of the ring, whatever the sizes; other ways need not.
    if std::env::var_os("NCCL_ALGO").is_none() {
        // SAFETY: this library reads the variable, and is not there yet; everything else here asks the standard library for
        // variables, which has a lock for that.
        unsafe { std::env::set_var("NCCL_ALGO", "Ring") };
    }
    // SAFETY: loading runs the library's own start, which is NVIDIA's.
    let library = unsafe { Dynamic::new(NAME) }
        .map_err(|_| format!("there is no NCCL ({NAME}); install it, or set LD_LIBRARY_PATH to its folder"))?;
    let too_old = |version: &str| format!("{NAME} is {version}, which is too old; install NCCL 2.14 or newer");
    let functions = Functions::load(&library).map_err(|_| too_old("a version that lacks functions"))?;
    let mut version = 0;
    // SAFETY: writes one number.
    unsafe { (functions.version)(&mut version) };
    let library = Library { version, functions, _library: library };
    if version < OLDEST {
        return Err(too_old(&library.text()));
    }
    Ok(library)
}

/// Who adds up gradients of several processes on their cards, for people.
///
/// # Errors
/// When there is no such library, or it is too old.
pub fn sums() -> Result<String> {
    library().map(Library::text)
}

/// What a card holds of the library.
pub struct Nccl {
    context: Arc<Context>,
    stream: sys::CUstream,
    /// Of the group that was joined.
    communicator: Option<Opaque>,
}

impl Nccl {
    /// Sums on `stream`, which outlives them.
    pub fn new(context: &Arc<Context>, stream: sys::CUstream) -> Self {
        Nccl { context: context.clone(), stream, communicator: None }
    }
    /// Ends what is running and leaves the group. Nothing is lost: who waits for a sum does so in [`DeviceSums::sum`].
    fn leave(&mut self) {
        if let (Some(communicator), Ok(library)) = (self.communicator.take(), library()) {
            // SAFETY: the library made it, and it is given back once.
            unsafe { (library.functions.abort)(communicator) };
        }
    }
    fn failed(&self, library: &Library, doing: &str, status: c_int) -> Error {
        // SAFETY: the library answers every number with a text that stays.
        let said = unsafe { CStr::from_ptr((library.functions.said)(status)) }.to_string_lossy();
        let (name, nccl) = (&self.context.info.name, library.text());
        Error::device(format!(
            "{name}: {doing} by {nccl}: {said}; NCCL_DEBUG=WARN makes it say more, reduce = \"host\" does without it"
        ))
    }
    fn state(&self, library: &Library) -> c_int {
        let (communicator, mut state) = (self.communicator.unwrap_or(null_mut()), NCCL_SUCCESS);
        // SAFETY: the library refuses a null pointer, and otherwise writes one number.
        match unsafe { (library.functions.state)(communicator, &mut state) } {
            NCCL_SUCCESS => state,
            refused => refused,
        }
    }
    /// Waits until the library has done what `status` began.
    fn settle(&self, library: &Library, doing: &str, mut status: c_int, alive: Alive) -> Result<()> {
        let mut pulse = Instant::now();
        while status == NCCL_IN_PROGRESS {
            breathe(&mut pulse, alive)?;
            status = self.state(library);
        }
        if status == NCCL_SUCCESS { Ok(()) } else { Err(self.failed(library, doing, status)) }
    }
    /// Waits until the stream is done.
    fn wait(&self, library: &Library, alive: Alive) -> Result<()> {
        let mut pulse = Instant::now();
        loop {
            // SAFETY: the stream is the card's own.
            match unsafe { sys::cuStreamQuery(self.stream) } {
                sys::CUresult::CUDA_SUCCESS => return Ok(()),
                sys::CUresult::CUDA_ERROR_NOT_READY => {}
                code => code.result().map_err(|error| self.context.failed("adding up gradients", error))?,
            }
            // The library's own threads find out about lost connections.
            match self.state(library) {
                NCCL_SUCCESS | NCCL_IN_PROGRESS => {}
                status => return Err(self.failed(library, "adding up gradients", status)),
            }
            breathe(&mut pulse, alive)?;
        }
    }
    /// Leaves the group where something failed. Where another rank is the cause, that is what is told.
    fn ended<T>(&mut self, result: Result<T>, alive: Alive) -> Result<T> {
        let Err(error) = result else { return result };
        self.leave();
        let deadline = Instant::now() + NOTICE;
        while Instant::now() < deadline {
            alive()?;
            std::thread::sleep(PULSE);
        }
        Err(error)
    }
    fn try_join(&mut self, group: UniqueId, rank: usize, ranks: usize, alive: Alive) -> Result<()> {
        let library = library()?;
        self.context.enter()?;
        let (mut config, mut communicator) = (
            Config { size: size_of::<Config>(), magic: NCCL_API_MAGIC, version: OLDEST as u32, blocking: 0 },
            null_mut(),
        );
        // SAFETY: the settings say their own size, and are read before this returns.
        let status =
            unsafe { (library.functions.join)(&mut communicator, ranks as c_int, group, rank as c_int, &mut config) };
        self.communicator = (!communicator.is_null()).then_some(communicator);
        self.settle(library, "joining the other ranks", status, alive)
    }
    fn try_sum(&self, parts: &[(u64, usize)], alive: Alive) -> Result<()> {
        let library = library()?;
        let communicator = self.communicator.ok_or_else(|| Error::plan("this card has joined no group"))?;
        self.context.enter()?;
        for &(address, count) in parts {
            // SAFETY: `count` numbers lie there, as the executor knows, and stay until the wait below is over.
            let status = unsafe {
                (library.functions.all_reduce)(
                    address,
                    address,
                    count,
                    NCCL_FLOAT32,
                    NCCL_SUM,
                    communicator,
                    self.stream,
                )
            };
            self.settle(library, "adding up gradients", status, alive)?;
        }
        self.wait(library, alive)
    }
}

fn breathe(pulse: &mut Instant, alive: Alive) -> Result<()> {
    if pulse.elapsed() > PULSE {
        alive()?;
        *pulse = Instant::now();
    }
    std::thread::sleep(PAUSE);
    Ok(())
}

impl DeviceSums for Nccl {
    fn partner(&self) -> Result<Partner> {
        Ok(Partner { library: library()?.text(), card: self.context.info.uuid.to_vec() })
    }
    fn new_group(&self) -> Result<Vec<u8>> {
        let library = library()?;
        self.context.enter()?;
        let mut id = UniqueId([0; 128]);
        // SAFETY: writes 128 bytes.
        match unsafe { (library.functions.unique_id)(&mut id) } {
            NCCL_SUCCESS => Ok(id.0.to_vec()),
            status => Err(self.failed(library, "opening a group", status)),
        }
    }
    fn join(&mut self, group: &[u8], rank: usize, ranks: usize, alive: Alive) -> Result<()> {
        let id = UniqueId(group.try_into().map_err(|_| Error::ranks("rank 0 named no group of NCCL"))?);
        let joined = self.try_join(id, rank, ranks, alive);
        self.ended(joined, alive)
    }
    fn sum(&mut self, parts: &[(u64, usize)], alive: Alive) -> Result<()> {
        let summed = self.try_sum(parts, alive);
        self.ended(summed, alive)
    }
}

impl Drop for Nccl {
    fn drop(&mut self) {
        if self.context.enter().is_ok() {
            self.leave();
        }
    }
}
