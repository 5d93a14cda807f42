//! The program from outside: what it says when something is wrong, and that a stopped run goes on.

#[path = "common/program.rs"]
mod program;

use std::process::Command;

use program::*;

#[test]
fn help_is_there() {
    let dir = tempfile::tempdir().unwrap();
    for line in
        ["--help", "pretrain --help", "corpus build --help", "vocab train --help", "memory --help", "demo --help"]
    {
        let help = succeeds(dir.path(), line);
        assert!(help.contains("xlnet") && help.contains("Usage"), "{help}");
    }
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = succeeds(dir.path(), &format!("completions {shell}"));
        assert!(["pretrain", "save_minutes", "doctor"].iter().all(|word| script.contains(word)), "{shell}");
    }
    let told = succeeds(dir.path(), "doctor --model_dir not/yet/there");
    for part in ["cores ", "vectors ", "memory ", "disk ", " free in ", "devices", "cpu      ready", "packages"] {
        assert!(told.contains(part), "{part}: {told}");
    }
    assert!(succeeds(dir.path(), "program dump --batch 2 --seq-len 8").starts_with("phase backward"));
    assert!(succeeds(dir.path(), "program plan --task squad --inference --batch 2 --seq-len 8").contains("parameters"));
    assert!(succeeds(dir.path(), "memory --seq-len 8 --budget 4GiB").contains("largest batch in 4.00 GiB"));
}

#[test]
fn manual_pages_cover_every_command() {
    let dir = tempfile::tempdir().unwrap();
    assert!(succeeds(dir.path(), "man").contains(".TH xlnet 1"));
    succeeds(dir.path(), "man --dir share/man1");
    let pages = files(&dir.path().join("share/man1"), ".1");
    let page = |name: &str| std::fs::read_to_string(dir.path().join("share/man1").join(name)).unwrap();
    assert!(page("xlnet-pretrain.1").contains("save_minutes"));
    assert!(page("xlnet-corpus-build.1").contains("bsz_per_host"));
    let help = succeeds(dir.path(), "--help");
    let commands = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let names = commands.filter_map(|line| line.strip_prefix("  ")).filter_map(|line| line.split(' ').next());
    for name in names.filter(|name| !name.is_empty() && *name != "help") {
        assert!(pages.iter().any(|path| path.ends_with(format!("xlnet-{name}.1"))), "{name}: {pages:?}");
    }
    std::fs::write(dir.path().join("file"), "").unwrap();
    fails(dir.path(), "man --dir file", 1, &["file"]);
}

#[test]
fn wrong_usage() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    fails(dir, "pretrian", 2, &["pretrain"]);
    fails(dir, "pretrain --learning_rat 1", 2, &["--learning_rate"]);
    fails(dir, "pretrain --n_layer six", 2, &["n_layer must be a whole number", "six"]);
    fails(dir, "memory --budget 16parsecs", 2, &["16parsecs"]);
    fails(dir, "--log =,= doctor", 2, &["=,="]);
    fails(dir, "memory --model enormous", 1, &["enormous", "base, large"]);
    fails(dir, "memory --model absent.json", 1, &["absent.json"]);
    fails(dir, "memory --accumulate 0", 1, &["accumulate"]);
    fails(dir, "program dump --device tpu", 2, &["unknown device"]);
    succeeds(dir, "program plan --device cuda --batch 1 --seq-len 8"); // needs no card
    fails(dir, "bench --quick --device cuda:99", 1, &["--device cpu"]);
}

#[test]
fn wrong_input_of_vocabularies() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    std::fs::write(dir.join("short.txt"), "one line\n").unwrap();
    std::fs::write(dir.join("spiece.model"), "kept").unwrap();
    fails(dir, "vocab train --input absent.txt", 1, &["absent.txt"]);
    fails(dir, "vocab train --input short.txt --vocab-size 9", 1, &["vocab_size must be more than 17"]);
    fails(dir, "vocab train --input short.txt --output no/such/directory/m", 1, &["no/such/directory"]);
    assert_eq!(std::fs::read(dir.join("spiece.model")).unwrap(), b"kept");
    fails(dir, "vocab encode --model spiece.model text", 1, &["spiece.model"]);
    fails(dir, "vocab encode --model absent.model text", 1, &["absent.model"]);
}

