//! Development commands. `cargo xtask ci` is what continuous integration runs, and what anyone can run.

use std::env;
use std::process::{Command, ExitCode};

/// What `cargo xtask` does without or with an unknown argument.
const HELP: &str = "\
Usage: cargo xtask COMMAND

  ci       install what build and tests need (cmake, a C++ compiler, a Vulkan driver, Open MPI, libclang, NVIDIA's ptxas;
           Debian and Ubuntu), then check formatting, lints, documentation and features, and run all tests
  tests    install the same, then run all tests only
  install  install the same only
";

fn main() -> ExitCode {
    let command = env::args().nth(1).unwrap_or_default();
    let result = match command.as_str() {
        "ci" => ci(),
        "tests" => install().and_then(|()| tests()),
        "install" => install(),
        _ => Err(HELP.to_owned()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

fn ci() -> Result<(), String> {
    install()?;
    cargo(&["fmt", "--all", "--check"])?;
    cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"])?;
    cargo(&["check", "--package", "xlnet", "--no-default-features"])?;
    cargo(&["clippy", "--package", "xlnet", "--lib", "--features", "mpi", "--", "-D", "warnings"])?;
    run(command("cargo", &["doc", "--workspace", "--no-deps", "--quiet"]).env("RUSTDOCFLAGS", "-D warnings"))?;
    tests()
}

/// All tests; golden tests print a line a case. Those of several processes run twice: by TCP, and under `mpirun`.
fn tests() -> Result<(), String> {
    // No adapter, no test of WGSL kernels: here that is a failure.
    let arguments = ["test", "--workspace", "--", "--show-output"];
    run(command("cargo", &arguments).env("XLNET_REQUIRE_WGPU", "1"))?;
    // Once more without wgpu's run-time checks, as users train who want the last few percent, and without subgroups.
    let arguments = ["test", "--package", "xlnet", "--test", "ops", "contract", "--", "--show-output"];
    let mut unchecked = command("cargo", &arguments);
    unchecked.env("XLNET_REQUIRE_WGPU", "1").env("XLNET_BACKEND", "wgpu").env("XLNET_KERNEL_CHECKS", "off");
    unchecked.env("XLNET_SUBGROUPS", "off");
    run(&mut unchecked)?;
    cargo(&["run", "--quiet", "--package", "xlnet", "--example", "foreign_wgpu"])?;
    cargo(&["test", "--package", "xlnet", "--features", "mpi", "--test", "ranks"])
}

/// Tools that build and tests need beside Rust.
fn install() -> Result<(), String> {
    let programs = [
        ("cmake", "cmake"),
        ("c++", "g++"),
        ("make", "make"),
        ("mpicc", "libopenmpi-dev"),
        ("mpirun", "openmpi-bin"),
        // Tests of interruptions: signals, and files that must not grow.
        ("kill", "procps"),
        ("prlimit", "util-linux"),
    ];
    let mut missing: Vec<&str> = programs.iter().filter(|(program, _)| !there(program)).map(|t| t.1).collect();
    if !has_libclang() {
        missing.push("libclang-dev"); // bindgen reads MPI's headers with it
    }
    // WGSL kernels are tested on Mesa's Vulkan driver for the processor where there is no GPU.
    if !has_vulkan() {
        missing.extend(["mesa-vulkan-drivers", "libvulkan1"]);
    }
    apt_install(&missing)?;
    install_ptxas()
}

/// NVIDIA's PTX assembler, alone, from its Python package: tests assemble every kernel with it. No GPU, no CUDA.
fn install_ptxas() -> Result<(), String> {
    if env::var_os("PTXAS").is_some() || there(&format!("{TOOLS}/nvidia/cuda_nvcc/bin/ptxas")) {
        return Ok(());
    }
    let pip =
        |python: &str| Command::new(python).args(["-m", "pip", "--version"]).output().is_ok_and(|o| o.status.success());
    if !pip("python3") {
        apt_install(&["python3-pip"])?;
    }
    let arguments = ["-m", "pip", "install", "--quiet", "--upgrade", "--target", TOOLS, PTXAS_PACKAGE];
    run(&mut command("python3", &arguments))
}

/// Where `ptxas` goes; `ptx-interpreter` looks there.
const TOOLS: &str = "target/tools/nvcc";
/// The last major version that knows sm_70 (V100).
const PTXAS_PACKAGE: &str = "nvidia-cuda-nvcc-cu12==12.9.86";

fn there(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok_and(|o| o.status.success())
}

fn apt_install(missing: &[&str]) -> Result<(), String> {
    if missing.is_empty() {
        return Ok(());
    }
    let names = missing.join(" ");
    if !there("apt-get") {
        return Err(format!(
            "please install {names}: build and tests need it, and this system has no apt-get to do it with"
        ));
    }
    let sudo = there("sudo") && env::var("USER").is_ok_and(|user| user != "root");
    let apt = |args: &[&str]| {
        let mut all = if sudo { vec!["sudo", "apt-get"] } else { vec!["apt-get"] };
        all.extend(args);
        run(command(all[0], &all[1..]).env("DEBIAN_FRONTEND", "noninteractive"))
    };
    apt(&["update", "-qq"])?;
    let mut args = vec!["install", "-y", "-qq", "--no-install-recommends"];
    args.extend(missing);
    apt(&args)
}

/// Where bindgen looks for it on Debian and Ubuntu, or where the user says.
fn has_libclang() -> bool {
    let folders = std::fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    let mut llvm = folders.map(|f| f.path()).filter(|path| path.to_string_lossy().contains("/llvm-"));
    env::var_os("LIBCLANG_PATH").is_some() || llvm.any(|path| path.join("lib/libclang.so.1").exists())
}

/// True when a Vulkan driver is installed.
fn has_vulkan() -> bool {
    let folders = ["/usr/share/vulkan/icd.d", "/etc/vulkan/icd.d", "/usr/local/share/vulkan/icd.d"];
    let listed = folders.iter().any(|folder| std::fs::read_dir(folder).is_ok_and(|mut files| files.next().is_some()));
    listed || env::var_os("VK_DRIVER_FILES").is_some() || !cfg!(target_os = "linux")
}

fn cargo(args: &[&str]) -> Result<(), String> {
    run(&mut command("cargo", args))
}
fn command(program: &str, args: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(args);
    command
}
fn run(command: &mut Command) -> Result<(), String> {
    let shown = format!("{command:?}").replace('"', "");
    println!("\n$ {shown}");
    let status = command.status().map_err(|e| format!("cannot run {shown}: {e}"))?;
    if status.success() { Ok(()) } else { Err(format!("{shown} failed ({status})")) }
}
