#!/usr/bin/env python3
"""A small model that has read a few novels against its twin that has read nothing, on a task of the same language.

    python benches/pretrained_twin.py CORPUS OUT [--xlnet xlnet] [--seeds 1,2,3] [--svg OUT/twins.svg]

CORPUS holds books-00.txt to books-08.txt: one sentence a line. A model of 3 layers of width 128 is pretrained for 2 000 updates
of 16 x 128 tokens on books 00 to 07. Then it and its twin, of the same sizes with random weights, learn to put back the
punctuation: 2 000 rows of 24 words from these books, in lower case and without marks, each word to be tagged with the mark
that followed it. They are judged by 400 rows of book 08, which neither has seen; seeds are those of order, dropout and all
weights that are not pretrained. Prints a table, draws both curves. Whatever OUT holds already is used again.
"""

import argparse
import json
import pathlib
import random
import re
import resource
import statistics
import subprocess

MARKS = {",": "B-comma", ".": "B-stop", ";": "B-semicolon", ":": "B-colon", "?": "B-question", "!": "B-exclamation"}
SIZES = "--n_layer 3 --d_model 128 --n_head 4 --d_head 32 --d_inner 512 --ff_activation gelu --untie_r"
RECORDS = "--bsz_per_host 16 --seq_len 128 --reuse_len 64 --bi_data --num_predict 21 --uncased"
UPDATES = 2000  # of pretraining
PRETRAIN = f"""--train_steps {UPDATES} --save_steps {UPDATES} --min_lr_ratio 0.1 --learning_rate 1e-3 --warmup_steps 100 --adam_epsilon 1e-6 --mem_len 64
    --perm_size 64 --dropout 0.1 --dropatt 0.1 --init_std 0.05 --iterations 50 --seed 1"""
FINETUNE = """--task_name ner --max_seq_length 48 --train_batch_size 32 --train_steps 400 --save_steps 50 --learning_rate 1e-3
    --warmup_steps 40 --adam_epsilon 1e-6 --init_std 0.05 --iterations 50 --uncased"""


def rows(books, count, rng, words=24):
    """Rows of words with the mark after each."""
    found = []
    for book in books:
        tagged = []
        for word in book.read_text().replace("<eop>", "").split():
            bare = re.sub(r"[^a-z']", "", word.lower().replace("\u2019", "'")).strip("'")
            last = re.sub(r"[\"'\u201d\u2019)\]_]+$", "", word)[-1:]
            if bare:
                tagged.append((bare, MARKS.get(last, "O")))
        found += [tagged[i : i + words] for i in range(0, len(tagged) - words, words)]
    rng.shuffle(found)
    return found[:count]


def curve(log):
    """Loss and F1 of the dev set by updates."""
    points = {}
    for line in log.read_text().splitlines():
        if line.startswith("Eval result"):
            values = dict(part.rsplit(" ", 1) for part in line.split(" | ")[1:] if part.count(" ") == 1)
            points[int(values["global_step"])] = (float(values["eval_loss"]), float(values["eval_f1"]))
    return points