#[test]
fn wrong_input_of_corpora() {
    let dir = corpus();
    let dir = dir.path();
    let before = files(&dir.join("corpus/tfrecords"), "");
    let bytes: Vec<_> = before.iter().map(|path| std::fs::read(path).unwrap()).collect();
    fails(dir, &BUILD.replace("ids.txt", "absent.txt"), 1, &["absent.txt"]);
    fails(dir, &BUILD.replace("--input ids.txt", "--input_glob *.none"), 1, &["*.none"]);
    fails(dir, &format!("{BUILD} --num_predict 33"), 1, &["num_predict", "33"]);
    fails(dir, &format!("{BUILD} --reuse_len 10"), 1, &["reuse_len must be half of seq_len 32"]);
    fails(dir, &BUILD.replace("--bsz_per_host 4", "--bsz_per_host 3"), 1, &["bsz_per_host", "bi_data"]);
    fails(dir, &BUILD.replace("--seq_len 32", "--seq_len 32000"), 1, &["tokens"]);
    fails(dir, "corpus build --input ids.txt", 2, &["--sp_path"]);
    std::fs::write(dir.join("latin1.txt"), b"12 13\n\xe9\n").unwrap();
    fails(dir, &BUILD.replace("ids.txt", "latin1.txt"), 1, &["latin1.txt", "UTF-8"]);
    for (path, bytes) in before.iter().zip(bytes) {
        assert_eq!(std::fs::read(path).unwrap(), bytes, "{}", path.display());
    }
    let records = &files(&dir.join("corpus/tfrecords"), ".tfrecords")[0];
    assert!(succeeds(dir, &format!("corpus inspect {}", records.display())).contains('*'));
    fails(dir, &format!("corpus inspect {} --index 1000000", records.display()), 1, &["no record 1000000"]);
}

#[test]
fn wrong_settings_of_runs() {
    let dir = corpus();
    let dir = dir.path();
    let train = |more: &str| format!("{TRAIN} --model_dir m {more}");
    fails(dir, "pretrain absent.toml", 1, &["absent.toml"]);
    std::fs::write(dir.join("broken.toml"), "n_layer = = 2\n").unwrap();
    fails(dir, "pretrain broken.toml", 1, &["broken.toml", "line 1"]);
    std::fs::write(dir.join("typo.toml"), "learning_rat = 2\n").unwrap();
    fails(dir, "pretrain typo.toml", 1, &["typo.toml", "did you mean learning_rate"]);
    fails(dir, "pretrain", 1, &["record_info_dir"]);
    fails(dir, TRAIN, 1, &["model_dir"]);
    fails(dir, &train("").replace("corpus/tfrecords", "absent"), 1, &["absent"]);
    fails(dir, &train("").replace("corpus/tfrecords", "corpus"), 1, &["tfrecords"]);
    fails(dir, &train("--num_predict 31"), 1, &["fnp-5", "num_predict is 5, not 31"]);
    fails(dir, &train("--perm_size 5"), 1, &["perm_size 5"]);
    fails(dir, &train("--accumulate 3"), 1, &["accumulate", "1, 2, 4"]);
    fails(dir, &train("--train_batch_size 8"), 1, &["bsz is 4, not 8"]);
    fails(dir, &train("--warmup_steps 6"), 1, &["warmup_steps"]);
    fails(dir, &train("--n_token 20"), 1, &["token id"]);
    fails(dir, &train("--init_checkpoint absent"), 1, &["absent"]);
    fails(dir, &train("--resume absent"), 1, &["absent"]);
    fails(dir, &train("--model_config_path absent.json"), 1, &["absent.json"]);
    fails(dir, &train("--device cuda"), 1, &["cuda"]);
    fails(dir, &train("--eval_record_info_dir corpus/tfrecords"), 1, &["split is train, not dev"]);
    if cfg!(target_os = "linux") {
        let wanted = ["a batch of 4 sequences needs", "TiB of memory, but", "free on cpu", "not even"];
        fails(dir, &train("--d_model 65536 --d_inner 16777216 --device cpu"), 1, &wanted);
    }
    assert!(succeeds(dir, &train("--dry-run --d_embed 3 --nouse_tpu")).contains("seq_len = 32"));
}

