//! The corpus of the fuzz targets, replayed: every file as it is, cut, and with flipped bits.

use std::fs;
use std::path::Path;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use xlnet_testkit::fuzz::TARGETS;

#[test]
fn every_target_survives_its_corpus() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    for target in TARGETS {
        let folder = corpus.join(target.name);
        let mut files: Vec<_> = fs::read_dir(&folder).expect("a folder").flatten().map(|e| e.path()).collect();
        files.sort();
        assert!(files.len() >= 3, "{} needs a corpus", folder.display());
        for (i, path) in files.iter().enumerate() {
            let whole = fs::read(path).expect("a file");
            (target.run)(&whole);
            let mut rng = ChaCha8Rng::seed_from_u64(i as u64);
            for round in 0..200 {
                let mut bytes = whole.clone();
                let random = rng.next_u64() as usize;
                match round % 4 {
                    0 => bytes.truncate(random % (whole.len() + 1)),
                    _ if whole.is_empty() => {}
                    1 => bytes[random % whole.len()] = (random >> 40) as u8,
                    _ => bytes[random % whole.len()] ^= 1 << (random >> 40 & 7),
                }
                (target.run)(&bytes);
            }
        }
        println!("{}: {} files", target.name, files.len());
    }
}
