//! The functions of NVIDIA's NCCL that `xlnet` calls, between processes of one machine: where this library is found as
//! `libnccl.so.2` too, sums over ranks take that path. The process that names a group adds up, in the order of ranks.
//!
//! As on cards, nobody is told when a rank dies: the others wait until they give up. `INTERPRETED_NCCL_DIES=3` ends this
//! process at its third sum; `INTERPRETED_NCCL_VERSION=21205` makes the library another one.

use std::ffi::{c_char, c_int, c_void};
use std::io::{Read, Result, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard};

use crate::{Card, Code, SUCCESS, Work, card, handle, index, number, put};

const UNHANDLED_CUDA_ERROR: Code = 1;
const SYSTEM_ERROR: Code = 2;
const INVALID_ARGUMENT: Code = 4;
const INVALID_USAGE: Code = 5;
const IN_PROGRESS: Code = 7;

/// This process in a group.
struct Communicator {
    stream: TcpStream,
    /// All have come.
    ready: Arc<Mutex<bool>>,
    aborted: Arc<Mutex<bool>>,
}

/// How far a sum is.
enum Progress {
    Asked,
    Sent,
    Done(Vec<u8>),
}

/// A sum over the group, in the place of what is added.
#[derive(Clone)]
pub(crate) struct Sum {
    address: u64,
    bytes: usize,
    communicator: usize,
    progress: Arc<Mutex<Progress>>,
}

static JOINED: LazyLock<Mutex<Vec<Communicator>>> = LazyLock::new(Mutex::default);
static SUMS: AtomicU64 = AtomicU64::new(0);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
fn refused(what: impl std::fmt::Display) -> Code {
    eprintln!("interpreted-cuda: nccl: {what}");
    INVALID_ARGUMENT
}

/// Waits for all ranks, and adds up for them until one of them is gone.
fn serve(listener: &TcpListener) -> Result<()> {
    let mut members: Vec<(u8, TcpStream)> = vec![];
    let mut ranks = 1;
    while members.len() < ranks {
        let (mut member, _) = listener.accept()?;
        let mut hello = [0; 2]; // rank, ranks
        member.read_exact(&mut hello)?;
        ranks = hello[1].into();
        members.push((hello[0], member));
    }
    members.sort_by_key(|(rank, _)| *rank);
    members.iter_mut().try_for_each(|(_, member)| member.write_all(b"g"))?;
    loop {
        let mut sum: Vec<f32> = vec![];
        for (_, member) in &mut members {
            let mut length = [0; 8];
            member.read_exact(&mut length)?;
            let mut bytes = vec![0; u64::from_le_bytes(length) as usize];
            member.read_exact(&mut bytes)?;
            sum.resize(bytes.len() / 4, 0.0);
            let theirs = bytes.as_chunks::<4>().0.iter().map(|word| f32::from_le_bytes(*word));
            sum.iter_mut().zip(theirs).for_each(|(sum, x)| *sum += x);
        }
        let sum: Vec<u8> = sum.iter().flat_map(|x| x.to_le_bytes()).collect();
        members.iter_mut().try_for_each(|(_, member)| member.write_all(&sum))?;
    }
}

impl Card {
    /// Whether a sum is over; it begins with the first call.
    pub(crate) fn advance(&mut self, sum: &Sum) -> bool {
        let mut progress = lock(&sum.progress);
        let joined = lock(&JOINED);
        let Communicator { stream, aborted, .. } = &joined[sum.communicator];
        if *lock(aborted) {
            return true;
        }
        match &*progress {
            Progress::Sent => false,
            Progress::Done(total) => {
                self.write(sum.address, total);
                true
            }
            Progress::Asked => {
                if (SUMS.fetch_add(1, Ordering::Relaxed) + 1) as f64 == number("INTERPRETED_NCCL_DIES", 0.0) {
                    std::process::abort();
                }
                let mut mine = vec![0; sum.bytes];
                self.read(sum.address, &mut mine);
                let (stream, slot) = (stream.try_clone(), sum.progress.clone());
                std::thread::spawn(move || -> Result<()> {
                    let mut stream = stream?;
                    stream.write_all(&(mine.len() as u64).to_le_bytes())?;
                    stream.write_all(&mine)?;
                    stream.read_exact(&mut mine)?;
                    *lock(&slot) = Progress::Done(mine);
                    Ok(())
                });
                *progress = Progress::Sent;
                false
            }
        }
    }
}

/// Names a group.
#[repr(C)]
pub struct UniqueId([u8; 128]);

/// The head of a group's settings.
#[repr(C)]
struct Config {
    size: usize,
    magic: u32,
    version: u32,
    blocking: c_int,
}

