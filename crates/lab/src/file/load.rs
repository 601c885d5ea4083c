use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Display,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use toml::Spanned;
use viaduct_model::nearest;
use viaduct_types::{GuestName, IfName, IpNet, NicId, Proto};

use super::{
    Do, Expectation, FILE, Interface, Lab, Machine, Name, Problems, Role, Route, Step, Switch, raw,
    values::{CONFIG, delay, listen, route, sources},
};
use crate::{
    LabError,
    sentence::{self, Sentence},
    suggest::list,
};

/// Words that sentences begin or end with.
const RESERVED: [&str; 2] = ["nobody", "frames"];

impl Lab {
    /// Reads the `lab.toml` of a directory.
    ///
    /// # Errors
    /// When it cannot be read, or with everything that is wrong in it.
    pub fn load(dir: &Path) -> Result<Self, LabError> {
        let read = |path: &Path, source| LabError::Read { path: path.to_owned(), source };
        let dir = dir.canonicalize().map_err(|e| read(dir, e))?;
        let file = dir.join(FILE);
        let text = std::fs::read_to_string(&file).map_err(|e| read(&file, e))?;
        Self::parse(&dir, &text).map_err(LabError::Wrong)
    }

    /// What a file's text says; the directory is the one it lies in.
    ///
    /// # Errors
    /// Everything that is wrong in it.
    pub fn parse(dir: &Path, text: &str) -> Result<Self, Problems> {
        let mut problems = Problems::new(dir.join(FILE).to_string_lossy(), text);
        let file: raw::File = toml::from_str(text).map_err(|e| form(&mut problems, &e))?;
        let mut loader = Loader { problems, lab: Self::empty(dir), places: BTreeMap::new() };
        loader.switches(file.switches);
        loader.machines(file.machines);
        loader.hosts(file.hosts);
        loader.guests(file.guests);
        loader.steps(file.steps);
        loader.listen_where_nobody_may_get();
        if loader.problems.is_empty() { Ok(loader.lab) } else { Err(loader.problems) }
    }

    fn empty(dir: &Path) -> Self {
        Self {
            name: dir
                .file_name()
                .map_or_else(|| "lab".to_owned(), |name| name.to_string_lossy().into_owned()),
            dir: dir.to_owned(),
            switches: BTreeMap::new(),
            machines: BTreeMap::new(),
            configs: BTreeMap::new(),
            steps: Vec::new(),
        }
    }
}

/// serde's own complaint, with the nearest of the keys that it lists.
fn form(problems: &mut Problems, error: &toml::de::Error) -> Problems {
    let message = error.message();
    let mut words = message.split('`').skip(1).step_by(2);
    let wrong = words.next().unwrap_or_default();
    let help = match nearest(wrong, words) {
        Some(known) if message.starts_with("unknown field") => format!("did you mean `{known}`?"),
        _ => String::new(),
    };
    problems.push(error.span().unwrap_or(0..0), message, help);
    problems.clone()
}

struct Loader {
    problems: Problems,
    lab: Lab,
    /// Where each machine's or switch's name was written.
    places: BTreeMap<Name, std::ops::Range<usize>>,
}

impl Loader {
    fn switches(&mut self, switches: BTreeMap<Spanned<String>, raw::Switch>) {
        for (name, switch) in switches {
            let Some(name) = self.name(&name) else { continue };
            let delay = switch.delay.and_then(|delay| self.delay(&delay));
            let loss_percent = switch.loss_percent.map(|loss| {
                if !(0.0..=100.0).contains(loss.get_ref()) {
                    self.problems.push(loss.span(), "no percentage", "write a number from 0 to 100");
                }
                loss.into_inner()
            });
            self.lab.switches.insert(name, Switch { mtu: switch.mtu, delay, loss_percent });
        }
    }

    fn machines(&mut self, machines: BTreeMap<Spanned<String>, raw::Machine>) {
        for (name, machine) in machines {
            let Some(name) = self.name(&name) else { continue };
            let machine = Machine {
                role: Role::Outside,
                interfaces: self.interfaces(machine.interfaces),
                routes: self.routes(machine.routes),
                forwarding: machine.forwarding,
                listen: self.listen(machine.listen),
            };
            self.lab.machines.insert(name, machine);
        }
    }

    fn hosts(&mut self, hosts: BTreeMap<Spanned<String>, raw::Host>) {
        for (name, host) in hosts {
            let place = name.span();
            let Some(name) = self.name(&name) else { continue };
            let config =
                self.config(&name, &host.config.unwrap_or_else(|| Spanned::new(place, CONFIG.to_owned())));
            let machine = Machine {
                role: Role::Host { config },
                interfaces: self.interfaces(host.interfaces),
                routes: self.routes(host.routes),
                forwarding: false,
                listen: self.listen(host.listen),
            };
            self.lab.machines.insert(name, machine);
        }
    }

