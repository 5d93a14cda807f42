//! `xlnet doctor`.

use crate::backend::Device;
use crate::cli::output::print;
use crate::cli::size::bytes;

/// Tells what this machine offers.
pub fn run() -> anyhow::Result<()> {
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
    print(&format!("xlnet      {}", env!("CARGO_PKG_VERSION")));
    print(&format!("cores      {cores}; threads in use {} (RAYON_NUM_THREADS)", rayon::current_num_threads()));
    print(&format!("vectors    {}", vectors()));
    match memory() {
        Some((total, available)) => print(&format!("memory     {}, {} of it free", bytes(total), bytes(available))),
        None => print("memory     unknown on this system"),
    }
    print(&format!("mpi        {}", mpi()));
    print("devices");
    print("  cpu      ready");
    print_adapters();
    let cuda = Device::Cuda(0);
    match cuda.resolve() {
        Ok(_) => print(&format!("  {cuda}   ready")),
        Err(error) => print(&format!("  {cuda}   missing: {error}")),
    }
    print(&format!("auto means {}", Device::Auto.resolve()?));
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
