//! One op configuration: run on a device and on `cpu:reference` in f64, compared tensor by tensor.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::sync::Arc;

use xlnet::backend::Device;
use xlnet::program::Program;
use xlnet::tensor::{DType, TensorId};
use xlnet::{ErrorKind, Result};

use crate::Backend;
use crate::setup::{Setup, Values};

/// How far a result may be from the reference: `error <= relative * largest element + absolute`.
#[derive(Clone, Copy, Debug)]
pub struct Tolerance {
    /// Relative bound in f32.
    pub f32: f64,
    /// Relative bound in f64.
    pub f64: f64,
    /// Why it is not the default; empty where it is.
    pub reason: &'static str,
}

impl Tolerance {
    /// About 40 roundings in f32; in f64, where only the algebra is in question, some thousand.
    pub const DEFAULT: Tolerance = Tolerance { f32: 2.4e-6, f64: 1e-12, reason: "" };
    /// The bound for a type.
    pub fn of(&self, float: DType) -> f64 {
        if float == DType::F64 { self.f64 } else { self.f32 }
    }
}

/// Largest error of a tensor, given its name and the largest relative error of a rounding to half precision.
pub type Rounded = fn(&str, f64) -> f64;

/// Fills a [`Setup`].
pub type Build = Box<dyn Fn(&mut Setup) -> Result<()> + Send + Sync>;

/// An op configuration.
pub struct Case {
    /// `op/configuration`.
    pub name: String,
    /// What is close enough.
    pub tolerance: Tolerance,
    /// Half precision that results are rounded to, and what is close enough then; programs in f64 are as exact as others.
    pub rounded: Option<(DType, Rounded)>,
    build: Build,
}

impl Case {
    /// A case with the default tolerance.
    pub fn new(name: impl Into<String>, build: impl Fn(&mut Setup) -> Result<()> + Send + Sync + 'static) -> Self {
        Case { name: name.into(), tolerance: Tolerance::DEFAULT, rounded: None, build: Box::new(build) }
    }
    /// Results are rounded to half precision.
    pub fn rounded(mut self, dtype: DType, bound: Rounded) -> Self {
        self.rounded = Some((dtype, bound));
        self
    }
    /// Largest error of a tensor in a program of type `float`.
    fn bound(&self, name: &str, float: DType) -> f64 {
        match self.rounded {
            Some((dtype, bound)) if float != DType::F64 => {
                bound(name, if dtype == DType::F16 { 2_f64.powi(-11) } else { 2_f64.powi(-8) })
            }
            _ => self.tolerance.of(float),
        }
    }
    /// Widens the tolerance by `factor`, for a reason.
    pub fn wider(mut self, factor: f64, reason: &'static str) -> Self {
        let Tolerance { f32, f64, .. } = Tolerance::DEFAULT;
        self.tolerance = Tolerance { f32: f32 * factor, f64: f64 * factor, reason };
        self
    }
    /// Runs the case on one device and compares nothing: for inputs that must be refused.
    ///
    /// # Errors
    /// Those of the device.
    pub fn run_alone(&self, device: impl Into<Backend>, float: DType) -> Result<()> {
        let (program, values) = self.program(float)?;
        run(device.into(), program, &values).map(drop)
    }
    /// What every tensor holds after the case ran on one device.
    ///
    /// # Errors
    /// Those of the device.
    pub fn results(&self, device: impl Into<Backend>, float: DType) -> Result<Vec<Values>> {
        let (program, values) = self.program(float)?;
        run(device.into(), program, &values)
    }
    /// Program in `float` precision and values.
    ///
    /// # Errors
    /// When the case itself is wrong.
    pub fn program(&self, float: DType) -> Result<(Program, Vec<(TensorId, Values)>)> {
        let mut setup = Setup::new(seed(&self.name), float);
        (self.build)(&mut setup)?;
        setup.finish()
    }
}

