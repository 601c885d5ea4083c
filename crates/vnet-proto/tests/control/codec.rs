//! Messages as bytes.

use std::net::IpAddr;

use proptest::prelude::*;
use viaduct_types::{HostKey, MacAddr, Vni};
use viaduct_vnet_proto::control::{
    LONGEST, MOST_ADDRESSES, MOST_PORTS, MOST_WORKERS, Message, MessageError, Protection, Security,
};
use viaduct_vnet_proto::data::Spi;
use viaduct_vnet_proto::data::esp::Cipher;

/// Those that are none of the reserved ones, without the bit that QUIC has.
fn spi() -> impl Strategy<Value = Spi> {
    (256..0x4000_0000_u32).prop_map(|number| Spi::new(number).unwrap())
}

fn message() -> impl Strategy<Value = Message> {
    let level = prop_oneof![Just(Security::None), Just(Security::Auth), Just(Security::Conf)];
    let wish = prop::sample::select(&Cipher::ALL[..]).prop_map(|cipher| Protection {
        security: if cipher.encrypts() { Security::Conf } else { Security::Auth },
        cipher: Some(cipher),
    });
    let protection = prop_oneof![level.prop_map(|security| Protection { security, cipher: None }), wish];
    let cipher = prop_oneof![
        Just(Cipher::Aes128Gcm),
        Just(Cipher::Aes256Gcm),
        Just(Cipher::ChaCha20Poly1305),
        Just(Cipher::Aes128Gmac)
    ];
    let mac = any::<[u8; 6]>().prop_map(|mut mac| {
        mac[0] = mac[0] & !1 | 2;
        MacAddr(mac)
    });
    let address =
        prop_oneof![any::<[u8; 4]>().prop_map(IpAddr::from), any::<[u8; 16]>().prop_map(IpAddr::from)];
    prop_oneof![
        (1..=64u8, any::<bool>()).prop_map(|(workers, fast_aes)| Message::Hello {
            version: 1,
            workers,
            fast_aes
        }),
        (any::<u16>(), any::<[u8; 16]>(), protection, any::<bool>()).prop_map(
            |(channel, proof, protection, learning)| Message::Offer { channel, proof, protection, learning }
        ),
        any::<u16>().prop_map(|channel| Message::Retract { channel }),
        (any::<u16>(), any::<u32>(), cipher, prop::collection::vec(spi(), 1..=MOST_WORKERS))
            .prop_map(|(channel, epoch, cipher, spis)| Message::Keys { channel, epoch, cipher, spis }),
        (any::<u16>(), any::<u32>()).prop_map(|(channel, epoch)| Message::Using { channel, epoch }),
        any::<u16>().prop_map(|channel| Message::Rekey { channel }),
        (any::<u16>(), mac.clone(), any::<u64>(), prop::collection::vec(address, 0..=MOST_ADDRESSES))
            .prop_map(|(channel, mac, sequence, addresses)| Message::Claim {
                channel,
                mac,
                sequence,
                addresses
            }),
        (any::<u16>(), mac).prop_map(|(channel, mac)| Message::Withdraw { channel, mac }),
        any::<u16>().prop_map(|channel| Message::Complete { channel }),
        (any::<u16>(), any::<u16>()).prop_map(|(channel, mtu)| Message::VnetMtu { channel, mtu }),
        (any::<u16>(), 1u32..1 << 24)
            .prop_map(|(channel, vni)| Message::Plain { channel, vni: Vni::new(vni).unwrap() }),
        any::<u16>().prop_map(|mtu| Message::PathMtu { mtu }),
        prop::collection::btree_set(1u16.., 0..=MOST_PORTS)
            .prop_map(|ports| Message::Ports { ports: ports.into_iter().collect() }),
        (any::<u16>(), any::<u32>(), prop::collection::vec(spi(), 1..=MOST_PORTS))
            .prop_map(|(channel, epoch, spis)| Message::OwnKeys { channel, epoch, spis }),
        (any::<u8>(), any::<u32>()).prop_map(|(worker, number)| Message::Arrived { worker, number }),
        any::<u64>().prop_map(|number| Message::Number { number }),
        any::<u32>().prop_map(|number| Message::Heed { number }),
        any::<u32>().prop_map(|number| Message::Heeded { number }),
        any::<bool>().prop_map(|on| Message::Relays { on }),
        (any::<u16>(), any::<bool>()).prop_map(|(channel, on)| Message::Learns { channel, on }),
        (any::<u16>(), any::<[u8; 6]>(), any::<bool>()).prop_map(|(channel, mut group, on)| {
            group[0] |= 1;
            Message::Listens { channel, group: MacAddr(group), on }
        }),
        (any::<u16>(), any::<bool>()).prop_map(|(channel, on)| Message::Prunes { channel, on }),
        (any::<[u8; 32]>(), prop::option::of(spi()))
            .prop_map(|(key, spi)| Message::Ask { key: HostKey(key), spi }),
        any::<[u8; 32]>().prop_map(|key| Message::Wanted { key: HostKey(key) }),
        (any::<[u8; 32]>(), prop::option::of(spi()))
            .prop_map(|(key, spi)| Message::Granted { key: HostKey(key), spi }),
    ]
}

