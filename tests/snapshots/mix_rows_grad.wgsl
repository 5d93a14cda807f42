alias T = f32; // element type of floating-point tensors in memory

struct Params {
  n: u32, // R d, elements of dout
  d: u32, // row length
}
struct At { dout: u32, weight: u32, dx: u32 }
@group(1) @binding(0) var<uniform> p: Params;
@group(1) @binding(1) var<uniform> at: At;
@group(0) @binding(0) var<storage, read_write> dout: array<T>;   // [R, d]
@group(0) @binding(1) var<storage, read_write> weight: array<T>; // [R]
@group(0) @binding(2) var<storage, read_write> dx: array<T>;     // [R, d]

// Number of this work group in a grid that was folded to two dimensions, since each has at most 65535.
fn flat_group(group: vec3u, groups: vec3u) -> u32 {
  return group.x + group.y * groups.x;
}

@compute @workgroup_size(256)
fn mix_rows_grad(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let i = flat_group(group, groups) * 256u + lane;
  if i >= p.n {
    return;
  }
  let d = (1.0 - f32(weight[at.weight + i / p.d])) * f32(dout[at.dout + i]);
  dx[at.dx + i] = T(f32(dx[at.dx + i]) + d);
}
