//! NVIDIA's assembler, where it is installed: what it refuses must not pass here, and it knows registers and spills.

use std::env;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::error::{Error, Result};

/// Where `cargo xtask install` puts it, below the root of the repository.
const INSTALLED: &str = "target/tools/nvcc/nvidia/cuda_nvcc/bin/ptxas";

/// What an entry needs on a card.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Name of the entry.
    pub entry: String,
    /// Registers of a thread.
    pub registers: u32,
    /// Bytes of registers that went to local memory, stores and loads.
    pub spills: u32,
    /// Bytes of stack.
    pub stack: u32,
    /// Bytes of shared memory with a declared size.
    pub shared: u32,
}

/// Path of `ptxas`: the variable `PTXAS`, or where `cargo xtask install` puts it.
///
/// # Errors
/// When it is not there.
pub fn path() -> Result<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let path = env::var_os("PTXAS").map_or_else(|| root.join(INSTALLED), PathBuf::from);
    if path.is_file() {
        return Ok(path);
    }
    Err(Error::host(format!("{} is missing: run `cargo xtask install`, or set PTXAS", path.display())))
}

/// Assembles `text` for `target` (such as `sm_80`) and throws the result away.
///
/// # Errors
/// What the assembler says, warnings included.
pub fn assemble(text: &str, target: &str) -> Result<Vec<Usage>> {
    let host = |error: std::io::Error| Error::host(format!("ptxas: {error}"));
    let arguments = ["-v", "--warning-as-error", "--gpu-name", target, "--output-file", "/dev/null", "-"];
    let mut command = Command::new(path()?);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(host)?;
    if let Some(mut input) = child.stdin.take() {
        // An assembler that stops early closes its input; what it says tells why.
        let _ = input.write_all(text.as_bytes());
    }
    let output = child.wait_with_output().map_err(host)?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    if output.status.success() { Ok(usages(&said)) } else { Err(Error::host(format!("ptxas for {target}: {said}"))) }
}

/// Reads what `ptxas -v` prints.
fn usages(said: &str) -> Vec<Usage> {
    let mut all: Vec<Usage> = vec![];
    for line in said.lines() {
        let number_before = |what: &str| {
            let before = line.split(what).next().filter(|b| b.len() < line.len())?;
            before.trim_end().rsplit(|c: char| !c.is_ascii_digit()).next()?.parse::<u32>().ok()
        };
        if let Some(name) = line.split("Compiling entry function '").nth(1).and_then(|rest| rest.split('\'').next()) {
            all.push(Usage { entry: name.to_owned(), ..Usage::default() });
        }
        let Some(usage) = all.last_mut() else { continue };
        usage.registers = number_before(" registers").unwrap_or(usage.registers);
        usage.shared = number_before(" bytes smem").unwrap_or(usage.shared);
        usage.stack = number_before(" bytes stack frame").unwrap_or(usage.stack);
        usage.spills +=
            number_before(" bytes spill stores").unwrap_or(0) + number_before(" bytes spill loads").unwrap_or(0);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_is_read() {
        let said = "ptxas info    : Compiling entry function 'a' for 'sm_80'
ptxas info    : Function properties for a
    16 bytes stack frame, 8 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 40 registers, used 1 barriers, 16 bytes cumulative stack size, 2048 bytes smem, 380 bytes cmem[0]";
        let want = Usage { entry: "a".to_owned(), registers: 40, spills: 20, stack: 16, shared: 2048 };
        assert_eq!(usages(said), [want]);
    }
}
