//! Functions' bodies.

use super::{Writer, Written, named, unknown};
use naga::valid::FunctionInfo;
use naga::{
    AtomicFunction, Barrier, Block, CollectiveOperation, Expression, Function, GatherMode, Handle, LocalVariable,
    Statement, SubgroupOperation, SwitchValue,
};
use std::collections::HashMap;
use std::fmt::Write;

/// A function that is being written.
pub(super) struct Body<'a> {
    pub writer: &'a Writer<'a>,
    pub function: &'a Function,
    pub info: &'a FunctionInfo,
    /// What stands for an expression that was computed, or for a place.
    pub names: HashMap<Handle<Expression>, String>,
    pub out: String,
    depth: usize,
    /// The labels of the loops that are open, which `continue` goes to; none inside of a switch, which has none of its own.
    loops: Vec<usize>,
    labels: usize,
}

impl<'a> Body<'a> {
    pub fn new(writer: &'a Writer<'a>, function: &'a Function, info: &'a FunctionInfo) -> Self {
        let (names, out) = (HashMap::new(), String::new());
        Body { writer, function, info, names, out, depth: 1, loops: Vec::new(), labels: 0 }
    }

    fn line(&mut self, text: &str) {
        let _ = writeln!(self.out, "{:1$}{text}", "", 4 * self.depth); // writing to a String cannot fail
    }

    pub fn local_name(&self, local: Handle<LocalVariable>) -> String {
        let name = named(self.function.local_variables[local].name.as_ref(), "local", 0);
        // WGSL lets one name hide another
        format!("{name}{}", local.index())
    }

    /// The variables of the function: naga has taken them out of their blocks.
    pub fn locals(&mut self) -> Written<()> {
        for (handle, local) in self.function.local_variables.iter() {
            let value = match local.init {
                Some(init) => self.text(init)?,
                None => self.writer.zero(local.ty)?,
            };
            let line = format!("{} {} = {value};", self.writer.type_of(local.ty)?, self.local_name(handle));
            self.line(&line);
        }
        Ok(())
    }

    pub fn block(&mut self, block: &Block) -> Written<()> {
        block.iter().try_for_each(|statement| self.statement(statement))
    }

    fn nested(&mut self, block: &Block) -> Written<()> {
        self.depth += 1;
        self.block(block)?;
        self.depth -= 1;
        Ok(())
    }

    /// Gives the value of an expression a name.
    fn name(&mut self, e: Handle<Expression>, text: &str) -> Written<()> {
        let name = format!("e{}", e.index());
        self.line(&format!("const {} {name} = {text};", self.type_text(e)?));
        self.names.insert(e, name);
        Ok(())
    }

    fn statement(&mut self, statement: &Statement) -> Written<()> {
        match statement {
            Statement::Emit(range) => {
                for e in range.clone() {
                    let text = self.text(e)?;
                    if self.is_place(e) {
                        self.names.insert(e, text);
                    } else {
                        self.name(e, &text)?;
                    }
                }
            }
            Statement::Block(block) => {
                self.line("{");
                self.nested(block)?;
                self.line("}");
            }
            Statement::If { condition, accept, reject } => {
                let condition = self.value(*condition)?;
                self.line(&format!("if ({condition}) {{"));
                self.nested(accept)?;
                if !reject.is_empty() {
                    self.line("} else {");
                    self.nested(reject)?;
                }
                self.line("}");
            }
            Statement::Loop { body, continuing, break_if } => self.a_loop(body, continuing, *break_if)?,
            Statement::Switch { selector, cases } => self.switch(*selector, cases)?,
            Statement::Break => self.line("break;"),
            Statement::Continue => {
                let label = self.loops.last().copied().unwrap_or_default();
                self.line(&format!("goto next_{label};"));
            }
            Statement::Return { value: None } => self.line("return;"),
            Statement::Return { value: Some(value) } => {
                let value = self.value(*value)?;
                self.line(&format!("return {value};"));
            }
            Statement::ControlBarrier(kind) => {
                let warp = *kind == Barrier::SUB_GROUP;
                self.line(if warp { "__syncwarp();" } else { "__syncthreads();" });
            }
            Statement::Store { pointer, value } => {
                let (place, text) = (self.value(*pointer)?, self.value(*value)?);
                match self.is_atomic(*pointer) {
                    true => self.line(&format!("atomic_store({place}, {text});")),
                    false => self.line(&format!("{place} = {text};")),
                }
            }
            Statement::Atomic { pointer, fun, value, result } => self.atomic(*pointer, fun, *value, *result)?,
            Statement::WorkGroupUniformLoad { pointer, result } => {
                let place = self.value(*pointer)?;
                self.line("__syncthreads();");
                self.name(*result, &place)?;
                self.line("__syncthreads();");
            }
            Statement::Call { function, arguments, result } => self.call(*function, arguments, *result)?,
            Statement::SubgroupGather { mode, argument, result } => {
                let lane = match mode {
                    GatherMode::BroadcastFirst => "0u".into(),
                    GatherMode::Broadcast(lane) | GatherMode::Shuffle(lane) => self.value(*lane)?,
                    GatherMode::ShuffleXor(mask) => format!("lane_of() ^ {}", self.value(*mask)?),
                    other => return unknown(other),
                };
                let text = format!("shuffle({}, {lane})", self.value(*argument)?);
                self.name(*result, &text)?;
            }
            Statement::SubgroupCollectiveOperation { op, collective_op, argument, result } => {
                let name = match (collective_op, op) {
                    (CollectiveOperation::Reduce, SubgroupOperation::Add) => "subgroup_add",
                    (CollectiveOperation::Reduce, SubgroupOperation::Min) => "subgroup_min",
                    (CollectiveOperation::Reduce, SubgroupOperation::Max) => "subgroup_max",
                    (CollectiveOperation::Reduce, SubgroupOperation::Any) => "subgroup_any",
                    (CollectiveOperation::Reduce, SubgroupOperation::All) => "subgroup_all",
                    other => return unknown(other),
                };
                let text = format!("{name}({})", self.value(*argument)?);
                self.name(*result, &text)?;
            }
            Statement::CooperativeStore { target, data } => {
                let [value, to, stride] = [self.value(*target)?, self.value(data.pointer)?, self.value(data.stride)?];
                self.line(&format!("store_c<{}>({value}, {to}, {stride});", data.row_major));
            }
            other => return unknown(other),
        }
        Ok(())
    }

