use std::fs;

use viaduct_plan::{Ask, Observe, Op, Sysctl};

use crate::world::{World, bridge, isolated, name, up};

fn set(key: &Sysctl, value: &str, journal: bool) -> Op {
    Op::SetSysctl { key: key.clone(), value: value.to_owned(), journal }
}

#[test]
fn what_a_setting_was_is_kept_and_given_back() {
    isolated(|| {
        let mut world = World::new();
        let forward = Sysctl::all("ipv4", "forwarding");
        let filter = Sysctl::all("ipv4", "rp_filter");
        world.apply(&[set(&filter, "1", false), set(&forward, "0", false)]);
        world.apply(&[set(&forward, "1", true), set(&filter, "2", true)]);
        // What they were, not what they were in between.
        world.apply(&[set(&filter, "0", true)]);
        let ask = Ask {
            sysctls: [forward.clone(), filter.clone(), Sysctl::all("ipv4", "nonsense")].into(),
            ..Ask::default()
        };
        let observed = world.kernel.observe(&ask).unwrap();
        assert_eq!(
            observed.sysctls,
            [(forward.clone(), "1".to_owned()), (filter.clone(), "0".to_owned())].into()
        );
        assert_eq!(
            observed.journal,
            [(forward.clone(), "0".to_owned()), (filter.clone(), "1".to_owned())].into()
        );

        let restore = observed.journal.into_iter().map(|(key, value)| Op::RestoreSysctl { key, value });
        world.apply(&restore.collect::<Vec<_>>());
        let observed = world.kernel.observe(&ask).unwrap();
        assert_eq!(observed.sysctls, [(forward, "0".to_owned()), (filter, "1".to_owned())].into());
        assert!(observed.journal.is_empty());
    });
}

#[test]
fn a_devices_settings_go_with_it() {
    isolated(|| {
        let mut world = World::new();
        let proxy = Sysctl::ipv4(&name("br0"), "proxy_arp");
        world.apply(&[bridge("br0"), up("br0"), set(&proxy, "1", false)]);
        let ask = Ask { sysctls: [proxy.clone()].into(), ..Ask::default() };
        assert_eq!(world.kernel.observe(&ask).unwrap().sysctls[&proxy], "1");
        assert!(world.observe().journal.is_empty());
        world.apply(&[Op::DeleteLinks(vec![name("br0")]), set(&proxy, "1", true)]);
        world.apply(&[Op::RestoreSysctl { key: proxy.clone(), value: "0".to_owned() }]);
        assert!(world.kernel.observe(&ask).unwrap().sysctls.is_empty());
        // A setting that this kernel does not have is an error, though.
        world.apply(&[bridge("br0")]);
        let text = world.refuse(set(&Sysctl::ipv4(&name("br0"), "nonsense"), "1", false));
        assert!(text.contains("~ sysctl net/ipv4/conf/br0/nonsense = 1: No such file"), "{text}");
    });
}

#[test]
fn nothing_is_changed_that_could_not_be_written_down() {
    isolated(|| {
        let mut world = World::new();
        let forward = Sysctl::all("ipv4", "forwarding");
        world.apply(&[set(&forward, "0", false)]);
        // No directory, no journal: as on a full or read-only disk.
        fs::remove_dir_all(&world.directory).unwrap();
        let text = world.refuse(set(&forward, "1", true));
        assert!(text.contains("sysctl-journal.json"), "{text}");
        assert_eq!(fs::read_to_string("/proc/sys/net/ipv4/conf/all/forwarding").unwrap().trim(), "0");
    });
}

#[test]
fn a_corrupt_journal_is_named_with_the_way_out() {
    isolated(|| {
        let mut world = World::new();
        let file = world.directory.join("sysctl-journal.json");
        fs::write(&file, "{\"net/ipv4").unwrap();
        let text = world.kernel.observe(&Ask::default()).unwrap_err().to_string();
        assert!(text.contains(file.to_str().unwrap()) && text.contains("move it away"), "{text}");
        let forward = Sysctl::all("ipv4", "forwarding");
        world.apply(&[set(&forward, "0", false)]);
        let text = world.refuse(set(&forward, "1", true));
        assert!(text.contains("move it away"), "{text}");
        assert_eq!(fs::read_to_string("/proc/sys/net/ipv4/conf/all/forwarding").unwrap().trim(), "0");
        assert_eq!(fs::read_to_string(file).unwrap(), "{\"net/ipv4");
    });
}
