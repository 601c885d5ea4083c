//! What users are told about each mistake, word for word. A case is the end of a file, after `BASE`.

#[path = "../common/mod.rs"]
mod common;

use common::{load_text, said, source};
use viaduct_model::load;

const BASE: &str = r#"[uplinks.wan]
interface = "eth0"
[networks.lan]
mode = "nat"
uplink = "wan"
subnets = ["192.168.1.0/24"]
[networks.public]
mode = "routed"
uplink = "wan"
pool = ["198.51.100.112/29", "2001:db8:1::/64"]
proxy = true
[networks.wire]
mode = "bridged"
uplink = "wan"
"#;

/// Without the cases in the head of the snapshot: they stand in it anyway.
macro_rules! assert_told {
    ($told:expr) => {
        insta::with_settings!({ omit_expression => true }, { insta::assert_snapshot!($told) })
    };
}

mod vnets;

/// All of what is said about each case.
fn told(cases: &[&str]) -> String {
    cases
        .iter()
        .map(|case| format!("{case}\n\n{}\n", said(&format!("{BASE}{case}"))))
        .collect::<Vec<_>>()
        .join("————\n")
}

/// The same without anything before the cases.
fn told_bare(cases: &[&str]) -> String {
    cases.iter().map(|case| format!("{case}\n{}", said(case))).collect::<Vec<_>>().join("————\n")
}

fn guest(nic: &str) -> String {
    format!("[[guests.web.nics]]\n{nic}")
}

#[test]
fn the_base_of_the_cases_is_right() {
    assert_eq!(said(BASE), "nothing is wrong\n");
}

#[test]
fn syntax() {
    assert_told!(told_bare(&[
        "[host]\nname = \"a\"\nname = \"b\"\n",
        "[uplinks.a]\ninterface = \"eth0\"\n[host]\nname = \"a\"\n[uplinks.a]\ninterface = \"eth1\"\n",
        "[host]\nname = \n[uplinks.wan]\ninterface = eth0\nmtu = 15OO\n",
        "[uplinks.wan\ninterface = \"eth0\"\n",
        "[host]\nname = \"a\n",
        "[host]\nname = 'a' 'b'\n[uplinks.wan]\ninterfase = \"eth0\"\n",
    ]));
}

#[test]
fn keys() {
    assert_told!(told(&[
        "[uplink.lan]\ninterface = \"eth1\"\n",
        "[uplinks.lan]\nadresses = [\"192.0.2.1/24\"]\n",
        "[[guests.web.nics]]\nnetwork = \"lan\"\nspoof_check = true\nuplink_mac = true\n",
        "[vnets.blue]\npeers = []\n",
        "[guests.\"a b\"]\n[networks.-x]\nmode = \"isolated\"\n",
    ]));
}

#[test]
fn values() {
    assert_told!(told(&[
        "[guests.web]\nid = \"12\"\npublish = \"80:80\"\nallow-in = 3\n",
        "[guests.web]\nid = 0\n[guests.web.hooks]\nprepare = \"log\"\ntimeout = \"10h\"\n",
        "[networks.x]\nmode = \"rooted\"\nproxy = \"yes\"\n",
        "[[guests.web.nics]]\nnetwork = \"lan\"\nmac = \"01:00:5e:00:00:01\"\nname = \"a-much-too-long-name\"\ndevice = \"a/b\"\n",
        "[[guests.web.nics]]\nnetwork = \"lan\"\nmac = \"00:00:00:00:00:00\"\nmtu = 67\nspoofing = \"all\"\n",
        "[[guests.web.nics]]\nnetwork = \"lan\"\nmac = \"00-16-3e-00-00-01\"\naddresses = [\"192.168.1.300\", \"192.168.1.02\"]\n",
        "[networks.lan2]\nmode = \"bridged\"\nuplink = \"wan\"\nvlan = 4095\nmtu = 65536\n",
        "[guests]\nweb = [1]\n",
        "[guests.web]\nnics = { network = \"lan\" }\n",
    ]));
}

#[test]
fn references() {
    assert_told!(told(&[
        "[networks.x]\nmode = \"nat\"\nuplink = \"wam\"\nsubnets = [\"10.0.0.0/24\"]\n",
        "[[guests.web.nics]]\nnetwork = \"pubic\"\n",
        "[networks.x]\nmode = \"vnet\"\nvnet = \"blue\"\n",
        "[vnets.blue]\nid = \"97\"\npeers = [\"hostb\"]\n[peers.hostc]\nkey = \"k\"\n",
        "[guests.web]\nnamespace = \"dmx\"\n[namespaces.dmz]\n",
        "[guests.web]\nnamespace = \"dmz\"\nallow-in = [{ from = \"guest:wep\" }, { from = [\"network:lam\", \"any\"] }]\n[namespaces.dmz]\n",
        "[networks.x]\nmode = \"isolated\"\nnamespace = \"nowhere\"\n",
    ]));
}

