//! Executors: one per kind of device, behind one small trait.

mod check_finite;
pub mod cpu;
pub mod cuda;
mod indices;
pub mod lower;
mod shared;
#[cfg(feature = "wgpu")]
pub mod wgpu;

use std::fmt;
use std::ops::Range;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use bytemuck::Pod;
use half::{bf16, f16};
use serde::{Deserialize, Serialize};

use crate::op::Op;
use crate::program::{Plan, Program};
use crate::tensor::{DType, TensorId};
use crate::{Error, Result};

pub use check_finite::CheckFinite;
pub use shared::{Parameters, check_parameters};

/// Which device runs a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Device {
    /// The best there is: CUDA, then a GPU by wgpu, then the CPU.
    #[default]
    Auto,
    /// This machine's processor.
    Cpu,
    /// The straightforward CPU implementation that all others are tested against; slow.
    CpuReference,
    /// The n-th adapter of wgpu.
    Wgpu(usize),
    /// The n-th CUDA device.
    Cuda(usize),
}

impl FromStr for Device {
    type Err = Error;
    /// Reads `auto`, `cpu`, `cpu:reference`, `wgpu`, `wgpu:1`, `cuda`, `cuda:0`.
    fn from_str(text: &str) -> Result<Self> {
        let wrong = || {
            Error::device(format!("unknown device {text:?}; expected auto, cpu, cpu:reference, wgpu[:n] or cuda[:n]"))
        };
        let (kind, rest) = text.split_once(':').map_or((text, None), |(kind, rest)| (kind, Some(rest)));
        let number = || rest.map_or(Ok(0), |rest| rest.parse().map_err(|_| wrong()));
        match (kind, rest) {
            ("auto", None) => Ok(Device::Auto),
            ("cpu", None) => Ok(Device::Cpu),
            ("cpu", Some("reference")) => Ok(Device::CpuReference),
            ("wgpu", _) => Ok(Device::Wgpu(number()?)),
            ("cuda", _) => Ok(Device::Cuda(number()?)),
            _ => Err(wrong()),
        }
    }
}
impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Device::Auto => f.write_str("auto"),
            Device::Cpu => f.write_str("cpu"),
            Device::CpuReference => f.write_str("cpu:reference"),
            Device::Wgpu(n) => write!(f, "wgpu:{n}"),
            Device::Cuda(n) => write!(f, "cuda:{n}"),
        }
    }
}

impl Device {
    /// The device that `auto` stands for here; other devices stand for themselves.
    ///
    /// # Errors
    /// When the backend is not part of this build, or there is no such device on this machine.
    pub fn resolve(self) -> Result<Device> {
        match self {
            Device::Auto => Ok(best()),
            Device::Cpu | Device::CpuReference => Ok(self),
            Device::Wgpu(number) => {
                find_wgpu(number)?;
                Ok(self)
            }
            Device::Cuda(number) => {
                find_cuda(number)?;
                Ok(self)
            }
        }
    }
    #[cfg(not(all(feature = "wgpu", feature = "cuda")))]
    fn missing(self) -> Error {
        match self {
            Device::Wgpu(_) => Error::device(format!(
                "device {self}: this build has no WGSL backend; build with --features wgpu, or use --device cpu"
            )),
            _ => Error::device(format!(
                "device {self}: this build has no PTX backend; build with --features cuda, or use --device cpu or wgpu"
            )),
        }
    }
    /// The `n`-th device of this kind, where there is more than one.
    pub fn nth(self, n: usize) -> Device {
        match self {
            Device::Wgpu(_) => Device::Wgpu(n),
            Device::Cuda(_) => Device::Cuda(n),
            Device::Auto | Device::Cpu | Device::CpuReference => self,
        }
    }
    /// Plans `program` for this device without opening it; for GPUs none has to be there.
    ///
    /// # Errors
    /// When the backend is not part of this build.
    pub fn plan(self, program: &Program) -> Result<Plan> {
        match self {
            #[cfg(feature = "wgpu")]
            Device::Wgpu(_) => {
                use crate::kernel::Language;
                let workspace = |op: &Op| lower::workspace_bytes(Language::Wgsl, op, program);
                Ok(Plan::in_chunks(program, &workspace, wgpu::CHUNK_BYTES))
            }
            #[cfg(feature = "cuda")]
            Device::Cuda(_) => Ok(cuda::plan(program)),
            _ => {
                let reference = self.resolve()? == Device::CpuReference;
                Ok(Plan::new(program, &|op: &Op| if reference { 0 } else { cpu::workspace_bytes(op, program) }))
            }
        }
    }
    /// Whether its memory is this machine's own.
    pub fn is_host(self) -> bool {
        matches!(self, Device::Cpu | Device::CpuReference)
    }
    /// Bytes that new programs may take on this device; `None` where nothing says.
    pub fn free_bytes(self) -> Option<usize> {
        let device = if self == Device::Auto { self.resolve().ok()? } else { self };
        match device {
            Device::Cpu | Device::CpuReference => cpu::free_bytes(),
            #[cfg(feature = "cuda")]
            Device::Cuda(number) => cuda::free_bytes(number),
            _ => None,
        }
    }
    /// Opens the device and gives it `program`.
    ///
    /// # Errors
    /// When the backend is not part of this build, or cannot run an op of the program.
    pub fn open(self, program: Arc<Program>) -> Result<Box<dyn Executor>> {
        match self.resolve()? {
            #[cfg(feature = "wgpu")]
            Device::Wgpu(number) => Ok(Box::new(wgpu::WgpuExecutor::new(wgpu::Gpu::open(number)?, program)?)),
            #[cfg(feature = "cuda")]
            Device::Cuda(number) => Ok(Box::new(cuda::CudaExecutor::new(cuda::Card::open(number)?, program)?)),
            device => {
                let plan = device.plan(&program)?;
                Ok(Box::new(cpu::CpuExecutor::new(program, plan, device == Device::CpuReference)?))
            }
        }
    }
}

