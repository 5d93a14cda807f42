"""Compares `xlnet score` with outside scorers of SQuAD 2.0, CMRC 2018 and DRCD, to the last digit.

Usage: python tests/check_scores.py GOLD.json [--xlnet target/debug/xlnet] [--squad_utils squad_utils.py] [--seeds 5]
       python tests/check_scores.py GOLD.json --cmrc2018_evaluate cmrc2018_evaluate.py [--xlnet ...] [--seeds 5]

GOLD.json is any file of SQuAD's form. Answers are made up from its own: right, cut, widened, spelt otherwise, from elsewhere,
empty, missing. Outside scorers of SQuAD: the port of the official script in transformers 4 (`transformers.data.metrics`), where
installed, and the original program's `squad_utils.py`, where named. That of the Chinese tasks is the official script itself
(https://github.com/ymcui/cmrc2018, baseline/cmrc2018_evaluate.py), which needs nltk 3.10 with its data punkt_tab. Fails when a
figure differs, or when there is no scorer.
"""

import argparse
import ast
import collections
import json
import math
import pathlib
import random
import re
import string
import subprocess
import sys
import tempfile
import types


def questions(gold):
    for article in gold["data"]:
        for paragraph in article["paragraphs"]:
            for qa in paragraph["qas"]:
                yield paragraph["context"], qa


def answer(rng, context, qa):
    """A made-up answer; None is none at all."""
    words = context.split()
    golds = [a["text"] for a in qa["answers"]]
    at = rng.randrange(len(words))
    elsewhere = " ".join(words[at : at + rng.randint(1, 6)])
    text = rng.choice(golds) if golds else elsewhere
    kind = rng.randrange(9)
    if kind < 3:
        return text
    return [
        " ".join(text.split()[:-1]),
        "the " + text + " " + rng.choice(words),
        text.upper() + rng.choice([".", "!", "\u2019s", " \u2014"]),
        elsewhere,
        "",
        None,
    ][kind - 3]


# Cut by rules that Chinese text alone seldom meets.
ODD = ["u.s. dollars", "approx. 3.5 m.", "it's 'tis", "no. 5. the end", "j. smith", "a.b.c.", "\u201cquoted\u201d 'single'", "1982\u20132013", "...", "x. y"]


def chinese_answer(rng, context, qa):
    """A made-up answer to a Chinese question; None is none at all."""
    text = rng.choice(qa["answers"])["text"]
    at = rng.randrange(len(context))
    latin = [m.start() for m in re.finditer(r"[A-Za-z]+", context)]
    near = rng.choice(latin) if latin else at
    kind = rng.randrange(10)
    if kind < 3:
        return text
    return [
        text[rng.randrange(2) :][: rng.randint(1, 8)],
        context[max(0, at - 3) : at + rng.randint(1, 12)],
        context[max(0, near - rng.randrange(4)) : near + rng.randint(1, 40)],
        text + rng.choice(["\u3002", "\u300b", " ", ". ", "!"]) + rng.choice(ODD),
        rng.choice(ODD) + text + rng.choice(ODD),
        "",
        None,
    ][kind - 3]


def check_chinese(args, gold):
    """Runs both programs on the same files; their lines must be the same."""
    different = 0
    for seed in range(args.seeds):
        rng = random.Random(seed)
        made = {qa["id"]: chinese_answer(rng, context, qa) for context, qa in questions(gold)}
        # From the gold answers too: both sides of a comparison are cut.
        for _, qa in questions(gold):
            if qa["answers"] and rng.randrange(4) == 0:
                qa["answers"][0]["text"] += rng.choice(ODD)
        with tempfile.TemporaryDirectory() as folder:
            golds, predictions = (pathlib.Path(folder) / name for name in ("gold.json", "predictions.json"))
            golds.write_text(json.dumps(gold))
            predictions.write_text(json.dumps({id: text for id, text in made.items() if text is not None}))
            ours = [args.xlnet, "score", "--task_name", "cmrc2018", "--gold", golds, "--predictions", predictions]
            theirs = [sys.executable, args.cmrc2018_evaluate, golds, predictions]
            run = lambda command: subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
            lines = [run(command).stdout.decode().strip() for command in (ours, theirs)]
        if lines[0] != lines[1]:
            different += 1
            print(f"seed {seed}:\n  {lines[0]} here\n  {lines[1]} there")
    print(f"{args.seeds} lines compared with {args.cmrc2018_evaluate}: {different} differ; the last is {lines[0]}")
    sys.exit(different > 0)


