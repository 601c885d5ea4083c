use std::{collections::BTreeSet, fmt::Display, net::IpAddr, ops::Range};

use viaduct_model::nearest;
use viaduct_types::{MacAddr, Proto};

use super::{
    Asker, Forge, Forgery, Frames, Heard, Reach, Resolve, Run, Sentence, SentenceError, Target, Then, Wrap,
    words::{Word, Words},
};
use crate::{file::Name, suggest::list};

const VERBS: [&str; 10] = [
    "reaches",
    "cannot reach",
    "resolves",
    "runs",
    "sending",
    "answering ARP for",
    "answering ND for",
    "probing",
    "serving DHCP",
    "advertising a router",
];

/// Reads one sentence that speaks of these machines and switches.
///
/// # Errors
/// Says which of its words cannot stand there, and what can.
pub fn parse(
    text: &str,
    machines: &BTreeSet<Name>,
    switches: &BTreeSet<Name>,
) -> Result<Sentence, SentenceError> {
    let mut parser = Parser { words: Words::new(text)?, machines, switches };
    let sentence = parser.sentence()?;
    match parser.words.peek() {
        None => Ok(sentence),
        Some(_) => {
            Err(wrong(parser.words.rest(), "the sentence should have ended here", "leave the rest out"))
        }
    }
}

struct Parser<'t> {
    words: Words<'t>,
    machines: &'t BTreeSet<Name>,
    switches: &'t BTreeSet<Name>,
}

type Parsed<T> = Result<T, SentenceError>;

fn wrong(at: Range<usize>, message: impl Into<String>, help: impl Into<String>) -> SentenceError {
    SentenceError { at, message: message.into(), help: help.into() }
}

impl<'t> Parser<'t> {
    fn sentence(&mut self) -> Parsed<Sentence> {
        if self.words.accept("nobody answers for") {
            let address = self.address()?;
            self.expect("on")?;
            let asker = Asker::SomebodyOn(self.switch()?);
            return Ok(Sentence::Resolve(Resolve { asker, address, to: None }));
        }
        if self.words.accept("frames of") {
            let of = self.address()?;
            self.expect("on")?;
            let on = self.name_among("machine or switch", self.machines.iter().chain(self.switches))?;
            self.expect("carry")?;
            let carry = self.mac()?;
            let vlan = if self.words.accept("in VLAN") { Some(self.vlan()?) } else { None };
            return Ok(Sentence::Frames(Frames { of, on, carry, vlan }));
        }
        let from = self.machine()?;
        let source = if self.words.accept("at") { Some(self.address()?) } else { None };
        if self.words.accept("reaches") {
            return self.reach(from, source, true);
        }
        if self.words.accept("cannot reach") {
            return self.reach(from, source, false);
        }
        if source.is_none() {
            if self.words.accept("resolves") {
                return self.resolve(from);
            }
            if self.words.accept("runs") {
                return self.run(from);
            }
            if let Some(what) = self.forgery()? {
                return self.forge(from, what);
            }
        }
        let at = self.words.place();
        let verb = self.words.peek().map_or("", |word| word.text);
        let known = if source.is_some() { &VERBS[..2] } else { &VERBS[..] };
        let help = match nearest(verb, known.iter().copied()) {
            Some(known) => format!("did you mean `{known}`?"),
            None => format!("write {}", list(known)),
        };
        Err(wrong(at, format!("what {from} does is missing"), help))
    }

    fn reach(&mut self, from: Name, source: Option<IpAddr>, reaches: bool) -> Parsed<Sentence> {
        let goal = self.words.rest();
        let bare = self.words.peek().is_some_and(|word| looks_like_an_address(word.text));
        let (to, at) = if bare {
            (None, Some(self.target()?))
        } else {
            let to = self.machine()?;
            let at = if self.words.accept("at") { Some(self.target()?) } else { None };
            (Some(to), at)
        };
        let place = self.words.place();
        let seen_as = if self.words.accept("as") { Some(self.address()?) } else { None };
        if seen_as.is_some() && !reaches {
            return Err(wrong(place, "who reaches nobody is seen by nobody", "leave `as` out"));
        }
        if seen_as.is_some() && to.is_none() {
            return Err(wrong(
                place,
                "which machine sees the client is missing",
                "write `reaches MACHINE at ADDRESS … as ADDRESS`",
            ));
        }
        if let (Some(source), Some(at)) = (source, at)
            && source.is_ipv4() != at.address.is_ipv4()
        {
            let message = format!("{source} and {} are of different families", at.address);
            return Err(wrong(goal, message, "use two addresses of one family"));
        }
        Ok(Sentence::Reach(Reach { from, source, reaches, to, at, seen_as }))
    }