/// What `auto` stands for: an NVIDIA card that the kernels run on, then hardware of wgpu, then the processor.
fn best() -> Device {
    if find_cuda(0).is_ok() {
        return Device::Cuda(0);
    }
    if has_hardware() { Device::Wgpu(0) } else { Device::Cpu }
}
#[cfg(feature = "wgpu")]
fn has_hardware() -> bool {
    // Looking for adapters loads every Vulkan driver, which takes time and may print. Without such a file there is none.
    let there = ["/dev/dri", "/dev/nvidiactl", "/dev/dxg"].iter().any(|file| std::path::Path::new(file).exists());
    (there || cfg!(not(target_os = "linux"))) && wgpu::has_hardware()
}
#[cfg(not(feature = "wgpu"))]
fn has_hardware() -> bool {
    false
}

#[cfg(feature = "wgpu")]
fn find_wgpu(number: usize) -> Result<()> {
    wgpu::Gpu::find(number).map(drop)
}
#[cfg(not(feature = "wgpu"))]
fn find_wgpu(number: usize) -> Result<()> {
    Err(Device::Wgpu(number).missing())
}

#[cfg(feature = "cuda")]
fn find_cuda(number: usize) -> Result<()> {
    cuda::find(number).map(drop)
}
#[cfg(not(feature = "cuda"))]
fn find_cuda(number: usize) -> Result<()> {
    Err(Device::Cuda(number).missing())
}

/// Time spent in one op since profiling began.
#[derive(Clone, Debug)]
pub struct OpTime {
    /// Index of the op.
    pub op: usize,
    /// Sum over all its runs.
    pub time: Duration,
    /// How often it ran.
    pub runs: u64,
}

/// Asked again and again while a device waits for others: an error once one of their processes has ended.
pub type Alive<'a> = &'a mut dyn FnMut() -> Result<()>;

/// What a device is to the others of its group.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Partner {
    /// Who makes the sums, with its version.
    pub library: String,
    /// What tells the device from every other one.
    pub card: Vec<u8>,
}

/// Sums over processes that devices make among themselves, past the memory of their machines. Every process calls the same
/// methods in the same order.
pub trait DeviceSums {
    /// Who would make them here.
    ///
    /// # Errors
    /// Why nobody does.
    fn partner(&self) -> Result<Partner>;
    /// The name of a new group, for all of its processes.
    ///
    /// # Errors
    /// When the library fails.
    fn new_group(&self) -> Result<Vec<u8>>;
    /// Joins a group as one of `ranks`.
    ///
    /// # Errors
    /// When the library fails, or another process has ended.
    fn join(&mut self, group: &[u8], rank: usize, ranks: usize, alive: Alive) -> Result<()>;
    /// Replaces numbers in f32, by address and count, by their sums over the group.
    ///
    /// # Errors
    /// When the library fails, or another process has ended; then the group is left.
    fn sum(&mut self, parts: &[(u64, usize)], alive: Alive) -> Result<()>;
}

/// Runs one program on one device. Six methods do the work; the rest are views of what it was given.
pub trait Executor: Send {
    /// The program.
    fn program(&self) -> &Arc<Program>;
    /// The addresses.
    fn plan(&self) -> &Plan;
    /// Bytes of device memory really held for tensors and workspaces; parameters of another executor are not counted.
    fn held_bytes(&self) -> usize;
    /// Copies bytes into a tensor.
    ///
    /// # Errors
    /// When the length is not that of the tensor.
    fn write(&mut self, id: TensorId, bytes: &[u8]) -> Result<()>;
    /// Copies a tensor's bytes out, after everything that was run before.
    ///
    /// # Errors
    /// When the length is not that of the tensor.
    fn read(&mut self, id: TensorId, bytes: &mut [u8]) -> Result<()>;
    /// Runs a range of ops.
    ///
    /// # Errors
    /// When the device fails, or an index tensor holds a value out of range.
    fn run(&mut self, ops: Range<usize>) -> Result<()>;
    /// Waits until everything is done.
    ///
    /// # Errors
    /// When the device fails.
    fn sync(&mut self) -> Result<()>;
    /// Opens another program on this device, which uses the parameters of this one instead of memory of its own. From
    /// then on nothing may write them; they stay as long as one of the two needs them.
    ///
    /// # Errors
    /// When the programs have different parameters or write them (see [`check_parameters`]), or those of [`Device::open`].
    fn open_beside(&mut self, program: Arc<Program>) -> Result<Box<dyn Executor>>;
    /// How this device adds up tensors with those of other processes; `None` where they go through the machine's memory.
    fn device_sums(&mut self) -> Option<&mut dyn DeviceSums> {
        None
    }
    /// Replaces tensors by their sums over the group that was joined by [`Self::device_sums`].
    ///
    /// # Errors
    /// Those of [`DeviceSums::sum`], and when a tensor is not in f32 or the device makes no sums.
    fn sum_on_device(&mut self, _ids: &[TensorId], _alive: Alive) -> Result<()> {
        Err(Error::plan("a device without sums over ranks was asked for one"))
    }
    /// Starts measuring each op's time, or stops; either way returns what was measured.
    fn profile(&mut self, on: bool) -> Vec<OpTime>;
}