    fn guests(&mut self, guests: BTreeMap<Spanned<String>, raw::Guest>) {
        let hosts: Vec<Name> = self.lab.hosts().map(|(name, _)| name.clone()).collect();
        for (name, guest) in guests {
            let place = name.span();
            let Some(name) = self.name(&name) else { continue };
            let host = match (guest.host, &hosts[..]) {
                (Some(host), _) => self.known(&host, "host", &hosts),
                (None, [only]) => Some(only.clone()),
                (None, _) => {
                    let help = format!("write host = \"NAME\"; this lab has {}", list(&hosts));
                    self.problems.push(
                        place.clone(),
                        format!("which host `{name}` runs on is missing"),
                        help,
                    );
                    None
                }
            };
            let own = Spanned::new(place.clone(), name.to_string());
            let guest_name: Option<GuestName> = self.parsed(guest.guest.as_ref().unwrap_or(&own), "");
            let (Some(host), Some(guest_name)) = (host, guest_name) else { continue };
            let attach = if guest.attach { self.nics(&host, &guest_name, place) } else { Vec::new() };
            let machine = Machine {
                role: Role::Guest { host, guest: guest_name, attach },
                interfaces: BTreeMap::new(),
                routes: Vec::new(),
                forwarding: false,
                listen: self.listen(guest.listen),
            };
            self.lab.machines.insert(name, machine);
        }
    }

    fn nics(&mut self, host: &Name, guest: &GuestName, place: std::ops::Range<usize>) -> Vec<NicId> {
        // Without a configuration, that is the mistake to tell.
        let Some(config) = self.lab.configs.get(host) else { return Vec::new() };
        let Some(found) = config.guests.get(guest) else {
            let help = match nearest(guest.as_str(), config.guests.keys().map(GuestName::as_str)) {
                Some(known) => format!("did you mean `{known}`?"),
                None => format!(
                    "it has {}; `attach = false` for one that comes later",
                    list(config.guests.keys())
                ),
            };
            self.problems.push(place, format!("`{guest}` is no guest in {host}'s configuration"), help);
            return Vec::new();
        };
        (0..).take(found.nics.len()).map(|index| NicId { guest: guest.clone(), index }).collect()
    }

    fn steps(&mut self, steps: Vec<raw::Step>) {
        let machines: BTreeSet<Name> = self.lab.machines.keys().cloned().collect();
        let switches: BTreeSet<Name> = self.lab.switches.keys().cloned().collect();
        for step in steps {
            let commands = step.commands.0.into_iter().filter_map(|text| self.command(&text)).collect();
            let mut expectations = Vec::new();
            for text in step.expect.0 {
                match sentence::parse(text.get_ref(), &machines, &switches) {
                    Ok(sentence) => expectations.push(Expectation {
                        sentence,
                        line: self.problems.line(text.span().start),
                        text: text.into_inner(),
                    }),
                    Err(e) => {
                        // One quotation mark stands before the sentence; escapes would only move the mark a little.
                        let start = text.span().start + 1;
                        self.problems.push(start + e.at.start..start + e.at.end, e.message, e.help);
                    }
                }
            }
            self.lab.steps.push(Step { because: step.because, commands, expectations });
        }
    }

    /// That a port cannot be reached says nothing if nobody answers there: whoever cannot be reached does listen.
    fn listen_where_nobody_may_get(&mut self) {
        for expectation in self.lab.steps.iter().flat_map(|step| &step.expectations) {
            if let Sentence::Reach(reach) = &expectation.sentence
                && !reach.reaches
                && let Some(to) = &reach.to
                && let Some(service) = reach.at.and_then(|at| at.service)
                && let Some(machine) = self.lab.machines.get_mut(to)
            {
                machine.listen.insert(service);
            }
        }
    }

    /// A new name for a machine or a switch.
    fn name(&mut self, text: &Spanned<String>) -> Option<Name> {
        let name: Name = self.parsed(text, "letters, digits, `-` and `_`")?;
        if RESERVED.contains(&name.as_str()) {
            self.problems.push(
                text.span(),
                format!("`{name}` is a word of the sentences"),
                "call it otherwise",
            );
        }
        if let Some(first) = self.places.insert(name.clone(), text.span()) {
            let line = self.problems.line(first.start);
            let message = format!("`{name}` is also the name of what stands in line {line}");
            self.problems.push(
                text.span(),
                message,
                "call one of them otherwise; a guest's `guest` can stay",
            );
        }
        Some(name)
    }

