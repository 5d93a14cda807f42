//# computes   dr_t (=|+=) sum over the pairs (i, j) that read row t of r of ds (q_i + r_bias); sums of ds over these pairs
//# parallel   a work group owns 32 rows of r of one head; for 32 query rows at a time an invocation owns 4 rows of r and 4 columns in 32
//# keys       dtype = f32|f16, vec = flag, columns = 1|2|4|8, wg = 64
//# buffers    q, r_bias, work, dr
//# launch     flat, G H ceil(P/32) work groups; D <= 32 columns
//# numerics   f32, ds from scratch; sums in the order of batch and rows, in blocks of 32: deterministic
//# history    1: k and v read through the caches, scores found anew
//#            2: ds from scratch; inputs in f16, dr in f32 all the same
//% include "lib/dtype.wgsl"

//% include "lib/rel_attention.wgsl"
struct At { q: u32, r_bias: u32, work: u32, dr: u32 }
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
@group(0) @binding(1) var<storage, read_write> r_bias: array<Memory>; // [H, D]
@group(0) @binding(2) var<storage, read_write> work: array<u32>;
@group(0) @binding(3) var<storage, read_write> dr: array<Sums>;       // [G, P, H, D]

//% set loaded = ["q", "r_bias", "dr"]
//% set stored = []
//% set summed = ["dr"]
//% include "lib/flat.wgsl"
//% include "lib/rel_attention_tile.wgsl"

var<workgroup> tile: array<vec4f, 288>;  // [32 query rows, 9]: ds of rows x + 8 b of r
var<workgroup> stage: array<vec4f, 256>; // [32 query rows, 8] q, with r_bias
var<workgroup> part: array<vec4f, 64>;

@compute @workgroup_size(${wg})
fn rel_attention_grad_positions(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let tiles = (p.positions + 31u) / 32u;
  let key_tiles = (p.keys + 31u) / 32u;
  let item = flat_group(group, groups);
  if item >= p.groups * p.heads * tiles {
    return; // the whole work group
  }
  let t0 = item % tiles * 32u;
  let h = item / tiles % p.heads;
  let first = item / tiles / p.heads * p.positions; // of the group's rows
  let head = h * p.d;
  let stride = p.heads * p.d;
  let y = lane / 8u;
  let x = lane % 8u;
  var position_sum = vec4f(0.0); // this invocation's share, rows x + 8 b of r
  var o: array<vec4f, ${4 * columns}>; // [columns, rows y + 8 b of r]
  for (var b = p.first_batch; b < p.first_batch + p.batches; b++) {
    for (var m0 = p.first_row; m0 < min(p.first_row + p.slab_rows, p.rows); m0 += 32u) {
      workgroupBarrier();
      find_rows(b, m0, lane);
      // Key of row i and row t of r: j = t - start(i). Rows of the content stream lie in order: skip where no j is a key,
      // as in all batch rows of another group.
      let least = i32(first + t0) - i32(workgroupUniformLoad(&row_start[0]));
      if p.query == 0u && (least >= i32(p.keys) || least + 62 < 0) {
        continue;
      }
      let slab_row = ((b - p.first_batch) * p.heads + h) * p.slab_rows + m0 - p.first_row;
//% for a in range(4)
      {
        let row = y + ${8 * a}u;
        let start = row_start[row];
        let source = at.work + p.slab + (slab_row + row) * key_tiles * 32u;
        var pairs = vec4f(0.0);
        if start != PADDED {
//% for b in range(4)
          let at_${b} = t0 + x + ${8 * b}u;
          let j${b} = i32(first + at_${b}) - i32(start);
          if at_${b} < p.positions && j${b} >= 0 && j${b} < i32(p.keys) {
            pairs[${b}] = bitcast<f32>(work[source + u32(j${b})]);
          }
//% endfor
        }
        tile[row * 9u + x] = pairs;
        position_sum += pairs;
      }
//% endfor
//% for column in range(columns)
//% if column > 0
      workgroupBarrier();
//% endif
      for (var e = lane; e < 256u; e += 64u) {
        let row = e / 8u;
        let c = ${32 * column}u + e % 8u * 4u;
        var query = vec4f(0.0);
        if row_start[row] != PADDED {
          query = q_4((b * p.rows + m0 + row) * stride + head, c) + r_bias_4(head, c);
        }
        stage[e] = query;
      }
      workgroupBarrier();
      {
        var block: array<vec4f, 4>;
        for (var m = 0u; m < 32u; m++) {
          let pairs = tile[m * 9u + y];
          let query = stage[m * 8u + x];
//% for b in range(4)
          block[${b}] = fma(vec4f(pairs[${b}]), query, block[${b}]);
//% endfor
        }
//% for b in range(4)
        o[${4 * column + b}] += block[${b}];
//% endfor
      }
//% endfor
    }
  }
  workgroupBarrier();
  part[lane] = position_sum;
  workgroupBarrier();
  if lane < 32u && t0 + lane < p.positions {
    let to = at.work + p.position_sums + first * p.heads + h * p.positions + t0 + lane;
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
  if t0 + y + ${8 * b}u < p.positions {
    let to = (first + t0 + y + ${8 * b}u) * stride + head;
//% for column in range(columns)
    {
      let c = ${32 * column}u + x * 4u;
      var sum = o[${4 * column + b}];
      if p.accumulate == 1u {
        sum += dr_4(to, c);
      }
      store_dr(to, c, sum);
    }
//% endfor
  }
//% endfor
}