    fn resolve(&mut self, from: Name) -> Parsed<Sentence> {
        let address = self.address()?;
        self.expect("to")?;
        let to = if self.words.accept("nobody") { None } else { Some(self.mac()?) };
        Ok(Sentence::Resolve(Resolve { asker: Asker::Machine(from), address, to }))
    }

    fn run(&mut self, machine: Name) -> Parsed<Sentence> {
        let command = self.quotation("a command")?;
        self.expect("and")?;
        let then = if self.words.accept("sees") {
            Then::Sees(self.quotation("a text")?)
        } else if self.words.accept("does not see") {
            Then::DoesNotSee(self.quotation("a text")?)
        } else if self.words.accept("fails") {
            Then::Fails
        } else if self.words.accept("succeeds") {
            Then::Succeeds
        } else {
            let help = "write `sees \"TEXT\"`, `does not see \"TEXT\"`, `fails` or `succeeds`";
            return Err(wrong(self.words.place(), "what comes of the command is missing", help));
        };
        Ok(Sentence::Run(Run { machine, command, then }))
    }

    fn forgery(&mut self) -> Parsed<Option<Forgery>> {
        if self.words.accept("sending") {
            let address = if self.words.accept("as") { Some(self.address()?) } else { None };
            let mac = if self.words.accept("from") { Some(self.mac()?) } else { None };
            return Ok(Some(Forgery::Packets { address, mac }));
        }
        for (phrase, v4) in [("answering ARP for", true), ("answering ND for", false)] {
            if self.words.accept(phrase) {
                let place = self.words.place();
                let address = self.address()?;
                if address.is_ipv4() != v4 {
                    let help = "`answering ARP for` takes an IPv4 address, `answering ND for` an IPv6 one";
                    return Err(wrong(place, format!("{address} is of the other family"), help));
                }
                return Ok(Some(Forgery::Claim(address)));
            }
        }
        if self.words.accept("probing") {
            return Ok(Some(Forgery::Probe(self.address()?)));
        }
        if self.words.accept("serving DHCP") {
            return Ok(Some(Forgery::DhcpServer));
        }
        Ok(self.words.accept("advertising a router").then_some(Forgery::Router))
    }

    fn forge(&mut self, from: Name, what: Forgery) -> Parsed<Sentence> {
        let wrap = self.wrap(what)?;
        let heard = if self.words.accept("is not heard by") {
            Heard::NotBy(self.several_machines()?)
        } else {
            self.expect("is heard by")?;
            if self.words.accept("nobody") { Heard::ByNobody } else { Heard::By(self.several_machines()?) }
        };
        Ok(Sentence::Forge(Forge { from, what, wrap, heard }))
    }

    fn wrap(&mut self, what: Forgery) -> Parsed<Wrap> {
        let place = self.words.place();
        if !self.words.accept("in") {
            return Ok(Wrap::Plain);
        }
        if self.words.accept("fragments") {
            // An ARP packet has no fragments, and the rest is told apart by what it begins with.
            return match what {
                Forgery::Packets { .. } => Ok(Wrap::Fragments),
                Forgery::Claim(_) | Forgery::Probe(_) | Forgery::DhcpServer | Forgery::Router => {
                    Err(wrong(place, "this cannot be cut in fragments", "only `sending` can"))
                }
            };
        }
        if self.words.accept("double tags") {
            return Ok(Wrap::DoubleTags);
        }
        if self.words.accept("VLAN") {
            return self.vlan().map(Wrap::Vlan);
        }
        Err(wrong(
            self.words.place(),
            "how it is packed is missing",
            "write `fragments`, `VLAN 5` or `double tags`",
        ))
    }

    fn vlan(&mut self) -> Parsed<u16> {
        let place = self.words.place();
        match self.words.take().and_then(|word| word.text.parse().ok()) {
            Some(id @ 1..=4094) => Ok(id),
            _ => Err(wrong(place, "a VLAN is a number from 1 to 4094", "like `in VLAN 5`")),
        }
    }

    fn expect(&mut self, phrase: &str) -> Parsed<()> {
        if self.words.accept(phrase) {
            return Ok(());
        }
        Err(wrong(self.words.place(), format!("`{phrase}` is missing"), format!("write `{phrase}` here")))
    }

    fn several_machines(&mut self) -> Parsed<Vec<Name>> {
        let mut machines = vec![self.machine()?];
        while self.words.accept("and") {
            machines.push(self.machine()?);
        }
        Ok(machines)
    }