    fn interfaces(&mut self, raw: BTreeMap<Spanned<String>, raw::Interface>) -> BTreeMap<IfName, Interface> {
        let switches: Vec<Name> = self.lab.switches.keys().cloned().collect();
        let mut interfaces = BTreeMap::new();
        for (name, interface) in raw {
            let name = self.parsed(&name, "like eth0");
            let switch = self.known(&interface.switch, "switch", &switches);
            let addresses = interface.addresses.iter().filter_map(|a| self.prefixed(a)).collect();
            let gateways =
                interface.gateways.iter().filter_map(|g| self.parsed(g, "like 203.0.113.1")).collect();
            let mac = interface.mac.and_then(|mac| self.parsed(&mac, ""));
            let vlan = interface.vlan.map(|vlan| {
                if !(1..=4094).contains(vlan.get_ref()) {
                    self.problems.push(vlan.span(), "no VLAN", "write a number from 1 to 4094");
                }
                vlan.into_inner()
            });
            if let (Some(name), Some(switch)) = (name, switch) {
                interfaces.insert(name, Interface { switch, addresses, gateways, mac, vlan });
            }
        }
        interfaces
    }

    fn routes(&mut self, routes: Vec<Spanned<String>>) -> Vec<Route> {
        routes
            .iter()
            .filter_map(|text| {
                let route = route(text.get_ref());
                if route.is_none() {
                    let help = "write `PREFIX via ADDRESS`, `PREFIX dev INTERFACE` or `PREFIX via ADDRESS dev INTERFACE`";
                    self.problems.push(text.span(), "no route", help);
                }
                route
            })
            .collect()
    }

    fn listen(&mut self, services: Vec<Spanned<String>>) -> BTreeSet<(u16, Proto)> {
        let mut all = BTreeSet::new();
        for text in services {
            match listen(text.get_ref()) {
                Ok(services) => all.extend(services),
                Err(message) => self.problems.push(text.span(), message, "like 443/tcp or 5060-5070/udp"),
            }
        }
        all
    }

    fn config(&mut self, host: &Name, config: &Spanned<String>) -> PathBuf {
        let path = self.lab.dir.join(config.get_ref());
        match sources(&path) {
            Ok(sources) => match viaduct_model::load(&sources) {
                Ok(loaded) => {
                    self.lab.configs.insert(host.clone(), loaded.config);
                }
                Err(diagnostics) => self.problems.push_diagnostics(diagnostics),
            },
            Err(e) => {
                let message = format!("cannot read {}: {e}", path.display());
                let help = "`config` is a file or directory, seen from the lab's directory";
                self.problems.push(config.span(), message, help);
            }
        }
        path
    }

    fn command(&mut self, text: &Spanned<String>) -> Option<Do> {
        let machines: Vec<Name> = self.lab.machines.keys().cloned().collect();
        let Some((machine, command)) = text.get_ref().split_once(':') else {
            self.problems.push(text.span(), "no command of a machine", "write `MACHINE: COMMAND`");
            return None;
        };
        let start = text.span().start + 1;
        let machine = Spanned::new(start..start + machine.len(), machine.to_owned());
        Some(Do {
            text: text.get_ref().clone(),
            machine: self.known(&machine, "machine", &machines)?,
            command: command.trim().to_owned(),
            line: self.problems.line(text.span().start),
        })
    }

    fn delay(&mut self, text: &Spanned<String>) -> Option<Duration> {
        let delay = delay(text.get_ref());
        if delay.is_none() {
            self.problems.push(text.span(), "no delay", "like 20ms");
        }
        delay
    }

    fn prefixed(&mut self, text: &Spanned<String>) -> Option<IpNet> {
        self.parsed(text, "an interface's address has a prefix length, like 203.0.113.10/24")
    }

    fn known(&mut self, text: &Spanned<String>, kind: &str, known: &[Name]) -> Option<Name> {
        if let Some(name) = known.iter().find(|name| name.as_str() == text.get_ref()) {
            return Some(name.clone());
        }
        let help = match nearest(text.get_ref(), known.iter().map(|name| name.as_str())) {
            Some(name) => format!("did you mean `{name}`?"),
            None => format!("this lab has {}", list(known)),
        };
        self.problems.push(text.span(), format!("`{}` is no {kind} of this lab", text.get_ref()), help);
        None
    }

