alias T = f32; // element type of floating-point tensors in memory

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

// Number of this work group in a grid that was folded to two dimensions, since each has at most 65535.
fn flat_group(group: vec3u, groups: vec3u) -> u32 {
  return group.x + group.y * groups.x;
}

@compute @workgroup_size(256)
fn copy_blocks(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let i = flat_group(group, groups) * 256u + lane;
  if i >= p.n {
    return;
  }
  let block = i / p.length;
  let e = i % p.length;
  let value = src[at.src + p.src_offset + block * p.src_stride + e];
  let to = at.dst + p.dst_offset + block * p.dst_stride + e;
  dst[to] += value;
}