    fn machine(&mut self) -> Parsed<Name> {
        self.name_among("machine", self.machines.iter())
    }

    fn switch(&mut self) -> Parsed<Name> {
        self.name_among("switch", self.switches.iter())
    }

    fn name_among(&mut self, kind: &str, known: impl Iterator<Item = &'t Name>) -> Parsed<Name> {
        let known: Vec<&Name> = known.collect();
        let word = self.word(kind)?;
        if let Some(name) = known.iter().find(|name| name.as_str() == word.text) {
            return Ok((*name).clone());
        }
        let help = match nearest(word.text, known.iter().map(|name| name.as_str())) {
            Some(name) => format!("did you mean `{name}`?"),
            None => format!("this lab has {}", list(&known)),
        };
        Err(wrong(word.at, format!("`{}` is no {kind} of this lab", word.text), help))
    }

    fn address(&mut self) -> Parsed<IpAddr> {
        let word = self.word("address")?;
        word.text.parse().map_err(|_| {
            wrong(word.at, format!("`{}` is no IP address", word.text), "like 203.0.113.10 or 2001:db8::10")
        })
    }

    fn mac(&mut self) -> Parsed<MacAddr> {
        let word = self.word("MAC address")?;
        let no_mac = |e: &dyn Display| {
            wrong(word.at.clone(), format!("`{}` is no MAC address", word.text), e.to_string())
        };
        word.text.parse().map_err(|e| no_mac(&e))
    }

    fn target(&mut self) -> Parsed<Target> {
        let word = self.word("address")?;
        target(word.text).map_err(|(message, help)| wrong(word.at, message, help))
    }

    fn quotation(&mut self, what: &str) -> Parsed<String> {
        let place = self.words.place();
        match self.words.take() {
            Some(Word { text, quoted: true, .. }) => Ok(text.to_owned()),
            _ => Err(wrong(
                place,
                format!("{what} in quotation marks is missing"),
                "like \"ip route show default\"",
            )),
        }
    }

    fn word(&mut self, kind: &str) -> Parsed<Word<'t>> {
        let place = self.words.place();
        self.words.take().ok_or_else(|| {
            wrong(
                place,
                format!("the {kind} is missing"),
                format!(
                    "write one, this lab has {}",
                    match kind {
                        "switch" => list(self.switches),
                        _ => list(self.machines),
                    }
                ),
            )
        })
    }
}

fn looks_like_an_address(text: &str) -> bool {
    text.starts_with('[')
        || target(text).is_ok()
        || text.split(':').next().is_some_and(|t| t.parse::<IpAddr>().is_ok())
}

/// `ADDRESS`, `ADDRESS:PORT/PROTOCOL` or `[ADDRESS]:PORT/PROTOCOL`.
fn target(text: &str) -> Result<Target, (String, String)> {
    if let Ok(address) = text.parse() {
        return Ok(Target { address, service: None });
    }
    let form = || {
        let help = "write ADDRESS, ADDRESS:PORT/PROTOCOL or, in IPv6, [ADDRESS]:PORT/PROTOCOL";
        (format!("`{text}` is nothing that can be reached"), help.to_owned())
    };
    let (address, service) = text.rsplit_once(':').ok_or_else(form)?;
    let address = match address.strip_prefix('[').and_then(|a| a.strip_suffix(']')) {
        Some(v6) => IpAddr::V6(v6.parse().map_err(|_| form())?),
        None => IpAddr::V4(address.parse().map_err(|_| form())?),
    };
    let service = service_of(service).map_err(|message| (message, "like 443/tcp or 53/udp".to_owned()))?;
    Ok(Target { address, service: Some(service) })
}

