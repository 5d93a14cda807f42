//# computes   dr_t (=|+=) sum over the pairs (i, j) that read row t of r of ds (q_i + r_bias); sums of ds over these pairs
//# parallel   a work group owns 8 rows of r of one head; for 64 query rows at a time an invocation owns a query row, then columns of dr
//# keys       dtype = f32, columns = 1|2|4, wg = 64
//# buffers    q, k, v, r, w_bias, r_bias, key, dout, lse, work, dr
//# launch     flat, G H ceil(P/8) work groups; D <= 64 columns
//# numerics   f32, probabilities computed again from lse; sums in the order of batch and rows: deterministic
//# history    1: k and v read through the caches
//% include "lib/dtype.wgsl"

//% include "lib/rel_attention.wgsl"
struct At {
  q: u32, k: u32, v: u32, r: u32, w_bias: u32, r_bias: u32, key: u32, dout: u32, lse: u32, work: u32, dr: u32,
}
@group(1) @binding(0) var<uniform> p: Params;
@group(1) @binding(1) var<uniform> at: At;
@group(0) @binding(0) var<storage, read_write> q: array<T>;      // [B, rows, H, D]
@group(0) @binding(1) var<storage, read_write> k: array<T>;      // [B, N, H, D]
@group(0) @binding(2) var<storage, read_write> v: array<T>;      // [B, N, H, D]
@group(0) @binding(3) var<storage, read_write> r: array<T>;      // [G, P, H, D]
@group(0) @binding(4) var<storage, read_write> w_bias: array<T>; // [H, D]
@group(0) @binding(5) var<storage, read_write> r_bias: array<T>; // [H, D]
@group(0) @binding(6) var<storage, read_write> key: array<u32>;  // [2]
@group(0) @binding(7) var<storage, read_write> dout: array<T>;   // [B, rows, H, D]
@group(0) @binding(8) var<storage, read_write> lse: array<T>;    // [B, H, rows]
@group(0) @binding(9) var<storage, read_write> work: array<u32>;
@group(0) @binding(10) var<storage, read_write> dr: array<T>;    // [G, P, H, D]

//% include "lib/flat.wgsl"
//% include "lib/math.wgsl"
//% include "lib/dropout.wgsl"
//% include "lib/rel_attention_tile.wgsl"

var<workgroup> r_rows: array<f32, ${64 * columns * 8}>; // [D, 8]
var<workgroup> tile: array<f32, 512>; // [8, 64], ds
var<workgroup> part: array<f32, 64>;  // [8 rows of r, 8 invocations]

@compute @workgroup_size(${wg})
fn rel_attention_grad_positions(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let tiles = (p.positions + 7u) / 8u;
  let item = flat_group(group, groups);
  if item >= p.groups * p.heads * tiles {
    return; // the whole work group
  }
  let t0 = item % tiles * 8u;
  let h = item / tiles % p.heads;
  let first = item / tiles / p.heads * p.positions; // of the group's rows
  let head = h * p.d;
  let stride = p.heads * p.d; // between the rows of every tensor
  for (var e = lane; e < 8u * p.d; e += 64u) {
    let tt = e / p.d;
    let c = e % p.d;
    r_rows[c * 8u + tt] = f32(r[at.r + (first + min(t0 + tt, p.positions - 1u)) * stride + head + c]);
  }
  var sum = 0.0; // this invocation's share of the sum of ds
  var o: array<f32, ${8 * columns}>;
  for (var b = 0u; b < p.batch; b++) {
    for (var m0 = 0u; m0 < p.rows; m0 += 64u) {
      // Key of row i and row t of r: j = t - L + i. Rows of the content stream lie in order: skip where no j is a key.
      let last = i32(t0 + 7u + min(m0 + 63u, p.rows - 1u)) - i32(p.length);
      let least = i32(t0 + m0) - i32(p.length);
      if p.query == 0u && (last < 0 || least >= i32(p.keys)) {
        continue;
      }
      workgroupBarrier();
      let m = m0 + lane;
      var start = PADDED;
      if m < p.rows {
        start = work[at.work + p.starts + b * p.rows + m];
      }
      // Keys of this row; those of other groups lie outside by themselves.
      let j0 = i32(first + t0) - i32(start);
      for (var tt = 0u; tt < 8u; tt++) {
        tile[tt * 64u + lane] = 0.0;
      }
      if start != PADDED && j0 > -8 && j0 < i32(p.keys) {
        let first_element = (b * p.rows + m) * stride + head;
        var s: array<f32, 8>;
        var dp: array<f32, 8>;
        for (var c = 0u; c < p.d; c++) {
          let x = f32(q[at.q + first_element + c]);
          let y = f32(dout[at.dout + first_element + c]);
          let content = x + f32(w_bias[at.w_bias + head + c]);
          let position = x + f32(r_bias[at.r_bias + head + c]);
          for (var tt = 0u; tt < 8u; tt++) {
            let j = u32(clamp(j0 + i32(tt), 0, i32(p.keys) - 1));
            let other = (b * p.keys + j) * stride + head + c;
            s[tt] = fma(content, f32(k[at.k + other]), s[tt]);
            s[tt] = fma(position, r_rows[c * 8u + tt], s[tt]);
            dp[tt] = fma(y, f32(v[at.v + other]), dp[tt]);
          }
        }
        let index = (b * p.heads + h) * p.rows + m;
        let log_sum = f32(lse[at.lse + index]);
        let delta = bitcast<f32>(work[at.work + p.deltas + index]);
        // The eight keys lie in two blocks of decisions.
        let block = u32(max(j0, 0)) / 8u;
        var words = vec4u(0u);
        var next = vec4u(0u);
        if p.threshold > 0u {
          words = decisions(block, m, b, h);
          next = decisions(block + 1u, m, b, h);
        }
        for (var tt = 0u; tt < 8u; tt++) {
          let j = j0 + i32(tt);
          if j >= 0 && j < i32(p.keys) && t0 + tt < p.positions {
            let x = probability(score(s[tt], b, h, m, u32(j)), log_sum);
            var mask = 1.0;
            if p.threshold > 0u {
              mask = factor(select(words, next, u32(j) / 8u > block), u32(j));
            }
            tile[tt * 64u + lane] = x * fma(mask, dp[tt], -delta) * p.scale;
          }
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
          let bias = f32(r_bias[at.r_bias + head + c]);
          for (var mm = 0u; mm < end; mm++) {
            // A padded target has no gradient, whatever its row holds.
            if work[at.work + p.starts + b * p.rows + m0 + mm] != PADDED {
              let x = f32(q[at.q + (b * p.rows + m0 + mm) * stride + head + c]) + bias;
              for (var tt = 0u; tt < 8u; tt++) {
                o[${8 * column}u + tt] = fma(tile[tt * 64u + mm], x, o[${8 * column}u + tt]);
              }
            }
          }
        }
      }
//% endfor
    }
  }
  workgroupBarrier();
  part[lane] = sum;
  workgroupBarrier();
  if lane < 8u && t0 + lane < p.positions {
    let to = at.work + p.position_sums + (first * p.heads + h * p.positions) + t0 + lane;
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
    for (var tt = 0u; tt < 8u; tt++) {
      if c < p.d && t0 + tt < p.positions {
        let to = at.dr + (first + t0 + tt) * stride + head + c;
        var x = o[${8 * column}u + tt];
        if p.accumulate == 1u {
          x += f32(dr[to]);
        }
        dr[to] = T(x);
      }
    }
  }
//% endfor
}
