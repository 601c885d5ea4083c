//! The command line: one definition gives the flags, their help, the man pages and the completions.

use std::{net::IpAddr, path::PathBuf, str::FromStr, time::Duration};

use clap::{ArgGroup, Args, Parser, Subcommand};
use clap_complete::Shell;
use viaduct_model::Address;
use viaduct_types::{HostKey, IfName, NamespaceName, NicId, ParseNicIdError, PeerName, Publish};

use crate::{guard, services, vnets};

/// The network of virtualization hosts.
///
/// One declarative file says how virtual machines and containers reach the world and each other. Viaduct makes the
/// kernel so, and says what it does.
#[derive(Debug, Parser)]
#[command(
    name = "viaduct",
    version,
    after_help = "Exit status: 0 done or nothing to do, 1 failed (nothing half-done), 2 wrong usage or wrong \
                  configuration, 3 `plan --exit-code` found changes. `doctor`: 1 when findings remain."
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Args)]
pub(crate) struct Global {
    /// The configuration: a file, or a directory with viaduct.toml and conf.d/*.toml
    #[arg(long, global = true, value_name = "PATH", default_value = "/etc/viaduct", env = "VIADUCT_CONFIG")]
    pub(crate) config: PathBuf,
    /// Where the applied configuration is kept
    #[arg(long, global = true, value_name = "DIR", default_value = "/var/lib/viaduct")]
    pub(crate) state_dir: PathBuf,
    /// Where attachments and other things that end with a reboot are kept
    #[arg(long, global = true, value_name = "DIR", default_value = "/run/viaduct")]
    pub(crate) run_dir: PathBuf,
    /// Print JSON for programs
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Say more on standard error; twice for decisions, thrice for everything
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Is the configuration right? Needs no root and touches nothing
    Check {
        /// Files or directories to check instead, as one configuration
        files: Vec<PathBuf>,
    },
    /// Show what would change, as a readable diff
    Plan {
        /// Exit with status 3 when something would change
        #[arg(long)]
        exit_code: bool,
    },
    /// Make the host what the configuration says
    Apply {
        /// Take it back by itself after this time, like 60s or 5m, unless `viaduct confirm` comes before
        #[arg(long, value_name = "TIME", value_parser = confirm_time)]
        confirm: Option<Duration>,
    },
    /// Keep the change that waits to be confirmed
    Confirm,
    /// Return to what was before the last change, or to a revision of the history
    Rollback {
        /// The revision to return to
        revision: Option<u64>,
        /// Take it back by itself after this time, like 60s or 5m, unless `viaduct confirm` comes before
        #[arg(long, value_name = "TIME", value_parser = confirm_time)]
        confirm: Option<Duration>,
    },
    /// List the last revisions of the configuration, or show what one changed
    History {
        /// The revision to show
        revision: Option<u64>,
    },
    /// Show networks, guests, addresses, ports, drops and drift
    Status,
    /// Find what other programs and settings of this host break for guests, and what mends it; status 1 when something
    /// is found that loses packets or may
    Doctor {
        /// Do what is safe: what can be repeated and taken back, and changes nothing for others. The rest is shown
        #[arg(long)]
        fix: bool,
    },
    /// Connect a guest's NIC that now exists as a namespace, tap or device
    Attach(Attach),
    /// Let a prepared NIC speak: its guest has arrived from another host
    Activate {
        /// The guest's first NIC, or with .N another one: GUEST.1 is the second
        #[arg(value_name = "GUEST[.N]")]
        nic: NicId,
    },
    /// Disconnect a guest's NIC
    Detach {
        /// The guest's first NIC, or with .N another one: GUEST.1 is the second
        #[arg(value_name = "GUEST[.N]")]
        nic: NicArgument,
    },
    /// Change a guest's addresses and published ports, live
    Set(Set),
    /// Tell the neighbours where an address is (gratuitous ARP, unsolicited neighbour advertisement)
    Announce {
        /// An address of a guest or of this host
        address: IpAddr,
    },
    /// Start a guest in its namespace: its hooks, and its first process until that ends
    Start {
        /// The guest
        #[arg(value_name = "GUEST[.N]")]
        nic: NicId,
        /// Its first process with its arguments
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "CMD")]
        command: Vec<std::ffi::OsString>,
    },
    /// Run a command inside an attached guest's network namespace, or inside a shared one
    Exec {
        /// The guest, one of its NICs, or a shared namespace
        #[arg(value_name = "GUEST[.N]|NAMESPACE")]
        nic: NicId,
        /// The command with its arguments
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "CMD")]
        command: Vec<std::ffi::OsString>,
    },
    /// Take everything of ours away: links, addresses, routes, filter; sysctls as they were
    Down,
    /// Close the host while the machine starts, before it has a network
    ///
    /// Puts the filter of what was applied last in place, without a change that nobody had confirmed, and lets nothing at
    /// all pass through the host until the daemon has made the rest. What comes to the host itself is not touched. A host
    /// that has a filter of ours already is left as it is, and so is one on which nothing was applied. The unit
    /// viaduct-boot.service runs this.
    Boot,
    /// Try whole hosts in namespaces of this machine; no real interface is touched
    #[command(subcommand)]
    Lab(Lab),
    /// Keep the host as it was made: repair what others change, and do what clients ask
    ///
    /// Runs until it is told to end, by SIGTERM. The network stays as it is then, as it does when it is killed, and the
    /// next one goes on from there. The unit viaduct.service runs this; it is told when the host is made, that this lives,
    /// and what was put right last.
    Daemon,
    /// Show what happens on the host, as the daemon sees it: changes, repairs, drops
    Events,
    /// Wait until the unconfirmed change's time is over, and take it back; started by `apply --confirm`
    #[command(name = guard::COMMAND, hide = true)]
    ReturnUnconfirmed,
    /// Answer guests, as the daemon says; started by it
    #[command(name = services::COMMAND, hide = true)]
    Services {
        /// The namespace that they are in, if not on the host.
        namespace: Option<NamespaceName>,
    },
    /// Carry vnets, as the daemon says; started by it
    #[command(name = vnets::COMMAND, hide = true)]
    CarryVnets,
    /// Have names of hosts looked up, for who carries vnets; started by it
    #[command(name = vnets::names::COMMAND, hide = true)]
    LookUpNames,
    /// Look up the name of a host, as NAME:PORT; started by the former
    #[command(name = vnets::names::ONE, hide = true)]
    LookUpName {
        /// NAME:PORT
        name: String,
    },
    /// Print this host's public key, by which other hosts know it
    ///
    /// The key pair is made when there is none. The key is what the other hosts' configurations have as `key` of this host.
    Identity,
    /// Ethernet segments that span hosts: make them, take them away, look at them
    #[command(subcommand)]
    Vnet(Vnet),
    /// The other hosts of vnets: make them known, forget them, look at them
    #[command(subcommand)]
    Peer(Peer),
    /// Make a configuration of other systems' files
    ///
    /// Prints a commented configuration, and on standard error what it could not carry over, with file and line. It reads
    /// nothing but what is named, and changes nothing.
    Import {
        /// Whose files they are; interfaces(5), dhcpd.conf, `iptables-save` output and scripts of iptables lines are read
        /// with each
        system: System,
        /// Files, or directories with everything below them
        #[arg(required = true)]
        paths: Vec<PathBuf>,
    },
    /// Print the JSON Schema of the configuration
    Schema {
        /// Describe the daemon's API instead (OpenAPI)
        #[arg(long)]
        api: bool,
    },
    /// Print a completion script
    Completions {
        /// For which shell
        shell: Shell,
    },
    /// Write the man pages, one per command
    Man {
        /// Where to
        directory: PathBuf,
    },
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(crate) enum System {
    /// Linux-VServer: /etc/vservers
    Vserver,
    /// OpenVZ: /etc/vz/vz.conf and the containers' CTID.conf
    Openvz,
    /// Xen: xend-config.sxp and the domains' files
    Xen,
    /// /etc/network/interfaces
    Ifupdown,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Vnet {
    /// Make a vnet; it stays, also over a reboot, until `vnet delete`
    ///
    /// The file is one of Xen's: (vnet (id 97) (bridge vnet97) (vnetif vnif97) (security conf)). Every peer that is known
    /// may belong to the vnet. Devices of any kind can be put into its bridge.
    Create(VnetCreate),
    /// Take away a vnet that `vnet create` made
    Delete {
        /// Its id, or its name
        vnet: String,
    },
    /// List the vnets
    List {
        /// With their members, and what was carried and dropped
        #[arg(short, long)]
        long: bool,
        /// Only these, by id or name
        vnets: Vec<String>,
    },
    /// Show one vnet
    Show {
        /// Its id, or its name
        vnet: String,
    },
    /// Show where the NICs of a vnet are
    Macs {
        /// Its id, or its name
        vnet: String,
    },
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("what").required(true))]
pub(crate) struct VnetCreate {
    /// A file as `xm vnet-create` took it
    #[arg(group = "what", value_name = "FILE.sxp")]
    pub(crate) file: Option<PathBuf>,
    /// The id: up to four hex digits, or up to eight groups of them
    #[arg(long, group = "what")]
    pub(crate) id: Option<String>,
    /// The bridge; `vnet` and the id otherwise
    #[arg(long, requires = "id", value_name = "NAME")]
    pub(crate) bridge: Option<IfName>,
    /// The device that leads to the other hosts; `vnif` and the id otherwise
    #[arg(long, requires = "id", value_name = "NAME")]
    pub(crate) interface: Option<IfName>,
    /// conf, auth or none; conf unless written
    #[arg(long, requires = "id", value_name = "LEVEL", value_parser = ["conf", "auth", "none"])]
    pub(crate) security: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Peer {
    /// Make another host known; it stays, also over a reboot, until `peer delete`
    Add {
        /// Its name
        name: PeerName,
        /// Where it may be: ADDRESS:PORT or NAME:PORT, several allowed; without one it has to dial this host
        #[arg(long, value_name = "ENDPOINT")]
        endpoint: Vec<String>,
        /// Its public key, as `viaduct identity` prints it there
        #[arg(long)]
        key: HostKey,
    },
    /// Forget a host that `peer add` made known
    Delete {
        /// Its name
        name: PeerName,
    },
    /// List the other hosts
    List,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Lab {
    /// Build a lab, check what its lab.toml expects with real packets, and take it away
    Run {
        /// The directory with lab.toml and the hosts' configurations
        directory: PathBuf,
        /// Check only expectations that contain this text
        #[arg(long, value_name = "TEXT")]
        only: Option<String>,
        /// Leave the lab up afterwards
        #[arg(long)]
        keep: bool,
        /// Print every expectation with its result, not only the table and what fails
        #[arg(long)]
        all: bool,
    },
    /// Build a lab and leave it up
    Up {
        /// The directory with lab.toml and the hosts' configurations
        directory: PathBuf,
    },
    /// End a lab that is up
    Down {
        /// Its name; needed when several are up
        name: Option<String>,
    },
    /// List the labs that are up
    List,
    /// Run a command on a machine of a lab that is up; `viaduct` is the host's own there
    Exec {
        /// The lab's name; needed when several are up
        #[arg(long, value_name = "NAME")]
        lab: Option<String>,
        /// The host, guest or outside machine
        machine: String,
        /// The command with its arguments
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "CMD")]
        command: Vec<std::ffi::OsString>,
    },
}

