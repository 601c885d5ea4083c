use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query, ResponseCode},
    rr::{Name, RData, Record, RecordType, rdata},
};
use proptest::prelude::*;
use viaduct_plan::HostName;
use viaduct_types::IpNet;

use super::*;

const START: Duration = Duration::from_secs(1000);

fn head(domain: &str, alone: bool, prefixes: &[&str], servers: &[&str]) -> ZoneHead {
    ZoneHead {
        domain: domain.to_owned(),
        alone,
        prefixes: prefixes.iter().map(|prefix| prefix.parse::<IpNet>().unwrap()).collect(),
        servers: servers.iter().map(|server| server.parse().unwrap()).collect(),
        host: None,
    }
}

fn name(server: &mut Server, network: &NetworkName, guest: &str, addresses: &[&str]) {
    let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
    server.name(network, guest.parse().unwrap(), addresses);
}

/// Two networks; the first one's domain is its own, the other's has names outside, too, and servers of its own.
fn server() -> Server {
    let mut server = Server::default();
    let (lan, public) = (network("lan"), network("public"));
    server.zone(lan.clone(), Some(head("lan", true, &["10.0.0.0/24", "fd00::/64"], &[])));
    name(&mut server, &lan, "web", &["10.0.0.7", "fd00::7"]);
    name(&mut server, &lan, "a.deep", &["10.0.0.8"]);
    server.zone(public.clone(), Some(head("example.com", false, &[], &["192.0.2.1", "192.0.2.2"])));
    name(&mut server, &public, "Shop", &["203.0.113.7"]);
    server.serve(device("br-lan"), Some(lan));
    server.serve(device("vd1.0"), Some(public));
    server.host_servers(vec!["127.0.0.53:53".parse().unwrap()]);
    server
}

fn network(name: &str) -> NetworkName {
    name.parse().unwrap()
}

fn device(name: &str) -> IfName {
    name.parse().unwrap()
}

fn asker(name: &str) -> Asker {
    Asker { device: device(name), peer: "10.0.0.7:4000".parse().unwrap(), socket: 1, stream: false }
}

