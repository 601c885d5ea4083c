//! What a tap gives: the first ten bytes stand before the frame. It is cut into frames that fit, or refused; what is joined of
//! them is no longer than they are together.
#![no_main]

use viaduct_vnet_proto::data::{Cut, Joins, OFFLOAD_HEADER, Offload, Run};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    const LARGEST: usize = 1_446;
    let Some((header, frame)) = bytes.split_first_chunk::<OFFLOAD_HEADER>() else { return };
    let mut frame = frame.to_vec();
    let Ok(cut) = Cut::plan(&Offload::read(header), &mut frame, LARGEST) else { return };
    let before = frame.clone();
    let frames: Vec<Vec<u8>> =
        (0..cut.count()).map(|index| cut.with_frame(index, &mut frame, <[u8]>::to_vec)).collect();
    assert_eq!(frame, before, "the buffer is as it was");
    assert!(frames.iter().all(|frame| frame.len() <= LARGEST));
    let Some((first, rest)) = frames.split_first() else { return };
    let mut run = Run::start(first, Joins::TcpAndUdp);
    let joined = rest.iter().take_while(|next| run.push(first, next).is_some()).count();
    assert_eq!(run.count(), joined + 1);
    run.finish(&mut first.clone());
});
