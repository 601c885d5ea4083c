//! A table under construction: sets are declared once, then filled.

use crate::nft::{
    Base, Chain, ChainKind, Hook, Key, Rule, Set, SetDef, Statement, Table, Type, Value, ValueType, Verdict,
};

/// Most guests' devices that packets can bring into a counting set; the kernel allocates as they come.
const COUNTED: u32 = 65_536;

#[derive(Default)]
pub(super) struct Builder {
    table: Table,
}

impl Builder {
    /// A plain set.
    pub(super) fn set(&mut self, name: &str, key: &[Type]) {
        self.declare(name, SetDef::set(key));
    }

    /// A set of ranges.
    pub(super) fn ranges(&mut self, name: &str, key: &[Type]) {
        self.declare(name, SetDef::set(key).ranges());
    }

    /// A verdict map.
    pub(super) fn verdicts(&mut self, name: &str, key: &[Type]) {
        self.declare(name, SetDef::map(key, ValueType::Verdict));
    }

    /// A map to fields.
    pub(super) fn map(&mut self, name: &str, key: &[Type], value: &[Type]) {
        self.declare(name, SetDef::map(key, ValueType::Fields(value.to_vec())));
    }

    /// A map from ranges to fields.
    pub(super) fn range_map(&mut self, name: &str, key: &[Type], value: &[Type]) {
        self.declare(name, SetDef::map(key, ValueType::Fields(value.to_vec())).ranges());
    }

    /// Drop counters by device.
    pub(super) fn counted(&mut self, name: &str) {
        self.declare(name, SetDef { dynamic: Some(COUNTED), ..SetDef::set(&[Type::IfName]) });
    }

    /// A set of any kind.
    pub(super) fn declare(&mut self, name: &str, def: SetDef) {
        self.table.sets.insert(name.to_owned(), Set { def, elements: Default::default() });
    }

    /// Puts a key into a declared set.
    pub(super) fn insert(&mut self, name: &str, key: Key) {
        self.put(name, key, Value::None);
    }

    /// Puts a key with what becomes of its packets into a declared verdict map.
    pub(super) fn judge(&mut self, name: &str, key: Key, verdict: Verdict) {
        self.put(name, key, Value::Verdict(verdict));
    }

    /// Puts a key with its fields into a declared map.
    pub(super) fn relate(&mut self, name: &str, key: Key, value: Key) {
        self.put(name, key, Value::Fields(value.first));
    }

    fn put(&mut self, name: &str, key: Key, value: Value) {
        let set = self.table.sets.get_mut(name);
        debug_assert!(set.as_ref().is_some_and(|s| s.def.key_len() == key.first.len()), "{name}: {key:?}");
        if let Some(set) = set {
            set.elements.insert(key, value);
        }
    }

    /// A chain that others jump to.
    pub(super) fn chain(&mut self, name: &str, rules: Vec<Vec<Statement>>) {
        let rules = rules.into_iter().map(Rule::new).collect();
        self.table.chains.insert(name.to_owned(), Chain { base: None, rules });
    }

    /// A chain that packets come to by themselves.
    pub(super) fn base(&mut self, name: &str, hook: Hook, priority: i32, rules: Vec<Vec<Statement>>) {
        let base = Base { kind: ChainKind::Filter, hook, priority, device: None };
        self.base_chain(name, base, rules);
    }

    /// A base chain of any kind.
    pub(super) fn base_chain(&mut self, name: &str, base: Base, rules: Vec<Vec<Statement>>) {
        let rules = rules.into_iter().map(Rule::new).collect();
        self.table.chains.insert(name.to_owned(), Chain { base: Some(base), rules });
    }

    pub(super) fn finish(self) -> Table {
        self.table
    }
}

/// The words that rules are written with.
pub(super) mod words {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use crate::nft::{Const, Selector, Statement, Verdict};
    use crate::state::{GROUP, OPEN_GROUP};

    pub(in super::super) fn accept() -> Statement {
        Statement::Verdict(Verdict::Accept)
    }

    pub(in super::super) fn drop() -> Statement {
        Statement::Verdict(Verdict::Drop)
    }

    pub(in super::super) fn back() -> Statement {
        Statement::Verdict(Verdict::Return)
    }

