//# computes   sum = dropout(x) + residual; out = (sum - mean) * rstd * gamma + beta; rounded = out
//# parallel   a work group owns one row
//# keys       dtype = f32, half = none|f16, residual = flag, dropout = flag, kept = flag, wg = 64, subgroups = flag
//# buffers    x, residual, key, gamma, beta, out, sum, mean, rstd, rounded
//# launch     flat, R work groups
//# numerics   two passes (mean, then variance) in f32, sums over the work group: deterministic
//# history    1: first version; 2: dropout by row of the whole batch; x in half precision and a copy of out in it
//% if half == "f16"
enable f16;
//% endif
//% include "lib/dtype.wgsl"

struct Params {
  rows: u32,      // R
  d: u32,         // row length
  eps: f32,
  site: u32,      // number of the dropout place
  threshold: u32, // 16 bits below this drop an element
  scale: f32,     // factor of kept elements
  statistics: u32, // 1: write mean, 2: write rstd
  lead: u32,      // rows of a batch row in the first part
  tail: u32,      // rows of a batch row in the second part
  split: u32,     // rows of the first part
}
struct At { x: u32, residual: u32, key: u32, gamma: u32, beta: u32, out: u32, sum: u32, mean: u32, rstd: u32, rounded: u32 }
@group(1) @binding(0) var<uniform> p: Params;
@group(1) @binding(1) var<uniform> at: At;
@group(0) @binding(0) var<storage, read_write> x: array<${"T" if half == "none" else half}>;        // [R, d]
//% if residual
@group(0) @binding(1) var<storage, read_write> residual: array<T>; // [R, d]
//% endif
//% if dropout
@group(0) @binding(2) var<storage, read_write> key: array<u32>;    // [2 + B]
//% endif
@group(0) @binding(3) var<storage, read_write> gamma: array<T>;    // [d]
@group(0) @binding(4) var<storage, read_write> beta: array<T>;     // [d]
@group(0) @binding(5) var<storage, read_write> out: array<T>;      // [R, d]
//% if kept
@group(0) @binding(6) var<storage, read_write> sum: array<T>;      // [R, d]
//% endif
@group(0) @binding(7) var<storage, read_write> mean: array<T>;     // [R]
@group(0) @binding(8) var<storage, read_write> rstd: array<T>;     // [R]
//% if half != "none"
@group(0) @binding(9) var<storage, read_write> rounded: array<f16>; // [R, d]
//% endif

//% include "lib/flat.wgsl"
//% include "lib/reduce.wgsl"
//% if half != "none"
//% include "lib/half.wgsl"
//% endif
//% if dropout
//% include "lib/dropout_rows.wgsl"
//% endif
//% set kept_at = "sum[at.sum + " if kept else "out[at.out + "
//% set step = 8 if dropout else 1

@compute @workgroup_size(${wg})
fn layer_norm(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  lanes: Lanes,
) {
  let lane = lanes.lane;
  let r = flat_group(group, groups);
  if r >= p.rows {
    return; // the whole work group
  }
  let row = r * p.d;
//% if dropout
  let place = place_of(r);
  var words = vec4u();
//% endif
  // An invocation owns runs of ${step} columns in every pass; the sums wait in memory that only it touches.
  var total = 0.0;
  for (var first = lane * ${step}u; first < p.d; first += ${wg * step}u) {
    for (var c = first; c < min(first + ${step}u, p.d); c++) {
      let i = row + c;
      var s = f32(x[at.x + i]);
//% if dropout
      if c % 8u == 0u {
        words = row_block(c / 8u, place);
      }
      s *= select(0.0, p.scale, keeps(words, c % 8u, p.threshold));
//% endif
//% if residual
      s += f32(residual[at.residual + i]);
//% endif
      ${kept_at}i] = T(s);
      total += s;
    }
  }
  let m = group_sum(total, lanes) / f32(p.d);
  var squares = 0.0;
  for (var first = lane * ${step}u; first < p.d; first += ${wg * step}u) {
    for (var c = first; c < min(first + ${step}u, p.d); c++) {
      let e = f32(${kept_at}row + c]) - m;
      squares = fma(e, e, squares);
    }
  }
  let deviation = 1.0 / sqrt(group_sum(squares, lanes) / f32(p.d) + p.eps);
  for (var first = lane * ${step}u; first < p.d; first += ${wg * step}u) {
    for (var c = first; c < min(first + ${step}u, p.d); c++) {
      let normed = (f32(${kept_at}row + c]) - m) * deviation;
      let y = fma(normed, f32(gamma[at.gamma + c]), f32(beta[at.beta + c]));
      out[at.out + row + c] = T(y);
//% if half != "none"
      rounded[at.rounded + row + c] = f16(to_half(y));
//% endif
    }
  }
  if lane == 0u && (p.statistics & 1u) != 0u {
    mean[at.mean + r] = T(m);
  }
  if lane == 0u && (p.statistics & 2u) != 0u {
    rstd[at.rstd + r] = T(deviation);
  }
}
