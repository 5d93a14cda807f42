//! The executor itself: transfers, pieces of arenas, profiles, errors. What ops compute is tested in `tests/ops.rs`.
//! Runs on the first adapter, a program on the processor being as good as hardware; without any it says so.

use std::sync::Arc;

use super::{Gpu, WgpuExecutor};
use crate::backend::lower::{Caps, Context, Slice, lower, workspace_bytes};
use crate::backend::{Device, Executor};
use crate::kernel::Language;
use crate::op::*;
use crate::program::{Builder, Program};
use crate::tensor::{DType, Role, TensorId};

fn gpu() -> Option<Arc<Gpu>> {
    match Gpu::open(0) {
        Ok(gpu) => Some(gpu),
        Err(error) if std::env::var_os("XLNET_REQUIRE_WGPU").is_none() => {
            println!("not tested: {error}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

fn copy(b: &mut Builder, src: TensorId, dst: TensorId) {
    let (dst, length) = (Target::set(dst), b.shape(src).len());
    let op = CopyBlocks { src, src_offset: 0, src_stride: 0, dst, dst_offset: 0, dst_stride: 0, blocks: 1, length };
    b.push(op).unwrap();
}

/// A chain of copies through tensors of many sizes, and what it must end with.
fn chain() -> (Program, TensorId, TensorId) {
    let mut b = Builder::new(DType::F32);
    let (x, out) = (b.input("x", [1000]), b.output("out", [1000]));
    let mut last = x;
    for i in 0..12 {
        b.param(format!("weight {i}"), [100 + 37 * i]);
        let next = b.activation(&format!("next {i}"), [1000]);
        copy(&mut b, last, next);
        last = next;
    }
    copy(&mut b, last, out);
    (b.finish().unwrap(), x, out)
}

#[test]
fn arenas_in_pieces_hold_what_one_buffer_holds() {
    let Some(gpu) = gpu() else { return };
    let data: Vec<f32> = (0..1000).map(|i| i as f32).collect();
    for chunk in [4096, 8192, 1 << 30] {
        let (program, x, out) = chain();
        let mut executor: Box<dyn Executor> =
            Box::new(WgpuExecutor::in_chunks(gpu.clone(), Arc::new(program), chunk).unwrap());
        assert_eq!(executor.held_bytes(), executor.plan().total_bytes());
        executor.upload_f32(x, &data).unwrap();
        executor.run_phase("run").unwrap();
        assert_eq!(executor.download_f32(out).unwrap(), data, "pieces of {chunk} bytes");
    }
    let (program, ..) = chain();
    let refused = WgpuExecutor::in_chunks(gpu, Arc::new(program), 1024).err().expect("too small").to_string();
    assert!(refused.contains("max_buffer_size"), "{refused}");
}

#[test]
fn transfers_check_lengths_and_views() {
    if gpu().is_none() {
        return;
    }
    let mut b = Builder::new(DType::F32);
    let (x, y) = (b.input("x", [3]), b.output("y", [3]));
    copy(&mut b, x, y);
    let tail = b.view(x, 1, [2]).unwrap();
    let unused = b.activation("unused", [3]);
    let mut e = Device::Wgpu(0).open(Arc::new(b.finish().unwrap())).unwrap();
    e.write(tail, bytemuck::cast_slice(&[5f32, 6.0])).unwrap();
    assert_eq!(e.download_f32(x).unwrap(), [0.0, 5.0, 6.0]);
    e.run(0..1).unwrap();
    e.upload_f32(x, &[1.0; 3]).unwrap(); // after the run
    assert_eq!(e.download_f32(y).unwrap(), [0.0, 5.0, 6.0]);
    let text = e.write(x, &[0; 8]).unwrap_err().to_string();
    assert_eq!(text, "transfer: x: expected 12 bytes, got 8 bytes");
    assert!(e.read(unused, &mut [0; 12]).unwrap_err().to_string().contains("no op touches it"));
    assert!(e.read(TensorId(99), &mut []).is_err());
    assert!(e.run(0..2).is_err());
    e.sync().unwrap();
}

#[test]
fn indices_are_checked_when_the_op_runs() {
    if gpu().is_none() {
        return;
    }
    let mut b = Builder::new(DType::F32);
    let (table, ids, out) = (b.param("table", [5, 4]), b.input_i32("ids", [3]), b.output("out", [3, 4]));
    b.scoped("embedding", |b| b.push(GatherRows { table, ids, out })).unwrap();
    let mut e = Device::Wgpu(0).open(Arc::new(b.finish().unwrap())).unwrap();
    e.upload_i32(ids, &[-1, 4, 5]).unwrap();
    let text = e.run_phase("run").unwrap_err().to_string();
    assert!(text.starts_with("gather_rows in embedding: element 2 of ids: "), "{text}");
    e.upload_i32(ids, &[-1, 4, 0]).unwrap();
    e.run_phase("run").unwrap();
}

#[test]
fn profiles_count_runs() {
    if gpu().is_none() {
        return;
    }
    let (program, ..) = chain();
    let ops = program.steps.len();
    let mut e = Device::Wgpu(0).open(Arc::new(program)).unwrap();
    assert!(e.profile(true).is_empty());
    for _ in 0..3 {
        e.run_phase("run").unwrap();
    }
    let times = e.profile(false);
    assert_eq!(
        times.iter().map(|t| (t.op, t.runs)).collect::<Vec<_>>(),
        (0..ops).map(|op| (op, 3)).collect::<Vec<_>>()
    );
    assert!(times.iter().all(|t| t.time.as_secs() < 10));
    e.run_phase("run").unwrap();
    assert!(e.profile(false).is_empty());
}

#[test]
fn what_an_adapter_lacks_is_named() {
    let Some(gpu) = gpu() else { return };
    let mut b = Builder::new(DType::Bf16);
    let out = b.output("out", [3]);
    b.scoped("head", |b| b.push(Fill { out, value: 1.0 })).unwrap();
    let text = Device::Wgpu(0).open(Arc::new(b.finish().unwrap())).err().expect("refused").to_string();
    assert!(text.starts_with("fill in head: half precision is for operands of products"), "{text}");
    // A tensor that no buffer of the adapter holds, were it in memory or not.
    let mut b = Builder::new(DType::F32);
    let out = b.output("logits", [1 << 20, 1 << 20]);
    b.push(Fill { out, value: 1.0 }).unwrap();
    let text = Device::Wgpu(0).open(Arc::new(b.finish().unwrap())).err().expect("refused").to_string();
    assert!(text.contains("logits has") && text.contains("use a smaller batch or vocabulary"), "{text}");
    // An index tensor that an op writes cannot be checked on the host.
    let mut b = Builder::new(DType::F32);
    let (table, ids) = (b.param("table", [5, 4]), b.input_i32("ids", [3]));
    let (moved, out) = (b.tensor("moved", [3], DType::I32, Role::Activation), b.output("out", [3, 4]));
    copy(&mut b, ids, moved);
    b.push(GatherRows { table, ids: moved, out }).unwrap();
    let text = WgpuExecutor::new(gpu, Arc::new(b.finish().unwrap())).err().expect("refused").to_string();
    assert!(text.contains("gather_rows: moved is written by an op"), "{text}");
}

#[test]
fn a_lost_device_is_an_error_that_says_so() {
    if gpu().is_none() {
        return;
    }
    let gpu = Arc::new(Gpu::request(0).unwrap());
    let (program, x, out) = chain();
    let mut e: Box<dyn Executor> = Box::new(WgpuExecutor::new(gpu.clone(), Arc::new(program)).unwrap());
    e.upload_f32(x, &[1.0; 1000]).unwrap();
    e.run_phase("run").unwrap();
    assert_eq!(e.download_f32(out).unwrap(), [1.0; 1000]);
    gpu.lose();
    let told = |text: String| assert!(text.contains("the device was lost") && text.contains("run again"), "{text}");
    told(e.upload_f32(x, &[2.0; 1000]).unwrap_err().to_string());
    told(e.run_phase("run").unwrap_err().to_string());
    told(e.download_f32(out).unwrap_err().to_string());
    told(e.sync().unwrap_err().to_string());
    let (program, ..) = chain();
    told(WgpuExecutor::new(gpu, Arc::new(program)).err().expect("refused").to_string());
}

#[test]
fn memory_that_is_not_there_is_named() {
    let Some(gpu) = gpu() else { return };
    let huge = wgpu::BufferDescriptor {
        label: None,
        size: gpu.device.limits().max_buffer_size.saturating_add(4),
        usage: wgpu::BufferUsages::STORAGE,
        mapped_at_creation: false,
    };
    let refused = gpu.caught(|| "7 bytes of tensors".into(), || gpu.device.create_buffer(&huge)).err();
    let text = refused.expect("refused").to_string();
    assert!(text.starts_with(&gpu.name()) && text.contains("7 bytes of tensors"), "{text}");
    // What went wrong there is nobody else's error.
    gpu.check().unwrap();
}

#[test]
fn what_lies_side_by_side_is_launched_together() {
    if gpu().is_none() {
        return;
    }
    // Updates of odd sizes, all at once and one by one: the same bits.
    let mut b = Builder::new(DType::F32);
    let (square_norm, hyper) = (b.output("square_norm", [1]), b.input("hyper", [Adam::HYPER_LEN]));
    let mut all = vec![];
    for i in 0..9 {
        let roles = [Role::Param, Role::Grad, Role::OptState, Role::OptState];
        all.push(roles.map(|role| b.tensor(format!("{role}{i}"), [1 + 97 * i], DType::F32, role)));
    }
    for (i, [_, grad, ..]) in all.iter().enumerate() {
        let out = if i == 0 { Target::set(square_norm) } else { Target::add(square_norm) };
        // Whatever writes the gradients; here the host does.
        b.push(Fill { out: *grad, value: 0.0 }).unwrap();
        b.push(SquareNorm { x: *grad, out }).unwrap();
    }
    b.phase("update");
    for (i, &[_, x, ..]) in all.iter().enumerate() {
        let out = if i == 0 { Target::set(square_norm) } else { Target::add(square_norm) };
        b.push(SquareNorm { x, out }).unwrap();
    }
    for &[param, grad, m, v] in &all {
        let (decays, grad_scale, lr_scale) = (true, 1.0, 1.0);
        b.push(Adam { param, grad, m, v, square_norm, hyper, decays, grad_scale, lr_scale }).unwrap();
    }
    let program = Arc::new(b.finish().unwrap());
    let ops = program.phase("update");
    let run = |parts: &[std::ops::Range<usize>]| {
        let mut e = Device::Wgpu(0).open(program.clone()).unwrap();
        e.upload_f32(hyper, &[0.1, 1.0, 0.9, 0.999, 1e-8, 0.01, 1.0]).unwrap();
        for (i, tensors) in all.iter().enumerate() {
            for (j, &id) in tensors.iter().enumerate().take(2) {
                let n = 1 + 97 * i;
                e.upload_f32(id, &(0..n).map(|k| ((k * 7 + i + j) % 13) as f32 - 6.0).collect::<Vec<_>>()).unwrap();
            }
        }
        for _ in 0..3 {
            parts.iter().for_each(|part| e.run(part.clone()).unwrap());
        }
        let of = |e: &mut Box<dyn Executor>, id| e.download_f32(id).unwrap();
        let norm = of(&mut e, square_norm)[0];
        (norm, all.iter().flatten().flat_map(|&id| of(&mut e, id)).map(f32::to_bits).collect::<Vec<_>>())
    };
    let (norm, together) = run(std::slice::from_ref(&ops));
    let expected: f32 =
        (0..9).flat_map(|i| (0..1 + 97 * i).map(move |k| ((k * 7 + i + 1) % 13) as f32 - 6.0)).map(|x| x * x).sum();
    assert_eq!(norm, expected); // whole numbers
    let one_by_one: Vec<_> = ops.clone().map(|op| op..op + 1).collect();
    assert!(run(&one_by_one) == (norm, together.clone()));
    // Pieces that begin and end inside.
    assert!(run(&[ops.start..ops.start + 5, ops.start + 5..ops.end - 4, ops.end - 4..ops.end]) == (norm, together));
}

#[test]
fn plans_need_no_device() {
    let (program, ..) = chain();
    let plan = Device::Wgpu(7).plan(&program).unwrap();
    assert!(plan.total_bytes() > 0);
}

/// Lowers the last op for an adapter with `caps`.
fn refusal(b: Builder, caps: &Caps) -> String {
    let program = b.finish().unwrap();
    let slice = |id: TensorId| {
        let (bytes, element) = (program.tensor(id).bytes(), program.tensor(id).dtype.size());
        Slice { buffer: id.index(), offset: 0, bytes, element }
    };
    let index = program.steps.len() - 1;
    let op = &program.steps[index].op;
    let bytes = workspace_bytes(Language::Wgsl, op, &program);
    let workspace = Some(Slice { buffer: 99, offset: 0, bytes, element: 4 });
    let place = program.place(index);
    let context = Context { tensors: &program.tensors, slice: &slice, workspace, caps, place };
    lower(op, &context).map(drop).expect_err("refused").to_string()
}

#[test]
fn lesser_adapters_refuse_in_a_sentence() {
    let cast = |dtype| {
        let mut b = Builder::new(DType::F32);
        let (src, out) = (b.input("x", [1000]), b.tensor("x.half", [1000], dtype, Role::Output));
        b.scoped("head", |b| b.push(Cast { src, out })).unwrap();
        b
    };
    let text = refusal(cast(DType::F16), &Caps { f16: false, ..Caps::default() });
    assert!(text.starts_with("cast in head: this adapter lacks SHADER_F16") && text.contains("use f32"), "{text}");
    let text = refusal(cast(DType::Bf16), &Caps::default());
    assert!(text.starts_with("cast in head: WGSL has no bf16; use float16"), "{text}");
    let text = refusal(cast(DType::F16), &Caps { binding_bytes: 1024, ..Caps::default() });
    assert!(text.contains("max_storage_buffer_binding_size") && text.contains("use a smaller batch"), "{text}");
    let text = refusal(cast(DType::F16), &Caps { storage_buffers: 1, ..Caps::default() });
    assert!(text.contains("max_storage_buffers_per_shader_stage"), "{text}");
    let text = refusal(cast(DType::F16), &Caps { groups: [1, 0, 1], ..Caps::default() });
    assert!(text.contains("too many for one launch"), "{text}");
}
