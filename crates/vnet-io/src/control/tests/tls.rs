//! What TLS agrees on between two hosts, with the configurations that the engine has.

use std::{
    net::{Ipv4Addr, UdpSocket},
    num::NonZeroUsize,
    sync::Arc,
    time::Duration,
};

use quinn::{
    Side, VarInt,
    crypto::{self, rustls::QuicClientConfig},
};
use quinn_proto::transport_parameters::TransportParameters;
use rustls::{
    HandshakeKind, NamedGroup, ProtocolVersion, SignatureScheme,
    client::AlwaysResolvesClientRawPublicKeys,
    pki_types::ServerName,
    quic::{ClientConnection, ServerConnection, Version},
    server::AlwaysResolvesServerRawPublicKeys,
    sign,
};
use tokio::{sync::mpsc, time};
use viaduct_types::HostKey;
use viaduct_vnet_proto::control::SessionId;
use zeroize::Zeroizing;

use super::alone;
use crate::{
    control::{
        Identity,
        dial::{Targets, dial},
        engine::Input,
        link::{self, Link},
        names::Names,
        reach::Ways,
        socket, start, tls,
    },
    datapath::{self, Datapath, Inbox},
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

/// Somebody with no secret at all.
#[derive(Debug)]
struct Nobody;

impl sign::SigningKey for Nobody {
    fn choose_scheme(&self, _: &[SignatureScheme]) -> Option<Box<dyn sign::Signer>> {
        Some(Box::new(Self))
    }

    fn algorithm(&self) -> rustls::SignatureAlgorithm {
        rustls::SignatureAlgorithm::ED25519
    }
}

impl sign::Signer for Nobody {
    /// The neutral point, and 0 times the base point: both sides of the equation (RFC 8032, section 5.1.7), whatever is signed.
    fn sign(&self, _: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        Ok([&[1; 1][..], &[0; 63]].concat())
    }

    fn scheme(&self) -> SignatureScheme {
        SignatureScheme::ED25519
    }
}

#[test]
fn a_key_by_which_anybody_signs_is_nobodys() {
    let (dialler, dialled) = (identity(1), identity(2));
    let mut anybodys = [0; 32];
    anybodys[0] = 1;
    let key = shown(HostKey(anybodys));
    let shows = || Arc::new(sign::CertifiedKey::new(vec![key.clone().into()], Arc::new(Nobody)));
    let (mut client, _) = tls::client_config(&dialler, dialled.public()).unwrap();
    client.client_auth_cert_resolver = Arc::new(AlwaysResolvesClientRawPublicKeys::new(shows()));
    assert!(shake(client, tls::server_config(&dialled).unwrap()).is_err(), "it is taken for a host");
    let (client, seen) = tls::client_config(&dialler, HostKey(anybodys)).unwrap();
    let mut server = tls::server_config(&dialled).unwrap();
    server.cert_resolver = Arc::new(AlwaysResolvesServerRawPublicKeys::new(shows()));
    assert!(shake(client, server).is_err(), "it is taken for the one that was dialled");
    assert_eq!(seen.key(), None);
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
        self.dial_all(vec![format!("127.0.0.1:{port}")], key)
    }

    fn dial_all(&self, names: Vec<String>, key: HostKey) -> tokio::task::JoinHandle<()> {
        let targets = Targets { names, ways: Vec::new(), is_idle: false, is_spare: false };
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
    alone(async || {
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
}

#[test]
fn what_is_longer_than_any_datagram_of_quic_keeps_nobody_away() {
    alone(async || {
        let [dialler, dialled] = [1, 2].map(|seed| identity(seed).public());
        let (a, mut b) = (Host::start(1, 1_798), Host::start(2, 2_798));
        // More than QUIC takes at once, and nothing else among them.
        let anybody = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        for _ in 0..40 {
            assert_eq!(anybody.send_to(&[0xff; 20_000], (Ipv4Addr::LOCALHOST, 2_798)).unwrap(), 20_000);
        }
        std::thread::sleep(Duration::from_millis(100));
        time::sleep(Duration::from_millis(100)).await;
        let dialling = a.dial(2_798, dialled);
        let (key, is_dialled, _) = b.next().await.unwrap();
        assert_eq!((key, is_dialled), (dialler, false));
        dialling.abort();
    });
}

#[test]
fn what_only_shows_what_a_path_carries_is_not_kept() {
    alone(async || {
        let (mut a, mut b) = (Host::start(1, 1_798), Host::start(2, 2_798));
        let dialling = a.dial(2_798, identity(2).public());
        let (_, _, (theirs, _)) = b.next().await.unwrap();
        let (_, _, (ours, _)) = a.next().await.unwrap();
        for _ in 0..200 {
            let length = ours.max_datagram_size().unwrap();
            ours.send_datagram(vec![0; length].into()).unwrap();
            time::sleep(Duration::from_millis(1)).await;
        }
        time::sleep(Duration::from_millis(100)).await;
        let mut kept = 0;
        while let Ok(Ok(datagram)) = time::timeout(Duration::from_millis(10), theirs.read_datagram()).await {
            kept += datagram.len();
        }
        assert!((1_000..10_000).contains(&kept), "{kept} bytes");
        dialling.abort();
    });
}

#[test]
fn a_name_that_nobody_knows_anything_of_holds_up_no_address() {
    alone(async || {
        let (mut a, b) = (Host::start(1, 1_798), Host::start(2, 2_798));
        // Names are asked for on a line that nobody answers on.
        let targets = ["one.example:1798", "other.example:1798", "127.0.0.1:2798"].map(str::to_owned);
        let dialling = a.dial_all(targets.into(), b.identity.public());
        let (key, is_dialled, _) = a.next().await.expect("it is connected before the names are given up");
        assert_eq!((key, is_dialled), (b.identity.public(), true));
        dialling.abort();
    });
}

/// Somebody who says that its answers take as long as may be said.
struct Late(Arc<QuicClientConfig>);

impl crypto::ClientConfig for Late {
    fn start_session(
        self: Arc<Self>,
        version: u32,
        name: &str,
        parameters: &TransportParameters,
    ) -> Result<Box<dyn crypto::Session>, quinn::ConnectError> {
        let mut bytes = Vec::new();
        parameters.write(&mut bytes);
        // 2^14 - 1 milliseconds (RFC 9000, section 18.2).
        bytes.extend([0x0b, 2, 0x7f, 0xff]);
        let late = TransportParameters::read(Side::Server, &mut &bytes[..]).unwrap();
        Arc::clone(&self.0).start_session(version, name, &late)
    }
}

#[test]
fn who_says_that_it_answers_late_has_nothing_kept_for_that() {
    alone(async || {
        let mut host = Host::start(1, 1_798);
        let remote = (Ipv4Addr::LOCALHOST, 1_798).into();
        for number in 0..100 {
            let (tls, _) = tls::client(&identity(3), host.identity.public()).unwrap();
            let mut config = quinn::ClientConfig::new(Arc::new(Late(Arc::new(tls))));
            config.transport_config(link::transport(remote).0);
            let place = Ipv4Addr::new(127, 0, 1, number);
            let stranger = quinn::Endpoint::client((place, 0).into()).unwrap();
            let dialling = stranger.connect_with(config, remote, "vnet").unwrap();
            let _ = time::timeout(PATIENCE, dialling).await.expect("it comes to an end");
            // As an engine does with strangers.
            while let Ok(input) = host.queue.try_recv() {
                if let Input::Connected { connection, .. } = input {
                    connection.close(VarInt::from_u32(2), b"your key is not known here");
                }
            }
        }
        time::sleep(Duration::from_secs(3)).await;
        let kept = host.endpoint.open_connections();
        assert!(kept < 10, "{kept} connections");
    });
}