def original_functions(path):
    """Scoring functions of the original program's file, without what it imports."""
    wanted = {"normalize_answer", "get_tokens", "compute_exact", "compute_f1", "get_raw_scores", "make_qid_to_has_ans"}
    wanted |= {"make_eval_dict", "apply_no_ans_threshold", "merge_eval", "find_best_thresh_v2", "find_all_best_thresh_v2"}
    tree = ast.parse(pathlib.Path(path).read_text())
    tree.body = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name in wanted]
    module = types.ModuleType("squad_utils")
    module.__dict__.update(collections=collections, re=re, string=string)
    exec(compile(tree, str(path), "exec"), module.__dict__)
    return module


def outside(name, module, gold, preds, odds):
    """Scores by the official names."""
    if name == "transformers":
        qas = [qa for _, qa in questions(gold)]
        examples = [types.SimpleNamespace(qas_id=qa["id"], answers=qa["answers"]) for qa in qas]
        known = [e for e in examples if e.qas_id in preds]
        scores = dict(module.squad_evaluate(known, preds, odds, math.inf))
        # The port counts the unanswerable of the answered questions alone; so does the comparison below.
        return scores, {"best_exact", "best_exact_thresh", "best_f1", "best_f1_thresh"}
    has = module.make_qid_to_has_ans(gold["data"])
    exact, f1 = module.get_raw_scores(gold["data"], preds)
    scores = dict(module.make_eval_dict(exact, f1))
    answered = [q for q in has if q in exact]
    for prefix, wanted in (("HasAns", True), ("NoAns", False)):
        ids = [q for q in answered if has[q] == wanted]
        if ids:
            module.merge_eval(scores, module.make_eval_dict(exact, f1, qid_list=ids), prefix)
    module.find_all_best_thresh_v2(scores, preds, exact, f1, odds, has)
    return scores, set()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("gold", type=pathlib.Path)
    parser.add_argument("--xlnet", default="target/debug/xlnet")
    parser.add_argument("--squad_utils")
    parser.add_argument("--cmrc2018_evaluate")
    parser.add_argument("--seeds", type=int, default=5)
    args = parser.parse_args()
    gold = json.loads(args.gold.read_text())
    if args.cmrc2018_evaluate:
        check_chinese(args, gold)
    scorers = []
    try:
        from transformers.data.metrics import squad_metrics

        scorers.append(("transformers", squad_metrics))
    except ImportError as e:
        print(f"skipped: the port of the official script in transformers ({e})")
    if args.squad_utils:
        scorers.append(("squad_utils", original_functions(args.squad_utils)))
    if not scorers:
        sys.exit("there is no outside scorer: install transformers 4, or name the original's squad_utils.py")
    different = compared = 0
    for seed in range(args.seeds):
        rng = random.Random(seed)
        preds, odds = {}, {}
        for context, qa in questions(gold):
            text = answer(rng, context, qa)
            if text is not None:
                preds[qa["id"]] = text
                # A logit that f32 holds exactly.
                odds[qa["id"]] = rng.randrange(-4000, 4000) / 256
        with tempfile.TemporaryDirectory() as folder:
            files = [pathlib.Path(folder) / name for name in ("predictions.json", "null_odds.json")]
            for file, value in zip(files, (preds, odds)):
                file.write_text(json.dumps(value))
            command = [args.xlnet, "score", "--task_name", "squad", "--gold", args.gold]
            command += ["--predictions", files[0], "--null_odds", files[1]]
            ours = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        missing = len(preds) != sum(1 for _ in questions(gold))
        for name, module in scorers:
            theirs, partial = outside(name, module, gold, preds, odds)
            for key, value in sorted(theirs.items()):
                if missing and key in partial:
                    continue
                compared += 1
                # The order of sums is free, so the last bit of a float may differ; 12 digits may not.
                if not math.isclose(ours[key], value, rel_tol=1e-12, abs_tol=0):
                    different += 1
                    print(f"seed {seed}, {name}: {key} is {ours[key]!r} here and {value!r} there")
    print(f"{compared} figures compared with {', '.join(name for name, _ in scorers)}: {different} differ")
    sys.exit(different > 0)


if __name__ == "__main__":
    main()
