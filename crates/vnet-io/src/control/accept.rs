//! Connections are taken: handshakes, each for a while, as many as there are places for.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use quinn::{Endpoint, Incoming, ServerConfig};
use tokio::{
    sync::{Notify, mpsc},
    task::{AbortHandle, JoinSet},
    time,
};
use viaduct_types::HostKey;

use super::{
    engine::Input,
    handshakes::{Handshakes, Number, Verdict},
    link, tls,
};

/// Each may last for so long.
const HANDSHAKE: Duration = Duration::from_secs(5);

/// Where connections come in: closed at first, and then with a count of the handshakes that did not simply go on.
#[derive(Debug, Default)]
pub(super) struct Gate {
    known: Notify,
    unproven: AtomicU64,
    crowded: AtomicU64,
}

impl Gate {
    /// It is known by now who may connect.
    pub(super) fn open(&self) {
        self.known.notify_one();
    }

    /// Each number with its name.
    pub(super) fn named(&self) -> [(&'static str, u64); 2] {
        let value = |count: &AtomicU64| count.load(Ordering::Relaxed);
        [("handshakes_unproven", value(&self.unproven)), ("handshakes_crowded", value(&self.crowded))]
    }
}

/// Takes connections when the gate is opened: what comes before waits so long.
pub(super) async fn accept(
    endpoint: Endpoint,
    server: ServerConfig,
    inputs: mpsc::Sender<Input>,
    gate: Arc<Gate>,
) {
    gate.known.notified().await;
    let begin = Instant::now();
    let mut handshakes = Handshakes::default();
    let mut tasks = JoinSet::new();
    let mut going = BTreeMap::<Number, AbortHandle>::new();
    loop {
        tokio::select! {
            incoming = endpoint.accept() => {
                let Some(incoming) = incoming else { return };
                let from = incoming.remote_address();
                match handshakes.ask(begin.elapsed(), from, incoming.remote_address_validated()) {
                    Verdict::Begins { number, instead_of } => {
                        if let Some(task) = instead_of.and_then(|other| going.remove(&other)) {
                            gate.crowded.fetch_add(1, Ordering::Relaxed);
                            task.abort();
                        }
                        going.insert(number, tasks.spawn(shake(number, incoming, server.clone())));
                    }
                    Verdict::HasToProve => {
                        gate.unproven.fetch_add(1, Ordering::Relaxed);
                        // It can be asked, as it has not been.
                        let _ = incoming.retry();
                    }
                    Verdict::HasToWait => {
                        gate.crowded.fetch_add(1, Ordering::Relaxed);
                        incoming.ignore();
                    }
                }
            }
            Some(ended) = tasks.join_next() => {
                // One that was ended by another has no place any more.
                let Ok((number, connected)) = ended else { continue };
                handshakes.ended(number);
                going.remove(&number);
                if let Some((key, connection, longest)) = connected {
                    let _ = inputs.send(Input::Connected { key, dialled: false, connection, longest }).await;
                }
            }
        }
    }
}

async fn shake(
    number: Number,
    incoming: Incoming,
    mut server: ServerConfig,
) -> (Number, Option<(HostKey, quinn::Connection, u16)>) {
    let (transport, longest) = link::transport(incoming.remote_address());
    server.transport_config(transport);
    let Ok(connecting) = incoming.accept_with(Arc::new(server)) else { return (number, None) };
    let connected = match time::timeout(HANDSHAKE, connecting).await {
        Ok(Ok(connection)) => tls::peer_key(&connection).map(|key| (key, connection, longest)),
        Ok(Err(_)) | Err(_) => None,
    };
    (number, connected)
}