#[test]
fn addresses() {
    let cases = [
        "network = \"lan\"\naddresses = [\"192.168.2.5\"]\n",
        "network = \"lan\"\naddresses = [\"2001:db8::5\"]\n",
        "network = \"lan\"\naddresses = [\"192.168.1.5/16\"]\n",
        "network = \"lan\"\naddresses = [\"192.168.1.0\", \"192.168.1.255\"]\n",
        "network = \"lan\"\naddresses = [\"192.168.1.1\"]\n",
        "network = \"public\"\naddresses = [\"198.51.100.120\", \"2001:db8:2::1\"]\n",
        "network = \"public\"\naddresses = [\"198.51.100.113/29\"]\n",
        "network = \"wire\"\naddresses = [\"203.0.113.77\"]\n",
        "network = \"wire\"\naddresses = [\"203.0.113.0/24\", \"203.0.113.7/33\"]\n",
        "network = \"public\"\naddresses = [\"127.0.0.1\", \"224.0.0.1\", \"0.0.0.0\", \"::ffff:10.0.0.1\", \"ff02::1\"]\n",
    ]
    .map(guest);
    assert_told!(told(&cases.each_ref().map(String::as_str)));
}

#[test]
fn gateways() {
    let nics = [
        "network = \"lan\"\naddresses = [\"192.168.1.5\"]\ngateway = \"192.168.2.1\"\n",
        "network = \"lan\"\naddresses = [\"192.168.1.5\"]\ngateway = \"192.168.1.5\"\n",
        "network = \"lan\"\naddresses = [\"192.168.1.5\"]\ngateway = \"fe80::1\"\n",
        "network = \"lan\"\naddresses = [\"192.168.1.5\"]\ngateway = [\"192.168.1.1\", \"192.168.1.2\"]\n",
        "network = \"wire\"\naddresses = [\"203.0.113.77/24\"]\ngateway = \"203.0.114.1\"\n",
        "network = \"public\"\naddresses = [\"198.51.100.113\"]\ngateway = \"2001:db8::1\"\n",
    ]
    .map(guest);
    let networks = [
        "[networks.x]\nmode = \"nat\"\nuplink = \"wan\"\nsubnets = [\"10.0.0.0/24\"]\ngateways = [\"10.0.1.1\"]\n",
        "[networks.x]\nmode = \"nat\"\nuplink = \"wan\"\nsubnets = [\"10.0.0.0/24\"]\ngateways = [\"10.0.0.255\"]\n",
        "[networks.x]\nmode = \"nat\"\nuplink = \"wan\"\nsubnets = [\"10.0.0.0/24\"]\ngateways = [\"10.0.0.1\", \"10.0.0.2\"]\n",
        "[networks.x]\nmode = \"nat\"\nuplink = \"wan\"\nsubnets = [\"10.0.0.0/24\"]\nsource-address = \"2001:db8::1\"\n",
        "[networks.x]\nmode = \"nat\"\nuplink = \"wan\"\nsubnets = [\"10.0.0.0/24\"]\nsource-address = [\"192.0.2.1\", \"192.0.2.2\"]\n",
        "[uplinks.b]\ninterface = \"eth1\"\naddresses = [\"192.0.2.1/24\"]\ngateways = [\"192.0.2.254\", \"192.0.2.253\", \"fe80::1\"]\n",
    ];
    let cases: Vec<&str> = nics.iter().map(String::as_str).chain(networks).collect();
    assert_told!(told(&cases));
}

#[test]
fn prefixes() {
    let network = |rest: &str| format!("[networks.x]\nmode = \"nat\"\nuplink = \"wan\"\n{rest}\n");
    let cases = [
        network("subnets = [\"192.168.2.1/24\"]"),
        network("subnets = [\"192.168.2.0/33\", \"2001:db8:5::/129\", \"10.0.0.0\", \"10.0.0.0/x\"]"),
        network("subnets = [\"0.0.0.0/0\", \"127.0.0.0/16\", \"10.0.0.1/32\", \"ff00::/64\"]"),
        network("subnets = [\"192.168.0.0/16\"]"),
        network("subnets = [\"198.51.100.0/24\", \"198.51.100.0/24\"]"),
        network("subnets = [\"2001:db8:5::/64\"]\nmtu = 1279"),
        "[networks.x]\nmode = \"routed\"\nuplink = \"wan\"\npool = [\"203.0.113.9/29\"]\ninstall-pool = \"0.0.0.0/0\"\n".into(),
        "[uplinks.b]\ninterface = \"eth1\"\naddresses = [\"192.168.1.200/24\"]\n".into(),
    ];
    assert_told!(told(&cases.each_ref().map(String::as_str)));
}