    /// `continue` goes to what is done after each turn, which C++'s `for` has no room for.
    fn a_loop(&mut self, body: &Block, continuing: &Block, break_if: Option<Handle<Expression>>) -> Written<()> {
        self.labels += 1;
        let label = self.labels;
        self.loops.push(label);
        self.line("for (;;) {");
        self.line("{");
        self.nested(body)?;
        self.line("}");
        self.line(&format!("next_{label}: __attribute__((unused));"));
        self.nested(continuing)?;
        if let Some(condition) = break_if {
            let condition = self.value(condition)?;
            self.line(&format!("if ({condition}) break;"));
        }
        self.line("}");
        self.loops.pop();
        Ok(())
    }

    fn switch(&mut self, selector: Handle<Expression>, cases: &[naga::SwitchCase]) -> Written<()> {
        let selector = self.value(selector)?;
        self.line(&format!("switch ({selector}) {{"));
        for case in cases {
            match case.value {
                SwitchValue::I32(x) => self.line(&format!("case {x}:")),
                SwitchValue::U32(x) => self.line(&format!("case {x}u:")),
                SwitchValue::Default => self.line("default:"),
            }
            if case.fall_through && case.body.is_empty() {
                continue;
            }
            self.line("{");
            self.nested(&case.body)?;
            self.line("}");
            if !case.fall_through {
                self.line("break;");
            }
        }
        self.line("}");
        Ok(())
    }

    fn atomic(
        &mut self,
        pointer: Handle<Expression>,
        fun: &AtomicFunction,
        value: Handle<Expression>,
        result: Option<Handle<Expression>>,
    ) -> Written<()> {
        let name = match fun {
            AtomicFunction::Add => "atomicAdd",
            AtomicFunction::Subtract => "atomicSub",
            AtomicFunction::And => "atomicAnd",
            AtomicFunction::InclusiveOr => "atomicOr",
            AtomicFunction::ExclusiveOr => "atomicXor",
            AtomicFunction::Min => "atomicMin",
            AtomicFunction::Max => "atomicMax",
            AtomicFunction::Exchange { compare: None } => "atomicExch",
            other => return unknown(other),
        };
        let text = format!("{name}(&{}, {})", self.value(pointer)?, self.value(value)?);
        match result {
            Some(result) => self.name(result, &text)?,
            None => self.line(&format!("{text};")),
        }
        Ok(())
    }

    fn call(
        &mut self,
        function: Handle<Function>,
        arguments: &[Handle<Expression>],
        result: Option<Handle<Expression>>,
    ) -> Written<()> {
        let writer = self.writer;
        let mut all = arguments.iter().map(|a| self.value(*a)).collect::<Written<Vec<_>>>()?;
        all.extend(writer.used(&writer.info[function]).into_iter().map(super::global_name));
        let name = named(writer.module.functions[function].name.as_ref(), "function", 0);
        let text = format!("{name}({})", all.join(", "));
        match result {
            Some(result) => self.name(result, &text)?,
            None => self.line(&format!("{text};")),
        }
        Ok(())
    }
}
