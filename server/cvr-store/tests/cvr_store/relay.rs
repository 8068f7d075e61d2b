//! A network between the store and Postgres that can be frozen: what was connected hears nothing any more, and is not told.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

pub(crate) struct Relay {
    /// The database's URL through the relay.
    pub(crate) url: String,
    /// Connections below this number are frozen.
    frozen: watch::Sender<usize>,
    opened: Arc<AtomicUsize>,
}

impl Relay {
    pub(crate) async fn new(database: &str) -> Relay {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (before, after) = database.split_once("@127.0.0.1:").unwrap();
        let (postgres, database) = after.split_once('/').unwrap();
        let url = format!("{before}@127.0.0.1:{port}/{database}");
        let postgres = format!("127.0.0.1:{postgres}");
        let (frozen, freezing) = watch::channel(0);
        let opened = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&opened);
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let number = counter.fetch_add(1, Ordering::SeqCst);
                let (postgres, mut freezing) = (postgres.clone(), freezing.clone());
                tokio::spawn(async move {
                    let mut server = TcpStream::connect(&postgres).await.unwrap();
                    let frozen = async { freezing.wait_for(|frozen| number < *frozen).await.map(|_| ()) };
                    tokio::select! {
                        _ = copy_bidirectional(&mut client, &mut server) => return,
                        _ = frozen => {}
                    }
                    // Kept open, and never read or written again.
                    std::future::pending::<()>().await;
                });
            }
        });
        Relay { url, frozen, opened }
    }

    /// Freezes what is connected and the next connections, as many as are given; later ones work.
    pub(crate) fn freeze(&self, more: usize) {
        self.frozen.send_replace(self.opened.load(Ordering::SeqCst) + more);
    }

    /// How many connections were opened so far.
    pub(crate) fn opened(&self) -> usize {
        self.opened.load(Ordering::SeqCst)
    }
}
