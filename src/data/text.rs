//! Cleaning of text before tokenisation: `preprocess_text` of the original programs.

use unicode_normalization::{UnicodeNormalization, char::canonical_combining_class};

/// How [`preprocess_text`] cleans. The default is what the released cased English models were trained with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TextOptions {
    /// Lower-case at the end; for uncased models.
    pub lower: bool,
    /// Strip the ends and turn every run of white space into one ASCII space.
    pub remove_space: bool,
    /// Skip the compatibility decomposition (NFKD) and the removal of combining marks.
    ///
    /// Off as in the original, where even cased models lose their accents. That also strips the voicing marks of
    /// kana (`が` becomes `か`) and takes Hangul syllables apart; turn it on for Japanese and Korean.
    pub keep_accents: bool,
}

impl Default for TextOptions {
    fn default() -> Self {
        Self { lower: false, remove_space: true, keep_accents: false }
    }
}

/// Cleans a line of text: white space, quotes, accents, case, in this order.
///
/// 1. White space is collapsed ([`TextOptions::remove_space`]).
/// 2. Pairs of back-ticks, then pairs of apostrophes, become `"`.
/// 3. NFKD, then every character with a canonical combining class is dropped ([`TextOptions::keep_accents`]).
/// 4. Lower-casing ([`TextOptions::lower`]).
///
/// ```
/// use xlnet::data::text::{TextOptions, preprocess_text};
/// assert_eq!(preprocess_text("  Café ``au  lait''", &TextOptions::default()), "Cafe \"au lait\"");
/// ```
pub fn preprocess_text(text: &str, options: &TextOptions) -> String {
    let spaced = if options.remove_space {
        text.split(is_space).filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
    } else {
        text.to_owned()
    };
    let mut clean = spaced.replace("``", "\"").replace("''", "\"");
    // ASCII decomposes to itself and has no combining marks.
    if !options.keep_accents && !clean.is_ascii() {
        clean = clean.nfkd().filter(|&c| canonical_combining_class(c) == 0).collect();
    }
    if options.lower { clean.to_lowercase() } else { clean }
}

/// What Python's `str.split()` splits at: Unicode white space and the four ASCII separators U+001C to U+001F, which
/// Unicode does not count.
pub fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\x1c'..='\x1f').contains(&c)
}

/// Python's `str.isdigit`: decimal digits of every script, superscripts, subscripts and circled digits, but neither
/// fractions nor Roman numerals.
pub fn is_digit(c: char) -> bool {
    let c = u32::from(c);
    let after = DIGITS.partition_point(|&(first, _)| first <= c);
    after > 0 && c <= DIGITS[after - 1].1
}

