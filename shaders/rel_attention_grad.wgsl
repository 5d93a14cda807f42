//# computes   ds = p * (mask dout.v - dout.out) * scale, to scratch; dk_j (=|+=) sum over i of ds (q_i + w_bias); dv_j (=|+=) sum over i of dropout(p) dout_i
//# parallel   a work group owns 32 keys of one head; for 32 rows at a time an invocation owns 4 x 4 pairs, then 4 keys and 4 columns in 32
//# keys       dtype = f32|f16, relative = none|band|rows, vec = flag, columns = 1|2|4|8, wg = 64
//# buffers    q, k, v, r, w_bias, r_bias, key, dout, lse, work, dk, dv
//# launch     flat, batches H ceil(N/32) work groups; D <= 32 columns; once for each slab of rows whose ds fits scratch
//# numerics   f32, probabilities computed again from lse; dot products in blocks of 16, sums over rows in blocks of 32: deterministic
//# history    1: ds found anew by each of three kernels
//#            2: ds found once, in tiles of work group memory, and kept for the rows of a slab; inputs in f16, dk and dv in f32 all the same
//% include "lib/dtype.wgsl"

//% include "lib/rel_attention.wgsl"
struct At {
  q: u32, k: u32, v: u32, r: u32, w_bias: u32, r_bias: u32, key: u32, dout: u32, lse: u32, work: u32, dk: u32, dv: u32,
}
@group(1) @binding(0) var<uniform> p: Params;
@group(1) @binding(1) var<uniform> at: At;
//% if vec
alias Memory = vec4<T>;
alias Sums = vec4f;
//% else
alias Memory = T;
alias Sums = f32;
//% endif
@group(0) @binding(0) var<storage, read_write> q: array<Memory>;      // [B, rows, H, D]
@group(0) @binding(1) var<storage, read_write> k: array<Memory>;      // [B, N, H, D]
@group(0) @binding(2) var<storage, read_write> v: array<Memory>;      // [B, N, H, D]
//% if relative != "none"
@group(0) @binding(3) var<storage, read_write> r: array<Memory>;      // [G, P, H, D]
@group(0) @binding(4) var<storage, read_write> w_bias: array<Memory>; // [H, D]
@group(0) @binding(5) var<storage, read_write> r_bias: array<Memory>; // [H, D]
//% endif
@group(0) @binding(6) var<storage, read_write> key: array<u32>;       // [2 + B]
@group(0) @binding(7) var<storage, read_write> dout: array<Memory>;   // [B, rows, H, D]
@group(0) @binding(8) var<storage, read_write> lse: array<f32>;       // [B, H, rows]
@group(0) @binding(9) var<storage, read_write> work: array<u32>;
@group(0) @binding(10) var<storage, read_write> dk: array<Sums>;      // [B, N, H, D]
@group(0) @binding(11) var<storage, read_write> dv: array<Sums>;      // [B, N, H, D]

//% set backward = true
//% set loaded = ["q", "k", "v", "dout", "dk", "dv"] + (["r", "w_bias", "r_bias"] if relative != "none" else [])
//% set stored = []
//% set summed = ["dk", "dv"]
//% include "lib/flat.wgsl"
//% include "lib/math.wgsl"
//% include "lib/dropout.wgsl"
//% include "lib/rel_attention_tile.wgsl"
//% include "lib/rel_attention_score.wgsl"

var<workgroup> row_lse: array<f32, 32>;
var<workgroup> row_delta: array<f32, 32>;
var<workgroup> ds_tile: array<vec4f, 288>;   // [32 rows, 9]: ds of keys x + 8 b
var<workgroup> drop_tile: array<vec4f, 288>; // [32 rows, 9]: dropout(p)
var<workgroup> part: array<vec4f, 64>;       // of each invocation, for its four rows or keys

// Probabilities of scores, from the logarithm of the row's denominator. Where all keys are hidden that is the hidden
// score itself, in which the number of keys is lost.
fn probabilities(s: vec4f, log_sum: f32) -> vec4f {
  return select(exp_4(s - vec4f(log_sum)), vec4f(1.0 / f32(p.keys)), vec4<bool>(log_sum < 0.5 * HIDDEN));
}

