//# computes   dst[dst_offset + i dst_stride + e] (=|+=) src[src_offset + i src_stride + e]
//# parallel   an invocation owns one element
//# keys       dtype = f32|f16|i32|u32, add = flag, wg = 256
//# buffers    src, dst
//# launch     flat, ceil(n / wg) work groups
//# numerics   exact copies; sums in f32, of integers with wrap-around
//# history    1: first version
//% include "lib/dtype.wgsl"

struct Params {
  n: u32,          // elements of all blocks
  length: u32,     // of a block
  src_offset: u32,
  src_stride: u32,
  dst_offset: u32,
  dst_stride: u32,
}
struct At { src: u32, dst: u32 }
@group(1) @binding(0) var<uniform> p: Params;
@group(1) @binding(1) var<uniform> at: At;
@group(0) @binding(0) var<storage, read_write> src: array<T>; // blocks of [length]
@group(0) @binding(1) var<storage, read_write> dst: array<T>; // blocks of [length]

//% include "lib/flat.wgsl"

@compute @workgroup_size(${wg})
fn copy_blocks(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let i = flat_group(group, groups) * ${wg}u + lane;
  if i >= p.n {
    return;
  }
  let block = i / p.length;
  let e = i % p.length;
  let value = src[at.src + p.src_offset + block * p.src_stride + e];
  let to = at.dst + p.dst_offset + block * p.dst_stride + e;
//% if add
  dst[to] += value;
//% else
  dst[to] = value;
//% endif
}