#[test]
fn modes() {
    assert_told!(told(&[
        "[networks.x]\nmode = \"routed\"\n",
        "[networks.x]\nmode = \"nat\"\n",
        "[networks.x]\nmode = \"bridged\"\nproxy = true\n",
        "[networks.x]\nmode = \"vnet\"\nbridge = \"br7\"\n",
        "[networks.x]\nmode = \"routed\"\nuplink = \"wan\"\npool = [\"10.0.0.0/24\"]\nsubnets = [\"10.1.0.0/24\"]\nsource-address = \"192.0.2.1\"\nbridge = \"br7\"\nvlan = 2\n",
        "[networks.x]\nmode = \"nat\"\nuplink = \"wan\"\nsubnets = [\"10.1.0.0/24\"]\npool = [\"10.0.0.0/24\"]\nproxy = true\ninstall-pool = \"10.2.0.0/24\"\n",
        "[networks.x]\nmode = \"isolated\"\nuplink = \"wan\"\nvnet = \"b\"\n",
        "[[guests.web.nics]]\nnetwork = \"lan\"\nuplink-mac = true\n",
        "[networks.x]\nmode = \"routed\"\nuplink = \"wan\"\npool = [\"10.0.0.0/24\"]\n[[guests.web.nics]]\nnetwork = \"x\"\nuplink-mac = true\n",
        "[networks.x]\nmode = \"routed\"\nuplink = \"wan\"\npool = [\"10.0.0.0/24\"]\nprobe = true\n",
    ]));
}

#[test]
fn twice() {
    assert_told!(told(&[
        "[[guests.a.nics]]\nnetwork = \"lan\"\naddresses = [\"192.168.1.5\"]\n[[guests.b.nics]]\nnetwork = \"lan\"\naddresses = [\"192.168.1.5\"]\n",
        "[[guests.z.nics]]\nnetwork = \"lan\"\nmac = \"02:00:00:00:00:01\"\n[[guests.a.nics]]\nnetwork = \"public\"\nmac = \"02:00:00:00:00:01\"\n",
        "[[guests.a.nics]]\nnetwork = \"lan\"\ndevice = \"vm1\"\n[[guests.b.nics]]\nnetwork = \"public\"\ndevice = \"vm1\"\n",
        "[networks.x]\nmode = \"isolated\"\nbridge = \"br-lan\"\n",
        "[uplinks.b]\ninterface = \"eth0\"\n",
        "[networks.x]\nmode = \"bridged\"\nuplink = \"wan\"\n",
        "[guests.a]\nid = 7\n[[guests.a.nics]]\nnetwork = \"lan\"\n[guests.b]\nid = 7\n[[guests.b.nics]]\nnetwork = \"lan\"\n",
        "[guests.a]\nid = 1\n[[guests.a.nics]]\nnetwork = \"lan\"\n[guests.b]\nid = 65537\n[[guests.b.nics]]\nnetwork = \"lan\"\n",
        "[[guests.a.nics]]\nnetwork = \"lan\"\n[[guests.a.nics]]\nnetwork = \"public\"\nname = \"eth0\"\n",
        "[vnets.a]\nid = \"97\"\n[vnets.b]\nid = \"0097\"\nbridge = \"br-a\"\n[networks.x]\nmode = \"vnet\"\nvnet = \"a\"\n[networks.y]\nmode = \"vnet\"\nvnet = \"a\"\n",
        "[peers.a]\nkey = \"tbfQxDBFkaY1HEd1yqoHmTdVqZcqQhWOOzK6vCzJSwA=\"\n[peers.b]\nkey = \"tbfQxDBFkaY1HEd1yqoHmTdVqZcqQhWOOzK6vCzJSwA=\"\n",
    ]));
}

