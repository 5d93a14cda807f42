//! `xlnet doctor`.

use std::path::Path;

use crate::backend::Device;
use crate::cli::args::DoctorArgs;
use crate::cli::output::print;
use crate::cli::size::bytes;

/// Programs and libraries beside us that some commands or tests use.
const PACKAGES: [(&str, &[&str], &str); 5] = [
    ("mpirun", &["mpirun"], "several processes a run; apt install openmpi-bin"),
    ("tensorboard", &["tensorboard"], "looks at runs: tensorboard --logdir DIR; pip install tensorboard"),
    ("CUDA", &["libcuda.so.1", "nvidia-smi"], "NVIDIA's driver, for --device cuda"),
    ("Vulkan", &["libvulkan.so.1"], "for --device wgpu; apt install libvulkan1"),
    ("python3", &["python3"], "tests beside other implementations, and benches"),
];

/// Tells what this machine offers.
pub fn run(args: &DoctorArgs) -> anyhow::Result<()> {
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
    print(&format!("xlnet      {}", env!("CARGO_PKG_VERSION")));
    print(&format!("cores      {cores}; threads in use {} (RAYON_NUM_THREADS)", rayon::current_num_threads()));
    print(&format!("vectors    {}", vectors()));
    print(&format!("           this processor has {}", features().join(" ")));
    match memory() {
        Some((total, available)) => print(&format!("memory     {}, {} of it free", bytes(total), bytes(available))),
        None => print("memory     unknown on this system"),
    }
    if let Some(limit) = memory_limit() {
        print(&format!("           of which this process may use {}", bytes(limit)));
    }
    print(&format!("disk       {}", disk(&args.model_dir)));
    print(&format!("mpi        {}", mpi()));
    print("devices");
    print("  cpu      ready");
    print_adapters();
    print_cards();
    print(&format!("auto means {}", Device::Auto.resolve()?));
    print("packages");
    for (name, files, use_of_it) in PACKAGES {
        match files.iter().find_map(|file| find(file)) {
            Some(path) => print(&format!("  {name:<12} {path}")),
            None => print(&format!("  {name:<12} missing: {use_of_it}")),
        }
    }
    Ok(())
}

/// The MPI that ranks of `mpirun` talk by.
fn mpi() -> String {
    #[cfg(feature = "mpi")]
    {
        format!("ready: {}", crate::distributed::mpi::version())
    }
    #[cfg(not(feature = "mpi"))]
    {
        "not built in (feature mpi); ranks of RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT need none".into()
    }
}

/// Space where checkpoints go, or where their directory will be.
fn disk(model_dir: &Path) -> String {
    let absolute = std::path::absolute(model_dir).unwrap_or_else(|_| model_dir.to_owned());
    let there = absolute.ancestors().find(|dir| dir.is_dir()).unwrap_or(Path::new("/"));
    let written = match tempfile::tempfile_in(there) {
        Ok(_) => String::new(),
        Err(e) => format!("; it cannot be written: {e}"),
    };
    match crate::train::disk::space(there) {
        Some((total, free)) => {
            let (total, free) = (bytes(total as usize), bytes(free as usize));
            format!("{free} of {total} free in {}{written}", there.display())
        }
        None => format!("unknown in {}{written}", there.display()),
    }
}

/// Where a program of PATH or a library of the system lies.
fn find(file: &str) -> Option<String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let libraries = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    let system =
        ["lib", "lib64", "lib/x86_64-linux-gnu", "lib/aarch64-linux-gnu"].map(|dir| format!("/usr/{dir}").into());
    let folders = std::env::split_paths(&path).chain(std::env::split_paths(&libraries)).chain(system);
    folders.map(|folder| folder.join(file)).find(|path| path.is_file()).map(|path| path.display().to_string())
}

/// Instructions of this processor that matter to arithmetic.
fn features() -> Vec<&'static str> {
    macro_rules! detected {
        ($detect:ident: $($name:tt)+) => {{
            use std::arch::$detect;
            [$(($name, $detect!($name))),+].into_iter().filter(|(_, there)| *there).map(|(name, _)| name).collect()
        }};
    }
    #[cfg(target_arch = "x86_64")]
    {
        detected!(is_x86_feature_detected: "sse4.2" "avx" "avx2" "fma" "f16c" "avx512f" "avx512bw" "avx512dq" "avx512vl" "avx512vnni" "sha")
    }
    #[cfg(target_arch = "aarch64")]
    {
        detected!(is_aarch64_feature_detected: "neon" "fp16" "dotprod" "sve" "sve2" "i8mm" "bf16" "sha2")
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    {
        vec![]
    }
}

