//! What every backend of `xlnet` is tested with.
//!
//! - [`cases`]: op cases as data, one file per family; [`case`] runs them against `cpu:reference` in f64.
//! - [`gradients`]: central differences for every op that has a gradient.
//! - [`golden`]: cases computed by outside implementations; [`golden_attention`] runs those of the attention op.
//! - [`learning`]: a small model that learns, in any precision.
//! - [`fuzz`]: readers of every file format as functions of any bytes.
//!
//! A new op needs cases here: a test asserts that no op of the vocabulary is without.

pub mod attention;
pub mod backend;
pub mod case;
pub mod cases;
pub mod fuzz;
pub mod golden;
pub mod golden_attention;
pub mod gradients;
pub mod interpreter;
pub mod learning;
pub mod setup;

use xlnet::backend::Device;
use xlnet::tensor::DType;

pub use backend::Backend;
pub use case::{Case, Outcome, Support, run_case};
pub use setup::Setup;

/// The devices to test: the CPU, the one that `XLNET_DEVICE` names, and the first adapter of wgpu, a program on the
/// processor being as good as hardware.
///
/// # Errors
/// When `XLNET_DEVICE` is not a device, or there is no adapter although `XLNET_REQUIRE_WGPU` is set, as in CI.
pub fn devices() -> xlnet::Result<Vec<Device>> {
    let mut devices = vec![Device::Cpu];
    if let Ok(name) = std::env::var("XLNET_DEVICE") {
        let device = name.parse::<Device>()?.resolve()?;
        if !devices.contains(&device) {
            devices.push(device);
        }
    }
    match Device::Wgpu(0).resolve() {
        Ok(adapter) if !devices.iter().any(|device| matches!(device, Device::Wgpu(_))) => devices.push(adapter),
        Err(error) if std::env::var_os("XLNET_REQUIRE_WGPU").is_some() => return Err(error),
        _ => {}
    }
    Ok(devices)
}

/// The devices that single ops are tested on, with their precisions: f32, and on the CPU f64 too; and the CUDA backend
/// on the PTX interpreter. `XLNET_BACKEND` leaves those whose name begins so: `cuda:0` with `XLNET_DEVICE=cuda:0` for a
/// card alone.
///
/// # Errors
/// Those of [`devices`].
pub fn op_devices() -> xlnet::Result<Vec<(Backend, DType)>> {
    let floats = |device: Device| match device {
        Device::Cpu | Device::CpuReference => vec![DType::F32, DType::F64],
        _ => vec![DType::F32],
    };
    let interpreters = Backend::INTERPRETERS.map(|backend| (backend, DType::F32));
    let all =
        devices()?.into_iter().flat_map(|device| floats(device).into_iter().map(move |float| (device.into(), float)));
    let part = std::env::var("XLNET_BACKEND").unwrap_or_default();
    Ok(all.chain(interpreters).filter(|(backend, _)| backend.to_string().starts_with(&part)).collect())
}