#[test]
fn publish() {
    assert_told!(told(&[
        "[guests.a]\npublish = [\"203.0.113.1:80:80\"]\n[[guests.a.nics]]\nnetwork = \"lan\"\naddresses = [\"192.168.1.5\"]\n[guests.b]\npublish = [\"203.0.113.1:70-90:70-90/tcp\", \"203.0.113.1:80:80/udp\"]\n[[guests.b.nics]]\nnetwork = \"lan\"\naddresses = [\"192.168.1.6\"]\n",
        "[guests.a]\npublish = [\"80:80\", \"203.0.113.1:80:8080\"]\n[[guests.a.nics]]\nnetwork = \"lan\"\naddresses = [\"192.168.1.5\"]\n",
        "[guests.a]\npublish = [\"[2001:db8::1]:80:80\"]\n[[guests.a.nics]]\nnetwork = \"lan\"\naddresses = [\"192.168.1.5\"]\n",
        "[guests.a]\npublish = [\"80:80\"]\n[[guests.a.nics]]\nnetwork = \"wire\"\n",
        "[guests.a]\npublish = [\"80:80\"]\nnamespace = \"dmz\"\n[namespaces.dmz]\n",
        "[guests.a]\npublish = [\"203.0.113.77:80:80\"]\n[[guests.a.nics]]\nnetwork = \"lan\"\naddresses = [\"192.168.1.5\"]\n[[guests.b.nics]]\nnetwork = \"wire\"\naddresses = [\"203.0.113.77/24\"]\n",
        "[guests.a]\npublish = [\"0:80\", \"80-70:80-70\", \"80-81:80\", \"80\", \"2001:db8::1:80:80\", \"80:80/icmp\", \"224.0.0.1:80:80\"]\n",
    ]));
}

#[test]
fn published_where_this_host_does_not_reach() {
    let guest = |publish: &str, addresses: &str| {
        format!(
            "[guests.web]\npublish = [{publish}]\n[[guests.web.nics]]\nnetwork = \"red\"\naddresses = [{addresses}]\n"
        )
    };
    let both = guest("\"80:80\", \"[2001:db8::1]:81:81\"", "\"10.97.0.8\", \"fd97::8\"");
    let red = |keys: &str| {
        format!(
            "[host]\nname = \"h\"\n[vnets.red]\nid = \"97\"\n[networks.red]\nmode = \"vnet\"\nvnet = \"red\"\n\
             subnets = [\"10.97.0.0/24\", \"fd97::/64\"]\n{keys}\n"
        )
    };
    let right = [
        format!("{}{both}", red("gateways = [\"10.97.0.251\", \"fd97::251\"]")),
        // By another NIC, which the host reaches.
        format!(
            "{}{}[[guests.web.nics]]\nnetwork = \"lan\"\naddresses = [\"192.168.1.8\"]\n",
            red(""),
            guest("\"80:80\"", "\"10.97.0.8\"")
        ),
    ];
    right.iter().for_each(|case| assert_eq!(said(&format!("{BASE}{case}")), "nothing is wrong\n"));
    let cases = [
        format!("{}{both}", red("")),
        // One family is enough for a port on all addresses, and not for one on an address of the other.
        format!("{}{both}", red("gateways = [\"10.97.0.251\"]")),
        format!("[networks.red]\nmode = \"isolated\"\n{}", guest("\"80:80\"", "\"10.97.0.8/24\"")),
        "[guests.web]\npublish = [\"80:80\"]\n[[guests.web.nics]]\nnetwork = \"wire\"\naddresses = [\"192.0.2.8/24\"]\n"
            .to_owned(),
    ];
    assert_told!(told(&cases.iter().map(String::as_str).collect::<Vec<_>>()));
}

/// The port leads by a link of the guest's own, and its way out is another NIC.
#[test]
fn published_where_answers_do_not_come_back() {
    let guest = |nics: &str, publish: &str| {
        format!(
            "[guests.web]\npublish = [{publish}]\n[[guests.web.nics]]\nnetwork = \"public\"\n\
             addresses = [\"198.51.100.114\", \"2001:db8:1::2\"]\n{nics}"
        )
    };
    let aside = |gateway: &str| {
        guest(
            &format!(
                "[[guests.web.nics]]\nnetwork = \"wire\"\naddresses = [\"192.0.2.8/24\", \"2001:db8:2::8/64\"]\n{gateway}"
            ),
            "\"80:80\"",
        )
    };
    let inside =
        "[[guests.web.nics]]\nnetwork = \"lan\"\naddresses = [\"192.168.1.8\"]\ngateway = \"192.168.1.1\"\n";
    for right in [aside(""), guest(inside, "\"80:80\"")] {
        assert_eq!(said(&format!("{BASE}{right}")), "nothing is wrong\n", "{right}");
    }
    assert_told!(told(&[&aside("gateway = \"192.0.2.1\"\n"), &aside("gateway = [\"2001:db8:2::1\"]\n"),]));
}

