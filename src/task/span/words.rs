//! Words as NLTK 3.10 cuts them (`word_tokenize`): sentences by its English Punkt model, then the rules of the Penn treebank.
//! Text is in lower case, as in the official scorer of CMRC 2018 and DRCD, which leaves little of Punkt's model: what it
//! learnt of capitals never counts.

use std::ops::Range;
use std::sync::LazyLock;

use regex::Regex;

use crate::data::text::is_space;

/// Words of a text in lower case.
pub fn words(text: &str) -> Vec<String> {
    let text: Vec<char> = text.chars().collect();
    sentences(&text).into_iter().flat_map(|range| sentence_words(&text[range])).collect()
}

type Rules = LazyLock<Vec<(Regex, &'static str)>>;

fn pattern(pattern: &str) -> Regex {
    Regex::new(pattern).expect("the patterns of this file are valid")
}
fn rules(table: &[(&str, &'static str)]) -> Vec<(Regex, &'static str)> {
    table.iter().map(|&(from, to)| (pattern(from), to)).collect()
}

static OPENING_QUOTES: Rules = LazyLock::new(|| {
    rules(&[(r"([«“‘„]|`+)", " $1 "), (r#"^""#, "``"), ("(``)", " $1 "), (r#"([ (\[{<])("|'{2})"#, "$1 `` ")])
});

static PUNCTUATION: Rules = LazyLock::new(|| {
    rules(&[
        (r#"([^.])(\.)([\])}>"'»”’ ]*)\s*$"#, "$1 $2 $3 "),
        (r"([:,])(\D)", " $1 $2"),
        (r"([:,])$", " $1 "),
        (r"\.{2,}", " $0 "),
        (r"[;@#$%&]", " $0 "),
        (r"[\x{2012}-\x{2015}]", " $0 "),
        (r#"([^.])(\.)([\])}>"']*)\s*$"#, "$1 $2$3 "),
        (r"[?!]", " $0 "),
        (r"([^'])' ", "$1 ' "),
        (r"\*", " $0 "),
        (r"[\]\[(){}<>]", " $0 "),
        (r"--", " -- "),
    ])
});

static ENDING_QUOTES: Rules = LazyLock::new(|| {
    rules(&[
        (r"([»”’])", " $1 "),
        (r"''", " '' "),
        (r#"""#, " '' "),
        (r"\s+", " "),
        (r"([^' ])('s|'m|'d|') ", "$1 $2 "),
        (r"([^' ])('ll|'re|'ve|n't) ", "$1 $2 "),
    ])
});

/// Two words in one.
const CONTRACTIONS: [(&str, &str); 10] = [
    ("can", "not"),
    ("d", "'ye"),
    ("gim", "me"),
    ("gon", "na"),
    ("got", "ta"),
    ("lem", "me"),
    ("more", "'n"),
    ("wan", "na"),
    ("'t", "is"),
    ("'t", "was"),
];

/// Sets the two apart where they stand alone.
fn split_contractions(mut text: String) -> String {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    for (first, second) in CONTRACTIONS {
        let whole = first.to_owned() + second;
        let begins = |before: &str| match first {
            "'t" => before.ends_with(' '),
            _ => !before.ends_with(is_word),
        };
        let ends = |after: &str| match first {
            "wan" => after.starts_with(is_space),
            _ => !after.starts_with(is_word),
        };
        let found: Vec<usize> = text.match_indices(&whole).map(|(at, _)| at).collect();
        for at in found.into_iter().rev() {
            let end = at + whole.len();
            if begins(&text[..at]) && ends(&text[end..]) {
                text.replace_range(at..end, &format!(" {first} {second} "));
            }
        }
    }
    text
}

/// Words of one sentence.
fn sentence_words(sentence: &[char]) -> Vec<String> {
    let apply = |rules: &Rules, text: String| {
        rules.iter().fold(text, |text, (pattern, with)| pattern.replace_all(&text, *with).into_owned())
    };
    let text = open_single_quotes(&apply(&OPENING_QUOTES, sentence.iter().collect()));
    let text = apply(&ENDING_QUOTES, format!(" {} ", apply(&PUNCTUATION, text)));
    split_contractions(text).split(is_space).filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

/// Sets a quote before a word apart, unless it is that of `'s` and the like.
fn open_single_quotes(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let is_word = |at: Option<usize>| at.and_then(|at| chars.get(at)).is_some_and(|c| WORD.is_match(&c.to_string()));
    let mut apart = String::with_capacity(text.len() + 8);
    for (i, &c) in chars.iter().enumerate() {
        apart.push(c);
        let is_clitic = || {
            let clitics = ["re", "ve", "ll", "m", "t", "s", "d", "n"];
            clitics.iter().any(|clitic| {
                let end = i + 1 + clitic.len();
                chars[i + 1..].iter().copied().take(clitic.len()).eq(clitic.chars()) && !is_word(Some(end))
            })
        };
        if c == '\'' && !is_word(i.checked_sub(1)) && is_word(Some(i + 1)) && !is_clitic() {
            apart.push(' ');
        }
    }
    apart
}

/// Abbreviations of Punkt's English model, without their last full stop.
const ABBREVIATIONS: &str = "a.a a.c a.d a.g a.h a.m a.m.e a.s a.t adm ala ariz aug ave b.f b.v bros c c.i.t c.o.m.b c.v \
    calif chg cie co col colo conn corp cos ct d d.c d.h d.w dec dr e e.f e.h e.l e.m f f.g f.j feb fla fri ft g g.d g.f \
    g.k ga gen h h.c h.f h.m i.m.s ill inc j.b j.c j.j j.k j.p j.r jan jr k kan ky l l.a l.f l.p lt ltd m m.b.a m.d.c m.j \
    maj messrs mg mich minn mr mrs ms n n.c n.d n.h n.j n.m n.v n.y nev nov oct ok okla ore p p.a.m p.m pa ph.d prof r r.a \
    r.h r.i r.j r.k r.t rep reps s s.a s.a.y s.c s.g s.p.a s.s sen sep sept sr st sw t t.j tenn tues u.k u.n u.s u.s.a \
    u.s.s.r v va vs vt w w.c w.r w.va w.w wash wed wis yr";

/// Words that the model has seen begin a sentence in lower case, and never in upper case anywhere. All others go on with
/// the sentence after an initial or a number.
const BEGINNINGS: [&str; 4] = ["administrators", "b-week", "r-revised", "z-holiday"];

static WORD: LazyLock<Regex> = LazyLock::new(|| pattern(r"^\w$"));
static NUMBER: LazyLock<Regex> = LazyLock::new(|| pattern(r"^-?[.,]?\d[\d,.\-]*\.?$"));
static INITIAL: LazyLock<Regex> = LazyLock::new(|| pattern(r"^[\w--\d]\.$"));

/// Marks that end words.
fn ends_word(c: char) -> bool {
    ")\";}]*:@'({[‘’“”«»?!".contains(c)
}

/// A stop after which a sentence may end.
struct Stop {
    at: usize,
    /// From the word before it to what follows it.
    context: Range<usize>,
    /// First character of the next sentence.
    next: usize,
}

/// All of them; of several that belong to one word the last.
fn stops(text: &[char]) -> Vec<Stop> {
    let mut stops: Vec<Stop> = vec![];
    let mut word = 0..0; // that of the last stop
    for at in (0..text.len()).filter(|&at| ".?!".contains(text[at])) {
        let (next, end) = match text.get(at + 1) {
            Some(&c) if ends_word(c) => (at + 1, at + 2),
            Some(&c) if c.is_whitespace() => {
                let Some(next) = (at + 1..text.len()).find(|&i| !text[i].is_whitespace()) else { continue };
                (next, (next..text.len()).find(|&i| text[i].is_whitespace()).unwrap_or(text.len()))
            }
            _ => continue,
        };
        let between = &text[word.end..at];
        let space = between.iter().rposition(|c| " \t\n\r\x0b\x0c".contains(*c)).filter(|&space| space > 0);
        let before = space.map_or(word.start, |space| word.end + space + 1)..at;
        if !stops.is_empty() && word.end > before.start {
            stops.pop();
        }
        stops.push(Stop { at, context: before.start..end, next });
        word = before;
    }
    stops
}

/// Sentences, with the quotes and brackets that close them.
fn sentences(text: &[char]) -> Vec<Range<usize>> {
    let (mut parts, mut start) = (vec![], 0);
    for stop in stops(text) {
        if has_end(&text[stop.context]) {
            parts.push(start..stop.at + 1);
            start = stop.next;
        }
    }
    parts.push(start..text.iter().rposition(|c| !is_space(*c)).map_or(0, |last| last + 1));
    let (mut sentences, mut taken) = (vec![], 0);
    for (i, part) in parts.iter().enumerate() {
        let start = part.start + taken;
        let closing = parts.get(i + 1).map(|next| (next.start, text.get(next.clone()).unwrap_or_default()));
        match closing.and_then(|(at, next)| Some((at, next, closing_marks(next)?))) {
            Some((at, next, bytes)) => {
                let marks = next[..bytes].iter().rposition(|c| !is_space(*c)).map_or(0, |last| last + 1);
                sentences.push(start..at + marks);
                taken = bytes;
            }
            None => {
                sentences.push(start..part.end);
                taken = 0;
            }
        }
    }
    sentences.retain(|sentence| sentence.start < sentence.end);
    sentences
}

/// Characters at the beginning of a sentence that close the one before, with the white space after them.
fn closing_marks(text: &[char]) -> Option<usize> {
    let marks = text.iter().take_while(|c| "\"')]}‘’“”«»".contains(**c)).count();
    (1..=marks).find_map(|end| {
        let rest = &text[end..];
        let spaces = rest.iter().take_while(|c| c.is_whitespace()).count();
        (spaces > 0 || rest.is_empty() || rest.starts_with(&['-', '-'])).then_some(end + spaces)
    })
}

/// A token of Punkt's: a word with its full stop, or a mark.
struct Token {
    text: String,
    ends_sentence: bool,
}

impl Token {
    fn new(text: &[char]) -> Self {
        let text: String = text.iter().collect();
        let stem = text.strip_suffix('.').filter(|stem| !stem.ends_with('.'));
        let known = |stem: &str| stem == ". . " || ABBREVIATIONS.split(' ').any(|known| known == stem);
        let is_abbreviation = |stem: &str| known(stem) || stem.rsplit('-').next().is_some_and(known);
        let ends_sentence = matches!(&*text, "." | "?" | "!") || stem.is_some_and(|stem| !is_abbreviation(stem));
        Token { text, ends_sentence }
    }
    /// One letter and a full stop.
    fn is_initial(&self) -> bool {
        INITIAL.is_match(&self.text)
    }
    /// Whether a sentence certainly goes on with this token after an initial or a number.
    fn goes_on(&self, after_initial: bool) -> bool {
        let bare = self.text.strip_suffix('.').filter(|bare| self.ends_sentence && !bare.is_empty());
        let first = self.text.chars().next().unwrap_or_default();
        matches!(&*self.text, ";" | ":" | "," | "." | "!" | "?")
            || first.is_lowercase() && !BEGINNINGS.contains(&bare.unwrap_or(&self.text))
            || first.is_uppercase() && after_initial // has no lower case, so no model knows it
    }
}

/// Whether a sentence ends before the last token of a text.
fn has_end(text: &[char]) -> bool {
    let tokens = tokens(text);
    tokens.windows(2).any(|pair| {
        let (token, next) = (&pair[0], &pair[1]);
        let initial = token.is_initial();
        let counts = initial || token.text.ends_with('.') && NUMBER.is_match(&token.text);
        token.ends_sentence && !(counts && next.goes_on(initial))
    })
}

fn tokens(text: &[char]) -> Vec<Token> {
    let (mut tokens, mut at) = (vec![], 0);
    while at < text.len() {
        if text[at].is_whitespace() {
            at += 1;
            continue;
        }
        let len = row_of_marks(&text[at..]).unwrap_or_else(|| word_length(&text[at..]));
        tokens.push(Token::new(&text[at..at + len]));
        at += len;
    }
    tokens
}

/// Length of two hyphens or full stops and more, or three full stops and more with spaces between them.
fn row_of_marks(text: &[char]) -> Option<usize> {
    let same = |mark: char| Some(text.iter().take_while(|c| **c == mark).count()).filter(|&count| count > 1);
    let spaced = || {
        let pairs = text.chunks_exact(2).take_while(|pair| pair[0] == '.' && pair[1].is_whitespace()).count();
        let last = if text.get(2 * pairs) == Some(&'.') { pairs } else { pairs.saturating_sub(1) };
        Some(2 * last + 1).filter(|_| last > 1)
    };
    same('-').or_else(|| same('.')).or_else(spaced)
}

/// Length of the word at the beginning; a mark that begins no word stands alone.
fn word_length(text: &[char]) -> usize {
    if "(\"`{[:;&#*@)}],-".contains(text[0]) {
        return 1;
    }
    let ends = |at: usize| match text.get(at) {
        None => true,
        Some(&c) => c.is_whitespace() || ends_word(c) || row_of_marks(&text[at..]).is_some(),
    };
    (1..text.len()).find(|&at| ends(at) || text[at] == ',' && ends(at + 1)).unwrap_or(text.len())
}
