//! Pipelines by variant and by the hash of their text.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Mutex;

use sha2::{Digest, Sha256};
use wgpu::{
    BindGroupLayout, BindGroupLayoutDescriptor, BindGroupLayoutEntry, BindingType, BufferBindingType, ComputePipeline,
    ShaderStages,
};

use super::device::{AdapterInfo, Gpu};
use crate::atomic::AtomicFile;
use crate::kernel::{Header, Language, Rendered, Variant, render};
use crate::{Error, Result};

/// Bytes that each of the two uniforms of a launch gets; dynamic offsets are multiples of it on every adapter.
pub const UNIFORM_BYTES: usize = 256;

/// Everything compiled for one device.
pub struct Pipelines {
    /// Layout of group 1: params and first elements.
    pub uniforms: BindGroupLayout,
    cached: Mutex<Cached>,
    /// The driver's own cache.
    driver: Option<(wgpu::PipelineCache, PathBuf)>,
}

#[derive(Default)]
struct Cached {
    /// Layout of group 0 by number of storage buffers.
    storage: HashMap<usize, BindGroupLayout>,
    by_variant: HashMap<Variant, ComputePipeline>,
    by_hash: HashMap<String, ComputePipeline>,
    /// Something was compiled that is not on disk yet.
    unsaved: bool,
}

fn entry(binding: usize, ty: BufferBindingType, dynamic: bool) -> BindGroupLayoutEntry {
    let ty = BindingType::Buffer { ty, has_dynamic_offset: dynamic, min_binding_size: None };
    BindGroupLayoutEntry { binding: binding as u32, visibility: ShaderStages::COMPUTE, ty, count: None }
}

impl Pipelines {
    /// None yet; with `info`, the driver's cache is read from disk.
    pub fn new(device: &wgpu::Device, info: Option<&AdapterInfo>) -> Self {
        let entries = [0, 1].map(|i| entry(i, BufferBindingType::Uniform, true));
        let uniforms =
            device.create_bind_group_layout(&BindGroupLayoutDescriptor { label: Some("uniforms"), entries: &entries });
        let driver = info.and_then(|_| driver_cache(device));
        Pipelines { uniforms, cached: Mutex::default(), driver }
    }
}

/// Where the driver's cache of this adapter is kept: `XLNET_CACHE_DIR`, or the user's cache folder.
fn cache_path(device: &wgpu::Device) -> Option<PathBuf> {
    let file = wgpu::util::pipeline_cache_key(&device.adapter_info())?;
    let named = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let user = || named("XDG_CACHE_HOME").or_else(|| Some(named("HOME")?.join(".cache"))).map(|c| c.join("xlnet"));
    named("XLNET_CACHE_DIR").or_else(user).map(|folder| folder.join(file))
}

/// The driver's cache, filled with what an earlier process left.
fn driver_cache(device: &wgpu::Device) -> Option<(wgpu::PipelineCache, PathBuf)> {
    if !device.features().contains(wgpu::Features::PIPELINE_CACHE) {
        return None;
    }
    let path = cache_path(device)?;
    let bytes = std::fs::read(&path).unwrap_or_default();
    let data = bytes.split_at_checked(32).filter(|(hash, data)| Sha256::digest(data)[..] == **hash).map(|(_, d)| d);
    let description = wgpu::PipelineCacheDescriptor { label: Some("xlnet"), data, fallback: true };
    // SAFETY: `data` is what `get_data` gave to an earlier process for this key, whole, as its hash shows; wgpu and the
    // driver check that it belongs to this version of them.
    let cache = unsafe { device.create_pipeline_cache(&description) };
    Some((cache, path))
}

impl Gpu {
    /// Layout of group 0 for so many storage buffers.
    pub(super) fn storage_layout(&self, buffers: usize) -> BindGroupLayout {
        let mut cached = self.pipelines.cached.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let make = || {
            let read_write = BufferBindingType::Storage { read_only: false };
            let entries: Vec<_> = (0..buffers).map(|i| entry(i, read_write, false)).collect();
            let label = Some("storage");
            self.device.create_bind_group_layout(&BindGroupLayoutDescriptor { label, entries: &entries })
        };
        cached.storage.entry(buffers).or_insert_with(make).clone()
    }

