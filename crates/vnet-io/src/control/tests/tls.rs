//! What TLS agrees on between two hosts, with the configurations that the engine has.

use std::{
    net::{Ipv4Addr, SocketAddr},
    num::NonZeroUsize,
    sync::Arc,
    time::Duration,
};

use quinn::VarInt;
use rustls::{
    HandshakeKind, NamedGroup, ProtocolVersion,
    pki_types::ServerName,
    quic::{ClientConnection, ServerConnection, Version},
};
use tokio::{sync::mpsc, time};
use viaduct_types::HostKey;
use viaduct_vnet_proto::control::SessionId;
use zeroize::Zeroizing;

use crate::{
    control::{
        Identity,
        dial::{Targets, dial},
        engine::Input,
        link::Link,
        names::Names,
        reach::Ways,
        socket, start, tls,
    },
    datapath::{self, Datapath, Inbox, in_a_namespace},
};

const PATIENCE: Duration = Duration::from_secs(60);

fn identity(seed: u8) -> Identity {
    Identity::from_seed(Zeroizing::new([seed; 32])).unwrap()
}

/// An Ed25519 key as it is shown: SubjectPublicKeyInfo (RFC 8410, section 4).
fn shown(key: HostKey) -> Vec<u8> {
    [&[0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00], &key.0[..]].concat()
}

/// Both ends, until neither has anything to say, or one refuses the other.
fn shake(
    client: rustls::ClientConfig,
    server: rustls::ServerConfig,
) -> Result<(ClientConnection, ServerConnection), rustls::Error> {
    let name = ServerName::try_from("vnet").unwrap();
    let mut client = ClientConnection::new(Arc::new(client), Version::V1, name, Vec::new())?;
    let mut server = ServerConnection::new(Arc::new(server), Version::V1, Vec::new())?;
    loop {
        let mut is_quiet = true;
        for from_client in [true, false] {
            // What is said with one key is given on before the next one is.
            loop {
                let mut bytes = Vec::new();
                let change =
                    if from_client { client.write_hs(&mut bytes) } else { server.write_hs(&mut bytes) };
                if bytes.is_empty() && change.is_none() {
                    break;
                }
                is_quiet = false;
                if from_client { server.read_hs(&bytes)? } else { client.read_hs(&bytes)? }
            }
        }
        if is_quiet {
            return Ok((client, server));
        }
    }
}

#[test]
fn the_key_exchange_is_post_quantum_and_both_ends_show_their_keys() {
    let (dialler, dialled) = (identity(1), identity(2));
    let (client, seen) = tls::client_config(&dialler, dialled.public()).unwrap();
    let (client, server) = shake(client, tls::server_config(&dialled).unwrap()).unwrap();
    for end in [&*client as &rustls::CommonState, &*server] {
        assert!(!end.is_handshaking());
        assert_eq!(end.protocol_version(), Some(ProtocolVersion::TLSv1_3));
        assert_eq!(end.negotiated_key_exchange_group().unwrap().name(), NamedGroup::X25519MLKEM768);
        // Nobody had to be asked for it.
        assert_eq!(end.handshake_kind(), Some(HandshakeKind::Full));
        assert_eq!(end.alpn_protocol(), Some(&b"viaduct-vnet/1"[..]));
    }
    assert_eq!(client.peer_certificates().unwrap(), [shown(dialled.public()).into()]);
    assert_eq!(server.peer_certificates().unwrap(), [shown(dialler.public()).into()]);
    assert_eq!(seen.key(), None);
}

#[test]
fn another_key_than_the_expected_one_is_refused_and_told() {
    let (dialler, dialled, expected) = (identity(1), identity(2), identity(3));
    let (client, seen) = tls::client_config(&dialler, expected.public()).unwrap();
    let Err(error) = shake(client, tls::server_config(&dialled).unwrap()) else { panic!("it was taken") };
    assert!(matches!(error, rustls::Error::InvalidCertificate(_)), "{error}");
    assert_eq!(seen.key(), Some(dialled.public()));
}

/// Who was not reached, the key that was seen, and what is said.
type NotReached = (HostKey, Option<HostKey>, String);

/// A host that takes connections and dials.
struct Host {
    identity: Arc<Identity>,
    endpoint: quinn::Endpoint,
    names: Names,
    inputs: mpsc::Sender<Input>,
    queue: mpsc::Receiver<Input>,
    _line: std::os::unix::net::UnixStream,
    _datapath: Datapath,
}

