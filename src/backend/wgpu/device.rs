//! Adapters of this machine, and the devices opened on them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock};

use wgpu::{Backends, DeviceType, Features, Limits};

use super::pipeline::Pipelines;
use crate::backend::lower::{Caps, FILL};
use crate::kernel::{Value, Variant};
use crate::{Error, Result};

/// What an adapter is and can do.
#[derive(Clone, Debug)]
pub struct AdapterInfo {
    /// Its name: `NVIDIA H100`, `llvmpipe (LLVM 15.0.6, 256 bits)`.
    pub name: String,
    /// Interface: `vulkan`, `metal`, `dx12`.
    pub interface: String,
    /// Driver and its version.
    pub driver: String,
    /// Computes on the processor.
    pub is_software: bool,
    /// Limits that kernels depend on.
    pub caps: Caps,
}

/// An adapter with wgpu's handle.
struct Adapter {
    info: AdapterInfo,
    handle: wgpu::Adapter,
    /// Why it has no cooperative matrices although they are asked for.
    refusal: Option<String>,
}

/// Adapters, hardware first: number `n` is device `wgpu:n`.
fn all() -> &'static [Adapter] {
    static ALL: OnceLock<Vec<Adapter>> = OnceLock::new();
    ALL.get_or_init(|| {
        let mut description = wgpu::InstanceDescriptor::new_without_display_handle();
        let backends = Backends::VULKAN | Backends::METAL | Backends::DX12;
        (description.backends, description.flags) = (backends, wgpu::InstanceFlags::empty());
        let instance = wgpu::Instance::new(description);
        let mut found: Vec<_> = pollster::block_on(instance.enumerate_adapters(backends))
            .into_iter()
            .map(|handle| (handle.get_info(), handle))
            .collect();
        found.sort_by_key(|(info, _)| match info.device_type {
            DeviceType::DiscreteGpu => 0,
            DeviceType::IntegratedGpu => 1,
            DeviceType::VirtualGpu => 2,
            DeviceType::Other => 3,
            DeviceType::Cpu => 4,
        });
        let describe = |(info, handle): (wgpu::AdapterInfo, wgpu::Adapter)| {
            let mut caps =
                Caps::of(&handle.features(), &handle.limits(), info.subgroup_min_size, info.subgroup_max_size);
            let asked = std::env::var_os("XLNET_COOPERATIVE").is_some_and(|value| value == "on");
            let there = handle.features().contains(Features::EXPERIMENTAL_COOPERATIVE_MATRIX);
            let sizes = if asked && there { handle.cooperative_matrix_properties() } else { vec![] };
            let refusal = match cooperative(&caps, there, &sizes) {
                _ if !asked => None,
                Ok(chosen) => {
                    caps.cooperative = chosen;
                    None
                }
                Err(why) => Some(why),
            };
            if std::env::var_os("XLNET_SUBGROUPS").is_some_and(|value| value == "off") {
                caps.subgroups = None;
            }
            let info = AdapterInfo {
                name: info.name,
                interface: info.backend.to_string(),
                driver: format!("{} {}", info.driver, info.driver_info).trim().to_owned(),
                is_software: info.device_type == DeviceType::Cpu,
                caps,
            };
            Adapter { info, handle, refusal }
        };
        found.into_iter().map(describe).collect()
    })
}

/// Cooperative matrices for kernels of f32 and of f16 on an adapter with `caps`: those of the sizes that WGSL has, in
/// subgroups of 32. They are used where `XLNET_COOPERATIVE=on` asks for them, since nobody has run these kernels yet.
///
/// # Errors
/// What the adapter lacks.
fn cooperative(
    caps: &Caps,
    there: bool,
    sizes: &[wgpu::CooperativeMatrixProperties],
) -> Result<[Option<u32>; 2], String> {
    if !there {
        return Err("this adapter lacks EXPERIMENTAL_COOPERATIVE_MATRIX".into());
    }
    match caps.subgroups {
        Some((32, 32)) => {}
        Some((least, most)) => return Err(format!("its subgroups have {least} to {most} invocations, not 32")),
        None => return Err("this adapter lacks SUBGROUP".into()),
    }
    let size = |ab_type| {
        let fits = |p: &&wgpu::CooperativeMatrixProperties| {
            let square = p.m_size == p.n_size && p.n_size == p.k_size && [8, 16].contains(&p.m_size);
            square && p.ab_type == ab_type && p.cr_type == wgpu::CooperativeScalarType::F32
        };
        sizes.iter().filter(fits).map(|p| p.m_size).max()
    };
    let f16 = size(wgpu::CooperativeScalarType::F16).filter(|_| caps.f16);
    match [size(wgpu::CooperativeScalarType::F32), f16] {
        [None, None] => Err("it has none of 8 x 8 or 16 x 16 elements of f32 or f16 with sums in f32".into()),
        found => Ok(found),
    }
}

