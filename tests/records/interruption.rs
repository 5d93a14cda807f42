//! Builds that are killed, and what they hold in memory.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::*;

/// Five files of ids, `tokens` in all, and the command that builds their corpus.
fn corpus(dir: &Path, tokens: usize) -> String {
    for file in 0..5 {
        // Ids repeat: what counts here is how many there are.
        let line: String = (0..50).map(|i| format!("{} ", 9 + (i * 37 + file) % 90_000)).collect::<String>() + "\n";
        std::fs::write(dir.join(format!("{file}.txt")), line.repeat(tokens / 250)).unwrap();
    }
    format!(
        "corpus build --input 0.txt 1.txt 2.txt 3.txt 4.txt --nofrom_raw_text --vocab_size {VOCAB} --bsz_per_host 16 \
         --seq_len 128 --num_predict 21"
    )
}

fn start(dir: &Path, line: &str) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xlnet"));
    command.current_dir(dir).args(line.split_whitespace()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().expect("the program starts")
}

/// Killed without warning while it reads and while it writes, the same command ends in the same bytes.
#[test]
fn a_killed_build_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let line = corpus(dir, 4_000_000); // 24 MB of text, several groups
    succeeds(dir, &format!("{line} --save_dir whole"));
    let records = |run: &str| files(&dir.join(run).join("tfrecords"), ".tfrecords");
    let expected = std::fs::read(&records("whole")[0]).unwrap();
    let (mut read, mut written) = (false, false);
    for kill in 0..12 {
        // Watch the journal: kill after some line of it, a later one each time.
        let run = format!("killed{kill}");
        let mut child = start(dir, &format!("{line} --save_dir {run}"));
        let journal = || {
            let work = std::fs::read_dir(dir.join(&run).join("tfrecords")).ok()?;
            let path = work.map(|e| e.unwrap().path()).find(|p| p.is_dir())?.join("journal.jsonl");
            std::fs::read_to_string(path).ok()
        };
        while child.try_wait().unwrap().is_none() {
            if journal().is_some_and(|text| text.lines().count() > 2 + kill) {
                child.kill().unwrap(); // SIGKILL
                break;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        child.wait().unwrap();
        let killed = journal();
        let told = succeeds(dir, &format!("{line} --save_dir {run}"));
        if let Some(journal) = killed.filter(|text| text.lines().count() > 1) {
            assert!(told.contains("went on     after"), "{told}");
            (read, written) = (true, written || journal.contains("Written"));
        }
        assert!(std::fs::read(&records(&run)[0]).unwrap() == expected, "killed after {} lines", 2 + kill);
        assert_eq!(files(&dir.join(&run).join("tfrecords"), "").len(), 2);
        std::fs::remove_dir_all(dir.join(&run)).unwrap();
        if read && written && kill > 4 {
            break;
        }
    }
    assert!(read && written, "killed while reading: {read}, while writing: {written}");
}

/// Three times the corpus takes the same memory. The smaller one is big enough to fill all buffers.
#[cfg(target_os = "linux")]
#[test]
fn memory_does_not_grow_with_the_corpus() {
    let peak = |tokens: usize| {
        let dir = tempfile::tempdir().unwrap();
        let line = corpus(dir.path(), tokens);
        let mut child = start(dir.path(), &format!("{line} --save_dir out"));
        let mut peak = 0; // KiB
        while child.try_wait().unwrap().is_none() {
            let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
            let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
            let now = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0);
            peak = peak.max(now);
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(child.wait().unwrap().success());
        peak
    };
    let (one, three) = (peak(12_000_000), peak(36_000_000));
    println!("peak memory: {} MiB at 12 million tokens, {} MiB at 36 million", one / 1024, three / 1024);
    // 24 million more tokens are 96 MB more as 32-bit ids.
    assert!(one > 1024 && three < one + 12 * 1024, "{one} KiB at 12 million tokens, {three} KiB at 36 million");
}

#[test]
fn two_builds_of_the_same_records_do_not_meet() {
    let dir = tempfile::tempdir().unwrap();
    let line = corpus(dir.path(), 4_000_000);
    let mut child = start(dir.path(), &format!("{line} --save_dir out"));
    let tfrecords = dir.path().join("out/tfrecords");
    let begun = || tfrecords.is_dir() && files(&tfrecords, "").iter().any(|p| p.join("journal.jsonl").is_file());
    while !begun() && child.try_wait().unwrap().is_none() {
        std::thread::sleep(Duration::from_millis(1));
    }
    refuses(dir.path(), &format!("{line} --save_dir out"), &["another process builds these records now"]);
    child.kill().unwrap();
    child.wait().unwrap();
    succeeds(dir.path(), &format!("{line} --save_dir out"));
}
