//! How an engine begins.

use std::{io, num::NonZeroUsize, path::PathBuf, sync::Arc, time::Duration};

use quinn::{Endpoint, EndpointConfig, ServerConfig};
use tokio::sync::mpsc;
use tracing::info;

use super::{
    Identity, IdentityError,
    accept::{Gate, accept},
    engine::{Engine, Input},
    enslaved,
    link::LONGEST,
    names::Names,
    prompt::Prompt,
    reach::Ways,
    server, socket, tls,
};
use crate::datapath::{self, Datapath, Inbox, StartError};

/// So many handshakes may wait until it is seen to them, and so many bytes of what belongs to them, of one and of all.
const WAITING: usize = 1024;
const WAITING_BYTES: [u64; 2] = [64 * 1024, 4 * 1024 * 1024];
/// So many reports may wait for the engine.
pub(super) const INPUTS: usize = 1024;

/// What an engine is started with.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where the host's key pair is.
    pub state_dir: PathBuf,
    /// Where its socket is.
    pub run_dir: PathBuf,
    /// The UDP port.
    pub port: u16,
    /// How many threads carry frames.
    pub workers: NonZeroUsize,
    /// How long keys are used.
    pub rekey: Duration,
}

/// Where names of hosts are looked up: a line with a name each goes there, and one with a [`super::Found`] comes back.
pub type NamesLine = std::os::unix::net::UnixStream;

/// Why there is no engine.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The key pair.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The port.
    #[error("cannot open UDP port {port} for vnets; does another program have it?")]
    Port {
        /// Which.
        port: u16,
        /// What the kernel said.
        source: io::Error,
    },
    /// The workers.
    #[error(transparent)]
    Datapath(#[from] StartError),
    /// TLS refuses its own key.
    #[error("cannot set up TLS: {0}")]
    Tls(String),
    /// Something else that the system refused.
    #[error("cannot {what}")]
    System {
        /// What.
        what: String,
        /// What it said.
        source: io::Error,
    },
}

/// Runs until it is told to end. Calls when it listens.
///
/// # Errors
/// When it cannot begin.
pub fn run(options: &Options, names: NamesLine, listening: impl FnOnce()) -> Result<(), EngineError> {
    let failed = |what: String| move |source| EngineError::System { what, source };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(failed("start the engine's runtime".to_owned()))?;
    runtime.block_on(async {
        let identity = Arc::new(Identity::open(&options.state_dir)?);
        let path = options.run_dir.join("engine.sock");
        let listener = server::listen(&path).map_err(failed(format!("listen on {}", path.display())))?;
        let port = options.port;
        let socket = socket::open(port).map_err(|source| EngineError::Port { port, source })?;
        let (datapath, Inbox { events, datagrams, socket, ended }) =
            Datapath::start(datapath::Options { workers: options.workers, socket })?;
        // Only frames come first (`datapath::go_first`).
        let _ = rustix::process::setpriority_process(None, 0);
        let ways = Ways::default();
        let beside = socket.try_clone().map_err(failed("keep the vnets' socket".to_owned()))?;
        let (inputs, queue) = mpsc::channel(INPUTS);
        let (endpoint, gate) = endpoint(&identity, (socket, ways.clone()), datagrams, inputs.clone())?;
        let names = Names::new(names, inputs.clone()).map_err(failed("ask for names".to_owned()))?;
        tokio::spawn(server::serve(listener, inputs.clone(), names.clone()));
        tokio::spawn(enslaved::watch(inputs.clone()));
        info!("vnets: this host is {}", identity.public());
        listening();
        Engine::new(options, identity, datapath, (endpoint, gate, ways, beside), names, inputs)
            .run(queue, events, &ended)
            .await;
        Ok(())
    })
}

/// What dials and is dialled, and the gate of those who dial it, who are told to the engine.
pub(super) fn endpoint(
    identity: &Identity,
    (socket, ways): (std::net::UdpSocket, Ways),
    datagrams: mpsc::Receiver<datapath::Datagram>,
    inputs: mpsc::Sender<Input>,
) -> Result<(Endpoint, Arc<Gate>), EngineError> {
    let failed = |what: &str| {
        let what = what.to_owned();
        move |source| EngineError::System { what, source }
    };
    let tls = tls::server(identity).map_err(|error| EngineError::Tls(error.to_string()))?;
    let mut server = ServerConfig::with_crypto(Arc::new(Prompt::new(tls)));
    let [of_one, of_all] = WAITING_BYTES;
    server.max_incoming(WAITING).incoming_buffer_size(of_one).incoming_buffer_size_total(of_all);
    // The same at each start: peers of a process that was killed are told by a stateless reset that it is gone.
    let reset =
        aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, &*identity.secret(b"stateless reset"));
    let mut config = EndpointConfig::new(Arc::new(reset));
    // The bit tells QUIC from ESP.
    config.grease_quic_bit(false);
    // The other end is told, which looks for nothing longer.
    config.max_udp_payload_size(LONGEST).map_err(|error| failed("set up QUIC")(io::Error::other(error)))?;
    let socket = socket::Shared::new(socket, ways, datagrams).map_err(failed("share the vnets' socket"))?;
    let (of_endpoint, runtime) = (Some(server.clone()), Arc::new(quinn::TokioRuntime));
    let endpoint = Endpoint::new_with_abstract_socket(config, of_endpoint, Arc::new(socket), runtime)
        .map_err(failed("set up QUIC"))?;
    let gate = Arc::<Gate>::default();
    tokio::spawn(accept(endpoint.clone(), server, inputs, Arc::clone(&gate)));
    Ok((endpoint, gate))
}
