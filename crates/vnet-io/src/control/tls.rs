//! TLS 1.3 with the hosts' own keys: raw public keys (RFC 7250), each side shows one and proves that it has it.

use std::sync::{Arc, Mutex, PoisonError};

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{
        CryptoProvider, WebPkiSupportedAlgorithms,
        aws_lc_rs::{self, cipher_suite, kx_group},
        verify_tls13_signature_with_raw_key,
    },
    pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime},
    server::danger::{ClientCertVerified, ClientCertVerifier},
    sign::CertifiedKey,
};
use viaduct_types::HostKey;

use super::Identity;

/// What is spoken inside.
const PROTOCOL: &[u8] = b"viaduct-vnet/1";
/// An Ed25519 key as SubjectPublicKeyInfo begins so (RFC 8410, section 4).
const SPKI_HEAD: [u8; 12] = [0x30, 0x2a, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 3, 0x21, 0];

/// The key that the other end of a connection has shown.
pub(super) fn peer_key(connection: &quinn::Connection) -> Option<HostKey> {
    let identity = connection.peer_identity()?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    host_key(identity.first()?)
}

/// A signature by one that is anybody's shows nothing.
fn host_key(spki: &[u8]) -> Option<HostKey> {
    let key = HostKey(spki.strip_prefix(&SPKI_HEAD)?.try_into().ok()?);
    (!key.is_anybodys()).then_some(key)
}

/// Post-quantum key exchange first; the suite that QUIC's first packets need anyway, and the one for processors without
/// AES.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        cipher_suites: vec![
            cipher_suite::TLS13_AES_128_GCM_SHA256,
            cipher_suite::TLS13_AES_256_GCM_SHA384,
            cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        ],
        kx_groups: vec![kx_group::X25519MLKEM768, kx_group::X25519],
        ..aws_lc_rs::default_provider()
    })
}

fn own_key(identity: &Identity) -> Result<Arc<CertifiedKey>, Error> {
    let pkcs8 = PrivatePkcs8KeyDer::from(identity.pkcs8().to_vec());
    let signer = aws_lc_rs::sign::any_eddsa_type(&pkcs8)?;
    let public = [&SPKI_HEAD[..], &identity.public().0].concat();
    Ok(Arc::new(CertifiedKey::new(vec![CertificateDer::from(public)], signer)))
}

/// Takes connections of whoever proves to have any key; who that is shows afterwards.
pub(super) fn server(identity: &Identity) -> Result<QuicServerConfig, Error> {
    QuicServerConfig::try_from(server_config(identity)?).map_err(|error| Error::General(error.to_string()))
}

pub(super) fn server_config(identity: &Identity) -> Result<rustls::ServerConfig, Error> {
    let provider = provider();
    let verifier = Arc::new(AnyKey { algorithms: provider.signature_verification_algorithms });
    let resolver = rustls::server::AlwaysResolvesServerRawPublicKeys::new(own_key(identity)?);
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(resolver));
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    // Each connection has secrets of its own.
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// The key that was seen in the place of the one that was expected.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen(Arc<Mutex<Option<HostKey>>>);

impl Seen {
    pub(super) fn key(&self) -> Option<HostKey> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Dials a host that has to have this key.
pub(super) fn client(identity: &Identity, expected: HostKey) -> Result<(QuicClientConfig, Seen), Error> {
    let (config, seen) = client_config(identity, expected)?;
    let config = QuicClientConfig::try_from(config).map_err(|error| Error::General(error.to_string()))?;
    Ok((config, seen))
}

pub(super) fn client_config(
    identity: &Identity,
    expected: HostKey,
) -> Result<(rustls::ClientConfig, Seen), Error> {
    let provider = provider();
    let seen = Seen::default();
    let verifier = Arc::new(OneKey {
        expected,
        seen: seen.clone(),
        algorithms: provider.signature_verification_algorithms,
    });
    let resolver = rustls::client::AlwaysResolvesClientRawPublicKeys::new(own_key(identity)?);
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_cert_resolver(Arc::new(resolver));
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    config.enable_sni = false;
    Ok((config, seen))
}

/// What both ends' verifiers have in common: raw public keys, and no TLS 1.2.
macro_rules! raw_keys_only {
    () => {
        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Err(Error::PeerIncompatible(rustls::PeerIncompatible::Tls12NotOffered))
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            key: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            let key = SubjectPublicKeyInfoDer::from(key.as_ref());
            verify_tls13_signature_with_raw_key(message, &key, signature, &self.algorithms)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            vec![SignatureScheme::ED25519]
        }

        fn requires_raw_public_keys(&self) -> bool {
            true
        }
    };
}

#[derive(Debug)]
struct OneKey {
    expected: HostKey,
    seen: Seen,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for OneKey {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let key = host_key(shown);
        if key == Some(self.expected) {
            return Ok(ServerCertVerified::assertion());
        }
        *self.seen.0.lock().unwrap_or_else(PoisonError::into_inner) = key;
        Err(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure))
    }

    raw_keys_only!();
}

#[derive(Debug)]
struct AnyKey {
    algorithms: WebPkiSupportedAlgorithms,
}

impl ClientCertVerifier for AnyKey {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        shown: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        match host_key(shown) {
            Some(_) => Ok(ClientCertVerified::assertion()),
            None => Err(Error::InvalidCertificate(CertificateError::BadEncoding)),
        }
    }

    raw_keys_only!();
}
