//! Collects tensors and ops; every op is checked when it is pushed.

use std::collections::HashMap;

use super::{Phase, Program, Step};
use crate::op::{Cast, Op, Target, Write};
use crate::tensor::{DType, Role, Shape, TensorDesc, TensorId, View};
use crate::{Error, Result};

/// Builds a [`Program`].
#[derive(Debug)]
pub struct Builder {
    program: Program,
    scope: Vec<String>,
    /// Gradient of each trained parameter, and whether a gradient op has written it yet.
    grads: HashMap<TensorId, (TensorId, bool)>,
    written: Vec<bool>,
    /// How often each tensor has been written, by owner of the bytes.
    versions: Vec<u32>,
    /// Element type of operands of products, where it is another one than the program's.
    products: Option<DType>,
    /// Ops at the beginning of this phase that round parameters.
    rounded: usize,
    /// Operands that were rounded in this phase, by owner and version of what they are copies of: first element, copy.
    operands: HashMap<(TensorId, u32), Vec<(usize, TensorId)>>,
}

impl Builder {
    /// An empty program whose floating-point tensors are of type `float`.
    pub fn new(float: DType) -> Self {
        let program = Program { tensors: vec![], steps: vec![], scopes: vec![String::new()], phases: vec![], float };
        Builder {
            program,
            scope: vec![],
            grads: HashMap::new(),
            written: vec![],
            versions: vec![],
            products: None,
            rounded: 0,
            operands: HashMap::new(),
        }
    }

    /// Number of tensors so far.
    pub fn len(&self) -> usize {
        self.program.tensors.len()
    }
    /// True when there is no tensor yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds a tensor.
    pub fn tensor(&mut self, name: impl Into<String>, shape: impl Into<Shape>, dtype: DType, role: Role) -> TensorId {
        self.add(TensorDesc { name: name.into(), shape: shape.into(), dtype, role, view: None })
    }
    fn add(&mut self, desc: TensorDesc) -> TensorId {
        let id = TensorId(self.program.tensors.len() as u32);
        self.written.push(!matches!(desc.role, Role::Activation | Role::Output | Role::Grad));
        self.versions.push(0);
        self.program.tensors.push(desc);
        id
    }
    /// Adds a parameter under its checkpoint name.
    pub fn param(&mut self, name: impl Into<String>, shape: impl Into<Shape>) -> TensorId {
        self.tensor(name, shape, self.program.float, Role::Param)
    }
    /// Adds a floating-point input.
    pub fn input(&mut self, name: impl Into<String>, shape: impl Into<Shape>) -> TensorId {
        self.tensor(name, shape, self.program.float, Role::Input)
    }
    /// Adds an integer input.
    pub fn input_i32(&mut self, name: impl Into<String>, shape: impl Into<Shape>) -> TensorId {
        self.tensor(name, shape, DType::I32, Role::Input)
    }
    /// Adds an output, always of the program's floating-point type.
    pub fn output(&mut self, name: impl Into<String>, shape: impl Into<Shape>) -> TensorId {
        self.tensor(name, shape, self.program.float, Role::Output)
    }
    /// Adds an activation, named within the current scope.
    pub fn activation(&mut self, name: &str, shape: impl Into<Shape>) -> TensorId {
        self.activation_in(name, shape, self.program.float)
    }
    /// As [`Self::activation`], of another type than the program's.
    pub fn activation_in(&mut self, name: &str, shape: impl Into<Shape>, dtype: DType) -> TensorId {
        let name = self.scoped_name(name);
        self.tensor(name, shape, dtype, Role::Activation)
    }
    fn scoped_name(&self, name: &str) -> String {
        if self.scope.is_empty() { name.to_owned() } else { format!("{}/{name}", self.scope.join("/")) }
    }

