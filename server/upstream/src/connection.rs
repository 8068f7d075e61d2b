//! Connections to the upstream database: the URL, libpq's `sslmode`, sessions with pinned settings.
//!
//! tokio-postgres knows three TLS modes and refuses URL parameters it does not know; libpq and
//! postgres.js accept more. So the TLS parameters are taken out of the URL here and the rest goes to
//! tokio-postgres. Secrets stay inside; messages show host, port and database only.

use std::path::PathBuf;
use std::sync::{Arc, Once};
use std::time::Duration;

use pgwire_replication::{SslMode as StreamSslMode, TlsConfig as StreamTls};
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::{Client, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;
use tracing::debug;

use crate::error::{Error, describe};
use crate::{tls, tls_relay};

/// How a connection is protected, in libpq's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TlsMode {
    /// Never encrypted.
    Disable,
    /// Encrypted if the server can; nothing is verified.
    Prefer,
    /// Encrypted; nothing is verified (also `no-verify`).
    Require,
    /// Encrypted; the certificate is verified, the host name is not.
    VerifyCa,
    /// Encrypted; certificate and host name are verified.
    VerifyFull,
}

/// Settings that decide how Postgres prints values. The stream and the copy must print alike, whatever
/// the database or the role has set.
pub(crate) const VALUE_SETTINGS: &str = "SET datestyle = 'ISO, MDY'; SET intervalstyle = 'postgres'; \
     SET extra_float_digits = 1; SET bytea_output = 'hex'; SET timezone = 'UTC'; SET xmloption = 'content'";

/// How long connecting may take unless the URL says otherwise: long enough for a database that wakes up.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// How long what was sent may stay unacknowledged before a connection counts as broken: as long as it may take to make one.
/// The system's own patience is a quarter of an hour.
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a connection may be idle before the other side is asked whether it is there. The system waits two hours.
const KEEPALIVES_IDLE: Duration = Duration::from_secs(60);

/// A database to connect to.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    config: tokio_postgres::Config,
    mode: TlsMode,
    root_certificates: Option<PathBuf>,
    /// The setting the URL came from, for messages.
    setting: &'static str,
}

