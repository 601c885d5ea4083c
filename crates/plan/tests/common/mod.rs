//! Hosts and configurations for the tests of the plan.
#![allow(dead_code, clippy::unwrap_used, reason = "each test file uses its part; a test may panic")]

pub(crate) mod shape;

use viaduct_model::{Config, Source};
use viaduct_plan::{
    Apply, Attachments, Desired, Kind, Notice, Observe, Observed, Plan, Route, RouteKind, Severity, Target,
    ask, desired, plan, sim::Host,
};
use viaduct_types::{IpNet, NicId};

/// Reads a configuration that is right.
pub(crate) fn config(text: &str) -> Config {
    let source = Source { name: "viaduct.toml".to_owned(), text: text.to_owned() };
    match viaduct_model::load(&[source]) {
        Ok(loaded) => loaded.config,
        Err(diagnostics) => panic!("{text}\n{diagnostics}"),
    }
}

/// A host with eth0 (203.0.113.2/24, a default route) as the system set it up.
pub(crate) fn host() -> Host {
    let mut host = Host::default();
    let eth0 = "eth0".parse().unwrap();
    host.hardware(&eth0, Some("52:54:00:12:34:56".parse().unwrap()));
    host.address(&eth0, "203.0.113.2/24".parse().unwrap());
    let (card, theirs) = ("card1".parse().unwrap(), "theirs".parse().unwrap());
    host.hardware(&card, Some("52:54:00:12:34:57".parse().unwrap()));
    host.address(&card, "192.0.2.2/24".parse().unwrap());
    host.hardware(&theirs, None);
    host.state.links.get_mut(&theirs).unwrap().kind = Kind::Bridge;
    let kernel_made = |destination: &str, via: Option<&str>, protocol| Route {
        destination: destination.parse::<IpNet>().unwrap(),
        kind: RouteKind::Unicast,
        link: Some("eth0".parse().unwrap()),
        via: via.map(|v| v.parse().unwrap()),
        onlink: false,
        source: None,
        metric: 0,
        protocol,
    };
    host.state.routes.insert(kernel_made("0.0.0.0/0", Some("203.0.113.1"), 3));
    host
}

/// Attaches every NIC of a configuration in a namespace of its own.
pub(crate) fn attach_all(host: &mut Host, config: &Config) -> Attachments {
    config
        .nics()
        .map(|(id, _)| {
            let path = namespace(&id);
            host.namespace(&path);
            (id, Target::Netns { path, inode: 1 })
        })
        .collect()
}

pub(crate) fn namespace(id: &NicId) -> String {
    format!("/run/netns/{}", id.guest)
}

/// One look.
pub(crate) fn look(
    host: &mut Host,
    config: &Config,
    attachments: &Attachments,
) -> (Observed, Desired, Vec<Notice>, Plan) {
    let observed = host.observe(&ask(config, attachments)).unwrap();
    let (desired, notices) = desired(config, attachments, &observed);
    let plan = plan(&observed, &desired);
    (observed, desired, notices, plan)
}

/// Applies until nothing is left to do, which may take a second pass; panics when a step is refused.
pub(crate) fn converge(host: &mut Host, config: &Config, attachments: &Attachments) {
    for _ in 0..3 {
        let (_, _, notices, plan) = look(host, config, attachments);
        let errors: Vec<_> = notices.iter().filter(|n| n.severity == Severity::Error).collect();
        assert!(errors.is_empty(), "{errors:?}");
        if plan.is_empty() {
            return;
        }
        for result in host.apply(&plan.ops, &|_, _| true, &mut |_| ()) {
            result.unwrap();
        }
    }
    let (.., plan) = look(host, config, attachments);
    assert!(plan.is_empty(), "does not converge:\n{plan}");
}
