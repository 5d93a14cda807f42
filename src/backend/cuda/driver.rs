//! What the executor needs of a machine that runs PTX.

use std::time::{Duration, Instant};

use super::KernelText;
use crate::Result;
use crate::backend::DeviceSums;
use crate::backend::lower::FILL;
use crate::tensor::DType;

/// A kernel on its operands: what a driver is asked to launch.
#[derive(Clone, Debug)]
pub struct KernelLaunch {
    /// Number that [`Driver::load`] gave.
    pub kernel: usize,
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub block: [u32; 3],
    /// Shared memory of a block beyond what the kernel declares itself.
    pub shared: u32, // bytes
    /// First parameter of the entry: bytes of the params struct.
    pub params: Vec<u8>,
    /// The other parameters: an address for each buffer.
    pub addresses: Vec<u64>,
}

/// A matrix product, `out (=|+=) op(a) op(b) + bias`, of row-major matrices by their addresses.
#[derive(Clone, Debug)]
pub struct Product {
    /// Left operand.
    pub a: u64, // [m, k], or [k, m] when trans_a
    /// Right operand.
    pub b: u64, // [k, n], or [n, k] when trans_b
    /// Added to every row.
    pub bias: Option<u64>, // [n]
    /// Result.
    pub out: u64, // [m, n]
    /// Rows of the result.
    pub m: usize,
    /// Columns of the result.
    pub n: usize,
    /// Summed dimension.
    pub k: usize,
    /// `a` is stored transposed.
    pub trans_a: bool,
    /// `b` is stored transposed.
    pub trans_b: bool,
    /// Adds to `out`.
    pub add: bool,
    /// Element type of `a` and `b`.
    pub operands: DType,
    /// Element type of `bias` and `out`; sums are in f32 in any case.
    pub result: DType,
}

/// One piece of work that a driver is asked for.
#[derive(Clone, Debug)]
pub enum Call {
    /// One of our kernels.
    Kernel(KernelLaunch),
    /// A product of the machine's own, by the number that [`Driver::product`] gave.
    Product(usize),
}

/// A machine with memory that loads and launches kernels, in order.
pub trait Driver: Send + 'static {
    /// Compute capability, which decides what kernels may use: (8, 0) is A100.
    fn capability(&self) -> (u32, u32);
    /// Blocks of a launch that keep it busy: a launch of more that costs memory is made in parts.
    fn fill(&self) -> usize {
        FILL
    }
    /// Whether every tensor gets memory of its own, so that an index that runs off its end is seen.
    fn separates_tensors(&self) -> bool {
        false
    }
    /// Memory, aligned to 256 bytes; zero where `zeroed`, anything otherwise. `name` is for messages.
    ///
    /// # Errors
    /// When there is not that much.
    fn alloc(&mut self, name: &str, bytes: usize, zeroed: bool) -> Result<u64>;
    /// Copies to the machine, after everything that was launched before; it need not be over on return.
    ///
    /// # Errors
    /// When the machine fails.
    fn write(&mut self, address: u64, bytes: &[u8]) -> Result<()>;
    /// Copies from the machine, after everything that was launched before.
    ///
    /// # Errors
    /// When the machine or an earlier launch failed.
    fn read(&mut self, address: u64, bytes: &mut [u8]) -> Result<()>;
    /// Compiles a kernel; the number stands for it in launches.
    ///
    /// # Errors
    /// When the machine cannot compile it.
    fn load(&mut self, kernel: &KernelText) -> Result<usize>;
    /// Prepares a product by what the machine itself has for that; the number stands for it in calls. `None` where it has
    /// nothing, or nothing for this one: then it takes one of our kernels.
    fn product(&mut self, _: &Product) -> Option<usize> {
        None
    }
    /// Launches a kernel or a product.
    ///
    /// # Errors
    /// When the machine refuses; what goes wrong later is told by `sync` or `read`.
    fn launch(&mut self, call: &Call) -> Result<()>;
    /// Prepares a sequence of calls that [`Self::replay`] makes as one; runs nothing.
    ///
    /// # Errors
    /// When the machine refuses.
    fn record(&mut self, calls: &[&Call]) -> Result<usize>;
    /// Makes the calls of a recording: no allocation, no waiting, one call.
    ///
    /// # Errors
    /// When the machine refuses; what goes wrong later is told by `sync` or `read`.
    fn replay(&mut self, recording: usize) -> Result<()>;
    /// Makes calls, waits for them, and says how long the machine took.
    ///
    /// # Errors
    /// When the machine or a launch failed.
    fn time(&mut self, calls: &[&Call]) -> Result<Duration> {
        self.sync()?;
        let started = Instant::now();
        calls.iter().try_for_each(|call| self.launch(call))?;
        self.sync()?;
        Ok(started.elapsed())
    }
    /// Sums over processes, where the machine makes them itself.
    fn sums(&mut self) -> Option<&mut dyn DeviceSums> {
        None
    }
    /// Waits until everything is done.
    ///
    /// # Errors
    /// When the machine or a launch failed.
    fn sync(&mut self) -> Result<()>;
    /// The same machine for another program, which reads the memory at these addresses too: it holds what was written so
    /// far, and stays as long as one of the two is there.
    ///
    /// # Errors
    /// When the machine or a launch failed.
    fn beside(&mut self, addresses: &[u64]) -> Result<Self>
    where
        Self: Sized;
}