#[test]
fn damaged_records() {
    let dir = corpus();
    let dir = dir.path();
    let records = &files(&dir.join("corpus/tfrecords"), ".tfrecords")[0];
    let whole = std::fs::read(records).unwrap();
    std::fs::write(records, &whole[..whole.len() - 100]).unwrap();
    fails(dir, &format!("{TRAIN} --model_dir m"), 1, &["record "]);
    let mut flipped = whole;
    flipped[1000] ^= 4;
    std::fs::write(records, flipped).unwrap();
    fails(dir, &format!("{TRAIN} --model_dir m"), 1, &["record "]);
}

#[test]
fn a_resumed_run_is_the_same_run() {
    let dir = corpus();
    let dir = dir.path();
    succeeds(dir, &BUILD.replace("corpus build", "corpus build --split dev"));
    let eval = "--eval_record_info_dir corpus/tfrecords --eval_steps 2";
    let straight = succeeds(dir, &format!("{TRAIN} {eval} --model_dir a"));
    assert!(straight.contains("[2] | gnorm ") && straight.contains("[6] | gnorm "), "{straight}");
    // Stopped after 3 of 6 updates, in the middle of a window of log.
    std::fs::create_dir(dir.join("b")).unwrap();
    let path = dir.join("a/step-3");
    assert!(path.is_dir(), "{:?}", files(&dir.join("a"), ""));
    let copy = Command::new("cp").arg("-r").arg(&path).arg(dir.join("b/step-3")).status().unwrap();
    assert!(copy.success());
    let resumed = succeeds(dir, &format!("{TRAIN} {eval} --model_dir b"));
    assert!(resumed.contains("going on from b/step-3 at step 3"), "{resumed}");
    for file in ["model.safetensors", "optimizer.safetensors", "memory.safetensors"] {
        let [a, b] = ["a", "b"].map(|run| std::fs::read(dir.join(run).join("step-6").join(file)).unwrap());
        assert!(a == b, "{file} differs");
    }
    let after = |run: &str| losses(&dir.join(run)).into_iter().filter(|row| row.0 > 3).collect::<Vec<_>>();
    assert_eq!(after("a"), after("b"));
    assert_eq!(after("a").len(), 3); // two lines of log, one of evaluation

    for (run, count) in [("a", 1), ("b", 1)] {
        let events = std::fs::read_dir(dir.join(run))
            .unwrap()
            .filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().contains("tfevents"));
        assert_eq!(events.count(), count);
        assert!(std::fs::read_to_string(dir.join(run).join("loss.svg")).unwrap().contains("held out"));
    }
    // The saved settings are a run's settings; a finished run has nothing to do.
    let again = succeeds(dir, "pretrain a/run.toml");
    assert!(again.contains("going on from a/step-6 at step 6") && !again.contains("gnorm"), "{again}");
    // A checkpoint is a model to start from, and other runs do not overwrite it.
    fails(dir, &format!("{TRAIN} --model_dir a --resume never"), 1, &["step-6", "resume = never"]);
    fails(dir, &format!("{TRAIN} --model_dir a --resume a/step-3"), 1, &["later than step 3"]);
    succeeds(dir, &format!("{TRAIN} --model_dir c --init_checkpoint a --train_steps 1 --tensorboard=false"));
    assert!(losses(&dir.join("c"))[0].1.unwrap() < losses(&dir.join("a"))[0].1.unwrap());
    fails(dir, &format!("{TRAIN} --model_dir a --d_inner 16 --train_steps 8"), 1, &["layer_1", "must be"]);
}

#[test]
fn accumulation_computes_the_same_update() {
    let dir = corpus();
    let dir = dir.path();
    let line = TRAIN.replace("--dropout 0.1 --dropatt 0.1", "");
    for (run, micro) in [("one", 1), ("two", 2)] {
        succeeds(dir, &format!("{line} --model_dir {run} --accumulate {micro} --recompute layer"));
    }
    for (one, two) in losses(&dir.join("one")).into_iter().zip(losses(&dir.join("two"))) {
        assert!((one.1.unwrap() - two.1.unwrap()).abs() < 1e-4, "{one:?} {two:?}");
    }
}