/// A seed for a name: FNV-1a.
pub fn seed(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// What became of a case.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// Largest error in units of the tolerance.
    Ok(f64),
    /// What was wrong first.
    Failed(String),
    /// Why the device cannot do it.
    Unsupported(String),
}

/// Runs `case` on `device` in `float` precision.
pub fn run_case(device: impl Into<Backend>, case: &Case, float: DType) -> Outcome {
    outcome(reference(case).and_then(|want| compare_case(device.into(), case, float, &want)))
}

fn outcome(result: Result<f64, Stop>) -> Outcome {
    match result {
        Ok(worst) => Outcome::Ok(worst),
        Err(Stop::Failed(what)) => Outcome::Failed(what),
        Err(Stop::Unsupported(why)) => Outcome::Unsupported(why),
    }
}

#[derive(Clone)]
enum Stop {
    Failed(String),
    Unsupported(String),
}
impl From<xlnet::Error> for Stop {
    fn from(error: xlnet::Error) -> Self {
        match error.kind() {
            ErrorKind::Device(why) => Stop::Unsupported(why.clone()),
            _ => Stop::Failed(error.to_string()),
        }
    }
}

/// What every tensor holds after `cpu:reference` ran `case` in f64.
fn reference(case: &Case) -> Result<Vec<Values>, Stop> {
    let (program, values) = case.program(DType::F64)?;
    // A refusal of the reference is no excuse for the device under test.
    run(Device::CpuReference.into(), program, &values).map_err(|error| Stop::Failed(format!("reference: {error}")))
}

fn compare_case(device: Backend, case: &Case, float: DType, want: &[Values]) -> Result<f64, Stop> {
    let (program, values) = case.program(float)?;
    let written: HashSet<TensorId> =
        program.steps.iter().flat_map(|s| s.op.writes()).map(|w| program.base(w.id).0).collect();
    let names: Vec<String> = program.tensors.iter().map(|t| t.name.clone()).collect();
    let got = run(device, program, &values)?;
    let mut worst: f64 = 0.0;
    for (((id, before), got), want) in values.iter().zip(&got).zip(want) {
        let name = &names[id.index()];
        match (got, want) {
            (Values::Floats(got), Values::Floats(want)) if written.contains(id) => {
                let bound = case.bound(name, float);
                let error = difference(got, want).map_err(|what| Stop::Failed(format!("{name}: {what}")))?;
                if error > bound {
                    return Err(Stop::Failed(format!("{name}: error {error:.2e}, allowed {bound:.1e}")));
                }
                worst = worst.max(error / bound);
            }
            (got, want) if written.contains(id) => {
                if got != want {
                    return Err(Stop::Failed(format!("{name}: integers differ")));
                }
            }
            (got, _) => {
                if !got.is_same(before) {
                    return Err(Stop::Failed(format!("{name}: was overwritten, but is no output")));
                }
            }
        }
    }
    Ok(worst)
}

/// Runs all of `program`; what every tensor of `values` holds afterwards.
fn run(device: Backend, program: Program, values: &[(TensorId, Values)]) -> Result<Vec<Values>> {
    let program = Arc::new(program);
    let mut executor = device.open(program.clone())?;
    for (id, values) in values {
        values.upload(&mut *executor, *id)?;
    }
    executor.run(0..program.steps.len())?;
    executor.sync()?;
    values.iter().map(|(id, _)| Values::download(&mut *executor, *id)).collect()
}

/// From here on a number stands for a hidden score.
const HUGE: f64 = 1e29;

