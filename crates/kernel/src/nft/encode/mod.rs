//! A list of changes as one batch of messages: what the kernel does all of or nothing of.

mod expr;
mod set;
mod step;

use viaduct_plan::nft::{Base, Chain, Change, Family, Set, TABLE, Value, ValueType};

use self::step::{Step, Verb};
use super::{
    attr::{Header, Writer},
    uapi::{
        BATCH_BEGIN, BATCH_END, POLICY_ACCEPT, SUBSYSTEM, chain, elem_list, hook, message, rule,
        set as set_attr, table,
    },
};

const NLM_F_ACK: u16 = 4;
const NLM_F_CREATE: u16 = 0x400;
const NLM_F_APPEND: u16 = 0x800;

/// Where a message's list of elements ends: an attribute holds 65,535 bytes, the longest element takes far less than
/// what is left.
const ELEMENTS_MAX: usize = 60_000;

/// Bytes of an element, about, to reserve memory by.
const ELEMENT_LEN: usize = 112;

/// A batch, and what each of its messages does.
pub(super) struct Batch<'a> {
    writer: Writer,
    steps: Vec<Step<'a>>,
    /// The sequence number of the batch's head; message n of the batch has n more.
    first_seq: u32,
    /// Where the last message stands that changes something.
    last: usize,
}

impl<'a> Batch<'a> {
    /// The messages of all changes in the order that the kernel can follow: a rule names sets and chains, an element
    /// names chains, so all of these are made before, and taken away after.
    pub(super) fn new(changes: &'a [Change], first_seq: u32) -> Self {
        let elements: usize = changes.iter().map(Change::size).sum();
        let writer = Writer::with_capacity(4096 + elements * ELEMENT_LEN);
        let mut batch = Self { writer, steps: Vec::new(), first_seq, last: 0 };
        batch.push(Step::Frame, BATCH_BEGIN, 0, None, |_| {});
        batch.tables(changes);
        batch.sets_and_chains(changes);
        batch.rules(changes);
        batch.elements(changes);
        batch.remove_parts(changes);
        batch.acknowledge_last();
        batch.push(Step::Frame, BATCH_END, 0, None, |_| {});
        batch
    }

    /// What to send.
    pub(super) fn bytes(&self) -> &[u8] {
        self.writer.bytes()
    }

    /// See [`Writer::overlong`].
    pub(super) fn overlong(&self) -> bool {
        self.writer.overlong()
    }

    /// How many sequence numbers it takes.
    pub(super) fn len(&self) -> u32 {
        u32::try_from(self.steps.len()).unwrap_or(u32::MAX)
    }

    /// What a message was to do, in words that follow "cannot". The offset is that of the attribute which the kernel
    /// complains about.
    pub(super) fn describe(&self, seq: u32, offset: Option<u32>) -> String {
        let index = usize::try_from(seq.wrapping_sub(self.first_seq)).unwrap_or(usize::MAX);
        let Some(step) = self.steps.get(index) else { return "change anything".to_owned() };
        let nth = offset
            .and_then(|offset| usize::try_from(offset).ok())
            .and_then(|offset| step::element_at(self.bytes(), index, offset));
        step.describe(nth)
    }

    fn push(
        &mut self,
        step: Step<'a>,
        kind: u16,
        flags: u16,
        family: Option<Family>,
        fill: impl FnOnce(&mut Writer),
    ) {
        let header = Header {
            kind,
            flags,
            seq: self.first_seq.wrapping_add(self.len()),
            family: family.map_or(0, Family::number),
            resource: if matches!(step, Step::Frame) { SUBSYSTEM } else { 0 },
        };
        self.last = self.writer.bytes().len();
        self.steps.push(step);
        self.writer.message(&header, fill);
    }

    /// Errors come unasked; the answer to the last message that changes something says that all was done.
    fn acknowledge_last(&mut self) {
        if self.steps.len() > 1 {
            self.writer.add_flags(self.last, NLM_F_ACK);
        }
    }

    /// A table is made before it is taken away, which is no error when it exists: so it is gone in any case, whoever
    /// made or deleted it meanwhile.
    fn tables(&mut self, changes: &'a [Change]) {
        for change in changes {
            match change {
                Change::DeleteTable(family) => self.remove_table(*family),
                Change::AddTable(family, _) => {
                    let removed = |c: &Change| matches!(c, Change::DeleteTable(f) if f == family);
                    if !changes.iter().any(removed) {
                        self.remove_table(*family);
                    }
                    self.make_table(*family);
                }
                Change::AddParts(..)
                | Change::DeleteParts(..)
                | Change::ReplaceRules { .. }
                | Change::DeleteElements { .. }
                | Change::AddElements { .. } => {}
            }
        }
    }

    fn remove_table(&mut self, family: Family) {
        self.make_table(family);
        self.push(Step::DropTable(family), message::DELETE_TABLE, 0, Some(family), write_table);
    }

    fn make_table(&mut self, family: Family) {
        self.push(Step::MakeTable(family), message::NEW_TABLE, NLM_F_CREATE, Some(family), write_table);
    }

