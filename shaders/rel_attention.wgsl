//# computes   out_i = sum over j of dropout(softmax_j(s))(i,j) v_j; lse = log of the softmax's denominator
//# parallel   a work group owns 8 rows of one head; for 64 keys at a time an invocation owns a key, then columns of out
//# keys       dtype = f32, relative = flag, columns = 1|2|4, wg = 64
//# buffers    q, k, v, r, w_bias, r_bias, key, work, out, lse
//# launch     flat, B H ceil(rows/8) work groups; D <= 64 columns
//# numerics   f32, online softmax; sums in the order of the keys: deterministic
//# history    1: r and k read through the caches, q and probabilities from work group memory
//% include "lib/dtype.wgsl"

//% include "lib/rel_attention.wgsl"
struct At { q: u32, k: u32, v: u32, r: u32, w_bias: u32, r_bias: u32, key: u32, work: u32, out: u32, lse: u32 }
@group(1) @binding(0) var<uniform> p: Params;
@group(1) @binding(1) var<uniform> at: At;
@group(0) @binding(0) var<storage, read_write> q: array<T>;      // [B, rows, H, D]
@group(0) @binding(1) var<storage, read_write> k: array<T>;      // [B, N, H, D]
@group(0) @binding(2) var<storage, read_write> v: array<T>;      // [B, N, H, D]
//% if relative
@group(0) @binding(3) var<storage, read_write> r: array<T>;      // [G, P, H, D]
@group(0) @binding(4) var<storage, read_write> w_bias: array<T>; // [H, D]
@group(0) @binding(5) var<storage, read_write> r_bias: array<T>; // [H, D]
//% endif
@group(0) @binding(6) var<storage, read_write> key: array<u32>;  // [2]
@group(0) @binding(7) var<storage, read_write> work: array<u32>;
@group(0) @binding(8) var<storage, read_write> out: array<T>;    // [B, rows, H, D]
@group(0) @binding(9) var<storage, read_write> lse: array<T>;    // [B, H, rows]

//% include "lib/flat.wgsl"
//% include "lib/math.wgsl"
//% include "lib/dropout.wgsl"
//% include "lib/rel_attention_tile.wgsl"

var<workgroup> q_content: array<f32, ${64 * columns * 8}>;  // [D, 8], with w_bias
//% if relative
var<workgroup> q_position: array<f32, ${64 * columns * 8}>; // [D, 8], with r_bias
//% endif
var<workgroup> tile: array<f32, 512>;  // [8, 64]
var<workgroup> part: array<f32, 64>;   // [8 rows, 8 invocations]
var<workgroup> rescale: array<f32, 8>; // of what was summed before this tile