/// A NIC as it was written: by its guest, if it is the first one.
#[derive(Clone, Debug)]
pub(crate) struct NicArgument {
    pub(crate) id: NicId,
    pub(crate) is_guest: bool,
}

impl FromStr for NicArgument {
    type Err = ParseNicIdError;

    fn from_str(s: &str) -> Result<Self, ParseNicIdError> {
        let id: NicId = s.parse()?;
        Ok(Self { is_guest: id.guest.as_str() == s, id })
    }
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("target").required(true))]
pub(crate) struct Attach {
    /// The guest's first NIC, or with .N another one: GUEST.1 is the second
    #[arg(value_name = "GUEST[.N]")]
    pub(crate) nic: NicArgument,
    /// A network namespace, by its name under /run/netns or its path
    #[arg(long, group = "target", value_name = "NAME|PATH")]
    pub(crate) netns: Option<String>,
    /// The network namespace of a process
    #[arg(long, group = "target")]
    pub(crate) pid: Option<u32>,
    /// A persistent tap, made for the purpose; named like the guest's link unless a name is given
    #[arg(long, group = "target", value_name = "NAME", num_args = 0..=1)]
    pub(crate) tap: Option<Option<IfName>>,
    /// A device that exists (Xen's vifX.Y, libvirt's vnetN)
    #[arg(long, group = "target", value_name = "IF")]
    pub(crate) device: Option<IfName>,
    /// The user who may open the tap, by name or number
    #[arg(long, requires = "tap", value_name = "USER")]
    pub(crate) owner: Option<String>,
    /// Of a vnet: silent until `viaduct activate`, or until the guest says that it has arrived
    #[arg(long)]
    pub(crate) prepare: bool,
}