fn question(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(7, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

/// What comes of a message at once.
fn outputs(server: &mut Server) -> Vec<Output> {
    std::iter::from_fn(|| server.output()).collect()
}

#[track_caller]
fn only_answer(outputs: Vec<Output>) -> Message {
    let answers: Vec<Message> = answers(&outputs);
    assert_eq!(answers.len(), 1, "{outputs:?}");
    answers.into_iter().next().unwrap()
}

fn answers(outputs: &[Output]) -> Vec<Message> {
    let bytes = outputs.iter().filter_map(|output| match output {
        Output::Answer { bytes, .. } => Some(bytes),
        Output::Ask { .. } | Output::Over { .. } => None,
    });
    bytes.map(|bytes| Message::from_vec(bytes).unwrap()).collect()
}

/// Who was asked, for which exchange, and whether by a connection.
fn asks(outputs: &[Output]) -> Vec<(u64, String, bool, Message)> {
    let asks = outputs.iter().filter_map(|output| match output {
        Output::Ask { exchange, server, stream, bytes } => {
            Some((*exchange, server.to_string(), *stream, Message::from_vec(bytes).unwrap()))
        }
        Output::Answer { .. } | Output::Over { .. } => None,
    });
    asks.collect()
}

fn ask_by(server: &mut Server, now: Duration, by: &str, message: &Message) -> Vec<Output> {
    server.receive(now, asker(by), &message.to_vec().unwrap());
    outputs(server)
}

fn ask(server: &mut Server, by: &str, name: &str, kind: RecordType) -> Message {
    only_answer(ask_by(server, START, by, &question(name, kind)))
}

fn said(message: &Message) -> Vec<String> {
    message.answers.iter().map(|record| record.data.to_string()).collect()
}

/// What another server says to a question.
fn reply(to: &Message, code: ResponseCode, answers: Vec<Record>, authorities: Vec<Record>) -> Vec<u8> {
    let mut message = to.clone();
    message.metadata.message_type = MessageType::Response;
    message.metadata.recursion_available = true;
    message.metadata.response_code = code;
    message.answers = answers;
    message.authorities = authorities;
    message.to_vec().unwrap()
}

fn address(name: &str, ttl: u32, address: [u8; 4]) -> Record {
    Record::from_rdata(Name::from_ascii(name).unwrap(), ttl, RData::A(rdata::A(address.into())))
}

/// Guests whose names differ in nothing that counts have one name; the host has one unless that is a guest's.
#[test]
fn a_name_may_be_of_several_and_the_hosts_is_nobody_elses() {
    let mut server = server();
    let lan = network("lan");
    let host = HostName { name: "VE0".to_owned(), addresses: ["10.0.0.1".parse().unwrap()].into() };
    server.zone(lan.clone(), Some(ZoneHead { host: Some(host), ..head("lan", true, &["10.0.0.0/24"], &[]) }));
    let addresses = |server: &mut Server, name: &str| said(&ask(server, "br-lan", name, RecordType::A));
    let gateway =
        |server: &mut Server| said(&ask(server, "br-lan", "1.0.0.10.in-addr.arpa.", RecordType::PTR));
    assert_eq!(addresses(&mut server, "ve0.lan."), ["10.0.0.1"]);
    assert_eq!(gateway(&mut server), ["ve0.lan."]);
    name(&mut server, &lan, "ve0", &["10.0.0.9"]);
    name(&mut server, &lan, "Ve0", &["10.0.0.5"]);
    assert_eq!(addresses(&mut server, "ve0.lan."), ["10.0.0.5", "10.0.0.9"]);
    assert_eq!(gateway(&mut server), [""; 0]);
    name(&mut server, &lan, "ve0", &[]);
    assert_eq!(addresses(&mut server, "ve0.lan."), ["10.0.0.5"]);
    name(&mut server, &lan, "Ve0", &[]);
    assert_eq!(addresses(&mut server, "ve0.lan."), ["10.0.0.1"]);
    assert_eq!(gateway(&mut server), ["ve0.lan."]);
}

#[test]
fn guests_of_a_network_have_names_there() {
    let mut server = server();
    let answer = ask(&mut server, "br-lan", "WEB.lan.", RecordType::A);
    assert_eq!(
        (said(&answer), answer.metadata.response_code),
        (vec!["10.0.0.7".to_owned()], ResponseCode::NoError)
    );
    assert!(answer.metadata.authoritative && answer.metadata.recursion_available);
    assert_eq!(answer.metadata.id, 7);
    assert_eq!(answer.queries[0].name.to_string(), "WEB.lan.", "as it was asked");
    assert_eq!(said(&ask(&mut server, "br-lan", "web.lan.", RecordType::AAAA)), ["fd00::7"]);
    assert_eq!(said(&ask(&mut server, "br-lan", "a.deep.lan.", RecordType::A)), ["10.0.0.8"]);
    // Of a name that is there, with nothing, and of one that is not: for how long that is so.
    for (name, kind, code) in [
        ("web.lan.", RecordType::MX, ResponseCode::NoError),
        ("deep.lan.", RecordType::A, ResponseCode::NoError),
        ("lan.", RecordType::A, ResponseCode::NoError),
        ("other.lan.", RecordType::A, ResponseCode::NXDomain),
        ("www.web.lan.", RecordType::A, ResponseCode::NXDomain),
    ] {
        let answer = ask(&mut server, "br-lan", name, kind);
        assert_eq!((answer.metadata.response_code, said(&answer)), (code, Vec::new()), "{name}");
        assert_eq!(answer.authorities[0].record_type(), RecordType::SOA, "{name}");
    }
    // Gone.
    name(&mut server, &network("lan"), "web", &[]);
    assert_eq!(
        ask(&mut server, "br-lan", "web.lan.", RecordType::A).metadata.response_code,
        ResponseCode::NXDomain
    );
    let reverse = ask(&mut server, "br-lan", "7.0.0.10.in-addr.arpa.", RecordType::PTR);
    assert_eq!(reverse.metadata.response_code, ResponseCode::NXDomain);
}

#[test]
fn addresses_lead_back_to_names() {
    let mut server = server();
    assert_eq!(said(&ask(&mut server, "br-lan", "7.0.0.10.in-addr.arpa.", RecordType::PTR)), ["web.lan."]);
    let v6 = "7.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa.";
    assert_eq!(said(&ask(&mut server, "br-lan", v6, RecordType::PTR)), ["web.lan."]);
    let nobody = ask(&mut server, "br-lan", "9.0.0.10.in-addr.arpa.", RecordType::PTR);
    assert_eq!(nobody.metadata.response_code, ResponseCode::NXDomain);
    let part = ask(&mut server, "br-lan", "0.0.10.in-addr.arpa.", RecordType::PTR);
    assert_eq!((part.metadata.response_code, part.answers.len()), (ResponseCode::NoError, 0));
    // Larger than the network, and of somebody else: others know.
    for name in ["0.10.in-addr.arpa.", "1.2.0.192.in-addr.arpa."] {
        let outputs = ask_by(&mut server, START, "br-lan", &question(name, RecordType::PTR));
        assert_eq!(asks(&outputs).len(), 1, "{name}");
    }
}

#[test]
fn each_network_sees_its_own_names_only_and_nobody_outside_is_asked_for_them() {
    let mut server = server();
    for (name, kind) in [("web.lan.", RecordType::A), ("7.0.0.10.in-addr.arpa.", RecordType::PTR)] {
        let hidden = ask(&mut server, "vd1.0", name, kind);
        assert_eq!(
            (hidden.metadata.response_code, hidden.answers.len()),
            (ResponseCode::NXDomain, 0),
            "{name}"
        );
    }
    // Inside, a guest of a domain that is known outside has its own address; elsewhere it is asked for as ever.
    assert_eq!(said(&ask(&mut server, "vd1.0", "shop.example.com.", RecordType::A)), ["203.0.113.7"]);
    assert_eq!(said(&ask(&mut server, "vd1.0", "shop.example.com.", RecordType::AAAA)), Vec::<String>::new());
    for (by, name) in
        [("br-lan", "shop.example.com."), ("vd1.0", "www.example.com."), ("vd1.0", "example.com.")]
    {
        let outputs = ask_by(&mut server, START, by, &question(name, RecordType::A));
        let [(_, whom, false, asked)] = &asks(&outputs)[..] else { panic!("{outputs:?}") };
        assert_eq!(asked.queries[0].name.to_string(), name);
        assert_eq!(*whom, if by == "br-lan" { "127.0.0.53:53" } else { "192.0.2.1:53" });
    }
    // Where nobody is served, nobody is answered.
    assert_eq!(ask_by(&mut server, START, "eth0", &question("web.lan.", RecordType::A)), []);
    server.serve(device("br-lan"), None);
    assert_eq!(ask_by(&mut server, START, "br-lan", &question("web.lan.", RecordType::A)), []);
}

#[test]
fn what_others_say_is_kept_for_as_long_as_they_say() {
    let mut server = server();
    let message = question("www.example.org.", RecordType::A);
    let outputs_of_first = ask_by(&mut server, START, "br-lan", &message);
    let asked = asks(&outputs_of_first);
    let (exchange, _, _, question_of_ours) = &asked[0];
    assert!(question_of_ours.edns.is_some() && question_of_ours.metadata.recursion_desired);
    // Who asks the same meanwhile waits for the same answer.
    assert_eq!(ask_by(&mut server, START, "br-lan", &message), []);
    // An answer to something else is none.
    server.heard(
        START,
        *exchange,
        &reply(&question("www.example.net.", RecordType::A), ResponseCode::NoError, vec![], vec![]),
    );
    assert_eq!(outputs(&mut server), []);
    let records = vec![address("www.example.org.", 60, [192, 0, 2, 80])];
    server.heard(START, *exchange, &reply(question_of_ours, ResponseCode::NoError, records, vec![]));
    let both = outputs(&mut server);
    assert_eq!(answers(&both).iter().map(said).collect::<Vec<_>>(), [["192.0.2.80"], ["192.0.2.80"]]);
    assert!(both.contains(&Output::Over { exchange: *exchange }));
    // From the cache, with what is left.
    let later = only_answer(ask_by(&mut server, START + Duration::from_secs(20), "br-lan", &message));
    assert_eq!((said(&later), later.answers[0].ttl), (vec!["192.0.2.80".to_owned()], 40));
    assert!(!later.metadata.authoritative);
    // Who has other servers has other answers.
    assert_eq!(asks(&ask_by(&mut server, START, "vd1.0", &message)).len(), 1);
    let after = ask_by(&mut server, START + Duration::from_secs(61), "br-lan", &message);
    assert_eq!(asks(&after).len(), 1);
}

#[test]
fn that_there_is_nothing_is_kept_as_long_as_the_zone_says() {
    let mut server = server();
    let message = question("nobody.example.org.", RecordType::A);
    let start = Record::from_rdata(
        Name::from_ascii("example.org.").unwrap(),
        300,
        RData::SOA(rdata::SOA::new(Name::root(), Name::root(), 1, 1, 1, 1, 30)),
    );
    for (authorities, kept) in [(vec![start], true), (vec![], false)] {
        let now = if kept { START } else { START + Duration::from_secs(1000) };
        let outputs_now = ask_by(&mut server, now, "br-lan", &message);
        let (exchange, _, _, asked) = asks(&outputs_now).remove(0);
        server.heard(now, exchange, &reply(&asked, ResponseCode::NXDomain, vec![], authorities));
        assert_eq!(only_answer(outputs(&mut server)).metadata.response_code, ResponseCode::NXDomain);
        let soon = ask_by(&mut server, now + Duration::from_secs(29), "br-lan", &message);
        assert_eq!(asks(&soon).is_empty(), kept);
        let later = ask_by(&mut server, now + Duration::from_secs(31), "br-lan", &message);
        assert!(!kept || !asks(&later).is_empty());
        server = self::server();
    }
}

#[test]
fn a_server_that_does_not_answer_is_followed_by_the_next_and_asked_last_for_a_while() {
    let mut server = server();
    let message = question("www.example.org.", RecordType::A);
    let first = asks(&ask_by(&mut server, START, "vd1.0", &message)).remove(0);
    assert_eq!(first.1, "192.0.2.1:53");
    let due = server.due().unwrap();
    server.tick(due);
    let second = asks(&outputs(&mut server)).remove(0);
    assert_eq!((second.0, second.1.as_str()), (first.0, "192.0.2.2:53"));
    // The second has nothing.
    server.heard(due, first.0, &reply(&second.3, ResponseCode::ServFail, vec![], vec![]));
    let third = asks(&outputs(&mut server)).remove(0);
    assert_eq!(third.1, "192.0.2.1:53");
    let records = vec![address("www.example.org.", 60, [192, 0, 2, 80])];
    server.heard(due, third.0, &reply(&third.3, ResponseCode::NoError, records, vec![]));
    assert_eq!(said(&only_answer(outputs(&mut server))), ["192.0.2.80"]);
    // The one that failed last comes last now.
    let other =
        asks(&ask_by(&mut server, due, "vd1.0", &question("a.example.org.", RecordType::A))).remove(0);
    assert_eq!(other.1, "192.0.2.1:53");
}

#[test]
fn when_nobody_answers_guests_are_told_so_in_time_and_for_some_seconds() {
    let mut server = server();
    let message = question("www.example.org.", RecordType::A);
    assert_eq!(asks(&ask_by(&mut server, START, "br-lan", &message)).len(), 1);
    let mut told = Vec::new();
    while let Some(due) = server.due() {
        server.tick(due);
        told.extend(answers(&outputs(&mut server)).into_iter().map(|answer| (due, answer)));
    }
    let [(when, answer)] = &told[..] else { panic!("{told:?}") };
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    assert!(*when <= START + Duration::from_secs(5), "whoever asked has given up: {when:?}");
    let again = only_answer(ask_by(&mut server, *when + Duration::from_secs(1), "br-lan", &message));
    assert_eq!(again.metadata.response_code, ResponseCode::ServFail);
    assert_eq!(asks(&ask_by(&mut server, *when + Duration::from_secs(6), "br-lan", &message)).len(), 1);
    // Without any server, at once.
    server.host_servers(Vec::new());
    let none = ask(&mut server, "br-lan", "www.example.net.", RecordType::A);
    assert_eq!(none.metadata.response_code, ResponseCode::ServFail);
}

#[test]
fn long_answers_come_by_connection() {
    let mut server = server();
    let message = question("many.example.org.", RecordType::A);
    let (exchange, whom, stream, asked) = asks(&ask_by(&mut server, START, "br-lan", &message)).remove(0);
    assert!(!stream);
    let mut cut = asked.clone();
    cut.metadata.message_type = MessageType::Response;
    cut.metadata.truncation = true;
    server.heard(START, exchange, &cut.to_vec().unwrap());
    let (same, again, stream, asked) = asks(&outputs(&mut server)).remove(0);
    assert!(stream && (same, again) == (exchange, whom));
    let records: Vec<Record> = (0..100).map(|n| address("many.example.org.", 60, [192, 0, 2, n])).collect();
    server.heard(START, exchange, &reply(&asked, ResponseCode::NoError, records, vec![]));
    let short = only_answer(outputs(&mut server));
    assert!(short.metadata.truncation && short.answers.is_empty());
    // With EDNS more fits, but not so much; by a connection everything does.
    let mut large = message.clone();
    let mut edns = Edns::new();
    edns.set_max_payload(4096).set_dnssec_ok(false);
    large.set_edns(edns);
    let bytes = ask_by(&mut server, START, "br-lan", &large);
    let Some(Output::Answer { bytes, .. }) = bytes.first() else { panic!("{bytes:?}") };
    assert!(bytes.len() <= 1232);
    server.receive(START, Asker { stream: true, ..asker("br-lan") }, &message.to_vec().unwrap());
    let whole = only_answer(outputs(&mut server));
    assert!(!whole.metadata.truncation && whole.answers.len() == 100);
}

#[test]
fn edns_is_answered_by_those_who_know_it() {
    let mut server = server();
    assert!(ask(&mut server, "br-lan", "web.lan.", RecordType::A).edns.is_none());
    let mut message = question("web.lan.", RecordType::A);
    let mut edns = Edns::new();
    edns.set_max_payload(1400).set_dnssec_ok(true);
    message.set_edns(edns.clone());
    let answer = only_answer(ask_by(&mut server, START, "br-lan", &message));
    let told = answer.edns.unwrap();
    assert!(told.flags().dnssec_ok && told.max_payload() == 1232);
    edns.set_version(1);
    message.set_edns(edns);
    let answer = only_answer(ask_by(&mut server, START, "br-lan", &message));
    // 16 is BADVERS here, and BADSIG elsewhere.
    assert_eq!((u16::from(answer.metadata.response_code), answer.answers.len()), (16, 0));
}

#[test]
fn what_is_no_question_for_us_is_refused_or_ignored() {
    let mut server = server();
    let mut of_class = question("web.lan.", RecordType::A);
    of_class.queries[0].query_class = hickory_proto::rr::DNSClass::CH;
    let mut without_recursion = question("www.example.org.", RecordType::A);
    without_recursion.metadata.recursion_desired = false;
    for message in [question("lan.", RecordType::AXFR), of_class, without_recursion] {
        let answer = only_answer(ask_by(&mut server, START, "br-lan", &message));
        assert_eq!(answer.metadata.response_code, ResponseCode::Refused, "{message:?}");
    }
    let mut update = question("web.lan.", RecordType::A);
    update.metadata.op_code = OpCode::Update;
    let mut two = question("web.lan.", RecordType::A);
    two.add_query(Query::query(Name::from_ascii("web.lan.").unwrap(), RecordType::AAAA));
    for (message, code) in [(update, ResponseCode::NotImp), (two, ResponseCode::FormErr)] {
        let answer = only_answer(ask_by(&mut server, START, "br-lan", &message));
        assert_eq!((answer.metadata.id, answer.metadata.response_code), (7, code));
    }
    // Two servers that answer each other's answers would never stop.
    let mut answer = question("web.lan.", RecordType::A);
    answer.metadata.message_type = MessageType::Response;
    assert_eq!(ask_by(&mut server, START, "br-lan", &answer), []);
    let mut short = question("web.lan.", RecordType::A).to_vec().unwrap();
    short.truncate(20);
    server.receive(START, asker("br-lan"), &short);
    assert_eq!(only_answer(outputs(&mut server)).metadata.response_code, ResponseCode::FormErr);
    // Special names never leave the host (RFC 6761).
    assert_eq!(said(&ask(&mut server, "br-lan", "localhost.", RecordType::A)), ["127.0.0.1"]);
    for name in ["printer.local.", "x.onion.", "y.invalid."] {
        let answer = ask(&mut server, "br-lan", name, RecordType::A);
        assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain, "{name}");
    }
}

#[test]
fn no_guest_keeps_all_others_waiting_and_nothing_grows_without_end() {
    let mut server = server();
    let mut asked = 0;
    for number in 0..1000 {
        let message = question(&format!("n{number}.example.org."), RecordType::A);
        asked += asks(&ask_by(&mut server, START, "br-lan", &message)).len();
    }
    assert_eq!(asked, WAITING);
    let other = ask_by(&mut server, START, "vd1.0", &question("www.example.org.", RecordType::A));
    assert_eq!(asks(&other).len(), 1);
    // Later, all of them are over.
    while let Some(due) = server.due() {
        server.tick(due);
    }
    assert!(server.exchanges.is_empty() && server.asking.is_empty() && server.waiting.is_empty());
}

proptest! {
    #[test]
    fn no_bytes_of_a_guest_or_a_server_do_harm(bytes in prop::collection::vec(any::<u8>(), 0..300), flip in any::<usize>()) {
        let mut server = server();
        server.receive(START, asker("br-lan"), &bytes);
        let mut message = question("www.example.org.", RecordType::A).to_vec().unwrap();
        let place = flip % message.len();
        message[place] ^= 1 << (flip % 8);
        server.receive(START, asker("br-lan"), &message);
        for (exchange, ..) in asks(&outputs(&mut server)) {
            server.heard(START, exchange, &bytes);
            server.heard(START, exchange, &message);
        }
        let all = outputs(&mut server);
        prop_assert!(all.len() <= 4);
    }
}