/// Largest difference, in units of the largest element of `want` (or of 1, where all are smaller than that).
///
/// Numbers as large as a hidden score are compared one by one, since they would hide all others.
///
/// # Errors
/// When lengths differ, or NaN and infinity are not at the same places.
pub fn difference(got: &[f64], want: &[f64]) -> Result<f64, String> {
    if got.len() != want.len() {
        return Err(format!("{} elements, expected {}", got.len(), want.len()));
    }
    let same_kind =
        |a: f64, b: f64| a.is_finite() == b.is_finite() && a.is_nan() == b.is_nan() && (!a.is_infinite() || a == b);
    if let Some(at) = (0..got.len()).find(|&i| !same_kind(got[i], want[i])) {
        return Err(format!("element {at} is {}, expected {}", got[at], want[at]));
    }
    let largest = want.iter().filter(|x| x.abs() < HUGE).fold(0.0, |most: f64, x| most.max(x.abs()));
    let mut worst: f64 = 0.0;
    for (got, want) in got.iter().zip(want).filter(|(_, want)| want.is_finite()) {
        let unit = if want.abs() < HUGE { largest.max(SMALL) } else { want.abs() };
        worst = worst.max((got - want).abs() / unit);
    }
    Ok(worst)
}

/// Tensors whose largest element is below this are compared absolutely: where all terms cancel, only rounding is left.
const SMALL: f64 = 0.1;

/// Errors that a [`Support`] names.
const WORST: usize = 5;

/// How a set of cases went on one backend.
#[derive(Debug, Default)]
pub struct Support {
    /// Backend and element type.
    pub name: String,
    /// Cases that agreed.
    pub ok: usize,
    /// Cases that did not: name, what was wrong.
    pub failed: Vec<(String, String)>,
    /// Cases the device refused: name, why.
    pub unsupported: Vec<(String, String)>,
    /// Largest errors in units of the tolerance, and their cases, the largest first.
    pub worst: Vec<(f64, String)>,
}

impl Support {
    /// Runs all cases on all devices, each in the precision beside it; one line each.
    pub fn run(columns: &[(Backend, DType)], cases: &[Case]) -> Vec<Support> {
        let named =
            |(device, float): &(Backend, DType)| Support { name: format!("{device} {float}"), ..Support::default() };
        let mut lines: Vec<Support> = columns.iter().map(named).collect();
        for case in cases {
            // The reference is slow: once a case is enough.
            let want = reference(case);
            for (line, &(device, float)) in lines.iter_mut().zip(columns) {
                let result = want.as_ref().map_err(Stop::clone);
                line.count(case, outcome(result.and_then(|want| compare_case(device, case, float, want))));
            }
        }
        lines
    }
    fn count(&mut self, case: &Case, outcome: Outcome) {
        match outcome {
            Outcome::Ok(error) => {
                self.ok += 1;
                let at = self.worst.partition_point(|(other, _)| *other >= error);
                self.worst.insert(at, (error, case.name.clone()));
                self.worst.truncate(WORST);
            }
            Outcome::Failed(what) => self.failed.push((case.name.clone(), what)),
            Outcome::Unsupported(why) => self.unsupported.push((case.name.clone(), why)),
        }
    }
    /// Number of cases.
    pub fn ran(&self) -> usize {
        self.ok + self.failed.len() + self.unsupported.len()
    }
}

impl fmt::Display for Support {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (failed, unsupported) = (self.failed.len(), self.unsupported.len());
        write!(f, "{}: {} cases, {} ok, {failed} failed, {unsupported} unsupported", self.name, self.ran(), self.ok)?;
        f.write_str("; largest errors in % of the tolerance")?;
        for (i, (error, case)) in self.worst.iter().enumerate() {
            write!(f, "{} {:.0} ({case})", if i == 0 { ":" } else { "," }, error * 100.0)?;
        }
        for (case, what) in &self.failed {
            write!(f, "\n  FAILED {case}: {what}")?;
        }
        let mut reasons = BTreeMap::<&str, usize>::new();
        self.unsupported.iter().for_each(|(_, why)| *reasons.entry(why).or_default() += 1);
        for (why, cases) in reasons {
            write!(f, "\n  {cases} unsupported: {why}")?;
        }
        Ok(())
    }
}
