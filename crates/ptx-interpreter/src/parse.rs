//! Tokens to [`syntax`](crate::syntax).

use crate::error::{Error, Result};
use crate::lexer::{Spanned, Token, tokens};
use crate::syntax::{Entry, File, Instruction, Item, Operand, Param, Shared, Type};

pub(crate) fn parse(text: &str) -> Result<File> {
    let tokens = tokens(text)?;
    Parser { tokens, at: 0 }.file()
}

struct Parser {
    tokens: Vec<Spanned>,
    at: usize,
}

impl Parser {
    fn line(&self) -> u32 {
        self.tokens.get(self.at).or(self.tokens.last()).map_or(1, |t| t.line)
    }
    fn wrong<T>(&self, message: impl Into<String>) -> Result<T> {
        Err(Error::parse(self.line(), message))
    }
    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at).map(|t| &t.token)
    }
    fn next(&mut self) -> Result<Token> {
        let token = self.peek().cloned();
        self.at += 1;
        token.ok_or_else(|| Error::parse(self.line(), "the text ends in the middle of a statement"))
    }
    fn is(&self, mark: char) -> bool {
        self.peek() == Some(&Token::Mark(mark))
    }
    fn take(&mut self, mark: char) -> bool {
        let there = self.is(mark);
        self.at += usize::from(there);
        there
    }
    fn expect(&mut self, mark: char) -> Result<()> {
        if self.take(mark) {
            return Ok(());
        }
        self.wrong(format!("expected {mark:?}, got {}", shown(self.peek())))
    }
    fn word(&mut self, what: &str) -> Result<String> {
        match self.peek().cloned() {
            Some(Token::Word(word)) => {
                self.at += 1;
                Ok(word)
            }
            other => self.wrong(format!("expected {what}, got {}", shown(other.as_ref()))),
        }
    }
    fn peek_word(&self) -> &str {
        match self.peek() {
            Some(Token::Word(word)) => word,
            _ => "",
        }
    }
    fn take_word(&mut self, word: &str) -> bool {
        let there = self.peek_word() == word;
        self.at += usize::from(there);
        there
    }
    fn int(&mut self) -> Result<i64> {
        let negative = self.take('-');
        match self.peek().cloned() {
            Some(Token::Int(n)) => {
                self.at += 1;
                Ok(if negative { n.wrapping_neg() } else { n })
            }
            other => self.wrong(format!("expected a whole number, got {}", shown(other.as_ref()))),
        }
    }
    fn size(&mut self) -> Result<usize> {
        let n = self.int()?;
        usize::try_from(n).or_else(|_| self.wrong(format!("expected a size, got {n}")))
    }

    fn file(mut self) -> Result<File> {
        let mut file = File { version: (0, 0), target: String::new(), shared: vec![], entries: vec![] };
        while self.peek().is_some() {
            let word = self.word("a directive")?;
            match word.as_str() {
                ".version" => match self.next()? {
                    Token::Float64(bits) => {
                        let tenths = (f64::from_bits(bits) * 10.0).round() as u32;
                        file.version = (tenths / 10, tenths % 10);
                    }
                    other => return self.wrong(format!("expected .version 7.4, got {}", shown(Some(&other)))),
                },
                ".target" => {
                    file.target = self.word("a target")?;
                    while self.take(',') {
                        self.word("an option of the target")?;
                    }
                }
                ".address_size" => {
                    if self.int()? != 64 {
                        return self.wrong("only .address_size 64 is supported");
                    }
                }
                ".visible" | ".weak" => {}
                ".extern" => {
                    if !self.take_word(".shared") {
                        return self.wrong(".extern is supported for .shared only");
                    }
                    file.shared.push(self.shared(true)?);
                }
                ".shared" => file.shared.push(self.shared(false)?),
                ".entry" => file.entries.push(self.entry()?),
                other => return self.wrong(format!("{other} is not supported at the level of a module")),
            }
        }
        if file.version == (0, 0) || file.target.is_empty() {
            return self.wrong("a module starts with .version and .target");
        }
        Ok(file)
    }

    /// `.align 16 .b8 name[bytes];`
    fn shared(&mut self, external: bool) -> Result<Shared> {
        let line = self.line();
        let (align, kind) = self.typed()?;
        let name = self.word("a variable")?;
        let mut count = Some(1);
        while self.take('[') {
            if self.take(']') {
                count = None;
            } else {
                let n = self.size()?;
                count = count.map(|c| c * n);
                self.expect(']')?;
            }
        }
        if count.is_none() != external {
            return self.wrong(format!("{name}: an .extern array has no size, all others have one"));
        }
        self.expect(';')?;
        Ok(Shared { name, align, bytes: count.map(|c| c * kind.size()), line })
    }
    fn typed(&mut self) -> Result<(usize, Type)> {
        let align = if self.take_word(".align") { Some(self.size()?) } else { None };
        let kind = self.kind()?;
        Ok((align.unwrap_or(kind.size()), kind))
    }
    fn kind(&mut self) -> Result<Type> {
        let word = self.word("a type")?;
        let kind = word.strip_prefix('.').and_then(Type::parse);
        kind.map_or_else(|| self.wrong(format!("{word} is no type")), Ok)
    }

    fn entry(&mut self) -> Result<Entry> {
        let name = self.word("the name of the entry")?;
        let mut entry = Entry { name, params: vec![], max_threads: None, required_threads: None, body: vec![] };
        if self.take('(') {
            while !self.take(')') {
                entry.params.push(self.param()?);
                if !self.is(')') {
                    self.expect(',')?;
                }
            }
        }
        while !self.is('{') {
            match self.word("a directive or {")?.as_str() {
                ".maxntid" => entry.max_threads = Some(self.triple()?),
                ".reqntid" => entry.required_threads = Some(self.triple()?),
                ".minnctapersm" | ".maxnreg" | ".maxnctapersm" => drop(self.triple()?),
                ".noreturn" => {}
                other => return self.wrong(format!("{other} is not supported before the body of an entry")),
            }
        }
        self.expect('{')?;
        let mut depth = 1;
        while depth > 0 {
            if self.take('{') {
                depth += 1;
                entry.body.push(Item::Open);
            } else if self.take('}') {
                depth -= 1;
                if depth > 0 {
                    entry.body.push(Item::Close);
                }
            } else {
                self.statement(&mut entry.body)?;
            }
        }
        Ok(entry)
    }
    fn triple(&mut self) -> Result<[u32; 3]> {
        let mut all = [1; 3];
        for (i, slot) in all.iter_mut().enumerate() {
            if i > 0 && !self.take(',') {
                break;
            }
            *slot = self.size()? as u32;
        }
        Ok(all)
    }
    /// `.param .u64 x`, `.param .u64 .ptr .global .align 16 x`, `.param .align 8 .b8 params[40]`
    fn param(&mut self) -> Result<Param> {
        if !self.take_word(".param") {
            return self.wrong(format!("expected .param, got {}", shown(self.peek())));
        }
        let (align, kind) = self.typed()?;
        if self.take_word(".ptr") {
            let _ = self.take_word(".global") || self.take_word(".shared") || self.take_word(".const");
            if self.take_word(".align") {
                self.int()?;
            }
        }
        let name = self.word("the name of a parameter")?;
        let mut bytes = kind.size();
        if self.take('[') {
            bytes *= self.size()?;
            self.expect(']')?;
        }
        Ok(Param { name, align, bytes })
    }

    fn statement(&mut self, body: &mut Vec<Item>) -> Result<()> {
        let line = self.line();
        let guard = if self.take('@') {
            let negated = self.take('!');
            Some((self.word("a predicate")?, negated))
        } else {
            None
        };
        let word = self.word("a statement")?;
        match word.as_str() {
            ".reg" => {
                let kind = self.kind()?;
                loop {
                    let name = self.word("a register")?;
                    let mut count = None;
                    if self.take('<') {
                        count = Some(self.size()? as u32);
                        self.expect('>')?;
                    }
                    body.push(Item::Register { kind, name, count, line });
                    if !self.take(',') {
                        break;
                    }
                }
                return self.expect(';');
            }
            ".shared" => {
                body.push(Item::Shared(self.shared(false)?));
                return Ok(());
            }
            ".pragma" => {
                while !matches!(self.next()?, Token::Mark(';')) {}
                return Ok(());
            }
            _ if word.starts_with('.') => return self.wrong(format!("{word} is not supported inside of an entry")),
            _ => {}
        }
        if guard.is_none() && self.take(':') {
            body.push(Item::Label(word, line));
            return Ok(());
        }
        let mut operands = vec![];
        if !self.is(';') {
            loop {
                operands.push(self.operand()?);
                if !self.take(',') {
                    break;
                }
            }
        }
        self.expect(';')?;
        let opcode = word.split('.').map(str::to_owned).collect();
        body.push(Item::Instruction(Instruction { line, guard, opcode, operands }));
        Ok(())
    }

    fn operand(&mut self) -> Result<Operand> {
        if self.take('{') {
            let mut all = vec![];
            while !self.take('}') {
                all.push(self.operand()?);
                if !self.is('}') {
                    self.expect(',')?;
                }
            }
            return Ok(Operand::Vector(all));
        }
        if self.take('[') {
            let base = if self.peek_word().is_empty() { None } else { Some(self.word("an address")?) };
            let mut offset = if base.is_none() { self.int()? } else { 0 };
            offset += self.offset()?;
            self.expect(']')?;
            return Ok(Operand::Address(base, offset));
        }
        if self.take('!') {
            return Ok(Operand::Not(self.word("a predicate")?));
        }
        if !self.peek_word().is_empty() {
            let name = self.word("an operand")?;
            if self.take('|') {
                return Ok(Operand::Pair(name, self.word("a predicate")?));
            }
            let offset = self.offset()?;
            return Ok(if offset == 0 { Operand::Name(name) } else { Operand::Sum(name, offset) });
        }
        let negative = self.take('-');
        match self.next()? {
            Token::Int(n) => {
                let first = if negative { n.wrapping_neg() } else { n };
                Ok(Operand::Int(first + self.offset()?))
            }
            Token::Float32(bits) => Ok(Operand::Float32(bits ^ (u32::from(negative) << 31))),
            Token::Float64(bits) => Ok(Operand::Float64(bits ^ (u64::from(negative) << 63))),
            other => self.wrong(format!("expected an operand, got {}", shown(Some(&other)))),
        }
    }
    /// `+16`, `-4`, `+ -4`, several of them, or nothing.
    fn offset(&mut self) -> Result<i64> {
        let mut sum = 0;
        loop {
            // A minus belongs to the number.
            if self.take('+') || self.is('-') {
                sum += self.int()?;
            } else {
                return Ok(sum);
            }
        }
    }
}

fn shown(token: Option<&Token>) -> String {
    match token {
        None => "the end of the text".to_owned(),
        Some(Token::Word(word)) => format!("{word:?}"),
        Some(Token::Int(n)) => n.to_string(),
        Some(Token::Float32(bits)) => f32::from_bits(*bits).to_string(),
        Some(Token::Float64(bits)) => f64::from_bits(*bits).to_string(),
        Some(Token::Text(text)) => format!("the string {text:?}"),
        Some(Token::Mark(mark)) => format!("{mark:?}"),
    }
}
