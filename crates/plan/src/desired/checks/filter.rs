//! What this host's filter cannot keep, as the flows do not pass it.

use viaduct_model::{Mode, Network};

use super::{super::context::Context, Notices};

pub(super) fn notices(context: &Context<'_>, notices: &mut Notices) {
    for (name, guest) in &context.config.guests {
        if guest.allow_in.is_none() && guest.allow_out.is_none() {
            continue;
        }
        let on = |is_one: fn(&Network) -> bool| {
            let mut nics = context.config.nics_of(guest).iter();
            nics.find(|nic| context.config.networks.get(&nic.network).is_some_and(is_one))
        };
        if let Some(nic) = on(is_on_segment) {
            notices.error(
                &nic.origin,
                format!(
                    "guest {name}: allow-in and allow-out cannot be kept on a bridged NIC, whose flows do not pass this \
                     host's filter; use a routed network, or leave the filter to the guest"
                ),
            );
        }
        if let Some(nic) = on(is_in_vnet) {
            notices.warn(
                &nic.origin,
                format!(
                    "guest {name}: allow-in and allow-out are kept for what passes this host's filter, which guests of the same \
                     vnet do not on their way to each other; where they are not to, use another network, or leave that filter to \
                     the guest"
                ),
            );
        }
    }
}

/// A bridged network is the uplink's own segment.
fn is_on_segment(network: &Network) -> bool {
    matches!(network.mode, Mode::Bridged { .. })
}

fn is_in_vnet(network: &Network) -> bool {
    matches!(network.mode, Mode::Vnet { .. })
}
