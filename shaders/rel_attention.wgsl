//# computes   out_i = sum over j of dropout(softmax_j(s))(i,j) v_j; lse = log of the softmax's denominator
//# parallel   a work group owns 32 rows of one head; for 32 keys at a time an invocation owns 4 x 4 pairs, then 4 rows and 4 columns in 32
//# keys       dtype = f32|f16, relative = none|band|rows, vec = flag, columns = 1|2|4|8, wg = 64
//# buffers    q, k, v, r, w_bias, r_bias, key, work, out, lse
//# launch     flat, B H ceil(rows/32) work groups; D <= 32 columns
//# numerics   f32, online softmax; dot products in blocks of 16, sums over keys in blocks of 32: deterministic
//# history    1: r and k read through the caches, q and probabilities from work group memory
//#            2: everything in tiles of work group memory, four elements at a time; the query stream alone reads r through the caches; tensors in f16
//% include "lib/dtype.wgsl"

//% include "lib/rel_attention.wgsl"
struct At { q: u32, k: u32, v: u32, r: u32, w_bias: u32, r_bias: u32, key: u32, work: u32, out: u32, lse: u32 }
@group(1) @binding(0) var<uniform> p: Params;
@group(1) @binding(1) var<uniform> at: At;
//% if vec
alias Memory = vec4<T>;
//% else
alias Memory = T;
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
@group(0) @binding(7) var<storage, read_write> work: array<u32>;
@group(0) @binding(8) var<storage, read_write> out: array<Memory>;    // [B, rows, H, D]
@group(0) @binding(9) var<storage, read_write> lse: array<f32>;       // [B, H, rows]

//% set backward = false
//% set loaded = ["q", "k", "v"] + (["r", "w_bias", "r_bias"] if relative != "none" else [])
//% set stored = ["out"]
//% set summed = []
//% include "lib/flat.wgsl"
//% include "lib/math.wgsl"
//% include "lib/dropout.wgsl"
//% include "lib/stored.wgsl"
//% include "lib/rel_attention_tile.wgsl"
//% include "lib/rel_attention_score.wgsl"

var<workgroup> tile: array<vec4f, 288>; // [32 keys, 9]: probabilities of rows y + 8 a
var<workgroup> part: array<vec4f, 64>;  // of each invocation, for its four rows

@compute @workgroup_size(${wg})
fn rel_attention(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let tiles = (p.rows + 31u) / 32u;
  let item = flat_group(group, groups);
  if item >= p.batch * p.heads * tiles {
    return; // the whole work group
  }
  let m0 = item % tiles * 32u;
  let h = item / tiles % p.heads;
  let b = item / tiles / p.heads;
  let head = h * p.d;
  let stride = p.heads * p.d;
  let y = lane / 8u;
  let x = lane % 8u;
  find_rows(b, m0, lane);
  var most = vec4f(-3.4e38); // largest score so far of rows y + 8 a
  var total = vec4f(0.0);    // this invocation's share of the denominators
  var o: array<vec4f, ${4 * columns}>; // [columns, 4 rows]
  for (var j0 = 0u; j0 < p.keys; j0 += 32u) {
    workgroupBarrier();
    if p.threshold > 0u {
      draw(b, h, m0, j0, lane);
    }
    var s = products(b, h, m0, j0, lane);
    let inside = exist(j0, x);
    var largest: vec4f;
//% for a in range(4)
    s[${a}] = select(vec4f(-3.4e38), scores_of(s[${a}], b, h, m0 + y + ${8 * a}u, j0, x), inside);
    largest[${a}] = max(max(s[${a}].x, s[${a}].y), max(s[${a}].z, s[${a}].w));
//% endfor
    part[lane] = largest;
    workgroupBarrier();
    largest = most;
    for (var e = 0u; e < 8u; e++) {
      largest = max(largest, part[y * 8u + e]);
    }
    let correction = exp_4(most - largest);
    most = largest;
    total *= correction;
//% for a in range(4)
    s[${a}] = exp_4(s[${a}] - vec4f(largest[${a}]));
    total[${a}] += (s[${a}].x + s[${a}].y) + (s[${a}].z + s[${a}].w);
    s[${a}] *= factors(y + ${8 * a}u, x);
//% endfor
//% for b in range(4)
    tile[(x + ${8 * b}u) * 9u + y] = vec4f(s[0][${b}], s[1][${b}], s[2][${b}], s[3][${b}]);
//% endfor
//% for column in range(columns)
    for (var e = lane; e < 256u; e += 64u) {
      let j = min(j0 + e / 8u, p.keys - 1u);
      stage[e] = v_4((b * p.keys + j) * stride + head, ${32 * column}u + e % 8u * 4u);
    }
    workgroupBarrier();
    {
      var block: array<vec4f, 4>;
      for (var j = 0u; j < 32u; j++) {
        let weights = tile[j * 9u + y];
        let value = stage[j * 8u + x];
//% for a in range(4)
        block[${a}] = fma(vec4f(weights[${a}]), value, block[${a}]);
//% endfor
      }
//% for a in range(4)
      o[${4 * column + a}] = fma(o[${4 * column + a}], vec4f(correction[${a}]), block[${a}]);
//% endfor
    }
//% if column + 1 < columns
    workgroupBarrier();
//% endif
//% endfor
  }
  workgroupBarrier();
  part[lane] = total;
  workgroupBarrier();
  total = vec4f(0.0);
  for (var e = 0u; e < 8u; e++) {
    total += part[y * 8u + e];
  }
//% for a in range(4)
  {
    let m = m0 + y + ${8 * a}u;
    let padded = row_start[y + ${8 * a}u] == PADDED;
    if m < p.rows {
      if x == 0u {
        lse[at.lse + (b * p.heads + h) * p.rows + m] = select(most[${a}] + log_f32(total[${a}]), 0.0, padded);
      }
//% for column in range(columns)
      store_out(
        (b * p.rows + m) * stride + head,
        ${32 * column}u + x * 4u,
        select(o[${4 * column + a}] / total[${a}], vec4f(0.0), padded),
      );
//% endfor
    }
  }
//% endfor
}
