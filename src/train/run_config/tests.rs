use toml::Table;

use super::*;

fn table(text: &str) -> Table {
    text.parse().unwrap()
}

#[test]
fn flags_win_over_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run.toml");
    std::fs::write(&path, "learning_rate = 1\nn_layer = 2\nrecord_info_dir = \"a,b\"\nd_embed = 3\n").unwrap();
    let config = RunConfig::load(Some(&path), table("n_layer = 3")).unwrap();
    assert_eq!((config.learning_rate, config.n_layer), (1.0, Some(3)));
    assert_eq!(config.record_info_dir.0, [PathBuf::from("a"), PathBuf::from("b")]);
}
#[test]
fn saved_settings_are_read_back() {
    let mut config = RunConfig { num_predict: Some(21), dropout: 0.1, ..RunConfig::default() };
    config.record_info_dir = Paths(vec!["x y".into()]);
    let text = config.to_toml().unwrap();
    assert!(text.contains("dropout = 0.1\n"), "{text}");
    assert_eq!(RunConfig::load(None, table(&text)).unwrap(), config);
}
#[test]
fn unknown_keys_name_near_ones() {
    let says = |text: &str| RunConfig::load(None, table(text)).unwrap_err().to_string();
    assert!(says("learning_rat = 1").contains("did you mean learning_rate"), "{}", says("learning_rat = 1"));
    assert!(says("zzz = 1").contains("--help"));
    assert!(says("n_layer = \"six\"").starts_with("n_layer: "));
    assert!(says("n_layer = -1").starts_with("n_layer: "));
}
#[test]
fn wrong_toml_names_its_line() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run.toml");
    std::fs::write(&path, "n_layer = 2\nd_model = = 3\n").unwrap();
    let sentence = RunConfig::load(Some(&path), Table::new()).unwrap_err().to_string();
    assert!(sentence.contains("line 2 is not TOML") && !sentence.contains('\n'), "{sentence}");
}
#[test]
fn every_key_has_help_and_reads_its_default() {
    let defaults = Table::try_from(RunConfig::default()).unwrap();
    for key in KEYS {
        assert!(key.help.trim().ends_with('.'), "{}", key.name);
        if let Some(text) = RunConfig::default_text(key) {
            let value = key.parse(&text).unwrap();
            assert_eq!(value.as_ref(), defaults.get(key.name), "{}", key.name);
        }
    }
}
#[test]
fn a_model_file_must_agree() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.json");
    std::fs::write(&path, serde_json::to_string(&XlnetConfig::base()).unwrap()).unwrap();
    let mut config = RunConfig { model_config_path: Some(path), ..RunConfig::default() };
    assert_eq!(config.model(Some(7)).unwrap(), XlnetConfig::base());
    config.n_layer = Some(3);
    assert!(config.model(None).unwrap_err().to_string().contains("n_layer is 12 here, but 3"));
}