@compute @workgroup_size(${wg})
fn rel_attention_grad(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let tiles = (p.keys + 31u) / 32u;
  let item = flat_group(group, groups);
  if item >= p.batches * p.heads * tiles {
    return; // the whole work group
  }
  let j0 = item % tiles * 32u;
  let slab_head = item / tiles; // of [batches, H]
  let h = slab_head % p.heads;
  let b = p.first_batch + slab_head / p.heads;
  let head = h * p.d;
  let stride = p.heads * p.d;
  let y = lane / 8u;
  let x = lane % 8u;
  let inside = exist(j0, x);
  var column_sum = vec4f(0.0); // this invocation's share, keys x + 8 b
  var ok: array<vec4f, ${4 * columns}>; // [columns, keys y + 8 b]
  var ov: array<vec4f, ${4 * columns}>;
  for (var m0 = p.first_row; m0 < min(p.first_row + p.slab_rows, p.rows); m0 += 32u) {
    workgroupBarrier();
    find_rows(b, m0, lane);
    if lane < 32u {
      let row = (b * p.heads + h) * p.rows + min(m0 + lane, p.rows - 1u);
      row_lse[lane] = lse[at.lse + row];
      row_delta[lane] = bitcast<f32>(work[at.work + p.deltas + row]);
    }
    if p.threshold > 0u {
      draw(b, h, m0, j0, lane);
    }
    workgroupBarrier();
    let s = products(b, h, m0, j0, lane);
    var other_sum: vec4f; // of p over keys of another segment, rows y + 8 a
    var column_block = vec4f(0.0);
//% for a in range(4)
    {
      let row = y + ${8 * a}u;
      let m = m0 + row;
      // A padded target has no gradient, whatever its row holds.
      let valid = inside & vec4<bool>(row_start[row] != PADDED);
      let probability = probabilities(scores_of(s[${a}], b, h, m, j0, x), row_lse[row]);
      let mask = factors(row, x);
      let ds = select(vec4f(0.0), probability * fma(mask, s[${4 + a}], vec4f(-row_delta[row])) * p.scale, valid);
      ds_tile[row * 9u + x] = ds;
      drop_tile[row * 9u + x] = select(vec4f(0.0), probability * mask, valid);
      column_block += ds;
      let to = at.work + p.slab + (slab_head * p.slab_rows + m - p.first_row) * tiles * 32u + j0 + x;
//% for b in range(4)
      work[to + ${8 * b}u] = bitcast<u32>(ds[${b}]);
//% endfor
      if p.segments == 1u {
        let other = (vec4u(others_of(b, m, j0) >> x) >> vec4u(0u, 8u, 16u, 24u)) & vec4u(1u);
        let share = select(vec4f(0.0), probability, valid & (other == vec4u(1u)));
        other_sum[${a}] = (share.x + share.y) + (share.z + share.w);
      }
    }
//% endfor
    column_sum += column_block;
    part[lane] = other_sum;
//% for column in range(columns)
    workgroupBarrier();
    for (var e = lane; e < 256u; e += 64u) {
      let row = e / 8u;
      let c = ${32 * column}u + e % 8u * 4u;
      let first = (b * p.rows + m0 + row) * stride + head;
      var query = vec4f(0.0);
      var gradient = vec4f(0.0);
      if row_start[row] != PADDED {
        query = q_4(first, c);
//% if relative != "none"
        query += w_bias_4(head, c);
//% endif
        gradient = dout_4(first, c);
      }
      stage[e] = query;
      stage[256u + e] = gradient;
    }
    workgroupBarrier();
    {
      var block: array<vec4f, 8>;
      for (var m = 0u; m < 32u; m++) {
        let ds = ds_tile[m * 9u + y];
        let dropped = drop_tile[m * 9u + y];
        let query = stage[m * 8u + x];
        let gradient = stage[256u + m * 8u + x];
//% for b in range(4)
        block[${b}] = fma(vec4f(ds[${b}]), query, block[${b}]);
        block[${4 + b}] = fma(vec4f(dropped[${b}]), gradient, block[${4 + b}]);
//% endfor
      }
//% for b in range(4)
      ok[${4 * column + b}] += block[${b}];
      ov[${4 * column + b}] += block[${4 + b}];
//% endfor
    }
//% endfor
    if p.segments == 1u && x == 0u {
      var sum = vec4f(0.0);
      for (var e = 0u; e < 8u; e++) {
        sum += part[lane + e];
      }
      let to = at.work + p.others + (slab_head * p.slab_rows + m0 - p.first_row + y) * tiles + j0 / 32u;
//% for a in range(4)
      work[to + ${8 * a}u * tiles] = bitcast<u32>(sum[${a}]);
//% endfor
    }
  }
  workgroupBarrier();
  part[lane] = column_sum;
  workgroupBarrier();
  if lane < 32u && j0 + lane < p.keys {
    let to = at.work + p.column_sums + (b * p.heads + h) * p.keys + j0 + lane;
    var total = 0.0;
    if p.accumulate == 1u {
      total = bitcast<f32>(work[to]);
    }
    for (var e = 0u; e < 8u; e++) {
      total += part[e * 8u + lane % 8u][lane / 8u];
    }
    work[to] = bitcast<u32>(total);
  }
//% for b in range(4)
  if j0 + y + ${8 * b}u < p.keys {
    let to = (b * p.keys + j0 + y + ${8 * b}u) * stride + head;
//% for column in range(columns)
    {
      let c = ${32 * column}u + x * 4u;
      var sum_k = ok[${4 * column + b}];
      var sum_v = ov[${4 * column + b}];
      if p.accumulate == 1u {
        sum_k += dk_4(to, c);
        sum_v += dv_4(to, c);
      }
      store_dk(to, c, sum_k);
      store_dv(to, c, sum_v);
    }
//% endfor
  }
//% endfor
}
