"""XLNet-Base beside Hugging Face XLNet in PyTorch, on this machine's processor, in one run.

Needs `pip install torch==2.9.0 transformers==4.57.1`. Every measurement is a process of its own, the two programs take
turns, and the table shows medians over the rounds:

    cargo bench --no-run
    python benches/compare_transformers.py --rounds 3
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time

SIZES = [(8, 128), (4, 512)]


def measure_transformers(mode: str, batch: int, length: int, steps: int) -> dict:
    """One process: a classifier with dropout 0.1 in training, clip and Adam as the original's fine-tuning."""
    import torch
    from transformers import XLNetConfig, XLNetForSequenceClassification

    torch.manual_seed(0)
    config = XLNetConfig(
        vocab_size=32000, d_model=768, n_layer=12, n_head=12, d_inner=3072, ff_activation="gelu_new", dropout=0.1,
        num_labels=2, summary_last_dropout=0.1, mem_len=None,
    )
    model = XLNetForSequenceClassification(config)
    ids = (torch.arange(batch * length) * 7919 % config.vocab_size).view(batch, length)
    segments = (torch.arange(length) > length // 2).long().expand(batch, length).contiguous()
    labels = torch.arange(batch) % 2
    if mode == "train":
        model.train()
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-5, eps=1e-6)

        def step():
            optimizer.zero_grad(set_to_none=True)
            loss = model(input_ids=ids, token_type_ids=segments, labels=labels, use_mems=False).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
    else:
        model.eval()

        def step():
            with torch.inference_mode():
                model(input_ids=ids, token_type_ids=segments, use_mems=False)

    step()
    seconds = []
    for _ in range(steps):
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    median = statistics.median(seconds)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"tokens_per_s": batch * length / median, "seconds": median, "peak_bytes": peak,
            "threads": torch.get_num_threads(), "torch": torch.__version__}


def last_json(command: list) -> dict:
    """Runs a measurement and reads the JSON in its last line."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each kind")
    parser.add_argument("--steps", type=int, default=3, help="timed steps a measurement, after one to warm up")
    parser.add_argument("--json", help="also write all figures to this file")
    parser.add_argument("--only", nargs=3, metavar=("MODE", "BATCH", "LENGTH"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.only:
        mode, batch, length = args.only[0], int(args.only[1]), int(args.only[2])
        print(json.dumps(measure_transformers(mode, batch, length, args.steps)))
        return

    rows = []
    for mode in ("inference", "train"):
        for batch, length in SIZES:
            ours, theirs = [], []
            for _ in range(args.rounds):
                ours.append(last_json([
                    "cargo", "bench", "--quiet", "--bench", "step", "--", "--mode", mode, "--batch", str(batch),
                    "--seq-len", str(length), "--steps", str(args.steps)]))
                theirs.append(last_json([
                    sys.executable, __file__, "--steps", str(args.steps), "--only", mode, str(batch), str(length)]))
            figures = {key: [statistics.median(run[key] for run in runs) for runs in (ours, theirs)]
                       for key in ("tokens_per_s", "peak_bytes")}
            ratios = [a["tokens_per_s"] / b["tokens_per_s"] for a, b in zip(ours, theirs)]
            rows.append({"mode": mode, "batch": batch, "length": length, **figures, "ratios": ratios,
                         "ours": ours, "transformers": theirs})
            speed, peak = figures["tokens_per_s"], figures["peak_bytes"]
            print(f"{mode:<10} {batch} x {length}: xlnet {speed[0]:.0f} tokens/s, {peak[0] / 2**30:.2f} GiB; "
                  f"transformers {speed[1]:.0f} tokens/s, {peak[1] / 2**30:.2f} GiB; "
                  f"speed x{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}), "
                  f"memory {100 * peak[0] / peak[1]:.0f} %", flush=True)
    if args.json:
        with open(args.json, "w") as file:
            json.dump(rows, file, indent=1)


if __name__ == "__main__":
    main()
