use dhcproto::{
    Decodable, Decoder, Encodable,
    v4::{DhcpOption, Flags, Message, MessageType, Opcode, OptionCode},
};
use proptest::prelude::*;

use super::*;
use crate::dns_names;

const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0x64, 0]);

/// What a client sends, made by somebody else's encoder.
fn message(kind: MessageType) -> Message {
    let none = Ipv4Addr::UNSPECIFIED;
    let mut message = Message::new_with_id(0x1234_5678, none, none, none, none, &MAC.0);
    message.set_flags(Flags::default().set_broadcast());
    message.opts_mut().insert(DhcpOption::MessageType(kind));
    message.opts_mut().insert(DhcpOption::ClientIdentifier(vec![1, 2, 0, 0, 0, 0x64, 0]));
    message
}

fn request(kind: MessageType) -> Request {
    Request::parse(&message(kind).to_vec().unwrap()).unwrap()
}

fn reply(kind: Kind, options: Vec<(u8, Vec<u8>)>) -> Reply {
    let none = Ipv4Addr::UNSPECIFIED;
    Reply { kind, yiaddr: none, siaddr: none, file: None, options }
}

#[test]
fn another_encoders_messages_are_read() {
    for (theirs, ours) in [
        (MessageType::Discover, Kind::Discover),
        (MessageType::Request, Kind::Request),
        (MessageType::Decline, Kind::Decline),
        (MessageType::Release, Kind::Release),
        (MessageType::Inform, Kind::Inform),
    ] {
        let mut message = message(theirs);
        message.opts_mut().insert(DhcpOption::RequestedIpAddress(Ipv4Addr::new(192, 0, 2, 7)));
        let read = Request::parse(&message.to_vec().unwrap()).unwrap();
        assert_eq!((read.kind, read.xid, read.broadcast, read.chaddr), (ours, 0x1234_5678, true, MAC));
        assert_eq!(read.address(option::REQUESTED), Some(Ipv4Addr::new(192, 0, 2, 7)));
        assert_eq!(read.options[&option::CLIENT_ID], [1, 2, 0, 0, 0, 0x64, 0]);
    }
}

#[test]
fn another_decoder_reads_our_answers() {
    let address = Ipv4Addr::new(198, 51, 100, 112);
    let gateway = Ipv4Addr::new(169, 254, 1, 1);
    let to = |text: &str| text.parse::<Ipv4Net>().unwrap();
    let reply = Reply {
        kind: Kind::Ack,
        yiaddr: address,
        siaddr: Ipv4Addr::UNSPECIFIED,
        file: None,
        options: vec![
            (option::SERVER, gateway.octets().to_vec()),
            (option::LEASE, 3600u32.to_be_bytes().to_vec()),
            (option::MASK, vec![255; 4]),
            (
                option::ROUTES,
                routes(&[(to("169.254.1.1/32"), Ipv4Addr::UNSPECIFIED), (to("0.0.0.0/0"), gateway)]),
            ),
            (option::MTU, 1432u16.to_be_bytes().to_vec()),
            (option::SEARCH, dns_names(["lan.example", "example"])),
        ],
    };
    let bytes = reply.encode(&request(MessageType::Request));
    let read = Message::decode(&mut Decoder::new(&bytes)).unwrap();
    assert_eq!((read.opcode(), read.xid(), read.yiaddr()), (Opcode::BootReply, 0x1234_5678, address));
    assert_eq!((read.chaddr(), read.flags().broadcast()), (&MAC.0[..], true));
    let options = read.opts();
    assert_eq!(options.msg_type(), Some(MessageType::Ack));
    let expected = [
        DhcpOption::ServerIdentifier(gateway),
        DhcpOption::AddressLeaseTime(3600),
        DhcpOption::SubnetMask(Ipv4Addr::BROADCAST),
        DhcpOption::InterfaceMtu(1432),
        DhcpOption::ClientIdentifier(vec![1, 2, 0, 0, 0, 0x64, 0]),
    ];
    for option in expected {
        assert_eq!(options.get(OptionCode::from(&option)), Some(&option));
    }
    let Some(DhcpOption::ClasslessStaticRoute(told)) = options.get(OptionCode::ClasslessStaticRoute) else {
        panic!("{options:?}")
    };
    assert_eq!(told, &[(to("169.254.1.1/32"), Ipv4Addr::UNSPECIFIED), (to("0.0.0.0/0"), gateway)]);
    let Some(DhcpOption::DomainSearch(names)) = options.get(OptionCode::DomainSearch) else {
        panic!("{options:?}")
    };
    assert_eq!(names.iter().map(|name| format!("{name:?}")).count(), 2);
}

