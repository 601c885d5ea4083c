//! Dialling a peer: all of its endpoints, until one answers as who it should be.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use quinn::{ClientConfig, Endpoint};
use tokio::{sync::mpsc, task::JoinSet, time};
use viaduct_types::HostKey;

use super::{Identity, engine::Input, link, names::Names, tls};

/// How long one address may take to answer.
const PATIENCE: Duration = Duration::from_secs(3);
/// So long after one address the next is tried beside it (RFC 8305, section 5).
const APART: Duration = Duration::from_millis(100);
/// How long until all are tried again, at first and at last.
const PAUSES: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(5)];
/// The same when the peer is reached already.
const IDLE_PAUSES: [Duration; 2] = [Duration::from_secs(5), Duration::from_secs(30)];
/// So long after the last address others are asked to pass on.
const BEFORE_WAYS: Duration = Duration::from_millis(700);

/// Where a peer may be.
pub(super) struct Targets {
    /// As ADDRESS:PORT or NAME:PORT.
    pub(super) names: Vec<String>,
    /// Addresses that stand for ways by others.
    pub(super) ways: Vec<SocketAddr>,
    /// Whether it is reached already, and may be reached better, or by longer datagrams.
    pub(super) is_idle: bool,
    /// Whether it is one of several who may be of help.
    pub(super) is_spare: bool,
}

/// Dials until the task is ended, which it is when there is a connection. A peer that ends connections as soon as they
/// stand has ended so many before.
pub(super) async fn dial(
    identity: Arc<Identity>,
    (endpoint, lookup): (Endpoint, Names),
    key: HostKey,
    targets: Targets,
    ended_before: u32,
    inputs: mpsc::Sender<Input>,
) {
    let [first, longest] = if targets.is_idle || targets.is_spare { IDLE_PAUSES } else { PAUSES };
    let mut pause = (first * 2u32.saturating_pow(ended_before.min(16))).min(longest);
    if ended_before > 0 || targets.is_idle {
        time::sleep(pause).await;
    }
    let call = Arc::new(Call { identity, endpoint, lookup, key, inputs });
    loop {
        let mut attempts = JoinSet::new();
        let mut delay = Duration::ZERO;
        for name in targets.names.iter().cloned() {
            let call = Arc::clone(&call);
            attempts.spawn(async move { call.by_name(delay, name).await });
            delay += APART;
        }
        if !targets.names.is_empty() {
            delay += BEFORE_WAYS;
        }
        for address in targets.ways.iter().copied() {
            let call = Arc::clone(&call);
            attempts.spawn(async move { call.address(delay, address, "by way of others".to_owned()).await });
            delay += APART;
        }
        while let Some(ended) = attempts.join_next().await {
            let Ok(Some((connection, longest))) = ended else { continue };
            attempts.abort_all();
            let _ = call.inputs.send(Input::Connected { key, dialled: true, connection, longest }).await;
            // The engine ends this task when it keeps the connection; else there is another attempt.
            time::sleep(PATIENCE).await;
        }
        time::sleep(pause).await;
        pause = (pause * 2).min(longest);
    }
}

/// What each attempt needs, and tells when it comes to nothing.
struct Call {
    identity: Arc<Identity>,
    endpoint: Endpoint,
    lookup: Names,
    key: HostKey,
    inputs: mpsc::Sender<Input>,
}

impl Call {
    /// At all addresses that a name has. Nobody else waits until they are known.
    async fn by_name(self: Arc<Self>, delay: Duration, name: String) -> Option<(quinn::Connection, u16)> {
        time::sleep(delay).await;
        let why = match time::timeout(PATIENCE, self.lookup.find(&name)).await {
            Ok(Ok(addresses)) => {
                let mut attempts = JoinSet::new();
                let mut delay = Duration::ZERO;
                for address in addresses {
                    let is_address = name == address.to_string();
                    let target = if is_address { name.clone() } else { format!("{name} ({address})") };
                    let call = Arc::clone(&self);
                    attempts.spawn(async move { call.address(delay, address, target).await });
                    delay += APART;
                }
                while let Some(ended) = attempts.join_next().await {
                    if let Ok(Some(connected)) = ended {
                        return Some(connected);
                    }
                }
                return None;
            }
            Ok(Err(error)) => error,
            Err(_) => "no name server answers".to_owned(),
        };
        let _ = self.inputs.send(Input::not_reached(self.key, &name, &why, None)).await;
        None
    }

    async fn address(
        &self,
        delay: Duration,
        address: SocketAddr,
        target: String,
    ) -> Option<(quinn::Connection, u16)> {
        time::sleep(delay).await;
        match attempt(&self.identity, &self.endpoint, self.key, address).await {
            Ok(connected) => Some(connected),
            Err(Failed(why, seen)) => {
                let _ = self.inputs.send(Input::not_reached(self.key, &target, &why, seen)).await;
                None
            }
        }
    }
}

/// Why it was not reached, and which key was seen instead.
struct Failed(String, Option<HostKey>);

async fn attempt(
    identity: &Identity,
    endpoint: &Endpoint,
    key: HostKey,
    address: SocketAddr,
) -> Result<(quinn::Connection, u16), Failed> {
    let failed = |error: &dyn std::fmt::Display| Failed(error.to_string(), None);
    let (config, seen) = tls::client(identity, key).map_err(|e| failed(&e))?;
    let mut config = ClientConfig::new(Arc::new(config));
    let (transport, longest) = link::transport(address);
    config.transport_config(transport);
    // The name is not sent.
    let connecting = endpoint.connect_with(config, address, "vnet").map_err(|e| failed(&e))?;
    match time::timeout(PATIENCE, connecting).await {
        Ok(Ok(connection)) => Ok((connection, longest)),
        Ok(Err(error)) => Err(match seen.key() {
            Some(other) => Failed(format!("it has the key {other} and not {key}"), Some(other)),
            None => Failed(link::reason(&error), None),
        }),
        Err(_) => Err(failed(&"nobody answers")),
    }
}