    fn parsed<T: FromStr<Err: Display>>(&mut self, text: &Spanned<String>, help: &str) -> Option<T> {
        match text.get_ref().parse() {
            Ok(value) => Some(value),
            Err(e) => {
                self.problems.push(text.span(), format!("`{}`: {e}", text.get_ref()), help);
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
        [switches.internet]
        mtu = 1400
        [machines.client]
        interfaces.eth0 = { switch = "internet", addresses = ["198.51.100.7/24"], gateways = ["198.51.100.1"] }
        routes = ["203.0.113.0/24 via 198.51.100.2"]
        [hosts.ve0]
        config = "viaduct.toml"
        interfaces.eth0 = { switch = "internet", addresses = ["198.51.100.2/24"], mac = "02:00:00:00:00:02" }
        [guests.web]
        listen = ["80/tcp", "5060-5061/udp"]
        [guests.idle]
        guest = "other"
        attach = false
        [[steps]]
        because = "one"
        expect = "client reaches web at 198.51.100.2:80/tcp"
        [[steps]]
        do = ["ve0: viaduct plan"]
        expect = ["client cannot reach web at 198.51.100.2:22/tcp", "client reaches ve0"]
    "#;

    fn load(text: &str) -> Result<Lab, Problems> {
        Lab::parse(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/labs/small"), text)
    }

    #[test]
    fn a_whole_file() {
        let lab = load(GOOD).unwrap();
        let name = |s: &str| s.parse::<Name>().unwrap();
        assert_eq!(lab.hosts().count(), 1);
        let guests: Vec<_> =
            lab.guests_of(&name("ve0").clone()).map(|(n, nics)| (n.to_string(), nics.len())).collect();
        assert_eq!(guests, [("idle".to_owned(), 0), ("web".to_owned(), 1)]);
        let listen = &lab.machines[&name("web")].listen;
        assert!(listen.contains(&(5061, Proto::Udp)));
        assert!(listen.contains(&(22, Proto::Tcp)), "whoever cannot be reached does listen");
        assert_eq!(lab.steps[1].commands[0].command, "viaduct plan");
        assert_eq!(lab.steps[1].expectations[1].line, 20);
    }

    #[test]
    fn every_mistake_is_shown_at_its_place() {
        for (from, to, place, help) in [
            ("mtu =", "mtv =", ":3:9", "did you mean `mtu`?"),
            (
                r#"{ switch = "internet", addresses = ["198.51.100.7"#,
                r#"{ switch = "intarnet", addresses = ["198.51.100.7"#,
                ":5:38",
                "did you mean `internet`?",
            ),
            ("198.51.100.7/24", "198.51.100.7", ":5:63", "prefix length"),
            ("gateways = [", "vlan = 4095, gateways = [", ":5:90", "from 1 to 4094"),
            ("via 198.51.100.2", "through x", ":6:19", "PREFIX via ADDRESS"),
            (
                r#"config = "viaduct.toml""#,
                r#"config = "nothing.toml""#,
                ":8:18",
                "seen from the lab's directory",
            ),
            ("80/tcp\"", "80/tpc\"", ":11:19", "443/tcp"),
            ("[guests.web]", "[guests.client]", ":10:17", "call one of them otherwise"),
            ("[guests.web]", "[guests.nobody]", ":10:17", "call it otherwise"),
            ("[guests.web]", "[guests.wep]", ":10:17", "did you mean `web`?"),
            ("client reaches web", "client reaches wep", ":17:34", "did you mean `web`?"),
            ("ve0: viaduct", "veO: viaduct", ":19:16", "did you mean `ve0`?"),
        ] {
            let text = GOOD.replacen(from, to, 1);
            assert_ne!(text, GOOD);
            let problems = load(&text).unwrap_err().to_string();
            assert!(problems.contains(&format!("lab.toml{place}")), "{from}: {problems}");
            assert!(problems.contains(help), "{from}: {problems}");
        }
    }

    #[test]
    fn all_mistakes_are_shown_at_once() {
        let text = GOOD.replace("client reaches", "clientt reaches").replace("80/tcp\"", "80\"");
        let problems = load(&text).unwrap_err().to_string();
        assert_eq!(problems.matches("error:").count(), 3, "{problems}");
    }

    #[test]
    fn the_examples_load() {
        let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples");
        let dirs = std::fs::read_dir(examples).unwrap().map(|entry| entry.unwrap().path());
        let labs: Vec<_> = dirs.filter(|dir| dir.join(FILE).exists()).map(|dir| Lab::load(&dir)).collect();
        assert!(labs.len() >= 5);
        for lab in labs {
            assert!(lab.as_ref().is_ok_and(|lab| !lab.steps.is_empty()), "{}", lab.unwrap_err());
        }
    }

    #[test]
    fn a_guest_says_where_it_runs_when_there_are_two_hosts() {
        let text = GOOD.replace("[guests.web]", "[hosts.ve1]\nconfig = \"viaduct.toml\"\n[guests.web]");
        let problems = load(&text).unwrap_err().to_string();
        assert!(problems.contains("which host `web` runs on is missing"), "{problems}");
    }
}
