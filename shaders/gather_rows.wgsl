//# computes   out[r] = table[ids[r]]; zeros where the id is negative
//# parallel   an invocation owns one element
//# keys       dtype = f32, wg = 256
//# buffers    table, ids, out
//# launch     flat, ceil(n / wg) work groups
//# numerics   exact
//# history    1: first version
//% include "lib/dtype.wgsl"

struct Params {
  n: u32,    // R d, elements of out
  d: u32,    // row length
  rows: u32, // V
}
struct At { table: u32, ids: u32, out: u32 }
@group(1) @binding(0) var<uniform> p: Params;
@group(1) @binding(1) var<uniform> at: At;
@group(0) @binding(0) var<storage, read_write> table: array<T>; // [V, d]
@group(0) @binding(1) var<storage, read_write> ids: array<i32>; // [R]
@group(0) @binding(2) var<storage, read_write> out: array<T>;   // [R, d]

//% include "lib/flat.wgsl"

@compute @workgroup_size(${wg})
fn gather_rows(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let i = flat_group(group, groups) * ${wg}u + lane;
  if i >= p.n {
    return;
  }
  let id = ids[at.ids + i / p.d];
  // The host has checked ids; the clamp keeps a foreign caller's mistake inside the table.
  let row = min(u32(max(id, 0)), p.rows - 1u);
  let value = table[at.table + row * p.d + i % p.d];
  out[at.out + i] = select(T(0), value, id >= 0);
}
