//# computes   n = (sum - mean) * rstd; g = dout * gamma; dsum = rstd * (g - mean(g) - n * mean(g n)); dx = mask * dsum
//# parallel   a work group owns one row; dgamma and dbeta are sums over rows, of layer_norm_grad_columns
//# keys       dtype = f32, half = none|f16, dropout = flag, wg = 64, subgroups = flag
//# buffers    dout, sum, mean, rstd, gamma, dsum, key, dx
//# launch     flat, R work groups
//# numerics   sums in f32 over the work group: deterministic
//# history    1: first version; 2: dropout by row of the whole batch; dx in half precision
//% if half == "f16"
enable f16;
//% endif
//% include "lib/dtype.wgsl"

struct Params {
  rows: u32,      // R
  d: u32,         // row length
  site: u32,      // number of the dropout place
  threshold: u32, // 16 bits below this drop an element
  scale: f32,     // factor of kept elements
  lead: u32,      // rows of a batch row in the first part
  tail: u32,      // rows of a batch row in the second part
  split: u32,     // rows of the first part
}
struct At { dout: u32, sum: u32, mean: u32, rstd: u32, gamma: u32, dsum: u32, key: u32, dx: u32 }
@group(1) @binding(0) var<uniform> p: Params;
@group(1) @binding(1) var<uniform> at: At;
@group(0) @binding(0) var<storage, read_write> dout: array<T>;  // [R, d]
@group(0) @binding(1) var<storage, read_write> sum: array<T>;   // [R, d]
@group(0) @binding(2) var<storage, read_write> mean: array<T>;  // [R]
@group(0) @binding(3) var<storage, read_write> rstd: array<T>;  // [R]
@group(0) @binding(4) var<storage, read_write> gamma: array<T>; // [d]
@group(0) @binding(5) var<storage, read_write> dsum: array<T>;  // [R, d]
//% if dropout
@group(0) @binding(6) var<storage, read_write> key: array<u32>; // [2 + B]
//% endif
//% if dropout or half != "none"
@group(0) @binding(7) var<storage, read_write> dx: array<${"T" if half == "none" else half}>;    // [R, d]
//% endif

//% include "lib/flat.wgsl"
//% include "lib/reduce.wgsl"
//% if half != "none"
//% include "lib/half.wgsl"
//% endif
//% if dropout
//% include "lib/dropout_rows.wgsl"
//% endif
//% set step = 8 if dropout else 1

@compute @workgroup_size(${wg})
fn layer_norm_grad(
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
  let m = f32(mean[at.mean + r]);
  let deviation = f32(rstd[at.rstd + r]);
  // In both passes an invocation owns runs of ${step} columns: dsum may be dout.
  var total = 0.0;
  var product = 0.0;
  for (var first = lane * ${step}u; first < p.d; first += ${wg * step}u) {
    for (var c = first; c < min(first + ${step}u, p.d); c++) {
      let g = f32(dout[at.dout + row + c]) * f32(gamma[at.gamma + c]);
      total += g;
      product = fma(g, (f32(sum[at.sum + row + c]) - m) * deviation, product);
    }
  }
  let mean_g = group_sum(total, lanes) / f32(p.d);
  let mean_gn = group_sum(product, lanes) / f32(p.d);
//% if dropout
  let place = place_of(r);
  var words = vec4u();
//% endif
  for (var first = lane * ${step}u; first < p.d; first += ${wg * step}u) {
    for (var c = first; c < min(first + ${step}u, p.d); c++) {
      let i = row + c;
      let g = f32(dout[at.dout + i]) * f32(gamma[at.gamma + c]);
      let normed = (f32(sum[at.sum + i]) - m) * deviation;
      let d = deviation * (g - mean_g - normed * mean_gn);
      dsum[at.dsum + i] = T(d);
//% if dropout
      if c % 8u == 0u {
        words = row_block(c / 8u, place);
      }
      let kept = d * select(0.0, p.scale, keeps(words, c % 8u, p.threshold));
//% elif half != "none"
      let kept = d;
//% endif
//% if half != "none"
      dx[at.dx + i] = f16(to_half(kept));
//% elif dropout
      dx[at.dx + i] = kept;
//% endif
    }
  }
}
