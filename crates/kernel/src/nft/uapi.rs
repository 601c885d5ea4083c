//! The kernel's numbers (include/uapi/linux/netfilter/nfnetlink.h and nf_tables.h), attribute numbers grouped by the
//! nest they stand in.

/// NFNL_SUBSYS_NFTABLES
pub(super) const SUBSYSTEM: u16 = 10;

/// NFNL_MSG_BATCH_BEGIN
pub(super) const BATCH_BEGIN: u16 = 0x10;
/// NFNL_MSG_BATCH_END
pub(super) const BATCH_END: u16 = 0x11;

/// nf_tables_msg_types, with the subsystem.
pub(super) mod message {
    use super::SUBSYSTEM;

    const fn number(message: u16) -> u16 {
        SUBSYSTEM << 8 | message
    }

    pub(in super::super) const NEW_TABLE: u16 = number(0);
    pub(in super::super) const GET_TABLE: u16 = number(1);
    pub(in super::super) const DELETE_TABLE: u16 = number(2);
    pub(in super::super) const NEW_CHAIN: u16 = number(3);
    pub(in super::super) const GET_CHAIN: u16 = number(4);
    pub(in super::super) const DELETE_CHAIN: u16 = number(5);
    pub(in super::super) const NEW_RULE: u16 = number(6);
    pub(in super::super) const GET_RULE: u16 = number(7);
    pub(in super::super) const DELETE_RULE: u16 = number(8);
    pub(in super::super) const NEW_SET: u16 = number(9);
    pub(in super::super) const GET_SET: u16 = number(10);
    pub(in super::super) const DELETE_SET: u16 = number(11);
    pub(in super::super) const NEW_SET_ELEM: u16 = number(12);
    pub(in super::super) const GET_SET_ELEM: u16 = number(13);
    pub(in super::super) const DELETE_SET_ELEM: u16 = number(14);
    pub(in super::super) const NEW_GENERATION: u16 = number(15);
    pub(in super::super) const GET_GENERATION: u16 = number(16);
    pub(in super::super) const NEW_OBJECT: u16 = number(18);
    pub(in super::super) const DELETE_OBJECT: u16 = number(20);
    pub(in super::super) const NEW_FLOWTABLE: u16 = number(22);
    pub(in super::super) const DELETE_FLOWTABLE: u16 = number(24);
}