    /// The elements of `id` from `offset` on, under another shape.
    ///
    /// # Errors
    /// When they reach past the end of `id`.
    pub fn view(&mut self, id: TensorId, offset: usize, shape: impl Into<Shape>) -> Result<TensorId> {
        let shape = shape.into();
        let desc = self.desc(id).clone();
        if offset + shape.len() > desc.shape.len() {
            let got = format!("{shape} from element {offset}");
            return Err(Error::shape("view", desc.name, format_args!("a part of {}", desc.shape), got));
        }
        let (base, inner) = self.program.base(id);
        let written = self.written[base.index()];
        let id = self.add(TensorDesc { shape, view: Some(View { base, offset: inner + offset }), ..desc });
        self.written[id.index()] = written;
        Ok(id)
    }
    /// The same elements under another shape.
    ///
    /// # Errors
    /// When the number of elements differs.
    pub fn reshape(&mut self, id: TensorId, shape: impl Into<Shape>) -> Result<TensorId> {
        let shape = shape.into();
        let desc = self.desc(id);
        if desc.shape.len() != shape.len() {
            return Err(Error::shape("reshape", desc.name.clone(), desc.shape, shape));
        }
        self.view(id, 0, shape)
    }
    /// `count` rows of the first dimension from row `start` on.
    ///
    /// # Errors
    /// When there are not that many rows.
    pub fn rows(&mut self, id: TensorId, start: usize, count: usize) -> Result<TensorId> {
        let dims = self.shape(id).dims().to_vec();
        let inner: usize = dims[1..].iter().product();
        match dims[..] {
            [_] => self.view(id, start, [count]),
            [_, a] => self.view(id, start * inner, [count, a]),
            [_, a, b] => self.view(id, start * inner, [count, a, b]),
            [_, a, b, c] => self.view(id, start * inner, [count, a, b, c]),
            _ => Err(Error::shape("rows", self.desc(id).name.clone(), "at least one dimension", "a scalar")),
        }
    }

    /// Description of a tensor.
    pub fn desc(&self, id: TensorId) -> &TensorDesc {
        self.program.tensor(id)
    }
    /// Shape of a tensor.
    pub fn shape(&self, id: TensorId) -> Shape {
        self.desc(id).shape
    }
    /// Element type of floating-point tensors.
    pub fn float(&self) -> DType {
        self.program.float
    }

    /// Runs `body` with `name` as the innermost layer scope.
    ///
    /// # Errors
    /// Those of `body`.
    pub fn scoped<T>(&mut self, name: impl Into<String>, body: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        self.scope.push(name.into());
        let result = body(self);
        self.scope.pop();
        result
    }
    /// Ops pushed from here on belong to a new phase.
    pub fn phase(&mut self, name: &'static str) {
        let start = self.program.steps.len();
        self.program.phases.push(Phase { name, ops: start..start });
        // A phase may run without the one before, whose copies would be old.
        self.operands.clear();
        self.rounded = 0;
    }

    /// Appends an op.
    ///
    /// # Errors
    /// When its tensors do not fit, or an activation is read that nothing has written.
    pub fn push(&mut self, op: impl Into<Op>) -> Result<()> {
        let op = op.into();
        let scope = self.scope.join("/");
        op.check(&self.program.tensors, &scope)?;
        for id in op.reads() {
            self.require_written(id, op.name(), &scope)?;
        }
        for target in op.writes() {
            if target.write == Write::Add {
                self.require_written(target.id, op.name(), &scope)?;
            }
            let base = self.program.base(target.id).0;
            self.written[base.index()] = true;
            self.versions[base.index()] += 1;
        }
        if self.program.phases.is_empty() {
            self.phase("run");
        }
        let scope = match self.program.scopes.iter().rposition(|s| *s == scope) {
            Some(at) => at,
            None => {
                self.program.scopes.push(scope);
                self.program.scopes.len() - 1
            }
        };
        self.program.steps.push(Step { op, scope: scope as u32 });
        let end = self.program.steps.len();
        self.program.phases.last_mut().expect("a phase was begun above").ops.end = end;
        Ok(())
    }
    fn require_written(&self, id: TensorId, op: &str, scope: &str) -> Result<()> {
        let base = self.program.base(id).0;
        if self.written[base.index()] {
            return Ok(());
        }
        let name = &self.desc(id).name;
        Err(Error::plan(format!("{op} in {scope} reads {name}, which no earlier op writes")))
    }