#[test]
fn another_decoder_finds_what_to_boot() {
    let mut message = message(MessageType::Discover);
    let wanted = vec![OptionCode::TFTPServerName, OptionCode::BootfileName];
    message.opts_mut().insert(DhcpOption::ParameterRequestList(wanted));
    message.opts_mut().insert(DhcpOption::ClassIdentifier(b"PXEClient:Arch:00007:UNDI:003016".to_vec()));
    let request = Request::parse(&message.to_vec().unwrap()).unwrap();
    assert!(request.booting().asks && request.wants(option::BOOT_FILE) && !request.wants(option::MTU));
    let server = Ipv4Addr::new(192, 0, 2, 1);
    let told = |file: &str| {
        let options = vec![(option::BOOT_FILE, file.as_bytes().to_vec())];
        let reply = Reply { siaddr: server, file: Some(file.to_owned()), ..reply(Kind::Offer, options) };
        Message::decode(&mut Decoder::new(&reply.encode(&request))).unwrap()
    };
    let read = told("ipxe.efi");
    assert_eq!((read.siaddr(), read.fname()), (server, Some(&b"ipxe.efi\0"[..])));
    assert_eq!(
        read.opts().get(OptionCode::BootfileName),
        Some(&DhcpOption::BootfileName(b"ipxe.efi".to_vec()))
    );
    // Its own field has room for 127 bytes, and a zero behind them.
    assert_eq!(told(&"x".repeat(127)).fname().map(<[u8]>::len), Some(128));
    let long = told(&"x".repeat(128));
    assert_eq!(long.fname(), None);
    assert!(
        matches!(long.opts().get(OptionCode::BootfileName), Some(DhcpOption::BootfileName(f)) if f.len() == 128)
    );
}

/// In parts, as RFC 3004 has it, and without lengths, as iPXE does.
#[test]
fn a_users_class_is_read_in_either_form() {
    for (value, is_ipxe) in [
        (&b"iPXE"[..], true),
        (b"\x04iPXE", true),
        (b"\x03abc\x04iPXE", true),
        (b"\x04iPX", false),
        (b"\xffiPXE", false),
        (b"", false),
    ] {
        let mut message = message(MessageType::Discover);
        message.opts_mut().insert(DhcpOption::ClassIdentifier(b"PXEClient".to_vec()));
        let mut bytes = message.to_vec().unwrap();
        let end = bytes.iter().rposition(|byte| *byte == END).unwrap();
        bytes.truncate(end);
        bytes.extend([option::USER_CLASS, u8::try_from(value.len()).unwrap()]);
        bytes.extend(value);
        bytes.push(END);
        assert_eq!(Request::parse(&bytes).unwrap().booting().is_ipxe, is_ipxe, "{value:?}");
    }
}

#[test]
fn a_short_answer_is_as_long_as_old_clients_want_it() {
    let reply = reply(Kind::Nak, Vec::new());
    assert_eq!(reply.encode(&request(MessageType::Request)).len(), 300);
}

