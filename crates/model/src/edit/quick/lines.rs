//! Every place in the files that a configuration remembers.

use crate::{Config, Guest, Origin};

pub(super) fn each(config: &mut Config, visit: &mut dyn FnMut(&mut Origin)) {
    config.uplinks.values_mut().for_each(|uplink| visit(&mut uplink.origin));
    config.networks.values_mut().for_each(|network| visit(&mut network.origin));
    config.guests.values_mut().for_each(|guest| each_of_guest(guest, visit));
    for namespace in config.namespaces.values_mut() {
        visit(&mut namespace.origin);
        namespace.interfaces.iter_mut().for_each(|interface| visit(&mut interface.origin));
    }
    config.peers.values_mut().filter_map(|peer| peer.origin.as_mut()).for_each(&mut *visit);
    config.vnets.values_mut().filter_map(|vnet| vnet.origin.as_mut()).for_each(&mut *visit);
    config.discovery.iter_mut().for_each(|discovery| visit(&mut discovery.origin));
    config.relay.iter_mut().for_each(|relay| visit(&mut relay.origin));
}

pub(super) fn each_of_guest(guest: &mut Guest, visit: &mut dyn FnMut(&mut Origin)) {
    visit(&mut guest.origin);
    guest.nics.iter_mut().for_each(|nic| visit(&mut nic.origin));
    guest.publish.iter_mut().for_each(|published| visit(&mut published.origin));
    let lists = guest.allow_in.iter_mut().chain(&mut guest.allow_out);
    lists.flatten().for_each(|allow| visit(&mut allow.origin));
}
