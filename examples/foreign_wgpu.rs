//! One op of this library inside another wgpu program: its device, its queue, its buffers, its compute pass; no copies.
//!
//! ```sh
//! cargo run --example foreign_wgpu
//! ```

use anyhow::{Context, Result};
use wgpu::util::DeviceExt;
use xlnet::backend::wgpu::{BoundOp, Gpu, Slice};
use xlnet::op::{Activation, ActivationKind};
use xlnet::program::Builder;
use xlnet::tensor::{DType, TensorId};

fn main() -> Result<()> {
    // What the other program has already.
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
    let adapter = pollster::block_on(instance.request_adapter(&wgpu::RequestAdapterOptions::default()))?;
    let (device, queue) = pollster::block_on(adapter.request_device(&wgpu::DeviceDescriptor::default()))?;
    let input: Vec<f32> = (-4..4).map(|i| i as f32).collect();
    let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC;
    let contents = bytemuck::cast_slice(&input);
    let x = device.create_buffer_init(&wgpu::util::BufferInitDescriptor { label: Some("x"), contents, usage });
    let size = x.size();
    let y = device.create_buffer(&wgpu::BufferDescriptor { label: Some("y"), size, usage, mapped_at_creation: false });

    // The op, and where its tensors lie: number of the buffer, first byte, length.
    let mut b = Builder::new(DType::F32);
    let (x_id, y_id) = (b.input("x", [8]), b.output("y", [8]));
    b.push(Activation { x: x_id, out: y_id, kind: ActivationKind::GeluErf, dropout: None })?;
    let program = b.finish()?;
    let place = |id: TensorId| Slice { buffer: usize::from(id == y_id), offset: 0, bytes: 32, element: 4 };
    let gpu = Gpu::adopt(device.clone(), queue.clone());
    let gelu = BoundOp::new(&gpu, &program, 0, &[x, y.clone()], &place)?;

    // Its own encoder and pass, where other work may stand before and after.
    let readback = wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::MAP_READ;
    let description = wgpu::BufferDescriptor { label: Some("read"), size, usage: readback, mapped_at_creation: false };
    let read = device.create_buffer(&description);
    let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    gelu.encode(&mut encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default()));
    encoder.copy_buffer_to_buffer(&y, 0, &read, 0, None);
    queue.submit([encoder.finish()]);
    read.map_async(wgpu::MapMode::Read, .., |_| {});
    device.poll(wgpu::PollType::wait_indefinitely())?;
    let mapped = read.get_mapped_range(..).ok().context("the buffer is mapped")?;
    let output: &[f32] = bytemuck::cast_slice(&mapped);
    for (x, y) in input.iter().zip(output) {
        println!("gelu({x:>4}) = {y:>9.6}");
    }
    anyhow::ensure!((output[7] - 2.995_950_3).abs() < 1e-5 && output[4] == 0.0, "gelu(3) must be 2.99595, gelu(0) 0");
    Ok(())
}
