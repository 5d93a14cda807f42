//! Statements to instructions: names to numbers, labels to positions, opcodes to functions.

mod arithmetic;
mod compare;
mod convert;
mod half;
mod mbarrier;
mod memory;
mod warp;
mod wgmma;

use std::collections::HashMap;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::kernel::{Address, Instr, Kernel, NONE, Op, Parameter, Pred, Reg, Special};
use crate::memory::SHARED_BASE;
use crate::syntax::{Entry, File, Instruction, Item, Operand, Shared, Type};

/// What a name stands for.
#[derive(Clone, Copy, Debug)]
enum Symbol {
    Register(Reg, Type),
    Predicate(Pred),
    /// Address in shared memory.
    Shared(u64),
}

#[derive(Default)]
struct Scope {
    parent: Option<usize>,
    labels: HashMap<String, u32>,
    symbols: HashMap<String, Symbol>,
}

/// Opcode parts after the first one; each must be understood by somebody.
pub(crate) struct Modifiers<'a> {
    parts: Vec<&'a str>,
    line: u32,
    opcode: String,
}

impl<'a> Modifiers<'a> {
    fn new(instruction: &'a Instruction) -> Self {
        let parts = instruction.opcode[1..].iter().map(String::as_str).collect();
        Modifiers { parts, line: instruction.line, opcode: instruction.opcode.join(".") }
    }
    /// Takes a modifier where it is there.
    fn take(&mut self, word: &str) -> bool {
        let at = self.parts.iter().position(|p| *p == word);
        at.map(|at| self.parts.remove(at)).is_some()
    }
    /// Takes the first of several that is there.
    fn take_any(&mut self, words: &[&'static str]) -> Option<&'static str> {
        words.iter().copied().find(|w| self.take(w))
    }
    /// Takes the first part.
    fn first(&mut self) -> &'a str {
        if self.parts.is_empty() { "" } else { self.parts.remove(0) }
    }
    /// Takes the type at the end.
    fn last_type(&mut self) -> Result<Type> {
        let kind = self.parts.last().and_then(|p| Type::parse(p)).ok_or_else(|| self.unknown())?;
        self.parts.pop();
        Ok(kind)
    }
    fn finish(&self) -> Result<()> {
        match self.parts.first() {
            None => Ok(()),
            Some(part) => {
                let opcode = &self.opcode;
                Err(Error::parse(self.line, format!("modifier .{part} of {opcode} is not known to the interpreter")))
            }
        }
    }
    fn unknown(&self) -> Error {
        Error::parse(self.line, format!("instruction {} is not known to the interpreter", self.opcode))
    }
}

pub(crate) struct Decoder {
    kernel: Kernel,
    scopes: Vec<Scope>,
    scope: usize,
    constants: HashMap<u64, Reg>,
    specials: HashMap<Special, Reg>,
    line: u32,
}

/// True when the operand is, or is computed from, the variable.
fn names(operand: &Operand, variable: &str) -> bool {
    match operand {
        Operand::Name(name) | Operand::Sum(name, _) | Operand::Address(Some(name), _) => name == variable,
        Operand::Vector(all) => all.iter().any(|one| names(one, variable)),
        _ => false,
    }
}

/// Places a variable in shared memory.
fn place(shared: &Shared, used: &mut usize) -> Symbol {
    *used = used.next_multiple_of(shared.align.max(1));
    let address = SHARED_BASE + *used as u64;
    *used += shared.bytes.unwrap_or(0);
    Symbol::Shared(address)
}

pub(crate) fn decode(file: &File, entry: &Entry, source: Arc<[String]>) -> Result<Kernel> {
    let mut offset: usize = 0;
    let mut params = vec![];
    for param in &entry.params {
        offset = offset.next_multiple_of(param.align.max(1));
        params.push(Parameter { name: param.name.clone(), offset, bytes: param.bytes });
        offset += param.bytes;
    }
    let kernel = Kernel {
        name: entry.name.clone(),
        code: vec![],
        mnemonics: vec![],
        params,
        param_bytes: offset,
        registers: vec![],
        predicates: vec![],
        constants: vec![],
        specials: vec![],
        static_shared: 0,
        max_threads: entry.max_threads,
        required_threads: entry.required_threads,
        granule: 4,
        products: false,
        source,
    };
    let mut decoder = Decoder {
        kernel,
        scopes: vec![Scope::default()],
        scope: 0,
        constants: HashMap::new(),
        specials: HashMap::new(),
        line: 0,
    };
    decoder.declare_shared(file, entry)?;
    decoder.find_labels(entry)?;
    decoder.body(entry)?;
    Ok(decoder.kernel)
}

impl Decoder {
    pub(crate) fn wrong<T>(&self, message: impl Into<String>) -> Result<T> {
        Err(Error::parse(self.line, message))
    }

