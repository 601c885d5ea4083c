//! What people see on a terminal, and programs do not: colours and a progress bar.
#![expect(clippy::unwrap_used, reason = "what a test stands on either works or ends it")]

mod support;

use std::{
    fs::File,
    io::Read,
    os::fd::OwnedFd,
    process::{ExitStatus, Stdio},
    thread,
};

use rustix::{
    fs::{Mode, OFlags, open},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{Winsize, tcsetwinsize},
};
use support::{CONFIG, GOOD, World, host};

const ESCAPE: char = '\u{1b}';

/// Runs the program with standard error on a terminal, and gives what stands there.
fn on_a_terminal(world: &World, line: &str, environment: &[(&str, &str)]) -> (ExitStatus, String) {
    let controller = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&controller).unwrap();
    unlockpt(&controller).unwrap();
    let name = ptsname(&controller, Vec::new()).unwrap();
    let terminal: OwnedFd = open(name, OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).unwrap();
    let size = Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(&terminal, size).unwrap();
    let mut command = world.command(&line.split(' ').collect::<Vec<_>>());
    command.env_remove("NO_COLOR").env("TERM", "xterm").envs(environment.iter().copied());
    let mut child = command.stdout(Stdio::null()).stderr(terminal).spawn().unwrap();
    // It holds the terminal open as well.
    drop(command);
    let reader = thread::spawn(move || {
        let mut seen = Vec::new();
        // EIO: nobody has the other side any more.
        let _ = File::from(controller).read_to_end(&mut seen);
        String::from_utf8_lossy(&seen).into_owned()
    });
    let status = child.wait().unwrap();
    (status, reader.join().unwrap())
}

#[test]
fn colours_only_where_they_are_wanted() {
    host(|world| {
        world.write(CONFIG, GOOD.replace("interface", "interfaec"));
        let colored = |environment: &[_]| on_a_terminal(world, "check", environment).1.contains(ESCAPE);
        assert!(colored(&[]));
        assert!(colored(&[("NO_COLOR", "")]));
        assert!(!colored(&[("NO_COLOR", "1")]));
        assert!(!world.viaduct("check").err.contains(ESCAPE));
        assert!(!world.viaduct("check --json").out.contains(ESCAPE));
    });
}

#[test]
fn long_work_shows_its_progress_on_a_terminal() {
    host(|world| {
        let guests = (10..70).map(|n| {
            format!("[guests.g{n}]\n[[guests.g{n}.nics]]\nnetwork = \"services\"\naddresses = [\"192.168.1.{n}\"]\n")
        });
        world.write(CONFIG, format!("{GOOD}{}", guests.collect::<String>()));
        for n in 10..70 {
            world.good(&format!("attach g{n} --tap"));
        }
        let (status, seen) = on_a_terminal(world, "apply", &[]);
        assert!(status.success() && seen.contains(" steps "), "{seen:?}");
        world.settled();
        // What is short, or seen by nobody, has none.
        let (status, seen) = on_a_terminal(world, "apply", &[]);
        assert!(status.success() && seen.is_empty(), "{seen:?}");
        world.good("down");
        assert!(!world.good("apply").err.contains("steps"));
    });
}
