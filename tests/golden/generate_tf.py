"""Writes tests/golden/tf_bundles: tiny checkpoints that TensorFlow itself saved under the original's names.

Usage: python generate_tf.py [directory]. Needs tensorflow-cpu (2.21 was used) and safetensors.
"""

import json
import os
import pathlib
import sys

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import numpy as np
import tensorflow as tf
from safetensors.numpy import save_file

out = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent / "tf_bundles")
out.mkdir(exist_ok=True)
random = np.random.default_rng(0)
layers, d, heads, width, inner, vocabulary, classes, steps = 2, 4, 2, 2, 6, 12, 3, 5


def variables():
    t = "model/transformer/"
    shapes = {t + "word_embedding/lookup_table": [vocabulary, d], t + "mask_emb/mask_emb": [1, 1, d]}
    shapes |= {t + f"r_{x}_bias": [layers, heads, width] for x in "wrs"}
    shapes[t + "seg_embed"] = [layers, 2, heads, width]
    for i in range(layers):
        a, f = t + f"layer_{i}/rel_attn/", t + f"layer_{i}/ff/"
        shapes |= {a + f"{x}/kernel": [d, heads, width] for x in "qkvro"}
        shapes |= {p + f"LayerNorm/{x}": [d] for p in (a, f) for x in ("beta", "gamma")}
        shapes |= {f + "layer_1/kernel": [d, inner], f + "layer_1/bias": [inner]}
        shapes |= {f + "layer_2/kernel": [inner, d], f + "layer_2/bias": [d]}
    shapes["model/lm_loss/bias"] = [vocabulary]
    shapes |= {"model/sequnece_summary/summary/kernel": [d, d], "model/sequnece_summary/summary/bias": [d]}
    head = "model/classification_imdb/logit/"
    shapes |= {head + "kernel": [d, classes], head + "bias": [classes]}
    return {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def save(name, tensors, slices=None):
    names = list(tensors)
    tf.raw_ops.SaveV2(
        prefix=str(out / name),
        tensor_names=names,
        shape_and_slices=[(slices or {}).get(n, "") for n in names],
        tensors=[tf.constant(tensors[n]) for n in names],
    )


weights = variables()
save_file(weights, out / "expected.safetensors")
step = {"global_step": np.int64(steps)}
first = lambda end: {n + end: np.float32(2) * v for n, v in weights.items()}
second = lambda end: {n + end: np.float32(3) * v * v for n, v in weights.items()}
powers = {"beta1_power": np.float32(0.9 ** (steps + 1)), "beta2_power": np.float32(0.999 ** (steps + 1))}
save("adam.ckpt", weights | step | powers | first("/Adam") | second("/Adam_1"))
save("decay.ckpt", weights | step | first("/adam_m") | second("/adam_v"))
# Three shards, as a Saver with sharded=True leaves them.
names = sorted(weights)
parts = [f"part{i}" for i in range(3)]
for i, part in enumerate(parts):
    save(part, {n: weights[n] for n in names[i::3]})
tf.raw_ops.MergeV2Checkpoints(
    checkpoint_prefixes=[str(out / p) for p in parts], destination_prefix=str(out / "sharded.ckpt"), delete_old_dirs=False
)
# A partitioned variable, half precision, and a string.
table = "model/transformer/word_embedding/lookup_table"
save("sliced.ckpt", weights | {table: weights[table][:5]}, {table: f"{vocabulary} {d} 0,5:0,{d}"})
mixed = {n: v.astype(np.float16) if i % 2 else v.astype(np.float64) for i, (n, v) in enumerate(weights.items())}
save("mixed.ckpt", mixed | {"note": np.array("a string")})
# The first version of the format.
with tf.Graph().as_default(), tf.compat.v1.Session() as session:
    for name, value in weights.items():
        tf.compat.v1.get_variable(name, initializer=value)
    session.run(tf.compat.v1.global_variables_initializer())
    saver = tf.compat.v1.train.Saver(write_version=tf.compat.v1.train.SaverDef.V1)
    saver.save(session, str(out / "version1.ckpt"), write_meta_graph=False)
(out / "checkpoint").unlink(missing_ok=True)
sizes = dict(n_layer=layers, d_model=d, n_head=heads, d_head=width, d_inner=inner, n_token=vocabulary, untie_r=True)
(out / "xlnet_config.json").write_text(json.dumps(sizes | {"ff_activation": "relu"}, indent=4, sort_keys=True))
