//! TLS towards Consul: which authorities are trusted, and with what this client shows who it is.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};

use super::ConsulSettings;

/// What two files show who this client is.
const TOGETHER: &str = "cert_file and key_file go together";

/// What is wrong with the form of `settings`: a setting's name, and why.
pub(super) fn problems(settings: &ConsulSettings) -> Vec<(&'static str, String)> {
    let mut found = Vec::new();
    if settings.address.starts_with("https:") && settings.ca_file.is_none() {
        let text = "https needs ca_file: the authorities of Consul's certificate, as PEM";
        found.push(("ca_file", text.to_owned()));
    }
    match (&settings.cert_file, &settings.key_file) {
        (Some(_), Some(_)) | (None, None) => {}
        (Some(_), None) => found.push(("key_file", TOGETHER.to_owned())),
        (None, Some(_)) => found.push(("cert_file", TOGETHER.to_owned())),
    }
    if let Some(name) = &settings.tls_server_name
        && let Err(error) = ServerName::try_from(name.as_str())
    {
        found.push(("tls_server_name", format!("{name:?}: {error}")));
    }
    found
}

/// The configuration that `settings`, of which nothing is wrong in form, ask for, or why there is none.
pub(super) fn config(settings: &ConsulSettings) -> Result<ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    if let Some(path) = &settings.ca_file {
        for certificate in certificates(path)? {
            roots.add(certificate).map_err(|e| format!("{}: {e}", path.display()))?;
        }
    }
    // named, not the default of the process: another library may have set or not set one
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .with_root_certificates(roots);
    match (&settings.cert_file, &settings.key_file) {
        (None, None) => Ok(config.with_no_client_auth()),
        (Some(certificate), Some(key)) => {
            let chain = certificates(certificate)?;
            let private = PrivateKeyDer::from_pem_file(key)
                .map_err(|e| format!("{}: {e}; a private key as PEM is needed", key.display()))?;
            config
                .with_client_auth_cert(chain, private)
                .map_err(|e| format!("{} with {}: {e}", certificate.display(), key.display()))
        }
        (Some(_), None) | (None, Some(_)) => Err(TOGETHER.to_owned()),
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let error = |e: rustls::pki_types::pem::Error| {
        format!("{}: {e}; certificates as PEM are needed", path.display())
    };
    let found: Vec<_> = CertificateDer::pem_file_iter(path)
        .map_err(error)?
        .collect::<Result<_, _>>()
        .map_err(error)?;
    if found.is_empty() {
        return Err(format!(
            "{} has no certificate; certificates as PEM are needed",
            path.display()
        ));
    }
    Ok(found)
}
