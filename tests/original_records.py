"""Records between this program and the original's own data_utils, under a TensorFlow of today.

  pip install tensorflow-cpu sentencepiece && pip install --no-deps xlnet-tensorflow==1.1.2
  python tests/original_records.py build --input_glob='text/*.txt' --sp_path=spiece.model --save_dir=corpus ...
  python tests/original_records.py read corpus/tfrecords [--perm_size N]
  python tests/original_records.py compare ORIGINAL.tfrecords OURS.tfrecords

`xlnet-tensorflow` is the original program (Apache-2.0) as a package. `build` runs its data_utils with the flags given;
`read` runs its get_input_fn, with the settings that the names of the record_info files tell, over every record, and
checks what it gives against the records themselves. `compare` checks that what the original does not draw at random, the
first halves of all records, is equal. Only names that TensorFlow has moved or dropped are put back.
"""

import glob
import inspect
import os
import re
import sys
import types


def original_tensorflow():
    """TensorFlow as the original imports it."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow as modern
    import tensorflow.compat.v1 as tf

    sys.modules["tensorflow"] = tf
    tf.keras.backend.is_sparse = lambda value: isinstance(value, modern.SparseTensor)
    tf.logging.set_verbosity(tf.logging.ERROR)
    return tf


# The flags of data_utils with their defaults; the package leaves their definitions out.
DEFAULTS = dict(
    use_tpu=True, bsz_per_host=32, num_core_per_host=8, seq_len=512, reuse_len=256, uncased=True, bi_data=True,
    mask_alpha=6, mask_beta=1, use_eod=True, from_raw_text=True, num_predict=85, input_glob="", sp_path="",
    save_dir="proc_data/example", split="train", pass_id=0, num_task=1, task=0,
)


def build(flags):
    tf = original_tensorflow()
    from xlnet import data_utils

    values = dict(DEFAULTS)
    for flag in flags:
        name, _, text = flag.lstrip("-").partition("=")
        if name.startswith("no") and name[2:] in values:
            name, text = name[2:], "False"
        kind = type(values[name])
        values[name] = text not in ("False", "false", "0") if kind is bool else kind(text)
    # numpy.bool is another type today, and one that protobuf does not take for a number.
    old_numpy = types.ModuleType("numpy")
    old_numpy.__dict__.update(vars(data_utils.np), bool=data_utils.np.uint8)
    data_utils.np = old_numpy
    data_utils.FLAGS = types.SimpleNamespace(**values)
    tf.logging.set_verbosity(tf.logging.INFO)
    data_utils.create_data(None)


NAME = re.compile(
    r"record_info-(?P<split>\w+)-\d+-\d+\.bsz-(?P<bsz>\d+)\.seqlen-(?P<seq_len>\d+)\.reuse-(?P<reuse_len>\d+)\."
    r"(?P<uncased>uncased\.)?(?P<direction>bi|uni)\.alpha-(?P<alpha>\d+)\.beta-(?P<beta>\d+)\.(fnp-(?P<fnp>\d+)\.)?json$"
)


def read(directory, perm_size):
    tf = original_tensorflow()
    import numpy as np
    from xlnet import data_utils

    infos = sorted(glob.glob(os.path.join(directory, "record_info-*.json")))
    assert infos, "no record_info in " + directory
    named = [NAME.match(os.path.basename(path)) for path in infos]
    assert all(named), infos
    for settings in {tuple(sorted(match.groupdict(default="").items())) for match in named}:
        name = dict(settings)
        if name["split"] != "train":
            continue  # the original's reader takes no other
        bsz, seq_len, reuse_len = (int(name[key]) for key in ("bsz", "seq_len", "reuse_len"))
        num_predict = int(name["fnp"]) if name["fnp"] else None
        any_of = {key: "*" for key in ("task", "pass_id") if key in inspect.signature(data_utils.get_input_fn).parameters}
        input_fn, info = data_utils.get_input_fn(
            tfrecord_dir=directory,
            split=name["split"],
            **any_of,
            bsz_per_host=bsz,
            seq_len=seq_len,
            reuse_len=reuse_len,
            bi_data=name["direction"] == "bi",
            perm_size=perm_size or reuse_len,
            mask_alpha=int(name["alpha"]),
            mask_beta=int(name["beta"]),
            uncased=bool(name["uncased"]),
            num_predict=num_predict,
        )
        # The records themselves, without the original's parser. It shuffles files, so records are looked up.
        records = {}
        for path in info["filenames"]:
            for payload in tf.python_io.tf_record_iterator(path):
                features = tf.train.Example.FromString(payload).features.feature
                assert sorted(features) == ["input", "is_masked", "label", "seg_id", "target"], sorted(features)
                row = {key: list(value.int64_list.value) for key, value in features.items()}
                assert [len(row[key]) for key in sorted(row)] == [seq_len, seq_len, 1, seq_len, seq_len]
                records.setdefault(tuple(row["input"]), []).append(row)
        count = sum(map(len, records.values()))
        assert count == bsz * info["num_batch"], (count, info["num_batch"])
        seen = targets = 0
        for batch in input_fn({"batch_size": bsz}).take(info["num_batch"]):
            batch = {key: value.numpy() for key, value in batch.items()}
            for b in range(bsz):
                rows = records[tuple(batch["input_k"][b])]
                row = next(r for r in rows if r["seg_id"] == list(batch["seg_id"][b]))
                inputs = np.array(row["input"])
                plain = ~np.isin(inputs, [data_utils.SEP_ID, data_utils.CLS_ID])
                chosen = np.concatenate([r["is_masked"] for r in rows[:1]]).astype(bool) & plain
                assert len(rows) > 1 or (batch["input_q"][b] == chosen).all()
                real = batch["target_mask"][b] > 0
                expected = inputs[batch["input_q"][b] > 0]
                assert (batch["target"][b][real] == expected).all(), (batch["target"][b], expected)
                seen += 1
                targets += int(real.sum())
        assert seen == count
        print(f"{directory}: {len(info['filenames'])} files, {count} records, {targets} targets: as the original reads them")


def compare(original, ours):
    tf = original_tensorflow()

    def rows(path):
        for payload in tf.python_io.tf_record_iterator(path):
            features = tf.train.Example.FromString(payload).features.feature
            yield {key: list(value.int64_list.value) for key, value in features.items()}

    def shares(total, row):
        half = len(row["input"]) // 2
        for key, value in {
            "predicted in the first half": sum(row["is_masked"][:half]),
            "predicted in the second half": sum(row["is_masked"][half:]),
            "B follows A": row["label"][0],
            "length of A": row["seg_id"][half:].index(1) - 1,
            "records": 1,
        }.items():
            total[key] = total.get(key, 0) + value

    count, theirs_total, ours_total = 0, {}, {}
    for theirs, mine in zip(rows(original), rows(ours)):
        half = len(theirs["input"]) // 2
        for key in ("input", "target", "seg_id"):
            assert theirs[key][:half] == mine[key][:half], (count, key)
        shares(theirs_total, theirs)
        shares(ours_total, mine)
        count += 1
    print(f"{count} records have equal first halves")
    for key in list(ours_total)[:-1]:
        print(f"{key}: {theirs_total[key] / count:.3f} a record, ours {ours_total[key] / count:.3f}")


if __name__ == "__main__":
    command, rest = (sys.argv[1:2] or [""])[0], sys.argv[2:]
    if command == "build":
        build(rest)
    elif command == "read" and rest:
        size = int(rest[2]) if rest[1:2] == ["--perm_size"] else None
        read(rest[0], size)
    elif command == "compare" and len(rest) == 2:
        compare(*rest)
    else:
        sys.exit(__doc__)