/// Every adapter of this machine; number `n` is device `wgpu:n`. Hardware comes before software.
pub fn adapters() -> Vec<AdapterInfo> {
    all().iter().map(|adapter| adapter.info.clone()).collect()
}

/// True when there is an adapter that is no program on the processor.
pub fn has_hardware() -> bool {
    all().iter().any(|adapter| !adapter.info.is_software)
}

fn adapter(number: usize) -> Result<&'static Adapter> {
    all().get(number).ok_or_else(|| {
        let there = match all().len() {
            0 => "this machine has no Vulkan, Metal or DX12 driver; install one, or mesa-vulkan-drivers to compute \
                  on the processor, or use --device cpu"
                .to_owned(),
            n => format!("this machine has {n}, from wgpu:0 on; see `xlnet doctor`, or use --device cpu"),
        };
        Error::device(format!("device wgpu:{number}: there is no such adapter: {there}"))
    })
}

/// A device of wgpu, its queue and its pipelines.
pub struct Gpu {
    /// The adapter.
    pub info: AdapterInfo,
    /// wgpu's device.
    pub device: wgpu::Device,
    /// Its queue.
    pub queue: wgpu::Queue,
    pub(super) pipelines: Pipelines,
    /// The first error that nobody was waiting for.
    failure: Arc<Mutex<Option<String>>>,
}

impl Gpu {
    /// Requires that there is an adapter of this number.
    ///
    /// # Errors
    /// Says what this machine has.
    pub fn find(number: usize) -> Result<AdapterInfo> {
        adapter(number).map(|adapter| adapter.info.clone())
    }

    /// The device on adapter `number`, opened once in a process.
    ///
    /// # Errors
    /// When there is no such adapter, or it cannot be opened.
    pub fn open(number: usize) -> Result<Arc<Gpu>> {
        static OPEN: Mutex<Option<HashMap<usize, Arc<Gpu>>>> = Mutex::new(None);
        let mut open = OPEN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let open = open.get_or_insert_with(HashMap::new);
        if let Some(gpu) = open.get(&number).filter(|gpu| gpu.check().is_ok()) {
            return Ok(gpu.clone());
        }
        let gpu = Arc::new(Gpu::request(number)?);
        open.insert(number, gpu.clone());
        Ok(gpu)
    }

    /// A device of its own on adapter `number`.
    ///
    /// # Errors
    /// When there is no such adapter, or it cannot be opened.
    pub(super) fn request(number: usize) -> Result<Gpu> {
        let Adapter { info, handle, refusal } = adapter(number)?;
        if let Some(why) = refusal {
            return Err(Error::device(format!(
                "device wgpu:{number} ({}): XLNET_COOPERATIVE=on asks for cooperative matrices, but {why}; unset it",
                info.name
            )));
        }
        let mut wanted =
            Features::SHADER_F16 | Features::SUBGROUP | Features::TIMESTAMP_QUERY | Features::PIPELINE_CACHE;
        let mut experimental_features = wgpu::ExperimentalFeatures::disabled();
        if info.caps.cooperative != [None; 2] {
            wanted |= Features::EXPERIMENTAL_COOPERATIVE_MATRIX;
            // SAFETY: wgpu asks whoever turns an experiment on to expect its defects. The user did, by XLNET_COOPERATIVE.
            experimental_features = unsafe { wgpu::ExperimentalFeatures::enabled() };
        }
        let description = wgpu::DeviceDescriptor {
            label: Some("xlnet"),
            required_features: handle.features() & wanted,
            required_limits: handle.limits(),
            experimental_features,
            memory_hints: wgpu::MemoryHints::Performance,
            trace: wgpu::Trace::Off,
        };
        let opened = pollster::block_on(handle.request_device(&description));
        let (device, queue) = opened.map_err(|error| {
            Error::device(format!("device wgpu:{number} ({}) cannot be opened: {error}", info.name))
        })?;
        Ok(Gpu::new(info.clone(), device, queue))
    }

