//! TLS for the listeners: the server's certificate, and whose clients are let in.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use tokio_rustls::rustls::client::danger::HandshakeSignatureValid;
use tokio_rustls::rustls::crypto::{ring, verify_tls13_signature_with_raw_key, CryptoProvider};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{
    CertificateDer, PrivateKeyDer, SubjectPublicKeyInfoDer, UnixTime,
};
use tokio_rustls::rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, ServerConfig,
    SignatureScheme,
};
use tokio_rustls::server::TlsStream;
use tokio_rustls::TlsAcceptor;
use x509_parser::prelude::{FromDer, X509Certificate, X509Version};

use crate::status::{Result, Status};

/// Keys and certificates of one port, as PEM texts.
#[derive(Clone, Default)]
pub struct Credentials {
    pub server_key: String,
    pub server_cert: String,
    /// The authorities that clients' certificates are checked against.
    pub custom_ca: String,
    /// Whether a client must show a certificate.
    pub client_verify: bool,
}

/// What accepts the connections of one port; its certificate may be replaced at any time.
pub struct Tls {
    protocols: &'static [&'static [u8]],
    acceptor: ArcSwap<TlsAcceptor>,
}

impl Tls {
    /// `None` for plain text, without key and certificate. The protocols are offered in their order.
    ///
    /// # Errors
    /// INVALID_ARGUMENT when a key or certificate makes no sense.
    pub fn new(
        credentials: &Credentials,
        protocols: &'static [&'static [u8]],
    ) -> Result<Option<Arc<Self>>> {
        if credentials.server_key.is_empty() && credentials.server_cert.is_empty() {
            return Ok(None);
        }
        let acceptor = ArcSwap::from_pointee(acceptor(credentials, protocols)?);
        Ok(Some(Arc::new(Self { protocols, acceptor })))
    }

    /// Accept with other credentials from now on. Connections that are there stay.
    ///
    /// # Errors
    /// INVALID_ARGUMENT when a key or certificate makes no sense; then nothing changes.
    pub fn replace(&self, credentials: &Credentials) -> Result<()> {
        self.acceptor.store(Arc::new(acceptor(credentials, self.protocols)?));
        Ok(())
    }

    /// Let a client show who it is, and see who the server is.
    ///
    /// # Errors
    /// When they do not agree, or it takes too long.
    pub async fn accept<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: S,
    ) -> io::Result<TlsStream<S>> {
        let acceptor = TlsAcceptor::clone(&self.acceptor.load());
        timeout(HANDSHAKE, acceptor.accept(stream)).await?
    }
}

/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);

fn acceptor(credentials: &Credentials, protocols: &[&[u8]]) -> Result<TlsAcceptor> {
    let wrong = |what: &str| Status::invalid_argument(format!("ssl_config: {what}"));
    let chain = certificates(&credentials.server_cert);
    let chain = chain.filter(|chain| !chain.is_empty());
    let chain = chain.ok_or_else(|| wrong("server_cert is no PEM certificate"))?;
    let key = PrivateKeyDer::from_pem_slice(credentials.server_key.as_bytes())
        .map_err(|_| wrong("server_key is no PEM private key"))?;
    let provider = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| wrong(&error.to_string()))?;
    let builder = if credentials.client_verify {
        let roots = certificates(&credentials.custom_ca).filter(|roots| !roots.is_empty());
        let roots = roots.ok_or_else(|| wrong("client_verify needs a custom_ca"))?;
        let verifier = ClientVerifier::new(roots, provider);
        let verifier = verifier.map_err(|error| wrong(&format!("custom_ca: {error}")))?;
        builder.with_client_cert_verifier(Arc::new(verifier))
    } else {
        builder.with_no_client_auth()
    };
    let mut config = builder
        .with_single_cert(chain, key)
        .map_err(|error| wrong(&format!("server_key and server_cert: {error}")))?;
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn certificates(pem: &str) -> Option<Vec<CertificateDer<'static>>> {
    CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<std::result::Result<_, _>>().ok()
}

/// Lets in who shows a certificate of the configured authorities.
///
/// Certificates of X.509 version 3 are webpki's to judge. It refuses version 1, which is what
/// `openssl x509 -req` makes unless told otherwise, and what TensorFlow Serving accepts: such a
/// certificate is let in when an authority signed it itself and its dates are right.
#[derive(Debug)]
struct ClientVerifier {
    webpki: Arc<dyn ClientCertVerifier>,
    authorities: Vec<CertificateDer<'static>>,
    provider: Arc<CryptoProvider>,
}

impl ClientVerifier {
    fn new(
        authorities: Vec<CertificateDer<'static>>,
        provider: Arc<CryptoProvider>,
    ) -> std::result::Result<Self, Error> {
        let mut roots = RootCertStore::empty();
        for authority in &authorities {
            roots.add(authority.clone())?;
        }
        let webpki = WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone())
            .build()
            .map_err(|error| Error::General(error.to_string()))?;
        Ok(Self { webpki, authorities, provider })
    }

    fn verify_version_1(
        &self,
        certificate: &X509Certificate<'_>,
        now: UnixTime,
    ) -> std::result::Result<ClientCertVerified, Error> {
        let refused = |error| Err(Error::InvalidCertificate(error));
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        let validity = certificate.validity();
        if now < validity.not_before.timestamp() {
            return refused(CertificateError::NotValidYet);
        }
        if now > validity.not_after.timestamp() {
            return refused(CertificateError::Expired);
        }
        for authority in &self.authorities {
            let Some(authority) = parse(authority) else { continue };
            if authority.subject() == certificate.issuer()
                && certificate.verify_signature(Some(authority.public_key())).is_ok()
            {
                return Ok(ClientCertVerified::assertion());
            }
        }
        refused(CertificateError::UnknownIssuer)
    }
}

fn parse<'c>(certificate: &'c CertificateDer<'_>) -> Option<X509Certificate<'c>> {
    X509Certificate::from_der(certificate).ok().map(|(_, certificate)| certificate)
}

fn parse_version_1<'c>(certificate: &'c CertificateDer<'_>) -> Option<X509Certificate<'c>> {
    parse(certificate).filter(|certificate| certificate.version() == X509Version::V1)
}

impl ClientCertVerifier for ClientVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.webpki.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> std::result::Result<ClientCertVerified, Error> {
        match parse_version_1(end_entity) {
            Some(certificate) => self.verify_version_1(&certificate, now),
            None => self.webpki.verify_client_cert(end_entity, intermediates, now),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, Error> {
        // Version 1 has no way through here: such a client has to speak TLS 1.3.
        self.webpki.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, Error> {
        match parse_version_1(certificate) {
            Some(certificate) => verify_tls13_signature_with_raw_key(
                message,
                &SubjectPublicKeyInfoDer::from(certificate.public_key().raw),
                signature,
                &self.provider.signature_verification_algorithms,
            ),
            None => self.webpki.verify_tls13_signature(message, certificate, signature),
        }
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.webpki.supported_verify_schemes()
    }
}