#[test]
fn what_cannot_be_kept() {
    assert_told!(told(&[
        "[networks.lan2]\nmode = \"bridged\"\nuplink = \"wan\"\nvlan = 5\ninbound = \"deny\"\nbetween-guests = \"deny\"\n",
        "[vnets.red]\nid = \"97\"\n[networks.red]\nmode = \"vnet\"\nvnet = \"red\"\ninbound = \"deny\"\nbetween-guests = \"deny\"\nto-host = \"deny\"\n",
        "[guests.a]\nallow-in = []\nallow-out = [{ to = \"any\" }]\n[[guests.a.nics]]\nnetwork = \"wire\"\naddresses = [\"203.0.113.9/24\"]\n",
        "[guests.a]\nnamespace = \"n\"\nallow-in = []\n[guests.b]\nnamespace = \"n\"\n[[namespaces.n.interfaces]]\nname = \"c0\"\ntype = \"veth\"\nnetwork = \"wire\"\naddresses = [\"203.0.113.9/24\"]\n",
        "[vnets.red]\nid = \"97\"\n[networks.red]\nmode = \"vnet\"\nvnet = \"red\"\nsubnets = [\"10.97.0.0/24\"]\n[guests.a]\nallow-in = []\n[[guests.a.nics]]\nnetwork = \"red\"\naddresses = [\"10.97.0.2\"]\n[guests.b]\nnamespace = \"n\"\nallow-out = [{ to = \"any\" }]\n[[namespaces.n.interfaces]]\nname = \"c0\"\ntype = \"veth\"\nnetwork = \"red\"\naddresses = [\"10.97.0.3\"]\n",
    ]));
}

#[test]
fn permissions() {
    assert_told!(told(&[
        "[[guests.a.nics]]\nnetwork = \"lan\"\n[guests.a]\nallow-in = [{ from = \"192.0.2.1/24\" }, { from = \"web\" }, { form = \"any\" }]\n",
        "[[guests.a.nics]]\nnetwork = \"lan\"\n[guests.a]\nallow-out = [{ to = \"any\", ports = [\"90-80/tcp\", \"80/tpc\", \"http\", \"0\"] }]\n",
        "[[guests.a.nics]]\nnetwork = \"lan\"\n[guests.a]\nallow-out = [{ to = \"any\", protocols = [\"256\", \"greh\"] }, { to = \"any\", ports = [] }, { to = \"any\", icmp = false }]\n",
    ]));
}

/// A container's kernel, like most systems, takes the first of two ways to a segment, whichever address it answers from.
#[test]
fn two_nics_of_a_guest_on_one_segment() {
    let lan = |keys: &str| format!("[[guests.web.nics]]\nnetwork = \"lan\"\n{keys}\n");
    let (first, second) = (lan("addresses = [\"192.168.1.3\"]"), lan("addresses = [\"192.168.1.4\"]"));
    let told = said(&format!("{BASE}{first}{second}"));
    let parts = [
        "warning: two NICs of guest `web` are in network `lan`: it answers by eth0, which may not speak for the addresses of eth1",
        "viaduct.toml:18:1",
        "viaduct.toml:15:1",
        "write spoofing = \"ip\" for both",
    ];
    assert!(parts.iter().all(|part| told.contains(part)), "{told}");
    // A lent address is one, too.
    let dhcp = BASE.replace("[networks.lan]\n", "[networks.lan]\ndhcp = true\n");
    assert!(said(&format!("{dhcp}{first}{}", lan(""))).contains("two NICs of guest `web`"));
    let trunked = BASE.replace("[networks.wire]\n", "[networks.wire]\nvlans = [2, 3]\n");
    let wire = |vlan, address| {
        format!("[[guests.web.nics]]\nnetwork = \"wire\"\nvlan = {vlan}\naddresses = [\"{address}\"]\n")
    };
    let at_one_vlan = format!("{trunked}{}{}", wire(2, "10.0.0.2/24"), wire(2, "10.0.0.3/24"));
    assert!(said(&at_one_vlan).contains("two NICs of guest `web`"));
    for fine in [
        format!("{BASE}{first}{}", lan("")),
        format!("{BASE}{}{second}", lan("spoofing = \"ip\"\naddresses = [\"192.168.1.3\"]")),
        format!("{BASE}{first}[[guests.web.nics]]\nnetwork = \"public\"\naddresses = [\"198.51.100.113\"]\n"),
        format!("{trunked}{}{}", wire(2, "10.0.0.2/24"), wire(3, "10.0.0.3/24")),
        format!("{trunked}{}{}", wire(2, "10.0.0.2/24"), wire(2, "fd00::3/64")),
    ] {
        assert_eq!(said(&fine), "nothing is wrong\n", "{fine}");
    }
}

