//! Builds a small program together with the values of its tensors, each tensor between guards.

use half::{bf16, f16};
use rand::{Rng, SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;
use xlnet::Result;
use xlnet::backend::Executor;
use xlnet::op::{DropoutSite, KEY_LEN, Op, Target, Write};
use xlnet::program::{Builder, Program};
use xlnet::tensor::{DType, Role, Shape, TensorId};

/// Elements of a tensor.
#[derive(Clone, Debug, PartialEq)]
pub enum Values {
    /// Of a floating-point tensor, whatever its precision.
    Floats(Vec<f64>),
    /// Of an i32 tensor.
    Ints(Vec<i32>),
    /// Of a u32 tensor.
    Words(Vec<u32>),
}

impl Values {
    /// True when all elements are the same, NaN being the same as NaN.
    pub fn is_same(&self, other: &Values) -> bool {
        match (self, other) {
            (Values::Floats(a), Values::Floats(b)) => {
                a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a == b || a.is_nan() && b.is_nan())
            }
            _ => self == other,
        }
    }
    /// Writes them into a tensor.
    ///
    /// # Errors
    /// When the tensor is of another type or size.
    pub fn upload(&self, executor: &mut dyn Executor, id: TensorId) -> Result<()> {
        match self {
            Values::Floats(values) => executor.upload_f64(id, values),
            Values::Ints(values) => executor.upload_i32(id, values),
            Values::Words(values) => executor.upload_u32(id, values),
        }
    }
    /// Reads a tensor.
    ///
    /// # Errors
    /// When the device fails.
    pub fn download(executor: &mut dyn Executor, id: TensorId) -> Result<Self> {
        let desc = executor.program().tensor(id).clone();
        if desc.dtype.is_float() {
            return Ok(Values::Floats(executor.download_f64(id)?));
        }
        let mut bytes = vec![0; desc.bytes()];
        executor.read(id, &mut bytes)?;
        let (words, _) = bytes.as_chunks::<4>();
        Ok(match desc.dtype {
            DType::I32 => Values::Ints(words.iter().map(|w| i32::from_ne_bytes(*w)).collect()),
            _ => Values::Words(words.iter().map(|w| u32::from_ne_bytes(*w)).collect()),
        })
    }
}

/// Content of the guards.
const GUARD: u32 = 0xA5A5_5A5A;
/// Length of a guard.
const GUARD_WORDS: usize = 64;

/// A program under construction and what its tensors hold before it runs.
///
/// Everything random comes from the seed, and floating-point values are exact in f32, so that programs of different
/// precision start from the same numbers.
#[derive(Debug)]
pub struct Setup {
    /// The program.
    pub builder: Builder,
    /// Randomness of this case.
    pub rng: ChaCha8Rng,
    values: Vec<(TensorId, Values)>,
}

impl Setup {
    /// An empty program of floating-point type `float`.
    pub fn new(seed: u64, float: DType) -> Self {
        Setup { builder: Builder::new(float), rng: ChaCha8Rng::seed_from_u64(seed), values: vec![] }
    }
    fn add(&mut self, name: &str, shape: Shape, dtype: DType, role: Role, values: Values) -> TensorId {
        self.guard(role);
        let id = self.builder.tensor(name, shape, dtype, role);
        self.values.push((id, values));
        id
    }
    /// A tensor that no op touches: an op that writes past a neighbour is caught here.
    fn guard(&mut self, role: Role) {
        let name = format!("guard {}", self.values.len());
        let id = self.builder.tensor(name, [GUARD_WORDS], DType::U32, role);
        self.values.push((id, Values::Words(vec![GUARD; GUARD_WORDS])));
    }

