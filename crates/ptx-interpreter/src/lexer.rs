//! Text to tokens.

use crate::error::{Error, Result};

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Token {
    /// Identifier, directive or opcode with its dots: `%tid.x`, `.reg`, `ld.global.L1::no_allocate.f32`.
    Word(String),
    Int(i64),
    /// `0f3F800000`
    Float32(u32),
    /// `0d3FF0000000000000`, or a decimal number with a point.
    Float64(u64),
    Text(String),
    Mark(char),
}

#[derive(Clone, Debug)]
pub(crate) struct Spanned {
    pub token: Token,
    pub line: u32,
}

pub(crate) fn tokens(text: &str) -> Result<Vec<Spanned>> {
    let bytes = text.as_bytes();
    let (mut at, mut line, mut out) = (0, 1, vec![]);
    let starts_word = |c: u8| c.is_ascii_alphabetic() || matches!(c, b'_' | b'%' | b'$' | b'.');
    while at < bytes.len() {
        let c = bytes[at];
        let rest = &text[at..];
        if c == b'\n' {
            line += 1;
            at += 1;
        } else if c.is_ascii_whitespace() {
            at += 1;
        } else if rest.starts_with("//") {
            at += rest.find('\n').unwrap_or(rest.len());
        } else if rest.starts_with("/*") {
            let length =
                rest.find("*/").ok_or_else(|| Error::parse(line, "this comment does not end; close it with */"))? + 2;
            line += rest[..length].matches('\n').count() as u32;
            at += length;
        } else if c == b'"' {
            let end = rest[1..].find('"').ok_or_else(|| Error::parse(line, "this string does not end"))?;
            out.push(Spanned { token: Token::Text(rest[1..=end].to_owned()), line });
            at += end + 2;
        } else if starts_word(c) {
            let mut end = at + 1;
            while end < bytes.len() {
                let d = bytes[end];
                if d.is_ascii_alphanumeric() || matches!(d, b'_' | b'$' | b'.') {
                    end += 1;
                } else if text[end..].starts_with("::") {
                    end += 2;
                } else {
                    break;
                }
            }
            out.push(Spanned { token: Token::Word(text[at..end].to_owned()), line });
            at = end;
        } else if c.is_ascii_digit() {
            let end = at + rest.find(|d: char| !d.is_ascii_alphanumeric() && d != '.').unwrap_or(rest.len());
            let word = &text[at..end];
            let token = number(word).ok_or_else(|| Error::parse(line, format!("{word:?} is no number")))?;
            out.push(Spanned { token, line });
            at = end;
        } else if c.is_ascii() {
            out.push(Spanned { token: Token::Mark(char::from(c)), line });
            at += 1;
        } else {
            return Err(Error::parse(line, format!("unexpected {:?}", rest.chars().next().unwrap_or(' '))));
        }
    }
    Ok(out)
}

fn number(word: &str) -> Option<Token> {
    let prefix = word.get(..2).unwrap_or("").to_ascii_lowercase();
    let radix = |from: usize, base: u32| {
        let digits = word[from..].trim_end_matches(['U', 'u']);
        u64::from_str_radix(digits, base).ok().map(|n| Token::Int(n as i64))
    };
    match prefix.as_str() {
        "0x" => radix(2, 16),
        "0b" => radix(2, 2),
        "0f" => u32::from_str_radix(&word[2..], 16).ok().filter(|_| word.len() == 10).map(Token::Float32),
        "0d" => u64::from_str_radix(&word[2..], 16).ok().filter(|_| word.len() == 18).map(Token::Float64),
        _ if word.contains('.') => word.parse::<f64>().ok().map(|x| Token::Float64(x.to_bits())),
        _ if word.len() > 1 && word.starts_with('0') => radix(1, 8),
        _ => radix(0, 10),
    }
}
