use dhcproto::{
    Decodable, Decoder, Encodable,
    v6::{self, DhcpOption},
};
use proptest::prelude::*;

use super::*;

fn request(kind: Kind) -> Request {
    Request {
        kind,
        transaction: [1, 2, 3],
        client: Some(vec![0, 3, 0, 1, 2, 0, 0, 0, 0x64, 0]),
        server: None,
        addresses: Vec::new(),
        prefixes: Vec::new(),
        wanted: Vec::new(),
        rapid: false,
        booting: Booting::default(),
    }
}

#[test]
fn a_message_of_another_encoder_is_read() {
    let address: Ipv6Addr = "2001:db8::7".parse().unwrap();
    let mut message = v6::Message::new_with_id(v6::MessageType::Solicit, [1, 2, 3]);
    let mut inner = v6::DhcpOptions::new();
    inner.insert(DhcpOption::IAAddr(v6::IAAddr {
        addr: address,
        preferred_life: 1,
        valid_life: 2,
        opts: v6::DhcpOptions::new(),
    }));
    let mut prefixes = v6::DhcpOptions::new();
    prefixes.insert(DhcpOption::IAPrefix(v6::IAPrefix {
        preferred_lifetime: 1,
        valid_lifetime: 2,
        prefix_len: 56,
        prefix_ip: "2001:db8:1::".parse().unwrap(),
        opts: v6::DhcpOptions::new(),
    }));
    let options = message.opts_mut();
    options.insert(DhcpOption::ClientId(vec![0, 3, 0, 1, 2, 0, 0, 0, 0x64, 0]));
    options.insert(DhcpOption::RapidCommit);
    options.insert(DhcpOption::ORO(v6::ORO {
        opts: vec![v6::OptionCode::DomainNameServers, v6::OptionCode::DomainSearchList],
    }));
    options.insert(DhcpOption::IANA(v6::IANA { id: 9, t1: 0, t2: 0, opts: inner }));
    options.insert(DhcpOption::IAPD(v6::IAPD { id: 10, t1: 0, t2: 0, opts: prefixes }));
    let expected = Request {
        addresses: vec![Association { id: [0, 0, 0, 9], members: vec![address] }],
        prefixes: vec![Association { id: [0, 0, 0, 10], members: vec!["2001:db8:1::/56".parse().unwrap()] }],
        wanted: vec![23, 24],
        rapid: true,
        ..request(Kind::Solicit)
    };
    let bytes = message.to_vec().unwrap();
    assert_eq!(Request::parse(&bytes), Some(expected));
    for length in 0..bytes.len() {
        // Cut between two options it is a shorter message; cut within one it is damaged.
        if let Some(shorter) = Request::parse(&bytes[..length]) {
            assert!(v6::Message::decode(&mut Decoder::new(&bytes[..length])).is_ok(), "{shorter:?}");
        }
    }
}