#[test]
fn what_does_not_fit_the_client_is_left_out_from_the_end() {
    let options = vec![(option::MASK, vec![255; 4]), (43, vec![7; 700]), (option::MTU, vec![5, 220])];
    let reply = reply(Kind::Offer, options);
    let mut message = message(MessageType::Discover);
    let small = reply.encode(&Request::parse(&message.to_vec().unwrap()).unwrap());
    assert!(small.len() <= 548);
    let read = Message::decode(&mut Decoder::new(&small)).unwrap();
    assert!(
        read.opts().get(OptionCode::SubnetMask).is_some()
            && read.opts().get(OptionCode::InterfaceMtu).is_some()
    );
    assert!(read.opts().get(OptionCode::VendorExtensions).is_none());

    message.opts_mut().insert(DhcpOption::MaxMessageSize(1500));
    let large = reply.encode(&Request::parse(&message.to_vec().unwrap()).unwrap());
    assert!(large.len() > 940 && large.len() <= 1472, "{}", large.len());
}

#[test]
fn options_in_parts_and_in_other_fields_are_joined() {
    let mut bytes = message(MessageType::Discover).to_vec().unwrap();
    bytes.truncate(HEADER + 4);
    bytes.extend([option::TYPE, 1, 1, option::HOST_NAME, 2, b'a', b'b', option::OVERLOAD, 1, 3, END]);
    bytes[108..113].copy_from_slice(&[option::HOST_NAME, 1, b'c', END, 0]);
    bytes[44..48].copy_from_slice(&[option::HOST_NAME, 1, b'd', END]);
    assert_eq!(Request::parse(&bytes).unwrap().options[&option::HOST_NAME], b"abcd");
}

#[test]
fn what_is_no_clients_is_nothing() {
    let good = message(MessageType::Discover).to_vec().unwrap();
    assert!(Request::parse(&good).is_some());
    let changed = |at: usize, to: u8| {
        let mut bytes = good.clone();
        bytes[at] = to;
        Request::parse(&bytes)
    };
    assert_eq!(changed(0, 2), None, "an answer");
    assert_eq!(changed(1, 6), None, "another kind of network");
    assert_eq!(changed(2, 8), None, "another length of addresses");
    assert_eq!(changed(HEADER, 0), None, "no cookie");
    for length in 0..HEADER + 4 {
        assert_eq!(Request::parse(&good[..length]), None);
    }
    let mut bytes = good[..HEADER + 4].to_vec();
    bytes.extend([option::TYPE, 1, 1, option::HOST_NAME, 9, b'a']);
    assert_eq!(Request::parse(&bytes), None, "an option beyond the end");
    assert_eq!(Request::parse(&good[..HEADER + 4]), None, "no type");
}

proptest! {
    #[test]
    fn no_bytes_panic(
        mut bytes in prop::collection::vec(any::<u8>(), 0..700),
        well_begun in any::<bool>(),
    ) {
        if well_begun && bytes.len() > HEADER + 4 {
            bytes[..3].copy_from_slice(&[1, 1, 6]);
            bytes[HEADER..HEADER + 4].copy_from_slice(&COOKIE);
        }
        if let Some(request) = Request::parse(&bytes) {
            let kept: usize = request.options.values().map(Vec::len).sum();
            prop_assert!(kept <= bytes.len());
            let reply = reply(Kind::Ack, vec![(3, vec![1; 300])]);
            prop_assert!(reply.encode(&request).len() <= 1472);
        }
    }

    #[test]
    fn what_somebody_else_reads_we_read_too(
        name in prop::collection::vec(any::<u8>(), 1..600), xid in any::<u32>(),
    ) {
        let mut theirs = message(MessageType::Discover);
        theirs.set_xid(xid);
        theirs.opts_mut().insert(DhcpOption::ClassIdentifier(name.clone()));
        let read = Request::parse(&theirs.to_vec().unwrap()).unwrap();
        prop_assert_eq!(read.xid, xid);
        prop_assert_eq!(&read.options[&60], &name);
    }
}
