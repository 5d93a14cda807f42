#!/usr/bin/env bash
# A small model (2 layers of width 64, from random weights) learns 200 examples of every kind of task by heart.
# One row a task: score on those examples, updates, seconds. Data lie outside this repository:
#   benches/overfit.sh DATA OUT [TASK...]      # DATA holds spiece.model, sts-b, imdb, chnsenticorp, squad, race, cmrc2018, drcd
# The program is $XLNET, or `xlnet` in the path.
set -euo pipefail
data=$(realpath "$1") out=$2 xlnet=${XLNET:-xlnet}
shift 2
mkdir -p "$out" && cd "$out"
printf '{"n_layer": 2, "d_model": 64, "n_head": 4, "d_head": 16, "d_inner": 256, "ff_activation": "gelu", "untie_r": true, "n_token": %d}\n' 32000 > small.json
sed 's/32000/8000/' small.json > small-zh.json
# A vocabulary for the Chinese tasks, from their own texts.
if [ ! -e zh.model ]; then
  cut -f2 "$data/chnsenticorp/train.tsv" | tail -n +2 > zh.txt
  python3 - "$data" >> zh.txt <<'P'
import json, sys
for name in ("cmrc2018/cmrc2018_train.json", "drcd/DRCD_training.json"):
    for article in json.load(open(f"{sys.argv[1]}/{name}"))["data"]:
        for paragraph in article["paragraphs"]:
            print(paragraph["context"].replace("\n", " "))
            for qa in paragraph["qas"]:
                print(qa["question"])
P
  "$xlnet" vocab train --input zh.txt --output zh.model --vocab_size 8000 > vocab.log 2>&1
fi
# The first 100 reviews of each kind.
for kind in pos neg; do
  mkdir -p imdb/train/$kind imdb/test/$kind
  for file in $(ls "$data/imdb/train/$kind" | head -100); do
    ln -sf "$data/imdb/train/$kind/$file" imdb/train/$kind/; ln -sf "$data/imdb/train/$kind/$file" imdb/test/$kind/
  done
done

# Entities in CoNLL columns: the answers of SQuAD's questions in rows of 30 words, by the question's word.
mkdir -p ner
python3 - "$data" > ner/train.txt <<'P'
import json, re, sys
rows = []
for article in json.load(open(f"{sys.argv[1]}/squad/train-v2.0.json"))["data"]:
    for paragraph in article["paragraphs"]:
        words = [(m.start(), m.end()) for m in re.finditer(r"\S+", paragraph["context"])]
        tags = ["O"] * len(words)
        for qa in paragraph["qas"]:
            kind = next((w for w in qa["question"].lower().split() if w in ("who", "when", "where", "how", "which")), "what")
            for answer in qa["answers"]:
                begin, end = answer["answer_start"], answer["answer_start"] + len(answer["text"])
                inside = [i for i, (first, last) in enumerate(words) if first < end and begin < last]
                if all(tags[i] == "O" for i in inside):
                    for i in inside:
                        tags[i] = ("B-" if i == inside[0] else "I-") + kind
        tagged = [f"{paragraph['context'][first:last]}\t{tag}" for (first, last), tag in zip(words, tags)]
        rows += [tagged[i : i + 30] for i in range(0, len(words), 30)]
rows = [row for row in rows if any("B-" in word for word in row)]
print("\n\n".join("\n".join(row) for row in rows[:200]))
P

learn() { # NAME SCORE BATCH [KEY VALUE...]; $vocabulary and $sizes
  local name=$1 score=$2 batch=$3 begin=$SECONDS; shift 3
  "$xlnet" finetune --task_name "$name" --model_dir "runs/$name" --train_examples 200 --eval_examples 200 \
    --spiece_model_file "$vocabulary" --model_config_path "$sizes" --dropout 0 --dropatt 0 --init_std 0.1 \
    --learning_rate 2e-3 --lr_layer_decay_rate 1 --adam_epsilon 1e-8 --warmup_steps 30 --train_batch_size "$batch" \
    --device cpu "$@" > "$name.log" 2>&1 || { tail -3 "$name.log"; return 1; }
  python3 - "$name" "$score" $((SECONDS - begin)) <<'P'
import json, sys
name, score, seconds = sys.argv[1:]
file = json.load(open(f"runs/{name}/best/xlnet_task.json"))
print(f"| {name} | {score} {file['scores'][score]:.3f} | {file['step']} | {seconds} s |", flush=True)
P
}

tasks=${*:-sts-b imdb csc race squad cmrc2018 drcd ner}
for task in $tasks; do
  case $task in
    csc | cmrc2018 | drcd) vocabulary=zh.model sizes=small-zh.json ;;
    *) vocabulary=$data/spiece.model sizes=small.json ;;
  esac
  case $task in
    sts-b) learn sts-b eval_pearsonr 16 --data_dir "$data/sts-b" --predict_file "$data/sts-b/train.tsv" --max_seq_length 64 --train_steps 300 --save_steps 100 ;;
    imdb) learn imdb eval_accuracy 16 --data_dir imdb --max_seq_length 128 --train_steps 300 --save_steps 100 ;;
    csc) learn csc eval_accuracy 16 --data_dir "$data/chnsenticorp" --predict_file "$data/chnsenticorp/train.tsv" --max_seq_length 128 --train_steps 300 --save_steps 100 ;;
    race) learn race eval_accuracy 8 --data_dir "$data/race" --predict_file "$data/race/train" --max_seq_length 256 --train_steps 400 --save_steps 100 ;;
    squad) learn squad best_f1 16 --data_dir "$data/squad" --predict_file "$data/squad/train-v2.0.json" --max_seq_length 192 --train_steps 1200 --save_steps 300 ;;
    cmrc2018) learn cmrc2018 F1 16 --data_dir "$data/cmrc2018" --predict_file "$data/cmrc2018/cmrc2018_train.json" --max_seq_length 256 --train_steps 1200 --save_steps 300 ;;
    drcd) learn drcd F1 16 --data_dir "$data/drcd" --predict_file "$data/drcd/DRCD_training.json" --max_seq_length 256 --train_steps 1200 --save_steps 300 ;;
    ner) learn ner eval_f1 16 --data_dir ner --predict_file ner/train.txt --max_seq_length 128 --train_steps 400 --save_steps 100 ;;
    *) echo "there is no task $task here" >&2; exit 2 ;;
  esac
done
