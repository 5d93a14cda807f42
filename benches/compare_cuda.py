"""Everything about the CUDA backend that needs a card, in one call: the tests on it, then attention and whole training
steps beside PyTorch, and the table of targets.

Needs an NVIDIA card with its driver, Rust (or --programs), and `pip install torch==2.9.0 transformers==4.57.1`. CUDA's
toolkit only for compute-sanitizer, which is used where it is found.

    python benches/compare_cuda.py                  # all of it, about half an hour
    python benches/compare_cuda.py --part step      # tests, attention or step alone
    python benches/compare_cuda.py --f16            # for V100, T4, RTX 20, which have no bf16
    python benches/compare_cuda.py --dry_run        # tiny sizes on the processor: shows that the script works

What is compared: our kernels as they run inside a training step of XLNet-Large without dropout, by the driver's events;
PyTorch's functions alone, medians by events of at least 20 runs after warming up. FlexAttention gets the relative scores
as a precomputed bias whose gradient is asked for; making it from R costs extra and is not counted. Flash attention does
without the relative terms. The eager one is `rel_attn_core` of Hugging Face, with its relative product and shift.
"""

import argparse
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
# name of the figure, what it is compared with, factor of time wanted: theirs / ours at least
TARGETS = [
    ("attention forward", "flex", 1.7),
    ("attention backward", "flex", 2.5),
    ("attention forward", "flash", 1 / 1.6),
    ("attention backward", "flash", 1 / 1.75),
    ("attention forward", "eager", 8.0),
    ("attention backward", "eager", 6.0),
    ("training step", "transformers", 2.5),
    ("training step", "transformers compiled", None),
]


def run(command: list, **env: str) -> str:
    """Runs a program of ours; its output, or the end of ours with its error."""
    print("$", " ".join(f"{k}={v}" for k, v in env.items()), *command, flush=True)
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, **env})
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)} failed with {done.returncode}:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    return done.stdout


def precision(args) -> str:
    """Element type of operands of products."""
    return "f32" if args.f32 else "f16" if args.f16 else "bf16"


def torch_dtype(args):
    """PyTorch's name of it."""
    import torch

    return {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}[precision(args)]


def xlnet(args) -> str:
    """Path of the program."""
    return str(args.programs / "xlnet") if args.programs else "target/release/xlnet"


def tests(args) -> None:
    """The tests that name devices, on the card; compute-sanitizer over a small training run."""
    suites = ["ops", "train", "hugging_face", "model"]
    device = {} if args.dry_run else {"XLNET_DEVICE": "cuda:0", "XLNET_BACKEND": "cuda:0"}
    for suite in suites[:1] if args.dry_run else suites:
        test = [str(args.programs / suite)] if args.programs else ["cargo", "test", "--release", "--test", suite, "--"]
        out = run([*test, "--show-output"], **device)
        lines = [line for line in out.splitlines() if line.startswith(("cuda:0", "test result"))]
        print("\n".join(lines))
    sanitizer = shutil.which("compute-sanitizer")
    if sanitizer is None:
        print("compute-sanitizer is not here: not run")
    elif not args.dry_run:
        for tool in ["memcheck", "racecheck", "initcheck", "synccheck"]:
            run([sanitizer, "--tool", tool, "--error-exitcode", "9", xlnet(args), "bench", "--quick",
                 "--device", "cuda", "--output", str(args.folder / "sanitized")])
            print(f"compute-sanitizer {tool}: nothing found")


def ours(args) -> dict:
    """Milliseconds of our attention and step, from `xlnet bench`."""
    stem = args.folder / "xlnet"
    command = [xlnet(args), "bench", "--output", str(stem)]
    command += ["--quick", "--device", "cpu", "--task", "classify"] if args.dry_run else [
        "--device", "cuda", "--model", "large", "--task", "classify", "--seq-len", str(args.length),
        "--tokens", str(args.batch * args.length), "--dropout", "0", "--steps", "20"]
    command += [] if args.f32 else [f"--{precision(args)}"]
    if not args.programs:
        run(["cargo", "build", "--release"])
    print(run(command))
    report = json.loads(stem.with_suffix(".json").read_text())
    step = report["steps"][0]
    if step["skipped"]:
        sys.exit(f"our step did not run: {step['skipped']}")
    if not args.dry_run and step["batch"] != args.batch:
        sys.exit(f"only {step['batch']} sequences fit this card; use --batch {step['batch']}")
    each = {op["op"]: 1e3 * op["work"]["seconds"] / op["count"] for op in step["ops"]}
    return {"attention forward": each["rel_attention"], "attention backward": each["rel_attention_grad"],
            "training step": 1e3 * step["work"]["seconds"]}


