"""Proves that transformers and TensorFlow load what `xlnet convert` writes, and answer as from the source.

Usage: python tests/check_exports.py [--xlnet target/debug/xlnet] [--sp_path spiece.model]

Runs what is installed of transformers with torch (4 or 5) and tensorflow(-cpu), says what it skipped, and fails when
anything differs or nothing could be run. Inputs are the committed models of tests/golden.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import numpy as np
from safetensors.numpy import load_file

ROOT = pathlib.Path(__file__).resolve().parent.parent
GOLDEN = ROOT / "tests" / "golden"
failures, checks = [], 0


def check(what, error, bound=0.0):
    """Counts a comparison and prints its line; NaN fails."""
    global checks
    checks += 1
    good = bool(error <= bound)
    print(f"  {'ok  ' if good else 'FAIL'} {what}: difference {error:.3g}, bound {bound:.3g}")
    if not good:
        failures.append(what)


def convert(*arguments):
    done = subprocess.run([args.xlnet, "convert", *map(str, arguments)], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"xlnet convert {' '.join(map(str, arguments))}: {done.stderr}")
    return arguments[1]


def difference(a, b):
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.shape != b.shape:
        return float("inf")
    return float(np.max(np.abs(a - b), initial=0.0))


def hugging_face():
    try:
        import torch
        import transformers
    except ImportError as e:
        print(f"SKIPPED transformers: {e}")
        return
    print(f"transformers {transformers.__version__}, torch {torch.__version__}")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()

    def load(directory, **settings):
        config = transformers.AutoConfig.from_pretrained(directory)
        for key, value in settings.items():
            setattr(config, key, value)
        name = (config.architectures or ["XLNetModel"])[0]
        model, report = getattr(transformers, name).from_pretrained(
            directory, config=config, output_loading_info=True
        )
        for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
            names = [n for n in report[kind] if n not in ("lm_loss.weight",)]
            # A head that was not trained is missing in a bare transformer only.
            check(f"{pathlib.Path(directory).name} {name} {kind} {names}", len(names))
        return name, model.eval()

    def answer(name, model):
        torch.manual_seed(0)
        ids = torch.randint(9, model.config.vocab_size, (2, 2, 12) if name == "XLNetForMultipleChoice" else (2, 12))
        segments = (torch.arange(12) > 6).long().expand_as(ids).contiguous()
        with torch.no_grad():
            out = model(input_ids=ids, token_type_ids=segments)
        return {k: v.double().numpy() for k, v in out.items() if torch.is_tensor(v)}

    for source in sorted((GOLDEN / "hf").iterdir()):
        with tempfile.TemporaryDirectory() as work:
            copy = convert(source, f"{work}/{source.name}", "--to", "hugging-face")
            want, got = answer(*load(source)), answer(*load(copy))
            check(f"{source.name}: {len(want)} outputs", max(difference(want[k], got[k]) for k in want))
            if source.name in ("xlnet_base", "xlnet_mems", "xlnet_mems_uni", "xlnet_token_classify"):
                continue  # no head that both formats have
            # Through TensorFlow's format and back. Only the tanh form survives, so both sides use it.
            head = ["--head", "classification_x"] if source.name == "xlnet_classify" else []
            bundle = convert(source, f"{work}/tf", "--to", "tensorflow", "--ff_activation", "gelu", *head)
            back = convert(bundle, f"{work}/back", "--to", "hugging-face")
            config = json.loads((source / "config.json").read_text())
            summary = {k: config[k] for k in ("summary_type", "summary_use_proj", "layer_norm_eps", "attn_type")}
            want = answer(*load(source, ff_activation="gelu_new"))
            got = answer(*load(back, **summary))
            check(f"{source.name} through TensorFlow", max(difference(want[k], got[k]) for k in want))

    for name in ("empty", "tune"):
        source = GOLDEN / "tf_checkpoints" / name
        with tempfile.TemporaryDirectory() as work:
            copy = convert(source, f"{work}/{name}", "--to", "hugging-face")
            case = load_file(source / "expected.safetensors")
            _, model = load(copy, attn_type="uni")
            model = getattr(model, "transformer", model)
            mems = [torch.tensor(case[f"mems_{i}"]).float().transpose(0, 1) for i in range(2) if f"mems_{i}" in case]
            with torch.no_grad():
                out = model(
                    input_ids=torch.tensor(case["input_ids"]).long(),
                    token_type_ids=torch.tensor(case["seg_ids"]).long(),
                    mems=mems or None,
                    use_mems=True,
                )
            check(f"tf_checkpoints/{name}", difference(out.last_hidden_state, case[f"{name}_output"]), 2e-6)

    if args.sp_path:
        with tempfile.TemporaryDirectory() as work:
            copy = convert(GOLDEN / "hf" / "xlnet_lm", f"{work}/t", "--to", "hugging-face", "--sp_path", args.sp_path)
            tokenizer = transformers.AutoTokenizer.from_pretrained(copy)
            ids = tokenizer("The quick brown fox jumps over the lazy dog.")["input_ids"]
            want = [32, 2049, 3442, 17, 13894, 3380, 23, 95, 18, 17634, 2288, 9, 4, 3]
            check(f"tokenizer {type(tokenizer).__name__} {ids}", float(ids != want))
    else:
        print("SKIPPED tokenizer: no --sp_path")


def tensorflow():
    try:
        import tensorflow as tf
    except ImportError as e:
        print(f"SKIPPED tensorflow: {e}")
        return
    print(f"tensorflow {tf.__version__}")

    def tensors(prefix):
        reader = tf.train.load_checkpoint(prefix)
        names = sorted(reader.get_variable_to_shape_map())
        restored = tf.raw_ops.RestoreV2(
            prefix=prefix,
            tensor_names=names,
            shape_and_slices=[""] * len(names),
            dtypes=[reader.get_variable_to_dtype_map()[n] for n in names],
        )
        return dict(zip(names, (t.numpy() for t in restored)))

    for name in ("adam.ckpt", "decay.ckpt"):
        with tempfile.TemporaryDirectory() as work:
            source = GOLDEN / "tf_bundles" / name
            convert(source, f"{work}/out", "--to", "tensorflow", "--optimizer")
            want, got = tensors(str(source)), tensors(tf.train.latest_checkpoint(f"{work}/out"))
            check(f"{name}: names {sorted(set(want) ^ set(got))}", len(set(want) ^ set(got)))
            check(f"{name}: {len(want)} variables", max(difference(want[k], got.get(k, [])) for k in want))
            # The way of the original: variables of a graph, and a Saver.
            with tf.Graph().as_default(), tf.compat.v1.Session() as session:
                graph = {n: tf.compat.v1.get_variable(n, shape=v.shape, dtype=v.dtype) for n, v in want.items()}
                tf.compat.v1.train.Saver(graph).restore(session, tf.train.latest_checkpoint(f"{work}/out"))
                restored = session.run(graph)
            check(f"{name} by a Saver", max(difference(want[k], restored[k]) for k in want))

    source = GOLDEN / "hf" / "xlnet_qa"
    with tempfile.TemporaryDirectory() as work:
        convert(source, f"{work}/out", "--to", "tensorflow", "--ff_activation", "gelu")
        got, want = tensors(tf.train.latest_checkpoint(f"{work}/out")), load_file(source / "model.safetensors")
        check("xlnet_qa start kernel", difference(got["start_logits/dense/kernel"], want["start_logits.dense.weight"].T))
        layers = [want[f"transformer.layer.{i}.rel_attn.seg_embed"] for i in range(len(got["model/transformer/seg_embed"]))]
        check("xlnet_qa seg_embed", difference(got["model/transformer/seg_embed"], np.stack(layers)))


parser = argparse.ArgumentParser()
parser.add_argument("--xlnet", default=str(ROOT / "target" / "debug" / "xlnet"))
parser.add_argument("--sp_path")
args = parser.parse_args()
hugging_face()
tensorflow()
print(f"{checks} checks, {len(failures)} failed")
sys.exit(1 if failures or not checks else 0)
