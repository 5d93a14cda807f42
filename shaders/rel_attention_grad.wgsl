//# computes   ds = p * (mask dout.v - dout.out) * scale; dq_i = sum over j of ds (k_j + r_ij) + (sum of ds over other segments) (seg_embed[1] - seg_embed[0])
//# parallel   a work group owns 8 rows of one head; for 64 keys at a time an invocation owns a key, then columns of dq
//# keys       dtype = f32, relative = flag, columns = 1|2|4, wg = 64
//# buffers    q, k, v, r, w_bias, r_bias, seg_embed, key, dout, out, lse, work, dq
//# launch     flat, B H ceil(rows/8) work groups; D <= 64 columns
//# numerics   f32, probabilities computed again from lse; ds of a row sum to 0, so the segment term needs one sum alone, freed of the rounding of dout.out by that of all
//# history    1: r and k read through the caches, q, dout and ds from work group memory
//% include "lib/dtype.wgsl"

//% include "lib/rel_attention.wgsl"
struct At {
  q: u32, k: u32, v: u32, r: u32, w_bias: u32, r_bias: u32, seg_embed: u32, key: u32, dout: u32, out: u32, lse: u32,
  work: u32, dq: u32,
}
@group(1) @binding(0) var<uniform> p: Params;
@group(1) @binding(1) var<uniform> at: At;
@group(0) @binding(0) var<storage, read_write> q: array<T>;         // [B, rows, H, D]
@group(0) @binding(1) var<storage, read_write> k: array<T>;         // [B, N, H, D]
@group(0) @binding(2) var<storage, read_write> v: array<T>;         // [B, N, H, D]
//% if relative
@group(0) @binding(3) var<storage, read_write> r: array<T>;         // [G, P, H, D]
@group(0) @binding(4) var<storage, read_write> w_bias: array<T>;    // [H, D]
@group(0) @binding(5) var<storage, read_write> r_bias: array<T>;    // [H, D]
//% endif
@group(0) @binding(6) var<storage, read_write> seg_embed: array<T>; // [2, H, D]
@group(0) @binding(7) var<storage, read_write> key: array<u32>;     // [2]
@group(0) @binding(8) var<storage, read_write> dout: array<T>;      // [B, rows, H, D]
@group(0) @binding(9) var<storage, read_write> out: array<T>;       // [B, rows, H, D]
@group(0) @binding(10) var<storage, read_write> lse: array<T>;      // [B, H, rows]
@group(0) @binding(11) var<storage, read_write> work: array<u32>;
@group(0) @binding(12) var<storage, read_write> dq: array<T>;       // [B, rows, H, D]

//% include "lib/flat.wgsl"
//% include "lib/math.wgsl"
//% include "lib/dropout.wgsl"
//% include "lib/rel_attention_tile.wgsl"

var<workgroup> q_content: array<f32, ${64 * columns * 8}>;  // [D, 8], with w_bias
//% if relative
var<workgroup> q_position: array<f32, ${64 * columns * 8}>; // [D, 8], with r_bias
//% endif
var<workgroup> d_rows: array<f32, ${64 * columns * 8}>;     // [D, 8], dout
var<workgroup> tile: array<f32, 512>;  // [8, 64]
var<workgroup> part: array<f32, 64>;   // [8 rows, 8 invocations]
var<workgroup> bits: array<vec4u, 64>; // [8 rows, 8 blocks], decisions

// Sums over the work group of a value for each row.
fn row_totals(values: array<f32, 8>, lane: u32) -> array<f32, 8> {
  workgroupBarrier(); // the tile has been read
  for (var m = 0u; m < 8u; m++) {
    tile[m * 64u + lane] = values[m];
  }
  workgroupBarrier();
  var sum = 0.0;
  for (var e = 0u; e < 8u; e++) {
    sum += tile[lane * 8u + e]; // of row lane / 8
  }
  part[lane] = sum;
  workgroupBarrier();
  var totals: array<f32, 8>;
  for (var m = 0u; m < 8u; m++) {
    for (var e = 0u; e < 8u; e++) {
      totals[m] += part[m * 8u + e];
    }
  }
  return totals;
}