def draw(path, steps, twins):
    """Two panels, dev loss and F1: mean over seeds as a line, smallest and largest as a band."""
    width, height, left, top = 420, 300, 60, 40
    svg = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{2 * width}" height="{height + 40}" font-family="sans-serif" '
           f'font-size="12"><rect width="100%" height="100%" fill="white"/>']
    for panel, title in enumerate(("loss on unseen text, nats a word", "F1 of marks on unseen text")):
        all_values = [value[panel] for curves in twins.values() for points in curves for value in points.values()]
        low, high = (min(all_values) - 0.02, max(all_values) + 0.02) if panel == 0 else (0.0, max(all_values) * 1.05)
        x = lambda step: panel * width + left + (width - left - 20) * step / steps[-1]
        y = lambda value: height - (height - top) * (value - low) / (high - low)
        svg.append(f'<text x="{panel * width + left}" y="{top - 16}" font-weight="bold">{title}</text>')
        for i in range(5):
            value = low + (high - low) * i / 4
            svg.append(f'<line x1="{x(0):.0f}" x2="{x(steps[-1]):.0f}" y1="{y(value):.1f}" y2="{y(value):.1f}" stroke="#ddd"/>'
                       f'<text x="{x(0) - 8:.0f}" y="{y(value) + 4:.1f}" text-anchor="end">{value:.2f}</text>')
        for step in steps:
            svg.append(f'<text x="{x(step):.0f}" y="{height + 18}" text-anchor="middle">{step}</text>')
        svg.append(f'<text x="{x(steps[-1] / 2):.0f}" y="{height + 34}" text-anchor="middle">updates</text>')
        for i, (name, curves) in enumerate(twins.items()):
            colour = ("#1f5fbf", "#c0392b")[i]
            at = {step: [points[step][panel] for points in curves] for step in steps}
            band = [f"{x(s):.1f},{y(max(at[s])):.1f}" for s in steps] + [f"{x(s):.1f},{y(min(at[s])):.1f}" for s in steps[::-1]]
            line = [f"{x(s):.1f},{y(statistics.mean(at[s])):.1f}" for s in steps]
            svg.append(f'<polygon points="{" ".join(band)}" fill="{colour}" opacity="0.15"/>'
                       f'<polyline points="{" ".join(line)}" fill="none" stroke="{colour}" stroke-width="2"/>')
            if panel == 0:
                svg.append(f'<text x="{width - 20}" y="{top + 16 + 16 * i}" text-anchor="end" fill="{colour}">{name}</text>')
    path.write_text("\n".join(svg) + "\n</svg>\n")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("corpus", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--xlnet", default="xlnet")
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--svg", type=pathlib.Path)
    args = parser.parse_args()
    out = args.out
    out.mkdir(parents=True, exist_ok=True)
    books = [args.corpus / f"books-0{i}.txt" for i in range(9)]

    def xlnet(line, log=None, more=()):
        command = [args.xlnet, *line.split(), *map(str, more)]
        with open(log or out / "last.log", "w") as file:
            subprocess.run(command, check=True, stdout=file, stderr=subprocess.STDOUT)

    vocabulary, records, pretrained = out / "spiece.model", out / "records", out / "pretrained"
    if not vocabulary.exists():
        line = f"vocab train --output {vocabulary} --vocab_size 8000 --preprocess --uncased --input"
        xlnet(line, more=books[:8])
    if not (records / "tfrecords").exists():
        xlnet(f"corpus build --sp_path {vocabulary} --save_dir {records} {RECORDS} --input", more=books[:8])
    if not (pretrained / f"step-{UPDATES}").exists():
        line = f"pretrain --record_info_dir {records}/tfrecords --model_dir {pretrained} {SIZES} {PRETRAIN}"
        xlnet(line, out / "pretrain.log")
    rng = random.Random(1)
    for name, some, count in (("train", books[:8], 2000), ("dev", books[8:], 400)):
        text = ["".join(f"{word}\t{tag}\n" for word, tag in row) for row in rows(some, count, rng)]
        (out / f"{name}.txt").write_text("\n".join(text))

    weights = {"pretrained": f"--init_checkpoint {pretrained}/step-{UPDATES}", "twin": f"--model_config_path {pretrained}/step-{UPDATES}/config.json"}
    twins = {name: [] for name in weights}
    for seed in args.seeds.split(","):
        for name, start in weights.items():
            log, run = out / f"{name}-{seed}.log", out / f"{name}-{seed}"
            if not (run / "best").exists():
                files = f"--data_dir {out} --predict_file {out}/dev.txt --spiece_model_file {vocabulary}"
                xlnet(f"finetune {FINETUNE} {files} {start} --model_dir {run} --seed {seed}", log)
            twins[name].append(curve(log))
    steps = sorted(twins["twin"][0])
    print("| updates | " + " | ".join(f"loss, {name} | F1, {name}" for name in twins) + " |")
    for step in steps:
        cells = []
        for curves in twins.values():
            for part in (0, 1):
                values = [points[step][part] for points in curves]
                cells.append(f"{statistics.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})")
        print(f"| {step} | " + " | ".join(cells) + " |")
    (out / "curves.json").write_text(json.dumps(twins, indent=1))
    draw(args.svg or out / "twins.svg", steps, twins)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(f"{(used.ru_utime + used.ru_stime) / 60:.1f} minutes of one core")


if __name__ == "__main__":
    main()
