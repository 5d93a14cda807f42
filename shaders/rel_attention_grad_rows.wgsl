//# computes   dq_i = sum over j of ds (k_j + r_ij) + (sum of ds over other segments) (seg_embed[1] - seg_embed[0])
//# parallel   a work group owns 32 rows of one head; for 32 keys at a time an invocation owns 4 rows and 4 columns in 32
//# keys       dtype = f32|f16, relative = none|band|rows, vec = flag, columns = 1|2|4|8, wg = 64
//# buffers    k, r, seg_embed, work, dq
//# launch     flat, batches H ceil(slab_rows/32) work groups; D <= 32 columns
//# numerics   f32, ds from scratch; sums over keys in blocks of 32; ds of a row sum to 0, so the segment term needs one sum alone, freed of the rounding of dout.out by that of all
//# history    2: step of rel_attention_grad of its own; tensors in f16
//% include "lib/dtype.wgsl"

//% include "lib/rel_attention.wgsl"
struct At { k: u32, r: u32, seg_embed: u32, work: u32, dq: u32 }
@group(1) @binding(0) var<uniform> p: Params;
@group(1) @binding(1) var<uniform> at: At;
//% if vec
alias Memory = vec4<T>;
//% else
alias Memory = T;
//% endif
@group(0) @binding(0) var<storage, read_write> k: array<Memory>;         // [B, N, H, D]
//% if relative != "none"
@group(0) @binding(1) var<storage, read_write> r: array<Memory>;         // [G, P, H, D]
//% endif
@group(0) @binding(2) var<storage, read_write> seg_embed: array<Memory>; // [2, H, D]
@group(0) @binding(3) var<storage, read_write> work: array<u32>;
@group(0) @binding(4) var<storage, read_write> dq: array<Memory>;        // [B, rows, H, D]

//% set loaded = ["k", "seg_embed"] + (["r"] if relative != "none" else [])
//% set stored = ["dq"]
//% set summed = []
//% include "lib/flat.wgsl"
//% include "lib/stored.wgsl"
//% include "lib/rel_attention_tile.wgsl"

var<workgroup> tile: array<vec4f, 288>;  // [32 keys, 9]: ds of rows y + 8 a
//% if relative == "band"
var<workgroup> stage: array<vec4f, 760>; // [32 keys, 8] k, [63, 8] r
//% else
var<workgroup> stage: array<vec4f, 256>; // [32 keys, 8] k
//% endif
var<workgroup> part: array<vec4f, 64>;   // of each invocation, for its four rows

// Sum over the invocations that share rows.
fn row_totals(value: vec4f, lane: u32) -> vec4f {
  workgroupBarrier();
  part[lane] = value;
  workgroupBarrier();
  var total = vec4f(0.0);
  for (var e = 0u; e < 8u; e++) {
    total += part[lane / 8u * 8u + e];
  }
  return total;
}