#[test]
fn namespaces_peers_and_vnets() {
    let interface = |rest: &str| format!("[[namespaces.dmz.interfaces]]\nname = \"x0\"\n{rest}\n");
    let cases = [
        interface("type = \"vlan\"\nparent = \"wan\""),
        interface("type = \"macvlan\"\nparent = \"wann\"\nvlan = 3"),
        interface("type = \"macvlan\"\nparent = \"no-device-has-this-name\""),
        interface("type = \"vlan\"\nparent = \"wan\"\nvlan = 2\n[[namespaces.lab.interfaces]]\nname = \"x0\"\ntype = \"vlan\"\nparent = \"eth0\"\nvlan = 2"),
        interface("type = \"vlan\"\nparent = \"wan\"\nvlan = 2\naddresses = [\"10.0.0.5\", \"10.0.0.6/24\"]\ngateways = [\"10.0.1.1\"]"),
        interface("type = \"veth\""),
        interface("type = \"macvlan\"\nparent = \"wan\"\nroutes = [\"DEFAULT via 10.0.0.1\", \"10.0.0.0/8 Via 10.0.0.1 TABLE 7\", \"default Via 10.0.0.1\"]\n[namespaces.dmz]\nrules = [\"From 10.0.0.0/8 table 7\", \"from 10.0.0.0/8 table MAIN\"]"),
        interface("type = \"veth\"\nnetwork = \"lann\"\nparent = \"wan\""),
        interface("type = \"veth\"\nnetwork = \"lan\"\nbridge = \"br0\"\naddresses = [\"192.168.2.1\"]"),
        interface("type = \"veth\"\nbridge = \"br-lan\"\nspoofing = \"ip\"\naddresses = [\"10.0.0.5\"]"),
        interface("type = \"veth\"\nnetwork = \"lan\"\naddresses = [\"192.168.1.5\"]\n[[guests.dmz.nics]]\nnetwork = \"lan\""),
        interface("type = \"device\"\nparent = \"eth1\""),
        interface("type = \"device\"\ndevice = \"eth0\""),
        interface("type = \"device\"\ndevice = \"lo\""),
        interface("type = \"device\"\ndevice = \"eth1\"\n[[namespaces.lab.interfaces]]\nname = \"x0\"\ntype = \"macvlan\"\nparent = \"eth1\"\n[[namespaces.far.interfaces]]\nname = \"x0\"\ntype = \"device\"\ndevice = \"eth1\""),
        "[namespaces.dmz]\nrules = [\"from 10.0.0.0/8 to ::/0 table 7\", \"from 10.0.0.0/8\", \"from 10.0.0.1/8 table 7\", \"table local\", \"table 7 priority 40000\", \"table\", \"iif eth0 table 7\", \"to 10.0.0.0/8 table 1 priority 9\", \"to 10.0.0.0/8 table 2 priority 9\"]\n".into(),
        "[namespaces.dmz.sysctls]\n\"kernel.panic\" = 1\n\"net.ipv4..x\" = 1\n\"net.ipv4.ip_forward\" = true\n\"net.ipv4.tcp_mem\" = \"\"\n\"net.ipv4.a\" = 1\n\"net/ipv4/a\" = 2\n".into(),
        "[namespaces.dmz]\n[guests.web]\nnamespace = \"dmz\"\n[[guests.web.nics]]\nnetwork = \"lan\"\n".into(),
        "[guests.web]\n".into(),
        "[peers.b]\nendpoint = [\"10.0.0.1\", \"2001:db8::1:1798\", \"[2001:db8::1]\", \"[fe80::1]:1798\", \"[fe80::1%eth0]:1798\", \"host:0\", \"300.0.0.1:1798\"]\nkey = \"two words\"\n".into(),
        "[vnets.blue]\nid = \"1\"\nsecurity = \"strong\"\npeers = [\"wan\"]\n".into(),
        "[vnets.blue]\nid = \"97\"\ncipher = \"aes-256\"\n".into(),
        "[vnets.blue]\nid = \"97\"\ncipher = \"aes-256-gmac\"\n".into(),
        "[vnets.blue]\nid = \"97\"\nsecurity = \"auth\"\ncipher = \"chacha20-poly1305\"\n".into(),
        "[vnets.blue]\nid = \"97\"\nsecurity = \"none\"\ncipher = \"aes-128-gcm\"\n".into(),
        "[relay]\nfor = [\"b\", \"b\"]\nrate = 0\n".into(),
        "[relay]\nrates = 5\n".into(),
        "[discovery]\ninterfaces = []\ngroups = [\"10.0.0.1\", \"224.0.0.5\", \"224.0.0.6\"]\nport = 0\n".into(),
    ];
    assert_told!(told(&cases.each_ref().map(String::as_str)));
}

