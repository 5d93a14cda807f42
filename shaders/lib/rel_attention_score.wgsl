// Scores of a tile; see rel_attention_tile.wgsl.

//% if relative == "band"
const K = 320u;     // first of k in the stage, [32, 5] vec4 with one to spare a row, so that no banks collide
const R = 480u;     // of the 63 rows of r
const VALUES = 795u;
//% elif relative != "none"
const K = 320u;
const VALUES = 480u;
//% else
const K = 160u;
const VALUES = 320u;
//% endif
//% if backward
// v and dout follow.
var<workgroup> stage: array<vec4f, ${1115 if relative == "band" else 800 if relative == "rows" else 640}>;
//% else
var<workgroup> stage: array<vec4f, ${795 if relative == "band" else 480 if relative == "rows" else 320}>;
//% endif
var<workgroup> kept: array<u32, 128>; // [32 rows, 4 blocks]: 8 decisions of dropout

// Dot products of queries and keys, vec4 b of row a; backward also of dout and values. Rows have been found.
fn products(b: u32, h: u32, m0: u32, j0: u32, lane: u32) -> array<vec4f, ${8 if backward else 4}> {
  let y = lane / 8u;
  let x = lane % 8u;
  let head = h * p.d;
  let stride = p.heads * p.d; // between the rows of every tensor
  var sums: array<vec4f, ${8 if backward else 4}>;
  for (var c0 = 0u; c0 < p.d; c0 += 16u) {
    workgroupBarrier(); // the stage has been read
    for (var e = lane; e < 128u; e += 64u) {
      let row = e / 4u;
      let c = c0 + e % 4u * 4u;
      let to = row * 5u + e % 4u;
      var content = vec4f(0.0);
//% if relative != "none"
      var position = vec4f(0.0);
//% endif
//% if backward
      var gradient = vec4f(0.0);
//% endif
      if row_start[row] != PADDED {
        let first = (b * p.rows + m0 + row) * stride + head;
        content = q_4(first, c);
//% if relative != "none"
        position = content + r_bias_4(head, c);
        content += w_bias_4(head, c);
//% endif
//% if backward
        gradient = dout_4(first, c);
//% endif
      }
      stage[to] = content;
//% if relative != "none"
      stage[160u + to] = position;
//% endif
      let first = (b * p.keys + min(j0 + row, p.keys - 1u)) * stride + head;
      stage[K + to] = k_4(first, c);
//% if backward
      stage[VALUES + to] = v_4(first, c);
      stage[VALUES + 160u + to] = gradient;
//% endif
    }
//% if relative == "band"
    let band = i32(row_start[0]) + i32(j0) - 31; // row of r of the first key and the last row
    for (var e = lane; e < 252u; e += 64u) {
      let row = clamp(band + i32(e / 4u), 0, i32(p.groups * p.positions) - 1);
      stage[R + e / 4u * 5u + e % 4u] = r_4(u32(row) * stride + head, c0 + e % 4u * 4u);
    }
//% endif
    workgroupBarrier();
    var block: array<vec4f, ${8 if backward else 4}>; // short sums round less
    for (var c = 0u; c < 4u; c++) {
//% for b in range(4)
      let k${b} = stage[K + (x + ${8 * b}u) * 5u + c];
//% if backward
      let v${b} = stage[VALUES + (x + ${8 * b}u) * 5u + c];
//% endif
//% endfor
//% if relative == "band"
//% for t in range(7)
      let r${t} = stage[R + (x + ${7 + 8 * t}u - y) * 5u + c];
//% endfor
//% endif
//% for a in range(4)
      {
        let source = (y + ${8 * a}u) * 5u + c;
        let content = stage[source];
        block[${a}] += vec4f(dot(content, k0), dot(content, k1), dot(content, k2), dot(content, k3));
//% if relative == "band"
        let position = stage[160u + source];
        block[${a}] += vec4f(dot(position, r${3 - a}), dot(position, r${4 - a}), dot(position, r${5 - a}), dot(position, r${6 - a}));
//% elif relative != "none"
        let position = stage[160u + source];
        let start = row_start[y + ${8 * a}u];
        let row = select(start, 0u, start == PADDED) + j0 + x;
        let last = p.groups * p.positions - 1u;
        block[${a}] += vec4f(
          dot(position, r_4(min(row, last) * stride + head, c0 + c * 4u)),
          dot(position, r_4(min(row + 8u, last) * stride + head, c0 + c * 4u)),
          dot(position, r_4(min(row + 16u, last) * stride + head, c0 + c * 4u)),
          dot(position, r_4(min(row + 24u, last) * stride + head, c0 + c * 4u)),
        );
//% endif
//% if backward
        let gradient = stage[VALUES + 160u + source];
        block[${4 + a}] += vec4f(dot(gradient, v0), dot(gradient, v1), dot(gradient, v2), dot(gradient, v3));
//% endif
      }
//% endfor
    }
//% for a in range(8 if backward else 4)
    sums[${a}] += block[${a}];
//% endfor
  }
  return sums;
}

// Scaled scores of row m and keys j0 + x + 8 b, the dot products given.
fn scores_of(products: vec4f, b: u32, h: u32, m: u32, j0: u32, x: u32) -> vec4f {
  let hidden = (vec4u(work[bits_of(b, m) + j0 / 32u] >> x) >> vec4u(0u, 8u, 16u, 24u)) & vec4u(1u);
  var s = products * p.scale;
  if p.segments == 1u {
    let term = at.work + p.scores + ((b * p.heads + h) * p.rows + min(m, p.rows - 1u)) * 2u;
    let other = (vec4u(others_of(b, m, j0) >> x) >> vec4u(0u, 8u, 16u, 24u)) & vec4u(1u);
    s += select(vec4f(bitcast<f32>(work[term])), vec4f(bitcast<f32>(work[term + 1u])), other == vec4u(1u));
  }
  return select(s, vec4f(HIDDEN), hidden == vec4u(1u));
}

// Which of the keys j0 + x + 8 b there are.
fn exist(j0: u32, x: u32) -> vec4<bool> {
  return vec4u(j0 + x) + vec4u(0u, 8u, 16u, 24u) < vec4u(p.keys);
}

// Draws the decisions of dropout of a tile; a barrier must follow.
fn draw(b: u32, h: u32, m0: u32, j0: u32, lane: u32) {
  for (var e = lane; e < 128u; e += 64u) {
    let block = vec4u(j0 / 8u + e % 4u, m0 + e / 4u, key[at.key + 2u + b] * p.heads + h, p.site);
    let words = philox(block, vec2u(key[at.key], key[at.key + 1u]));
    var bits = 0u;
    for (var i = 0u; i < 8u; i++) {
      bits |= select(0u, 1u << i, keeps(words, i, p.threshold));
    }
    kept[e] = bits;
  }
}
// Factors of the probabilities of a row of the tile and keys x + 8 b.
fn factors(row: u32, x: u32) -> vec4f {
  if p.threshold == 0u {
    return vec4f(1.0);
  }
  let bits = vec4u(kept[row * 4u], kept[row * 4u + 1u], kept[row * 4u + 2u], kept[row * 4u + 3u]);
  return select(vec4f(0.0), vec4f(p.keep), ((bits >> vec4u(x)) & vec4u(1u)) == vec4u(1u));
}
fn exp_4(x: vec4f) -> vec4f {
  return vec4f(exp_f32(x.x), exp_f32(x.y), exp_f32(x.z), exp_f32(x.w));
}