    /// From here on operands of products are rounded to `dtype`, half precision; everything else stays as it is.
    pub fn set_products(&mut self, dtype: DType) {
        self.products = Some(dtype);
    }
    /// Element type of operands of products: what [`Self::set_products`] chose, or the program's.
    pub fn products(&self) -> DType {
        self.products.unwrap_or(self.program.float)
    }
    /// `x` as the operand of a product: `x` itself, or its copy in the type that [`Self::set_products`] chose. A copy is
    /// made once for all products of a phase that see the same values or a part of them.
    ///
    /// # Errors
    /// Those of [`Self::push`].
    pub fn operand(&mut self, x: TensorId) -> Result<TensorId> {
        let Some(dtype) = self.products.filter(|_| !self.desc(x).dtype.is_half()) else { return Ok(x) };
        let (base, offset) = self.program.base(x);
        let (shape, key) = (self.shape(x), (base, self.versions[base.index()]));
        let holds = |&(first, copy): &(usize, TensorId)| {
            first <= offset && offset + shape.len() <= first + self.shape(copy).len()
        };
        let found = self.operands.get(&key).and_then(|copies| copies.iter().copied().find(holds));
        if let Some((first, copy)) = found {
            return self.view(copy, offset - first, shape);
        }
        let name = format!("{}.{dtype}", self.desc(x).name);
        let copy = self.tensor(name, shape, dtype, Role::Activation);
        self.push(Cast { src: x, out: copy })?;
        // Training keeps the copies of weights for the backward pass anyway: made together, they are one launch.
        if self.desc(base).role == Role::Param && !self.grads.is_empty() {
            let phase = self.program.phases.last().map_or(0, |phase| phase.ops.start);
            let step = self.program.steps.pop().expect("it was pushed");
            self.program.steps.insert(phase + self.rounded, step);
            self.rounded += 1;
        }
        self.operands.entry(key).or_default().push((offset, copy));
        Ok(copy)
    }

    /// A tensor for the copy of `x` that [`Self::operand`] would make, for an op that writes both; `None` where it makes
    /// none. [`Self::set_operand`] tells that the op has been pushed.
    pub fn operand_beside(&mut self, x: TensorId) -> Option<TensorId> {
        let dtype = self.products?;
        let (name, shape) = (format!("{}.{dtype}", self.desc(x).name), self.shape(x));
        Some(self.tensor(name, shape, dtype, Role::Activation))
    }
    /// Products that see what `x` holds now read `copy`.
    pub fn set_operand(&mut self, x: TensorId, copy: Option<TensorId>) {
        let Some(copy) = copy else { return };
        let (base, offset) = self.program.base(x);
        self.operands.entry((base, self.versions[base.index()])).or_default().push((offset, copy));
    }

    /// Declares that `param` is trained: it gets a gradient, and the backward pass must write it.
    pub fn train(&mut self, param: TensorId) {
        let desc = self.desc(param);
        let (name, shape, dtype) = (format!("grad/{}", desc.name), desc.shape, desc.dtype);
        if !self.grads.contains_key(&param) {
            let grad = self.tensor(name, shape, dtype, Role::Grad);
            self.grads.insert(param, (grad, false));
        }
    }
    /// True when `param` is trained.
    pub fn is_trained(&self, param: TensorId) -> bool {
        self.grads.contains_key(&param)
    }
    /// Where the next contribution to the gradient of `param` goes: it overwrites the first time and adds afterwards.
    /// `None` when the parameter is frozen.
    pub fn grad(&mut self, param: TensorId) -> Option<Target> {
        let (grad, begun) = self.grads.get_mut(&param)?;
        let target = if *begun { Target::add(*grad) } else { Target::set(*grad) };
        *begun = true;
        Some(target)
    }
    /// Trained parameters with their gradients, in order of declaration.
    pub fn trained(&self) -> Vec<(TensorId, TensorId)> {
        let mut all: Vec<_> = self.grads.iter().map(|(&param, &(grad, _))| (param, grad)).collect();
        all.sort();
        all
    }

    /// The finished program.
    ///
    /// # Errors
    /// When a trained parameter never got a gradient.
    pub fn finish(self) -> Result<Program> {
        let mut missing: Vec<&str> =
            self.grads.iter().filter(|(_, (_, begun))| !begun).map(|(&p, _)| self.desc(p).name.as_str()).collect();
        missing.sort_unstable();
        if !missing.is_empty() {
            let names = missing.join(", ");
            return Err(Error::plan(format!("no backward op writes the gradient of {names}; freeze it or use it")));
        }
        Ok(self.program)
    }
}