/// The limit of a container, in bytes, where there is one.
fn memory_limit() -> Option<usize> {
    let files = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];
    let limit = files.iter().find_map(|path| std::fs::read_to_string(path).ok()?.trim().parse::<usize>().ok())?;
    memory().is_none_or(|(total, _)| limit < total).then_some(limit)
}

/// Adapters of wgpu with the limits that decide which kernels run.
#[cfg(feature = "wgpu")]
fn print_adapters() {
    use crate::backend::wgpu::adapters;
    for (number, adapter) in adapters().iter().enumerate() {
        let (name, interface, driver, caps) = (&adapter.name, &adapter.interface, &adapter.driver, &adapter.caps);
        let software = if adapter.is_software { "; computes on the processor, so only when asked for" } else { "" };
        let device = Device::Wgpu(number).to_string();
        print(&format!("  {device:<8} {name}, {interface}, {driver}{software}"));
        let f16 = if caps.f16 { "f32 and f16" } else { "f32" };
        let subgroups = match caps.subgroups {
            Some((least, most)) if least == most => format!("subgroups of {least}"),
            Some((least, most)) => format!("subgroups of {least} to {most}"),
            None => "no subgroups".into(),
        };
        let (buffer, binding, group) =
            (bytes(caps.buffer_bytes), bytes(caps.binding_bytes), bytes(caps.workgroup_bytes));
        print(&format!("           {f16}; {subgroups}; work groups of {} with {group}", caps.invocations));
        print(&format!(
            "           tensors up to {binding}, buffers up to {buffer}, {} bindings",
            caps.storage_buffers
        ));
    }
    if let Err(error) = Device::Wgpu(0).resolve() {
        print(&format!("  wgpu:0   missing: {error}"));
    }
}
#[cfg(not(feature = "wgpu"))]
fn print_adapters() {
    if let Err(error) = Device::Wgpu(0).resolve() {
        print(&format!("  wgpu:0   missing: {error}"));
    }
}

/// NVIDIA cards that CUDA's driver knows.
#[cfg(feature = "cuda")]
fn print_cards() {
    use crate::backend::cuda::{cards, products, sums};
    for (number, card) in cards().into_iter().flatten().enumerate() {
        let (device, (major, minor)) = (Device::Cuda(number).to_string(), card.capability);
        let types = if major >= 8 { "products in f32, bf16 and f16" } else { "products in f32 and f16" };
        let ready =
            Device::Cuda(number).resolve().map_or_else(|error| format!("not usable: {error}"), |_| types.to_owned());
        print(&format!("  {device:<8} {}, compute capability {major}.{minor}, {}", card.name, bytes(card.bytes)));
        print(&format!("           {} multiprocessors; {ready}", card.multiprocessors));
        print(&format!("           products by {}", products().unwrap_or_else(|error| error.to_string())));
    }
    match Device::Cuda(0).resolve() {
        Ok(_) => print(&match sums() {
            Ok(library) => format!("           sums over ranks by {library}"),
            Err(error) => format!("           sums over ranks in host memory: {error}"),
        }),
        Err(error) => print(&format!("  cuda:0   missing: {error}")),
    }
}
#[cfg(not(feature = "cuda"))]
fn print_cards() {
    if let Err(error) = Device::Cuda(0).resolve() {
        print(&format!("  cuda:0   missing: {error}"));
    }
}

/// The widest instructions of this processor that are in use.
fn vectors() -> &'static str {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::is_x86_feature_detected;
        let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
        match (avx2, is_x86_feature_detected!("avx512f")) {
            (true, true) => "AVX-512, AVX2 with FMA",
            (true, false) => "AVX2 with FMA; AVX-512 is not there",
            (false, _) => "SSE2; AVX2 with FMA is not there, expect a fraction of the speed",
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        "those of the compiler's target"
    }
}

/// Total and available memory in bytes, where Linux tells.
fn memory() -> Option<(usize, usize)> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let value = |key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key))?;
        line.trim_start_matches(':').split_whitespace().next()?.parse::<usize>().ok().map(|kib| kib << 10)
    };
    Some((value("MemTotal")?, value("MemAvailable")?))
}