    /// Sized variables first, those of the launch behind them.
    fn declare_shared(&mut self, file: &File, entry: &Entry) -> Result<()> {
        let used_here = |s: &&Shared| {
            let operands = entry.body.iter().filter_map(|item| match item {
                Item::Instruction(instruction) => Some(&instruction.operands),
                _ => None,
            });
            operands.flatten().any(|operand| names(operand, &s.name))
        };
        let mut used = 0;
        for shared in file.shared.iter().filter(|s| s.bytes.is_some()).filter(used_here) {
            let symbol = place(shared, &mut used);
            self.declare(&shared.name, symbol, shared.line)?;
        }
        for item in &entry.body {
            if let Item::Shared(shared) = item {
                let symbol = place(shared, &mut used);
                self.declare(&shared.name, symbol, shared.line)?;
            }
        }
        for shared in file.shared.iter().filter(|s| s.bytes.is_none()) {
            let symbol = place(shared, &mut used);
            self.declare(&shared.name, symbol, shared.line)?;
        }
        self.kernel.static_shared = used;
        Ok(())
    }
    fn declare(&mut self, name: &str, symbol: Symbol, line: u32) -> Result<()> {
        if self.scopes[self.scope].symbols.insert(name.to_owned(), symbol).is_some() {
            return Err(Error::parse(line, format!("{name} is declared twice")));
        }
        Ok(())
    }

    /// Positions of labels, and the tree of scopes.
    fn find_labels(&mut self, entry: &Entry) -> Result<()> {
        let (mut position, mut scope) = (0, 0);
        for item in &entry.body {
            match item {
                Item::Open => {
                    self.scopes.push(Scope { parent: Some(scope), ..Scope::default() });
                    scope = self.scopes.len() - 1;
                }
                Item::Close => scope = self.scopes[scope].parent.unwrap_or(0),
                Item::Label(name, line) => {
                    if self.scopes[scope].labels.insert(name.clone(), position).is_some() {
                        return Err(Error::parse(*line, format!("label {name} stands twice in this block")));
                    }
                }
                Item::Instruction(_) => position += 1,
                Item::Register { .. } | Item::Shared(_) => {}
            }
        }
        Ok(())
    }