    pub(in super::super) fn goto(chain: &str) -> Statement {
        Statement::Verdict(Verdict::Goto(chain.to_owned()))
    }

    pub(in super::super) fn jump(chain: &str) -> Statement {
        Statement::Verdict(Verdict::Jump(chain.to_owned()))
    }

    pub(in super::super) fn v4() -> Statement {
        Statement::Is(Selector::NfProto, Const::u8(2, "ipv4"))
    }

    pub(in super::super) fn v6() -> Statement {
        Statement::Is(Selector::NfProto, Const::u8(10, "ipv6"))
    }

    pub(in super::super) fn l4(number: u8, word: &str) -> Statement {
        Statement::Is(Selector::L4Proto, Const::u8(number, word))
    }

    pub(in super::super) fn icmp() -> Statement {
        l4(1, "icmp")
    }

    pub(in super::super) fn icmpv6() -> Statement {
        l4(58, "ipv6-icmp")
    }

    pub(in super::super) fn tcp() -> Statement {
        l4(6, "tcp")
    }

    pub(in super::super) fn udp() -> Statement {
        l4(17, "udp")
    }

    pub(in super::super) fn icmpv6_type(number: u8, word: &str) -> Statement {
        Statement::Is(Selector::Icmpv6Type, Const::u8(number, word))
    }

    pub(in super::super) fn sport(port: u16) -> Statement {
        Statement::Is(Selector::ThSport, Const::be16(port, &port.to_string()))
    }

    pub(in super::super) fn dport(port: u16) -> Statement {
        Statement::Is(Selector::ThDport, Const::be16(port, &port.to_string()))
    }

    pub(in super::super) fn ethertype(number: u16, word: &str) -> Statement {
        Statement::Is(Selector::EtherType, Const::be16(number, word))
    }

    /// From one of our links.
    pub(in super::super) fn from_ours() -> Statement {
        Statement::Is(Selector::IifGroup, ours())
    }

    /// From a link that is not ours.
    pub(in super::super) fn not_from_ours() -> Statement {
        Statement::Not(Selector::IifGroup, ours())
    }

    /// To one of our links.
    pub(in super::super) fn to_ours() -> Statement {
        Statement::Is(Selector::OifGroup, ours())
    }

    fn ours() -> Const {
        Const::u32(GROUP, &GROUP.to_string())
    }

    /// From a port of a vnet through which nothing goes yet, or no port at all.
    pub(in super::super) fn from_held() -> Statement {
        Statement::Not(Selector::IifGroup, Const::u32(OPEN_GROUP, &OPEN_GROUP.to_string()))
    }

    /// To one.
    pub(in super::super) fn to_held() -> Statement {
        Statement::Not(Selector::OifGroup, Const::u32(OPEN_GROUP, &OPEN_GROUP.to_string()))
    }

    /// fe80::/10.
    pub(in super::super) fn link_local(selector: Selector) -> Statement {
        let mask = Ipv6Addr::new(0xffc0, 0, 0, 0, 0, 0, 0, 0);
        let net = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0);
        Statement::Masked(selector, Const::v6(mask), Const::v6(net))
    }

    /// A link-local address that is made of a MAC (RFC 4291, appendix A).
    pub(in super::super) fn made_of_mac(selector: Selector) -> Statement {
        let mask = Ipv6Addr::new(0xffc0, 0, 0, 0, 0, 0x00ff, 0xff00, 0);
        let form = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0x00ff, 0xfe00, 0);
        Statement::Masked(selector, Const::v6(mask), Const::v6(form))
    }

    /// 127.0.0.0/8.
    pub(in super::super) fn loopback_v4(selector: Selector) -> Statement {
        Statement::Masked(selector, Const::v4(CLASS_A), Const::v4(LOOPBACK))
    }

    /// Not 127.0.0.0/8.
    pub(in super::super) fn not_loopback_v4(selector: Selector) -> Statement {
        Statement::NotMasked(selector, Const::v4(CLASS_A), Const::v4(LOOPBACK))
    }

    const CLASS_A: Ipv4Addr = Ipv4Addr::new(255, 0, 0, 0);
    const LOOPBACK: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 0);
}
