use super::super::special::{CLS, SEP};
use super::*;

/// Sixteen tokens: eight reused, `d e <sep>`, `f g <sep> <cls>` and one more of A.
fn view() -> View {
    let pieces = [
        "▁the", "▁cat", "s", "▁sat", "▁<on>", "▁a", "▁mat", ".", "▁d", "▁e", "<sep>", "▁f", "▁g", "▁h", "<sep>",
        "<cls>",
    ];
    let mut input: Vec<i32> = (100..116).collect();
    (input[10], input[14], input[15]) = (SEP, SEP, CLS);
    let mut is_masked = vec![false; 16];
    [1, 2, 4, 9, 10, 12].iter().for_each(|&i| is_masked[i] = true);
    let segment_ids = vec![0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2];
    let record = Record { target: input.clone(), input, segment_ids, is_masked, is_next: true };
    let (mut query_rank, mut key_rank) = (vec![0; 16], vec![0; 16]);
    let classes = classes(&record.input, &record.is_masked);
    let mut rng = loader::rng(3, 0, 0);
    sample_permutation(&classes, 8, 8, BlockOrder::Shared, &mut rng, &mut query_rank, &mut key_rank);
    let pieces = pieces.map(String::from).to_vec();
    View { title: "7 of x & y".into(), record, pieces, reuse_len: 8, backward: Some(false), query_rank, key_rank }
}

#[test]
fn text_shows_what_a_person_asks_for() {
    let mut view = view();
    let text = view.to_text();
    let lines: Vec<&str> = text.lines().collect();
    assert!(text.contains("segments    reused 0-7, A 8-9, B 11-13; B follows A"), "{text}");
    assert!(
        text.contains("predicted   5 of 16 tokens; 1 more chosen, but <sep> and <cls> are never predicted"),
        "{text}"
    );
    assert!(lines.contains(&"  the [cats] sat [<on>] a mat."), "{text}");
    assert!(lines.contains(&"  d [e]") && lines.contains(&"  f [g] h"), "{text}");
    // The order lists every target once, each seeing one more than the one before.
    let at = lines.iter().position(|line| line.starts_with("order of prediction")).unwrap();
    let mut listed: Vec<usize> = [lines[at + 2], lines[at + 4]]
        .iter()
        .flat_map(|l| l.split_whitespace())
        .map(|w| w.split(':').next().unwrap().parse().unwrap())
        .collect();
    let seen: Vec<usize> = listed[..3].iter().map(|&i| (0..16).filter(|&j| view.sees(i, j)).count()).collect();
    assert_eq!(seen, [5, 6, 7]); // five tokens of context in the first half
    listed.sort_unstable();
    assert_eq!(listed, [1, 2, 4, 9, 12]);
    let row = |i: usize| {
        lines.iter().find(|line| line.starts_with(&format!("{i:>8} "))).unwrap().split_whitespace().collect::<Vec<_>>()
    };
    assert_eq!(row(0), ["0", "0", "5", "100", "▁the"]);
    assert_eq!(row(10)[..3], ["10", "0", "-"]);
    assert_eq!(row(15)[..2], ["15", "2"]);
    assert_eq!(row(9)[2], "*");
    // Backwards rows are shown as they were written.
    view.backward = Some(true);
    let text = view.to_text();
    assert!(text.contains("  . mat a [<on>] sat[s cat] the") && text.contains("as it was written"), "{text}");
}

#[test]
fn dots_are_the_mask() {
    let view = view();
    let text = view.to_text();
    let dots: Vec<Vec<u32>> =
        text.lines().rev().take(4).map(|l| l.chars().map(|c| c as u32 - 0x2800).collect()).collect();
    let bit = |i: usize, j: usize| [[0, 3], [1, 4], [2, 5], [6, 7]][i % 4][j % 2];
    for (i, j) in (0..16).flat_map(|i| (0..16).map(move |j| (i, j))) {
        assert_eq!((dots[3 - i / 4][j / 2] >> bit(i, j)) & 1 == 1, view.sees(i, j), "{i} {j}");
    }
}

/// The picture holds every label, is balanced XML, and its coloured area is what is seen.
#[test]
fn picture_is_the_mask() {
    let view = view();
    let svg = view.to_svg();
    assert!(svg.contains("7 of x &amp; y") && svg.contains("▁&lt;on&gt;") && !svg.contains("▁<on>"));
    let attribute = |tag: &str, name: &str| -> f64 {
        tag.split(&format!(" {name}=\"")).nth(1).unwrap().split('"').next().unwrap().parse().unwrap()
    };
    let cell = 24.0;
    let colours = ["#7fa8d1", "#e07b39", "#9a9a9a"];
    let is_cell =
        |tag: &&str| colours.iter().any(|c| tag.contains(&format!("fill=\"{c}\""))) && tag.contains("height=\"24.00\"");
    let cells: f64 = svg.split('<').filter(is_cell).map(|tag| attribute(tag, "width") / cell).sum();
    let seen = (0..16).flat_map(|i| (0..16).map(move |j| (i, j))).filter(|&(i, j)| view.sees(i, j)).count();
    assert_eq!(cells.round() as usize, seen);
    assert_eq!(svg.matches("<text").count(), svg.matches("</text>").count());
    assert_eq!(svg.matches("<svg").count(), svg.matches("</svg>").count());
    for (i, piece) in view.pieces.iter().enumerate().filter(|(_, p)| !p.contains('<')) {
        assert!(svg.contains(&format!(">{i} {piece}<")) && svg.contains(&format!(">{piece} {i}<")), "{piece}");
    }
}

/// Records of any shape are shown, whatever they hold.
#[test]
fn strange_records_are_shown() {
    for (len, reuse_len) in [(0, 0), (1, 0), (4, 4), (9, 2), (300, 150)] {
        let record = Record {
            input: vec![CLS; len],
            target: vec![0; len],
            segment_ids: (0..len).map(|i| i as u8).collect(),
            is_masked: vec![true; len],
            is_next: false,
        };
        let view = View {
            title: String::new(),
            pieces: vec!["\u{1}".into(); len],
            reuse_len,
            backward: None,
            query_rank: vec![1; len],
            key_rank: vec![0; len],
            record,
        };
        assert!(view.to_text().contains("not known"));
        assert!(view.to_svg().ends_with("</svg>\n") && !view.to_svg().contains('\u{1}'));
        assert_eq!(view.to_text().contains("too wide"), len == 300);
    }
}
