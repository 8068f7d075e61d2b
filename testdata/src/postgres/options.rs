//! What can be wanted of a cluster, and the server's settings that follow from it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Files of the data folder that hold the server's [`Identity`].
pub(super) const CERTIFICATE: &str = "server.crt";
pub(super) const KEY: &str = "server.key";

/// How a cluster is made and where it lives.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Where the data lives. A folder that holds a cluster already is used again and kept at the end; without a folder
    /// a temporary one is made and removed.
    pub folder: Option<PathBuf>,
    /// Whether commits reach the disk (`fsync`). Tests do without.
    pub durable: bool,
    /// More settings, such as `("log_statement", "all")`; later ones win over this module's own.
    pub settings: Vec<(String, String)>,
    /// Serves TLS beside plain connections.
    pub tls: Option<Identity>,
}

/// What a server shows of itself in TLS, as PEM.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Its certificate.
    pub certificate: String,
    /// The private key.
    pub key: String,
}

impl Options {
    /// The settings of the command line: replication for many tests at once, and no durability unless asked for.
    pub(super) fn settings(&self, root: &Path, port: u16) -> Vec<OsString> {
        let durable = if self.durable { "on" } else { "off" };
        let own = [
            ("listen_addresses", "127.0.0.1".to_owned()),
            ("port", port.to_string()),
            ("wal_level", "logical".to_owned()),
            ("max_wal_senders", "64".to_owned()),
            // One slot a database with a sync server on it, for good; a test binary has some dozens.
            ("max_replication_slots", "256".to_owned()),
            ("max_connections", "400".to_owned()),
            ("fsync", durable.to_owned()),
            // Always: the WAL sender sends what is flushed, and with this off a flush waits for the WAL writer's next round.
            ("synchronous_commit", "on".to_owned()),
            ("full_page_writes", durable.to_owned()),
            ("shared_buffers", "128MB".to_owned()),
            ("max_wal_size", "2GB".to_owned()),
            ("logging_collector", "off".to_owned()),
            ("log_checkpoints", "off".to_owned()),
            ("log_replication_commands", "off".to_owned()),
            ("timezone", "UTC".to_owned()),
        ];
        let mut settings: Vec<OsString> =
            own.iter().map(|(name, value)| OsString::from(format!("{name}={value}"))).collect();
        let mut socket = OsString::from("unix_socket_directories=");
        socket.push(root);
        settings.push(socket);
        if self.tls.is_some() {
            settings.extend(
                ["ssl=on", &format!("ssl_cert_file={CERTIFICATE}"), &format!("ssl_key_file={KEY}")].map(OsString::from),
            );
        }
        settings.extend(self.settings.iter().map(|(name, value)| OsString::from(format!("{name}={value}"))));
        settings
    }
}