impl Host {
    fn start(seed: u8, port: u16) -> Self {
        let identity = identity(seed);
        let options = datapath::Options { workers: NonZeroUsize::MIN, socket: socket::open(port).unwrap() };
        let (datapath, Inbox { datagrams, socket, .. }) = Datapath::start(options).unwrap();
        let (inputs, queue) = mpsc::channel(16);
        let (endpoint, gate) =
            start::endpoint(&identity, (socket, Ways::default()), datagrams, inputs.clone()).unwrap();
        gate.open();
        let (line, other) = std::os::unix::net::UnixStream::pair().unwrap();
        let names = Names::new(line, inputs.clone()).unwrap();
        Self {
            identity: Arc::new(identity),
            endpoint,
            names,
            inputs,
            queue,
            _line: other,
            _datapath: datapath,
        }
    }

    /// Dials whoever is at a port, who should have this key.
    fn dial(&self, port: u16, key: HostKey) -> tokio::task::JoinHandle<()> {
        let at = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let targets =
            Targets { names: vec![at.to_string()], ways: Vec::new(), is_idle: false, is_spare: false };
        let ways = (self.endpoint.clone(), self.names.clone());
        tokio::spawn(dial(Arc::clone(&self.identity), ways, key, targets, 0, self.inputs.clone()))
    }

    /// What comes of dialling and being dialled: whose connection stands, and whether this host dialled.
    async fn next(&mut self) -> Result<(HostKey, bool, (quinn::Connection, u16)), NotReached> {
        loop {
            let input = time::timeout(PATIENCE, self.queue.recv()).await.expect("something happens").unwrap();
            if let Input::Connected { key, dialled, connection, longest } = input {
                return Ok((key, dialled, (connection, longest)));
            }
            if let Input::NotReached { key, why, seen } = input {
                return Err((key, seen, why));
            }
        }
    }

    /// Why a connection ended.
    async fn closed(&mut self) -> String {
        loop {
            let input = time::timeout(PATIENCE, self.queue.recv()).await.expect("something happens").unwrap();
            if let Input::Closed { why, .. } = input {
                return why;
            }
        }
    }
}

#[test]
fn hosts_take_each_other_for_the_keys_that_they_have() {
    in_a_namespace(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let [dialler, dialled, nobody] = [1, 2, 3].map(|seed| identity(seed).public());
            let (mut a, mut b) = (Host::start(1, 1_798), Host::start(2, 2_798));
            let dialling = a.dial(2_798, nobody);
            let (seen, why) = loop {
                match a.next().await {
                    Err((key, Some(seen), why)) => {
                        assert_eq!(key, nobody);
                        break (seen, why);
                    }
                    // It takes longer than an attempt may on a machine that does much else.
                    Err((_, None, _)) => {}
                    Ok((key, ..)) => panic!("{key} was taken for {nobody}"),
                }
            };
            assert_eq!(seen, dialled);
            assert_eq!(why, format!("127.0.0.1:2798: it has the key {dialled} and not {nobody}"));
            dialling.abort();
            assert!(b.queue.try_recv().is_err(), "who was refused is taken for connected");

            let dialling = a.dial(2_798, dialled);
            let (key, is_dialled, (taken, _)) = b.next().await.unwrap();
            assert_eq!((key, is_dialled), (dialler, false));
            assert_eq!(tls::peer_key(&taken), Some(dialler));
            loop {
                // An attempt may have taken too long, and another one is made.
                match a.next().await {
                    Ok((key, is_dialled, connection)) => {
                        assert_eq!((key, is_dialled), (dialled, true));
                        assert_eq!(tls::peer_key(&connection.0), Some(dialled));
                        let _link = Link::start(SessionId(1), dialled, connection, Duration::ZERO, &a.inputs);
                        taken.close(VarInt::from_u32(7), b"\x1b[2J\nwhat it likes");
                        assert_eq!(a.closed().await, "closed by peer: ?[2J?what it likes (code 7)");
                        break;
                    }
                    Err((_, seen, _)) => assert!(seen.is_none_or(|seen| seen == dialled)),
                }
            }
            dialling.abort();
        });
    });
}
