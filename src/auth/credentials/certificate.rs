//! TLS client certificates: the subject that names a client. The TLS handshake has verified the certificate.

use x509_cert::attr::AttributeTypeAndValue;
use x509_cert::certificate::{CertificateInner, Raw};
use x509_cert::der::Decode as _;
use x509_cert::der::asn1::ObjectIdentifier;
use x509_cert::name::Name;

use crate::identity::{Identity, Method};

/// The attribute `commonName` (RFC 4519, 2.3).
const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");

/// The part of a certificate's subject that names a client.
///
/// ```
/// # use echoring_auth::{CertificateSubject, Settings as AuthSettings};
/// let by_name = AuthSettings::default().certificate(CertificateSubject::CommonName);
/// # drop(by_name);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CertificateSubject {
    /// The whole distinguished name as a string of RFC 4514, such as `CN=alice,O=Example`.
    DistinguishedName,
    /// The common name alone, such as `alice`.
    CommonName,
}

impl CertificateSubject {
    /// The client of a verified certificate in DER, until the certificate expires. `None` if the certificate has no such
    /// subject, or one that is too long or has control characters.
    pub(crate) fn identity(self, der: &[u8]) -> Option<Identity> {
        // Verification has accepted it, so its details are not held to RFC 5280 once more.
        let certificate = CertificateInner::<Raw>::from_der(der).ok()?;
        let certificate = certificate.tbs_certificate();
        let subject = certificate.subject();
        let name = match self {
            CertificateSubject::DistinguishedName => subject.to_string(),
            CertificateSubject::CommonName => common_name(subject)?,
        };
        let expires_at = certificate.validity().not_after.to_unix_duration().as_secs();
        Identity::authenticated(&name, Method::Certificate, Some(expires_at))
    }
}

/// The common name; `None` if there are several, because other programs may choose another one.
fn common_name(subject: &Name) -> Option<String> {
    let is_name = |attribute: &&AttributeTypeAndValue| attribute.oid == COMMON_NAME;
    (subject.iter().filter(is_name).count() == 1).then_some(())?;
    Some(subject.common_name().ok()??.value().into_owned())
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair};

    use super::*;

    fn certificate(subject: &[(DnType, &str)]) -> Vec<u8> {
        let mut params = CertificateParams::new(Vec::<String>::new()).expect("no names");
        params.distinguished_name = rcgen::DistinguishedName::new();
        for (kind, value) in subject {
            params.distinguished_name.push(kind.clone(), *value);
        }
        params.not_after = rcgen::date_time_ymd(2030, 1, 2);
        let key = KeyPair::generate().expect("a key");
        params.self_signed(&key).expect("a certificate").der().to_vec()
    }

    #[test]
    fn the_subject_is_the_name_in_either_form() {
        let der = certificate(&[
            (DnType::CountryName, "DE"),
            (DnType::OrganizationName, "Example, Inc."),
            (DnType::CommonName, "ali+ce"),
        ]);
        let whole = CertificateSubject::DistinguishedName.identity(&der).expect("a subject");
        assert_eq!(whole.subject(), r"CN=ali\+ce,O=Example\, Inc.,C=DE");
        assert_eq!(whole.expires_at(), Some(1_893_542_400));
        let name = CertificateSubject::CommonName.identity(&der).expect("a subject");
        assert_eq!(name.subject(), "ali+ce");
    }

    #[test]
    fn what_has_no_subject_names_nobody() {
        for form in [CertificateSubject::DistinguishedName, CertificateSubject::CommonName] {
            assert!(form.identity(&certificate(&[])).is_none());
            assert!(form.identity(b"no certificate").is_none());
        }
        let organization = certificate(&[(DnType::OrganizationName, "Example")]);
        assert!(CertificateSubject::CommonName.identity(&organization).is_none());
        let control = certificate(&[(DnType::CommonName, "a\nb")]);
        assert!(CertificateSubject::CommonName.identity(&control).is_none());
    }
}
