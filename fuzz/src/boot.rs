//! What machines load that boot by the network.

use std::collections::BTreeMap;

use viaduct_types::BootClient;

/// Something to boot for everybody: one name, and URLs as long as they may be.
pub fn files() -> BTreeMap<BootClient, String> {
    let url = |client: BootClient| format!("http://192.0.2.1/{client}/{}", "x".repeat(200));
    let file = |client| if client == BootClient::Bios { "undionly.kpxe".to_owned() } else { url(client) };
    BootClient::ALL.into_iter().map(|(_, client, _)| (client, file(client))).collect()
}
