//! The largest segment that TCP says it takes when it opens a connection: no more than gets through.
//!
//! A machine that has not heard of a vnet's MTU says what its own device takes. Its segments would be answered as too long; where
//! such answers are not heard, the connection would stand.

use super::{
    checksum::fold,
    layout::{Protocol, TCP_HEADER, Transport, Version, put_word, word},
};

/// No SYN is longer that carries no data: Ethernet with two tags, the longest headers of IPv4 and TCP.
const LONGEST: usize = 14 + 8 + 60 + 60;
const SYN: u8 = 0x02;
// RFC 9293, section 3.2.
const END: u8 = 0;
const NO_OPERATION: u8 = 1;
const MSS: u8 = 2;

/// Lowers what a SYN says to what a frame of at most `largest_frame` bytes carries, and keeps its checksum right, or partial. Does
/// nothing to any other frame.
pub fn clamp_mss(frame: &mut [u8], largest_frame: usize) {
    if frame.len() > LONGEST {
        return;
    }
    let Some(transport) = Transport::of(frame).filter(|transport| transport.protocol == Protocol::Tcp) else {
        return;
    };
    let (begin, offset) = transport.checksum_place();
    if frame[begin + 13] & SYN == 0 {
        return;
    }
    let header = match transport.packet.version {
        Version::V4 => 20,
        Version::V6 => 40,
    };
    // Without the options that may be in either header (RFC 6691, section 2).
    let Some(most) = largest_frame.checked_sub(transport.packet.network + header + TCP_HEADER) else {
        return;
    };
    let most = u16::try_from(most).unwrap_or(u16::MAX);
    let Some(at) = place_of_mss(&frame[begin + TCP_HEADER..transport.payload]) else { return };
    let at = begin + TCP_HEADER + at;
    let Some(said) = word(frame, at).filter(|said| *said > most) else { return };
    put_word(frame, at, most);
    let sum = transport.checksum(frame);
    if sum == transport.partial_checksum(frame) {
        return;
    }
    // Each byte of the value is a high or a low one of the words that are added up.
    let swapped = |value: u16| if (at - begin).is_multiple_of(2) { value } else { value.swap_bytes() };
    // RFC 1624, section 3, equation 3.
    let sum = u64::from(!sum) + u64::from(!swapped(said)) + u64::from(swapped(most));
    put_word(frame, begin + offset, !fold(sum));
}

/// Where the value stands among the options.
fn place_of_mss(options: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        match options.get(at..)? {
            [END, ..] | [] => return None,
            [NO_OPERATION, ..] => at += 1,
            [MSS, 4, _, _, ..] => return Some(at + 2),
            [_, length, ..] if *length >= 2 => at += usize::from(*length),
            [_, ..] => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{
        super::{checksum, layout::Packet},
        *,
    };

    /// A SYN with a right checksum, of these options.
    fn syn(v6: bool, options: &[u8], flags: u8) -> Vec<u8> {
        let mut tcp = vec![0x12, 0x34, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0, flags, 0xff, 0xff, 0, 0, 0, 0];
        tcp.extend(options);
        tcp.resize(tcp.len().next_multiple_of(4), 0);
        tcp[12] = u8::try_from(tcp.len() / 4 * 16).unwrap();
        let length = u16::try_from(tcp.len()).unwrap();
        let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
        if v6 {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            frame.extend(length.to_be_bytes());
            frame.extend([6, 64]);
            frame.extend([0xfd; 32]);
        } else {
            frame.extend([8, 0, 0x45, 0]);
            frame.extend((length + 20).to_be_bytes());
            frame.extend([0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        }
        let begin = frame.len();
        frame.extend(tcp);
        let sum = !sum_of(&frame);
        put_word(&mut frame, begin + 16, sum);
        frame
    }

    /// The sum over pseudo-header and segment: all ones when the checksum is right.
    fn sum_of(frame: &[u8]) -> u16 {
        let packet = Packet::of(frame).unwrap();
        let segment = &frame[packet.transport..packet.end];
        fold(checksum::pseudo_header(packet.addresses(frame), 6, segment.len()) + checksum::sum(segment))
    }

    fn said(frame: &[u8]) -> Option<u16> {
        let Transport { packet, payload, .. } = Transport::of(frame)?;
        let at = packet.transport + TCP_HEADER;
        word(frame, at + place_of_mss(&frame[at..payload])?)
    }

    #[test]
    fn a_syn_says_no_more_than_gets_through() {
        // 1432 bytes of IP in a frame of 1446.
        for (v6, most) in [(false, 1392), (true, 1372)] {
            for options in
                [&[2, 4, 0x05, 0xb4][..], &[1, 2, 4, 0x05, 0xb4, 0, 0, 0], &[3, 3, 7, 2, 4, 0x05, 0xb4]]
            {
                for flags in [0x02, 0x12] {
                    let mut frame = syn(v6, options, flags);
                    clamp_mss(&mut frame, 1446);
                    assert_eq!(said(&frame), Some(most));
                    assert_eq!(sum_of(&frame), 0xffff);
                }
            }
        }
    }

    #[test]
    fn a_checksum_that_is_to_be_completed_is_left() {
        let mut frame = syn(false, &[2, 4, 0x05, 0xb4], SYN);
        let partial = Transport::of(&frame).unwrap().partial_checksum(&frame);
        put_word(&mut frame, 50, partial);
        let before = frame.clone();
        clamp_mss(&mut frame, 1446);
        assert_eq!(said(&frame), Some(1392));
        assert_eq!(frame[50..52], before[50..52]);
    }

    #[test]
    fn what_says_less_or_nothing_is_left() {
        for (options, flags) in [
            (&[2, 4, 0x05, 0x00][..], SYN),
            (&[][..], SYN),
            // Not while a connection opens.
            (&[2, 4, 0x05, 0xb4][..], 0x10),
            // Options that are none, or lead out of the header.
            (&[8, 0, 2, 4][..], SYN),
            (&[8, 200, 2, 4][..], SYN),
            (&[0, 0, 2, 4, 0x05, 0xb4][..], SYN),
        ] {
            let before = syn(false, options, flags);
            let mut frame = before.clone();
            clamp_mss(&mut frame, 1446);
            assert_eq!(frame, before);
        }
    }

    proptest! {
        #[test]
        fn whatever_comes_stays_in_bounds_and_right(v6: bool, options in prop::collection::vec(any::<u8>(), 0..40), largest in 0_usize..2000) {
            let mut frame = syn(v6, &options, SYN);
            clamp_mss(&mut frame, largest);
            prop_assert_eq!(sum_of(&frame), 0xffff);
        }

        #[test]
        fn nothing_is_read_beyond_a_frame(mut frame in prop::collection::vec(any::<u8>(), 0..150)) {
            clamp_mss(&mut frame, 1446);
        }
    }
}