@compute @workgroup_size(${wg})
fn rel_attention_grad(
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
    let first_element = (b * p.rows + min(m0 + m, p.rows - 1u)) * stride + head + c;
    let x = f32(q[at.q + first_element]);
    d_rows[c * 8u + m] = f32(dout[at.dout + first_element]);
//% if relative
    q_content[c * 8u + m] = x + f32(w_bias[at.w_bias + head + c]);
    q_position[c * 8u + m] = x + f32(r_bias[at.r_bias + head + c]);
//% else
    q_content[c * 8u + m] = x;
//% endif
  }
  var start: array<u32, 8>;
  var padded: array<bool, 8>;
  var log_sum: array<f32, 8>;
  for (var m = 0u; m < 8u; m++) {
    let row = min(m0 + m, p.rows - 1u);
    let found = work[at.work + p.starts + b * p.rows + row];
    padded[m] = found == PADDED;
    start[m] = select(found, 0u, padded[m]);
    log_sum[m] = f32(lse[at.lse + (b * p.heads + h) * p.rows + row]);
  }
  // Sum of dout * out, by 8 invocations a row.
  let own = lane / 8u;
  let sub = lane % 8u;
  let own_row = min(m0 + own, p.rows - 1u);
  var product = 0.0;
  for (var c = sub; c < p.d; c += 8u) {
    let first_element = (b * p.rows + own_row) * stride + head + c;
    product = fma(f32(dout[at.dout + first_element]), f32(out[at.out + first_element]), product);
  }
  part[lane] = product;
  workgroupBarrier();
  var delta: array<f32, 8>;
  for (var m = 0u; m < 8u; m++) {
    for (var e = 0u; e < 8u; e++) {
      delta[m] += part[m * 8u + e];
    }
  }
  if lane < 8u && m0 + lane < p.rows {
    work[at.work + p.deltas + (b * p.heads + h) * p.rows + m0 + lane] = bitcast<u32>(delta[lane]);
  }
  // This invocation's share of each row's sums: of ds; of ds and of p over keys of another segment.
  var ds_sum: array<f32, 8>;
  var other_ds: array<f32, 8>;
  var other_p: array<f32, 8>;
  var o: array<f32, ${8 * columns}>;
  for (var j0 = 0u; j0 < p.keys; j0 += 64u) {
    workgroupBarrier();
    if p.threshold > 0u {
      bits[lane] = decisions(j0 / 8u + sub, m0 + own, b, h);
    }
    workgroupBarrier();
    let j = j0 + lane;
    if j < p.keys {
      let first_element = (b * p.keys + j) * stride + head;
      var s: array<f32, 8>;
      var dp: array<f32, 8>;
      for (var c = 0u; c < p.d; c++) {
        let x = f32(k[at.k + first_element + c]);
        let y = f32(v[at.v + first_element + c]);
        for (var m = 0u; m < 8u; m++) {
          s[m] = fma(q_content[c * 8u + m], x, s[m]);
          dp[m] = fma(d_rows[c * 8u + m], y, dp[m]);
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
        let x = probability(score(s[m], b, h, min(m0 + m, p.rows - 1u), j), log_sum[m]);
        if p.threshold > 0u {
          dp[m] *= factor(bits[m * 8u + lane / 8u], j);
        }
        let ds = select(x * (dp[m] - delta[m]) * p.scale, 0.0, padded[m]);
        tile[m * 64u + lane] = ds;
        if p.segments == 1u {
          ds_sum[m] += ds;
          if is_other(bits_of(b, min(m0 + m, p.rows - 1u)), j) {
            other_ds[m] += ds;
            other_p[m] += x;
          }
        }
      }
    } else {
      for (var m = 0u; m < 8u; m++) {
        tile[m * 64u + lane] = 0.0;
      }
    }
    workgroupBarrier();
    let end = min(64u, p.keys - j0);
//% for column in range(columns)
    {
      let c = lane + ${64 * column}u;
      if c < p.d {
        for (var jj = 0u; jj < end; jj++) {
          let x = f32(k[at.k + (b * p.keys + j0 + jj) * stride + head + c]);
          for (var m = 0u; m < 8u; m++) {
//% if relative
            let y = x + f32(r[at.r + (start[m] + j0 + jj) * stride + head + c]);
//% else
            let y = x;
//% endif
            o[${8 * column}u + m] = fma(tile[m * 64u + jj], y, o[${8 * column}u + m]);
          }
        }
      }
    }
//% endfor
  }
  // An error of delta enters ds as p times that error; the sum over all keys, 0 but for it, tells how much.
  let excess = row_totals(ds_sum, lane);
  let weights = row_totals(other_p, lane);
  var others = row_totals(other_ds, lane);
  for (var m = 0u; m < 8u; m++) {
    others[m] = select(fma(-weights[m], excess[m], others[m]), 0.0, padded[m]);
  }
  if lane < 8u && m0 + lane < p.rows {
    work[at.work + p.row_sums + (b * p.heads + h) * p.rows + m0 + lane] = bitcast<u32>(others[lane]);
  }
//% for column in range(columns)
  {
    let c = lane + ${64 * column}u;
    if c < p.d {
      var difference = 0.0;
      if p.segments == 1u {
        difference = f32(seg_embed[at.seg_embed + stride + head + c]) - f32(seg_embed[at.seg_embed + head + c]);
      }
      for (var m = 0u; m < 8u; m++) {
        if m0 + m < p.rows {
          dq[at.dq + (b * p.rows + m0 + m) * stride + head + c] = T(fma(others[m], difference, o[${8 * column}u + m]));
        }
      }
    }
  }
//% endfor
}