#[test]
fn divergence_stops_with_a_sentence_and_keeps_the_checkpoint() {
    let dir = corpus();
    let dir = dir.path();
    succeeds(dir, &format!("{TRAIN} --model_dir m"));
    let line = format!("{TRAIN} --model_dir m --train_steps 60").replace("0.01", "1e30");
    let parts = ["has loss NaN", "no finite numbers", "so training stops", "the last good checkpoint is m/step-6"];
    fails(dir, &line, 1, &parts);
    assert!(dir.join("m/step-6/model.safetensors").is_file());
    let parts = ["op ", "is the first to write a value that is no finite number"];
    fails(dir, &format!("{line} --check_finite"), 1, &parts);
}

#[test]
fn demo_in_small() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    fails(dir, "demo", 1, &["there is no text here", "--input"]);
    // Words in an order that a model can learn, enough of them for the demo's batches.
    let line = |n: usize| {
        (0..9).map(|i| format!("{}{}", ["ra", "to", "mi", "su"][(n + i) % 4], i * n % 7)).collect::<Vec<_>>().join(" ")
    };
    let all: String = (0..400).map(|n| line(n) + ".\n").collect();
    std::fs::write(dir.join("notes.md"), all).unwrap();
    let told = succeeds(dir, "demo --train-steps 2 --vocab-size 80");
    for part in ["$ xlnet vocab train --input notes.md", "$ xlnet corpus build", "$ xlnet pretrain runs/demo/demo.toml"]
    {
        assert!(told.contains(part), "{part}: {told}");
    }
    assert!(dir.join("runs/demo/model/step-2/model.safetensors").is_file());
    assert!(dir.join("runs/demo/model/loss.svg").is_file());
    fails(dir, "demo", 1, &["runs/demo/model holds an earlier run"]);
    let ids = succeeds(dir, "vocab encode --model runs/demo/spiece.model ra0");
    assert_eq!(ids.lines().count(), 2, "{ids}");
}

#[cfg(unix)]
#[test]
fn a_signal_saves_before_the_end() {
    use std::io::{BufRead, BufReader};
    let dir = corpus();
    let dir = dir.path();
    let line = format!("{TRAIN} --model_dir m").replace("--train_steps 6 ", "--train_steps 1000000 ");
    let mut child = Command::new(env!("CARGO_BIN_EXE_xlnet"))
        .current_dir(dir)
        .args(line.replace("--save_steps 3", "--save_steps 1000000").split_whitespace())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("gnorm")), "it trains");
    assert!(Command::new("kill").arg("-INT").arg(child.id().to_string()).status().unwrap().success());
    let rest: Vec<String> = lines.map(Result::unwrap).collect();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(rest.last().unwrap().starts_with("stopped; the same command goes on from m/step-"), "{rest:?}");
    let saved = rest.iter().find_map(|line| line.strip_prefix("saved ")).expect("a checkpoint");
    assert!(dir.join(saved).join("state.json").is_file());
}

#[test]
fn a_bench_is_a_table_a_file_for_programs_and_a_picture() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let told = succeeds(dir, "bench --quick --steps 2 --device cpu --output small");
    for part in
        ["on cpu", "limits: ", "tiny classify 2 x 32", "tiny pretrain 2 x 32", "rel_attention_grad", "layer_norm"]
    {
        assert!(told.contains(part), "{part}: {told}");
    }
    let json: serde_json::Value = serde_json::from_slice(&std::fs::read(dir.join("small.json")).unwrap()).unwrap();
    let steps = json["steps"].as_array().unwrap();
    assert_eq!(steps.len(), 2);
    for step in steps {
        let number = |value: &serde_json::Value| value.as_f64().unwrap();
        let (seconds, ideal) = (number(&step["work"]["seconds"]), number(&step["work"]["ideal_seconds"]));
        assert!(seconds > 0.0 && ideal > 0.0 && number(&step["tokens_per_s"]) > 0.0, "{step}");
        let flops: f64 = step["ops"].as_array().unwrap().iter().map(|op| number(&op["work"]["flops"])).sum();
        assert_eq!(flops, number(&step["work"]["flops"]), "the ops are the step");
    }
    let svg = std::fs::read_to_string(dir.join("small.svg")).unwrap();
    assert!(svg.contains("tiny pretrain 2 x 32") && svg.matches("<rect").count() > 10);
}