#[derive(Clone, Debug, Args)]
#[command(group = ArgGroup::new("change").required(true).multiple(true))]
pub(crate) struct Set {
    /// The guest; addresses are those of its first NIC, or with .N of another one: GUEST.1 is the second
    #[arg(value_name = "GUEST[.N]")]
    pub(crate) nic: NicId,
    /// Give the NIC one more address
    #[arg(long, group = "change", value_name = "ADDRESS")]
    pub(crate) address_add: Vec<Address>,
    /// Take an address from the NIC
    #[arg(long, group = "change", value_name = "ADDRESS")]
    pub(crate) address_del: Vec<Address>,
    /// Make a port of the guest reachable: [ADDRESS:]HOST-PORT:GUEST-PORT[/PROTO]
    #[arg(long, group = "change", value_name = "PUBLISH")]
    pub(crate) publish: Vec<Publish>,
    /// Make it reachable no longer
    #[arg(long, group = "change", value_name = "PUBLISH")]
    pub(crate) unpublish: Vec<Publish>,
    /// Write it into the configuration file, too, with comments and order kept; otherwise it lasts until `apply`
    #[arg(long)]
    pub(crate) save: bool,
}

/// How long an unconfirmed change may stay. Less than a second is over before anybody can confirm; a day is what nobody
/// waits for.
fn confirm_time(text: &str) -> Result<Duration, String> {
    const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);
    let plain = text.parse().map(Duration::from_secs);
    let time =
        plain.or_else(|_| humantime::parse_duration(text)).map_err(|_| "write a time like 60s or 5m")?;
    if (Duration::from_secs(1)..=LONGEST).contains(&time) {
        Ok(time)
    } else {
        Err("write a time from 1s to 24h".to_owned())
    }
}