@compute @workgroup_size(${wg})
fn rel_attention(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let tiles = (p.rows + 7u) / 8u;
  let item = flat_group(group, groups);
  if item >= p.batch * p.heads * tiles {
    return; // the whole work group
  }
  let m0 = item % tiles * 8u;
  let h = item / tiles % p.heads;
  let b = item / tiles / p.heads;
  let head = h * p.d;
  let stride = p.heads * p.d; // between the rows of every tensor
  for (var e = lane; e < 8u * p.d; e += 64u) {
    let m = e / p.d;
    let c = e % p.d;
    let row = min(m0 + m, p.rows - 1u);
    let x = f32(q[at.q + (b * p.rows + row) * stride + head + c]);
//% if relative
    q_content[c * 8u + m] = x + f32(w_bias[at.w_bias + head + c]);
    q_position[c * 8u + m] = x + f32(r_bias[at.r_bias + head + c]);
//% else
    q_content[c * 8u + m] = x;
//% endif
  }
  var start: array<u32, 8>;
  for (var m = 0u; m < 8u; m++) {
    let found = work[at.work + p.starts + b * p.rows + min(m0 + m, p.rows - 1u)];
    start[m] = select(found, 0u, found == PADDED);
  }
  workgroupBarrier();
  // Row of the statistics that this invocation keeps, with seven others.
  let own = lane / 8u;
  let sub = lane % 8u;
  var row_max = -3.4e38;
  var row_sum = 0.0;
  var o: array<f32, ${8 * columns}>;
  for (var j0 = 0u; j0 < p.keys; j0 += 64u) {
    let j = j0 + lane;
    if j < p.keys {
      let first_element = (b * p.keys + j) * stride + head;
      var s: array<f32, 8>;
      for (var c = 0u; c < p.d; c++) {
        let x = f32(k[at.k + first_element + c]);
        for (var m = 0u; m < 8u; m++) {
          s[m] = fma(q_content[c * 8u + m], x, s[m]);
        }
      }
//% if relative
      for (var m = 0u; m < 8u; m++) {
        let position = at.r + (start[m] + j) * stride + head;
        for (var c = 0u; c < p.d; c++) {
          s[m] = fma(q_position[c * 8u + m], f32(r[position + c]), s[m]);
        }
      }
//% endif
      for (var m = 0u; m < 8u; m++) {
        tile[m * 64u + lane] = score(s[m], b, h, min(m0 + m, p.rows - 1u), j);
      }
    } else {
      for (var m = 0u; m < 8u; m++) {
        tile[m * 64u + lane] = -3.4e38;
      }
    }
    workgroupBarrier();
    var largest = row_max;
    for (var e = 0u; e < 8u; e++) {
      largest = max(largest, tile[own * 64u + sub * 8u + e]);
    }
    part[lane] = largest;
    workgroupBarrier();
    for (var e = 0u; e < 8u; e++) {
      largest = max(largest, part[own * 8u + e]);
    }
    let correction = exp_f32(row_max - largest);
    row_max = largest;
    var words = vec4u(0u);
    if p.threshold > 0u {
      words = decisions(j0 / 8u + sub, m0 + own, b, h);
    }
    var sum = 0.0;
    for (var e = 0u; e < 8u; e++) {
      let cell = own * 64u + sub * 8u + e;
      let x = exp_f32(tile[cell] - largest);
      sum += x;
      tile[cell] = select(x, x * factor(words, e), p.threshold > 0u);
    }
    row_sum = fma(row_sum, correction, sum);
    if sub == 0u {
      rescale[own] = correction;
    }
    workgroupBarrier();
    let end = min(64u, p.keys - j0);
//% for column in range(columns)
    {
      let c = lane + ${64 * column}u;
      if c < p.d {
        for (var m = 0u; m < 8u; m++) {
          o[${8 * column}u + m] *= rescale[m];
        }
        for (var jj = 0u; jj < end; jj++) {
          let x = f32(v[at.v + (b * p.keys + j0 + jj) * stride + head + c]);
          for (var m = 0u; m < 8u; m++) {
            o[${8 * column}u + m] = fma(tile[m * 64u + jj], x, o[${8 * column}u + m]);
          }
        }
      }
    }
//% endfor
    workgroupBarrier();
  }
  part[lane] = row_sum;
  workgroupBarrier();
  var total = 0.0;
  for (var e = 0u; e < 8u; e++) {
    total += part[own * 8u + e];
  }
  let row = m0 + own;
  if sub == 0u {
    rescale[own] = 1.0 / total;
    if row < p.rows {
      let padded = work[at.work + p.starts + b * p.rows + row] == PADDED;
      lse[at.lse + (b * p.heads + h) * p.rows + row] = T(select(row_max + log_f32(total), 0.0, padded));
    }
  }
  workgroupBarrier();
//% for column in range(columns)
  {
    let c = lane + ${64 * column}u;
    for (var m = 0u; m < 8u; m++) {
      if c < p.d && m0 + m < p.rows {
        let padded = work[at.work + p.starts + b * p.rows + m0 + m] == PADDED;
        out[at.out + (b * p.rows + m0 + m) * stride + head + c] =
          T(select(o[${8 * column}u + m] * rescale[m], 0.0, padded));
      }
    }
  }
//% endfor
}
