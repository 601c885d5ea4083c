use std::process::Command;

use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

use viaduct_plan::{GuestChange, Op, Sysctl};
use viaduct_types::MacAddr;

use crate::world::{Guest, World, isolated, mac, name, up, veth};

/// Hears every frame in its thread's namespace.
struct Sniffer(OwnedFd);

impl Sniffer {
    fn new() -> Self {
        let all = i32::from(u16::try_from(libc::ETH_P_ALL).unwrap().to_be());
        // SAFETY: socket() takes numbers; the descriptor is nobody else's.
        let fd = unsafe {
            OwnedFd::from_raw_fd(libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, all))
        };
        let timeout = std::time::Duration::from_secs(5);
        rustix::net::sockopt::set_socket_timeout(&fd, rustix::net::sockopt::Timeout::Recv, Some(timeout))
            .unwrap();
        Self(fd)
    }

    /// The next frame that is meant.
    fn hear(&self, is_meant: impl Fn(&[u8]) -> bool) -> Vec<u8> {
        loop {
            let mut frame = vec![0; 2048];
            // SAFETY: the buffer is as long as is said.
            let n = unsafe { libc::recv(self.0.as_raw_fd(), frame.as_mut_ptr().cast(), frame.len(), 0) };
            frame.truncate(
                usize::try_from(n)
                    .unwrap_or_else(|_| panic!("heard nothing: {}", io::Error::last_os_error())),
            );
            if is_meant(&frame) {
                return frame;
            }
        }
    }
}

fn announce(address: &str, with: Option<MacAddr>) -> Op {
    Op::Announce { link: name("v0"), address: address.parse().unwrap(), mac: with }
}

#[test]
fn the_neighbours_hear_of_an_address() {
    isolated(|| {
        let (mut world, guest) = (World::new(), Guest::new());
        let far_up = Op::Guest {
            nic: "g.0".parse().unwrap(),
            netns: guest.path(),
            device: name("eth0"),
            change: GuestChange::Up,
        };
        let forwarding = Sysctl::ipv6(&name("v0"), "forwarding");
        world.apply(&[
            veth("v0", &guest),
            up("v0"),
            far_up,
            Op::SetSysctl { key: forwarding, value: "1".to_owned(), journal: false },
        ]);
        let own = world.observe().links["v0"].mac.unwrap();
        let sniffer = guest.run(Sniffer::new);

        world.apply(&[announce("192.0.2.7", None)]);
        for form in [1, 2] {
            let frame = sniffer.hear(|frame| frame[12..14] == [8, 6] && frame[21] == form);
            assert_eq!(frame[..6], [0xff; 6]);
            assert_eq!((&frame[6..12], &frame[22..28]), (&own.0[..], &own.0[..]));
            assert_eq!((&frame[28..32], &frame[38..42]), (&[192, 0, 2, 7][..], &[192, 0, 2, 7][..]));
        }
        world.apply(&[announce("192.0.2.8", Some(mac(9)))]);
        let frame = sniffer.hear(|frame| frame[12..14] == [8, 6] && frame[31] == 8);
        assert_eq!((&frame[6..12], &frame[22..28]), (&mac(9).0[..], &mac(9).0[..]));

        let is_advertisement =
            |frame: &[u8]| frame[12..14] == [0x86, 0xdd] && frame[20] == 58 && frame[54] == 136;
        for (with, flags) in [(None, 0xa0), (Some(mac(9)), 0x20)] {
            world.apply(&[announce("2001:db8::7", with)]);
            let frame = sniffer.hear(is_advertisement);
            assert_eq!(frame[..6], [0x33, 0x33, 0, 0, 0, 1]);
            assert_eq!((frame[21], frame[58]), (255, flags));
            assert_eq!(frame[78..80], [2, 1]);
            assert_eq!(frame[80..86], with.unwrap_or(own).0);
        }
    });
}

#[test]
fn the_neighbours_take_note() {
    isolated(|| {
        let (mut world, guest) = (World::new(), Guest::new());
        let inside = |change| Op::Guest {
            nic: "g.0".parse().unwrap(),
            netns: guest.path(),
            device: name("eth0"),
            change,
        };
        let add = |a: &str| inside(GuestChange::AddAddress { address: a.parse().unwrap(), dad: false });
        world.apply(&[
            veth("v0", &guest),
            up("v0"),
            inside(GuestChange::Up),
            add("192.0.2.1/24"),
            add("2001:db8::1/64"),
        ]);
        // The guest knows both addresses elsewhere.
        for (address, option) in [("192.0.2.7", "-4"), ("2001:db8::7", "-6")] {
            let line = format!("ip {option} neigh add {address} lladdr 02:00:00:00:00:99 nud stale dev eth0");
            let old = guest.netns.run(|| Command::new("sh").args(["-c", &line]).status().unwrap()).unwrap();
            assert!(old.success());
        }
        world.apply(&[announce("192.0.2.7", None), announce("2001:db8::7", None)]);
        let own = world.observe().links["v0"].mac.unwrap();
        let known = |address: &str| {
            let show = || Command::new("ip").args(["neigh", "show", address]).output().unwrap();
            let output = guest.netns.run(show).unwrap();
            String::from_utf8(output.stdout).unwrap().contains(&own.to_string())
        };
        let told = (0..100).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(10));
            known("192.0.2.7") && known("2001:db8::7")
        });
        assert!(told, "ARP {} ND {}", known("192.0.2.7"), known("2001:db8::7"));
    });
}
