//! Runs the op cases whose name contains a word, on one backend, with seconds and error of each:
//!
//! ```sh
//! cargo run -p xlnet-testkit --example cases -- interpreter rel_attention/
//! XLNET_TEMPLATES=. cargo run -p xlnet-testkit --example cases -- interpreter matmul   # kernels of this folder, no build
//! ```
//!
//! The backend is a device (`cpu`, `wgpu`, `cuda:0`), `interpreter` or `hopper` (the interpreter as a card of
//! capability 8.0 or 9.0), or one of these with `:descending`.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use xlnet::backend::Device;
use xlnet::tensor::DType;
use xlnet_testkit::{Backend, Outcome, cases, run_case};

fn main() -> Result<()> {
    let mut words = std::env::args().skip(1);
    let (name, word) = (words.next().context("which backend?")?, words.next().unwrap_or_default());
    let backend = match name.as_str() {
        "interpreter" => Backend::INTERPRETERS[0],
        "interpreter:descending" => Backend::INTERPRETERS[1],
        "hopper" => Backend::HOPPERS[0],
        "hopper:descending" => Backend::HOPPERS[1],
        device => device.parse::<Device>()?.into(),
    };
    let (started, mut failed) = (Instant::now(), 0);
    for case in cases::all().iter().filter(|case| case.name.contains(&word)) {
        let began = Instant::now();
        let outcome = run_case(backend, case, DType::F32);
        let seconds = began.elapsed().as_secs_f64();
        failed += usize::from(!matches!(outcome, Outcome::Ok(_)));
        let verdict = match outcome {
            Outcome::Ok(error) => format!("ok, error {:.0} % of the tolerance", 100.0 * error),
            Outcome::Failed(what) => format!("FAILED: {what}"),
            Outcome::Unsupported(why) => format!("unsupported: {why}"),
        };
        println!("{seconds:6.2} s {}: {verdict}", case.name);
    }
    println!("{:.1} s, {failed} not ok", started.elapsed().as_secs_f64());
    ensure!(failed == 0, "{failed} cases are not ok");
    Ok(())
}
