alias T = f32; // element type of floating-point tensors in memory

struct Params {
  n: u32,    // R d, elements of dout
  d: u32,    // row length
  rows: u32, // V
  ids: u32,  // R
}
struct At { dout: u32, ids: u32, links: u32, dtable: u32 }
@group(1) @binding(0) var<uniform> p: Params;
@group(1) @binding(1) var<uniform> at: At;
@group(0) @binding(0) var<storage, read_write> dout: array<T>;    // [R, d]
@group(0) @binding(1) var<storage, read_write> ids: array<i32>;   // [R]
@group(0) @binding(2) var<storage, read_write> links: array<u32>; // [R]: 2 next + (0 for the first row of an id, else 1)
@group(0) @binding(3) var<storage, read_write> dtable: array<T>;  // [V, d]

// Number of this work group in a grid that was folded to two dimensions, since each has at most 65535.
fn flat_group(group: vec3u, groups: vec3u) -> u32 {
  return group.x + group.y * groups.x;
}

@compute @workgroup_size(256)
fn gather_rows_grad(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let i = flat_group(group, groups) * 256u + lane;
  if i >= p.n {
    return;
  }
  let c = i % p.d;
  var r = i / p.d;
  let id = ids[at.ids + r];
  if id < 0 || u32(id) >= p.rows || (links[at.links + r] & 1u) != 0u {
    return;
  }
  var sum = 0.0;
  while r < p.ids {
    sum += f32(dout[at.dout + r * p.d + c]);
    r = links[at.links + r] >> 1u;
  }
  let to = at.dtable + u32(id) * p.d + c;
  dtable[to] = T(f32(dtable[to]) + sum);
}
