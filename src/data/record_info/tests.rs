use super::*;

fn settings() -> RecordSettings {
    let (mask_alpha, mask_beta) = (6, 1);
    let (reuse_len, num_predict) = (Some(32), Some(10));
    RecordSettings { bsz: 4, seq_len: 64, reuse_len, uncased: false, bi_data: true, mask_alpha, mask_beta, num_predict }
}

fn write(directory: &Path, prefix: &str, settings: &RecordSettings, num_batch: u64) {
    let data = settings.file_name(prefix, "tfrecords");
    std::fs::write(directory.join(&data), "").unwrap();
    let text = format!("{{\"filenames\": [\"/elsewhere/{data}\"], \"num_batch\": {num_batch}}}");
    std::fs::write(directory.join(settings.file_name(&format!("record_info-{prefix}"), "json")), text).unwrap();
}

#[test]
fn names_are_the_originals() {
    let name = settings().file_name("train-0-0", "tfrecords");
    assert_eq!(name, "train-0-0.bsz-4.seqlen-64.reuse-32.bi.alpha-6.beta-1.fnp-10.tfrecords");
    let other = RecordSettings { uncased: true, bi_data: false, reuse_len: None, num_predict: None, ..settings() };
    assert_eq!(other.file_name("x", "json"), "x.bsz-4.seqlen-64.uncased.uni.alpha-6.beta-1.json");
    for settings in [settings(), other] {
        let name = settings.file_name("train-3-1", "json");
        assert_eq!(RecordSettings::parse_file_name(&name, "json"), Some(("train-3-1", settings)));
    }
    for bad in [
        "x.json",
        "x.bsz-4.json",
        "x.bsz-4.seqlen-64.bi.alpha-6.beta-1.more.json",
        "x.bsz-q.seqlen-64.bi.alpha-6.beta-1.json",
    ] {
        assert_eq!(RecordSettings::parse_file_name(bad, "json"), None, "{bad}");
    }
}

#[test]
fn finds_by_content_of_names() {
    let dir = tempfile::tempdir().unwrap();
    let second = tempfile::tempdir().unwrap();
    for pass in 0..3 {
        write(dir.path(), &format!("train-0-{pass}"), &settings(), 5);
    }
    write(dir.path(), "dev-0-0", &settings(), 2);
    write(second.path(), "train-1-0", &settings(), 7);
    let directories = [dir.path().to_owned(), second.path().to_owned()];
    let query = RecordQuery { bsz: Some(4), uncased: Some(false), num_passes: Some(2), ..RecordQuery::default() };
    let set = RecordSet::find(&directories, &query).unwrap();
    assert_eq!(set.settings, settings());
    assert_eq!(set.files.iter().map(|f| f.num_batch).collect::<Vec<_>>(), [5, 5, 7]);
    assert_eq!(set.files[0].paths, [dir.path().join(settings().file_name("train-0-0", "tfrecords"))]);
    let all = RecordSet::find(&directories, &RecordQuery::default()).unwrap();
    assert_eq!(all.files.len(), 4);
    let dev = RecordSet::find(&directories[..1], &RecordQuery { split: Split::Dev, ..query }).unwrap();
    assert_eq!(dev.files[0].num_batch, 2);
}

#[test]
fn says_what_differs() {
    let dir = tempfile::tempdir().unwrap();
    let find = |query| RecordSet::find(&[dir.path().to_owned()], &query).unwrap_err().to_string();
    assert!(find(RecordQuery::default()).contains("build a corpus first"));
    std::fs::create_dir(dir.path().join("tfrecords")).unwrap();
    assert!(find(RecordQuery::default()).contains("use its directory tfrecords"));
    write(dir.path(), "train-0-0", &RecordSettings { uncased: true, ..settings() }, 5);
    let asked = RecordQuery { bsz: Some(8), uncased: Some(false), num_predict: Some(None), ..RecordQuery::default() };
    let sentence = find(asked);
    assert!(
        sentence.contains("bsz is 4, not 8, uncased is true, not false, num_predict is 10, not none"),
        "{sentence}"
    );
    assert!(find(RecordQuery { split: Split::Test, ..RecordQuery::default() }).contains("split is train, not test"));
    assert!(find(RecordQuery { num_passes: Some(0), ..RecordQuery::default() }).contains("pass_id is 0"));
    write(dir.path(), "train-0-0", &settings(), 5);
    assert!(find(RecordQuery::default()).contains("uncased is true, there false"));
    assert!(RecordSet::find(&[], &RecordQuery::default()).is_err());
    assert!(RecordSet::find(&["absent".into()], &RecordQuery::default()).is_err());
}

#[test]
fn damaged_indices_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(settings().file_name("record_info-train-0-0", "json"));
    let find = |text: &str| {
        std::fs::write(&path, text).unwrap();
        RecordSet::find(&[dir.path().to_owned()], &RecordQuery::default()).unwrap_err().to_string()
    };
    assert!(find("{").contains("not a record_info file"));
    assert!(find("{\"filenames\": [], \"num_batch\": 1}").contains("names no record file"));
    assert!(find("{\"filenames\": [\"a/../b\"], \"num_batch\": 1}").contains("which is not there"));
    assert!(find("{\"filenames\": [\"..\"], \"num_batch\": 1}").contains("which is not there"));
    assert!(find("{\"filenames\": [\"x\"], \"num_batch\": -1}").contains("not a record_info file"));
}

/// The layout comes from the index file, else from corpus_info.json, else from the caller.
#[test]
fn row_layout_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let records = dir.path().join("tfrecords");
    std::fs::create_dir(&records).unwrap();
    write(&records, "train-0-0", &settings(), 5);
    let cores = |query: RecordQuery| {
        RecordSet::find(std::slice::from_ref(&records), &query).map(|set| set.files[0].num_core_per_host)
    };
    let asked = |n| RecordQuery { num_core_per_host: Some(n), ..RecordQuery::default() };
    assert_eq!(cores(RecordQuery::default()).unwrap(), None);
    assert_eq!(cores(asked(2)).unwrap(), Some(2));
    assert!(cores(asked(4)).unwrap_err().to_string().contains("4 rows cannot be laid out for 4 cores"));
    std::fs::write(dir.path().join("corpus_info.json"), "{\"num_core_per_host\": 2}").unwrap();
    assert_eq!(cores(RecordQuery::default()).unwrap(), Some(2));
    assert!(cores(asked(1)).unwrap_err().to_string().contains("laid out for 2 cores, not 1"));
    // What was left by a build of another batch size says nothing.
    std::fs::write(dir.path().join("corpus_info.json"), "{\"num_core_per_host\": 2, \"bsz_per_host\": 8}").unwrap();
    assert_eq!(cores(RecordQuery::default()).unwrap(), None);
}
