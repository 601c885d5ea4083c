//! Packets of IPv4 that are longer than the path takes and may be cut: into fragments, as a router does it (RFC 791, section 3.2;
//! RFC 1812, section 5.2.6). Who forbids it is told instead, and IPv6 always does.

use super::{
    checksum,
    cut::{Cut, complete},
    layout::{Packet, Transport, Version, put_word, word},
    offload::{Offload, Segments},
};

const DONT: u16 = 0x4000;
const MORE: u16 = 0x2000;
const OFFSET: u16 = 0x1fff;
/// An option that is in each fragment.
const COPIED: u8 = 0x80;

/// The frames that a frame from a tap becomes when it is cut so that each has at most `largest` bytes; each stands alone. None when it
/// may not be, or cannot. Of the frame, only checksums are changed.
pub fn fragments(offload: &Offload, frame: &mut [u8], largest: usize) -> Option<Vec<Vec<u8>>> {
    match offload.segments {
        Segments::None => {
            if !may_be_cut(frame) {
                return None;
            }
            if let Some((start, offset)) = offload.partial {
                complete(frame, usize::from(start), usize::from(offset))?;
            }
            cut(frame, largest)
        }
        // Each of its datagrams is a packet of its own.
        Segments::Udp(_) => {
            if !may_be_cut(frame) {
                return None;
            }
            let plan = Cut::plan(offload, frame, usize::MAX).ok()?;
            let mut all = Vec::new();
            for index in 0..plan.count() {
                let mut one = plan.with_frame(index, frame, <[u8]>::to_vec);
                match one.len() <= largest {
                    true => all.push(one),
                    false => all.extend(cut(&mut one, largest)?),
                }
            }
            Some(all)
        }
        // TCP is cut in another way, so that there is nothing too long.
        Segments::Tcp4(_) | Segments::Tcp6(_) | Segments::Other => None,
    }
}

fn may_be_cut(frame: &[u8]) -> bool {
    let packet = Packet::of(frame).filter(|packet| packet.version == Version::V4);
    packet.and_then(|packet| word(frame, packet.network + 6)).is_some_and(|flags| flags & DONT == 0)
}

fn cut(frame: &mut [u8], largest: usize) -> Option<Vec<Vec<u8>>> {
    // Nobody completes what he sees a part of.
    if let Some(transport) = Transport::of(frame)
        && transport.checksum(frame) == transport.partial_checksum(frame)
    {
        let (start, offset) = transport.checksum_place();
        complete(frame, start, offset)?;
    }
    let packet = Packet::of(frame)?;
    let before = frame.get(..packet.network)?;
    let first = frame.get(packet.network..packet.transport)?;
    let later = header_of_later(first)?;
    let flags = word(first, 6)?;
    let mut rest = frame.get(packet.transport..packet.end)?;
    let (mut place, mut all) = (flags & OFFSET, Vec::new());
    while !rest.is_empty() {
        let header = if all.is_empty() { first } else { &later };
        let room = largest.checked_sub(before.len() + header.len())?;
        // All but the last are of eights of bytes.
        let length = if rest.len() <= room { rest.len() } else { room / 8 * 8 };
        if length == 0 {
            return None;
        }
        let (part, others) = rest.split_at(length);
        let more = if others.is_empty() { flags & MORE } else { MORE };
        let mut piece = [before, header, part].concat();
        put_word(&mut piece, packet.network + 2, u16::try_from(header.len() + length).ok()?);
        put_word(&mut piece, packet.network + 6, flags & !(MORE | OFFSET) | more | place);
        put_word(&mut piece, packet.network + 10, 0);
        let sum = checksum::complement(checksum::sum(&piece[packet.network..packet.network + header.len()]));
        put_word(&mut piece, packet.network + 10, sum);
        all.push(piece);
        rest = others;
        place = place.checked_add(u16::try_from(length.div_ceil(8)).ok()?)?;
        if !rest.is_empty() && place > OFFSET {
            return None;
        }
    }
    Some(all)
}

/// The header of all fragments but the first: of its options, it has those that are in each.
fn header_of_later(first: &[u8]) -> Option<Vec<u8>> {
    let (fixed, mut options) = first.split_first_chunk::<20>()?;
    let mut header = fixed.to_vec();
    loop {
        match options {
            // The end of the list.
            [] | [0, ..] => break,
            [1, others @ ..] => options = others,
            [kind, length, ..] => {
                let length = usize::from(*length).max(2);
                let (option, others) = options.split_at_checked(length)?;
                if kind & COPIED != 0 {
                    header.extend(option);
                }
                options = others;
            }
            [_] => return None,
        }
    }
    header.resize(header.len().next_multiple_of(4), 0);
    header[0] = 0x40 | u8::try_from(header.len() / 4).ok()?;
    Some(header)
}
