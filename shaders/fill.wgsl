//# computes   out = value
//# parallel   an invocation owns one element
//# keys       dtype = f32, wg = 256
//# buffers    out
//# launch     flat, ceil(n / wg) work groups
//# numerics   exact
//# history    1: first version
//% include "lib/dtype.wgsl"

struct Params {
  n: u32, // elements
  value: f32,
}
struct At { out: u32 }
@group(1) @binding(0) var<uniform> p: Params;
@group(1) @binding(1) var<uniform> at: At;
@group(0) @binding(0) var<storage, read_write> out: array<T>; // [n]

//% include "lib/flat.wgsl"

@compute @workgroup_size(${wg})
fn fill(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let i = flat_group(group, groups) * ${wg}u + lane;
  if i < p.n {
    out[at.out + i] = T(p.value);
  }
}
