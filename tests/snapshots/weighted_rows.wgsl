alias T = f32; // element type of floating-point tensors in memory

struct Params {
  n: u32,    // B d, elements of out
  d: u32,    // row length
  rows: u32, // L
}
struct At { x: u32, weight: u32, out: u32 }
@group(1) @binding(0) var<uniform> p: Params;
@group(1) @binding(1) var<uniform> at: At;
@group(0) @binding(0) var<storage, read_write> x: array<T>;      // [B, L, d]
@group(0) @binding(1) var<storage, read_write> weight: array<T>; // [B, L]
@group(0) @binding(2) var<storage, read_write> out: array<T>;    // [B, d]

// Number of this work group in a grid that was folded to two dimensions, since each has at most 65535.
fn flat_group(group: vec3u, groups: vec3u) -> u32 {
  return group.x + group.y * groups.x;
}

@compute @workgroup_size(64)
fn weighted_rows(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let i = flat_group(group, groups) * 64u + lane;
  if i >= p.n {
    return;
  }
  let b = i / p.d;
  let c = i % p.d;
  var sum = 0.0;
  for (var r = b * p.rows; r < (b + 1u) * p.rows; r++) {
    sum = fma(f32(weight[at.weight + r]), f32(x[at.x + r * p.d + c]), sum);
  }
  out[at.out + i] = T(sum);
}