#[test]
fn boot() {
    let network =
        |mode: &str, boot: &str| format!("[networks.x]\n{mode}\ndhcp = true\n[networks.x.boot]\n{boot}\n");
    let nat = |boot: &str| network("mode = \"nat\"\nuplink = \"wan\"\nsubnets = [\"10.0.0.0/24\"]", boot);
    let both = |boot: &str| {
        network("mode = \"routed\"\nuplink = \"wan\"\npool = [\"10.0.0.0/24\", \"2001:db8:9::/64\"]", boot)
    };
    let cases = [
        // Names that are misspelt, and one that is nothing like any.
        nat("server = \"192.0.2.1\"\nfiles = { efi-x86-64 = \"a\", efi-arm46 = \"b\", amiga = \"c\" }"),
        // As UEFI calls them.
        both("files = { efi-x64 = \"tftp://192.0.2.1/a\", http-efi-aa64 = \"http://192.0.2.1/a\" }"),
        // Which family guests have.
        nat("server = \"2001:db8::1\"\nfiles.bios = \"pxelinux.0\""),
        both("server = [\"192.0.2.1\", \"192.0.2.2\"]\nfiles.bios = \"pxelinux.0\""),
        // URLs.
        both(
            "files = { bios = \"htpp://192.0.2.1/a\", ipxe = \"http:/192.0.2.1/a\", efi-x86 = \"http://192.0.2.300/a\", \
             efi-arm = \"tftp://2001:db8::1/a\", efi-arm64 = \"tftp://[2001:db8::g]/a\", other = \"http:///a\" }",
        ),
        both(
            "files = { bios = \"http://192.0.2.1:0/a\", ipxe = \"http://a b/c\", efi-x86 = \"\", \
             efi-arm = \"gopher://a/b\", efi-arm64 = \"http://[2001:db8::1/a\", other = 7 }",
        ),
        both(&format!("files.ipxe = \"http://192.0.2.1/{}\"", "x".repeat(240))),
        // What there is no way to.
        both(
            "files = { bios = \"pxelinux.0\", http-efi-x86_64 = \"shim.efi\", http-bios = \"tftp://192.0.2.1/a\" }",
        ),
        both("files.ipxe = [\"http://192.0.2.1/a\", \"http://boot.example/a\"]"),
        both(&format!("parameters = [{}]", "\"auto=true\", ".repeat(60))),
        both("file = { bios = \"a\" }"),
        // Where nothing is told.
        "[networks.lan.boot]\nfiles.ipxe = \"http://192.0.2.1/a\"\n".to_owned(),
        guest("network = \"lan\"\nboot = { server = \"2001:db8::1\", files = { bios = \"a\" } }\n"),
    ];
    assert_told!(told(&cases.each_ref().map(String::as_str)));
}

#[test]
fn what_boots_is_told_each_family_as_it_can_load_it() {
    use viaduct_types::BootClient::{Bios, HttpEfiX86_64, Ipxe, Other};
    let text = format!(
        "{BASE}dhcp = true\n[networks.wire.boot]\nserver = [\"192.0.2.1\", \"2001:db8::1\"]\nparameters = [\"auto\"]\n\
         [networks.wire.boot.files]\nbios = \"/pxelinux.0\"\nother = \"tftp://192.0.2.9/else\"\n\
         ipxe = [\"http://192.0.2.1/a\", \"http://[2001:db8::1]/a\"]\nhttp-efi-x86_64 = \"https://boot.example:8443/shim\"\n\
         [[guests.web.nics]]\nnetwork = \"wire\"\nboot = {{}}\n"
    );
    let config = load_text(&text).unwrap().config;
    let boot = config.networks["wire"].boot.as_ref().unwrap();
    let named = "https://boot.example:8443/shim";
    let of = |files: &[(viaduct_types::BootClient, &str)]| {
        files
            .iter()
            .map(|(client, file)| (*client, (*file).to_owned()))
            .collect::<std::collections::BTreeMap<_, _>>()
    };
    assert_eq!(
        boot.files4(),
        of(&[
            (Ipxe, "http://192.0.2.1/a"),
            (Bios, "/pxelinux.0"),
            (HttpEfiX86_64, named),
            (Other, "tftp://192.0.2.9/else")
        ])
    );
    assert_eq!(
        boot.files6(),
        of(&[
            (Ipxe, "http://[2001:db8::1]/a"),
            (Bios, "tftp://[2001:db8::1]/pxelinux.0"),
            (HttpEfiX86_64, named)
        ])
    );
    // What the NIC says is instead of all that, and it says nothing.
    assert_eq!(config.guests["web"].nics[0].boot, Some(viaduct_model::Boot::default()));
}

