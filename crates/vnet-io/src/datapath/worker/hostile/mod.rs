//! Whatever comes to the sockets, from anybody and from a peer with all keys, and by the taps, from any guest: what the worker does with
//! it is what a [model](model) says that has none of its code. Each datagram and each frame is counted once; nothing is delivered that a
//! host may not say, nor twice; what is delivered is, to the last bit, what was sealed; and what goes to hosts is sealed for them, with
//! each number once.
//!
//! An input is a list of steps. Each begins with a byte: what is done (the low half), and who sends (the high one).

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "what a test stands on either works or ends it")]

mod frames;
mod guests;
mod model;
mod sealing;
mod world;

use std::{net::SocketAddr, time::Duration};

use viaduct_vnet_proto::data::esp::{Cipher, NEXT_HEADER_ETHERNET, NEXT_HEADER_NONE};

use self::{
    frames::{Flow, header},
    model::{BROUGHT, KEYS, ONWARD, SLOWLY},
    sealing::text,
    world::{Ends, World},
};
use super::wait::By;

/// What was sent is remembered to be sent again.
const MOST_HISTORY: usize = 256;
/// How many steps one input has at most.
const MOST_STEPS: usize = 200;
/// How long a unit of time is that passes.
const WHILE: Duration = Duration::from_millis(100);

thread_local! {
    static ENDS: Ends = Ends::open();
}

/// Does what these bytes say. It needs root, and puts this thread into a network namespace of its own.
#[cfg_attr(not(fuzzing), expect(unreachable_pub, reason = "the fuzzers' crate reaches it"))]
pub fn hostile(bytes: &[u8]) {
    ENDS.with(|ends| {
        let mut input = Input(bytes);
        let Some(kind) = input.byte() else { return };
        let cipher = Cipher::ALL[usize::from(kind & 7) % Cipher::ALL.len()];
        let world = World::new(ends, cipher, kind & 8 != 0);
        let mut host =
            Hostile { ends, world, next: [1; KEYS.len()], history: Vec::new(), joins: false, around: &[] };
        for _ in 0..MOST_STEPS {
            if host.step(&mut input).is_none() {
                break;
            }
        }
        host.world.carry();
    });
}

struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn byte(&mut self) -> Option<u8> {
        let (byte, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*byte)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (array, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*array)
    }

    fn word(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    /// As many as there are of the number that stands before them.
    fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = usize::from(self.word()? & 0x7ff).min(self.0.len());
        let (bytes, rest) = self.0.split_at(length);
        self.0 = rest;
        Some(bytes)
    }
}

struct Hostile<'a> {
    ends: &'a Ends,
    world: World<'a>,
    /// Numbers of datagrams, of each keys.
    next: [u64; KEYS.len()],
    history: Vec<Vec<u8>>,
    /// Whether datagrams come in runs.
    joins: bool,
    /// What stands before each datagram.
    around: &'static [u32],
}