@compute @workgroup_size(${wg})
fn rel_attention_grad_rows(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let tiles = p.slab_rows / 32u;
  let key_tiles = (p.keys + 31u) / 32u;
  let item = flat_group(group, groups);
  let m0 = p.first_row + item % tiles * 32u;
  if item >= p.batches * p.heads * tiles || m0 >= p.rows {
    return; // the whole work group
  }
  let slab_head = item / tiles; // of [batches, H]
  let h = slab_head % p.heads;
  let b = p.first_batch + slab_head / p.heads;
  let head = h * p.d;
  let stride = p.heads * p.d;
  let y = lane / 8u;
  let x = lane % 8u;
  let slab_row = slab_head * p.slab_rows + m0 - p.first_row + y;
  find_rows(b, m0, lane);
  // This invocation's share of each row's sums: of ds, of ds and of p over keys of another segment.
  var all = vec4f(0.0);
  var other = vec4f(0.0);
  var other_p = vec4f(0.0);
  var o: array<vec4f, ${4 * columns}>; // [columns, rows y + 8 a]
  for (var j0 = 0u; j0 < p.keys; j0 += 32u) {
    workgroupBarrier();
    var ds: array<vec4f, 4>;
//% for a in range(4)
    {
      let source = at.work + p.slab + (slab_row + ${8 * a}u) * key_tiles * 32u + j0 + x;
      let pairs = vec4f(
        bitcast<f32>(work[source]), bitcast<f32>(work[source + 8u]), bitcast<f32>(work[source + 16u]),
        bitcast<f32>(work[source + 24u]),
      );
      ds[${a}] = pairs;
      if p.segments == 1u {
        all[${a}] += (pairs.x + pairs.y) + (pairs.z + pairs.w);
        let bits = (vec4u(others_of(b, m0 + y + ${8 * a}u, j0) >> x) >> vec4u(0u, 8u, 16u, 24u)) & vec4u(1u);
        let share = select(vec4f(0.0), pairs, bits == vec4u(1u));
        other[${a}] += (share.x + share.y) + (share.z + share.w);
      }
    }
//% endfor
//% for b in range(4)
    tile[(x + ${8 * b}u) * 9u + y] = vec4f(ds[0][${b}], ds[1][${b}], ds[2][${b}], ds[3][${b}]);
//% endfor
//% for column in range(columns)
//% if column > 0
    workgroupBarrier();
//% endif
    for (var e = lane; e < 256u; e += 64u) {
      let j = min(j0 + e / 8u, p.keys - 1u);
      stage[e] = k_4((b * p.keys + j) * stride + head, ${32 * column}u + e % 8u * 4u);
    }
//% if relative == "band"
    let band${column} = i32(row_start[0]) + i32(j0) - 31; // row of r of the first key and the last row
    for (var e = lane; e < 504u; e += 64u) {
      let row = clamp(band${column} + i32(e / 8u), 0, i32(p.groups * p.positions) - 1);
      stage[256u + e] = r_4(u32(row) * stride + head, ${32 * column}u + e % 8u * 4u);
    }
//% endif
    workgroupBarrier();
    {
      var block: array<vec4f, 4>;
//% if relative == "rows"
      let last = p.groups * p.positions - 1u;
//% endif
      for (var j = 0u; j < 8u; j++) {
//% if relative == "band"
//% for t in range(7)
        let r${t} = stage[256u + (j + ${7 + 8 * t}u - y) * 8u + x];
//% endfor
//% endif
//% for b in range(4)
        {
          let pairs = tile[(j + ${8 * b}u) * 9u + y];
          let content = stage[(j + ${8 * b}u) * 8u + x];
//% for a in range(4)
//% if relative == "band"
          block[${a}] = fma(vec4f(pairs[${a}]), content + r${b - a + 3}, block[${a}]);
//% elif relative != "none"
          {
            let start = row_start[y + ${8 * a}u];
            let row = min(select(start, 0u, start == PADDED) + j0 + j + ${8 * b}u, last);
            let position = r_4(row * stride + head, ${32 * column}u + x * 4u);
            block[${a}] = fma(vec4f(pairs[${a}]), content + position, block[${a}]);
          }
//% else
          block[${a}] = fma(vec4f(pairs[${a}]), content, block[${a}]);
//% endif
//% endfor
        }
//% endfor
      }
//% for a in range(4)
      o[${4 * column + a}] += block[${a}];
//% endfor
    }
//% endfor
  }
  var others = vec4f(0.0);
  if p.segments == 1u {
    for (var t = x; t < key_tiles; t += 8u) {
//% for a in range(4)
      other_p[${a}] += bitcast<f32>(work[at.work + p.others + (slab_row + ${8 * a}u) * key_tiles + t]);
//% endfor
    }
    // An error of dout.out enters ds as p times that error; the sum over all keys, 0 but for it, tells how much.
    let excess = row_totals(all, lane);
    let weights = row_totals(other_p, lane);
    others = fma(-weights, excess, row_totals(other, lane));
  }
//% for a in range(4)
  {
    let m = m0 + y + ${8 * a}u;
    if m < p.rows {
      let valid = row_start[y + ${8 * a}u] != PADDED;
      if p.segments == 1u && x == 0u {
        work[at.work + p.row_sums + (b * p.heads + h) * p.rows + m] = bitcast<u32>(select(0.0, others[${a}], valid));
      }
//% for column in range(columns)
      {
        let c = ${32 * column}u + x * 4u;
        var sum = o[${4 * column + a}];
        if p.segments == 1u {
          sum = fma(vec4f(others[${a}]), seg_embed_4(stride + head, c) - seg_embed_4(head, c), sum);
        }
        store_dq((b * p.rows + m) * stride + head, c, select(vec4f(0.0), sum, valid));
      }
//% endfor
    }
  }
//% endfor
}