fn service_of(text: &str) -> Result<(u16, Proto), String> {
    let (port, proto) = text.split_once('/').ok_or_else(|| format!("`{text}` names no protocol"))?;
    let port = port.parse().ok().filter(|&port| port > 0).ok_or_else(|| format!("`{port}` is no port"))?;
    match proto.parse() {
        Ok(proto @ (Proto::Tcp | Proto::Udp)) => Ok((port, proto)),
        Ok(Proto::Sctp) => Err("a lab cannot speak SCTP".to_owned()),
        Err(e) => Err(e.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> BTreeSet<Name> {
        names.iter().map(|name| name.parse().unwrap()).collect()
    }

    fn read(text: &str) -> Parsed<Sentence> {
        parse(text, &names(&["client", "ldap", "mallory", "ve0"]), &names(&["internet"]))
    }

    #[test]
    fn every_form_is_read() {
        for text in [
            "client reaches ldap",
            "client reaches ldap at 203.0.113.10",
            "client reaches ldap at 203.0.113.10:389/tcp as 198.51.100.7",
            "client at 2001:db8::7 reaches ldap at [2001:db8::1]:53/udp",
            "client cannot reach ldap at 192.168.1.3:389/tcp",
            "client cannot reach 192.168.1.3:389/tcp",
            "client reaches 2001:db8::1",
            "ldap reaches ldap at 203.0.113.10:389/tcp as 192.168.1.1",
            "frames of 203.0.113.28 on internet carry 00:16:3e:00:00:28",
            "frames of 203.0.113.28 on internet carry 00:16:3e:00:00:28 in VLAN 2",
            "client resolves 203.0.113.28 to 00:16:3e:00:00:28",
            "client resolves 203.0.113.28 to nobody",
            "nobody answers for 2001:db8::29 on internet",
            r#"ve0 runs "ip route show default" and sees "via 203.0.113.1""#,
            r#"ve0 runs "false" and fails"#,
            "mallory sending is heard by client",
            "mallory sending as 192.168.1.4 is heard by nobody",
            "mallory sending as 192.168.1.4 from 02:00:00:00:00:01 in fragments is heard by nobody",
            "mallory sending from 02:00:00:00:00:01 in VLAN 5 is heard by client and ldap",
            "mallory answering ARP for 192.168.1.4 is heard by nobody",
            "mallory answering ND for fd00::4 in double tags is heard by nobody",
            "mallory probing fd00::4 is heard by nobody",
            "mallory probing 1.2.3.4 is heard by nobody",
            "mallory serving DHCP is heard by nobody",
            "mallory serving DHCP is not heard by client and ldap",
            "mallory advertising a router is heard by nobody",
        ] {
            assert!(read(text).is_ok(), "{text}: {:?}", read(text));
        }
    }

    #[test]
    fn a_sentence_is_what_it_says() {
        let sentence = read("client at 2001:db8::7 cannot reach ldap at [2001:db8::1]:389/tcp").unwrap();
        let expected = Reach {
            from: "client".parse().unwrap(),
            source: Some("2001:db8::7".parse().unwrap()),
            reaches: false,
            to: Some("ldap".parse().unwrap()),
            at: Some(Target { address: "2001:db8::1".parse().unwrap(), service: Some((389, Proto::Tcp)) }),
            seen_as: None,
        };
        assert_eq!(sentence, Sentence::Reach(expected));
    }

    #[test]
    fn errors_point_at_the_word_and_say_what_to_write() {
        for (text, at, help) in [
            ("clent reaches ldap", "clent", "did you mean `client`?"),
            ("client reachs ldap", "reachs", "did you mean `reaches`?"),
            ("client reaches ldap at 203.0.113.10:389", "203.0.113.10:389", "like 443/tcp or 53/udp"),
            (
                "client reaches ldap at 203.0.113.10:389/sctp",
                "203.0.113.10:389/sctp",
                "like 443/tcp or 53/udp",
            ),
            (
                "client reaches ldap at 2001:db8::x",
                "2001:db8::x",
                "write ADDRESS, ADDRESS:PORT/PROTOCOL or, in IPv6, [ADDRESS]:PORT/PROTOCOL",
            ),
            ("client reaches ldap quickly", "quickly", "leave the rest out"),
            ("client cannot reach ldap at 1.2.3.4:5/tcp as 1.1.1.1", "as", "leave `as` out"),
            ("nobody answers for 1.2.3.4 on ineternet", "ineternet", "did you mean `internet`?"),
            ("mallory sending as 1.2.3.4 is heard", "is", "write `is heard by` here"),
            ("frames of 1.2.3.4 on internet carry 00:16:3e:00:00:28 in VLAN 0", "0", "like `in VLAN 5`"),
            ("mallory sending in VLAN 4095 is heard by nobody", "4095", "like `in VLAN 5`"),
            (
                "mallory answering ARP for fd00::1 is heard by nobody",
                "fd00::1",
                "`answering ARP for` takes an IPv4 address, `answering ND for` an IPv6 one",
            ),
            (r#"ve0 runs "ip route and sees"#, r#""ip route and sees"#, "close it with \""),
            ("client reaches", "", "write one, this lab has `client`, `ldap`, `mallory` and `ve0`"),
        ] {
            let error = read(text).unwrap_err();
            assert_eq!((&text[error.at.clone()], error.help.as_str()), (at, help), "{text}: {error:?}");
        }
    }
}
