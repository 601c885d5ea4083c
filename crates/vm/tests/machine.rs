//! A machine comes up, does what it is told, says how that ended, and goes.

use std::time::Duration;

use viaduct_vm::{HOST_MODULES, Image, Kernel, Machine, Setup, VmError};

#[test]
fn a_machine_does_commands_until_it_is_dropped() {
    let kernel = Kernel::debian().unwrap();
    let mut image = Image::new(&kernel).unwrap();
    image.modules(&HOST_MODULES).unwrap();
    image.program("ip").unwrap();
    image.text("/etc/words", "two\nlines\n", 0o644);
    let setup = Setup { memory: 256, processors: 1, netns: None, qemu: Vec::new() };
    let mut machine = Machine::boot(&kernel, &image, &setup).unwrap();

    assert_eq!(machine.run("uname -r").unwrap().output.trim(), kernel.release());
    let ran = machine.run("cat /etc/words\necho 'a  b' >&2\nexit 7").unwrap();
    assert_eq!((ran.status, ran.output.as_str()), (7, "two\nlines\na  b\n"));
    let ran = machine.run("kill -9 $$").unwrap();
    assert_eq!(ran.status, 128 + 9);
    let long = machine.run("head -c 300000 /dev/zero | tr '\\0' x").unwrap();
    assert_eq!((long.status, long.output.len()), (0, 300_000));

    // What not every host's kernel has.
    for line in [
        "ip link add d0 type dummy && ip link set d0 up",
        "ip link add link d0 name d0.5 type vlan id 5",
        "ip link add wg0 type wireguard",
        "ip link add v0 type veth peer name v1",
        "grep nf_flow_table_inet /proc/modules && grep sch_netem /proc/modules",
    ] {
        let ran = machine.run(line).unwrap();
        assert_eq!(ran.status, 0, "{line}: {}", ran.output);
    }

    machine.patience(Duration::from_secs(1)).unwrap();
    assert!(matches!(machine.run("sleep 100"), Err(VmError::Silent { .. })));
}

#[test]
fn what_is_shown_comes_with_its_status_and_the_end_is_told() {
    let kernel = Kernel::debian().unwrap();
    let image = Image::new(&kernel).unwrap();
    let setup = Setup { memory: 128, processors: 1, netns: None, qemu: Vec::new() };
    let mut machine = Machine::boot(&kernel, &image, &setup).unwrap();
    let mut shown = Vec::new();
    let status = machine.show("seq 1 2000; exit 3", &mut shown).unwrap();
    let expected: String = (1..=2000).map(|number| format!("{number}\n")).collect();
    assert_eq!((status, String::from_utf8(shown).unwrap()), (3, expected));
    assert!(matches!(machine.run("true"), Err(VmError::Ended { .. })));
}

#[test]
fn what_qemu_refuses_is_told() {
    let error = viaduct_vm::guest("-netdev tap,id=net0,ifname=, -device nonsense", None).unwrap_err();
    assert!(matches!(error, VmError::Ended { .. }), "{error}");
    assert!(error.to_string().contains("qemu-system-x86_64: -"), "{error}");
}