proptest! {
    #[test]
    fn what_is_written_is_read(messages in prop::collection::vec(message(), 1..8), cut in 0usize..64) {
        let mut bytes = Vec::new();
        messages.iter().for_each(|message| message.write(&mut bytes));
        let (mut rest, mut read) = (&bytes[..], Vec::new());
        while let Some((message, length)) = Message::read(rest).unwrap() {
            prop_assert!(length <= LONGEST);
            read.extend(message);
            rest = &rest[length..];
        }
        prop_assert!(rest.is_empty());
        prop_assert_eq!(&read, &messages);
        // What has not come whole is waited for.
        let short = &bytes[..bytes.len().saturating_sub(cut + 1)];
        let mut rest = short;
        while let Some((_, length)) = Message::read(rest).unwrap() {
            rest = &rest[length..];
        }
        prop_assert!(rest.len() < LONGEST);
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..3000)) {
        if let Ok(Some((Some(message), length))) = Message::read(&bytes) {
            // One message has one form.
            let mut again = Vec::new();
            message.write(&mut again);
            prop_assert_eq!(&again[..], &bytes[..length]);
        }
    }

    #[test]
    fn one_changed_byte_does_no_harm(message in message(), place in any::<prop::sample::Index>(), with: u8) {
        let mut bytes = Vec::new();
        message.write(&mut bytes);
        let place = place.index(bytes.len());
        bytes[place] = with;
        let _ = Message::read(&bytes);
    }
}

#[test]
fn what_later_versions_say_is_passed_over() {
    assert_eq!(Message::read(&[0, 3, 200, 1, 2, 9]), Ok(Some((None, 5))));
    assert_eq!(Message::read(&[0, 1, 127]), Err(MessageError::Type(127)));
    assert_eq!(Message::read(&[0, 0]), Err(MessageError::Short(0)));
    assert_eq!(Message::read(&[255, 255]), Err(MessageError::TooLong(65_537)));
}

#[test]
fn hostile_ports_are_refused() {
    let told = |ports: &[u16]| {
        let fields: Vec<u8> = ports.iter().flat_map(|port| port.to_be_bytes()).collect();
        let length = u16::try_from(fields.len() + 1).unwrap();
        Message::read(&[&length.to_be_bytes()[..], &[135], &fields].concat())
    };
    let most: Vec<u16> = (1..=64).collect();
    assert!(matches!(told(&most), Ok(Some((Some(Message::Ports { ports }), _))) if ports == most));
    assert!(matches!(told(&[]), Ok(Some((Some(Message::Ports { .. }), 3)))));
    for bad in [&[0][..], &[1800, 1800], &(1..=65).collect::<Vec<_>>()] {
        assert_eq!(told(bad), Err(MessageError::Value(135)), "{bad:?}");
    }
    assert_eq!(Message::read(&[0, 2, 135, 7]), Err(MessageError::Short(135)));
    // Keys for nobody.
    assert_eq!(Message::read(&[0, 7, 136, 0, 0, 0, 0, 0, 1]), Err(MessageError::Value(136)));
}

#[test]
fn a_group_s_address_is_nobody_s_own() {
    let mut bytes = Vec::new();
    Message::Withdraw { channel: 0, mac: MacAddr([0xff; 6]) }.write(&mut bytes);
    assert_eq!(Message::read(&bytes), Err(MessageError::Value(8)));
}

#[test]
fn a_claim_is_compact() {
    let mut bytes = Vec::new();
    let addresses = vec!["10.97.0.1".parse().unwrap(), "fd00::1".parse().unwrap()];
    Message::Claim { channel: 0, mac: MacAddr([2; 6]), sequence: 1, addresses }.write(&mut bytes);
    assert_eq!(bytes.len(), 41);
}