    fn body(&mut self, entry: &Entry) -> Result<()> {
        let (mut opened, mut last) = (0, 0);
        for item in &entry.body {
            match item {
                Item::Open => {
                    opened += 1;
                    self.scope = opened;
                }
                Item::Close => self.scope = self.scopes[self.scope].parent.unwrap_or(0),
                Item::Register { kind, name, count, line } => match count {
                    None => self.register(name, *kind, *line)?,
                    Some(count) => {
                        (0..*count).try_for_each(|i| self.register(&format!("{name}{i}"), *kind, *line))?;
                    }
                },
                Item::Instruction(instruction) => {
                    self.line = instruction.line;
                    last = instruction.line;
                    let instr = self.instruction(instruction)?;
                    self.kernel.code.push(instr);
                    self.kernel.mnemonics.push(instruction.opcode.join("."));
                }
                Item::Label(..) | Item::Shared(_) => {}
            }
        }
        self.kernel.code.push(Instr { op: Op::Exit, guard: NONE, negated: false, line: last });
        self.kernel.mnemonics.push("ret".to_owned());
        Ok(())
    }
    fn register(&mut self, name: &str, kind: Type, line: u32) -> Result<()> {
        if kind == Type::Pred {
            let symbol = Symbol::Predicate(self.kernel.predicates.len() as Pred);
            self.kernel.predicates.push(name.to_owned());
            return self.declare(name, symbol, line);
        }
        if kind == Type::B128 || matches!(kind, Type::Tf32) {
            return Err(Error::parse(line, format!("{name}: registers of type {kind:?} are not supported")));
        }
        let reg = self.new_register(name)?;
        self.declare(name, Symbol::Register(reg, kind), line)
    }
    fn new_register(&mut self, name: &str) -> Result<Reg> {
        if self.kernel.registers.len() + 1 >= usize::from(NONE) {
            return self.wrong("too many registers");
        }
        self.kernel.registers.push(name.to_owned());
        Ok((self.kernel.registers.len() - 1) as Reg)
    }

    fn instruction(&mut self, instruction: &Instruction) -> Result<Instr> {
        let (guard, negated) = match &instruction.guard {
            Some((name, negated)) => (self.predicate(&Operand::Name(name.clone()))?, *negated),
            None => (NONE, false),
        };
        let mut modifiers = Modifiers::new(instruction);
        let op = self.op(&instruction.opcode[0], &mut modifiers, &instruction.operands)?;
        modifiers.finish()?;
        Ok(Instr { op, guard, negated, line: instruction.line })
    }
    fn op(&mut self, name: &str, m: &mut Modifiers, operands: &[Operand]) -> Result<Op> {
        let decoded = match name {
            "bra" => {
                m.take("uni");
                let [Operand::Name(label)] = operands else { return self.wrong("bra needs a label") };
                Some(Op::Branch { target: self.label(label)? })
            }
            "ret" | "exit" => {
                m.take("uni");
                Some(Op::Exit)
            }
            "setp" | "set" | "selp" => Some(self.comparison(name, m, operands)?),
            "cvt" | "cvta" => Some(self.conversion(name, m, operands)?),
            _ => match self.memory(name, m, operands)? {
                Some(op) => Some(op),
                None => match self.warp(name, m, operands)? {
                    Some(op) => Some(op),
                    None if name == "wgmma" => Some(self.wgmma(m, operands)?),
                    None if name == "setmaxnreg" => Some(self.set_registers(m, operands)?),
                    None if name == "mbarrier" => Some(self.mbarrier(m, operands)?),
                    None => self.arithmetic(name, m, operands)?,
                },
            },
        };
        decoded.ok_or_else(|| m.unknown())
    }

    fn look_up<T>(&self, find: impl Fn(&Scope) -> Option<T>) -> Option<T> {
        let mut scope = Some(self.scope);
        while let Some(at) = scope {
            let here = &self.scopes[at];
            if let Some(found) = find(here) {
                return Some(found);
            }
            scope = here.parent;
        }
        None
    }
    fn label(&self, name: &str) -> Result<u32> {
        let found = self.look_up(|scope| scope.labels.get(name).copied());
        found.map_or_else(|| self.wrong(format!("there is no label {name} in reach")), Ok)
    }
    fn symbol(&self, name: &str) -> Option<Symbol> {
        self.look_up(|scope| scope.symbols.get(name).copied())
    }

