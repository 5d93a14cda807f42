"""Proves that transformers and TensorFlow load what `xlnet convert` and `xlnet finetune` write, and answer as from the source.

Usage: python tests/check_exports.py [--xlnet target/debug/xlnet] [--sp_path spiece.model]

Runs what is installed of transformers with torch (4 or 5) and tensorflow(-cpu), says what it skipped, and fails when
anything differs or nothing could be run. Inputs are the committed models of tests/golden, and small models that are
fine-tuned here on made-up texts.
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


def xlnet(*arguments):
    done = subprocess.run([args.xlnet, *map(str, arguments)], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"xlnet {' '.join(map(str, arguments))}: {done.stderr}")


def convert(*arguments):
    xlnet("convert", *arguments)
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

    fine_tuned(transformers, torch, load)

    if args.sp_path:
        with tempfile.TemporaryDirectory() as work:
            copy = convert(GOLDEN / "hf" / "xlnet_lm", f"{work}/t", "--to", "hugging-face", "--sp_path", args.sp_path)
            tokenizer = transformers.AutoTokenizer.from_pretrained(copy)
            ids = tokenizer("The quick brown fox jumps over the lazy dog.")["input_ids"]
            want = [32, 2049, 3442, 17, 13894, 3380, 23, 95, 18, 17634, 2288, 9, 4, 3]
            check(f"tokenizer {type(tokenizer).__name__} {ids}", float(ids != want))
    else:
        print("SKIPPED tokenizer: no --sp_path")


# What a made-up text says; every task below asks about it.
NAMES = ["anna", "boris", "clara", "dimitri", "elena", "fyodor"]
THINGS = ["apples", "pears", "horses", "books", "cats"]


def belongings(i):
    return f"{i + 2} {THINGS[i % 5]}"


def write_tasks(work):
    """A vocabulary, sizes of a model, and files of four tasks."""
    lines = [f"{NAMES[i % 6]} has {belongings(i)} , and what does {NAMES[(i + 1) % 6]} have ? good bad" for i in range(400)]
    (work / "text.txt").write_text("\n".join(lines))
    xlnet("vocab", "train", "--input", work / "text.txt", "--output", work / "spiece.model", "--vocab-size", 300,
          "--soft-limit")
    sizes = dict(n_layer=2, d_model=32, n_head=2, d_head=16, d_inner=64, ff_activation="gelu", untie_r=True, n_token=320)
    (work / "sizes.json").write_text(json.dumps(sizes))
    rows = [f"{i % 3 % 2}\t{NAMES[i % 6]} has {belongings(i)} {['good', 'bad'][i % 3 % 2]}" for i in range(30)]
    (work / "classes.tsv").write_text("\n".join(["label\ttext", *rows]) + "\n")
    rows = [f"{i % 5 / 2}\t{NAMES[i % 6]} has {belongings(i)}" for i in range(30)]
    (work / "numbers.tsv").write_text("\n".join(["label\ttext", *rows]) + "\n")
    rows = [dict(context=f"{NAMES[i % 6]} has {belongings(i)} .", question=f"what does {NAMES[i % 6]} have ?",
                 choices=[belongings(i + j * (j + i) % 4 + 1) for j in range(3)] + [belongings(i)], label=3) for i in range(24)]
    (work / "choices.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    paragraphs = []
    for i in range(20):
        context = " ".join(f"{NAMES[(i + j) % 6]} has {belongings(i + 7 * j)} ." for j in range(1 + i % 5))
        answer = belongings(i)
        impossible = i % 4 == 3
        question = dict(id=f"q{i}", question=f"what does {NAMES[i % 6]} have ?", is_impossible=impossible,
                        answers=[] if impossible else [dict(text=answer, answer_start=context.index(answer))])
        paragraphs.append(dict(context=context, qas=[question]))
    data = dict(version="v2.0", data=[dict(title="made up", paragraphs=paragraphs)])
    (work / "questions.json").write_text(json.dumps(data))


def fine_tuned(transformers, torch, load):
    """Models that `xlnet finetune` made answer in transformers as `xlnet predict` says."""
    with tempfile.TemporaryDirectory() as work:
        work = pathlib.Path(work)
        write_tasks(work)
        text = ["--task_name", "text", "--text_a", "text", "--label", "label"]
        tasks = [
            ("classes.tsv", "text", text),
            ("numbers.tsv", "text", [*text, "--is_regression"]),
            ("choices.jsonl", "choice", ["--task_name", "choice", "--max_qa_length", 24]),
            ("questions.json", "squad", ["--task_name", "squad", "--doc_stride", 16, "--max_query_length", 16]),
        ]
        for file, task, settings in tasks:
            name = file.split(".")[0]
            settings = [*settings, "--train_file", work / file, "--predict_file", work / file, "--max_seq_length", 48]
            model_dir, out = work / f"run-{name}", work / f"out-{name}"
            xlnet("finetune", *settings, "--spiece_model_file", work / "spiece.model", "--model_config_path",
                  work / "sizes.json", "--model_dir", model_dir, "--train_batch_size", 6, "--train_steps", 40,
                  "--learning_rate", "3e-3", "--init_std", 0.1, "--do_eval=false", "--device", "cpu")
            xlnet("predict", *settings, "--model_dir", model_dir, "--predict_dir", out, "--device", "cpu")
            xlnet("features", "dump", *settings, "--spiece_model_file", work / "spiece.model", "--output",
                  work / f"{name}.features")
            # As it was left, and through `convert`, which people use to make a directory of a run.
            copy = convert(model_dir / "best", work / f"hf-{name}", "--to", "hugging-face")
            for directory in (model_dir / "best", copy):
                features = [json.loads(line) for line in (work / f"{name}.features").read_text().splitlines()]
                _, model = load(directory)
                with torch.no_grad():
                    if task == "squad":
                        compare_spans(torch, model, features, out, f"{name} of {directory.name}")
                        continue
                    want = json.loads((out / f"{task}.logits.json").read_text())
                    got = []
                    for feature in features:
                        shape = (1, 4, -1) if task == "choice" else (1, -1)
                        column = lambda key: torch.tensor(feature[key]).reshape(shape)
                        logits = model(input_ids=column("input_ids"), token_type_ids=column("segment_ids"),
                                       attention_mask=1.0 - column("input_mask")).logits
                        got.append(logits.flatten().double().tolist())
                    spread = float(np.std(np.asarray(want)))
                    check(f"{name} of {directory.name}: {len(got)} answers, spread {spread:.2g}", difference(got, want), 2e-5)
                    check(f"{name} of {directory.name} differ among each other", 0.0 if spread > 0.05 else 1.0)


def compare_spans(torch, model, features, out, what):
    """Every candidate of xlnet is one of those that transformers finds, with the same probabilities."""
    best = json.loads((out / "nbest_predictions.json").read_text())
    odds = json.loads((out / "null_odds.json").read_text())
    no_answer, pairs = {}, {}
    for feature in features:
        row = lambda key: torch.tensor([feature[key]])
        answer = model(input_ids=row("input_ids"), token_type_ids=row("segment_ids"),
                       attention_mask=1.0 - row("input_mask"), p_mask=row("p_mask").float(), cls_index=row("cls_index"))
        starts, ends = answer.start_top_log_probs[0].double(), answer.end_top_log_probs[0].double()
        ends = ends.reshape(-1, len(starts))  # transformers keeps [end_n_top * start_n_top], ends first
        found = [(starts[s].log().item(), ends[e, s].log().item()) for s in range(len(starts)) for e in range(len(ends))]
        pairs.setdefault(feature["id"], []).extend(found)
        no_answer[feature["id"]] = min(no_answer.get(feature["id"], 1e6), answer.cls_logits.item())
    check(f"{what}: no-answer logits of {len(odds)} questions", max(abs(odds[q] - no_answer[q]) for q in odds), 2e-5)
    far, candidates = 0.0, 0
    for question, all_candidates in best.items():
        for candidate in all_candidates:
            if candidate["start_log_prob"] > -1e5:
                candidates += 1
                ours = (candidate["start_log_prob"], candidate["end_log_prob"])
                far = max(far, min(max(abs(a - b) for a, b in zip(ours, pair)) for pair in pairs[question]))
    check(f"{what}: {len(features)} windows, {candidates} candidates", far if candidates else float("inf"), 5e-5)


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