impl Target {
    /// Parses a `postgres://` URL.
    pub(crate) fn parse(url: &str, setting: &'static str) -> Result<Target, Error> {
        if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
            return Err(Error::Config(format!(
                "{setting} must be a URL that starts with postgres:// or postgresql://"
            )));
        }
        // A password may hold a question mark; parameters come after the host.
        let host_from = url.find('@').unwrap_or(0);
        let (base, parameters) = match url[host_from..].find('?') {
            Some(offset) => (&url[..host_from + offset], &url[host_from + offset + 1..]),
            None => (url, ""),
        };
        let mut mode = None;
        let mut root_certificates = None;
        let mut kept = Vec::new();
        for parameter in parameters.split('&').filter(|parameter| !parameter.is_empty()) {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            let value = percent_encoding::percent_decode_str(value).decode_utf8_lossy();
            match name {
                "ssl" | "sslmode" => mode = Some(tls_mode(&value, setting)?),
                "sslrootcert" if value == "system" => {}
                "sslrootcert" => root_certificates = Some(PathBuf::from(value.as_ref())),
                "application_name" | "sslcert" | "sslkey" | "gssencmode" | "sslnegotiation" => {}
                "channel_binding" if value != "require" => {}
                _ if KNOWN_PARAMETERS.contains(&name) => kept.push(parameter),
                _ => debug!(parameter = name, "ignoring a parameter of {setting} that is not known"),
            }
        }
        let plain = if kept.is_empty() { base.to_owned() } else { format!("{base}?{}", kept.join("&")) };
        let mut config: tokio_postgres::Config =
            plain.parse().map_err(|error| Error::Config(format!("{setting} is not a valid Postgres URL: {error}")))?;
        let mut mode = mode.unwrap_or(TlsMode::Prefer);
        if config.get_hosts().is_empty() {
            config.host("localhost");
        }
        if let Some(Host::Unix(_)) = config.get_hosts().first() {
            mode = TlsMode::Disable;
        }
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(CONNECT_TIMEOUT);
        }
        if config.get_tcp_user_timeout().is_none() {
            config.tcp_user_timeout(TCP_USER_TIMEOUT);
        }
        if !kept.iter().any(|parameter| parameter.starts_with("keepalives_idle=")) {
            config.keepalives_idle(KEEPALIVES_IDLE);
        }
        config.ssl_mode(match mode {
            TlsMode::Disable => SslMode::Disable,
            TlsMode::Prefer => SslMode::Prefer,
            TlsMode::Require | TlsMode::VerifyCa | TlsMode::VerifyFull => SslMode::Require,
        });
        Ok(Target { config, mode, root_certificates, setting })
    }

    /// Opens a session whose `application_name` is `zero-{purpose}`. The connection lives in a task that
    /// ends when the client is dropped.
    pub(crate) async fn connect(&self, purpose: &str) -> Result<Client, Error> {
        let mut config = self.config.clone();
        config.application_name(format!("zero-{purpose}"));
        let client = if self.mode == TlsMode::Disable {
            let (client, connection) = config.connect(NoTls).await.map_err(|error| self.connect_error(error))?;
            tokio::spawn(async move { log_end(connection.await) });
            client
        } else {
            install_crypto();
            let tls = tls::client_config(self.mode, self.root_certificates.as_deref())?;
            let (client, connection) =
                config.connect(MakeRustlsConnect::new(tls)).await.map_err(|error| self.connect_error(error))?;
            tokio::spawn(async move { log_end(connection.await) });
            client
        };
        client.batch_execute(VALUE_SETTINGS).await.map_err(Error::postgres("prepare an upstream session"))?;
        Ok(client)
    }

    /// The same database for one connection of the replication client.
    ///
    /// # Errors
    /// Where that client cannot verify as `sslmode` wants, the connection is made here, with the errors of connecting.
    pub(crate) async fn replication_config(
        &self,
        purpose: &str,
    ) -> Result<pgwire_replication::ReplicationConfig, Error> {
        if self.mode != TlsMode::Disable {
            install_crypto();
        }
        let (mut host, root) = (self.host(), self.root_certificates.clone());
        let tls = match self.mode {
            TlsMode::Disable => StreamTls::disabled(),
            TlsMode::Prefer => StreamTls { mode: StreamSslMode::Prefer, ..StreamTls::default() },
            TlsMode::Require => StreamTls::require(),
            TlsMode::VerifyCa => {
                let config = tls::client_config(self.mode, root.as_deref())?;
                let timeout = self.config.get_connect_timeout().copied().unwrap_or(CONNECT_TIMEOUT);
                host = tls_relay::open(&host, self.port(), config, timeout).await?.to_string_lossy().into_owned();
                StreamTls::disabled()
            }
            // Named once more, because the client refuses an address that is not given as the name to verify.
            TlsMode::VerifyFull => StreamTls::verify_full(root).with_sni_hostname(host.clone()),
        };
        let password = String::from_utf8_lossy(self.config.get_password().unwrap_or_default()).into_owned();
        let mut config =
            pgwire_replication::ReplicationConfig::new(host, self.user(), password, self.database(), "", "")
                .with_port(self.port())
                .with_application_name(format!("zero-{purpose}"));
        config.tls = tls;
        if let Some(options) = self.config.get_options() {
            config = config.with_options(options);
        }
        Ok(config)
    }

    fn host(&self) -> String {
        match self.config.get_hosts().first() {
            Some(Host::Tcp(host)) => host.clone(),
            Some(Host::Unix(path)) => path.to_string_lossy().into_owned(),
            None => "localhost".to_owned(),
        }
    }

    fn user(&self) -> String {
        // libpq and tokio-postgres fall back to the operating system's user.
        self.config
            .get_user()
            .map(str::to_owned)
            .or_else(|| std::env::var("USER").ok())
            .unwrap_or_else(|| "postgres".to_owned())
    }

    /// The database's name; the user's when the URL has none, as in libpq.
    pub(crate) fn database(&self) -> String {
        self.config.get_dbname().map_or_else(|| self.user(), str::to_owned)
    }

    fn port(&self) -> u16 {
        self.config.get_ports().first().copied().unwrap_or(5432)
    }

    /// Host, port and database, without secrets.
    pub(crate) fn address(&self) -> String {
        format!("{}:{}/{}", self.host(), self.port(), self.database())
    }

    fn connect_error(&self, error: tokio_postgres::Error) -> Error {
        let context = format!("cannot connect to {} ({})", self.address(), self.setting);
        // Class 28: the user or the password is refused. 3D000: no such database. 42501: no right to connect.
        let refused = error
            .code()
            .is_some_and(|code| code.code().starts_with("28") || code.code() == "3D000" || code.code() == "42501");
        if refused {
            return Error::Config(format!("{context}: {}", describe(&error)));
        }
        if tls_refused(&error) {
            return Error::Config(format!(
                "{context}: {}. The URL's sslmode and sslrootcert decide what is accepted",
                describe(&error)
            ));
        }
        Error::Postgres { context, source: error }
    }
}

/// What a pool of sessions to a database needs, from its URL: the driver's configuration and, unless the URL says
/// not to encrypt, a TLS connector. `setting` names the URL's origin in errors; `application_name` becomes
/// `zero-{purpose}`.
///
/// # Errors
/// [`Error::Config`] for a URL or certificate file that cannot be used.
pub fn pool_parts(
    url: &str,
    setting: &'static str,
    purpose: &str,
) -> Result<(tokio_postgres::Config, Option<MakeRustlsConnect>), Error> {
    let target = Target::parse(url, setting)?;
    let mut config = target.config.clone();
    config.application_name(format!("zero-{purpose}"));
    if target.mode == TlsMode::Disable {
        return Ok((config, None));
    }
    install_crypto();
    let tls = tls::client_config(target.mode, target.root_certificates.as_deref())?;
    Ok((config, Some(MakeRustlsConnect::new(tls))))
}

