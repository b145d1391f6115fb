//! The files that the settings name, while the server runs.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::PathBuf;

use super::settings::Settings;
use echoring_async::tls;

impl Settings {
    /// The files with the server's certificates, and with those of the issuers of client certificates.
    pub(super) fn certificate_files(&self) -> impl Iterator<Item = &PathBuf> {
        let chains = self.tls.iter().flat_map(|tls| &tls.certificates).map(|files| &files.chain);
        chains.chain(self.tls.iter().flat_map(|tls| &tls.clients).map(|(ca, _)| ca))
    }

    /// Warnings about files that a reload could not read, because the process has given up the right to.
    pub(super) fn unreadable(&self) -> Vec<String> {
        let files = self.secret_files.iter().chain(&self.config_file).map(|(file, _)| file);
        let warning = |file: &PathBuf| {
            let error =
                File::open(file).err().filter(|error| error.kind() == io::ErrorKind::PermissionDenied)?;
            let file = file.display();
            Some(format!(
                "{file} was read at the start, but cannot be read again as this user: {error}; a reload \
                 will fail"
            ))
        };
        files.filter_map(warning).collect()
    }

    /// When the certificates in these files expire, as the control plane reports it. A file that cannot be read any more is left
    /// out.
    pub(super) fn certificate_expiries(&self) -> Vec<(PathBuf, u64)> {
        let expiry = |file: &PathBuf| Some((file.clone(), tls::expiry(file).ok()??.as_secs()));
        let expiries: BTreeMap<PathBuf, u64> = self.certificate_files().filter_map(expiry).collect();
        expiries.into_iter().collect()
    }
}
