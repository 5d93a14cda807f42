//# computes   dk_j (=|+=) sum over i of ds (q_i + w_bias); dv_j (=|+=) sum over i of dropout(p) dout_i; sums of ds over the rows
//# parallel   a work group owns 8 keys of one head; for 64 rows at a time an invocation owns a row, then columns of dk and dv
//# keys       dtype = f32, relative = flag, columns = 1|2|4, wg = 64
//# buffers    q, k, v, r, w_bias, r_bias, key, dout, lse, work, dk, dv
//# launch     flat, B H ceil(N/8) work groups; D <= 64 columns
//# numerics   f32, probabilities computed again from lse; sums in the order of the rows: deterministic
//# history    1: q, dout and r read through the caches, k, v, p and ds from work group memory
//% include "lib/dtype.wgsl"

//% include "lib/rel_attention.wgsl"
struct At {
  q: u32, k: u32, v: u32, r: u32, w_bias: u32, r_bias: u32, key: u32, dout: u32, lse: u32, work: u32, dk: u32, dv: u32,
}
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
@group(0) @binding(7) var<storage, read_write> dout: array<T>;   // [B, rows, H, D]
@group(0) @binding(8) var<storage, read_write> lse: array<T>;    // [B, H, rows]
@group(0) @binding(9) var<storage, read_write> work: array<u32>;
@group(0) @binding(10) var<storage, read_write> dk: array<T>;    // [B, N, H, D]
@group(0) @binding(11) var<storage, read_write> dv: array<T>;    // [B, N, H, D]

//% include "lib/flat.wgsl"
//% include "lib/math.wgsl"
//% include "lib/dropout.wgsl"
//% include "lib/rel_attention_tile.wgsl"

var<workgroup> k_rows: array<f32, ${64 * columns * 8}>; // [D, 8]
var<workgroup> v_rows: array<f32, ${64 * columns * 8}>; // [D, 8]
var<workgroup> tile: array<f32, 512>;    // [8, 64], ds
var<workgroup> kept: array<f32, 512>;    // [8, 64], dropout(p)
var<workgroup> part: array<f32, 64>;     // [8 keys, 8 invocations]

@compute @workgroup_size(${wg})
fn rel_attention_grad_keys(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let tiles = (p.keys + 7u) / 8u;
  let item = flat_group(group, groups);
  if item >= p.batch * p.heads * tiles {
    return; // the whole work group
  }
  let j0 = item % tiles * 8u;
  let h = item / tiles % p.heads;
  let b = item / tiles / p.heads;
  let head = h * p.d;
  let stride = p.heads * p.d; // between the rows of every tensor
  for (var e = lane; e < 8u * p.d; e += 64u) {
    let jj = e / p.d;
    let c = e % p.d;
    let first_element = (b * p.keys + min(j0 + jj, p.keys - 1u)) * stride + head + c;
    k_rows[c * 8u + jj] = f32(k[at.k + first_element]);
    v_rows[c * 8u + jj] = f32(v[at.v + first_element]);
  }
  var sum = 0.0; // this invocation's share of the sum of ds over the rows
  var ok: array<f32, ${8 * columns}>;
  var ov: array<f32, ${8 * columns}>;
  for (var m0 = 0u; m0 < p.rows; m0 += 64u) {
    workgroupBarrier();
    let m = m0 + lane;
    var start = PADDED;
    if m < p.rows {
      start = work[at.work + p.starts + b * p.rows + m];
    }
    if start != PADDED {
      let first_element = (b * p.rows + m) * stride + head;
      var s: array<f32, 8>;
      var dp: array<f32, 8>;
      for (var c = 0u; c < p.d; c++) {
        let x = f32(q[at.q + first_element + c]);
        let y = f32(dout[at.dout + first_element + c]);
//% if relative
        let content = x + f32(w_bias[at.w_bias + head + c]);
        let position = x + f32(r_bias[at.r_bias + head + c]);
//% else
        let content = x;
//% endif
        for (var jj = 0u; jj < 8u; jj++) {
          s[jj] = fma(content, k_rows[c * 8u + jj], s[jj]);
//% if relative
          let row = start + min(j0 + jj, p.keys - 1u);
          s[jj] = fma(position, f32(r[at.r + row * stride + head + c]), s[jj]);
//% endif
          dp[jj] = fma(y, v_rows[c * 8u + jj], dp[jj]);
        }
      }
      let index = (b * p.heads + h) * p.rows + m;
      let log_sum = f32(lse[at.lse + index]);
      let delta = bitcast<f32>(work[at.work + p.deltas + index]);
      var words = vec4u(0u);
      if p.threshold > 0u {
        words = decisions(j0 / 8u, m, b, h);
      }
      for (var jj = 0u; jj < 8u; jj++) {
        let x = probability(score(s[jj], b, h, m, min(j0 + jj, p.keys - 1u)), log_sum);
        var mask = 1.0;
        if p.threshold > 0u {
          mask = factor(words, jj);
        }
        tile[jj * 64u + lane] = x * fma(mask, dp[jj], -delta) * p.scale;
        kept[jj * 64u + lane] = x * mask;
      }
    } else {
      for (var jj = 0u; jj < 8u; jj++) {
        tile[jj * 64u + lane] = 0.0;
        kept[jj * 64u + lane] = 0.0;
      }
    }
    workgroupBarrier();
    let cell = lane / 8u * 64u + lane % 8u * 8u;
    for (var e = 0u; e < 8u; e++) {
      sum += tile[cell + e];
    }
    let end = min(64u, p.rows - m0);
//% for column in range(columns)
    {
      let c = lane + ${64 * column}u;
      if c < p.d {
//% if relative
        let bias = f32(w_bias[at.w_bias + head + c]);
//% else
        let bias = 0.0;
//% endif
        for (var mm = 0u; mm < end; mm++) {
          // A padded target has no gradient, whatever its row holds.
          if work[at.work + p.starts + b * p.rows + m0 + mm] != PADDED {
            let first_element = (b * p.rows + m0 + mm) * stride + head + c;
            let x = f32(q[at.q + first_element]) + bias;
            let y = f32(dout[at.dout + first_element]);
            for (var jj = 0u; jj < 8u; jj++) {
              ok[${8 * column}u + jj] = fma(tile[jj * 64u + mm], x, ok[${8 * column}u + jj]);
              ov[${8 * column}u + jj] = fma(kept[jj * 64u + mm], y, ov[${8 * column}u + jj]);
            }
          }
        }
      }
    }
//% endfor
  }
  workgroupBarrier();
  part[lane] = sum;
  workgroupBarrier();
  if lane < 8u && j0 + lane < p.keys {
    let to = at.work + p.column_sums + (b * p.heads + h) * p.keys + j0 + lane;
    var total = 0.0;
    if p.accumulate == 1u {
      total = bitcast<f32>(work[to]);
    }
    for (var e = 0u; e < 8u; e++) {
      total += part[lane * 8u + e];
    }
    work[to] = bitcast<u32>(total);
  }
//% for column in range(columns)
  {
    let c = lane + ${64 * column}u;
    for (var jj = 0u; jj < 8u; jj++) {
      if c < p.d && j0 + jj < p.keys {
        let to = (b * p.keys + j0 + jj) * stride + head + c;
        var x = ok[${8 * column}u + jj];
        var y = ov[${8 * column}u + jj];
        if p.accumulate == 1u {
          x += f32(dk[at.dk + to]);
          y += f32(dv[at.dv + to]);
        }
        dk[at.dk + to] = T(x);
        dv[at.dv + to] = T(y);
      }
    }
  }
//% endfor
}