    /// Takes a device of another wgpu program.
    ///
    /// Its limits are those that were requested for it.
    pub fn adopt(device: wgpu::Device, queue: wgpu::Queue) -> Gpu {
        let info = device.adapter_info();
        let caps = Caps::of(&device.features(), &device.limits(), info.subgroup_min_size, info.subgroup_max_size);
        let info = AdapterInfo {
            name: info.name,
            interface: info.backend.to_string(),
            driver: info.driver,
            is_software: info.device_type == DeviceType::Cpu,
            caps,
        };
        let pipelines = Pipelines::new(&device, None);
        Gpu { info, device, queue, pipelines, failure: Arc::default() }
    }

    /// Gives the device up, as a driver does that crashed.
    #[cfg(test)]
    pub(super) fn lose(&self) {
        self.device.destroy();
        self.failure.lock().expect("a lock").get_or_insert(lost("destroyed by a test"));
    }

    fn new(info: AdapterInfo, device: wgpu::Device, queue: wgpu::Queue) -> Gpu {
        let failure = Arc::new(Mutex::new(None));
        let note = |failure: &Mutex<Option<String>>, what: String| {
            failure.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).get_or_insert(what);
        };
        let (of_loss, uncaptured) = (failure.clone(), failure.clone());
        device.set_device_lost_callback(move |reason, message| {
            // The program's own end is no failure.
            if reason != wgpu::DeviceLostReason::Destroyed {
                note(&of_loss, lost(&message));
            }
        });
        device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| {
            note(&uncaptured, told(&error));
        }));
        let pipelines = Pipelines::new(&device, Some(&info));
        Gpu { info, device, queue, pipelines, failure }
    }

    /// Name for messages: `wgpu (NVIDIA H100)`.
    pub fn name(&self) -> String {
        format!("wgpu ({})", self.info.name)
    }

    /// Fails when the device has been lost or has reported an error.
    ///
    /// # Errors
    /// The first thing that went wrong.
    pub fn check(&self) -> Result<()> {
        let failure = self.failure.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        failure.as_ref().map_or(Ok(()), |what| Err(Error::device(format!("{}: {what}", self.name()))))
    }

    /// Runs `body`; what it gets wrong is its error, not everybody's.
    ///
    /// # Errors
    /// What wgpu found wrong, after `what`.
    pub(super) fn caught<R>(&self, what: impl FnOnce() -> String, body: impl FnOnce() -> R) -> Result<R> {
        let scopes = [wgpu::ErrorFilter::OutOfMemory, wgpu::ErrorFilter::Internal, wgpu::ErrorFilter::Validation]
            .map(|filter| self.device.push_error_scope(filter));
        let result = body();
        let [memory, internal, validation] = scopes;
        // Scopes are a stack.
        let errors = [validation, internal, memory].map(|scope| pollster::block_on(scope.pop()));
        match errors.into_iter().flatten().next() {
            None => Ok(result),
            Some(error) => Err(Error::device(format!("{}: {}: {}", self.name(), what(), told(&error)))),
        }
    }

    /// Waits until everything submitted is done.
    ///
    /// # Errors
    /// When the device was lost.
    pub(super) fn wait(&self) -> Result<()> {
        let done = self.device.poll(wgpu::PollType::wait_indefinitely());
        self.check()?;
        done.map(drop).map_err(|error| Error::device(format!("{}: {error}", self.name())))
    }
}

/// What users are told when the device is gone.
fn lost(message: &str) -> String {
    format!("the device was lost ({message}); run again, with a smaller batch if it happens twice")
}

/// What users are told of an error of wgpu.
fn told(error: &wgpu::Error) -> String {
    match error {
        wgpu::Error::OutOfMemory { .. } => "the device is out of memory; use a smaller batch".into(),
        other => other.to_string(),
    }
}

