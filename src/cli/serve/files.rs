//! The files that the settings name, while the server runs.

use std::fs::File;
use std::io;
use std::path::PathBuf;

use super::running::Contents;
use super::settings::Settings;
use echoring_async::tls::{self, CertificateReport, ServerTls, Source};

impl Settings {
    /// The contents of the files with certificates, keys and tokens.
    pub(super) fn contents(&self) -> Contents {
        Contents::of(self.secret_files.iter().map(|(file, _)| file))
    }

    /// The files with the server's certificates, and with those of the issuers of client certificates.
    pub(super) fn certificate_files(&self) -> impl Iterator<Item = &Source> {
        self.tls.iter().flat_map(ServerTls::chains)
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

    /// The certificates in these files, as the admin address reports them. A file that cannot be read any more is left out.
    pub(super) fn certificate_reports(&self) -> Vec<CertificateReport> {
        let mut files: Vec<&Source> = self.certificate_files().collect();
        files.sort_by_key(|file| file.path());
        files.dedup();
        files.into_iter().filter_map(|file| tls::certificate_reports(file).ok()).flatten().collect()
    }
}
