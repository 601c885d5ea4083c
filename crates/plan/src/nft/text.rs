//! nft's syntax for a whole ruleset: what `plan` explains, what the golden files hold, and what `nft -c` can check.

use std::fmt::{self, Display, Formatter};

use super::{Base, Key, Ruleset, Set, SetDef, TABLE, Type, Value, ValueType, Verdict, set::field_text};

impl Display for Verdict {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Accept => f.write_str("accept"),
            Self::Drop => f.write_str("drop"),
            Self::Return => f.write_str("return"),
            Self::Continue => f.write_str("continue"),
            Self::Jump(chain) => write!(f, "jump {chain}"),
            Self::Goto(chain) => write!(f, "goto {chain}"),
        }
    }
}

impl Display for Ruleset {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for (family, table) in &self.tables {
            writeln!(f, "table {} {TABLE} {{", family.word())?;
            for (name, set) in &table.sets {
                write_set(f, name, set)?;
            }
            for (name, chain) in &table.chains {
                writeln!(f, "\tchain {name} {{")?;
                if let Some(base) = &chain.base {
                    writeln!(f, "\t\t{base}")?;
                }
                for rule in &chain.rules {
                    writeln!(f, "\t\t{}", rule.text)?;
                }
                writeln!(f, "\t}}")?;
            }
            writeln!(f, "}}")?;
        }
        Ok(())
    }
}

impl Display for Base {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "type {} hook {}", self.kind.word(), self.hook.word())?;
        if let Some(device) = &self.device {
            write!(f, " device {:?}", device.as_str())?;
        }
        write!(f, " priority {}; policy accept;", self.priority)
    }
}

fn write_set(f: &mut Formatter<'_>, name: &str, set: &Set) -> fmt::Result {
    let def = &set.def;
    let types = |types: &[Type]| types.iter().map(|t| t.word()).collect::<Vec<_>>().join(" . ");
    match &def.value {
        None => writeln!(f, "\tset {name} {{\n\t\ttype {}", types(&def.key))?,
        Some(ValueType::Verdict) => writeln!(f, "\tmap {name} {{\n\t\ttype {} : verdict", types(&def.key))?,
        Some(ValueType::Fields(value)) => {
            writeln!(f, "\tmap {name} {{\n\t\ttype {} : {}", types(&def.key), types(value))?;
        }
    }
    if def.interval {
        writeln!(f, "\t\tflags interval")?;
    }
    if let Some(size) = def.dynamic {
        writeln!(f, "\t\tsize {size}\n\t\tflags dynamic")?;
    } else if !set.elements.is_empty() {
        writeln!(f, "\t\telements = {{")?;
        for (key, value) in &set.elements {
            writeln!(f, "\t\t\t{},", Element { def, key, value })?;
        }
        writeln!(f, "\t\t}}")?;
    }
    writeln!(f, "\t}}")
}

/// One element in nft's syntax.
pub(super) struct Element<'a> {
    pub(super) def: &'a SetDef,
    pub(super) key: &'a Key,
    pub(super) value: &'a Value,
}

impl Display for Element<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write_fields(f, &self.def.key, &self.key.first, &self.key.last)?;
        match (self.value, &self.def.value) {
            (Value::Verdict(verdict), _) => write!(f, " : {verdict}"),
            (Value::Fields(bytes), Some(ValueType::Fields(types))) => {
                f.write_str(" : ")?;
                write_fields(f, types, bytes, bytes)
            }
            (Value::None | Value::Fields(_), _) => Ok(()),
        }
    }
}

impl SetDef {
    /// One element in nft's syntax.
    pub fn element_text(&self, key: &Key, value: &Value) -> String {
        Element { def: self, key, value }.to_string()
    }
}

fn write_fields(f: &mut Formatter<'_>, types: &[Type], first: &[u8], last: &[u8]) -> fmt::Result {
    let mut at = 0;
    for (i, &t) in types.iter().enumerate() {
        let field = at..at + t.size();
        at += t.padded_len();
        let (Some(first), Some(last)) = (first.get(field.clone()), last.get(field)) else {
            return f.write_str("?");
        };
        if i > 0 {
            f.write_str(" . ")?;
        }
        f.write_str(&field_text(t, first))?;
        if first != last {
            write!(f, "-{}", field_text(t, last))?;
        }
    }
    Ok(())
}
