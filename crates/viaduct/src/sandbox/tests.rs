//! What is refused is refused by the kernel, to a thread of this process: both of the two means are a thread's own.

use std::{
    fs::{self, File},
    net::{TcpListener, UdpSocket},
    os::unix::process::CommandExt,
    process::Command,
    thread,
};

use rustix::{
    net::{AddressFamily, Protocol, SocketFlags, SocketType, ipproto, socket_with},
    thread::CapabilitySet,
};

use super::*;
use crate::privileges;

/// Does something in a thread that has given up all that it can.
fn confined(confine: impl FnOnce() + Send + 'static, work: impl FnOnce() + Send + 'static) {
    let thread = thread::spawn(move || {
        privileges::keep_only(CapabilitySet::empty()).unwrap();
        confine();
        work();
    });
    thread.join().unwrap();
}

#[track_caller]
fn refused<T>(done: io::Result<T>, code: i32) {
    assert_eq!(done.err().and_then(|error| error.raw_os_error()), Some(code));
}

fn socket(family: AddressFamily, kind: SocketType, protocol: Option<Protocol>) -> io::Result<()> {
    socket_with(family, kind, SocketFlags::CLOEXEC, protocol)?;
    Ok(())
}

#[test]
fn who_answers_guests_opens_executes_and_makes_nothing_else() {
    let own = std::env::current_exe().unwrap();
    confined(
        || assert!(Calls::Answering.confine().unwrap(), "this kernel has no seccomp"),
        move || {
            refused(File::open(&own), libc::EPERM);
            refused(File::create("/tmp/viaduct-made-by-who-may-not"), libc::EPERM);
            refused(fs::metadata(&own), libc::EPERM);
            refused(fs::read_dir("/"), libc::EPERM);
            // Neither by a child, nor in its own place.
            refused(Command::new("/bin/false").spawn(), libc::EPERM);
            refused::<()>(Err(Command::new("/bin/false").exec()), libc::EPERM);
            let udp = Some(ipproto::UDP);
            for (family, kind, protocol) in [
                (AddressFamily::UNIX, SocketType::STREAM, None),
                (AddressFamily::NETLINK, SocketType::RAW, None),
                (AddressFamily::INET, SocketType::RAW, udp),
                (AddressFamily::INET6, SocketType::RAW, udp),
                (AddressFamily::INET6, SocketType::DGRAM, Some(ipproto::ICMPV6)),
                (AddressFamily::INET, SocketType::SEQPACKET, Some(ipproto::SCTP)),
                (AddressFamily::PACKET, SocketType::DGRAM, None),
            ] {
                refused(socket(family, kind, protocol), libc::EPERM);
            }
            refused(
                rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::TERM)
                    .map_err(Into::into),
                libc::EPERM,
            );
            // And can do what it has to.
            UdpSocket::bind("127.0.0.1:0").unwrap().send_to(b"?", "127.0.0.1:9").unwrap();
            TcpListener::bind("[::1]:0").unwrap().set_nonblocking(true).unwrap();
        },
    );
}

#[test]
fn who_carries_vnets_comes_first_or_later_by_itself_alone() {
    confined(
        || assert!(Calls::Carrying.confine().unwrap(), "this kernel has no seccomp"),
        || {
            let nicer = |who| rustix::process::setpriority_process(who, 5).map_err(Into::into);
            refused(nicer(Some(rustix::process::getpid())), libc::EPERM);
            refused(rustix::process::setpriority_pgrp(None, 5).map_err(Into::into), libc::EPERM);
            nicer(None).unwrap();
        },
    );
}

#[test]
fn places_that_were_not_named_are_out_of_reach() {
    let place = tempfile::tempdir().unwrap();
    let [kept, other] = ["kept", "other"].map(|name| place.path().join(name));
    for directory in [&kept, &other] {
        fs::create_dir(directory).unwrap();
        fs::write(directory.join("file"), "words").unwrap();
    }
    let places = Places { files: vec![(kept.clone(), Use::Keep)], ports: Vec::new() };
    let tried = places.clone();
    // Where the kernel has none there is nothing to show, and it says so.
    let has_landlock = thread::spawn(move || {
        privileges::keep_only(CapabilitySet::empty()).unwrap();
        tried.confine().unwrap() != places::Confined::Not
    });
    if !has_landlock.join().unwrap() {
        eprintln!("this kernel has no Landlock");
        return;
    }
    confined(
        move || assert_ne!(places.confine().unwrap(), places::Confined::Not),
        move || {
            assert_eq!(fs::read_to_string(kept.join("file")).unwrap(), "words");
            fs::write(kept.join("new"), "words").unwrap();
            fs::rename(kept.join("new"), kept.join("file")).unwrap();
            fs::remove_file(kept.join("file")).unwrap();
            refused(fs::read(other.join("file")), libc::EACCES);
            refused(fs::write(other.join("new"), "words"), libc::EACCES);
            refused(fs::read("/etc/passwd"), libc::EACCES);
            refused::<()>(Err(Command::new("/bin/false").exec()), libc::EACCES);
        },
    );
}