#[test]
fn what_is_delegated_is_a_part_of_the_pool() {
    let told = |prefix: &str, length: &str| {
        told(&[&format!(
            "[networks.r]\nmode = \"routed\"\nuplink = \"wan\"\npool = [\"2001:db8:2::/64\"]\ndhcp = true\n\
             delegate-pool = [\"{prefix}\"]\n{length}"
        )])
    };
    let wider = told("2001:db8:8000::/72", "");
    assert!(wider.contains("no part as large as a /64") && wider.contains("delegate-length = 72"), "{wider}");
    // No length that may be written would do.
    let short = told("2001:db8:8000::/120", "");
    assert!(
        short.contains("write a prefix of at most 96 bits") && !short.contains("delegate-length = "),
        "{short}"
    );
    assert!(told("2001:db8:8000::/72", "delegate-length = 96\n").contains("nothing is wrong"));
}

#[test]
fn a_guest_has_at_most_256_nics() {
    let nics = |count| format!("{BASE}{}", "[[guests.a.nics]]\nnetwork = \"public\"\n".repeat(count));
    assert_eq!(load_text(&nics(256)).unwrap().config.guests["a"].nics.len(), 256);
    assert!(said(&nics(257)).contains("error: guest `a` has more than 256 NICs\n   --> viaduct.toml:527:1"));
}

#[test]
fn addresses_may_repeat_where_they_never_meet() {
    let text = "[host]\nname = \"h\"\n[networks.a]\nmode = \"vnet\"\nvnet = \"a\"\nsubnets = [\"10.0.0.0/24\"]\n\
        [networks.b]\nmode = \"vnet\"\nvnet = \"b\"\nsubnets = [\"10.0.0.0/24\"]\n\
        [vnets.a]\nid = \"a\"\n[vnets.b]\nid = \"b\"\n\
        [[guests.a.nics]]\nnetwork = \"a\"\naddresses = [\"10.0.0.1\"]\n\
        [[guests.b.nics]]\nnetwork = \"b\"\naddresses = [\"10.0.0.1\"]\n";
    assert_eq!(said(text), "nothing is wrong\n");
    let with_gateways = text.replace("mode = \"vnet\"", "mode = \"vnet\"\ngateways = [\"10.0.0.254\"]");
    let diagnostics = load_text(&with_gateways).unwrap_err();
    let messages: Vec<&str> = diagnostics.iter().map(|d| d.message.as_str()).collect();
    assert_eq!(
        messages,
        [
            "the address 10.0.0.254 is used twice",
            "the prefix 10.0.0.0/24 is used twice",
            "the address 10.0.0.1 is used twice"
        ]
    );
}

#[test]
fn several_files() {
    let sources = [
        source("viaduct.toml", &format!("{BASE}[guests.web]\nid = 5\n")),
        source("conf.d/10-web.toml", "[guests.web]\nid = 6\n[[guests.web.nics]]\nnetwork = \"lam\"\n"),
        source(
            "conf.d/20-more.toml",
            "[networks.lan]\nmode = \"routed\"\n[[guests.é.nics]]\nnetwork = \"lan\"\n",
        ),
    ];
    let diagnostics = load(&sources).unwrap_err();
    insta::assert_snapshot!(diagnostics.render(false));
    insta::assert_snapshot!(
        "several_files_json",
        format!("{:#}", serde_json::to_value(&diagnostics).unwrap())
    );
}

#[test]
fn files_add_to_each_other() {
    let sources = [
        source("viaduct.toml", BASE),
        source(
            "10.toml",
            "[guests.web]\nid = 6\n[[guests.web.nics]]\nnetwork = \"lan\"\naddresses = [\"192.168.1.5\"]\n",
        ),
        source("20.toml", "[guests.web]\npublish = [\"80:80\"]\n"),
    ];
    let config = load(&sources).unwrap().config;
    let web = &config.guests["web"];
    assert_eq!((web.nics.len(), web.publish.len()), (1, 1));
    assert_eq!(web.publish[0].origin.to_string(), "20.toml:2");
}

#[test]
fn everything_is_reported_at_once_in_the_order_of_the_file() {
    let text = "[uplinks.wan]\nintreface = \"eth0\"\n[networks.a]\nmode = \"nat\"\nuplink = \"wam\"\nsubnets = [\"10.0.0.1/24\"]\nmtu = \"1500\"\n[guests.x]\nid = -1\n";
    let lines: Vec<usize> = load_text(text).unwrap_err().iter().map(|d| d.place.line).collect();
    assert_eq!(lines, [1, 2, 5, 6, 7, 8, 9]);
}

#[test]
fn colour_is_there_when_asked_for() {
    let diagnostics = load_text("[host]\nnam = \"a\"\n").unwrap_err();
    assert!(diagnostics.render(true).contains("\u{1b}["));
    assert!(!diagnostics.render(false).contains('\u{1b}'));
}