macro_rules! numbers {
    ($($(#[$doc:meta])* $module:ident: $type:ty { $($name:ident = $value:expr),* $(,)? })*) => {$(
        $(#[$doc])*
        pub(super) mod $module {
            $(pub(in super::super) const $name: $type = $value;)*
        }
    )*};
}

numbers! {
    /// nft_list_attributes
    list: u16 { ELEM = 1 }
    /// nft_gen_attributes
    generation: u16 { ID = 1, PROC_PID = 2, PROC_NAME = 3 }
    /// nft_table_attributes
    table: u16 { NAME = 1, FLAGS = 2 }
    /// nft_chain_attributes
    chain: u16 { TABLE = 1, NAME = 3, HOOK = 4, POLICY = 5, TYPE = 7, FLAGS = 10 }
    /// nft_hook_attributes and nft_devices_attributes
    hook: u16 { NUMBER = 1, PRIORITY = 2, DEVICE = 3, DEVICES = 4, DEVICES_NAME = 1 }
    /// nft_chain_flags
    chain_flag: u32 { BASE = 1 }
    /// nft_rule_attributes
    rule: u16 { TABLE = 1, CHAIN = 2, EXPRESSIONS = 4 }
    /// nft_set_attributes
    set: u16 {
        TABLE = 1, NAME = 2, FLAGS = 3, KEY_TYPE = 4, KEY_LEN = 5, DATA_TYPE = 6, DATA_LEN = 7, DESC = 9, ID = 10,
        USERDATA = 13,
    }
    /// nft_object_attributes and nft_flowtable_attributes
    object: u16 { NAME = 2 }
    /// nft_set_desc_attributes and nft_set_field_attributes
    set_desc: u16 { SIZE = 1, CONCAT = 2, FIELD_LEN = 1 }
    /// nft_set_flags
    set_flag: u32 { INTERVAL = 4, MAP = 8, EVAL = 0x20, CONCAT = 0x80 }
    /// nft_set_elem_list_attributes
    elem_list: u16 { TABLE = 1, SET = 2, ELEMENTS = 3 }
    /// nft_set_elem_attributes
    elem: u16 { KEY = 1, DATA = 2, FLAGS = 3, EXPR = 7, KEY_END = 10, EXPRESSIONS = 11 }
    /// nft_set_elem_flags
    elem_flag: u32 { INTERVAL_END = 1, CATCHALL = 2 }
    /// nft_data_attributes
    data: u16 { VALUE = 1, VERDICT = 2 }
    /// nft_verdict_attributes
    verdict: u16 { CODE = 1, CHAIN = 2 }
    /// nft_verdicts, and NF_DROP and NF_ACCEPT
    verdict_code: i32 { DROP = 0, ACCEPT = 1, CONTINUE = -1, JUMP = -3, GOTO = -4, RETURN = -5 }
    /// nft_expr_attributes
    expr: u16 { NAME = 1, DATA = 2 }
    /// nft_meta_attributes
    meta: u16 { DREG = 1, KEY = 2, SREG = 3 }
    /// nft_payload_attributes
    payload: u16 {
        DREG = 1, BASE = 2, OFFSET = 3, LEN = 4, SREG = 5, CSUM_TYPE = 6, CSUM_OFFSET = 7, CSUM_FLAGS = 8,
    }
    /// nft_payload_csum_types
    checksum: u32 { NONE = 0, INTERNET = 1, PSEUDO_HEADER = 1 }
    /// nft_exthdr_attributes
    exthdr: u16 { DREG = 1, TYPE = 2, OFFSET = 3, LEN = 4, FLAGS = 5, OP = 6, SREG = 7 }
    /// nft_exthdr_op and nft_exthdr_flags
    exthdr_value: u32 { OP_IPV6 = 0, OP_TCPOPT = 1, FLAG_PRESENT = 1 }
    /// nft_ct_attributes
    ct: u16 { DREG = 1, KEY = 2, DIRECTION = 3, SREG = 4 }
    /// nft_fib_attributes
    fib: u16 { DREG = 1, RESULT = 2, FLAGS = 3 }
    /// nft_fib_result and nft_fib_flags
    fib_value: u32 { ADDRTYPE = 3, DADDR = 2 }
    /// nft_bitwise_attributes
    bitwise: u16 { SREG = 1, DREG = 2, LEN = 3, MASK = 4, XOR = 5, OP = 6 }
    /// nft_bitwise_ops
    bitwise_op: u32 { MASK_XOR = 0 }
    /// nft_byteorder_attributes
    byteorder: u16 { SREG = 1, DREG = 2, LEN = 4 }
    /// nft_cmp_attributes
    cmp: u16 { SREG = 1, OP = 2, DATA = 3 }
    /// nft_range_attributes
    range: u16 { SREG = 1, OP = 2, FROM_DATA = 3, TO_DATA = 4 }
    /// nft_immediate_attributes
    immediate: u16 { DREG = 1, DATA = 2 }
    /// nft_lookup_attributes
    lookup: u16 { SET = 1, SREG = 2, DREG = 3, FLAGS = 5 }
    /// nft_lookup_flags
    lookup_flag: u32 { INVERT = 1 }
    /// nft_dynset_attributes
    dynset: u16 {
        SET = 1, OP = 3, SREG_KEY = 4, SREG_DATA = 5, TIMEOUT = 6, EXPR = 7, FLAGS = 9, EXPRESSIONS = 10,
    }
    /// nft_nat_attributes
    nat: u16 {
        TYPE = 1, FAMILY = 2, ADDR_MIN = 3, ADDR_MAX = 4, PROTO_MIN = 5, PROTO_MAX = 6, FLAGS = 7,
    }
    /// NF_NAT_RANGE_* (include/uapi/linux/netfilter/nf_nat.h), those that registers imply
    nat_range: u32 { MAP_IPS = 1, PROTO_SPECIFIED = 2 }
    /// nft_match_attributes and nft_target_attributes
    xt: u16 { NAME = 1, REVISION = 2, INFO = 3 }
    /// nft_counter_attributes
    counter: u16 { BYTES = 1, PACKETS = 2 }
    /// nft_limit_attributes
    limit: u16 { RATE = 1, UNIT = 2, BURST = 3, TYPE = 4, FLAGS = 5 }
    /// NFT_LIMIT_PKTS and NFT_LIMIT_F_INV
    limit_value: u32 { PACKETS = 0, INVERT = 1 }
}

/// NFT_DATA_VERDICT: the data type of a verdict map.
pub(super) const DATA_VERDICT: u32 = 0xffff_ff00;
/// NFT_TABLE_F_DORMANT: a table that sees no packets.
pub(super) const TABLE_DORMANT: u32 = 1;
/// NFT_REG32_00
pub(super) const REG32_00: u32 = 8;
/// NFT_REG_VERDICT
pub(super) const REG_VERDICT: u32 = 0;
/// NF_INET_LOCAL_IN
pub(super) const NF_INET_LOCAL_IN: u32 = 1;
/// NF_INET_LOCAL_OUT
pub(super) const NF_INET_LOCAL_OUT: u32 = 3;
/// NF_INET_FORWARD
pub(super) const NF_INET_FORWARD: u32 = 2;
/// NF_ACCEPT as a chain's policy.
pub(super) const POLICY_ACCEPT: u32 = 1;
/// Bits of a key type that belong to its last field; nft's TYPE_BITS (its include/datatype.h).
pub(super) const TYPE_BITS: u32 = 6;
