//# computes   dx (=|+=) (1 - hidden) * y * (dy - sum over c of y dy)
//# parallel   a work group owns one row
//# keys       dtype = f32, hidden = flag, add = flag, wg = 128, subgroups = flag
//# buffers    y, dy, hidden, dx
//# launch     flat, R work groups
//# numerics   sums in f32 over the work group: deterministic
//# history    1: first version
//% include "lib/dtype.wgsl"

struct Params {
  rows: u32,    // R
  columns: u32, // C
}
struct At { y: u32, dy: u32, hidden: u32, dx: u32 }
@group(1) @binding(0) var<uniform> p: Params;
@group(1) @binding(1) var<uniform> at: At;
@group(0) @binding(0) var<storage, read_write> y: array<T>;      // [R, C]
@group(0) @binding(1) var<storage, read_write> dy: array<T>;     // [R, C]
//% if hidden
@group(0) @binding(2) var<storage, read_write> hidden: array<T>; // [R, C]
//% endif
@group(0) @binding(3) var<storage, read_write> dx: array<T>;     // [R, C]

//% include "lib/flat.wgsl"
//% include "lib/reduce.wgsl"

@compute @workgroup_size(${wg})
fn softmax_grad(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  lanes: Lanes,
) {
  let lane = lanes.lane;
  let r = flat_group(group, groups);
  if r >= p.rows {
    return; // the whole work group
  }
  let row = r * p.columns;
  var dot = 0.0;
  for (var c = lane; c < p.columns; c += ${wg}u) {
    dot = fma(f32(y[at.y + row + c]), f32(dy[at.dy + row + c]), dot);
  }
  dot = group_sum(dot, lanes);
  for (var c = lane; c < p.columns; c += ${wg}u) {
    let i = row + c;
    var d = f32(y[at.y + i]) * (f32(dy[at.dy + i]) - dot);
//% if hidden
    d *= 1.0 - f32(hidden[at.hidden + i]);
//% endif
//% if add
    dx[at.dx + i] = T(f32(dx[at.dx + i]) + d);
//% else
    dx[at.dx + i] = T(d);
//% endif
  }
}
