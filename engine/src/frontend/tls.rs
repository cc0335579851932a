//! TLS for the listeners: the server's certificate, and whose clients are let in.

use std::sync::Arc;

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
use tokio_rustls::TlsAcceptor;
use x509_parser::prelude::{FromDer, X509Certificate, X509Version};

use crate::app::Options;
use crate::status::{Result, Status};

/// What accepts TLS connections with these application protocols; `None` for plain text.
///
/// # Errors
/// INVALID_ARGUMENT when a key or certificate makes no sense.
pub fn acceptor(options: &Options, protocols: &[&[u8]]) -> Result<Option<TlsAcceptor>> {
    if options.grpc_server_key.is_empty() && options.grpc_server_cert.is_empty() {
        return Ok(None);
    }
    let wrong = |what: &str| Status::invalid_argument(format!("ssl_config: {what}"));
    let chain = certificates(&options.grpc_server_cert);
    let chain = chain.filter(|chain| !chain.is_empty());
    let chain = chain.ok_or_else(|| wrong("server_cert is no PEM certificate"))?;
    let key = PrivateKeyDer::from_pem_slice(options.grpc_server_key.as_bytes())
        .map_err(|_| wrong("server_key is no PEM private key"))?;
    let provider = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| wrong(&error.to_string()))?;
    let builder = if options.grpc_client_verify {
        let roots = certificates(&options.grpc_custom_ca).filter(|roots| !roots.is_empty());
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
    Ok(Some(TlsAcceptor::from(Arc::new(config))))
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