#[test]
fn an_answer_is_understood_by_another_decoder() {
    let lifetime = Lifetime { preferred: 3600, valid: 7200 };
    let address: Ipv6Addr = "2001:db8::7".parse().unwrap();
    let reply = Reply {
        kind: Kind::Reply,
        server: duid_of(MacAddr([0xfe, 0, 0, 0, 0x64, 0])),
        status: None,
        rapid: true,
        addresses: vec![
            Given { id: [0, 0, 0, 9], members: vec![(address, lifetime)], status: None },
            Given { id: [0, 0, 0, 11], members: vec![], status: Some(Status::NoAddress) },
        ],
        prefixes: vec![Given {
            id: [0, 0, 0, 10],
            members: vec![("2001:db8:1::/56".parse().unwrap(), lifetime)],
            status: None,
        }],
        dns: vec!["fe80::1".parse().unwrap()],
        search: vec!["lan.example".to_owned()],
        refresh: None,
        boot_file: Some("tftp://[fe80::1]/ipxe".to_owned()),
        boot_parameters: vec!["auto=true".to_owned(), "quiet".to_owned()],
    };
    let bytes = reply.encode(&request(Kind::Solicit));
    let message = v6::Message::decode(&mut Decoder::new(&bytes)).unwrap();
    assert_eq!((message.msg_type(), message.xid()), (v6::MessageType::Reply, [1, 2, 3]));
    let options = message.opts();
    let associations: Vec<_> = options
        .iter()
        .filter_map(
            |option| if let DhcpOption::IANA(association) = option { Some(association) } else { None },
        )
        .collect();
    assert_eq!((associations[0].id, associations[0].t1, associations[0].t2), (9, 1800, 2880));
    let Some(DhcpOption::IAAddr(given)) = associations[0].opts.iter().next() else { panic!("no address") };
    assert_eq!((given.addr, given.preferred_life, given.valid_life), (address, 3600, 7200));
    let Some(DhcpOption::StatusCode(status)) = associations[1].opts.iter().next() else {
        panic!("no status")
    };
    assert_eq!(status.status, v6::Status::NoAddrsAvail);
    let prefix = options.iter().find_map(|option| {
        if let DhcpOption::IAPD(association) = option { association.opts.iter().next() } else { None }
    });
    let Some(DhcpOption::IAPrefix(prefix)) = prefix else { panic!("no prefix") };
    assert_eq!((prefix.prefix_ip, prefix.prefix_len), ("2001:db8:1::".parse().unwrap(), 56));
    assert!(options.iter().any(|option| matches!(option, DhcpOption::RapidCommit)));
    assert!(options.iter().any(
        |option| matches!(option, DhcpOption::DomainNameServers(servers) if *servers == [reply.dns[0]])
    ));
    assert!(bytes.windows(13).any(|part| part == b"\x03lan\x07example\x00"));
    let others = |number: u16| {
        options.iter().find_map(|option| {
            let DhcpOption::Unknown(other) = option else { return None };
            (u16::from(other.code()) == number).then(|| other.data().to_vec())
        })
    };
    assert_eq!(others(option::BOOT_FILE).unwrap(), b"tftp://[fe80::1]/ipxe");
    assert_eq!(others(option::BOOT_PARAMETERS).unwrap(), b"\x00\x09auto=true\x00\x05quiet");
    // Who does not boot by HTTP hears nothing of it.
    assert!(!options.iter().any(|option| matches!(option, DhcpOption::VendorClass(_))));
}

#[test]
fn how_a_machine_boots_is_read() {
    let with = |options: &[(u16, &[u8])]| {
        let options = options.iter().flat_map(|(number, value)| written(*number, value));
        Request::parse(&[1, 1, 2, 3].into_iter().chain(options).collect::<Vec<_>>()).unwrap().booting
    };
    let asks = with(&[(option::WANTED, &[0, 23, 0, 59])]);
    assert!(asks.asks && !asks.is_ipxe && !asks.is_http);
    let ipxe = with(&[(option::ARCHITECTURE, &[0, 7]), (option::USER_CLASS, b"\x00\x04iPXE")]);
    assert!(ipxe.asks && ipxe.is_ipxe && !ipxe.is_http);
    let class = b"\x00\x00\x01\x57\x00\x0aHTTPClient";
    let http = with(&[(option::ARCHITECTURE, &[0, 16]), (option::VENDOR_CLASS, class)]);
    assert!(http.asks && http.is_http && !http.is_ipxe);
    // Damaged classes are none.
    assert_eq!(
        with(&[(option::VENDOR_CLASS, &class[..9]), (option::USER_CLASS, b"\x00\x09iPXE")]),
        Booting::default()
    );
}

#[test]
fn members_and_associations_are_bounded() {
    let address = [&[0, 5, 0, 24][..], &[0; 24]].concat();
    let association = |number: u8| {
        let body = [&[0, 0, 0, number][..], &[0; 8], &address.repeat(100)].concat();
        [&[0, 3][..], &u16::try_from(body.len()).unwrap().to_be_bytes(), &body].concat()
    };
    let message: Vec<u8> = [1, 1, 2, 3].into_iter().chain((0..20).flat_map(association)).collect();
    let request = Request::parse(&message).unwrap();
    assert_eq!((request.addresses.len(), request.addresses[0].members.len()), (ASSOCIATIONS, MEMBERS));
}

proptest! {
    #[test]
    fn no_bytes_panic(kind in 0u8..14, bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        Request::parse(&bytes);
        Request::parse(&[&[kind, 1, 2, 3][..], &bytes].concat());
        // An association of anything.
        let length = u16::try_from(bytes.len()).unwrap().to_be_bytes();
        for number in [option::IA_NA, option::IA_PD] {
            Request::parse(&[&[kind, 1, 2, 3][..], &number.to_be_bytes(), &length, &bytes].concat());
        }
    }
}