/// Typed access to tensors, checked against their description.
impl dyn Executor + '_ {
    fn check(&self, id: TensorId, dtype: DType, len: usize) -> Result<()> {
        let desc = self.program().tensor(id);
        if desc.dtype != dtype {
            return Err(Error::dtype("transfer", desc.name.clone(), desc.dtype, dtype));
        }
        if desc.shape.len() != len {
            return Err(Error::shape("transfer", desc.name.clone(), desc.shape, format_args!("{len} elements")));
        }
        Ok(())
    }
    fn upload<T: Pod>(&mut self, id: TensorId, dtype: DType, data: &[T]) -> Result<()> {
        self.check(id, dtype, data.len())?;
        self.write(id, bytemuck::cast_slice(data))
    }
    /// Writes integers.
    ///
    /// # Errors
    /// When type or length differ.
    pub fn upload_i32(&mut self, id: TensorId, data: &[i32]) -> Result<()> {
        self.upload(id, DType::I32, data)
    }
    /// Writes mask words or random keys.
    ///
    /// # Errors
    /// When type or length differ.
    pub fn upload_u32(&mut self, id: TensorId, data: &[u32]) -> Result<()> {
        self.upload(id, DType::U32, data)
    }
    /// Writes floating-point numbers, converted to the tensor's type.
    ///
    /// # Errors
    /// When the length differs or the tensor holds integers.
    pub fn upload_f32(&mut self, id: TensorId, data: &[f32]) -> Result<()> {
        match self.program().tensor(id).dtype {
            DType::F32 => self.upload(id, DType::F32, data),
            _ => self.upload_f64(id, &data.iter().map(|&x| f64::from(x)).collect::<Vec<_>>()),
        }
    }
    /// Writes double-precision numbers, converted to the tensor's type.
    ///
    /// # Errors
    /// When the length differs or the tensor holds integers.
    pub fn upload_f64(&mut self, id: TensorId, data: &[f64]) -> Result<()> {
        match self.program().tensor(id).dtype {
            DType::F64 => self.upload(id, DType::F64, data),
            DType::F16 => self.upload(id, DType::F16, &data.iter().map(|&x| f16::from_f64(x)).collect::<Vec<_>>()),
            DType::Bf16 => self.upload(id, DType::Bf16, &data.iter().map(|&x| bf16::from_f64(x)).collect::<Vec<_>>()),
            _ => self.upload(id, DType::F32, &data.iter().map(|&x| x as f32).collect::<Vec<_>>()),
        }
    }
    /// Reads floating-point numbers.
    ///
    /// # Errors
    /// When the tensor holds integers.
    pub fn download_f32(&mut self, id: TensorId) -> Result<Vec<f32>> {
        Ok(match self.program().tensor(id).dtype {
            DType::F32 => self.download(id, DType::F32)?,
            _ => self.download_f64(id)?.into_iter().map(|x| x as f32).collect(),
        })
    }
    /// Reads floating-point numbers in double precision.
    ///
    /// # Errors
    /// When the tensor holds integers.
    pub fn download_f64(&mut self, id: TensorId) -> Result<Vec<f64>> {
        Ok(match self.program().tensor(id).dtype {
            DType::F64 => self.download(id, DType::F64)?,
            DType::F16 => self.download::<f16>(id, DType::F16)?.into_iter().map(f64::from).collect(),
            DType::Bf16 => self.download::<bf16>(id, DType::Bf16)?.into_iter().map(f64::from).collect(),
            _ => self.download::<f32>(id, DType::F32)?.into_iter().map(f64::from).collect(),
        })
    }
    fn download<T: Pod>(&mut self, id: TensorId, dtype: DType) -> Result<Vec<T>> {
        let len = self.program().tensor(id).shape.len();
        self.check(id, dtype, len)?;
        let mut data = vec![T::zeroed(); len];
        self.read(id, bytemuck::cast_slice_mut(&mut data))?;
        Ok(data)
    }
    /// Runs the phase called `name`.
    ///
    /// # Errors
    /// Those of [`Executor::run`].
    pub fn run_phase(&mut self, name: &str) -> Result<()> {
        let ops = self.program().phase(name);
        self.run(ops)
    }
}