def median_ms(function, device: str, runs: int) -> float:
    """Median time of a call."""
    import torch

    for _ in range(3):
        function()
    times = []
    for _ in range(runs):
        if device == "cuda":
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            function()
            end.record()
            torch.cuda.synchronize()
            times.append(begin.elapsed_time(end))
        else:
            start = time.perf_counter()
            function()
            times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times)


def attention(args) -> dict:
    """Milliseconds of PyTorch's attentions: {(figure, whose): ms}."""
    import torch
    from torch.nn.attention.flex_attention import flex_attention

    device, runs = ("cpu", 2) if args.dry_run else ("cuda", 30)
    dtype = torch.float32 if args.dry_run else torch_dtype(args)
    batch, heads, length, width = (1, 2, 128, 16) if args.dry_run else (args.batch, 16, args.length, 64)
    torch.manual_seed(0)

    def leaf(*shape):
        return torch.randn(*shape, device=device, dtype=dtype, requires_grad=True)

    q, k, v = (leaf(batch, heads, length, width) for _ in range(3))
    bias = leaf(batch, heads, length, length)
    grad = torch.randn_like(q)
    results = {}

    def both(name, forward, leaves):
        """Forward alone, then forward and backward less forward."""
        with torch.no_grad():
            first = median_ms(forward, device, runs)

        def whole():
            out = forward()
            torch.autograd.grad(out, leaves, grad.reshape(out.shape))

        results["attention forward", name] = first
        results["attention backward", name] = median_ms(whole, device, runs) - first

    def relative(score, b, h, i, j):
        return score + bias[b, h, i, j]

    flex = flex_attention if args.dry_run else torch.compile(flex_attention, dynamic=False)
    both("flex", lambda: flex(q, k, v, score_mod=relative), [q, k, v, bias])
    backend = torch.nn.attention.SDPBackend.MATH if args.dry_run or args.f32 else torch.nn.attention.SDPBackend.FLASH_ATTENTION

    def flash():
        with torch.nn.attention.sdpa_kernel(backend):
            return torch.nn.functional.scaled_dot_product_attention(q, k, v)

    both("flash", flash, [q, k, v])

    # Hugging Face's own function, on its own layout: [length, batch, heads, width].
    from transformers import XLNetConfig
    from transformers.models.xlnet.modeling_xlnet import XLNetRelativeAttention

    config = XLNetConfig(d_model=heads * width, n_head=heads, n_layer=1, dropout=0.0)
    layer = XLNetRelativeAttention(config).to(device=device, dtype=dtype)
    for name in ["r_w_bias", "r_r_bias", "r_s_bias", "seg_embed"]:
        torch.nn.init.normal_(getattr(layer, name), std=0.02)
    qh, kh, vh = (leaf(length, batch, heads, width) for _ in range(3))
    r = leaf(2 * length, batch, heads, width)
    segments = torch.zeros(length, length, batch, 2, device=device, dtype=dtype)
    segments[..., 0] = 1
    grad = torch.randn(length, batch, heads, width, device=device, dtype=dtype)
    leaves = [qh, kh, vh, r, layer.r_w_bias, layer.r_r_bias, layer.r_s_bias, layer.seg_embed]
    both("eager", lambda: layer.rel_attn_core(qh, kh, vh, r, seg_mat=segments), leaves)
    return results


