//# computes   out[g] (=|+=) sum of x, of x^2 or of x * weight over the g-th of equal parts: a step of square_norm and losses
//# parallel   a work group owns one part
//# keys       source = f32, dtype = f32, of = x|square|product, add = flag, wg = 256, subgroups = flag
//# buffers    x, weight, out
//# launch     [parts]; many parts go to scratch in f32 and are summed by a second launch of one part
//# numerics   f32; each invocation in ascending order, then over the work group: deterministic
//# history    1: first version
//% include "lib/dtype.wgsl"
alias S = ${source}; // element type of x

struct Params {
  n: u32,    // elements
  part: u32, // elements of a part
}
struct At { x: u32, weight: u32, out: u32 }
@group(1) @binding(0) var<uniform> p: Params;
@group(1) @binding(1) var<uniform> at: At;
@group(0) @binding(0) var<storage, read_write> x: array<S>;      // [n]
//% if of == "product"
@group(0) @binding(1) var<storage, read_write> weight: array<T>; // [n]
//% endif
@group(0) @binding(2) var<storage, read_write> out: array<T>;    // [parts]

//% include "lib/reduce.wgsl"

@compute @workgroup_size(${wg})
fn sum(@builtin(workgroup_id) group: vec3u, lanes: Lanes) {
  let lane = lanes.lane;
  let end = min((group.x + 1u) * p.part, p.n);
  var total = 0.0;
  for (var i = group.x * p.part + lane; i < end; i += ${wg}u) {
    let value = f32(x[at.x + i]);
//% if of == "square"
    total = fma(value, value, total);
//% elif of == "product"
    total = fma(value, f32(weight[at.weight + i]), total);
//% else
    total += value;
//% endif
  }
  total = group_sum(total, lanes);
  if lane == 0u {
    let to = at.out + group.x;
//% if add
    out[to] = T(f32(out[to]) + total);
//% else
    out[to] = T(total);
//% endif
  }
}