    fn sets_and_chains(&mut self, changes: &'a [Change]) {
        let mut id = 0;
        for change in changes {
            let (Change::AddTable(family, new) | Change::AddParts(family, new)) = change else { continue };
            for (name, set) in &new.sets {
                id += 1;
                self.push(Step::MakeSet(*family, name), message::NEW_SET, NLM_F_CREATE, Some(*family), |w| {
                    set::write_set(w, name, id, &set.def);
                });
            }
            for (name, chain) in &new.chains {
                self.push(
                    Step::MakeChain(*family, name),
                    message::NEW_CHAIN,
                    NLM_F_CREATE,
                    Some(*family),
                    |w| {
                        write_chain(w, *family, name, chain);
                    },
                );
            }
        }
    }

    fn rules(&mut self, changes: &'a [Change]) {
        for change in changes {
            match change {
                Change::AddTable(family, new) | Change::AddParts(family, new) => {
                    for (name, chain) in &new.chains {
                        self.append_rules(*family, name, chain);
                    }
                }
                Change::ReplaceRules { family, name, chain } => {
                    self.empty_chain(*family, name);
                    self.append_rules(*family, name, chain);
                }
                Change::DeleteTable(_)
                | Change::DeleteParts(..)
                | Change::DeleteElements { .. }
                | Change::AddElements { .. } => {}
            }
        }
    }

    fn empty_chain(&mut self, family: Family, name: &'a str) {
        // Without a handle it means every rule of the chain.
        self.push(Step::EmptyChain(family, name), message::DELETE_RULE, 0, Some(family), |w| {
            w.text(rule::TABLE, TABLE);
            w.text(rule::CHAIN, name);
        });
    }

    fn append_rules(&mut self, family: Family, name: &'a str, chain: &'a Chain) {
        for new in &chain.rules {
            let step = Step::AddRule(family, name, &new.text);
            self.push(step, message::NEW_RULE, NLM_F_CREATE | NLM_F_APPEND, Some(family), |w| {
                w.text(rule::TABLE, TABLE);
                w.text(rule::CHAIN, name);
                expr::write_exprs(w, rule::EXPRESSIONS, &new.exprs);
            });
        }
    }

    fn elements(&mut self, changes: &'a [Change]) {
        for change in changes {
            match change {
                Change::AddTable(family, new) | Change::AddParts(family, new) => {
                    for (name, set) in new.sets.iter().filter(|(_, set)| set.def.dynamic.is_none()) {
                        self.set_elements(*family, name, set, Verb::Add);
                    }
                }
                Change::DeleteElements { family, name, set } => {
                    self.set_elements(*family, name, set, Verb::Delete);
                }
                Change::AddElements { family, name, set } => self.set_elements(*family, name, set, Verb::Add),
                Change::DeleteTable(_) | Change::DeleteParts(..) | Change::ReplaceRules { .. } => {}
            }
        }
    }

    /// A chain goes when no rule and no element leads to it, a set when no rule looks into it.
    fn remove_parts(&mut self, changes: &'a [Change]) {
        for change in changes {
            let Change::DeleteParts(family, old) = change else { continue };
            old.chains.keys().for_each(|name| self.empty_chain(*family, name));
            let leads = |set: &Set| set.def.value == Some(ValueType::Verdict);
            for (name, set) in old.sets.iter().filter(|(_, set)| leads(set)) {
                self.set_elements(*family, name, set, Verb::Delete);
            }
            for name in old.sets.keys() {
                self.push(Step::DropSet(*family, name), message::DELETE_SET, 0, Some(*family), |w| {
                    w.text(set_attr::TABLE, TABLE);
                    w.text(set_attr::NAME, name);
                });
            }
            for name in old.chains.keys() {
                self.push(Step::DropChain(*family, name), message::DELETE_CHAIN, 0, Some(*family), |w| {
                    w.text(chain::TABLE, TABLE);
                    w.text(chain::NAME, name);
                });
            }
        }
    }

    /// As many messages as the elements need.
    fn set_elements(&mut self, family: Family, name: &'a str, set: &'a Set, verb: Verb) {
        let (kind, flags) = match verb {
            Verb::Add => (message::NEW_SET_ELEM, NLM_F_CREATE),
            Verb::Delete => (message::DELETE_SET_ELEM, 0),
        };
        let mut elements = set.elements.iter().peekable();
        let mut from = 0;
        while elements.peek().is_some() {
            let step = Step::Elements { family, name, set, from, verb };
            self.push(step, kind, flags, Some(family), |w| {
                w.text(elem_list::TABLE, TABLE);
                w.text(elem_list::SET, name);
                w.nest(elem_list::ELEMENTS, |w| {
                    let start = w.bytes().len();
                    while w.bytes().len() - start < ELEMENTS_MAX
                        && let Some((key, value)) = elements.next()
                    {
                        let value = if verb == Verb::Add { value } else { &Value::None };
                        set::write_element(w, &set.def, key, value);
                        from += 1;
                    }
                });
            });
        }
    }
}

fn write_table(w: &mut Writer) {
    w.text(table::NAME, TABLE);
}

fn write_chain(w: &mut Writer, family: Family, name: &str, new: &Chain) {
    w.text(chain::TABLE, TABLE);
    w.text(chain::NAME, name);
    let Some(Base { kind, hook, priority, device }) = &new.base else { return };
    w.nest(chain::HOOK, |w| {
        w.be32(hook::NUMBER, hook.number(family));
        w.be32(hook::PRIORITY, priority.cast_unsigned());
        if let Some(device) = device {
            w.text(hook::DEVICE, device.as_str());
        }
    });
    w.be32(chain::POLICY, POLICY_ACCEPT);
    w.text(chain::TYPE, kind.word());
}