def step(args, name: str) -> dict:
    """Milliseconds of Hugging Face's training step under autocast, as it is or compiled."""
    import torch
    from transformers import XLNetConfig, XLNetForSequenceClassification

    device, runs = ("cpu", 1) if args.dry_run else ("cuda", 20)
    sizes = dict(d_model=32, n_layer=2, n_head=2, d_inner=64, vocab_size=200) if args.dry_run else dict(
        d_model=1024, n_layer=24, n_head=16, d_inner=4096, vocab_size=32000)
    batch, length = (2, 32) if args.dry_run else (args.batch, args.length)
    torch.manual_seed(0)
    config = XLNetConfig(ff_activation="gelu_new", dropout=0.0, summary_last_dropout=0.0, num_labels=2, **sizes)
    model = XLNetForSequenceClassification(config).to(device).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-5, fused=device == "cuda")
    ids = (torch.arange(batch * length, device=device) * 7919 % config.vocab_size).view(batch, length)
    labels = torch.arange(batch, device=device) % 2
    forward = torch.compile(model) if name.endswith("compiled") else model
    scaler = torch.amp.GradScaler(device, enabled=args.f16)  # hands everything through where it is not enabled

    def whole():
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device, dtype=torch_dtype(args), enabled=not args.f32):
            loss = forward(input_ids=ids, labels=labels, use_mems=False).loss
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()

    try:
        return {("training step", name): median_ms(whole, device, runs)}
    except Exception as error:  # out of memory, or what the compiler cannot do: the table goes without it
        print(f"{name}: {type(error).__name__}: {str(error)[:300]}")
        return {}


def table(args, mine: dict, theirs: dict) -> str:
    """The targets, as Markdown."""
    rows = [f"batch {args.batch}, {args.length} tokens, 16 heads of 64, {precision(args)}; torch {versions()}; {card()}", "",
            "| | beside | ours, ms | theirs, ms | speed | target | |", "|---|---|---|---|---|---|---|"]
    for figure, name, target in TARGETS:
        if figure not in mine or (figure, name) not in theirs:
            continue
        ratio = theirs[figure, name] / mine[figure]
        wanted = "shown" if target is None else f"{target:.2f}"
        verdict = "" if target is None else "reached" if ratio >= target else f"missed by {100 * (1 - ratio / target):.0f} %"
        rows.append(f"| {figure} | {name} | {mine[figure]:.3f} | {theirs[figure, name]:.3f} | {ratio:.2f} | {wanted} | {verdict} |")
    return "\n".join(rows)


def versions() -> str:
    import torch
    import transformers

    return f"{torch.__version__}, transformers {transformers.__version__}"


def card() -> str:
    import torch

    if not torch.cuda.is_available():
        return "on the processor, which says nothing"
    return f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", choices=["tests", "attention", "step", "speed"], help="only this part; speed: attention and step")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--length", type=int, default=512)
    types = parser.add_mutually_exclusive_group()
    types.add_argument("--f32", action="store_true", help="everything in f32 instead of bf16")
    types.add_argument("--f16", action="store_true", help="halves are f16 instead of bf16, with a scale of the loss")
    parser.add_argument("--folder", type=pathlib.Path, default=ROOT / "target" / "compare_cuda", help="receives all figures")
    parser.add_argument("--programs", type=pathlib.Path, help="folder with xlnet and the tests ops, train, hugging_face and "
                        "model built elsewhere, for a machine without Rust")
    parser.add_argument("--dry_run", action="store_true", help="tiny sizes on the processor")
    args = parser.parse_args()
    args.folder = args.folder.resolve()
    args.folder.mkdir(parents=True, exist_ok=True)
    if not args.dry_run:
        import torch

        if not torch.cuda.is_available():
            sys.exit("PyTorch sees no CUDA device here; --dry_run shows that the script works")
    if args.part in (None, "tests"):
        tests(args)
    if args.part == "tests":
        return
    mine, theirs = ours(args), {}
    parts = [lambda: attention(args)] if args.part in (None, "attention", "speed") else []
    if args.part in (None, "step", "speed"):
        names = ["transformers"] if args.dry_run else ["transformers", "transformers compiled"]
        parts += [lambda name=name: step(args, name) for name in names]
    for part in parts:  # the table after each: compiling takes minutes, and nothing is lost if it is stopped
        theirs |= part()
        text = table(args, mine, theirs)
        print("\n" + text, flush=True)
        (args.folder / "table.md").write_text(text + "\n")
        figures = {"ours": mine, "theirs": {f"{a}, {b}": ms for (a, b), ms in theirs.items()}}
        (args.folder / "figures.json").write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
