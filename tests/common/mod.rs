//! What the golden tests share: comparing, and one line a case and backend.
#![allow(dead_code)] // every test binary uses its part

use xlnet_testkit::Backend;
use xlnet_testkit::golden::{Case, Data};

/// Tensors of a golden case; a missing one is a defect of the case.
pub trait CaseTensors {
    /// Dimensions.
    fn shape(&self, name: &str) -> Vec<usize>;
    /// Elements of a floating-point tensor.
    fn f32(&self, name: &str) -> Vec<f32>;
    /// Elements of an integer tensor.
    fn i32(&self, name: &str) -> Vec<i32>;
}

impl CaseTensors for Case {
    fn shape(&self, name: &str) -> Vec<usize> {
        self.tensor(name).expect("a tensor of the case").0.clone()
    }
    fn f32(&self, name: &str) -> Vec<f32> {
        match &self.tensor(name).expect("a tensor of the case").1 {
            Data::F32(values) => values.clone(),
            other => other.to_f64().iter().map(|&x| x as f32).collect(),
        }
    }
    fn i32(&self, name: &str) -> Vec<i32> {
        self.tensor(name).expect("a tensor of the case").1.to_i32()
    }
}

/// `[a, b, c]` to `[b, a, c]`.
pub fn transpose_first_two(values: &[f32], a: usize, b: usize, c: usize) -> Vec<f32> {
    assert_eq!(values.len(), a * b * c);
    let mut out = Vec::with_capacity(values.len());
    for j in 0..b {
        for i in 0..a {
            out.extend_from_slice(&values[(i * b + j) * c..][..c]);
        }
    }
    out
}

/// Largest difference; infinite when lengths differ or one side is not finite.
pub fn max_abs_difference(got: &[f32], want: &[f32]) -> f64 {
    if got.len() != want.len() {
        return f64::INFINITY;
    }
    got.iter().zip(want).fold(0.0, |most: f64, (&g, &w)| {
        let error = (f64::from(g) - f64::from(w)).abs();
        if error.is_nan() { f64::INFINITY } else { most.max(error) }
    })
}

/// Collects the checks of many cases.
pub struct Report {
    family: &'static str,
    worst: (f64, String),
    checks: usize,
    failures: Vec<String>,
    failed_cases: Vec<String>,
    cases: usize,
}

impl Report {
    /// Nothing checked yet.
    pub fn new(family: &'static str) -> Self {
        let worst = (0.0, String::new());
        Report { family, worst, checks: 0, failures: vec![], failed_cases: vec![], cases: 0 }
    }
    /// One comparison inside a case; `error` must not exceed `bound`.
    pub fn check(&mut self, what: &str, error: f64, bound: f64) {
        self.checks += 1;
        let share = if error == 0.0 { 0.0 } else { error / bound };
        if share.is_nan() || share > self.worst.0 {
            self.worst = (share, what.to_owned());
        }
        if error.is_nan() || error > bound {
            self.failures.push(format!("{what}: error {error:.3e}, bound {bound:.3e}"));
        }
    }
    /// Runs one case and prints its line.
    pub fn case(
        &mut self,
        name: &str,
        device: impl Into<Backend>,
        body: impl FnOnce(&mut Report) -> xlnet::Result<()>,
    ) {
        let device = device.into();
        self.worst = (0.0, String::new());
        self.checks = 0;
        let before = self.failures.len();
        if let Err(error) = body(self) {
            self.failures.push(error.to_string());
        }
        if self.checks == 0 {
            self.failures.push("nothing was compared".into());
        }
        let failed = &self.failures[before..];
        let verdict = if failed.is_empty() { "ok" } else { "FAILED" };
        let (share, what) = &self.worst;
        let (family, checks) = (self.family, self.checks);
        println!("{family}/{name} {device}: {checks} checks, worst {share:.2e} of its bound ({what}) {verdict}");
        for failure in failed.iter().take(12) {
            println!("    {failure}");
        }
        if !failed.is_empty() {
            self.failed_cases.push(format!("{family}/{name} on {device}: {}", failed[0]));
        }
        self.cases += 1;
    }
    /// Fails when any case did.
    pub fn finish(self) {
        println!("{}: {} cases, {} failed", self.family, self.cases, self.failed_cases.len());
        assert!(self.cases > 0, "no case ran");
        assert!(self.failed_cases.is_empty(), "{}", self.failed_cases.join("\n"));
    }
}
