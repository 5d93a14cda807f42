//# computes   deltas[b, h, i] = dout_i . out_i
//# parallel   an invocation owns one row of one head
//# keys       dtype = f32|f16, wg = 64
//# buffers    dout, out, work
//# launch     flat, ceil(B H rows / wg) work groups
//# numerics   sums in f32 in blocks of 16
//# history    2: step of rel_attention_grad of its own; tensors in f16
//% include "lib/dtype.wgsl"

//% include "lib/rel_attention.wgsl"
struct At { dout: u32, out: u32, work: u32 }
@group(1) @binding(0) var<uniform> p: Params;
@group(1) @binding(1) var<uniform> at: At;
@group(0) @binding(0) var<storage, read_write> dout: array<T>; // [B, rows, H, D]
@group(0) @binding(1) var<storage, read_write> out: array<T>;  // [B, rows, H, D]
@group(0) @binding(2) var<storage, read_write> work: array<u32>;

//% include "lib/flat.wgsl"

@compute @workgroup_size(${wg})
fn rel_attention_grad_deltas(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let item = flat_group(group, groups) * ${wg}u + lane; // of [B, H, rows]
  if item >= p.batch * p.heads * p.rows {
    return;
  }
  let m = item % p.rows;
  let h = item / p.rows % p.heads;
  let b = item / p.rows / p.heads;
  let row = ((b * p.rows + m) * p.heads + h) * p.d;
  var sum = 0.0;
  for (var c0 = 0u; c0 < p.d; c0 += 16u) {
    var block = 0.0;
    for (var c = c0; c < min(c0 + 16u, p.d); c++) {
      block = fma(f32(dout[at.dout + row + c]), f32(out[at.out + row + c]), block);
    }
    sum += block;
  }
  work[at.work + p.deltas + item] = bitcast<u32>(sum);
}