    /// A tensor of the given numbers.
    pub fn floats(&mut self, name: &str, shape: impl Into<Shape>, values: Vec<f64>) -> TensorId {
        let values = values.into_iter().map(|x| f64::from(x as f32)).collect();
        self.add(name, shape.into(), self.builder.float(), Role::Input, Values::Floats(values))
    }
    /// A tensor of integers.
    pub fn ints(&mut self, name: &str, shape: impl Into<Shape>, values: Vec<i32>) -> TensorId {
        self.add(name, shape.into(), DType::I32, Role::Input, Values::Ints(values))
    }
    /// A tensor of words.
    pub fn words(&mut self, name: &str, shape: impl Into<Shape>, values: Vec<u32>) -> TensorId {
        self.add(name, shape.into(), DType::U32, Role::Input, Values::Words(values))
    }
    /// `len` draws from the standard normal distribution.
    pub fn normals(&mut self, len: usize) -> Vec<f64> {
        let draw = |rng: &mut ChaCha8Rng| {
            let (radius, angle): (f64, f64) = (rng.random(), rng.random());
            (-2.0 * (1.0 - radius).ln()).sqrt() * (2.0 * std::f64::consts::PI * angle).cos()
        };
        (0..len).map(|_| draw(&mut self.rng)).collect()
    }
    /// A tensor of standard normal numbers.
    pub fn normal(&mut self, name: &str, shape: impl Into<Shape>) -> TensorId {
        let shape = shape.into();
        let values = self.normals(shape.len());
        self.floats(name, shape, values)
    }
    /// A tensor of standard normal numbers in half precision.
    pub fn half(&mut self, name: &str, shape: impl Into<Shape>, dtype: DType) -> TensorId {
        let shape = shape.into();
        let round = |x: f64| if dtype == DType::F16 { f16::from_f64(x).to_f64() } else { bf16::from_f64(x).to_f64() };
        let values = self.normals(shape.len()).into_iter().map(round).collect();
        self.add(name, shape, dtype, Role::Input, Values::Floats(values))
    }
    /// The type of what is stored in half precision `dtype`: in a program of f64, with which others are compared, nothing is.
    pub fn stored(&self, dtype: DType) -> DType {
        if self.builder.float() == DType::F64 { DType::F64 } else { dtype }
    }
    /// A tensor of sixteenths of magnitude below 4: any half precision holds them and a sum of two, and f32 sums of a
    /// thousand products, without rounding.
    pub fn sixteenths(&mut self, name: &str, shape: impl Into<Shape>, dtype: DType) -> TensorId {
        let shape = shape.into();
        let values =
            self.normals(shape.len()).into_iter().map(|x| (x.clamp(-3.9, 3.9) * 16.0).round() / 16.0).collect();
        self.add(name, shape, dtype, Role::Input, Values::Floats(values))
    }
    /// A tensor of numbers between `low` and `high`.
    pub fn uniform(&mut self, name: &str, shape: impl Into<Shape>, low: f64, high: f64) -> TensorId {
        let shape = shape.into();
        let values = (0..shape.len()).map(|_| self.rng.random_range(low..high)).collect();
        self.floats(name, shape, values)
    }
    /// A tensor of integers in `low..high`.
    pub fn indices(&mut self, name: &str, shape: impl Into<Shape>, low: i32, high: i32) -> TensorId {
        let shape = shape.into();
        let values = (0..shape.len()).map(|_| self.rng.random_range(low..high)).collect();
        self.ints(name, shape, values)
    }
    /// A tensor of zeros, and ones with probability `share`.
    pub fn flags(&mut self, name: &str, shape: impl Into<Shape>, share: f64) -> TensorId {
        let shape = shape.into();
        let values = (0..shape.len()).map(|_| f64::from(u8::from(self.rng.random_bool(share)))).collect();
        self.floats(name, shape, values)
    }
    /// A random order of `0..len`.
    pub fn permutation(&mut self, len: usize) -> Vec<i32> {
        let mut order: Vec<i32> = (0..len as i32).collect();
        order.shuffle(&mut self.rng);
        order
    }
    /// A dropout site of a tensor of `rows` rows, with a key of its own: where they can be, they are those of several
    /// batch rows, in two parts. `None` at rate 0.
    pub fn dropout(&mut self, rate: f32, rows: usize) -> Option<DropoutSite> {
        let batch = [3, 2, 1].into_iter().find(|batch| rows.is_multiple_of(*batch))?;
        let each = rows / batch;
        self.attention_dropout(rate, batch).map(|site| DropoutSite { lead: each - each / 3, ..site })
    }
    /// A dropout site of attention over `batch` rows, which are any rows of the whole batch. `None` at rate 0.
    pub fn attention_dropout(&mut self, rate: f32, batch: usize) -> Option<DropoutSite> {
        if rate == 0.0 {
            return None;
        }
        let site = self.rng.random_range(0..100);
        let key = (0..KEY_LEN + batch).map(|_| self.rng.random()).collect();
        Some(DropoutSite { key: self.words("dropout key", [KEY_LEN + batch], key), site, rate, lead: 0 })
    }
    /// A result that is overwritten: NaN before, so that elements left out are seen.
    pub fn output(&mut self, name: &str, shape: impl Into<Shape>) -> TensorId {
        self.output_in(name, shape, self.builder.float())
    }
    /// As [`Self::output`], of another type than the program's.
    pub fn output_in(&mut self, name: &str, shape: impl Into<Shape>, dtype: DType) -> TensorId {
        let shape = shape.into();
        let nan = Values::Floats(vec![f64::NAN; shape.len()]);
        self.add(name, shape, dtype, Role::Output, nan)
    }
    /// A result that is overwritten, or added to random numbers.
    pub fn target(&mut self, write: Write, name: &str, shape: impl Into<Shape>) -> Target {
        if write == Write::Set {
            return Target::set(self.output(name, shape));
        }
        let shape = shape.into();
        let values = self.normals(shape.len()).into_iter().map(|x| f64::from(x as f32)).collect();
        Target::add(self.add(name, shape, self.builder.float(), Role::Memory, Values::Floats(values)))
    }
    /// Compares a tensor of the builder too; it holds ones before.
    pub fn keep(&mut self, id: TensorId) {
        let ones = vec![1.0; self.builder.shape(id).len()];
        self.values.push((id, Values::Floats(ones)));
    }
    /// Replaces what a tensor holds.
    pub fn fill(&mut self, id: TensorId, values: Vec<f64>) {
        if let Some((_, old)) = self.values.iter_mut().find(|(other, _)| *other == id) {
            *old = Values::Floats(values.into_iter().map(|x| f64::from(x as f32)).collect());
        }
    }
    /// What a floating-point tensor holds.
    pub fn floats_of(&self, id: TensorId) -> Vec<f64> {
        match self.values.iter().find(|(other, _)| *other == id) {
            Some((_, Values::Floats(values))) => values.clone(),
            _ => vec![],
        }
    }
    /// Appends an op.
    ///
    /// # Errors
    /// When its tensors do not fit.
    pub fn push(&mut self, op: impl Into<Op>) -> Result<()> {
        self.builder.push(op)
    }
    /// Program and values.
    ///
    /// # Errors
    /// Those of [`Builder::finish`].
    pub fn finish(mut self) -> Result<(Program, Vec<(TensorId, Values)>)> {
        for role in [Role::Input, Role::Memory, Role::Output] {
            self.guard(role);
        }
        Ok((self.builder.finish()?, self.values))
    }
}
