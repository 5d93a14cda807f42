//# computes   dtable[ids[r]] (=|+=) sum over the rows r of equal id, in ascending order, of dout[r]
//# parallel   an invocation owns one element of the first row of its id, and follows the links to the others
//# keys       dtype = f32, add = flag, wg = 256
//# buffers    dout, ids, links, dtable
//# launch     flat, ceil(n / wg) work groups; after gather_rows_grad_links, and after a fill with 0 where it overwrites
//# numerics   sums in f32 in ascending order: deterministic
//# history    1: first version
//% include "lib/dtype.wgsl"

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

//% include "lib/flat.wgsl"

@compute @workgroup_size(${wg})
fn gather_rows_grad(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let i = flat_group(group, groups) * ${wg}u + lane;
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
//% if add
  dtable[to] = T(f32(dtable[to]) + sum);
//% else
  dtable[to] = T(sum);
//% endif
}