/// URL parameters that tokio-postgres understands and that concern more than one session.
const KNOWN_PARAMETERS: [&str; 14] = [
    "user",
    "password",
    "dbname",
    "options",
    "host",
    "hostaddr",
    "port",
    "connect_timeout",
    "tcp_user_timeout",
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_retries",
    "target_session_attrs",
];

/// Whether a connection failed because the two sides do not agree on TLS, which trying again does not change. A network
/// that fails during the handshake is something else.
fn tls_refused(error: &tokio_postgres::Error) -> bool {
    // The driver keeps the kind of its errors to itself; the text is what it shows of it.
    error.to_string().starts_with("error performing TLS handshake")
        && std::error::Error::source(error)
            .and_then(|source| source.downcast_ref::<std::io::Error>())
            .is_none_or(|source| source.kind() == std::io::ErrorKind::InvalidData)
}

fn tls_mode(value: &str, setting: &str) -> Result<TlsMode, Error> {
    Ok(match value {
        "disable" | "false" | "0" => TlsMode::Disable,
        "prefer" | "allow" => TlsMode::Prefer,
        "require" | "no-verify" | "true" | "1" | "" => TlsMode::Require,
        "verify-ca" => TlsMode::VerifyCa,
        "verify-full" => TlsMode::VerifyFull,
        _ => {
            return Err(Error::Config(format!(
                "{setting}: sslmode \"{value}\" is not one of disable, prefer, require, no-verify, verify-ca, verify-full"
            )));
        }
    })
}

/// Chooses the process's TLS provider before anything else does: with two of them linked, whoever comes
/// first decides.
pub(crate) fn install_crypto() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // An error says that the program has chosen one already, which is as good.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    });
}

fn log_end(result: Result<(), tokio_postgres::Error>) {
    if let Err(error) = result {
        debug!(error = %describe(&error), "an upstream connection ended");
    }
}

/// A shared target, as most of the crate holds it.
pub(crate) type SharedTarget = Arc<Target>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_and_their_tls_modes() {
        let cases = [
            ("postgres://u:p@h:5433/d", TlsMode::Prefer, "h:5433/d"),
            ("postgres://u:p@h/d?sslmode=disable", TlsMode::Disable, "h:5432/d"),
            ("postgres://u:p@h/d?ssl=false", TlsMode::Disable, "h:5432/d"),
            ("postgresql://u:p%3F@h/d?ssl=true&foo=bar", TlsMode::Require, "h:5432/d"),
            ("postgres://u:a?b@h/d?sslmode=no-verify&channel_binding=prefer", TlsMode::Require, "h:5432/d"),
            ("postgres://u@h/d?sslmode=verify-ca", TlsMode::VerifyCa, "h:5432/d"),
            ("postgres://u@h/d?sslmode=verify-full&sslrootcert=system", TlsMode::VerifyFull, "h:5432/d"),
            ("postgres://u@h", TlsMode::Prefer, "h:5432/u"),
            ("postgres://u@/d?host=/tmp&sslmode=require", TlsMode::Disable, "/tmp:5432/d"),
        ];
        for (url, mode, address) in cases {
            let target = Target::parse(url, "ZERO_UPSTREAM_DB").unwrap();
            assert_eq!((target.mode, target.address().as_str()), (mode, address), "{url}");
        }
    }

    #[test]
    fn a_connection_that_is_cut_does_not_stay_for_long() {
        for (parameters, timeout, idle) in
            [("", 30, 60), ("?tcp_user_timeout=5&keepalives_idle=7", 5, 7), ("?keepalives_idle=7", 30, 7)]
        {
            let (config, _) = pool_parts(&format!("postgres://u@h/d{parameters}"), "ZERO_CVR_DB", "test").unwrap();
            assert_eq!(config.get_tcp_user_timeout(), Some(&Duration::from_secs(timeout)), "{parameters}");
            assert_eq!(config.get_keepalives_idle(), Duration::from_secs(idle), "{parameters}");
        }
    }

    #[test]
    fn bad_urls_name_the_setting_and_keep_the_password() {
        for url in ["", "mysql://h/d", "postgres://u:secret@h:port/d", "postgres://u:secret@h/d?sslmode=maybe"] {
            let message = Target::parse(url, "ZERO_UPSTREAM_DB").unwrap_err().to_string();
            assert!(message.contains("ZERO_UPSTREAM_DB") && !message.contains("secret"), "{message}");
        }
    }
}