impl Caps {
    /// What a rendered kernel needs and the adapter lacks.
    pub fn lacks(&self, variant: &Variant, text: &str) -> Option<&'static str> {
        let matrix = match variant.get("size") {
            Some(Value::Int(size)) if variant.template == "matmul_cooperative" => Some(size),
            _ => None,
        };
        let f16 = variant.get("dtype") == Some(Value::Name("f16"));
        if text.contains("enable f16;") && !self.f16 {
            Some("SHADER_F16")
        } else if matrix.is_some() && self.cooperative[usize::from(f16)] != matrix {
            Some("cooperative matrices, which XLNET_COOPERATIVE=on asks for")
        } else if variant.get("subgroups") == Some(Value::Flag(true)) && self.subgroups.is_none() {
            Some("SUBGROUP")
        } else {
            None
        }
    }
    fn of(features: &Features, limits: &Limits, subgroup_min: u32, subgroup_max: u32) -> Caps {
        Caps {
            language: crate::kernel::Language::Wgsl,
            capability: (0, 0),
            f16: features.contains(Features::SHADER_F16),
            subgroups: features.contains(Features::SUBGROUP).then_some((subgroup_min, subgroup_max)),
            cooperative: [None; 2],
            timestamps: features.contains(Features::TIMESTAMP_QUERY),
            binding_bytes: limits.max_storage_buffer_binding_size as usize,
            buffer_bytes: limits.max_buffer_size as usize,
            storage_buffers: limits.max_storage_buffers_per_shader_stage as usize,
            workgroup_bytes: limits.max_compute_workgroup_storage_size as usize,
            invocations: limits.max_compute_invocations_per_workgroup,
            groups: [limits.max_compute_workgroups_per_dimension; 3],
            fill: FILL,
        }
    }
}

#[cfg(test)]
mod tests {
    use wgpu::{CooperativeMatrixProperties, CooperativeScalarType};

    use super::*;

    const F16: CooperativeScalarType = CooperativeScalarType::F16;
    const F32: CooperativeScalarType = CooperativeScalarType::F32;

    fn matrix(
        side: u32,
        k: u32,
        ab_type: CooperativeScalarType,
        cr_type: CooperativeScalarType,
    ) -> CooperativeMatrixProperties {
        CooperativeMatrixProperties {
            m_size: side,
            n_size: side,
            k_size: k,
            ab_type,
            cr_type,
            saturating_accumulation: false,
        }
    }

    #[test]
    fn cooperative_matrices_are_chosen_by_what_the_adapter_has() {
        let caps = Caps { subgroups: Some((32, 32)), ..Caps::default() };
        let sizes =
            [matrix(16, 16, F16, F32), matrix(8, 8, F16, F32), matrix(16, 8, F16, F32), matrix(16, 16, F16, F16)];
        assert_eq!(cooperative(&caps, true, &sizes), Ok([None, Some(16)]));
        assert_eq!(cooperative(&caps, true, &[matrix(8, 8, F32, F32), sizes[1]]), Ok([Some(8), Some(8)]));
        let refused = |caps: &Caps, there, sizes: &[_]| cooperative(caps, there, sizes).unwrap_err();
        assert!(refused(&caps, false, &sizes).contains("EXPERIMENTAL_COOPERATIVE_MATRIX"));
        assert!(refused(&caps, true, &sizes[2..]).contains("none of 8 x 8 or 16 x 16"));
        let without = Caps { f16: false, ..caps.clone() };
        assert!(refused(&without, true, &sizes).contains("none of"));
        let wide = Caps { subgroups: Some((8, 64)), ..caps.clone() };
        assert!(refused(&wide, true, &sizes).contains("8 to 64"));
        assert!(refused(&Caps { subgroups: None, ..caps }, true, &sizes).contains("SUBGROUP"));
    }

    #[test]
    fn what_a_kernel_lacks_is_named() {
        let caps = Caps { f16: false, cooperative: [Some(8), None], ..Caps::default() };
        let cast = Variant::new("cast_half").name("dtype", "f16");
        assert_eq!(caps.lacks(&cast, "enable f16;"), Some("SHADER_F16"));
        assert_eq!(Caps::default().lacks(&cast, "enable f16;"), None);
        let matrix = |dtype, size| Variant::new("matmul_cooperative").name("dtype", dtype).int("size", size);
        assert_eq!(caps.lacks(&matrix("f32", 8), ""), None);
        assert!(caps.lacks(&matrix("f32", 16), "").is_some() && Caps::default().lacks(&matrix("f16", 8), "").is_some());
        assert_eq!(caps.lacks(&Variant::new("sum").flag("subgroups", true), ""), Some("SUBGROUP"));
    }

    #[test]
    fn no_memory_is_told_with_what_to_do() {
        let error = wgpu::Error::OutOfMemory { source: "VK_ERROR_OUT_OF_DEVICE_MEMORY".into() };
        assert_eq!(told(&error), "the device is out of memory; use a smaller batch");
    }
}