    /// The pipeline of `variant`, whose template has so many buffers.
    ///
    /// # Errors
    /// When the text cannot be rendered or the driver refuses it.
    pub(super) fn pipeline(&self, variant: &Variant, buffers: usize) -> Result<ComputePipeline> {
        let layout = self.storage_layout(buffers);
        let mut cached = self.pipelines.cached.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(pipeline) = cached.by_variant.get(variant) {
            return Ok(pipeline.clone());
        }
        let rendered = render(Language::Wgsl, variant)?;
        let pipeline = match cached.by_hash.get(&rendered.hash) {
            Some(pipeline) => pipeline.clone(),
            None => self.compile(&rendered, variant.template, &layout)?,
        };
        cached.by_hash.insert(rendered.hash, pipeline.clone());
        cached.unsaved = true;
        cached.by_variant.insert(variant.clone(), pipeline.clone());
        Ok(pipeline)
    }

    /// Compiles `variant`, to see whether the driver takes it.
    ///
    /// # Errors
    /// What is wrong with its text, or what the driver says.
    pub fn compile_variant(&self, variant: &Variant) -> Result<()> {
        let buffers = Header::of(Language::Wgsl, variant.template)?.buffers.len();
        self.pipeline(variant, buffers).map(drop)
    }

    fn compile(&self, rendered: &Rendered, entry_point: &str, layout: &BindGroupLayout) -> Result<ComputePipeline> {
        let Rendered { label, text, .. } = rendered;
        let label = label.as_str();
        tracing::debug!(label, "compiling");
        let layouts = [Some(layout), Some(&self.pipelines.uniforms)];
        self.caught(
            || format!("kernel {label}"),
            || {
                let source = wgpu::ShaderSource::Wgsl(text.as_str().into());
                let module = self.module(wgpu::ShaderModuleDescriptor { label: Some(label), source });
                let layout = self.device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
                    label: Some(label),
                    bind_group_layouts: &layouts,
                    immediate_size: 0,
                });
                self.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                    label: Some(label),
                    layout: Some(&layout),
                    module: &module,
                    entry_point: Some(entry_point),
                    compilation_options: wgpu::PipelineCompilationOptions {
                        // Every kernel writes work group memory before it reads it.
                        zero_initialize_workgroup_memory: false,
                        ..Default::default()
                    },
                    cache: self.pipelines.driver.as_ref().map(|(cache, _)| cache),
                })
            },
        )
        // A defect of the kernel, not something that this device lacks.
        .map_err(|error| Error::kernel(error.to_string()))
    }

    /// With wgpu's checks of bounds and endless loops, unless `XLNET_KERNEL_CHECKS=off` takes them out for speed.
    fn module(&self, description: wgpu::ShaderModuleDescriptor) -> wgpu::ShaderModule {
        let checked = std::env::var_os("XLNET_KERNEL_CHECKS").is_none_or(|value| value != "off");
        if checked {
            return self.device.create_shader_module(description);
        }
        // SAFETY: the text is one of this crate's kernels. Their indices are computed from sizes that `Op::check` has
        // compared with the tensors', indices read from tensors are clamped to the operand, and every loop counts up to
        // such a size.
        unsafe { self.device.create_shader_module_trusted(description, wgpu::ShaderRuntimeChecks::unchecked()) }
    }

    /// Writes the driver's cache to disk, so that the next process starts faster. Does nothing where there is none.
    pub(super) fn save_pipelines(&self) {
        let Some((cache, path)) = &self.pipelines.driver else { return };
        let mut cached = self.pipelines.cached.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if !std::mem::take(&mut cached.unsaved) {
            return;
        }
        let Some(data) = cache.get_data() else { return };
        let Some(folder) = path.parent() else { return };
        let write = || {
            std::fs::create_dir_all(folder).map_err(|error| Error::io("create", folder, error))?;
            let mut file = AtomicFile::create(path)?;
            file.append(&Sha256::digest(&data))?;
            file.append(&data)?;
            file.commit()
        };
        if let Err(error) = write() {
            tracing::debug!(%error, "the pipeline cache was not saved");
        }
    }
}