/// Ranges (first, last) of code points with numeric type Decimal or Digit, Unicode 14.
#[rustfmt::skip]
const DIGITS: [(u32, u32); 81] = [
    (0x30, 0x39), (0xB2, 0xB3), (0xB9, 0xB9), (0x660, 0x669), (0x6F0, 0x6F9), (0x7C0, 0x7C9), (0x966, 0x96F),
    (0x9E6, 0x9EF), (0xA66, 0xA6F), (0xAE6, 0xAEF), (0xB66, 0xB6F), (0xBE6, 0xBEF), (0xC66, 0xC6F), (0xCE6, 0xCEF),
    (0xD66, 0xD6F), (0xDE6, 0xDEF), (0xE50, 0xE59), (0xED0, 0xED9), (0xF20, 0xF29), (0x1040, 0x1049),
    (0x1090, 0x1099), (0x1369, 0x1371), (0x17E0, 0x17E9), (0x1810, 0x1819), (0x1946, 0x194F), (0x19D0, 0x19DA),
    (0x1A80, 0x1A89), (0x1A90, 0x1A99), (0x1B50, 0x1B59), (0x1BB0, 0x1BB9), (0x1C40, 0x1C49), (0x1C50, 0x1C59),
    (0x2070, 0x2070), (0x2074, 0x2079), (0x2080, 0x2089), (0x2460, 0x2468), (0x2474, 0x247C), (0x2488, 0x2490),
    (0x24EA, 0x24EA), (0x24F5, 0x24FD), (0x24FF, 0x24FF), (0x2776, 0x277E), (0x2780, 0x2788), (0x278A, 0x2792),
    (0xA620, 0xA629), (0xA8D0, 0xA8D9), (0xA900, 0xA909), (0xA9D0, 0xA9D9), (0xA9F0, 0xA9F9), (0xAA50, 0xAA59),
    (0xABF0, 0xABF9), (0xFF10, 0xFF19), (0x104A0, 0x104A9), (0x10A40, 0x10A43), (0x10D30, 0x10D39),
    (0x10E60, 0x10E68), (0x11052, 0x1105A), (0x11066, 0x1106F), (0x110F0, 0x110F9), (0x11136, 0x1113F),
    (0x111D0, 0x111D9), (0x112F0, 0x112F9), (0x11450, 0x11459), (0x114D0, 0x114D9), (0x11650, 0x11659),
    (0x116C0, 0x116C9), (0x11730, 0x11739), (0x118E0, 0x118E9), (0x11950, 0x11959), (0x11C50, 0x11C59),
    (0x11D50, 0x11D59), (0x11DA0, 0x11DA9), (0x16A60, 0x16A69), (0x16AC0, 0x16AC9), (0x16B50, 0x16B59),
    (0x1D7CE, 0x1D7FF), (0x1E140, 0x1E149), (0x1E2F0, 0x1E2F9), (0x1E950, 0x1E959), (0x1F100, 0x1F10A),
    (0x1FBF0, 0x1FBF9),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn default(text: &str) -> String {
        preprocess_text(text, &TextOptions::default())
    }
    fn lower(text: &str) -> String {
        preprocess_text(text, &TextOptions { lower: true, ..Default::default() })
    }

    #[test]
    fn matches_the_original_program() {
        let text = "  a\u{3000}b\tc ``x'' \u{FF0C}\u{FF01}\u{2026} \u{304C} \u{D55C} \u{BD} \u{E9} \u{2167}";
        let expected = "a b c \"x\" ,!... \u{304B} \u{1112}\u{1161}\u{11AB} 1\u{2044}2 e VIII";
        assert_eq!(default(text), expected);
        assert_eq!(default("e\u{301}"), "e");
        assert_eq!(default("<eop>"), "<eop>");
        assert_eq!(default(""), "");
        assert_eq!(default(" \n\u{3000}"), "");
    }

    #[test]
    fn every_python_space_separates() {
        // str.isspace() over all code points, CPython 3.11.
        let spaces = "\t\n\x0b\x0c\r\x1c\x1d\x1e\x1f \u{85}\u{a0}\u{1680}\u{2000}\u{2001}\u{2002}\u{2003}\u{2004}\
                      \u{2005}\u{2006}\u{2007}\u{2008}\u{2009}\u{200a}\u{2028}\u{2029}\u{202f}\u{205f}\u{3000}";
        assert_eq!((0..=0x10ffff).filter_map(char::from_u32).filter(|&c| is_space(c)).collect::<String>(), spaces);
        for space in spaces.chars() {
            assert_eq!(default(&format!("{space}a{space}{space}b{space}")), "a b", "U+{:04X}", u32::from(space));
        }
        // Zero-width characters are no spaces.
        assert_eq!(default("a\u{200b}b\u{feff}"), "a\u{200b}b\u{feff}");
    }

    #[test]
    fn quotes_pair_from_the_left_after_spaces() {
        assert_eq!(default("```x'''"), "\"`x\"'");
        assert_eq!(default("` ` ' '"), "` ` ' '");
        assert_eq!(default("``''"), "\"\"");
    }

    #[test]
    fn options_switch_each_step_off() {
        let keep = TextOptions { keep_accents: true, ..Default::default() };
        assert_eq!(preprocess_text(" が 한 é Ⅷ ，", &keep), "が 한 é Ⅷ ，");
        let raw = TextOptions { remove_space: false, ..Default::default() };
        assert_eq!(preprocess_text(" a \t ``b ", &raw), " a \t \"b ");
        // The spaces that NFKD makes come after the splitting, as in the original.
        assert_eq!(preprocess_text("a\u{a0}b", &raw), "a b");
        assert_eq!(default("\u{fdfa}").split(' ').count(), 4);
    }

    #[test]
    fn lower_case_follows_python() {
        assert_eq!(lower("ΟΔΥΣΣΕΥΣ, ΣΑΣ Σ"), "οδυσσευς, σας σ");
        // The dot of İ is gone before lower-casing.
        assert_eq!(lower("İSTANBUL"), "istanbul");
        assert_eq!(lower("STRASSE ẞ Å Ⅷ"), "strasse ß a viii");
        let keep = TextOptions { lower: true, keep_accents: true, ..Default::default() };
        assert_eq!(preprocess_text("İ Ⅷ", &keep), "i\u{307} ⅷ");
    }

    #[test]
    fn digits_follow_python() {
        for digit in "0123456789²³¹⁰₉①⓿٣९๙９𝟗🄀".chars() {
            assert!(is_digit(digit), "{digit}");
        }
        for other in "a,½Ⅷ⑩㉈一十〇 ፲".chars() {
            assert!(!is_digit(other), "{other}");
        }
        assert!(DIGITS.windows(2).all(|pair| pair[0].1 < pair[1].0));
        assert_eq!(DIGITS.iter().map(|(first, last)| last - first + 1).sum::<u32>(), COUNT);
    }
    /// `sum(chr(c).isdigit() for c in range(0x110000))`, CPython 3.11.
    const COUNT: u32 = 788;
}