    /// A register that holds `value` from the start.
    pub(crate) fn constant(&mut self, value: u64) -> Result<Reg> {
        if let Some(&reg) = self.constants.get(&value) {
            return Ok(reg);
        }
        let reg = self.new_register(&format!("{value:#x}"))?;
        self.constants.insert(value, reg);
        self.kernel.constants.push((reg, value));
        Ok(reg)
    }
    /// An operand that is read, for an instruction on `kind`.
    pub(crate) fn source(&mut self, operand: &Operand, kind: Type) -> Result<Reg> {
        self.read(operand, kind, false)
    }
    /// Like [`Self::source`]; a wider register is allowed, of which the low bits count.
    pub(crate) fn wide_source(&mut self, operand: &Operand, kind: Type) -> Result<Reg> {
        self.read(operand, kind, true)
    }
    fn read(&mut self, operand: &Operand, kind: Type, wider: bool) -> Result<Reg> {
        let cut = |n: u64| if kind.size() < 8 { n & ((1 << (8 * kind.size())) - 1) } else { n };
        match operand {
            Operand::Int(n) => match kind {
                Type::F32 | Type::F64 | Type::F16 | Type::Bf16 => {
                    self.wrong(format!("{n} is a whole number; write floating-point constants as 0f3F800000"))
                }
                _ => self.constant(cut(*n as u64)),
            },
            Operand::Float32(bits) => match kind {
                Type::F64 => self.constant(f64::from(f32::from_bits(*bits)).to_bits()),
                _ if kind.size() == 4 => self.constant(u64::from(*bits)),
                _ => self.wrong(format!("a 32-bit constant does not fit type {kind:?}")),
            },
            Operand::Float64(bits) => match kind {
                Type::F32 => self.constant(u64::from((f64::from_bits(*bits) as f32).to_bits())),
                _ if kind.size() == 8 => self.constant(*bits),
                _ => self.wrong(format!("a 64-bit constant does not fit type {kind:?}")),
            },
            Operand::Name(name) => match self.symbol(name) {
                Some(Symbol::Register(reg, of)) => {
                    self.fits(name, of, kind, wider)?;
                    Ok(reg)
                }
                Some(Symbol::Shared(address)) => self.constant(address),
                Some(Symbol::Predicate(_)) => self.wrong(format!("{name} is a predicate, expected a value")),
                None => self.special(name),
            },
            Operand::Sum(name, offset) => match self.symbol(name) {
                Some(Symbol::Shared(address)) => self.constant(cut(address.wrapping_add(*offset as u64))),
                _ => self.wrong(format!("{name} + {offset}: only addresses of variables can be added to")),
            },
            other => self.wrong(format!("{other:?} cannot be read here")),
        }
    }
    fn fits(&self, name: &str, of: Type, kind: Type, wider: bool) -> Result<()> {
        if of.size() == kind.size() || wider && of.size() > kind.size() {
            return Ok(());
        }
        self.wrong(format!("{name} has {} bytes, the instruction works on {}", of.size(), kind.size()))
    }
    /// A register that is written; `_` is [`NONE`].
    pub(crate) fn target(&mut self, operand: &Operand, kind: Type) -> Result<Reg> {
        self.written(operand, kind, false)
    }
    /// Like [`Self::target`]; a wider register is allowed and extended.
    pub(crate) fn wide_target(&mut self, operand: &Operand, kind: Type) -> Result<Reg> {
        self.written(operand, kind, true)
    }
    fn written(&mut self, operand: &Operand, kind: Type, wider: bool) -> Result<Reg> {
        let Operand::Name(name) = operand else { return self.wrong(format!("{operand:?} cannot be written")) };
        match self.symbol(name) {
            _ if name == "_" => Ok(NONE),
            Some(Symbol::Register(reg, of)) => {
                self.fits(name, of, kind, wider)?;
                Ok(reg)
            }
            Some(_) => self.wrong(format!("{name} is no register of type {kind:?}")),
            None => self.wrong(format!("{name} is not declared")),
        }
    }
    /// Size of a declared register.
    pub(crate) fn register_bytes(&self, operand: &Operand) -> Option<usize> {
        match operand {
            Operand::Name(name) => match self.symbol(name) {
                Some(Symbol::Register(_, kind)) => Some(kind.size()),
                _ => None,
            },
            _ => None,
        }
    }
    /// A predicate.
    pub(crate) fn predicate(&mut self, operand: &Operand) -> Result<Pred> {
        let Operand::Name(name) = operand else { return self.wrong(format!("{operand:?} is no predicate")) };
        match self.symbol(name) {
            _ if name == "_" => Ok(NONE),
            Some(Symbol::Predicate(pred)) => Ok(pred),
            Some(_) => self.wrong(format!("{name} is no predicate")),
            None => self.wrong(format!("{name} is not declared")),
        }
    }
    /// A predicate that may be negated.
    pub(crate) fn condition(&mut self, operand: &Operand) -> Result<(Pred, bool)> {
        match operand {
            Operand::Not(name) => Ok((self.predicate(&Operand::Name(name.clone()))?, true)),
            _ => Ok((self.predicate(operand)?, false)),
        }
    }
    /// `[base + offset]`
    pub(crate) fn address(&mut self, operand: &Operand) -> Result<Address> {
        let Operand::Address(base, offset) = operand else {
            return self.wrong(format!("expected an address in brackets, got {operand:?}"));
        };
        let Some(name) = base else {
            return Ok(Address { base: self.constant(0)?, offset: *offset });
        };
        match self.symbol(name) {
            Some(Symbol::Register(reg, of)) if of.size() >= 4 => Ok(Address { base: reg, offset: *offset }),
            Some(Symbol::Shared(address)) => Ok(Address { base: self.constant(address)?, offset: *offset }),
            Some(_) => self.wrong(format!("{name} holds no address")),
            None => self.wrong(format!("{name} is not declared")),
        }
    }
    /// Elements of `{a, b}`; anything else is one element.
    pub(crate) fn elements<'o>(&self, operand: &'o Operand) -> &'o [Operand] {
        match operand {
            Operand::Vector(all) => all,
            one => std::slice::from_ref(one),
        }
    }
    /// Requires `n` operands.
    pub(crate) fn count<'o, const N: usize>(&self, operands: &'o [Operand]) -> Result<&'o [Operand; N]> {
        let got = operands.len();
        operands.try_into().map_err(|_| Error::parse(self.line, format!("expected {N} operands, got {got}")))
    }
    /// A whole number.
    pub(crate) fn immediate(&self, operand: &Operand) -> Result<i64> {
        match operand {
            Operand::Int(n) => Ok(*n),
            other => self.wrong(format!("expected a constant, got {other:?}")),
        }
    }
    /// Races are tracked by the narrowest access.
    pub(crate) fn access(&mut self, bytes: usize) {
        self.kernel.granule = self.kernel.granule.min(bytes);
    }

    fn special(&mut self, name: &str) -> Result<Reg> {
        let axis = |letter: &str| ["x", "y", "z"].iter().position(|a| *a == letter);
        let special = match name.split_once('.') {
            Some((base, letter)) => axis(letter).and_then(|at| match base {
                "%tid" => Some(Special::Tid(at)),
                "%ntid" => Some(Special::Ntid(at)),
                "%ctaid" => Some(Special::Ctaid(at)),
                "%nctaid" => Some(Special::Nctaid(at)),
                _ => None,
            }),
            None => match name {
                "%laneid" => Some(Special::LaneId),
                "%warpid" => Some(Special::WarpId),
                "%nwarpid" => Some(Special::NWarpId),
                "%lanemask_eq" => Some(Special::MaskEq),
                "%lanemask_lt" => Some(Special::MaskLt),
                "%lanemask_le" => Some(Special::MaskLe),
                "%lanemask_gt" => Some(Special::MaskGt),
                "%lanemask_ge" => Some(Special::MaskGe),
                "%dynamic_smem_size" => Some(Special::DynamicShared),
                "%total_smem_size" => Some(Special::TotalShared),
                _ => None,
            },
        };
        let Some(special) = special else {
            return self.wrong(format!("{name} is neither declared nor a known special register"));
        };
        if let Some(&reg) = self.specials.get(&special) {
            return Ok(reg);
        }
        let reg = self.new_register(name)?;
        self.specials.insert(special, reg);
        self.kernel.specials.push((reg, special));
        Ok(reg)
    }
}