/// See the documentation of NCCL.
///
/// # Safety
/// As for the library's own: pointers are valid for what the function does.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclCommInitRankConfig(
    communicator: *mut *mut c_void,
    ranks: c_int,
    id: UniqueId,
    rank: c_int,
    config: *mut c_void,
) -> Code {
    // SAFETY: the caller says that it is valid, and it is as long as it says.
    let Config { size, magic, version, blocking } = unsafe { config.cast::<Config>().read() };
    if size < 24 || magic != 0xcafe_beef || version < 21_400 || blocking != 0 {
        return refused(format_args!("a configuration of {size} bytes, {magic:#x}, {version}, {blocking}"));
    }
    if !(0..ranks).contains(&rank) || ranks > 255 || &id.0[2..5] != b"ptx" {
        return refused(format_args!("rank {rank} of {ranks}"));
    }
    let port = u16::from_le_bytes([id.0[0], id.0[1]]);
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else { return SYSTEM_ERROR };
    let ready = Arc::new(Mutex::new(false));
    let (Ok(()), Ok(mut waiting)) = (stream.write_all(&[rank as u8, ranks as u8]), stream.try_clone()) else {
        return SYSTEM_ERROR;
    };
    let came = ready.clone();
    std::thread::spawn(move || {
        let went = waiting.read_exact(&mut [0]).is_ok();
        *lock(&came) = went;
    });
    let mut joined = lock(&JOINED);
    joined.push(Communicator { stream, ready, aborted: Arc::default() });
    // SAFETY: the caller says that it is valid.
    unsafe { put(communicator, handle(joined.len() - 1)) };
    IN_PROGRESS
}

/// See the documentation of NCCL.
#[unsafe(no_mangle)]
pub extern "C" fn ncclGetErrorString(code: Code) -> *const c_char {
    let text = match code {
        UNHANDLED_CUDA_ERROR => c"unhandled cuda error",
        SYSTEM_ERROR => c"unhandled system error",
        INVALID_ARGUMENT => c"invalid argument",
        INVALID_USAGE => c"invalid usage",
        _ => c"an error",
    };
    text.as_ptr()
}

// SAFETY of all bodies: the caller keeps the library's contract, which is that pointers are valid for the sizes given.
crate::driver! {
    ncclGetVersion(version: *mut c_int) { unsafe { put(version, number("INTERPRETED_NCCL_VERSION", 22_005.0) as c_int) } }
    ncclGetUniqueId(id: *mut UniqueId) {
        let Ok(listener) = TcpListener::bind("127.0.0.1:0") else { return SYSTEM_ERROR };
        let Ok(address) = listener.local_addr() else { return SYSTEM_ERROR };
        let mut name = [0; 128];
        name[..2].copy_from_slice(&address.port().to_le_bytes());
        name[2..5].copy_from_slice(b"ptx");
        std::thread::spawn(move || {
            let _ = serve(&listener);
            std::thread::park(); // whoever waits goes on waiting
        });
        unsafe { put(id, UniqueId(name)) }
    }
    ncclCommGetAsyncError(communicator: *mut c_void, state: *mut Code) {
        let joined = lock(&JOINED);
        let Some(member) = joined.get(index(communicator)) else { return INVALID_ARGUMENT };
        let ready = *lock(&member.ready);
        unsafe { put(state, if ready { SUCCESS } else { IN_PROGRESS }) }
    }
    ncclAllReduce(
        from: u64, to: u64, count: usize,
        dtype: c_int, operation: c_int,
        communicator: *mut c_void, stream: *mut c_void
    ) {
        let communicator = index(communicator);
        if (dtype, operation) != (7, 0) || from != to || lock(&JOINED).get(communicator).is_none() {
            return refused(format_args!("a sum of type {dtype} by operation {operation}, {from:#x} to {to:#x}"));
        }
        let mut card = card();
        if card.capture.is_some() {
            return INVALID_USAGE;
        }
        if card.locate(to, 4 * count).is_none() {
            return UNHANDLED_CUDA_ERROR;
        }
        let progress = Arc::new(Mutex::new(Progress::Asked));
        card.make(index(stream), Work::Sum(Sum { address: to, bytes: 4 * count, communicator, progress }));
        SUCCESS
    }
    ncclCommAbort(communicator: *mut c_void) {
        let joined = lock(&JOINED);
        let Some(member) = joined.get(index(communicator)) else { return INVALID_ARGUMENT };
        *lock(&member.aborted) = true;
        let _ = member.stream.shutdown(Shutdown::Both);
        SUCCESS
    }
}