impl Hostile<'_> {
    fn step(&mut self, input: &mut Input<'_>) -> Option<()> {
        let step = input.byte()?;
        let from = self.ends.sender(step >> 4);
        match step & 0xf {
            0 => {
                let bytes = input.bytes()?.to_vec();
                self.send(from, bytes);
            }
            1 => {
                let segment = i32::from(input.word()?.cast_signed());
                self.world.give_run(from, segment, input.bytes()?.to_vec());
            }
            2 => {
                let (keys, number) = self.number(input)?;
                self.seal(from, keys, number, input.bytes()?);
            }
            3 => {
                let (keys, number) = self.number(input)?;
                let frame = [&header(input.array()?), input.bytes()?].concat();
                self.seal(from, keys, number, &text(&frame, NEXT_HEADER_ETHERNET));
            }
            4 => self.flow(from, input)?,
            5 => self.halves(from, input)?,
            6 => {
                let (keys, number) = self.number(input)?;
                self.seal(from, keys, number, &text(input.bytes()?, NEXT_HEADER_NONE));
            }
            7 => {
                let (keys, number) = self.number(input)?;
                let [worker, probe] = input.array()?;
                self.seal(from, keys, number, &text(&[0, 0, 0, worker, 0, 0, 0, probe], NEXT_HEADER_NONE));
            }
            8 => {
                let again = self.earlier(input)?;
                self.send(from, again);
            }
            9 => {
                let (mut changed, bit) = (self.earlier(input)?, usize::from(input.word()?));
                let place = bit / 8 % changed.len().max(1);
                changed.get_mut(place).into_iter().for_each(|byte| *byte ^= 1 << (bit % 8));
                self.send(from, changed);
            }
            10 => {
                let (mut changed, length) = (self.earlier(input)?, usize::from(input.word()? & 0x7ff));
                changed.resize(length, 0);
                self.send(from, changed);
            }
            11 => {
                self.around =
                    [&[][..], &[ONWARD], &[BROUGHT], &[SLOWLY], &[BROUGHT, BROUGHT], &[BROUGHT, ONWARD]]
                        [usize::from(step >> 4) % 6]
            }
            12 => self.world.carry(),
            13 => self.joins = step >> 4 & 1 != 0,
            _ => {
                self.world.carry();
                let which = usize::from(input.byte()?);
                match step >> 4 & 7 {
                    0 => self.world.retire(KEYS[which % KEYS.len()]),
                    1 => {
                        self.world.install(KEYS[which % KEYS.len()]);
                        self.next[which % KEYS.len()] = 1;
                    }
                    2 => self.world.forward(which & 1, which & 2 != 0),
                    3 => self.world.remove(which & 1),
                    5 => self.guest(u8::try_from(which).unwrap(), input)?,
                    6 if which == 0xff => self.world.renew(),
                    6 => self.world.wait(WHILE * u32::try_from(which).unwrap()),
                    _ => self.world.pass(which & 1 != 0),
                }
            }
        }
        Some(())
    }

    fn send(&mut self, from: (SocketAddr, By), mut bytes: Vec<u8>) {
        for spi in self.around.iter().rev() {
            bytes.splice(..0, spi.to_be_bytes());
        }
        if self.history.len() < MOST_HISTORY {
            self.history.push(bytes.clone());
        }
        self.world.give(from, bytes, self.joins);
    }

    fn earlier(&mut self, input: &mut Input<'_>) -> Option<Vec<u8>> {
        let back = usize::from(input.byte()?);
        Some(self.history.iter().rev().cycle().nth(back).cloned().unwrap_or_default())
    }

    /// Whose keys, and which number: mostly the next.
    fn number(&mut self, input: &mut Input<'_>) -> Option<(usize, u64)> {
        let [keys, how] = input.array()?;
        let keys = usize::from(keys) % KEYS.len();
        let next = self.next[keys];
        let number = match how {
            0..0xf0 => next,
            0xf0..0xf4 => u64::from_be_bytes(input.array()?),
            0xf4..0xf8 => next.wrapping_sub(input.word()?.into()),
            0xf8..0xfc => next.saturating_add(input.word()?.into()),
            0xfc.. => (next | 0xffff_ffff).wrapping_sub((how & 3).into()),
        };
        self.next[keys] = next.max(number.saturating_add(1));
        Some((keys, number))
    }

    fn seal(&mut self, from: (SocketAddr, By), keys: usize, number: u64, text: &[u8]) {
        let spi = KEYS[keys].spi;
        // Nobody has keys that are not in use any more.
        let Some(in_use) = self.world.model.in_use.get(&spi) else { return };
        let (material, generation) = (in_use.material, in_use.generation);
        let datagram = material.seal(spi, number, text);
        self.world.model.sealed(&datagram, (spi, generation, number), text);
        self.send(from, datagram);
    }

    /// Frames that follow each other.
    fn flow(&mut self, from: (SocketAddr, By), input: &mut Input<'_>) -> Option<()> {
        let (keys, number) = self.number(input)?;
        let [addresses, kind, count] = input.array()?;
        let size = usize::from(input.word()?) % 1_500;
        let flow = Flow { addresses, kind, size };
        let numbers = (0..u64::from(count & 31)).map(|more| number.saturating_add(more));
        for (index, number) in numbers.enumerate() {
            // The last may be shorter.
            let is_short = index + 1 == usize::from(count & 31) && count & 0x80 != 0;
            let frame = flow.frame(index, if is_short { size / 2 } else { size });
            self.seal(from, keys, number, &text(&frame, NEXT_HEADER_ETHERNET));
            self.next[keys] = self.next[keys].max(number.saturating_add(1));
        }
        Some(())
    }

    /// A frame in two: in this order or the other, one of them missing, with others' numbers.
    fn halves(&mut self, from: (SocketAddr, By), input: &mut Input<'_>) -> Option<()> {
        let (keys, number) = self.number(input)?;
        let how = input.byte()?;
        let mut frame = header(input.array()?);
        let length = usize::from(input.word()?) % 9_300;
        frame.extend((0..length).map(|place| u8::try_from(place % 251).unwrap()));
        let (first, second) =
            frame.split_at(if how & 8 == 0 { frame.len().div_ceil(2) } else { frame.len() / 3 });
        let gap = u64::from(how >> 4 & 3 == 1);
        let mut parts = vec![(0, number, first), (1, number.saturating_add(1 + gap), second)];
        match how & 3 {
            0 => {}
            1 => parts.reverse(),
            2 => drop(parts.pop()),
            _ => drop(parts.remove(0)),
        }
        for (which, number, part) in parts {
            let content = [&[1, 0, 0, which], part].concat();
            self.seal(from, keys, number, &text(&content, NEXT_HEADER_NONE));
        }
        self.next[keys] = self.next[keys].max(number.saturating_add(2 + gap));
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    #[test]
    fn what_comes_is_carried_as_the_model_says() {
        // In a thread of its own, for that is in another network namespace then.
        let replay = || {
            let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds/vnet_worker");
            let mut count = 0;
            for entry in fs::read_dir(directory).unwrap() {
                let bytes = fs::read(entry.unwrap().path()).unwrap();
                hostile(&bytes);
                // What a fuzzer does first.
                for end in 0..bytes.len().min(200) {
                    let mut changed = bytes.clone();
                    changed[end] ^= 1 << (end % 7);
                    hostile(&changed);
                }
                count += 1;
            }
            assert!(count > 10, "{count} seeds");
        };
        std::thread::spawn(replay).join().unwrap();
    }
}
