//! A local socket that stands for an encrypted connection to Postgres.
//!
//! The replication client's own `verify-ca` looks at the host name and refuses what libpq accepts, and it takes no
//! verifier of ours. So in that mode the connection is encrypted here, and the client speaks through a Unix socket in a
//! folder that only this user can open. Knows nothing of what passes through; one task and two buffers a connection.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional_with_sizes};
use tokio::net::{TcpStream, UnixListener};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tracing::debug;

use crate::error::Error;

/// Asks a Postgres server to speak TLS: the length of the message and the code of the request.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];

/// How long the client that asked for the socket may take to come.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(30);

/// Bytes in flight in each direction: what the replication client reads at once.
const BUFFER: usize = 64 * 1024;

/// Connects to Postgres and returns the folder of a socket, named as Postgres names its own, through which one client
/// can speak over that connection.
///
/// # Errors
/// [`Error::Stream`] when the server cannot be reached, speaks no TLS or shows a certificate that is refused.
pub(crate) async fn open(host: &str, port: u16, config: ClientConfig, timeout: Duration) -> Result<PathBuf, Error> {
    let failed = |message: String| Error::Stream { context: format!("connect to {host}:{port}"), message };
    let mut upstream = tokio::time::timeout(timeout, connect(host, port, config))
        .await
        .map_err(|_| failed("no answer in time".to_owned()))?
        .map_err(|error| failed(error.to_string()))?;
    let (listener, folder) = listen(port).map_err(|error| failed(format!("open a local socket: {error}")))?;
    let path = folder.path().to_owned();
    tokio::spawn(async move {
        let client = tokio::time::timeout(CLIENT_TIMEOUT, listener.accept()).await;
        // Nobody else can come in from here on.
        drop((listener, folder));
        let Ok(Ok((mut client, _))) = client else { return };
        if let Err(error) = copy_bidirectional_with_sizes(&mut client, &mut upstream, BUFFER, BUFFER).await {
            debug!(%error, "an encrypted replication connection ended");
        }
    });
    Ok(path)
}

async fn connect(host: &str, port: u16, config: ClientConfig) -> std::io::Result<TlsStream<TcpStream>> {
    let mut tcp = TcpStream::connect((host, port)).await?;
    tcp.set_nodelay(true)?;
    tcp.write_all(&SSL_REQUEST).await?;
    if tcp.read_u8().await? != b'S' {
        return Err(std::io::Error::other("server does not support TLS"));
    }
    let name = ServerName::try_from(host.to_owned()).map_err(std::io::Error::other)?;
    TlsConnector::from(Arc::new(config)).connect(name, tcp).await
}

fn listen(port: u16) -> std::io::Result<(UnixListener, tempfile::TempDir)> {
    let folder = tempfile::Builder::new().prefix("zql-tls-").permissions(Permissions::from_mode(0o700)).tempdir()?;
    let listener = UnixListener::bind(folder.path().join(format!(".s.PGSQL.{port}")))?;
    Ok((listener, folder))
}
